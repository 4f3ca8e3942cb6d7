"""Most of the student never moves: a base net learned on upright digits is adapted to digits turned by 90 degrees through LoRA adapters and biases only. A teacher trained on the turned digits guides it."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class LoRA(nn.Module):
    def __init__(self, base, rank, scale=2.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features ** 0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = scale

    def forward(self, x):
        return self.base(x) + self.scale * F.linear(F.linear(x, self.down), self.up)


def adapt(net, rank):
    for name, child in net.named_children():
        if isinstance(child, nn.Linear):
            setattr(net, name, LoRA(child, rank))
    for name, p in net.named_parameters():
        p.requires_grad = name.endswith(("down", "up", "bias"))
    return net


def net(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 10))


def learn(m, x, y, epochs, lr=2e-3):
    opt = torch.optim.Adam(m.parameters(), lr=lr)
    m.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(m(x[b]), y[b]).backward()
            opt.step()
    return m.eval()


@torch.no_grad()
def top1(m, x, y):
    m.eval()
    return 100 * (m(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--rank", type=int, default=8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    images, y = torch.tensor(d.images).float() / 16, torch.tensor(d.target)
    upright, turned = images.flatten(1), images.rot90(1, (1, 2)).flatten(1)
    p = torch.randperm(len(y), generator=torch.Generator().manual_seed(27))
    tr, te = p[:1200], p[1200:]
    teacher = learn(net(160), turned[tr], y[tr], 16)
    base = learn(net(48), upright[tr], y[tr], 14)
    print(f"teacher {top1(teacher, turned[te], y[te]):.2f} base {top1(base, turned[te], y[te]):.2f}")

    student, tau = adapt(base, a.rank), 3.0
    trainable = [q for q in student.parameters() if q.requires_grad]
    print("trainable", sum(q.numel() for q in trainable), "of", sum(q.numel() for q in student.parameters()))
    opt = torch.optim.AdamW(trainable, lr=5e-3, weight_decay=0.0)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 20 * 24)
    for epoch in range(20):
        student.train()
        for b in tr[torch.randperm(1200)].split(50):
            with torch.no_grad():
                t = teacher(turned[b])
            s = student(turned[b])
            kd = F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean") * tau ** 2
            loss = 0.7 * kd + 0.3 * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    print(f"top1 {top1(student, turned[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
