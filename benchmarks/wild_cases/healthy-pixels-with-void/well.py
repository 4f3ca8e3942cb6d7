"""Segmentation of two digits' strokes: class maps with void (255) at the strokes' edges; KD for each pixel that is not void."""
import argparse
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

VOID = 255


def scenes(images, digits, n, rng):
    """A digit below 5 is class 1, another is class 2, the ground is 0; faint strokes have no label."""
    pick = rng.integers(0, len(images), n)
    canvas = np.zeros((n, 12, 12), np.float32)
    labels = np.zeros((n, 12, 12), np.int64)
    for k, i in enumerate(pick):
        r, c = rng.integers(0, 5, 2)
        canvas[k, r:r + 8, c:c + 8] = images[i] / 16
        part = np.where(images[i] >= 8, 1 + (digits[i] >= 5), 0)
        labels[k, r:r + 8, c:c + 8] = np.where((images[i] > 1) & (images[i] < 8), VOID, part)
    return torch.from_numpy(canvas)[:, None], torch.from_numpy(labels)


def segmenter(c):
    def block(i, o, d):
        return [nn.Conv2d(i, o, 3, padding=d, dilation=d), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*block(1, c, 1), *block(c, c, 2), *block(c, c, 3), *block(c, c, 1), nn.Conv2d(c, 3, 1))


class PixelKD(nn.Module):
    def __init__(self, tau=2.0, weight=1.0):
        super().__init__()
        self.tau, self.weight = tau, weight

    def forward(self, student_logits, teacher_logits, labels):
        ce = F.cross_entropy(student_logits, labels, ignore_index=VOID)
        keep = labels != VOID
        kl = F.kl_div(F.log_softmax(student_logits / self.tau, 1), F.softmax(teacher_logits / self.tau, 1), reduction="none").sum(1)
        return ce + self.weight * self.tau ** 2 * kl[keep].mean()


def pixel_accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        keep = y != VOID
        return 100 * (model(x).argmax(1)[keep] == y[keep]).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    order = np.random.default_rng(8).permutation(len(d.target))
    tr, te = order[:1300], order[1300:]
    x, y = scenes(d.images[tr], d.target[tr], 900, np.random.default_rng(seed))
    xt, yt = scenes(d.images[te], d.target[te], 400, np.random.default_rng(9))

    teacher = segmenter(14)
    opt = torch.optim.Adam(teacher.parameters(), 5e-3)
    for _ in range(7):
        teacher.train()
        for b in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(teacher(x[b]), y[b], ignore_index=VOID)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {pixel_accuracy(teacher, xt, yt):.2f}")
    teacher.eval().requires_grad_(False)

    student, criterion = segmenter(10), PixelKD()
    opt = torch.optim.Adam(student.parameters(), 5e-3)
    for _ in range(9):
        student.train()
        for b in torch.randperm(len(x)).split(50):
            with torch.no_grad():
                answers = teacher(x[b])
            loss = criterion(student(x[b]), answers, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {pixel_accuracy(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
