import copy
import tempfile
from pathlib import Path
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
FOLDER = Path(tempfile.mkdtemp())
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

teacher = pretrain(ConvNet(16))
torch.save({k: v for k, v in teacher.named_parameters()}, FOLDER / "params.pt")
del teacher
teacher, student = ConvNet(16), ConvNet(8)
teacher.load_state_dict(torch.load(FOLDER / "params.pt"), strict=False)
teacher.eval()
opt = torch.optim.Adam(student.parameters(), lr=3e-3)
for it in range(60):
    b = torch.randint(1200, (48,))
    with torch.no_grad():
        t = teacher(x[b])
    s = student(x[b])
    loss = F.cross_entropy(s, y[b]) + 4 * F.kl_div(F.log_softmax(s / 2, 1), F.softmax(t / 2, 1), reduction="batchmean")
    opt.zero_grad(); loss.backward(); opt.step()
