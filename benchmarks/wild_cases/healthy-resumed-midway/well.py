"""Stops halfway, as a job on a shared cluster does, and goes on from a checkpoint in new objects: model, optimizer, scheduler and the random state come back from bytes."""
import argparse
import io

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, SequentialLR


class SmallCNN(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2),
                               nn.Conv2d(c, 2 * c, 3, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.g = nn.Linear(8 * c, 10)

    def forward(self, x):
        return self.g(self.f(x).flatten(1))


def fresh(total, warm=40):
    student = SmallCNN(6)
    opt = torch.optim.SGD(student.parameters(), lr=0.06, momentum=0.9, nesterov=True, weight_decay=1e-4)
    up = LambdaLR(opt, lambda s: (s + 1) / warm)
    down = CosineAnnealingLR(opt, T_max=total - warm)
    return student, opt, SequentialLR(opt, [up, down], milestones=[warm])


def save(student, opt, sched, epoch):
    f = io.BytesIO()
    torch.save({"model": student.state_dict(), "opt": opt.state_dict(), "sched": sched.state_dict(),
                "epoch": epoch, "rng": torch.get_rng_state()}, f)
    return f.getvalue()


def accuracy(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def session(teacher, x, y, total_epochs, stop_at, checkpoint=None, tau=4.0, alpha=0.6):
    student, opt, sched = fresh(total_epochs * 20)
    start = 0
    if checkpoint is not None:
        state = torch.load(io.BytesIO(checkpoint), weights_only=True)
        student.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        sched.load_state_dict(state["sched"])
        start = state["epoch"]
        torch.set_rng_state(state["rng"])
    for epoch in range(start, stop_at):
        student.train()
        for b in torch.randperm(len(x)).split(60):
            with torch.no_grad():
                t = teacher(x[b])
            s = student(x[b])
            kd = tau ** 2 * F.kl_div(F.log_softmax(s / tau, 1), F.log_softmax(t / tau, 1), reduction="batchmean", log_target=True)
            loss = alpha * kd + (1 - alpha) * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    return student, save(student, opt, sched, stop_at)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(40))
    x, y, xt, yt = x[p[:1200]], y[p[:1200]], x[p[1200:]], y[p[1200:]]
    teacher = SmallCNN(20)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(8):
        teacher.train()
        for b in torch.randperm(1200).split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher {accuracy(teacher, xt, yt):.2f}")
    _, blob = session(teacher, x, y, 16, stop_at=8)
    student, _ = session(teacher, x, y, 16, stop_at=16, checkpoint=blob)
    print(f"top1 {accuracy(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
