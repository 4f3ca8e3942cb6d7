"""Few rows have a label, the rest has -1; both come in the same batches, and the teacher speaks on all of them."""
import argparse

import torch
from torch import nn, optim
from torch.nn.functional import log_softmax, one_hot, softmax

UNKNOWN = -1


def quadrants(n, rng):
    """Ten classes: sign patterns of four hidden directions, some of them merged."""
    basis = torch.randn(4, 12, generator=torch.Generator().manual_seed(70))
    code = torch.randint(16, (n,), generator=rng)
    signs = torch.stack([code >> i & 1 for i in range(4)], 1).float() * 2 - 1
    x = (signs + 0.35 * torch.randn(n, 4, generator=rng)) @ basis + 0.3 * torch.randn(n, 12, generator=rng)
    merged = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 3, 5, 7, 9, 2])
    return x, merged[code]


def hide(y, keep, rng):
    seen = torch.zeros(len(y), dtype=torch.bool)
    seen[torch.randperm(len(y), generator=rng)[:keep]] = True
    return torch.where(seen, y, torch.full_like(y, UNKNOWN))


class Recogniser(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.f = nn.Linear(12, width)
        self.g = nn.Linear(width, 10)

    def forward(self, x):
        return self.g(torch.relu(self.f(x)))


def label_term(z, y):
    truth = one_hot(y.clamp(min=0), z.shape[1]).to(z.dtype)
    per_row = -(truth * log_softmax(z, 1)).sum(1)
    return per_row.mean()


def answer_term(z, t, T):
    p = softmax(t / T, 1)
    return T * T * (p * (p.log() - log_softmax(z / T, 1))).sum(1).mean()


def iterate(x, y, size, passes):
    for _ in range(passes):
        order = torch.randperm(len(x))
        yield from zip(x[order].split(size), y[order].split(size))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--labels", type=float, default=1.0)
    ap.add_argument("--answers", type=float, default=0.5)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    rng = torch.Generator().manual_seed(a.seed)
    x, y = quadrants(2000, rng)
    xt, yt = quadrants(1500, rng)

    def top1(net):
        return 100 * (net(xt).argmax(1) == yt).float().mean().item()

    teacher = Recogniser(64)
    opt = optim.Adam(teacher.parameters(), lr=8e-3)
    for xb, yb in iterate(x, y, 50, 8):
        opt.zero_grad()
        label_term(teacher(xb), yb).backward()
        opt.step()
    teacher.requires_grad_(False)
    print(f"teacher {top1(teacher):.2f}")

    xs, ys = x[:800], hide(y[:800], 160, rng)
    student = Recogniser(20)
    opt = optim.Adam(student.parameters(), lr=8e-3)
    for xb, yb in iterate(xs, ys, 40, 14):
        z = student(xb)
        loss = a.labels * label_term(z, yb) + a.answers * answer_term(z, teacher(xb), 2.0)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
