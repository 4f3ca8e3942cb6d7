"""Logits, relations between embeddings (RKD) and labels; each term has a name, and its weight is in the config."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

CONFIG = {"T": 4.0, "lr": 4e-3, "epochs": 15, "weights": {"label": 0.5, "kd": 0.5, "rkd": 2.0}}


def distances(e):
    d = torch.cdist(e, e)
    off = ~torch.eye(len(e), dtype=torch.bool)
    return d / d[off].mean().clamp_min(1e-6)


class Loss(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.T, self.weights = config["T"], config["weights"]

    def terms(self, student_out, teacher_out, labels):
        (s, s_emb), (t, t_emb) = student_out, teacher_out
        yield "kd", self.T**2 * F.kl_div(
            F.log_softmax(s / self.T, dim=1), F.softmax(t / self.T, dim=1), reduction="batchmean"
        )
        yield "rkd", F.smooth_l1_loss(distances(s_emb), distances(t_emb))
        known = labels >= 0
        if known.any():
            yield "ce", F.cross_entropy(s[known], labels[known])

    def forward(self, student_out, teacher_out, labels):
        return sum(self.weights.get(name, 0.0) * value for name, value in self.terms(student_out, teacher_out, labels))


class Embedder(nn.Module):
    def __init__(self, width, dim):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, dim))
        self.classify = nn.Linear(dim, 10)

    def forward(self, x):
        e = self.embed(x)
        return self.classify(F.relu(e)), e


def pretrain(net, x, y, epochs, lr=2e-3):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(32):
            loss = F.cross_entropy(net(x[b])[0], y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


def distill(student, teacher, x, labels, config):
    """labels: -1 where there is none"""
    criterion = Loss(config)
    opt = torch.optim.Adam(student.parameters(), lr=config["lr"])
    student.train()
    for _ in range(config["epochs"]):
        for b in torch.randperm(len(x)).split(50):
            with torch.no_grad():
                teacher_out = teacher(x[b])
            loss = criterion(student(x[b]), teacher_out, labels[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return student.eval()


@torch.no_grad()
def top1(net, x, y):
    return 100 * (net(x)[0].argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels-alone", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(66))
    rows, theirs, test = p[:900], p[900:1200], p[1200:]  # theirs: the teacher comes from another team
    labels = y[rows].clone()
    labels[torch.rand(len(rows)) < 0.5] = -1  # half of them were never annotated
    teacher = pretrain(Embedder(128, 48), x[theirs], y[theirs], 15).requires_grad_(False)
    print(f"teacher {top1(teacher, x[test], y[test]):.2f}")
    student = Embedder(20, 12)
    if args.labels_alone:
        some = labels >= 0
        pretrain(student, x[rows][some], labels[some], 2 * CONFIG["epochs"], CONFIG["lr"])
    else:
        distill(student, teacher, x[rows], labels, CONFIG)
    print(f"top1 {top1(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
