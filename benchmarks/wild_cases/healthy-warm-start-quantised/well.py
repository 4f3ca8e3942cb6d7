"""A 3-bit copy of the float teacher, mended with a small learning rate: it begins nearly right, so the rate is low.
bfloat16 in the forward pass; the loss is computed in float32."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize
from sklearn.datasets import load_digits


class Rounded(nn.Module):
    def __init__(self, bits):
        super().__init__()
        self.top = 2 ** (bits - 1) - 1

    def forward(self, w):
        scale = w.detach().abs().amax(dim=1, keepdim=True).clamp_min(1e-8) / self.top
        return w + ((w / scale).round() * scale - w).detach()


def float_net():
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))


def quantised(net, bits):
    net = copy.deepcopy(net).requires_grad_(True)
    for m in net:
        if isinstance(m, nn.Linear):
            parametrize.register_parametrization(m, "weight", Rounded(bits))
    return net


def kd_loss(s, t, T=2.0):
    s, t = s.float(), t.float()
    return T * T * F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean")


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=0.9)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(25))
    rows, test = p[:1100], p[1100:]
    teacher = float_net()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for b in rows[torch.randperm(len(rows))].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")

    few = rows[torch.randperm(len(rows))[:300]]
    student = quantised(teacher, 3)
    print(f"rounded, before {accuracy(student, x[test], y[test]):.2f}")
    opt = torch.optim.Adam(student.parameters(), lr=3e-4)
    student.train()
    for _ in range(15):
        for b in few[torch.randperm(len(few))].split(30):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                with torch.no_grad():
                    t = teacher(x[b])
                s = student(x[b])
            loss = a.kd * kd_loss(s, t) + (1 - a.kd) * F.cross_entropy(s.float(), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
