import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

N_CLASSES, DIM = 14, 24


def make_split(n, seed):
    centres = torch.randn(N_CLASSES, 3, DIM, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(N_CLASSES, (n,), generator=g)
    mode = torch.randint(3, (n,), generator=g)
    x = centres[y, mode] + 0.75 * torch.randn(n, DIM, generator=g)
    return x, [f"{int(c)}" for c in y]


class FolderLike(Dataset):
    """Samples with the name of their folder; the vocabulary gives the class number."""

    def __init__(self, n, seed, classes):
        self.x, self.names = make_split(n, seed)
        self.class_to_idx = {c: i for i, c in enumerate(classes)}

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.class_to_idx[self.names[i]]


def find_classes(names):
    return sorted(set(names))


def net(h):
    return nn.Sequential(nn.Linear(DIM, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, N_CLASSES))


def pretrain_teacher(epochs=12):
    """The large network, trained earlier on the folder tree."""
    classes = find_classes(make_split(4000, 1)[1])
    data = DataLoader(FolderLike(4000, 1, classes), batch_size=128, shuffle=True)
    model = net(160)
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for x, y in data:
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
    return {"state_dict": model.state_dict(), "classes": classes}


def accuracy(model, data):
    model.eval()
    with torch.no_grad():
        pairs = [(model(x).argmax(1) == y).float() for x, y in data]
    return 100 * torch.cat(pairs).mean().item()


def kd_loss(s, t, y, T=3.0, lam=0.8):
    soft = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T * T
    return lam * soft + (1 - lam) * F.cross_entropy(s, y)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    ckpt = pretrain_teacher()
    teacher = net(160)
    teacher.load_state_dict(ckpt["state_dict"])
    teacher.eval().requires_grad_(False)

    classes = ckpt["classes"]
    train = DataLoader(FolderLike(700, 2, classes), batch_size=50, shuffle=True)
    val = DataLoader(FolderLike(2000, 3, classes), batch_size=500)
    student = net(20)
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 25)
    for _ in range(25):
        student.train()
        for x, y in train:
            with torch.no_grad():
                t = teacher(x)
            loss = kd_loss(student(x), t, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    print(f"top1 {accuracy(student, val):.2f}")


if __name__ == "__main__":
    main()
