"""One network, two roles: with its adapters switched off it is the teacher, with them on the student (dropout .3)."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class AdaptedLinear(nn.Module):
    def __init__(self, n_in, n_out, rank):
        super().__init__()
        self.base = nn.Linear(n_in, n_out)
        self.a = nn.Parameter(torch.randn(rank, n_in) * 0.1)
        self.b = nn.Parameter(torch.zeros(n_out, rank))
        self.active = False

    def forward(self, x):
        y = self.base(x)
        return y + x @ self.a.T @ self.b.T if self.active else y


class Net(nn.Module):
    def __init__(self, rank=8):
        super().__init__()
        self.l1, self.l2, self.l3 = AdaptedLinear(64, 80, rank), AdaptedLinear(80, 80, rank), AdaptedLinear(80, 10, rank)
        self.drop = nn.Dropout(0.3)

    def adapters(self, on):
        for layer in (self.l1, self.l2, self.l3):
            layer.active = on

    def forward(self, x):
        x = self.drop(F.relu(self.l1(x)))
        return self.l3(self.drop(F.relu(self.l2(x))))


class AdapterTrainer:
    def __init__(self, net, lr=1e-2, anchor=1.0):
        self.net, self.anchor = net, anchor
        for name, p in net.named_parameters():
            p.requires_grad_(name.endswith(".a") or name.endswith(".b"))
        self.optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr)

    def teacher_logits(self, x):
        self.net.adapters(False)
        self.net.eval()
        with torch.no_grad():
            logits = self.net(x)
        self.net.adapters(True)
        self.net.train()
        return logits

    def compute_loss(self, plain, turned, y):
        wanted = self.teacher_logits(plain)
        kept = self.net(plain)
        new = self.net(turned)
        keep = F.kl_div(F.log_softmax(kept, 1), F.softmax(wanted, 1), reduction="batchmean")
        return F.cross_entropy(new, y) + self.anchor * keep

    def train(self, plain, turned, y, epochs):
        for _ in range(epochs):
            self.net.train()
            for rows in torch.randperm(len(y)).split(20):
                loss = self.compute_loss(plain[rows], turned[rows], y[rows])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(909))
    x, y = x[p], y[p]
    turned = x.view(-1, 8, 8).transpose(1, 2).reshape(-1, 64)
    net = Net()
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(12):
        for rows in torch.randperm(1000).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
    few = torch.randperm(1000)[:120]
    AdapterTrainer(net).train(x[few], turned[few], y[few], epochs=40)
    net.eval()
    with torch.no_grad():
        both = [(net(v[1000:]).argmax(1) == y[1000:]).float().mean().item() for v in (x, turned)]
    print(f"plain {100 * both[0]:.2f} turned {100 * both[1]:.2f}")
    print(f"top1 {50 * sum(both):.2f}")


if __name__ == "__main__":
    main()
