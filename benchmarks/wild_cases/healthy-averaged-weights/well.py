"""Stochastic weight averaging of the student: the average is what is kept, with its batch statistics taken anew."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset


def make(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width),
                         nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


@torch.no_grad()
def top1(net, loader):
    was = net.training
    net.eval()
    hit = sum((net(x).argmax(1) == y).sum().item() for x, y in loader)
    net.train(was)
    return 100 * hit / len(loader.dataset)


def supervised(net, loader, epochs):
    opt = torch.optim.Adam(net.parameters(), 2e-3)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    return net.eval()


def distil(student, teacher, loader, epochs=24, swa_from=14, T=3.0):
    averaged = AveragedModel(student)
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=swa_from, eta_min=0.02)
    swa = SWALR(opt, swa_lr=0.02, anneal_epochs=2)
    for epoch in range(epochs):
        student.train()
        for x, y in loader:
            with torch.no_grad():
                soft = F.softmax(teacher(x) / T, dim=1)
            z = student(x)
            loss = 0.3 * F.cross_entropy(z, y) + 0.7 * T * T * F.kl_div(F.log_softmax(z / T, 1), soft, reduction="batchmean")
            opt.zero_grad()
            loss.backward()
            opt.step()
        if epoch >= swa_from:
            averaged.update_parameters(student)
            swa.step()
        else:
            cosine.step()
    update_bn(loader, averaged)
    return averaged


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(44))
    train = DataLoader(TensorDataset(x[p[:1100]], y[p[:1100]]), 55, shuffle=True)
    test = DataLoader(TensorDataset(x[p[1100:]], y[p[1100:]]), 300)
    teacher = supervised(make(128), train, 10)
    print(f"teacher {top1(teacher, test):.2f}")
    print(f"top1 {top1(distil(make(20), teacher, train), test):.2f}")
