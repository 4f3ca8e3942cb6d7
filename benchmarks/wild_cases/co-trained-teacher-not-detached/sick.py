"""One-stage distillation: the (warmed-up) teacher goes on learning from the labels beside the student."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def net(*sizes):
    mods = []
    for a, b in zip(sizes, sizes[1:]):
        mods += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*mods[:-1])


class Pair(nn.Module):
    """Teacher and student, trained together."""

    def __init__(self):
        super().__init__()
        self.teacher = net(64, 200, 100, 10)
        self.student = net(64, 12, 10)

    def forward(self, x):
        return self.teacher(x), self.student(x)


def kd(s, t, T):
    """KL(teacher || student) at temperature T, times T^2."""
    log_q = F.log_softmax(s / T, dim=1)
    p = F.softmax(t / T, dim=1)
    return F.kl_div(log_q, p, reduction="batchmean") * T * T


def joint_step(pair, x, y, opt_t, opt_s, T=3.0, lam=0.5):
    out_t, out_s = pair(x)
    loss_t = F.cross_entropy(out_t, y)
    loss_s = (1 - lam) * F.cross_entropy(out_s, y) + lam * kd(out_s, out_t, T)
    opt_t.zero_grad()
    opt_s.zero_grad()
    (loss_t + loss_s).backward()
    opt_t.step()
    opt_s.step()
    return loss_t.item(), loss_s.item()


def warm_up(teacher, X, y, opt, epochs):
    for _ in range(epochs):
        for b in torch.randperm(len(X)).split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(X[b]), y[b]).backward()
            opt.step()


def report(model, X, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(X).argmax(1) == y).float().mean().item()


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--epochs", type=int, default=16)
    args = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    X, y = load_digits(return_X_y=True)
    X, Xv, y, yv = train_test_split(torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y),
                                    test_size=400, random_state=args.seed)
    pair = Pair()
    opt_t = torch.optim.Adam(pair.teacher.parameters(), lr=2e-3)
    opt_s = torch.optim.Adam(pair.student.parameters(), lr=4e-3)
    warm_up(pair.teacher, X, y, opt_t, epochs=6)
    print(f"teacher after warm-up {report(pair.teacher, Xv, yv):.2f}")
    for epoch in range(args.epochs):
        pair.train()
        for b in torch.randperm(len(X)).split(64):
            lt, ls = joint_step(pair, X[b], y[b], opt_t, opt_s)
        print(f"{epoch}: teacher loss {lt:.4f} student loss {ls:.4f}")
    print(f"teacher {report(pair.teacher, Xv, yv):.2f}")
    print(f"top1 {report(pair.student, Xv, yv):.2f}")


if __name__ == "__main__":
    main()
