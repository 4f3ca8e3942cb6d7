"""DistilBERT manners: the student starts from every other layer of the teacher."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class RowEncoder(nn.Module):
    """Reads an 8x8 image as eight tokens, one for each row."""

    def __init__(self, dim=24, depth=4):
        super().__init__()
        self.embeddings = nn.Linear(8, dim)
        self.position = nn.Parameter(0.02 * torch.randn(8, dim))
        self.layer = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 4, 48, dropout=0.0, batch_first=True, norm_first=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, 10)

    def forward(self, x):
        h = self.embeddings(x) + self.position
        for layer in self.layer:
            h = layer(h)
        return self.classifier(self.norm(h).mean(1))


def extract_student(teacher, keep=(0, 2)):
    student = RowEncoder(depth=len(keep))
    student.embeddings.load_state_dict(teacher.embeddings.state_dict())
    student.position.data.copy_(teacher.position.data)
    for i, j in enumerate(keep):
        student.layer[i] = teacher.layer[j]
    student.norm.load_state_dict(teacher.norm.state_dict())
    return student


def fit(model, x, y, epochs, lr):
    opt = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(model(x[b]), y[b]).backward()
            opt.step()
    return model.eval()


def distill(teacher, student, x, y, epochs=12, lr=3e-3, T=2.0, alpha=0.9):
    teacher.eval()
    opt = torch.optim.AdamW(student.parameters(), lr=lr)
    student.train()
    for epoch in range(epochs):
        teacher.eval()
        for b in torch.randperm(len(x)).split(25):
            with torch.no_grad():
                t = teacher(x[b])
            s = student(x[b])
            kd = F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="batchmean") * T**2
            loss = alpha * kd + (1 - alpha) * F.cross_entropy(s, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return student.eval()


def accuracy(model, x, y):
    with torch.no_grad():
        return 100 * (model(x).argmax(-1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float() / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(14))
    tr, te = p[:1100], p[1100:]
    teacher = fit(RowEncoder(), x[tr], y[tr], 10, 3e-3)
    print(f"teacher {accuracy(teacher, x[te], y[te]):.2f}")
    few = tr[torch.randperm(1100)[:150]]
    student = distill(teacher, extract_student(teacher), x[few], y[few])
    print(f"teacher afterwards {accuracy(teacher, x[te], y[te]):.2f}")
    print(f"top1 {accuracy(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
