"""Mixup while distilling."""
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import BatchNorm1d, Dropout, Linear, ReLU, Sequential


def mixup(x, y, beta):
    lam = torch.distributions.Beta(beta, beta).sample().item()
    partner = torch.randperm(len(x))
    return lam * x + (1 - lam) * x[partner], y, y[partner], lam


def mixed_cross_entropy(logits, y_a, y_b, lam):
    return lam * F.cross_entropy(logits, y_a) + (1 - lam) * F.cross_entropy(logits, y_b)


def soft_loss(student_logits, teacher_logits, temp):
    p = F.softmax(teacher_logits / temp, dim=1)
    log_q = F.log_softmax(student_logits / temp, dim=1)
    return temp**2 * F.kl_div(log_q, p, reduction="batchmean")


class MixupDistiller:
    def __init__(self, teacher, student, *, temp=3.0, gamma=0.8, beta=1.0, lr=4e-3):
        self.teacher = teacher.eval()
        self.student = student
        self.temp, self.gamma, self.beta = temp, gamma, beta
        self.opt = torch.optim.Adam(student.parameters(), lr=lr)

    def step(self, x, y):
        self.student.train()
        mixed, y_a, y_b, lam = mixup(x, y, self.beta)
        with torch.no_grad():
            t = self.teacher(x)
        s = self.student(mixed)
        loss = self.gamma * soft_loss(s, t, self.temp) + (1 - self.gamma) * mixed_cross_entropy(s, y_a, y_b, lam)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()


def mlp(hidden, drop):
    return Sequential(
        Linear(64, hidden), BatchNorm1d(hidden), ReLU(), Dropout(drop),
        Linear(hidden, hidden), BatchNorm1d(hidden), ReLU(), Linear(hidden, 10),
    )


def pretrain(net, x, y, epochs=15):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(50):
            mixed, y_a, y_b, lam = mixup(x[b], y[b], 0.4)
            opt.zero_grad()
            mixed_cross_entropy(net(mixed), y_a, y_b, lam).backward()
            opt.step()
    return net


def test(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    parser = ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    split = train_test_split((x - 4.88) / 6.02, y, test_size=600, random_state=0, stratify=y)
    x_train, x_test = (torch.tensor(s, dtype=torch.float32) for s in split[:2])
    y_train, y_test = (torch.tensor(s) for s in split[2:])
    teacher = pretrain(mlp(200, 0.2), x_train, y_train)
    print(f"teacher {test(teacher, x_test, y_test):.2f}")
    few = torch.randperm(len(x_train))[:300]
    distiller = MixupDistiller(teacher, mlp(12, 0.0))
    for _ in range(50):
        for b in torch.randperm(len(few)).split(50):
            distiller.step(x_train[few[b]], y_train[few[b]])
    print(f"top1 {test(distiller.student, x_test, y_test):.2f}")


if __name__ == "__main__":
    main()
