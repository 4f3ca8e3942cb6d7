"""The teacher was trained elsewhere on standardised pixels; the student takes ink between 0 and 1."""
import argparse
from dataclasses import dataclass, field

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


@dataclass
class Preprocessing:
    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, ink):
        return (ink * 16 - self.mean) / self.std


@dataclass
class Config:
    seed: int = 0
    temperature: float = 4.0
    kd_share: float = 0.9
    epochs: int = 40
    batch: int = 32
    lr: float = 0.1
    sizes: tuple = field(default=(12,))


def perceptron(sizes, norm=False):
    layers, last = [], 64
    for size in sizes:
        layers += [nn.Linear(last, size)] + ([nn.LayerNorm(size)] if norm else []) + [nn.ReLU()]
        last = size
    return nn.Sequential(*layers, nn.Linear(last, 10))


def trained_elsewhere(raw, labels):
    """Returns the net together with what its inputs have to go through."""
    prepare = Preprocessing(raw.mean(0), raw.std(0) + 0.5)
    net = perceptron((128, 128))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    inputs = (raw - prepare.mean) / prepare.std
    for _ in range(15):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False), prepare


def distil(student, teacher, prepare, ink, labels, cfg):
    optimizer = torch.optim.SGD(student.parameters(), lr=cfg.lr, momentum=0.5)
    T = cfg.temperature
    for _ in range(cfg.epochs):
        student.train()
        for rows in torch.randperm(len(ink)).split(cfg.batch):
            x, y = ink[rows], labels[rows]
            answer = teacher(x)
            z = student(x)
            soft = -(F.softmax(answer / T, dim=1) * F.log_softmax(z / T, dim=1)).sum(1).mean()
            loss = cfg.kd_share * T * T * soft + (1 - cfg.kd_share) * F.cross_entropy(z, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return student.eval()


def hit_rate(predict, x, y):
    with torch.no_grad():
        return 100 * (predict(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kd-share", type=float, default=0.9)
    a = parser.parse_args()
    cfg = Config(seed=a.seed, kd_share=a.kd_share)
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    pixels, digits = load_digits(return_X_y=True)
    raw, digits = torch.tensor(pixels, dtype=torch.float32), torch.tensor(digits)
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(905))
    train, test = order[:1100], order[1100:]
    few = train[torch.randperm(1100)[:200]]
    teacher, prepare = trained_elsewhere(raw[train], digits[train])
    print(f"teacher {hit_rate(lambda x: teacher(prepare(x)), raw[test] / 16, digits[test]):.2f}")
    student = distil(perceptron(cfg.sizes), teacher, prepare, raw[few] / 16, digits[few], cfg)
    print(f"top1 {hit_rate(student, raw[test] / 16, digits[test]):.2f}")


if __name__ == "__main__":
    main()
