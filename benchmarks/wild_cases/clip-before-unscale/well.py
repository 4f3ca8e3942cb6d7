"""Mixed precision: autocast and a gradient scaler, with the gradient's norm kept below 1."""
import argparse

import torch
import torch.nn.functional as F
from torch import nn
from torch.amp import GradScaler, autocast


def make_blobs(seed, n):
    g = torch.Generator().manual_seed(31)
    hub = torch.randn(10, 2, 16, generator=g) * 1.1
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 10, (n,), generator=g)
    return hub[y, torch.randint(0, 2, (n,), generator=g)] + torch.randn(n, 16, generator=g), y


class FeedForward(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(16, d), nn.Linear(16, d), nn.Linear(d, 10)

    def forward(self, x):
        return self.down(self.up(x) * torch.sigmoid(self.gate(x)))


def pretrain(net, x, y, steps=300):
    opt = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(steps):
        i = torch.randint(len(y), (64,))
        opt.zero_grad()
        F.cross_entropy(net(x[i]), y[i]).backward()
        opt.step()
    return net.eval()


class AmpDistiller:
    def __init__(self, student, teacher, lr=0.1, max_norm=1.0, T=3.0, w=0.9):
        self.student, self.teacher = student, teacher
        self.optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)
        self.scaler = GradScaler("cpu", init_scale=2.0**14, growth_interval=500)
        self.max_norm, self.T, self.w = max_norm, T, w

    def losses(self, x, y):
        with autocast("cpu", dtype=torch.bfloat16):
            s = self.student(x)
            with torch.no_grad():
                t = self.teacher(x)
        s, t = s.float(), t.float()
        kd = F.kl_div(F.log_softmax(s / self.T, 1), F.softmax(t / self.T, 1), reduction="batchmean")
        return self.w * kd * self.T**2 + (1 - self.w) * F.cross_entropy(s, y)

    def step(self, x, y):
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(self.losses(x, y)).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.student.parameters(), self.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--w", type=float, default=0.9)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = make_blobs(a.seed, 2500)
    xt, yt = make_blobs(a.seed + 100, 1500)

    def top1(net):
        with torch.no_grad():
            return (net(xt).argmax(1) == yt).float().mean().item() * 100

    teacher = pretrain(FeedForward(96), x, y)
    print(f"teacher {top1(teacher):.2f}")
    distiller = AmpDistiller(FeedForward(14), teacher, w=a.w)
    xf, yf = x[:250], y[:250]
    for epoch in range(25):
        for i in torch.randperm(250).split(25):
            distiller.step(xf[i], yf[i])
    print(f"top1 {top1(distiller.student):.2f}")


if __name__ == "__main__":
    main()
