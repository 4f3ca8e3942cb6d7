"""A GRU that reads the digit row by row is distilled from a bidirectional one."""
from argparse import ArgumentParser

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class RowReader(nn.Module):
    def __init__(self, hidden: int, both_ways: bool):
        super().__init__()
        self.rnn = nn.GRU(8, hidden, batch_first=True, bidirectional=both_ways)
        self.out = nn.Linear(8 * hidden * (2 if both_ways else 1), 10)

    def forward(self, rows):
        states, _ = self.rnn(rows)
        return self.out(states.flatten(1))


def soft_loss(small_scores, big_scores, tau=4.0):
    target = (big_scores / tau).softmax(-1)
    logq = small_scores.log_softmax(-1)
    return -(target * logq).sum(-1).mean() * tau**2


class Distiller:
    def __init__(self, big: nn.Module, small: nn.Module, tau: float = 4.0, mix: float = 0.2, lr: float = 1e-2):
        self.big = big.eval().requires_grad_(False)
        self.small = small
        self.tau, self.mix = tau, mix
        self.optim = torch.optim.Adam(small.parameters(), lr=lr)

    def update(self, rows, labels):
        scores = self.small(rows)
        loss = self.mix * F.cross_entropy(scores, labels)
        loss = loss + (1 - self.mix) * soft_loss(scores, self.big(rows), self.tau)
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        return loss.item()

    def fit(self, rows, labels, passes):
        self.small.train()
        for _ in range(passes):
            for pick in torch.randperm(len(rows)).chunk(max(1, len(rows) // 30)):
                noisy = rows[pick] + 0.05 * torch.randn_like(rows[pick])
                self.update(noisy, labels[pick])
        return self.small.eval()


def fit_plain(net, rows, labels, passes):
    optim = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(passes):
        for pick in torch.randperm(len(rows)).split(60):
            optim.zero_grad()
            F.cross_entropy(net(rows[pick]), labels[pick]).backward()
            optim.step()
    return net


@torch.no_grad()
def percent(net, rows, labels):
    return 100 * net(rows).argmax(-1).eq(labels).double().mean().item()


def main():
    parser = ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    data = load_digits()
    rows = torch.tensor(data.images, dtype=torch.float32) / 16
    labels = torch.tensor(data.target)
    mixed = torch.randperm(len(rows), generator=torch.Generator().manual_seed(99))
    train, test = mixed[:1000], mixed[1000:]
    teacher = fit_plain(RowReader(32, True), rows[train], labels[train], 20)
    print(f"teacher {percent(teacher, rows[test], labels[test]):.2f}")
    few = train[torch.randperm(len(train))[:150]]
    student = Distiller(teacher, RowReader(6, False)).fit(rows[few], labels[few], 90)
    print(f"top1 {percent(student, rows[test], labels[test]):.2f}")


if __name__ == "__main__":
    main()
