"""Deep mutual learning (Zhang et al. 2018): three peers, no fixed teacher; each follows the mean of the others."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Peer(nn.Module):
    def __init__(self, kind):
        super().__init__()
        if kind == "mlp":
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        elif kind == "cnn":
            self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
        else:
            self.net = nn.Sequential(nn.Conv2d(1, 12, 4, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def forward(self, x):
        return self.net(x)


def follow(own, others):
    """KL to the mean opinion of the others, at temperature 1; the others are not moved by it."""
    target = torch.stack([F.softmax(o.detach(), dim=1) for o in others]).mean(0)
    return F.kl_div(F.log_softmax(own, dim=1), target, reduction="batchmean")


def one_round(peers, loader, weight):
    for x, y in loader:
        outs = [p(x) for p in peers]
        for k, peer in enumerate(peers):
            others = outs[:k] + outs[k + 1:]
            loss = F.cross_entropy(outs[k], y) + weight * follow(outs[k], others)
            peer.opt.zero_grad()
            loss.backward()
            peer.opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(digits.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(300))
    train, test = p[:600], p[600:]
    loader = DataLoader(TensorDataset(x[train], y[train]), batch_size=30, shuffle=True)
    peers = [Peer(k) for k in ("mlp", "cnn", "patch")]
    rounds = 20
    for r in range(rounds):
        for peer in peers:
            peer.train()
            for g in peer.opt.param_groups:
                g["lr"] = 0.05 * (1 - r / rounds)
        one_round(peers, loader, weight=min(1.0, r / 5))
    scores = []
    for peer in peers:
        peer.eval()
        with torch.no_grad():
            scores.append(100 * (peer(x[test]).argmax(1) == y[test]).float().mean().item())
    print("peers", scores)
    print(f"top1 {scores[0]:.2f}")


if __name__ == "__main__":
    main()
