"""Mean teacher: few labels, many images without; the teacher is the running average of the student."""
import argparse
import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )


@torch.no_grad()
def momentum_update(online, momentum, tau):
    for po, pm in zip(online.parameters(), momentum.parameters()):
        pm.mul_(tau).add_(po, alpha=1 - tau)


def view(images):
    """A step of at most one pixel aside, and some noise."""
    dx, dy = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(images, (dy, dx), (2, 3)) + 0.5 * torch.randn_like(images)


def consistency(student_logits, teacher_logits):
    return F.mse_loss(F.softmax(student_logits, dim=1), F.softmax(teacher_logits, dim=1))


def ramp(step, length):
    return math.exp(-5 * (1 - min(step / length, 1.0)) ** 2)


@torch.no_grad()
def test_accuracy(net, images, labels):
    was = net.training
    net.eval()
    acc = (net(images).argmax(1) == labels).float().mean().item()
    net.train(was)
    return 100 * acc


def train(args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 4
    labels = torch.tensor(raw.target)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(301))
    pool, held = shuffled[:1200], shuffled[1200:]
    tagged = pool[:100]

    student = conv_net()
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)

    step = 0
    for epoch in range(args.epochs):
        student.train()
        for batch in pool[torch.randperm(len(pool))].split(60):
            known = tagged[torch.randint(len(tagged), (30,))]
            loss = F.cross_entropy(student(view(images[known])), labels[known])
            shown = images[batch]
            with torch.no_grad():
                wanted = teacher(view(shown))
            loss = loss + args.weight * ramp(step, 150) * consistency(student(view(shown)), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            momentum_update(student, teacher, min(0.98, 1 - 1 / (step + 1)))
    print(f"teacher {test_accuracy(teacher, images[held], labels[held]):.2f}")
    print(f"top1 {test_accuracy(student, images[held], labels[held]):.2f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=18)
    ap.add_argument("--weight", type=float, default=20.0)
    train(ap.parse_args())
