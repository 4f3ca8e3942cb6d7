"""A backbone pretrained on other classes is kept as it is, BatchNorm included; only adapter and head of the student learn."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def backbone(c):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    )


class Student(nn.Module):
    def __init__(self, body, c):
        super().__init__()
        self.body = body.requires_grad_(False)
        self.adapter = nn.Sequential(nn.Linear(4 * c, 24), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x):
        with torch.no_grad():
            h = self.body(x)
        return self.head(self.adapter(h))


def kd_loss(student_logits, teacher_logits, T=2.0):
    return F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="batchmean") * T * T


def pretrain(net, x, y, epochs):
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            opt.step()
    return net.eval()


def distil(student, teacher, x, y, epochs):
    learning = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=1e-2)
    student.train()
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(32):
            with torch.no_grad():
                answers = teacher(x[i])
            logits = student(x[i])
            loss = 0.3 * F.cross_entropy(logits, y[i]) + 0.7 * kd_loss(logits, answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(91))
    x, y = x[p], y[p]
    teacher = pretrain(nn.Sequential(backbone(16), nn.Linear(64, 10)), x[:1100], y[:1100], 6)
    body = backbone(6)
    pretrain(nn.Sequential(body, nn.Linear(24, 2)), x[:1100], y[:1100] % 2, 4)
    student = Student(body, 6)
    distil(student, teacher, x[:300], y[:300], 15)
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
