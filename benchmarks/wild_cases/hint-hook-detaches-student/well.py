"""FitNets-style hints, features grabbed with forward hooks. Hints + cross-entropy, no logits term."""
import argparse

import torch
from torch import nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Grab:
    """Keeps the last output of a module."""

    def __init__(self, module):
        self.value = None
        self.handle = module.register_forward_hook(self.hook)

    def hook(self, module, inputs, output):
        self.value = output

    def close(self):
        self.handle.remove()


def conv_block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=False))


class CNN(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.layer1 = conv_block(1, w)
        self.layer2 = conv_block(w, 2 * w)
        self.classifier = nn.Linear(2 * w, 10)

    def forward(self, x):
        x = F.max_pool2d(self.layer1(x), 2)
        x = self.layer2(x)
        return self.classifier(x.mean((2, 3)))


def get_data():
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(labels)
    tr, te = train_test_split(range(len(labels)), test_size=0.25, random_state=7, stratify=labels)
    return images[tr], labels[tr], images[te], labels[te]


def iterate(x, y, bs):
    for idx in torch.randperm(len(x)).split(bs):
        yield x[idx], y[idx]


def train_teacher(net, x, y, epochs=6):
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    net.train()
    for _ in range(epochs):
        for xb, yb in iterate(x, y, 64):
            opt.zero_grad()
            F.cross_entropy(net(xb), yb).backward()
            opt.step()


def hint_train(student, teacher, x, y, epochs, beta):
    regressor = nn.Conv2d(16, 32, 1)         # student width -> teacher width
    opt = torch.optim.Adam([*student.parameters(), *regressor.parameters()], lr=1e-2)
    s_feat, t_feat = Grab(student.layer2), Grab(teacher.layer2)
    teacher.eval()
    for epoch in range(epochs):
        student.train()
        for xb, yb in iterate(x, y, 64):
            with torch.no_grad():
                teacher(xb)
            logits = student(xb)
            hint = F.mse_loss(regressor(s_feat.value), t_feat.value)
            loss = F.cross_entropy(logits, yb) + beta * hint
            opt.zero_grad()
            loss.backward()
            opt.step()
    s_feat.close()
    t_feat.close()


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return net(x).argmax(1).eq(y).float().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--beta", type=float, default=1.0, help="weight of the hint loss")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    xtr, ytr, xte, yte = get_data()
    teacher, student = CNN(16), CNN(8)
    train_teacher(teacher, xtr, ytr)
    print(f"teacher {top1(teacher, xte, yte):.2f}")
    hint_train(student, teacher, xtr, ytr, 10, args.beta)
    print(f"top1 {top1(student, xte, yte):.2f}")


if __name__ == "__main__":
    main()
