"""The teacher's logits lie on disk in float16, by number of the image, and are looked up under a shuffling loader."""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset


class Digits(Dataset):
    def __init__(self):
        pixels, self.labels = load_digits(return_X_y=True)
        self.pixels = (pixels / 16).astype(np.float32)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, number):  # the number is that of the whole set, also through a Subset
        return {"number": number, "pixels": self.pixels[number], "label": self.labels[number]}


class AnswerBook:
    def __init__(self, path):
        self.logits = np.load(path, mmap_mode="r")

    @staticmethod
    def write(path, teacher, dataset):
        with torch.no_grad():
            parts = [teacher(batch["pixels"]) for batch in DataLoader(dataset, batch_size=300)]
        np.save(path, torch.cat(parts).half().numpy())

    def __getitem__(self, numbers):
        # kept in half to save space; all arithmetic is in float32
        return torch.from_numpy(self.logits[numbers.numpy()].astype(np.float32))


def kd_loss(z, answer, label, T=4.0, alpha=0.8):
    soft = F.kl_div((z / T).log_softmax(1), (answer / T).softmax(1), reduction="batchmean")
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(z, label)


def fit(net, loader, loss_of, epochs, lr):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(epochs):
        net.train()
        for batch in loader:
            opt.zero_grad()
            loss_of(net(batch["pixels"]), batch).backward()
            opt.step()
    return net.eval()


def top1(net, loader):
    with torch.no_grad():
        hits = [net(batch["pixels"]).argmax(1) == batch["label"] for batch in loader]
    return 100 * torch.cat(hits).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    torch.set_num_threads(1)
    digits = Digits()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(88)).tolist()
    train = DataLoader(Subset(digits, order[:900]), batch_size=45, shuffle=True)
    few = DataLoader(Subset(digits, order[:300]), batch_size=30, shuffle=True)
    test = DataLoader(Subset(digits, order[900:]), batch_size=300)

    teacher = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    fit(teacher, train, lambda z, batch: F.cross_entropy(z, batch["label"]), 15, 3e-3)
    print(f"teacher {top1(teacher, test):.2f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.npy"
        AnswerBook.write(path, teacher, digits)
        book = AnswerBook(path)
        student = nn.Sequential(nn.Linear(64, 14), nn.ReLU(), nn.Linear(14, 10))
        fit(student, few, lambda z, batch: kd_loss(z, book[batch["number"]], batch["label"]), 25, 1e-2)
    print(f"top1 {top1(student, test):.2f}")


if __name__ == "__main__":
    main()
