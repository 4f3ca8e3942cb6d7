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
opt = torch.optim.Adam(student.parameters(), lr=4e-3)
for i in range(60):
    b = torch.randint(1200, (64,))
    tokens = x[b].unsqueeze(1)
    with torch.no_grad():
        p = teacher(tokens.squeeze(1)).softmax(-1)
    z = student(tokens)
    logq = z.log_softmax(-1)
    kd = (p * (p.clamp_min(1e-9).log() - logq)).sum(-1).mean()
    loss = 0.5 * F.cross_entropy(z.squeeze(1), y[b]) + 0.5 * kd
    opt.zero_grad(); loss.backward(); opt.step()
