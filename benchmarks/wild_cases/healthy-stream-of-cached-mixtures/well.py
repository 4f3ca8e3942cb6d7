"""An ensemble's mean probability, kept on disk by picture key; the student reads a shuffled stream and tempers the mixture itself."""
import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, IterableDataset


def member(kind):
    if kind == "wide":
        return nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    if kind == "deep":
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 10))


class Stream(IterableDataset):
    """Yields (picture, label, mixture) in an order that a small buffer shuffles."""

    def __init__(self, keys, x, y, mixtures, buffer=256):
        self.keys, self.x, self.y, self.mixtures, self.buffer = keys, x, y, mixtures, buffer

    def __iter__(self):
        held = []
        for key in self.keys:
            held.append(key)
            if len(held) > self.buffer:
                yield self.row(held.pop(int(torch.randint(len(held), ()))))
        for k in torch.randperm(len(held)).tolist():
            yield self.row(held[k])

    def row(self, key):
        i = int(key.split("-")[1])
        return self.x[i], self.y[i], self.mixtures[key].astype(np.float32)


def temper(p, T):
    """softmax(log p / T): the mixture has no logits of its own, its logarithm serves."""
    return F.softmax(p.clamp_min(1e-6).log() / T, dim=-1)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(200))
    train, test = p[:1100], p[1100:]

    members = []
    for kind in ("wide", "deep", "tanh"):
        net = member(kind)
        opt = torch.optim.Adam(net.parameters(), 2e-3)
        for _ in range(15):
            for b in train[torch.randperm(len(train))].split(50):
                opt.zero_grad()
                F.cross_entropy(net(x[b]), y[b]).backward()
                opt.step()
        members.append(net.eval())
    with torch.no_grad():
        mixture = torch.stack([m(x) for m in members]).softmax(-1).mean(0)
    print("ensemble %.2f" % (100 * (mixture[test].argmax(1) == y[test]).float().mean()))

    keys = [f"img-{i}" for i in train.tolist()]
    with tempfile.TemporaryDirectory() as d:
        np.savez(os.path.join(d, "mix.npz"), **{k: mixture[int(k[4:])].numpy() for k in keys})
        with np.load(os.path.join(d, "mix.npz")) as z:
            stored = {k: z[k] for k in z.files}

    T = 2.0
    student = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    opt = torch.optim.Adam(student.parameters(), 4e-3)
    loader = DataLoader(Stream(keys, x, y, stored), batch_size=50)
    for _ in range(20):
        student.train()
        for xb, yb, mb in loader:
            z = student(xb)
            soft = F.kl_div(F.log_softmax(z / T, -1), temper(mb, T), reduction="batchmean") * T * T
            loss = 0.7 * soft + 0.3 * F.cross_entropy(z, yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print("top1 %.2f" % (100 * (student(x[test]).argmax(1) == y[test]).float().mean()))


if __name__ == "__main__":
    main()
