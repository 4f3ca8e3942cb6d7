"""A scikit-scaled teacher and a student on plain pixels."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler


class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(x)))


class Distiller:
    def __init__(self, teacher, student, scaler, lr=0.1):
        self.teacher, self.student = teacher.eval(), student
        self.mean = torch.tensor(scaler.mean_, dtype=torch.float32)
        self.std = torch.tensor(scaler.scale_, dtype=torch.float32)
        self.opt = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)

    @torch.no_grad()
    def soft_labels(self, pixels):
        return F.softmax(self.teacher(pixels / 16) / 2.0, dim=1)

    def train_epoch(self, pixels):
        self.student.train()
        for rows in torch.randperm(len(pixels)).split(50):
            batch = pixels[rows]
            target = self.soft_labels(batch)
            out = self.student(batch / 16)
            loss = F.cross_entropy(out / 2.0, target) * 4.0
            self.opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
            self.opt.step()
        return loss.item()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    split = torch.randperm(len(x))
    train, test = split[:1150], split[1150:]
    scaler = StandardScaler().fit(x[train.numpy()])
    scaled = torch.tensor(scaler.transform(x), dtype=torch.float32)
    pixels = torch.tensor(x, dtype=torch.float32)
    y = torch.tensor(y)

    teacher = Net(128)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(8):
        for rows in train[torch.randperm(len(train))].split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(scaled[rows]), y[rows]).backward()
            opt.step()
    teacher.eval()
    with torch.no_grad():
        print(f"teacher {100 * (teacher(scaled[test]).argmax(1) == y[test]).float().mean().item():.2f}")
    for q in teacher.parameters():
        q.requires_grad = False

    student = Net(16)
    distiller = Distiller(teacher, student, scaler, lr=0.03)
    for epoch in range(12):
        loss = distiller.train_epoch(pixels[train])
    print(f"last loss {loss:.3f}")
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(pixels[test] / 16).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
