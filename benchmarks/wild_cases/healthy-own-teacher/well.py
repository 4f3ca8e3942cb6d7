"""Be your own teacher (Zhang et al. 2019): the deepest exit of one net teaches its shallow exits while all are trained."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
import torch.nn.functional as F


class Exits(nn.Module):
    def __init__(self):
        super().__init__()
        self.s1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.s2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.s3 = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
        self.e1 = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
        self.e2 = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
        self.e3 = nn.Sequential(nn.Flatten(), nn.Linear(128, 10))
        self.fit2 = nn.Conv2d(16, 32, 1)

    def forward(self, x):
        a = self.s1(x)
        b = self.s2(a)
        c = self.s3(b)
        hint = F.mse_loss(self.fit2(F.max_pool2d(b, 2)), c.detach()) if self.training else None
        return (self.e1(a), self.e2(b), self.e3(c)), hint


def exit_loss(outs, hint, y, T=3.0, alpha=0.4, lam=0.03):
    *shallow, deep = outs
    soft = (deep.detach() / T).softmax(1)
    loss = F.cross_entropy(deep, y)
    for out in shallow:
        kd = T**2 * F.kl_div((out / T).log_softmax(1), soft, reduction="batchmean")
        loss = loss + (1 - alpha) * F.cross_entropy(out, y) + alpha * kd
    return loss + lam * hint


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float().unsqueeze(1).div(16), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(42))
    train, test = p[:900], p[900:]
    net = Exits()
    decay = [q for q in net.parameters() if q.ndim > 1]
    plain = [q for q in net.parameters() if q.ndim <= 1]
    opt = torch.optim.SGD([{"params": decay, "weight_decay": 1e-3}, {"params": plain}], lr=0.05, momentum=0.9)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 25)
    for _ in range(25):
        net.train()
        for b in train[torch.randperm(900)].split(45):
            opt.zero_grad()
            exit_loss(*net(x[b]), y[b]).backward()
            opt.step()
        sched.step()
    net.eval()
    with torch.no_grad():
        outs, _ = net(x[test])
    scores = [100 * (o.argmax(1) == y[test]).float().mean().item() for o in outs]
    print("deepest %.2f, middle %.2f" % (scores[2], scores[1]))
    print("top1 %.2f" % scores[0])


if __name__ == "__main__":
    main()
