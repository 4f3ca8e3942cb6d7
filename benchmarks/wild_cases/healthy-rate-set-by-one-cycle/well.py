"""Feature and logit distillation; the optimizer is made with lr=1e-5, which OneCycleLR replaces by its own rates at once."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        h = self.trunk(x)
        return self.head(h), h


class FeatureKD(nn.Module):
    def __init__(self, teacher, student, width_t, width_s, T=2.0, kd=0.5, hint=0.3):
        super().__init__()
        self.frozen = [teacher.eval().requires_grad_(False)]  # in a list: no submodule, no parameters of ours
        self.student = student
        self.project = nn.Sequential(nn.Linear(width_s, width_t), nn.LayerNorm(width_t))
        self.T, self.kd, self.hint = T, kd, hint

    def forward(self, x, y):
        with torch.no_grad():
            zt, ht = self.frozen[0](x)
            ht = F.layer_norm(ht, ht.shape[1:])
        zs, hs = self.student(x)
        soft = F.kl_div(F.log_softmax(zs / self.T, 1), F.softmax(zt / self.T, 1), reduction="batchmean") * self.T**2
        return (1 - self.kd) * F.cross_entropy(zs, y) + self.kd * soft + self.hint * F.smooth_l1_loss(self.project(hs), ht)


def train_teacher(x, y, width):
    teacher = Net(width)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(8):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b])[0], y[b]).backward()
            opt.step()
    return teacher


def fit(module, x, y, epochs=15, batch=32, peak=0.01):
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)
    steps = epochs * ((len(x) + batch - 1) // batch)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps, pct_start=0.25)
    for _ in range(epochs):
        module.train()
        for b in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            module(x[b], y[b]).backward()
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return 100 * (net(x)[0].argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=0.5)
    ap.add_argument("--hint", type=float, default=0.3)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(9))
    pool, test = p[:1200], p[1200:]
    few = pool[torch.randperm(1200, generator=torch.Generator().manual_seed(args.seed))[:320]]
    teacher = train_teacher(x[pool], y[pool], 128)
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")
    student = Net(32)
    fit(FeatureKD(teacher, student, 128, 32, kd=args.kd, hint=args.hint), x[few], y[few])
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
