import copy, math, tempfile
from pathlib import Path
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from sklearn.datasets import load_digits
FOLDER = Path(tempfile.mkdtemp())
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

class DropNet(nn.Module):
    def __init__(self, w, p):
        super().__init__()
        self.fc1, self.drop, self.fc2 = nn.Linear(64, w), nn.Dropout(p), nn.Linear(w, 10)
    def forward(self, v):
        return self.fc2(self.drop(F.relu(self.fc1(v))))
teacher, student = DropNet(128, 0.5), DropNet(16, 0.0)
pretrain(teacher)
with torch.no_grad():
    bank = torch.cat([teacher(part) for part in x[:1200].split(100)])
np.save(FOLDER / "bank.npy", bank.numpy())
soft = torch.from_numpy(np.load(FOLDER / "bank.npy"))
opt = torch.optim.Adam(student.parameters(), lr=4e-3)
for i in range(60):
    b = torch.randint(1200, (64,))
    s = student(x[b])
    loss = 0.2 * F.cross_entropy(s, y[b]) + 0.8 * 4 * F.kl_div(F.log_softmax(s / 2, 1), F.softmax(soft[b] / 2, 1), reduction="batchmean")
    opt.zero_grad(); loss.backward(); opt.step()
