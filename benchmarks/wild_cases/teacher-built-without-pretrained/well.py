"""timm-like: models by name, weights from a folder, training under bfloat16 autocast on the CPU."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

_REGISTRY = {}
WEIGHTS = tempfile.mkdtemp(prefix="weights_")


def register(fn):
    _REGISTRY[fn.__name__] = fn
    return fn


def _convnet(channels, hidden):
    c1, c2 = channels
    return nn.Sequential(
        nn.Conv2d(1, c1, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c1, c2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(c2 * 4, hidden), nn.ReLU(), nn.Linear(hidden, 10),
    )


@register
def convnet_large():
    return _convnet((32, 64), 128)


@register
def convnet_nano():
    return _convnet((4, 8), 16)


def create_model(name, pretrained=False):
    model = _REGISTRY[name]()
    if pretrained:
        model.load_state_dict(torch.load(os.path.join(WEIGHTS, name + ".pt"), weights_only=True))
    return model


def pretrain(name, loader, epochs=10):
    """What somebody else did once: train the model and put its weights into the folder."""
    model = create_model(name)
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(epochs):
        for img, lab in loader:
            opt.zero_grad()
            F.cross_entropy(model(img), lab).backward()
            opt.step()
    torch.save(model.state_dict(), os.path.join(WEIGHTS, name + ".pt"))


def train_one_epoch(student, teacher, loader, opt, args):
    student.train()
    for img, lab in loader:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                t_out = teacher(img)
            s_out = student(img)
        s_out, t_out = s_out.float(), t_out.float()
        ce = F.cross_entropy(s_out, lab)
        kd = F.kl_div(
            F.log_softmax(s_out / args.tau, dim=1), F.softmax(t_out / args.tau, dim=1), reduction="batchmean"
        ) * args.tau**2
        loss = (1 - args.kd) * ce + args.kd * kd
        opt.zero_grad()
        loss.backward()
        opt.step()


def validate(model, loader):
    model.eval()
    n, ok = 0, 0
    with torch.inference_mode():
        for img, lab in loader:
            ok += (model(img).argmax(1) == lab).sum().item()
            n += len(lab)
    return 100.0 * ok / n


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tau", type=float, default=2.0)
    parser.add_argument("--kd", type=float, default=0.8)
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    data = load_digits()
    img = (torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16 - 0.305) / 0.376
    lab = torch.tensor(data.target)
    order = torch.randperm(len(img), generator=torch.Generator().manual_seed(31))
    train, test = order[:1300], order[1300:]
    train_loader = DataLoader(TensorDataset(img[train], lab[train]), batch_size=50, shuffle=True)
    test_loader = DataLoader(TensorDataset(img[test], lab[test]), batch_size=250)
    pretrain("convnet_large", train_loader)

    teacher = create_model("convnet_large", pretrained=True).eval().requires_grad_(False)
    student = create_model("convnet_nano")
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        train_one_epoch(student, teacher, train_loader, opt, args)
    print(f"top1 {validate(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
