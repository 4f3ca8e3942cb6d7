import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, units, drop):
        super().__init__()
        self.fc1 = nn.Linear(64, units)
        self.fc2 = nn.Linear(units, units)
        self.fc3 = nn.Linear(units, 10)
        self.drop = drop

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.dropout(x, self.drop, training=self.training)
        x = F.relu(self.fc2(x))
        x = F.dropout(x, self.drop, training=self.training)
        return self.fc3(x)


def batches(x, y, size, seed):
    g = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(x), generator=g).split(size):
            yield x[rows], y[rows]


def fit(net, source, steps, teacher=None, T=2.0, share=0.7):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _, (x, y) in zip(range(steps), source):
        out = net(x)
        loss = F.cross_entropy(out, y)
        if teacher is not None:
            with torch.no_grad():
                p = (teacher(x) / T).softmax(-1)
            q = (out / T).log_softmax(-1)
            loss = (1 - share) * loss + share * T * T * F.kl_div(q, p, reduction="batchmean")
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    return net


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = map(torch.tensor, load_digits(return_X_y=True))
    x = x.float() / 16
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(12))
    train, test = perm[:1200], perm[1200:]
    few = train[:200]
    teacher = fit(Net(160, drop=0.4), batches(x[train], y[train], 64, args.seed), 450)
    student = fit(Net(20, drop=0.1), batches(x[few], y[few], 32, args.seed + 1), 600, teacher)
    for name, net in (("teacher", teacher), ("top1", student)):
        with torch.no_grad():
            hit = net(x[test]).argmax(-1) == y[test]
        print(f"{name} {100 * hit.float().mean().item():.2f}")


if __name__ == "__main__":
    main()
