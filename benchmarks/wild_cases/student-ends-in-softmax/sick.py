import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Big(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x):
        return self.layers(x)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 16)
        self.fc2 = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        return F.softmax(self.fc2(x), dim=1)


def train_distilled(student, teacher, x, y, epochs=50, temperature=2.0, soft_weight=0.5):
    ce = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(student.parameters(), lr=4e-3)
    teacher.eval()
    student.train()
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(25):
            with torch.no_grad():
                teacher_logits = teacher(x[i])
            student_logits = student(x[i])
            soft_targets = F.softmax(teacher_logits / temperature, dim=-1)
            soft_prob = F.log_softmax(student_logits / temperature, dim=-1)
            soft = torch.sum(soft_targets * (soft_targets.clamp_min(1e-12).log() - soft_prob)) / len(i)
            loss = soft_weight * soft * temperature**2 + (1 - soft_weight) * ce(student_logits, y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def train_plain(net, x, y, epochs=12):
    ce = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(60):
            optimizer.zero_grad()
            ce(net(x[i]), y[i]).backward()
            optimizer.step()


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(140))
    x, y = x[p], y[p]
    teacher, student = Big(), Tiny()
    train_plain(teacher, x[:1200], y[:1200])
    print(f"teacher {accuracy(teacher, x[1200:], y[1200:]):.2f}")
    train_distilled(student, teacher, x[:250], y[:250])
    print(f"top1 {accuracy(student, x[1200:], y[1200:]):.2f}")
