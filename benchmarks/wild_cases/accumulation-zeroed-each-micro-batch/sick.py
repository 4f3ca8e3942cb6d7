"""Distil a wide MLP into a narrow one on digits, with gradient accumulation (my GPU is small)."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset


def get_loaders(seed, micro_batch):
    X, y = load_digits(return_X_y=True)
    X = (X / 16.0).astype("float32")
    Xtr, Xte, ytr, yte = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=y)
    train = TensorDataset(torch.from_numpy(Xtr), torch.from_numpy(ytr).long())
    test = TensorDataset(torch.from_numpy(Xte), torch.from_numpy(yte).long())
    return (DataLoader(train, batch_size=micro_batch, shuffle=True, drop_last=True),
            DataLoader(test, batch_size=256))


def mlp(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(),
                         nn.Linear(hidden, hidden), nn.ReLU(),
                         nn.Linear(hidden, 10))


def train_teacher(model, loader, epochs):
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()


def kd_loss(student_logits, teacher_logits, labels, T=4.0, alpha=0.7):
    soft = F.kl_div(F.log_softmax(student_logits / T, dim=1),
                    F.softmax(teacher_logits / T, dim=1),
                    reduction="batchmean") * T * T
    hard = F.cross_entropy(student_logits, labels)
    return alpha * soft + (1 - alpha) * hard


def distill(student, teacher, loader, epochs, accum_steps, lr):
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    teacher.eval()
    for epoch in range(epochs):
        student.train()
        running = 0.0
        optimizer.zero_grad()
        for i, (x, y) in enumerate(loader):
            with torch.no_grad():
                t_out = teacher(x)
            loss = kd_loss(student(x), t_out, y) / accum_steps
            optimizer.zero_grad()
            loss.backward()
            running += loss.item() * accum_steps
            if (i + 1) % accum_steps == 0:
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch} loss {running / len(loader):.4f}")


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    hits = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return 100.0 * hits / len(loader.dataset)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--accum-steps", type=int, default=3)
    p.add_argument("--lr", type=float, default=3e-3)
    args = p.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    train_loader, test_loader = get_loaders(args.seed, micro_batch=16)
    teacher, student = mlp(256), mlp(24)
    train_teacher(teacher, train_loader, epochs=6)
    print(f"teacher {accuracy(teacher, test_loader):.2f}")
    distill(student, teacher, train_loader, args.epochs, args.accum_steps, args.lr)
    print(f"top1 {accuracy(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
