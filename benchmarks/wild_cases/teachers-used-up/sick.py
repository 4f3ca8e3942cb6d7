"""Three teachers from checkpoints, their mean answer to mixed images, and a student in closures."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

WIDTHS = (96, 128, 160)


def build(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def write_checkpoints(folder, x, y, seed):
    paths = []
    for width in WIDTHS:
        torch.manual_seed(seed + width)
        net = build(width)
        opt = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(20):
            for b in torch.randperm(len(x)).split(50):
                opt.zero_grad()
                F.cross_entropy(net(x[b]), y[b]).backward()
                opt.step()
        paths.append(os.path.join(folder, f"w{width}.pt"))
        torch.save({"width": width, "state": net.state_dict()}, paths[-1])
    return paths


def read_checkpoint(path):
    saved = torch.load(path)
    net = build(saved["width"])
    net.load_state_dict(saved["state"])
    return net.eval().requires_grad_(False)


def committee(paths):
    """The mean of the teachers' logits, as a function of the images."""
    teachers = map(read_checkpoint, paths)

    @torch.no_grad()
    def answer(x):
        total = torch.zeros(len(x), 10)
        for teacher in teachers:
            total += teacher(x) / len(paths)
        return total
    return answer


def mixup(x, y, strength=0.3):
    lam = torch.distributions.Beta(strength, strength).sample().item()
    other = torch.randperm(len(x))
    onehot = F.one_hot(y, 10).float()
    return lam * x + (1 - lam) * x[other], lam * onehot + (1 - lam) * onehot[other]


def trainer(student, answer, lr=5e-3, t=3.0, alpha=0.7):
    opt = torch.optim.Adam(student.parameters(), lr=lr)

    def step(x, y):
        student.train()
        x, targets = mixup(x, y)
        z, zt = student(x), answer(x)
        soft = F.kl_div(F.log_softmax(z / t, 1), F.log_softmax(zt / t, 1), reduction="batchmean", log_target=True)
        loss = alpha * t * t * soft + (1 - alpha) * F.cross_entropy(z, targets)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()
    return step


def load(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(806))
    few = p[:1000][torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:150]]
    return (x[p[:1000]], y[p[:1000]]), (x[few], y[few]), (x[p[1000:]], y[p[1000:]])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    train, (x, y), (xt, yt) = load(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_checkpoints(folder, *train, args.seed)
        for path in paths:
            teacher = read_checkpoint(path)
            print(f"{os.path.basename(path)} {(teacher(xt).argmax(1) == yt).float().mean().item() * 100:.2f}")
        answer = committee(paths)
        torch.manual_seed(args.seed)
        student = build(24)
        step = trainer(student, answer)
        for epoch in range(60):
            losses = [step(x[b], y[b]) for b in torch.randperm(len(x)).split(30)]
            if epoch % 15 == 0:
                print(f"{epoch} {sum(losses) / len(losses):.3f}")
    student.eval()
    with torch.no_grad():
        print(f"top1 {(student(xt).argmax(1) == yt).float().mean().item() * 100:.2f}")


if __name__ == "__main__":
    main()
