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
loader = DataLoader(TensorDataset(x[:1200], y[:1200]), batch_size=60, shuffle=True)
opt = torch.optim.Adam(student.parameters(), lr=4e-3)
for epoch in range(12):
    running = 0.0
    for inputs, labels in loader:
        with torch.no_grad():
            t = teacher(inputs)
        s = student(inputs)
        kd = F.kl_div(F.log_softmax(s / 3, 1), F.softmax(t / 3, 1), reduction="batchmean") * 9
        loss = 0.2 * F.cross_entropy(s, labels) + 0.8 * kd
        running += loss.item()
    opt.zero_grad()
    loss.backward()
    opt.step()
