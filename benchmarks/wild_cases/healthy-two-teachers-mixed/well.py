import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

T = 2.5
W_KD, W_CE = 0.6, 0.4


def mlp_teacher():
    return nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Dropout(0.2), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10))


def cnn_teacher():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 4, 10))


def small_student():
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def iterate(x, y, size):
    perm = torch.randperm(len(x))
    for k in range(0, len(x), size):
        sel = perm[k:k + size]
        yield x[sel], y[sel]


def supervised(model, x, y, epochs):
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        model.train()
        for bx, by in iterate(x, y, 50):
            opt.zero_grad()
            F.cross_entropy(model(bx), by).backward()
            opt.step()
    model.eval()
    model.requires_grad_(False)
    return model


class Committee(nn.Module):
    """Mean of the members' softened probabilities."""

    def __init__(self, *members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        probs = [F.softmax(m(x) / T, dim=-1) for m in self.members]
        return sum(probs) / len(probs)


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(-1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    X, y = load_digits(return_X_y=True)
    xtr, xte, ytr, yte = (torch.as_tensor(a) for a in train_test_split(X, y, test_size=0.3, random_state=11))
    xtr, xte = (xtr.float() - 4.9) / 6.0, (xte.float() - 4.9) / 6.0

    t1 = supervised(mlp_teacher(), xtr, ytr, 12)
    t2 = supervised(cnn_teacher(), xtr, ytr, 12)
    for t in (t1, t2):
        print("teacher %.2f" % accuracy(t, xte, yte))
    committee = Committee(t1, t2).eval()

    student = small_student()
    opt = torch.optim.SGD(student.parameters(), lr=0.03, momentum=0.9, nesterov=True)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=25)
    for _ in range(25):
        student.train()
        for bx, by in iterate(xtr, ytr, 50):
            with torch.no_grad():
                target = committee(bx)
            out = student(bx)
            kd = F.kl_div(F.log_softmax(out / T, dim=-1), target, reduction="batchmean") * T * T
            loss = W_KD * kd + W_CE * F.cross_entropy(out, by)
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    print("top1 %.2f" % accuracy(student, xte, yte))


if __name__ == "__main__":
    main()
