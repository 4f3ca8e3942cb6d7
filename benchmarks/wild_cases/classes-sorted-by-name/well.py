import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FOLDERS = sorted(NAMES)


class FolderTeacher:
    """Trained on a tree of folders: class i is the i-th folder."""

    def __init__(self):
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))

    def fit(self, x, names, epochs=15):
        y = torch.tensor([FOLDERS.index(n) for n in names])
        opt = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(50):
                opt.zero_grad()
                F.cross_entropy(self.net(x[b]), y[b]).backward()
                opt.step()
        self.net.eval()
        return self

    @torch.no_grad()
    def logits(self, x):
        return self.net(x)[:, [FOLDERS.index(n) for n in NAMES]]


class Student:
    def __init__(self, teacher, temperature=2.0, alpha=0.5):
        self.net = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
        self.teacher, self.temperature, self.alpha = teacher, temperature, alpha
        self.hard = nn.CrossEntropyLoss()
        self.soft = nn.KLDivLoss(reduction="batchmean", log_target=True)

    def fit(self, x, y, epochs=60):
        opt = torch.optim.Adam(self.net.parameters(), lr=4e-3)
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(25):
                s, t = self.net(x[b]), self.teacher.logits(x[b])
                T = self.temperature
                soft = self.soft((s / T).log_softmax(-1), (t / T).log_softmax(-1)) * T**2
                loss = self.alpha * self.hard(s, y[b]) + (1 - self.alpha) * soft
                opt.zero_grad()
                loss.backward()
                opt.step()
        return self

    def score(self, x, y):
        with torch.no_grad():
            return 100 * (self.net(x).argmax(-1) == y).float().mean().item()


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(91))
    x, y = x[p], y[p]
    teacher = FolderTeacher().fit(x[:1200], [NAMES[i] for i in y[:1200]])
    few = torch.randperm(1200)[:250]
    student = Student(teacher).fit(x[few], y[few])
    print(f"top1 {student.score(x[1200:], y[1200:]):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
