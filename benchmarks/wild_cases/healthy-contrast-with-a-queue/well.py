import copy
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
torch.set_num_threads(1)
torch.manual_seed(5)
d = load_digits()
x, y = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
order = torch.randperm(len(x))
x, y = x[order], y[order]

class ConvNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.stem = nn.Conv2d(1, c, 3, padding=1)
        self.norm = nn.BatchNorm2d(c)
        self.body = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.fc = nn.Linear(2 * c, 10)

    def features(self, v):
        return F.relu(self.body(F.relu(self.norm(self.stem(v)))))

    def forward(self, v):
        return self.fc(self.features(v).mean((2, 3)))

def pretrain(net, steps=200):
    net.train()
    opt = torch.optim.Adam(net.parameters(), lr=8e-3)
    for _ in range(steps):
        b = torch.randint(1200, (64,))
        opt.zero_grad()
        F.cross_entropy(net(x[b]), y[b]).backward()
        opt.step()
    return net.eval().requires_grad_(False)

teacher, student = pretrain(ConvNet(16)), ConvNet(8)
class Queue(nn.Module):
    def __init__(self, dim, size=256):
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("ptr", torch.zeros(1, dtype=torch.long))
    @torch.no_grad()
    def push(self, k):
        i = int(self.ptr)
        self.keys[i:i + len(k)] = k
        self.ptr[0] = (i + len(k)) % len(self.keys)
class Compress(nn.Module):
    def __init__(self):
        super().__init__()
        self.hs, self.ht, self.queue = nn.Linear(16, 24), nn.Linear(32, 24), Queue(24)
    def forward(self, fs, ft):
        q, k = F.normalize(self.hs(fs), dim=1), F.normalize(self.ht(ft), dim=1)
        pos = torch.einsum("nc,nc->n", q, k.detach())[:, None]
        neg = torch.einsum("nc,kc->nk", q, self.queue.keys.clone())
        logits = torch.cat([pos, neg], 1) / 0.1
        loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        self.queue.push(k.detach())
        return loss
crd = Compress()
crd.ht.requires_grad_(False)
opt = torch.optim.Adam([*student.parameters(), *crd.hs.parameters()], lr=3e-3)
for it in range(60):
    b = torch.randint(1200, (32,))
    with torch.no_grad():
        ft = teacher.features(x[b]).mean((2, 3))
    f = student.features(x[b]).mean((2, 3))
    loss = F.cross_entropy(student.fc(f), y[b]) + 0.2 * crd(f, ft)
    opt.zero_grad(); loss.backward(); opt.step()
