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

teacher, student = pretrain(mlp(128)), mlp(16)
with torch.no_grad():
    store = teacher(x[:1200])
opt = torch.optim.Adam(student.parameters(), lr=4e-3)
T = 3.0
for epoch in range(10):
    for start in range(0, 1200, 100):
        sl = slice(start, start + 100)
        t = store[sl]
        t = t / T
        s = student(x[sl])
        loss = 0.2 * F.cross_entropy(s, y[sl]) + 0.8 * T * T * F.kl_div(F.log_softmax(s / T, 1), F.softmax(t, 1), reduction="batchmean")
        opt.zero_grad(); loss.backward(); opt.step()
