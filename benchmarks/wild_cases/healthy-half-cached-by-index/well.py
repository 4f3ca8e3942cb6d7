"""Teacher log-probabilities kept in float16 by the image's number in the whole set; a weighted sampler draws with replacement;
the student runs in bfloat16. Every sample carries its number, so that the order of drawing does not matter."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, Subset, WeightedRandomSampler


class Numbered(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return i, self.x[i], self.y[i]


def net(width, drop=0.0):
    return nn.Sequential(nn.Linear(64, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, 10))


@torch.no_grad()
def fill_cache(teacher, x, T, views=4):
    """mean over slightly different views of an image, as log-probabilities (never below -15: safe in half precision)"""
    teacher.eval()
    p = torch.stack([F.softmax(teacher(x + 0.03 * torch.randn_like(x)) / T, 1) for _ in range(views)]).mean(0)
    return p.log().clamp_min(-15).half()


def balanced_sampler(dataset, count):
    labels = torch.stack([dataset[i][2] for i in range(len(dataset))])
    weights = 1.0 / torch.bincount(labels, minlength=10)[labels].double()
    return WeightedRandomSampler(weights, num_samples=count, replacement=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--T", type=float, default=3.0)
    ap.add_argument("--alpha", type=float, default=0.7)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    everything = Numbered(torch.tensor(x).float() / 16, torch.tensor(y))
    p = torch.randperm(len(everything), generator=torch.Generator().manual_seed(52))
    train, test = p[:1100], p[1100:]

    teacher = net(128, 0.3)
    opt = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(10):
        for _, bx, by in DataLoader(Subset(everything, train.tolist()), 50, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(teacher(bx), by).backward()
            opt.step()
    cached = fill_cache(teacher, everything.x, a.T)

    few = Subset(everything, train[torch.randperm(1100)[:300]].tolist())
    loader = DataLoader(few, 30, sampler=balanced_sampler(few, 300))
    student = net(12)
    opt = torch.optim.AdamW(student.parameters(), lr=8e-3, weight_decay=1e-3)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=40 * len(loader))
    for _ in range(40):
        student.train()
        for number, bx, by in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = student(bx)
            logits = logits.float()
            target = cached[number].float()
            # softened already when it was kept: only the student is divided by T here
            soft = F.kl_div(F.log_softmax(logits / a.T, 1), target.exp(), reduction="batchmean")
            loss = a.alpha * a.T**2 * soft + (1 - a.alpha) * F.cross_entropy(logits, by)
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    teacher.eval(), student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(everything.x[test]).argmax(1) == everything.y[test]).float().mean():.2f}")
        print(f"top1 {100 * (student(everything.x[test]).argmax(1) == everything.y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
