"""An engine with clipping over everything that it holds."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Pair(nn.Module):
    def __init__(self, teacher, student):
        super().__init__()
        self.teacher = teacher.eval()
        self.student = student

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x):
        return self.student(x), self.teacher(x)


class Engine:
    clip = 1.0

    def __init__(self, pair, lr, temperature=3.0, mix=0.5):
        self.pair, self.temperature, self.mix = pair, temperature, mix
        self.optimizer = torch.optim.SGD(pair.student.parameters(), lr=lr, momentum=0.9)

    def loss(self, student, teacher, y):
        T = self.temperature
        soft = F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher / T, -1), reduction="batchmean") * T * T
        return self.mix * soft + (1 - self.mix) * F.cross_entropy(student, y)

    def step(self, x, y):
        self.optimizer.zero_grad()
        student, teacher = self.pair(x)
        loss = self.loss(student, teacher, y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.pair.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()


def stack(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 10))


def main(seed=0):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().div(16), torch.tensor(y)
    idx = torch.randperm(len(x), generator=torch.Generator().manual_seed(62))
    train, test = idx[:1200], idx[1200:]
    few = train[torch.randperm(1200)[:200]]

    teacher = stack(128)
    opt = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    for _ in range(14):
        for b in train[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    opt.zero_grad()

    engine = Engine(Pair(teacher, stack(12)), lr=0.05)
    for _ in range(70):
        engine.pair.train()
        for b in few[torch.randperm(200)].split(20):
            engine.step(x[b], y[b])

    engine.pair.eval()
    with torch.no_grad():
        s, t = engine.pair(x[test])
    print(f"teacher {100 * (t.argmax(1) == y[test]).float().mean().item():.2f}")
    print(f"top1 {100 * (s.argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
