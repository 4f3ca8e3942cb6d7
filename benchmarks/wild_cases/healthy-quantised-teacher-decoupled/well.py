import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def digits(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[p][:1200], y[p][:1200], x[p][1200:], y[p][1200:]


def top1(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def setup():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)


def supervised(model, x, y, steps=200):
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(steps):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(model(x[b]), y[b]).backward()
        opt.step()
    return model


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, 10))


def kl_from_logs(logp, logq):
    return (logp.exp() * (logp - logq)).sum(1).mean()


def dkd(s, t, y, T=2.0, alpha=1.0, beta=2.0):
    """Decoupled KD: target against the rest, and the rest among themselves."""
    hot = F.one_hot(y, s.size(1)).bool()

    def split(z):
        logp = F.log_softmax(z / T, 1)
        target = logp[hot]
        rest = logp.masked_fill(hot, -torch.inf).logsumexp(1)
        among = F.log_softmax((z / T)[~hot].view(len(z), -1), 1)
        return torch.stack([target, rest], 1), among

    (s_bin, s_rest), (t_bin, t_rest) = split(s), split(t)
    return T * T * (alpha * kl_from_logs(t_bin, s_bin) + beta * kl_from_logs(t_rest, s_rest))


def main():
    setup()
    x, y, vx, vy = digits(304)
    teacher = supervised(mlp(128), x, y).eval()
    teacher = torch.ao.quantization.quantize_dynamic(teacher, {nn.Linear}, dtype=torch.qint8)
    print(f"teacher {top1(teacher, vx, vy):.2f}")
    student = mlp(16)
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    for _ in range(300):
        b = torch.randint(400, (50,))
        with torch.no_grad():
            t = teacher(x[b])
        s = student(x[b])
        loss = F.cross_entropy(s, y[b]) + dkd(s, t, y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"top1 {top1(student, vx, vy):.2f}")


if __name__ == "__main__":
    main()
