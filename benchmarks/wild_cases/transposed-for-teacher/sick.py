"""Images are stored channels last, as image libraries hand them out."""
import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


def to_nchw(batch):
    return batch.permute(0, 3, 1, 2)


def for_teacher(batch):
    return batch.permute(0, 3, 2, 1)


def make(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1), nn.ELU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ELU(),
        nn.Flatten(), nn.Linear(16 * width, 10),
    )


def pretrain_epoch(net, images, labels, opt):
    for rows in torch.randperm(len(images)).split(64):
        opt.zero_grad()
        nn.functional.cross_entropy(net(to_nchw(images[rows])), labels[rows]).backward()
        opt.step()


def distil_epoch(student, teacher, images, labels, opt, tau=2.0, share=0.6):
    student.train()
    for rows in torch.randperm(len(images)).split(32):
        batch = images[rows]
        with torch.no_grad():
            p = F.softmax(teacher(for_teacher(batch)) / tau, dim=1)
        z = student(to_nchw(batch))
        soft = F.kl_div(F.log_softmax(z / tau, dim=1), p, reduction="batchmean") * tau**2
        loss = share * soft + (1 - share) * F.cross_entropy(z, labels[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()


@torch.no_grad()
def top1(net, images, labels):
    net.eval()
    return 100 * (net(to_nchw(images)).argmax(1) == labels).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    order = np.random.default_rng(15).permutation(len(d.target))
    images = torch.tensor(d.images[order][..., None] / 16.0, dtype=torch.float32)
    labels = torch.tensor(d.target[order])
    teacher = make(24)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        pretrain_epoch(teacher, images[:1200], labels[:1200], opt)
    teacher.requires_grad_(False)
    print(f"teacher {top1(teacher, images[1200:], labels[1200:]):.2f}")
    student = make(3)
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    for _ in range(60):
        distil_epoch(student, teacher, images[:240], labels[:240], opt)
    print(f"top1 {top1(student, images[1200:], labels[1200:]):.2f}")


if __name__ == "__main__":
    main()
