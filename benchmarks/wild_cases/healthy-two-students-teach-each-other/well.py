"""Deep mutual learning: no teacher, two students, each with its own optimizer."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def kl(student_logits, peer_logits):
    return F.kl_div(F.log_softmax(student_logits, 1), F.softmax(peer_logits.detach(), 1), reduction="batchmean")


class Mutual:
    def __init__(self, nets, lr):
        self.nets = nets
        self.optimizers = [torch.optim.SGD(n.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4) for n in nets]

    def train(self, x, y, epochs, batch):
        for net in self.nets:
            net.train()
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(batch):
                outs = [net(x[b]) for net in self.nets]
                for i, opt in enumerate(self.optimizers):
                    loss = F.cross_entropy(outs[i], y[b]) + kl(outs[i], outs[1 - i])
                    opt.zero_grad()
                    loss.backward()
                    opt.step()


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    tr, te = p[:900], p[900:]
    cnn = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10)
    )
    mlp = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    Mutual([cnn, mlp], lr=0.03).train(x[tr], y[tr], epochs=16, batch=45)
    print(f"peer {top1(mlp, x[te], y[te]):.2f}")
    print(f"top1 {top1(cnn, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
