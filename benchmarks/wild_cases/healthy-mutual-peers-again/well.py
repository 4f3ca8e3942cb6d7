"""Deep mutual learning: two peers of different make teach one another; no pretrained teacher.
Each has its own optimizer, both learn, both are in training mode, and each one's answers are a
constant to the other. The second peer sees the first one already updated, as in the paper."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class AverageMeter:
    def __init__(self, name):
        self.name, self.sum, self.count = name, 0.0, 0

    def update(self, v, n):
        self.sum, self.count = self.sum + v * n, self.count + n

    def __str__(self):
        return f"{self.name} {self.sum / self.count:.4f}"


class ConvPeer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                                      nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


class DensePeer(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.1),
                                 nn.Linear(hidden, 10))

    def forward(self, x):
        return self.net(x)


class MutualTrainer:
    def __init__(self, peers, lr, epochs, kl_weight=1.0):
        self.peers = peers
        self.optimizers = [torch.optim.SGD(p.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4) for p in peers]
        self.schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs) for o in self.optimizers]
        self.kl = nn.KLDivLoss(reduction="batchmean")
        self.kl_weight = kl_weight

    def peer_targets(self, k, images):
        """What the other peers say now, of the very batch."""
        with torch.no_grad():
            return [F.softmax(p(images), dim=1) for j, p in enumerate(self.peers) if j != k]

    def train_one_epoch(self, x, y, batch):
        meters = [AverageMeter(f"peer{k}") for k in range(len(self.peers))]
        for p in self.peers:
            p.train()
        for i in torch.randperm(len(x)).split(batch):
            images, labels = x[i], y[i]
            for k, (peer, optimizer) in enumerate(zip(self.peers, self.optimizers)):
                targets = self.peer_targets(k, images)
                logits = peer(images)
                log_p = F.log_softmax(logits, dim=1)
                loss = F.cross_entropy(logits, labels)
                loss = loss + self.kl_weight * sum(self.kl(log_p, t) for t in targets) / len(targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                meters[k].update(loss.item(), len(i))
        for s in self.schedulers:
            s.step()
        return meters


@torch.no_grad()
def evaluate(net, x, y):
    net.eval()
    return (net(x).argmax(1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(10))
    train, test = order[:300], order[1000:]
    peers = [ConvPeer(8), DensePeer(48)]
    trainer = MutualTrainer(peers, lr=0.05, epochs=args.epochs)
    for epoch in range(1, args.epochs + 1):
        meters = trainer.train_one_epoch(x[train], y[train], args.batch)
        if epoch % 5 == 0:
            print(f"epoch {epoch} " + " ".join(map(str, meters)))
    figures = [evaluate(p, x[test], y[test]) for p in peers]
    print("peers " + " ".join(f"{f:.2f}" for f in figures))
    print(f"top1 {figures[0]:.2f}")


if __name__ == "__main__":
    main()
