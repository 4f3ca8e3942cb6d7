"""Masked feature prediction: the student sees half of the image's rows blanked, the teacher the whole image.

The target is the teacher's feature after a layer norm without weights; the student's side has a predictor and no norm,
as in data2vec: on purpose only one side is normalised. A linear head on labels is trained along."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Encoder(nn.Module):
    def __init__(self, width, dim):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, dim), nn.ReLU())
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        h = self.trunk(x)
        return h, self.head(h)


def feature_loss(predicted, teacher_feature):
    target = F.layer_norm(teacher_feature, teacher_feature.shape[-1:])
    return F.smooth_l1_loss(predicted, target, beta=1.0)


def blank(x):
    keep = (torch.rand(len(x), 8, 1) > 0.35).float()
    return (x.view(-1, 8, 8) * keep).flatten(1)


def grade(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x)[1].argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
    tr, te = p[:1200], p[1200:]

    teacher = Encoder(256, 64)
    opt = torch.optim.Adam(teacher.parameters(), 1e-3)
    for _ in range(15):
        teacher.train()
        for b in tr[torch.randperm(len(tr))].split(48):
            loss = F.cross_entropy(teacher(x[b])[1], y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {grade(teacher, x[te], y[te]):.2f}")
    teacher.eval().requires_grad_(False)

    student = Encoder(64, 32)
    predictor = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64))
    opt = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], 2e-3)
    for _ in range(30):
        student.train()
        predictor.train()
        for b in tr[torch.randperm(len(tr))].split(48):
            with torch.no_grad():
                feature, _ = teacher(x[b])
            seen, logits = student(blank(x[b]))
            loss = F.cross_entropy(logits, y[b]) + 2.0 * feature_loss(predictor(seen), feature)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {grade(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
