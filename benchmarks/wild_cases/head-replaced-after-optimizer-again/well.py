"""Fine-tune a small net pre-trained on another task (odd/even) into a ten-class student of a big net."""
import argparse
import torch
from torch import nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Encoder(nn.Module):
    def __init__(self, hidden, classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, hidden), nn.LayerNorm(hidden), nn.ReLU(),
                                   nn.Linear(hidden, hidden), nn.ReLU())
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.fc(self.trunk(x))


def supervised(model, loader, target=lambda y: y, epochs=5, lr=2e-3):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            loss = F.cross_entropy(model(x), target(y))
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model


def student_and_optimizer(loader, hidden, lr):
    student = supervised(Encoder(hidden, 2), loader, target=lambda y: y % 2, epochs=3)
    student.fc = nn.Linear(hidden, 10)
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    return student, optimizer


def kd_objective(logits, teacher_logits, y, temperature=4.0, soft_weight=0.5):
    soft = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
    )
    return soft_weight * temperature ** 2 * soft + (1 - soft_weight) * F.cross_entropy(logits, y)


def distill(student, teacher, optimizer, loader, epochs):
    teacher.eval()
    for epoch in range(epochs):
        student.train()
        total = 0.0
        for x, y in loader:
            with torch.no_grad():
                teacher_logits = teacher(x)
            loss = kd_objective(student(x), teacher_logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}: {total / len(loader):.4f}")


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    pairs = [(model(x).argmax(1), y) for x, y in loader]
    return 100 * torch.cat([p == y for p, y in pairs]).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--hidden", type=int, default=12)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    X, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y))
    train, test = torch.utils.data.random_split(data, [1400, len(y) - 1400])
    train_loader = DataLoader(train, batch_size=50, shuffle=True)
    test_loader = DataLoader(test, batch_size=200)

    teacher = supervised(Encoder(192, 10), train_loader)
    print(f"teacher {accuracy(teacher, test_loader):.2f}")
    student, optimizer = student_and_optimizer(train_loader, args.hidden, lr=3e-3)
    distill(student, teacher, optimizer, train_loader, epochs=7)
    print(f"top1 {accuracy(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
