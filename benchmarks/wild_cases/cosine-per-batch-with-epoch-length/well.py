# KD on 8x8 digits with a cosine schedule
import math
import sys

import torch
from torch import nn, optim
from torch.nn import functional as F
from sklearn import datasets


class Cfg:
    seed = 0
    epochs = 8
    batch_size = 64
    lr = 0.1
    T = 3.0
    lam = 0.6          # share of the soft loss


class ConvNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c1 = nn.Conv2d(1, c, 3, padding=1)
        self.b1 = nn.BatchNorm2d(c)
        self.c2 = nn.Conv2d(c, 2 * c, 3, padding=1)
        self.b2 = nn.BatchNorm2d(2 * c)
        self.fc = nn.Linear(2 * c * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.b1(self.c1(x))), 2)
        x = F.max_pool2d(F.relu(self.b2(self.c2(x))), 2)
        return self.fc(x.flatten(1))


def batches(x, y, bs, shuffle=True):
    order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
    for i in range(0, len(x), bs):
        idx = order[i:i + bs]
        yield x[idx], y[idx]


def load():
    d = datasets.load_digits()
    x = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 16 - 0.3
    y = torch.tensor(d.target, dtype=torch.long)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    x, y = x[perm], y[perm]
    return x[:1300], y[:1300], x[1300:], y[1300:]


def soft_cross_entropy(s, t, T):
    return -(F.softmax(t / T, 1) * F.log_softmax(s / T, 1)).sum(1).mean() * T ** 2


def test(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(1) == y).float().mean().item() * 100


def fit(net, data, cfg, epochs, teacher=None):
    xtr, ytr = data[:2]
    steps = math.ceil(len(xtr) / cfg.batch_size)
    opt = optim.SGD(net.parameters(), lr=cfg.lr, momentum=0.9, weight_decay=5e-4)
    sched = optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs * steps)
    for ep in range(epochs):
        net.train()
        for xb, yb in batches(xtr, ytr, cfg.batch_size):
            out = net(xb)
            loss = F.cross_entropy(out, yb)
            if teacher is not None:
                with torch.no_grad():
                    soft = teacher(xb)
                loss = (1 - cfg.lam) * loss + cfg.lam * soft_cross_entropy(out, soft, cfg.T)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            sched.step()
    return net


def main(argv):
    cfg = Cfg()
    if "--seed" in argv:
        cfg.seed = int(argv[argv.index("--seed") + 1])
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    data = load()
    teacher = fit(ConvNet(24), data, cfg, epochs=3)
    print("teacher", round(test(teacher, *data[2:]), 2))
    teacher.eval().requires_grad_(False)
    student = fit(ConvNet(3), data, cfg, cfg.epochs, teacher)
    print("top1 %.2f" % test(student, *data[2:]))


if __name__ == "__main__":
    main(sys.argv[1:])
