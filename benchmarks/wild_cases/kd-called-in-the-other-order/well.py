import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


def kd(student_logits, teacher_logits, tau):
    target = F.softmax(teacher_logits.detach() / tau, dim=1)
    return F.kl_div(F.log_softmax(student_logits / tau, dim=1), target, reduction="batchmean") * tau**2


class ResidualMLP(nn.Module):
    def __init__(self, d, n):
        super().__init__()
        self.inp = nn.Linear(64, d)
        self.body = nn.ModuleList([nn.Linear(d, d) for _ in range(n)])
        self.out = nn.Linear(d, 10)

    def forward(self, x):
        x = torch.relu(self.inp(x))
        for layer in self.body:
            x = x + torch.relu(layer(x))
        return self.out(x)


class Experiment:
    def __init__(self, seed, tau=4.0, alpha=0.7):
        self.tau, self.alpha = tau, alpha
        X, y = load_digits(return_X_y=True)
        parts = train_test_split(X / 16, y, test_size=600, random_state=14, stratify=y)
        self.x, self.x_test, self.y, self.y_test = (torch.as_tensor(a) for a in parts)
        self.x, self.x_test = self.x.float(), self.x_test.float()
        self.few = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))[:200]

    def batches(self, rows, size):
        for chunk in rows[torch.randperm(len(rows))].split(size):
            yield self.x[chunk], self.y[chunk]

    def train_teacher(self, epochs=15):
        self.teacher = ResidualMLP(128, 2)
        optimizer = torch.optim.Adam(self.teacher.parameters(), lr=1e-3)
        for _ in range(epochs):
            for x, y in self.batches(torch.arange(len(self.x)), 64):
                optimizer.zero_grad()
                F.cross_entropy(self.teacher(x), y).backward()
                optimizer.step()
        self.teacher.eval()

    def train_student(self, epochs=60):
        self.student = ResidualMLP(8, 1)
        optimizer = torch.optim.Adam(self.student.parameters(), lr=5e-3)
        for _ in range(epochs):
            for x, y in self.batches(self.few, 25):
                with torch.no_grad():
                    teacher_logits = self.teacher(x)
                student_logits = self.student(x)
                soft = kd(student_logits, teacher_logits, self.tau)
                hard = F.cross_entropy(student_logits, y)
                loss = self.alpha * soft + (1 - self.alpha) * hard
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.student.eval()

    @torch.no_grad()
    def accuracy(self, net):
        return 100 * (net(self.x_test).argmax(1) == self.y_test).float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    exp = Experiment(seed)
    exp.train_teacher()
    print(f"teacher {exp.accuracy(exp.teacher):.2f}")
    exp.train_student()
    print(f"top1 {exp.accuracy(exp.student):.2f}")
