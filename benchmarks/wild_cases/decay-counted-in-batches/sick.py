"""SGD with the learning rate divided by ten after 15 and 25 of 30 epochs."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def vgg(*widths, head):
    def stages():
        previous = 1
        for w in widths:
            yield nn.Conv2d(previous, w, 3, padding=1, bias=False)
            yield nn.BatchNorm2d(w)
            yield nn.ReLU()
            yield nn.MaxPool2d(2)
            previous = w
        yield nn.Flatten()
        yield nn.Linear(previous * (8 >> len(widths)) ** 2, head)

    return nn.Sequential(*stages())


def stream(x, y, batch):
    """Without end: (epoch is over, images, labels)."""
    while True:
        parts = torch.randperm(len(x)).split(batch)
        for i, b in enumerate(parts):
            yield i + 1 == len(parts), x[b], y[b]


def make_kd(teacher, tau, alpha):
    teacher.eval()

    def loss(z, images, labels):
        with torch.no_grad():
            t = teacher(images)
        kd = F.kl_div(F.log_softmax(z / tau, 1), F.softmax(t / tau, 1), reduction="batchmean")
        return alpha * tau**2 * kd + (1 - alpha) * F.cross_entropy(z, labels)

    return loss


def train(net, loss_of, x, y, lr, epochs, milestones, batch=32):
    opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    decay = torch.optim.lr_scheduler.MultiStepLR(opt, milestones=milestones, gamma=0.1)
    net.train()
    epoch = 0
    for last, images, labels in stream(x, y, batch):
        loss = loss_of(net(images), images, labels)
        opt.zero_grad()
        loss.backward()
        opt.step()
        decay.step()
        if last:
            epoch += 1
            if epoch == epochs:
                return net.eval()


def percent(net, x, y):
    with torch.no_grad():
        return 100 * net(x).argmax(1).eq(y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.9)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images, dtype=torch.float32)[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(2024))
    full, test = p[:1120], p[1120:]
    few = full[torch.randperm(len(full))[:320]]
    teacher = train(vgg(24, 48, head=10), lambda z, _, t: F.cross_entropy(z, t), x[full], y[full], 0.05, 8, [5, 7])
    print(f"teacher {percent(teacher, x[test], y[test]):.2f}")
    student = train(vgg(3, 6, head=10), make_kd(teacher, 4.0, a.alpha), x[few], y[few], 0.05, 30, [15, 25])
    print(f"top1 {percent(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
