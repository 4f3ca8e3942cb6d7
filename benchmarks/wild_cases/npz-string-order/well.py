# Step 1 writes the teacher's logits into an .npz, an array per image; step 2 trains the student from the file.
import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class WithLogits(Dataset):
    def __init__(self, images, labels, path=None):
        self.images, self.labels = images, labels
        self.logits = read_logits(path) if path else None
        if self.logits is not None:
            assert len(self.logits) == len(self.images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        item = {"image": self.images[i], "label": self.labels[i]}
        if self.logits is not None:
            item["soft"] = self.logits[i]
        return item


def read_logits(path):
    with np.load(path) as store:
        names = sorted(store.files, key=int)
        return torch.from_numpy(np.stack([store[n] for n in names]))


def write_logits(teacher, images, path):
    teacher.eval()
    store = {}
    with torch.inference_mode():
        for i, logits in enumerate(teacher(images)):
            store[str(i)] = logits.numpy()
    np.savez_compressed(path, **store)


def cnn(width, drop):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.SiLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Dropout(drop), nn.Linear(8 * width, 10),
    )


def kd_term(student, soft, T=4.0):
    p = F.softmax(soft / T, dim=-1)
    return T * T * (p * (p.clamp_min(1e-12).log() - F.log_softmax(student / T, dim=-1))).sum(-1).mean()


def loop(net, dataset, epochs, lr, beta=0.0, batch_size=40):
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.RAdam(net.parameters(), lr=lr)
    for _ in range(epochs):
        net.train()
        for item in loader:
            out = net(item["image"])
            loss = F.cross_entropy(out, item["label"])
            if beta:
                loss = (1 - beta) * loss + beta * kd_term(out, item["soft"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(net, images, labels):
    net.eval()
    with torch.inference_mode():
        return 100 * (net(images).argmax(-1) == labels).float().mean().item()


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--beta", type=float, default=0.6)
    opts = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opts.seed)
    raw = load_digits()
    images = torch.tensor(raw.images / 8 - 1, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(raw.target)
    mix = torch.randperm(len(images), generator=torch.Generator().manual_seed(31))
    train, test = mix[:1100], mix[1100:]
    few = train[torch.randperm(1100)[:220]]

    teacher = cnn(16, 0.3)
    loop(teacher, WithLogits(images[train], labels[train]), 6, 4e-3)
    print(f"teacher {accuracy(teacher, images[test], labels[test]):.2f}")

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "soft.npz")
        write_logits(teacher, images[few], path)
        dataset = WithLogits(images[few], labels[few], path)
    student = cnn(3, 0.0)
    loop(student, dataset, 35, 8e-3, opts.beta)
    print(f"top1 {accuracy(student, images[test], labels[test]):.2f}")


if __name__ == "__main__":
    main()
