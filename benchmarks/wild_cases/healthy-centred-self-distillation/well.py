"""DINO's scheme: the teacher is the student's moving average, starts untrained, is centred and sharpened; no labels in the loop.

Two mild views go to both nets, two hard crops to the student alone, and no view is compared with itself.
The labels come in at the end only: a linear head on the teacher's frozen features."""
import argparse
import copy
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def mild(x):
    p = F.pad(x, (1, 1, 1, 1))
    a, b = torch.randint(0, 3, (2,)).tolist()
    return p[:, :, a:a + 8, b:b + 8] + 0.05 * torch.randn_like(x)


def crop(x):
    a, b = torch.randint(0, 3, (2,)).tolist()
    return F.interpolate(x[:, :, a:a + 6, b:b + 6], size=(8, 8), mode="bilinear", align_corners=False) + 0.05 * torch.randn_like(x)


class Model(nn.Module):
    def __init__(self, prototypes=64):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU())
        self.neck = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32))
        self.prototypes = nn.utils.parametrizations.weight_norm(nn.Linear(32, prototypes, bias=False))
        self.prototypes.parametrizations.weight.original0.data.fill_(1.0)
        self.prototypes.parametrizations.weight.original0.requires_grad = False

    def forward(self, x):
        return self.prototypes(F.normalize(self.neck(self.body(x)), dim=1))


class DinoLoss(nn.Module):
    def __init__(self, n, t_student=0.1, t_teacher=0.05, momentum=0.9):
        super().__init__()
        self.ts, self.tt, self.m = t_student, t_teacher, momentum
        self.register_buffer("centre", torch.zeros(1, n))

    def forward(self, student_views, teacher_views):
        targets = [F.softmax((t.detach() - self.centre) / self.tt, 1) for t in teacher_views]
        total, terms = 0.0, 0
        for i, target in enumerate(targets):
            for j, s in enumerate(student_views):
                if i != j:
                    total = total - (target * F.log_softmax(s / self.ts, 1)).sum(1).mean()
                    terms += 1
        self.move(torch.cat(teacher_views))
        return total / terms

    @torch.no_grad()
    def move(self, out):
        self.centre = self.centre * self.m + out.mean(0, keepdim=True) * (1 - self.m)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float().unsqueeze(1) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(80))
    tr, te = p[:1300], p[1300:]

    student = Model()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    criterion = DinoLoss(64)
    opt = torch.optim.AdamW([q for q in student.parameters() if q.requires_grad], 1e-3, weight_decay=1e-3)
    for _ in range(20):
        student.train()
        for b in tr[torch.randperm(len(tr))].split(65):
            views = [mild(x[b]), mild(x[b]), crop(x[b]), crop(x[b])]
            with torch.no_grad():
                told = [teacher(v) for v in views[:2]]
            loss = criterion([student(v) for v in views], told)
            opt.zero_grad()
            loss.backward()
            opt.step()
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), student.parameters()):
                    slow.mul_(0.98).add_(fast, alpha=0.02)

    with torch.no_grad():
        known, unknown = teacher.body(x[tr]), teacher.body(x[te])
        mean, std = known.mean(0), known.std(0) + 1e-4
        known, unknown = (known - mean) / std, (unknown - mean) / std
    head = nn.Linear(64, 10)
    opt = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        loss = F.cross_entropy(head(known), y[tr])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(f"top1 {100 * (head(unknown).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
