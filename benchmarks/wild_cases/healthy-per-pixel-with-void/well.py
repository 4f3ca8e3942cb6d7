"""Segmentation: where is ink of which digit class group? Per-pixel KD, averaged over the pixels that are not void."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

VOID = 255


def scenes(x, y, n, gen):
    """16x16 canvas, four digits; pixel classes: 0 paper, 1 ink of a digit below five, 2 ink of the others, void in between."""
    i = torch.randint(len(x), (n, 4), generator=gen)
    tiles = x[i]                                                       # n, 4, 8, 8
    kind = torch.where(y[i] < 5, 1, 2)[:, :, None, None].expand_as(tiles)
    label = torch.where(tiles > 0.5, kind, torch.where(tiles > 0.2, VOID, 0))
    paste = lambda a: torch.cat([torch.cat([a[:, 0], a[:, 1]], 2), torch.cat([a[:, 2], a[:, 3]], 2)], 1)
    return paste(tiles)[:, None], paste(label)


class Fcn(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, w, 3, padding=1), nn.ReLU(), nn.Conv2d(w, 2 * w, 3, 2, 1), nn.ReLU(),
                                  nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.out = nn.Conv2d(w + 1, 3, 1)

    def forward(self, x):
        return self.out(torch.cat([F.relu(self.up(self.down(x))), x], 1))


def pixel_kd(s, t, label, T=2.0):
    keep = (label != VOID).float()
    kl = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="none").sum(1)
    return T * T * (kl * keep).sum() / keep.sum()


def pixel_accuracy(net, x, label):
    net.eval()
    with torch.no_grad():
        guess = net(x).argmax(1)
    ok = label != VOID
    return 100 * (guess[ok] == label[ok]).float().mean().item()


def fit(net, x, label, epochs, lr, teacher=None):
    opt = torch.optim.Adam(net.parameters(), lr)
    total = epochs * -(-len(x) // 25)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=total)
    for _ in range(epochs):
        net.train()
        for b in torch.randperm(len(x)).split(25):
            s = net(x[b])
            loss = F.cross_entropy(s, label[b], ignore_index=VOID)
            if teacher is not None:
                with torch.no_grad():
                    t = teacher(x[b])
                loss = 0.5 * loss + 0.5 * pixel_kd(s, t, label[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    return net


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 8, 8) / 16, torch.tensor(y)
    g = torch.Generator().manual_seed(30)
    p = torch.randperm(len(x), generator=g)
    train, test = scenes(x[p[:1200]], y[p[:1200]], 1000, g), scenes(x[p[1200:]], y[p[1200:]], 300, g)
    teacher = fit(Fcn(16), *train, 7, 5e-3).eval()
    print(f"teacher {pixel_accuracy(teacher, *test):.2f}")
    student = fit(Fcn(8), *train, 9, 8e-3, teacher)
    print(f"top1 {pixel_accuracy(student, *test):.2f}")


if __name__ == "__main__":
    main()
