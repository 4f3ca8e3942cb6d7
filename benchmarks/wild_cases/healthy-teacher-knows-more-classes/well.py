"""The teacher tells twenty classes apart (digits upright and upside down, by name); the student has the ten upright ones.

Their logits are picked by name, so the softmax is over the student's classes alone.
"""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class LabelSpace:
    def __init__(self, names):
        self.names = list(names)
        self.index = {n: i for i, n in enumerate(self.names)}

    def __len__(self):
        return len(self.names)

    def positions_in(self, other):
        """Where each of my classes lies in the other space."""
        return torch.tensor([other.index[n] for n in self.names])


UPRIGHT = LabelSpace(f"digit-{i}" for i in range(10))
ALL = LabelSpace(sorted([f"digit-{i}" for i in range(10)] + [f"{i}-turned" for i in range(10)], reverse=True))


class Net(nn.Module):
    def __init__(self, space, hidden):
        super().__init__()
        self.space = space
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.LayerNorm(hidden), nn.Linear(hidden, len(space)))

    def forward(self, x):
        return self.layers(x)


def train_teacher(x, y):
    upright, turned = UPRIGHT.positions_in(ALL)[y], torch.tensor([ALL.index[f"{i}-turned"] for i in y.tolist()])
    x, y = torch.cat([x, x.flip(1, 2)]), torch.cat([upright, turned])
    net = Net(ALL, 200)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(10):
        for b in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(net(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval().requires_grad_(False)


class Restricted(nn.Module):
    """A teacher seen through the student's label space."""

    def __init__(self, net, space):
        super().__init__()
        self.net = net
        self.register_buffer("pick", space.positions_in(net.space))

    def forward(self, x):
        return self.net(x).index_select(1, self.pick)


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--gamma", type=float, default=0.6)
    cli = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cli.seed)
    d = load_digits()
    x, y = torch.tensor(d.images / 16, dtype=torch.float32), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(66))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200, generator=torch.Generator().manual_seed(cli.seed))[:320]]

    teacher = Restricted(train_teacher(x[train], y[train]), UPRIGHT).eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean():.2f}")

    student = Net(UPRIGHT, 12)
    opt = torch.optim.Adamax(student.parameters(), lr=1e-2)
    sched = torch.optim.lr_scheduler.PolynomialLR(opt, total_iters=25)
    T = 2.0
    for _ in range(25):
        student.train()
        for b in few[torch.randperm(len(few))].split(32):
            with torch.no_grad():
                soft = F.softmax(teacher(x[b]) / T, dim=-1)
            logits = student(x[b])
            kd = F.kl_div(F.log_softmax(logits / T, dim=-1), soft, reduction="batchmean") * T**2
            loss = (1 - cli.gamma) * F.cross_entropy(logits, y[b]) + cli.gamma * kd
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()

    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
