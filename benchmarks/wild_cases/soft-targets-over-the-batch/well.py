"""Plain script: hand-written soft cross-entropy; the transfer images are taken as unlabelled."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def softened(z, T):
    e = torch.exp((z - z.max()) / T)
    return e / e.sum(dim=1, keepdim=True)


def distillation(student_out, teacher_out, T):
    p = softened(teacher_out, T)
    q = softened(student_out, T)
    return -(p * torch.log(q + 1e-9)).sum() / len(p)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--T", type=float, default=3.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images).float() / 16
    labels = torch.tensor(labels)
    shuffle = torch.randperm(len(images))
    tr, te = shuffle[:1100], shuffle[1100:]

    big = nn.Sequential(nn.Linear(64, 150), nn.ReLU(), nn.Linear(150, 10))
    opt = torch.optim.Adam(big.parameters(), 3e-3)
    for _ in range(9):
        for b in tr[torch.randperm(len(tr))].split(50):
            opt.zero_grad()
            F.cross_entropy(big(images[b]), labels[b]).backward()
            opt.step()
    big.eval()
    for w in big.parameters():
        w.requires_grad_(False)

    tiny = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    opt = torch.optim.Adam(tiny.parameters(), 5e-3)
    for epoch in range(8):
        tiny.train()
        for b in tr[torch.randperm(len(tr))].split(20):
            out = tiny(images[b])
            kd = distillation(out, big(images[b]), args.T)
            loss = args.T**2 * kd
            opt.zero_grad()
            loss.backward()
            opt.step()
    tiny.eval()
    with torch.no_grad():
        print(f"teacher {100 * (big(images[te]).argmax(1) == labels[te]).float().mean().item():.2f}")
        print(f"top1 {100 * (tiny(images[te]).argmax(1) == labels[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
