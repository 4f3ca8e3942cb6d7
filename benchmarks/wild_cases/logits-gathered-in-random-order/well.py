"""Teacher answers are computed once and stored, the student then trains without the teacher in memory."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def build(kind):
    if kind == "teacher":
        return nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Dropout(0.3), nn.Linear(200, 10))
    return nn.Sequential(nn.Linear(64, 14), nn.ReLU(), nn.Linear(14, 10))


def get_data(seed):
    x, y = load_digits(return_X_y=True)
    idx = np.random.RandomState(seed).permutation(len(x))
    x = torch.from_numpy(x[idx]).float().div_(16)
    y = torch.from_numpy(y[idx]).long()
    return TensorDataset(x[:1200], y[:1200]), TensorDataset(x[1200:], y[1200:])


def pretrain(model, loader):
    model.train()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        for xb, yb in loader:
            loss = F.cross_entropy(model(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
    model.eval()


def fetch_teacher_outputs(teacher, train_loader):
    teacher.eval()
    outputs = []
    with torch.no_grad():
        for xb, _ in train_loader:
            outputs.append(teacher(xb).numpy())
    return torch.from_numpy(np.concatenate(outputs))


def loss_fn_kd(outputs, labels, teacher_outputs, T=5.0, alpha=0.8):
    kl = F.kl_div(F.log_softmax(outputs / T, dim=1), F.softmax(teacher_outputs / T, dim=1), reduction="batchmean")
    return alpha * T * T * kl + (1.0 - alpha) * F.cross_entropy(outputs, labels)


def train_kd(student, dataset, outputs, epochs=25):
    x, y = dataset.tensors
    loader = DataLoader(TensorDataset(x, y, outputs), batch_size=40, shuffle=True)
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for epoch in range(epochs):
        student.train()
        running = 0.0
        for xb, yb, tb in loader:
            loss = loss_fn_kd(student(xb), yb, tb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            running += loss.item()
        if epoch % 6 == 0:
            print(f"epoch {epoch}: {running / len(loader):.4f}")


def evaluate(model, dataset):
    model.eval()
    hits = 0
    with torch.no_grad():
        for xb, yb in DataLoader(dataset, batch_size=256):
            hits += (model(xb).argmax(1) == yb).sum().item()
    return 100.0 * hits / len(dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train_set, test_set = get_data(args.seed)
    train_loader = DataLoader(train_set, batch_size=40, shuffle=True)
    teacher = build("teacher")
    pretrain(teacher, train_loader)
    print(f"teacher {evaluate(teacher, test_set):.2f}")
    fetch_loader = DataLoader(train_set, batch_size=40)
    outputs = fetch_teacher_outputs(teacher, fetch_loader)
    student = build("student")
    train_kd(student, train_set, outputs)
    print(f"top1 {evaluate(student, test_set):.2f}")


if __name__ == "__main__":
    main()
