"""Decoupled KD (target-class and non-target-class parts apart), warmed up, with OneCycle per batch."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class DKD(nn.Module):
    def __init__(self, alpha=1.0, beta=2.0, T=3.0, warmup_steps=40):
        super().__init__()
        self.alpha, self.beta, self.T, self.warmup = alpha, beta, T, warmup_steps

    def target_part(self, s, t, y):
        log_s, log_t = F.log_softmax(s / self.T, 1), F.log_softmax(t / self.T, 1)
        return F.kl_div(self.binary(log_s, y), self.binary(log_t, y), reduction="batchmean", log_target=True)

    @staticmethod
    def binary(logp, y):
        mask = F.one_hot(y, logp.shape[1]).bool()
        hit = logp[mask]
        rest = logp.masked_fill(mask, float("-inf")).logsumexp(1)
        return torch.stack([hit, rest], 1)

    def other_part(self, s, t, y):
        keep = ~F.one_hot(y, s.shape[1]).bool()
        s, t = s[keep].view(len(s), -1), t[keep].view(len(t), -1)
        return F.kl_div(F.log_softmax(s / self.T, 1), F.softmax(t / self.T, 1), reduction="batchmean")

    def forward(self, s, t, y, step=10 ** 9):
        ramp = min(1.0, (step + 1) / self.warmup)
        kd = self.alpha * self.target_part(s, t, y) + self.beta * self.other_part(s, t, y)
        return F.cross_entropy(s, y) + ramp * self.T ** 2 * kd


def split(seed):
    X, y = load_digits(return_X_y=True)
    p = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    X, y = torch.tensor(X, dtype=torch.float32)[p] / 16 - 0.3, torch.tensor(y)[p]
    return X[:1350], y[:1350], X[1350:], y[1350:]


def net(h):
    return nn.Sequential(nn.Linear(64, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Linear(h, 10))


def training(model, X, y, epochs, max_lr, objective, bs=54):
    steps = epochs * (len(X) // bs)
    opt = torch.optim.SGD(model.parameters(), lr=max_lr, momentum=0.9, weight_decay=1e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=max_lr, total_steps=steps, pct_start=0.25)
    model.train()
    for step in range(steps):
        if step % (len(X) // bs) == 0:
            order = iter(torch.randperm(len(X)).split(bs))
        i = next(order)
        loss = objective(model(X[i]), X[i], y[i], step)
        opt.zero_grad()
        loss.backward()
        opt.step()
        cycle.step()
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    X, y, Xt, yt = split(args.seed)
    teacher = training(net(256), X, y, 8, 0.1, lambda out, x, y, step: F.cross_entropy(out, y))

    @torch.no_grad()
    def guide(x):
        return teacher(x)

    dkd = DKD()
    student = training(net(10), X, y, 12, 0.05, lambda out, x, y, step: dkd(out, guide(x), y, step))
    with torch.no_grad():
        print("teacher %.2f" % (100 * (teacher(Xt).argmax(1) == yt).float().mean().item()))
        print("top1 %.2f" % (100 * (student(Xt).argmax(1) == yt).float().mean().item()))


if __name__ == "__main__":
    main()
