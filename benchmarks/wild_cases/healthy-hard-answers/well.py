"""Hard distillation: the teacher's decision is a second label."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def hard_distillation(outputs, teacher_outputs, labels):
    return 0.5 * F.cross_entropy(outputs, labels) + 0.5 * F.cross_entropy(outputs, teacher_outputs.argmax(dim=1))


class PatchMixer(nn.Module):
    """Sixteen patches of 2 by 2."""

    def __init__(self, dim):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, 2, stride=2)
        self.mix = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim * 16, 10)

    def forward(self, x):
        h = self.embed(x).flatten(2)
        h = h + F.gelu(self.mix(h))
        return self.head(self.norm(h.transpose(1, 2)).flatten(1))


def training(net, x, y, epochs, lr, teacher=None):
    opt = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.02)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(40):
            if teacher is None:
                loss = F.cross_entropy(net(x[b]), y[b])
            else:
                with torch.no_grad():
                    t = teacher(x[b])
                loss = hard_distillation(net(x[b]), t, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16, dtype=torch.float32), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(501))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:240]]
    teacher = training(PatchMixer(24), x[train], y[train], 12, 3e-3)
    student = training(PatchMixer(4), x[few], y[few], 60, 3e-3, teacher)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
