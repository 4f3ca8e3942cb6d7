"""Few labels, much unlabelled data: cross-entropy on the former, divergence from the teacher on everything."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
import torch.nn.functional as F


def parse():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--temperature", type=float, default=3.0)
    p.add_argument("--lambda-kd", type=float, default=1.0)
    return p.parse_args()


@torch.no_grad()
def log_soft(model, x, temperature):
    return F.log_softmax(model(x) / temperature, dim=-1)


def kd_term(student, teacher, x, temperature):
    log_p = log_soft(teacher, x, temperature)
    log_q = log_soft(student, x, temperature)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


class Columns(nn.Module):
    """A small transformer over the eight columns of the image."""

    def __init__(self, dim, heads, layers):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.place = nn.Parameter(0.1 * torch.randn(8, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(8 * dim, 10)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x) + self.place).flatten(1))


def main():
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32).transpose(1, 2).contiguous() / 16
    y = torch.tensor(bunch.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(13))
    train, test = p[:1000], p[1000:]
    labelled = train[torch.randperm(1000)[:60]]

    teacher = Columns(32, 4, 1)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(12):
        for b in train[torch.randperm(1000)].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()

    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))
    opt = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for _ in range(15):
        for b in train[torch.randperm(1000)].split(25):
            l = labelled[torch.randint(60, (25,))]
            loss = F.cross_entropy(student(x[l]), y[l]) + args.lambda_kd * kd_term(student, teacher, x[b], args.temperature)
            opt.zero_grad()
            loss.backward()
            opt.step()

    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(-1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(-1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
