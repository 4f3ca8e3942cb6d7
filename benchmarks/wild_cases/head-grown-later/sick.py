"""Classes come in three portions; the net as it was before answers for the old ones (LwF, with a small memory)."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

PORTIONS = [(0, 1, 2, 3, 4), (5, 6, 7), (8, 9)]


class GrowingNet(nn.Module):
    def __init__(self, hidden, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 32), nn.ReLU())
        self.fc = nn.Linear(32, classes)

    def forward(self, x):
        return self.fc(self.body(x))

    def grow(self, more):
        old = self.fc
        self.fc = nn.Linear(old.in_features, old.out_features + more)
        with torch.no_grad():
            self.fc.weight[: old.out_features] = old.weight
            self.fc.bias[: old.out_features] = old.bias


class Learner:
    def __init__(self, T=2.0, weight=1.0, lr=0.05, per_class=30):
        self.net, self.before = GrowingNet(64, len(PORTIONS[0])), None
        self.T, self.weight, self.lr, self.per_class = T, weight, lr, per_class
        self.memory = []
        self.optimizer = self.make_optimizer()

    def make_optimizer(self):
        return torch.optim.SGD(self.net.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)

    def loss(self, x, y):
        z = self.net(x)
        loss = F.cross_entropy(z, y)
        if self.before is not None:
            with torch.no_grad():
                t = self.before(x)
            n = t.shape[1]
            kd = F.kl_div(F.log_softmax(z[:, :n] / self.T, 1), F.softmax(t / self.T, 1), reduction="batchmean")
            loss = loss + self.weight * self.T**2 * kd
        return loss

    def portion(self, number, x, y, epochs=12):
        if number > 0:
            self.before = copy.deepcopy(self.net).eval().requires_grad_(False)
            self.net.grow(len(PORTIONS[number]))
        kept_x, kept_y = [m[0] for m in self.memory], [m[1] for m in self.memory]
        pool_x, pool_y = torch.cat([x, *kept_x]), torch.cat([y, *kept_y])
        self.net.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(pool_x)).split(32):
                self.optimizer.zero_grad()
                loss = self.loss(pool_x[rows], pool_y[rows])
                loss.backward()
                self.optimizer.step()
        print(f"portion {number}: last loss {loss.item():.3f}")
        for c in PORTIONS[number]:
            mine = y == c
            self.memory.append((x[mine][: self.per_class], y[mine][: self.per_class]))


@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(15))
    train, test = order[:1200], order[1200:]
    learner = Learner()
    for number, classes in enumerate(PORTIONS):
        rows = train[torch.isin(y[train], torch.tensor(classes))]
        learner.portion(number, x[rows], y[rows])
        seen = test[y[test] <= classes[-1]]
        print(f"classes up to {classes[-1]}: {accuracy(learner.net, x[seen], y[seen]):.2f} (teacher of the next portion)")
    print(f"top1 {accuracy(learner.net, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
