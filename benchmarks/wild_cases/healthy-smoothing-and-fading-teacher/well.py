import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


@dataclass
class Hyper:
    epochs: int = 40
    batch: int = 25
    peak: float = 1e-2
    tau: float = 3.0
    start: float = 0.8
    smoothing: float = 0.05


class Run:
    def __init__(self, teacher, student, x, y, hp):
        self.teacher, self.student, self.x, self.y, self.hp = teacher, student, x, y, hp
        self.per_epoch = -(-len(x) // hp.batch)
        self.opt = torch.optim.Adam(student.parameters(), lr=hp.peak)
        self.sched = torch.optim.lr_scheduler.OneCycleLR(
            self.opt, max_lr=hp.peak, epochs=hp.epochs, steps_per_epoch=self.per_epoch
        )

    def share(self, epoch):
        """The teacher is listened to less and less, in the last quarter no more."""
        return self.hp.start * max(0.0, 1 - epoch / (0.75 * self.hp.epochs))

    def loss(self, s, t, y, share):
        hard = F.cross_entropy(s, y, label_smoothing=self.hp.smoothing)
        T = self.hp.tau
        soft = T * T * F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean")
        return share * soft + (1 - share) * hard

    def fit(self):
        self.teacher.eval()
        for epoch in range(self.hp.epochs):
            self.student.train()
            for rows in torch.randperm(len(self.x)).split(self.hp.batch):
                with torch.no_grad():
                    t = self.teacher(self.x[rows])
                loss = self.loss(self.student(self.x[rows]), t, self.y[rows], self.share(epoch))
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
                self.sched.step()
        return self.student.eval()


def net(*widths):
    out, size = [], 64
    for w in widths:
        out += [nn.Linear(size, w), nn.PReLU()]
        size = w
    return nn.Sequential(*out, nn.Linear(size, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(504))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:250]]
    teacher = net(128, 128)
    opt = torch.optim.Adam(teacher.parameters(), lr=1.5e-3)
    for _ in range(12):
        for b in train[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    student = Run(teacher, net(14), x[few], y[few], Hyper()).fit()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
