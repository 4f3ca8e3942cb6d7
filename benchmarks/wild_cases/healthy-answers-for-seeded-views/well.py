"""Stored answers with augmentation: each image has four views, drawn by (image, view) seeds, and an answer stored for each.

The student is shown exactly the view that the answer was given to. An iterable dataset with a shuffle buffer carries all three."""
import argparse
import random
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, IterableDataset

VIEWS = 4


def view(image, number, k):
    rng = np.random.default_rng([number, k])
    shifted = np.roll(image, rng.integers(-1, 2), axis=1)
    noisy = shifted + rng.normal(0, 0.08, image.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


class Stream(IterableDataset):
    def __init__(self, images, labels, answers, buffer=400, seed=0):
        self.images, self.labels, self.answers = images, labels, answers
        self.buffer, self.rng, self.epoch = buffer, random.Random(seed), 0

    def samples(self):
        k = self.epoch % VIEWS
        for i in range(len(self.images)):
            yield view(self.images[i], i, k), int(self.labels[i]), self.answers[i, k]

    def __iter__(self):
        held = []
        for sample in self.samples():
            held.append(sample)
            if len(held) >= self.buffer:
                j = self.rng.randrange(len(held))
                held[j], held[-1] = held[-1], held[j]
                yield held.pop()
        self.rng.shuffle(held)
        yield from held
        self.epoch += 1


def stack(rows):
    images, labels, answers = zip(*rows)
    return torch.from_numpy(np.stack(images)).unsqueeze(1), torch.tensor(labels), torch.from_numpy(np.stack(answers)).float()


class Net(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, c, 3, padding=1), nn.Conv2d(c, 2 * c, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(2 * c)
        self.fc = nn.Linear(2 * c * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.c1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.c2(x))), 2)
        return self.fc(x.flatten(1))


def distil(student_logits, stored_logits, labels, T=3.0, a=0.8):
    soft = F.kl_div(F.log_softmax(student_logits / T, -1), F.softmax(stored_logits / T, -1), reduction="none").sum(-1).mean(0)
    return a * T * T * soft + (1 - a) * F.cross_entropy(student_logits, labels)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    order = np.random.default_rng(15).permutation(len(d.target))
    tr, te = order[:1200], order[1200:]
    images, labels = (d.images[tr] / 16).astype(np.float32), d.target[tr]
    xt, yt = torch.tensor(d.images[te] / 16).float().unsqueeze(1), torch.tensor(d.target[te])
    seen = torch.tensor(np.stack([[view(im, i, k) for k in range(VIEWS)] for i, im in enumerate(images)]))

    teacher = Net(20)
    opt = torch.optim.Adam(teacher.parameters(), 3e-3)
    flat, flat_y = seen.view(-1, 1, 8, 8), torch.tensor(labels).repeat_interleave(VIEWS)
    for _ in range(4):
        teacher.train()
        for b in torch.randperm(len(flat)).split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(flat[b]), flat_y[b]).backward()
            opt.step()
    teacher.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}")
        stored = teacher(flat).view(len(images), VIEWS, 10).half().numpy()

    loader = DataLoader(Stream(images, labels, stored, seed=seed), batch_size=48, collate_fn=stack)
    student = Net(6)
    opt = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    for _ in range(16):
        student.train()
        for xb, yb, ab in loader:
            loss = distil(student(xb), ab, yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
