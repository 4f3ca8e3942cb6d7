"""CutMix and three teachers: all see the pasted image; their probabilities at T are averaged (not their logits).

The target is a distribution already softened, so the loss takes it as such: cross-entropy with it, times T squared."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def cutmix(x, y):
    """Paste a box of another image, at the same place; returns both labels and the share of the first."""
    other = torch.randperm(len(x))
    lam = torch.distributions.Beta(1.0, 1.0).sample().item()
    side = int(round(8 * (1 - lam) ** 0.5))
    r = torch.randint(0, 9 - side, ()).item()
    c = torch.randint(0, 9 - side, ()).item()
    x = x.clone()
    x[:, :, r:r + side, c:c + side] = x[other][:, :, r:r + side, c:c + side] if side else 0
    return x, y, y[other], 1 - side * side / 64


class Committee(nn.Module):
    """Mean of the members' probabilities at T; at evaluation T is 1."""

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    @torch.no_grad()
    def forward(self, x, T=1.0):
        return torch.stack([F.softmax(m(x) / T, 1) for m in self.members]).mean(0)


def soft_cross_entropy(student_logits, teacher_probs, T):
    return -(teacher_probs * F.log_softmax(student_logits / T, 1)).sum(1).mean() * T * T


def cnn(c):
    return nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.Flatten(), nn.Linear(16 * c, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float().unsqueeze(1) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(44))
    tr, te = p[:1200], p[1200:]

    members = []
    for width in (10, 12, 14):
        net = cnn(width)
        opt = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(8):
            net.train()
            for b in tr[torch.randperm(len(tr))].split(50):
                xb, ya, yb, lam = cutmix(x[b], y[b])
                out = net(xb)
                loss = lam * F.cross_entropy(out, ya) + (1 - lam) * F.cross_entropy(out, yb)
                opt.zero_grad()
                loss.backward()
                opt.step()
        members.append(net)
    teachers = Committee(members).eval().requires_grad_(False)
    print(f"teacher {100 * (teachers(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")

    student, T = cnn(6), 2.0
    opt = torch.optim.Adam(student.parameters(), 4e-3)
    for _ in range(13):
        student.train()
        for b in tr[torch.randperm(len(tr))].split(50):
            xb, ya, yb, lam = cutmix(x[b], y[b])
            out = student(xb)
            hard = lam * F.cross_entropy(out, ya) + (1 - lam) * F.cross_entropy(out, yb)
            loss = 0.3 * hard + 0.7 * soft_cross_entropy(out, teachers(xb, T), T)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
