"""Two stages: the teacher's logits are written to teacher_outputs.npy, then the student reads them by row."""
import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class DigitSet(Dataset):
    def __init__(self, images, targets, cache=None):
        self.images, self.targets = images, targets
        self.cache = None if cache is None else np.load(cache)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = torch.from_numpy(self.images[index]).float()
        target = int(self.targets[index])
        if self.cache is None:
            return image, target
        return image, target, torch.from_numpy(self.cache[index])


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes[:-2], sizes[1:-1]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


@torch.no_grad()
def fetch_teacher_outputs(teacher, dataset, path, batch_size=64):
    teacher.eval()
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=False)
    outputs = [teacher(batch[0]).numpy() for batch in loader]
    np.save(path, np.concatenate(outputs))


def fit_teacher(net, dataset, epochs=12):
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for image, target in DataLoader(dataset, batch_size=64, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(net(image), target).backward()
            opt.step()


def train_kd(student, dataset, epochs, alpha, T=3.0, lr=0.05):
    opt = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)
    student.train()
    for _ in range(epochs):
        for image, target, soft in DataLoader(dataset, batch_size=32, shuffle=True):
            out = student(image)
            kd = F.kl_div(F.log_softmax(out / T, 1), F.softmax(soft / T, 1), reduction="batchmean") * T * T
            loss = alpha * kd + (1 - alpha) * F.cross_entropy(out, target)
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    order = np.random.RandomState(12).permutation(len(x))
    x, y = x[order], y[order]
    teacher, student = mlp(64, 256, 256, 10), mlp(64, 12, 10)
    fit_teacher(teacher, DigitSet(x[:1100], y[:1100]))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "teacher_outputs.npy")
        fetch_teacher_outputs(teacher, DigitSet(x[:220], y[:220]), path)
        train_kd(student, DigitSet(x[:220], y[:220], path), epochs=25, alpha=args.alpha)
    xt, yt = torch.from_numpy(x[1100:]), torch.from_numpy(y[1100:])
    with torch.no_grad():
        print(f"teacher {100 * (teacher(xt).argmax(1) == yt).float().mean().item():.2f}")
        print(f"top1 {100 * (student.eval()(xt).argmax(1) == yt).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
