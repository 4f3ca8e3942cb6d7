"""Deep mutual learning: two peers, each the other's teacher, both trained, one optimizer for both."""
import argparse
import itertools

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div


class Peer(nn.Module):
    def __init__(self, width, drop):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, 7)
        )

    def forward(self, x):
        return self.layers(x)


def towards(mine, other):
    """Pulls `mine` to where `other` is now; the other is pulled by its own term."""
    return kl_div(mine.log_softmax(1), other.detach().softmax(1), reduction="batchmean")


def flock(n, seed):
    g = torch.Generator().manual_seed(88)
    nest = torch.randn(7, 3, 16, generator=g)
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(7, (n,), generator=g)
    return nest[y, torch.randint(3, (n,), generator=g)] + 0.9 * torch.randn(n, 16, generator=g), y


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--pull", type=float, default=1.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = flock(500, a.seed)
    xt, yt = flock(1500, a.seed + 100)
    big, small = Peer(64, 0.2), Peer(20, 0.0)
    opt = torch.optim.Adam(itertools.chain(big.parameters(), small.parameters()), lr=4e-3, weight_decay=1e-4)

    def epochs(n, pull):
        big.train(), small.train()
        for _ in range(n):
            for r in torch.randperm(500).split(50):
                zb, zs = big(x[r]), small(x[r])
                loss = cross_entropy(zb, y[r]) + cross_entropy(zs, y[r])
                if pull:
                    loss = loss + pull * (towards(zb, zs) + towards(zs, zb))
                opt.zero_grad()
                loss.backward()
                opt.step()

    epochs(5, 0.0)  # each finds its feet alone
    epochs(25, a.pull)
    big.eval(), small.eval()
    with torch.no_grad():
        print(f"peer {100 * (big(xt).argmax(1) == yt).float().mean().item():.2f}")
        print(f"top1 {100 * (small(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
