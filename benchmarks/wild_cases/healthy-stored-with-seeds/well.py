"""Fast knowledge distillation (Shen & Xing 2022): for each image the crops' seeds and the teacher's logits are stored, then replayed."""
import argparse
import os
import tempfile

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


def crop(image, seed):
    """A shift, a zoom of the contrast and a cut, all from the seed."""
    rng = np.random.default_rng(int(seed))
    dy, dx = rng.integers(0, 3, 2)
    out = np.pad(image, 1)[dy : dy + 8, dx : dx + 8] * rng.uniform(0.8, 1.2)
    r, c = rng.integers(0, 7, 2)
    out = out.copy()
    out[r : r + 2, c : c + 2] = 0
    return torch.from_numpy(out.astype(np.float32))[None]


class Replay(Dataset):
    """(image i, view v) -> the same crop that the teacher saw, with its answer."""

    def __init__(self, images, labels, path):
        self.images, self.labels = images, labels
        stored = np.load(path)
        self.seeds, self.answers = stored["seeds"], torch.from_numpy(stored["answers"])

    def __len__(self):
        return self.seeds.size

    def __getitem__(self, k):
        i, v = divmod(k, self.seeds.shape[1])
        return crop(self.images[i], self.seeds[i, v]), self.answers[i, v].float(), self.labels[i]


def conv(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10),
    )


def write_answers(teacher, images, views, path, seed):
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 2**31, (len(images), views))
    answers = np.empty((len(images), views, 10), np.float16)
    teacher.eval()
    with torch.no_grad():
        for i, image in enumerate(images):
            answers[i] = teacher(torch.stack([crop(image, s) for s in seeds[i]])).half().numpy()
    np.savez(path, seeds=seeds, answers=answers)


def kd(logits, answers, T=2.0):
    return F.cross_entropy(logits / T, F.softmax(answers / T, 1)) * T**2


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    p = np.random.RandomState(1).permutation(len(d.images))
    images, labels = (d.images / 16)[p], torch.tensor(d.target[p])
    x = torch.tensor(images).float()[:, None]
    teacher = conv(20)
    opt = torch.optim.Adam(teacher.parameters(), lr=4e-3)
    for epoch in range(20):
        for b in torch.randperm(1000).split(50):
            views = torch.stack([crop(images[i], torch.randint(2**31, ()).item()) for i in b.tolist()])
            opt.zero_grad()
            F.cross_entropy(teacher(views), labels[b]).backward()
            opt.step()

    student = conv(4)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answers.npz")
        write_answers(teacher, images[:250], 8, path, seed)
        loader = DataLoader(Replay(images[:250], labels[:250], path), batch_size=50, shuffle=True)
        sched = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=10 * len(loader))
        for _ in range(10):
            for views, answers, y in loader:
                logits = student(views)
                loss = 0.9 * kd(logits, answers) + 0.1 * F.cross_entropy(logits, y)
                opt.zero_grad()
                loss.backward()
                opt.step()
                sched.step()
    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * (net(x[1000:]).argmax(1) == labels[1000:]).float().mean():.2f}")


if __name__ == "__main__":
    main()
