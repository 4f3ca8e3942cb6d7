"""Relations, not values: distances and angles between the batch's rows (RKD), similarity matrices, and attention maps.

Nothing is matched coordinate by coordinate, so teacher and student need no common width, and no projector is missing."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class ConvNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU())
        self.fc = nn.Linear(2 * c, 3 * c)
        self.out = nn.Linear(3 * c, 10)

    def forward(self, x):
        m = self.stage(self.stem(x))
        e = self.fc(m.mean((2, 3)))
        return self.out(F.relu(e)), e, m


def distances(e):
    d = torch.cdist(e, e, compute_mode="donot_use_mm_for_euclid_dist")
    off = ~torch.eye(len(e), dtype=torch.bool)
    return d / d[off].mean()


def angles(e):
    v = F.normalize(e[None] - e[:, None], dim=2)
    return v @ v.transpose(1, 2)


def attention(m):
    return F.normalize(m.pow(2).mean(1).flatten(1), dim=1)


def similarity(m):
    f = m.flatten(1)
    return F.normalize(f @ f.t(), dim=1)


def relational_loss(student, teacher, labels):
    (s_out, s_e, s_m), (_, t_e, t_m) = student, teacher
    n = len(labels)
    rkd = 5.0 * F.smooth_l1_loss(distances(s_e), distances(t_e)) + 10.0 * F.smooth_l1_loss(angles(s_e), angles(t_e))
    at = (attention(s_m) - attention(t_m)).pow(2).sum(1).mean()
    sp = (similarity(s_m) - similarity(t_m)).pow(2).sum() / n ** 2
    return F.cross_entropy(s_out, labels) + rkd + 2.0 * at + 10.0 * sp


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x)[0].argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float().unsqueeze(1) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(70))
    tr, te = p[:1000], p[1000:]
    teacher = ConvNet(24)
    opt = torch.optim.Adam(teacher.parameters(), 3e-3)
    for _ in range(12):
        teacher.train()
        for b in tr[torch.randperm(len(tr))].split(40):
            loss = F.cross_entropy(teacher(x[b])[0], y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {accuracy(teacher, x[te], y[te]):.2f}")
    teacher.eval().requires_grad_(False)
    student = ConvNet(10)
    opt = torch.optim.Adam(student.parameters(), 5e-3)
    for _ in range(15):
        student.train()
        for b in tr[torch.randperm(len(tr))].split(40):
            with torch.no_grad():
                told = teacher(x[b])
            loss = relational_loss(student(x[b]), told, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {accuracy(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
