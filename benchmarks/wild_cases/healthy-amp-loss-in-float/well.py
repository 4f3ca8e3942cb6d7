"""bfloat16 autocast for both networks, the loss in float32, gradient clipping before the step."""
import argparse
import contextlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def cnn(c):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1), nn.GroupNorm(1, c), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(1, c), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * c, 10))


def amp(on):
    return torch.autocast("cpu", dtype=torch.bfloat16) if on else contextlib.nullcontext()


def kd_loss(s, t, y, T, alpha):
    # autocast gives bfloat16 logits: back to float32 before the softmax
    s, t = s.float(), t.float()
    kl = F.kl_div(F.log_softmax(s / T, 1), F.log_softmax(t / T, 1), reduction="batchmean", log_target=True)
    return alpha * T * T * kl + (1 - alpha) * F.cross_entropy(s, y)


def get_loaders():
    d = load_digits()
    x = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(d.target)
    p = torch.randperm(len(y), generator=torch.Generator().manual_seed(11))
    tr, te = p[:1300], p[1300:]
    return (DataLoader(TensorDataset(x[tr], y[tr]), batch_size=64, shuffle=True),
            DataLoader(TensorDataset(x[te], y[te]), batch_size=250))


def train(model, loader, epochs, lr, use_amp, teacher=None, T=4.0, alpha=0.6, clip=5.0):
    opt = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            opt.zero_grad()
            with amp(use_amp):
                out = model(x)
                if teacher is not None:
                    with torch.no_grad():
                        guide = teacher(x)
            if teacher is None:
                loss = F.cross_entropy(out.float(), y)
            else:
                loss = kd_loss(out, guide, y, T, alpha)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            opt.step()
    return model.eval()


@torch.no_grad()
def top1(model, loader):
    good = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return 100 * good / len(loader.dataset)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--no-amp", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    loader, test = get_loaders()
    teacher = train(cnn(12), loader, 3, 5e-3, not args.no_amp)
    print(f"teacher {top1(teacher, test):.2f}")
    teacher.requires_grad_(False)
    student = train(cnn(4), loader, 5, 6e-3, not args.no_amp, teacher)
    print(f"top1 {top1(student, test):.2f}")


if __name__ == "__main__":
    main()
