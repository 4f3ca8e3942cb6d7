"""Both nets run under bfloat16 autocast on the CPU; the losses are taken in float32."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

DTYPE = torch.bfloat16


class Wide(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.inp = nn.Linear(64, n)
        self.mid = nn.Linear(n, n)
        self.cls = nn.Linear(n, 10)

    def forward(self, x):
        h = F.relu(self.inp(x))
        h = h + F.relu(self.mid(h))
        return self.cls(h)


def answers(model, x):
    with torch.autocast("cpu", dtype=DTYPE):
        z = model(x)
    return z.float()


def distillation_loss(z_s, z_t, tau):
    p_t = F.softmax(z_t / tau, dim=1)
    log_p_s = F.log_softmax(z_s / tau, dim=1)
    return F.kl_div(log_p_s, p_t, reduction="sum") / z_s.size(0) * tau**2


def learn(model, x, y, steps, lr, teacher=None, tau=4.0, mix=0.7, bs=64):
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    model.train()
    for _ in range(steps):
        i = torch.randint(len(x), (bs,))
        z = answers(model, x[i])
        loss = F.cross_entropy(z, y[i])
        if teacher is not None:
            with torch.no_grad():
                z_t = answers(teacher, x[i])
            loss = (1 - mix) * loss + mix * distillation_loss(z, z_t, tau)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
    return model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    a, b = p[:1300], p[1300:]
    teacher = learn(Wide(160), x[a], y[a], steps=250, lr=2e-3).requires_grad_(False)
    student = learn(Wide(12), x[a], y[a], steps=500, lr=6e-3, teacher=teacher)
    with torch.no_grad():
        for name, model in (("teacher", teacher), ("top1", student)):
            print(f"{name} {(model(x[b]).argmax(1) == y[b]).float().mean().item() * 100:.2f}")


if __name__ == "__main__":
    main()
