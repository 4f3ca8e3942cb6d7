"""Gradual magnitude pruning under KD: masks are put on by hand after each optimizer step, so many weights are zero and stay there."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Masks:
    def __init__(self, model):
        self.layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features > 10]
        self.masks = [torch.ones_like(m.weight) for m in self.layers]

    @torch.no_grad()
    def tighten(self, sparsity):
        for i, m in enumerate(self.layers):
            k = int(sparsity * m.weight.numel())
            if k:
                cut = m.weight.abs().flatten().kthvalue(k).values
                self.masks[i] = (m.weight.abs() > cut).float()

    @torch.no_grad()
    def apply(self):
        for m, mask in zip(self.layers, self.masks):
            m.weight.mul_(mask)

    def share(self):
        return 1 - sum(m.sum() for m in self.masks).item() / sum(m.numel() for m in self.masks)


def cubic(epoch, begin, end, final):
    r = min(max((epoch - begin) / (end - begin), 0.0), 1.0)
    return final * (1 - (1 - r) ** 3)


def model(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 10))


def evaluate(m, x, y):
    m.eval()
    with torch.no_grad():
        return m(x).argmax(1).eq(y).float().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--sparsity", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    x, y, xt, yt = x[p[:1250]], y[p[:1250]], x[p[1250:]], y[p[1250:]]
    teacher = model(192)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for _ in range(20):
        for b in torch.randperm(1250).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()
    print(f"teacher {evaluate(teacher, xt, yt):.2f}")

    tau, student = 4.0, model(48)
    masks = Masks(student)
    opt = torch.optim.SGD(student.parameters(), lr=0.04, momentum=0.9)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, [18, 22], gamma=0.3)
    for epoch in range(25):
        student.train()
        masks.tighten(cubic(epoch, 4, 16, a.sparsity))
        masks.apply()
        for b in torch.randperm(1250).split(50):
            with torch.no_grad():
                t = teacher(x[b])
            s = student(x[b])
            kd = F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean") * tau ** 2
            loss = 0.5 * kd + 0.5 * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            masks.apply()
        sched.step()
    print(f"pruned {masks.share():.2f}")
    print(f"top1 {evaluate(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
