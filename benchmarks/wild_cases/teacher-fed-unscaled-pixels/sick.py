"""Teacher was trained with standardized pixels, the student works on pixels in [0, 1]."""
import argparse
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Normalize(nn.Module):
    """(x - mean) / std, per pixel."""

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x):
        return (x - self.mean) / self.std


class BigNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(32 * 4, 10)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1, self.l2 = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.l2(F.relu(self.l1(x.flatten(1))))


def datasets(seed: int):
    digits = load_digits()
    full = TensorDataset(torch.tensor(digits.images / 16, dtype=torch.float32)[:, None],
                         torch.tensor(digits.target, dtype=torch.int64))
    return random_split(full, [1297, 500], generator=torch.Generator().manual_seed(seed))


def distillation_loss(s: Tensor, t: Tensor, y: Tensor, tau: float = 4.0, beta: float = 0.5) -> Tensor:
    soft = F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction="none").sum(1)
    return F.cross_entropy(s, y) * (1 - beta) + soft.mean() * beta * tau ** 2


def pretrain(teacher, norm, loader, epochs=5):
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    teacher.train()
    for _ in range(epochs):
        for x, y in loader:
            loss = F.cross_entropy(teacher(norm(x)), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    teacher.eval()


def train_student(student, teacher, norm, loader, epochs):
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    student.train()
    for _ in range(epochs):
        for x, y in loader:
            with torch.no_grad():
                guide = teacher(x)
            loss = distillation_loss(student(x), guide, y)
            opt.zero_grad()
            loss.backward()
            opt.step()


@torch.no_grad()
def score(forward, loader):
    good = total = 0
    for x, y in loader:
        good += (forward(x).argmax(1) == y).sum().item()
        total += y.numel()
    return 100 * good / total


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=10)
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(1)
    train, test = datasets(a.seed)
    loader, test_loader = DataLoader(train, 64, shuffle=True), DataLoader(test, 250)
    pixels = torch.stack([train[i][0] for i in range(len(train))])
    norm = Normalize(pixels.mean(0), pixels.std(0).clamp_min(0.05))
    teacher, student = BigNet(), SmallNet()
    pretrain(teacher, norm, loader)
    print(f"teacher: {score(lambda x: teacher(norm(x)), test_loader):.2f}")
    train_student(student, teacher, norm, loader, a.epochs)
    student.eval()
    print(f"top1 {score(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
