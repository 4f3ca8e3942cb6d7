"""Three digit networks teach one small one. Scikit-learn manners: fit, predict, score."""
import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F


class DigitNet(nn.Module):
    def __init__(self, hidden, p=0.0):
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.drop = nn.Dropout(p)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.fc2(self.drop(F.relu(self.fc1(x))))


class Ensemble:
    def __init__(self, members):
        self.members = [m.eval() for m in members]

    @torch.no_grad()
    def predict_proba(self, x, temperature=1.0):
        return torch.stack([F.softmax(m(x) / temperature, dim=1) for m in self.members]).mean(0)

    def score(self, x, y):
        return (self.predict_proba(x).argmax(1) == y).float().mean().item()


def fit_member(x, y, hidden, epochs=25):
    net = DigitNet(hidden, 0.3)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _ in range(epochs):
        for idx in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(x[idx]), y[idx]).backward()
            opt.step()
    return net


class DistilledClassifier:
    """student: the small network; x_lab/y_lab: few labelled rows; x_all: everything there is, unlabelled."""

    def __init__(self, student, ensemble, temperature=3.0, lam=0.8, lr=5e-3, epochs=12, batch_size=50):
        self.student, self.ensemble = student, ensemble
        self.T, self.lam, self.lr = temperature, lam, lr
        self.epochs, self.batch_size = epochs, batch_size

    def soft_loss(self, logits, x):
        log_q = F.log_softmax(logits / self.T, dim=1)
        p = self.ensemble.predict_proba(x, self.T)
        return F.kl_div(log_q, p, reduction="batchmean") * self.T ** 2

    def fit(self, x_lab, y_lab, x_all):
        opt = torch.optim.Adam(self.student.parameters(), lr=self.lr)
        self.history_ = []
        for _ in range(self.epochs):
            self.student.train()
            for idx in torch.randperm(len(x_all)).split(self.batch_size):
                lab = torch.randint(len(x_lab), (self.batch_size,))
                hard = F.cross_entropy(self.student(x_lab[lab]), y_lab[lab])
                soft = self.soft_loss(self.student(x_all[idx]), x_all[idx])
                loss = (1 - self.lam) * hard + self.lam * soft
                opt.zero_grad()
                loss.backward()
                opt.step()
                self.history_.append((hard.item(), soft.item()))
        return self

    @torch.no_grad()
    def score(self, x, y):
        self.student.eval()
        return (self.student(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    data = load_digits()
    xs, xt, ys, yt = train_test_split(data.data.astype("float32") / 16, data.target, test_size=0.4, random_state=7)
    xs, xt, ys, yt = map(torch.from_numpy, (xs, xt, ys, yt))
    ensemble = Ensemble([fit_member(xs, ys, h) for h in (48, 64, 96)])
    print(f"ensemble {100 * ensemble.score(xt, yt):.2f}")
    few = torch.randperm(len(xs))[:80]
    clf = DistilledClassifier(DigitNet(10), ensemble).fit(xs[few], ys[few], xs)
    hard, soft = np.mean(clf.history_[-20:], axis=0)
    print(f"hard {hard:.3f} soft {soft:.3f}")
    print(f"top1 {100 * clf.score(xt, yt):.2f}")


if __name__ == "__main__":
    main()
