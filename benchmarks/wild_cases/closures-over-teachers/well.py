"""Three teachers, of three kinds, taught on their own thirds of the data; the student learns their mean."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim

T = 3.0
ALPHA = 0.8


def wide():
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def conv():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(864, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )


def deep():
    return nn.Sequential(
        nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
    )


def batches(n, size):
    return torch.randperm(n).split(size)


def pretrain(net, x, y, epochs=30):
    opt = optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-5)
    for _ in range(epochs):
        for b in batches(len(x), 32):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    for p in net.parameters():
        p.requires_grad = False
    return net.eval()


def make_oracles(teachers, T):
    """One function from images to softened probabilities for each teacher."""
    oracles = []
    for teacher in teachers:
        oracles.append(lambda x, teacher=teacher: F.softmax(teacher(x) / T, dim=1))
    return oracles


def make_objective(student, oracles, T, alpha):
    def objective(x, y):
        z = student(x)
        with torch.no_grad():
            p = sum(oracle(x) for oracle in oracles) / len(oracles)
        kd = F.kl_div(F.log_softmax(z / T, dim=1), p, reduction="batchmean") * T * T
        return alpha * kd + (1 - alpha) * F.cross_entropy(z, y)

    return objective


def accuracy(net, x, y):
    with torch.no_grad():
        return 100.0 * (net(x).argmax(1) == y).float().mean().item()


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    x = (x.float() - 4.9) / 6.0
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    train, test = shuffled[:1200], shuffled[1200:]

    thirds = train.chunk(3)
    teachers = [pretrain(kind(), x[third], y[third]) for kind, third in zip((wide, conv, deep), thirds)]
    for teacher in teachers:
        print(f"a teacher: {accuracy(teacher, x[test], y[test]):.2f}")

    student = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    objective = make_objective(student, make_oracles(teachers, T), T, ALPHA)
    opt = optim.Adam(student.parameters(), lr=4e-3)
    decay = optim.lr_scheduler.ExponentialLR(opt, 0.95)
    for epoch in range(30):
        for b in batches(len(train), 40):
            opt.zero_grad()
            objective(x[train[b]], y[train[b]]).backward()
            opt.step()
        decay.step()
    student.eval()
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    main(ap.parse_args().seed)
