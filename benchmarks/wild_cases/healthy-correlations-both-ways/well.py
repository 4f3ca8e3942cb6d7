"""Distils by correlation, over each row and over each column of the batch's probabilities, so no scale has to match."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def correlation(a, b, eps=1e-8):
    """Pearson's, of each row of a with the same row of b."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return F.cosine_similarity(a, b, dim=1, eps=eps)


class RelationLoss(nn.Module):
    def __init__(self, tau=2.0, between=1.0, within=1.0):
        super().__init__()
        self.tau, self.between, self.within = tau, between, within

    def forward(self, student_logits, teacher_logits):
        p, q = (student_logits / self.tau).softmax(1), (teacher_logits / self.tau).softmax(1)
        between = 1 - correlation(p, q).mean()          # the classes of one image
        within = 1 - correlation(p.t(), q.t()).mean()   # the images of one class
        return self.tau ** 2 * (self.between * between + self.within * within)


def net(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def fit(model, x, y, extra=None, epochs=20, lr=2e-3, batch=50):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            out = model(x[rows])
            loss = F.cross_entropy(out, y[rows])
            if extra is not None:
                loss = loss + extra(x[rows], out)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def relation_to(teacher, criterion):
    def extra(x, out):
        with torch.no_grad():
            answer = teacher(x)
        return criterion(out, answer)
    return extra


def load(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(811))
    few = p[:1000][torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:200]]
    return (x[p[:1000]], y[p[:1000]]), (x[few], y[few]), (x[p[1000:]], y[p[1000:]])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, few, (xt, yt) = load(args.seed)
    teacher = fit(net(128), *train).requires_grad_(False)
    print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}")
    student = fit(net(24), *few, relation_to(teacher, RelationLoss()), epochs=60, lr=4e-3, batch=40)
    with torch.no_grad():
        print(f"top1 {100 * (student(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
