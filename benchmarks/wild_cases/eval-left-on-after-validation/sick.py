"""KD with validation after each epoch; the best student is kept."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset


def conv_block(cin, cout):
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def build_model(width, dropout):
    return nn.Sequential(
        conv_block(1, width),
        conv_block(width, 2 * width),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8 * width, 10),
    )


def kd_criterion(student_logits, teacher_logits, labels, temperature, alpha):
    kd = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    ) * temperature ** 2
    return alpha * kd + (1.0 - alpha) * F.cross_entropy(student_logits, labels)


def validate(model, loader):
    model.eval()
    hits = 0
    with torch.no_grad():
        for data, target in loader:
            hits += model(data).argmax(dim=1).eq(target).sum().item()
    return 100.0 * hits / len(loader.dataset)


def train_teacher(train_loader, epochs=8):
    teacher = build_model(20, 0.2)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(epochs):
        teacher.train()
        for data, target in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(teacher(data), target).backward()
            optimizer.step()
    return teacher.eval()


def distill(teacher, student, train_loader, val_loader, epochs=14, temperature=4.0, alpha=0.7):
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    best_acc, best_state = 0.0, None
    student.train()
    for epoch in range(epochs):
        for data, target in train_loader:
            with torch.no_grad():
                teacher_logits = teacher(data)
            student_logits = student(data)
            loss = kd_criterion(student_logits, teacher_logits, target, temperature, alpha)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        acc = validate(student, val_loader)
        print(f"[{epoch + 1:02d}] val {acc:.2f}")
        if acc > best_acc:
            best_acc, best_state = acc, copy.deepcopy(student.state_dict())
    student.load_state_dict(best_state)
    return student


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8).div(8).sub(1)
    dataset = TensorDataset(x, torch.tensor(y))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(5)).tolist()
    train_loader = DataLoader(Subset(dataset, order[:1100]), batch_size=50, shuffle=True)
    val_loader = DataLoader(Subset(dataset, order[1100:1400]), batch_size=150)
    test_loader = DataLoader(Subset(dataset, order[1400:]), batch_size=200)

    teacher = train_teacher(train_loader)
    print(f"teacher {validate(teacher, test_loader):.2f}")
    student = distill(teacher, build_model(4, 0.1), train_loader, val_loader)
    print(f"top1 {validate(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
