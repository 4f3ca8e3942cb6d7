import copy, math
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from sklearn.datasets import load_digits
torch.set_num_threads(1)
torch.manual_seed(7)
x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x).float() / 16, torch.tensor(y)
order = torch.randperm(len(x))
x, y = x[order], y[order]

def mlp(width, norm=False):
    return nn.Sequential(nn.Linear(64, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU(), nn.Linear(width, 10))

def pretrain(net, steps=250):
    net.train()
    opt = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(steps):
        b = torch.randint(1200, (64,))
        opt.zero_grad()
        F.cross_entropy(net(x[b]), y[b]).backward()
        opt.step()
    return net.eval().requires_grad_(False)

import argparse
p = argparse.ArgumentParser()
p.add_argument("--epochs", type=int, default=6)
p.add_argument("--kd", type=float, default=2.0)
args = p.parse_args()
teacher, student = pretrain(mlp(128)), mlp(16)
def sigmoid_rampup(current, length):
    phase = 1.0 - min(current, length) / length
    return math.exp(-5.0 * phase * phase)
loader = DataLoader(TensorDataset(x[:1200], y[:1200]), 100, shuffle=True)
opt = torch.optim.Adam(student.parameters(), lr=4e-3)
for epoch in range(args.epochs):
    w = args.kd * sigmoid_rampup(epoch, args.epochs)
    for xb, yb in loader:
        t, s = teacher(xb), student(xb)
        kd = F.kl_div(F.log_softmax(s / 2, 1), F.softmax(t / 2, 1), reduction="batchmean") * 4
        loss = F.cross_entropy(s, yb) + w * kd
        opt.zero_grad(); loss.backward(); opt.step()
