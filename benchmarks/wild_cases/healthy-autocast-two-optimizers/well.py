"""bfloat16 autocast on the CPU with the loss in float32; the adapter has an optimizer of its own; layers and logits."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.inp, self.mid, self.out = nn.Linear(64, h), nn.Linear(h, h), nn.Linear(h, 10)

    def forward(self, x):
        f = F.relu(self.mid(F.relu(self.inp(x))))
        return self.out(f), f


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(313))
    x, y = x[p], y[p]
    teacher = Net(96)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        for i in torch.randperm(1000).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i])[0], y[i]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)

    student, adapter = Net(16), nn.Linear(16, 96, bias=False)
    optimizers = [
        torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9),
        torch.optim.Adam(adapter.parameters(), lr=1e-3),
    ]
    T = 3.0
    for _ in range(25):
        student.train()
        for i in torch.randperm(300).split(30):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                z_t, f_t = teacher(x[i])
                z_s, f_s = student(x[i])
                a = adapter(f_s)
            z_t, f_t, z_s, a = (v.float() for v in (z_t, f_t, z_s, a))
            loss = 0.5 * F.cross_entropy(z_s, y[i])
            loss += 0.5 * T * T * F.kl_div(F.log_softmax(z_s / T, 1), F.softmax(z_t / T, 1), reduction="batchmean")
            loss += 0.2 * F.smooth_l1_loss(F.normalize(a, dim=1), F.normalize(f_t, dim=1), reduction="sum") / len(i)
            for o in optimizers:
                o.zero_grad()
            loss.backward()
            for o in optimizers:
                o.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1000:])[0].argmax(1) == y[1000:]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[1000:])[0].argmax(1) == y[1000:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
