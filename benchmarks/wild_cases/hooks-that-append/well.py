"""Embeddings of the teacher's hidden layer are caught by a hook; the student returns its own."""
import argparse
from collections import defaultdict

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, 150), nn.ReLU(), nn.Linear(150, 40), nn.Tanh())
        self.classifier = nn.Linear(40, 10)

    def forward(self, x):
        return self.classifier(self.features(x))


class Student(nn.Module):
    def __init__(self, hidden, teacher_dim):
        super().__init__()
        self.hidden = nn.Linear(64, hidden)
        self.classifier = nn.Linear(hidden, 10)
        self.adapter = nn.Linear(hidden, teacher_dim)

    def forward(self, x):
        h = torch.tanh(self.hidden(x))
        if self.training:
            return {"logits": self.classifier(h), "embedding": self.adapter(h)}
        return {"logits": self.classifier(h)}


caught = defaultdict(list)


def catch(name):
    def hook(module, inputs, output):
        caught[name].append(output.detach())

    return hook


def compute_loss(student, teacher, batch, beta):
    images, labels, labelled = batch
    with torch.no_grad():
        teacher(images)
    out = student(images)
    loss = beta * F.mse_loss(out["embedding"], caught["features"].pop())
    if labelled.any():
        loss = loss + F.cross_entropy(out["logits"][labelled], labels[labelled])
    return loss


def train(student, teacher, loader, epochs, beta=5.0):
    teacher.eval()
    handle = teacher.features.register_forward_hook(catch("features"))
    optimizer = torch.optim.Adam(student.parameters(), lr=4e-3)
    student.train()
    for epoch in range(epochs):
        epoch_loss = 0.0
        for batch in loader:
            optimizer.zero_grad()
            loss = compute_loss(student, teacher, batch, beta)
            loss.backward()
            optimizer.step()
            epoch_loss += loss.item() / len(loader)
        print(f"epoch={epoch} loss={epoch_loss:.4f}")
    handle.remove()


def pretrain(teacher, images, labels):
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(12):
        for rows in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(teacher(images[rows]), labels[rows]).backward()
            optimizer.step()
    return teacher.requires_grad_(False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    bunch = load_digits()
    images, labels = torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(1001))
    images, labels = images[shuffled], labels[shuffled]
    labelled = torch.arange(1000) < 150
    loader = DataLoader(
        TensorDataset(images[:1000], labels[:1000], labelled), batch_size=50, shuffle=True, drop_last=True
    )

    teacher = pretrain(Teacher(), images[:1000], labels[:1000])
    with torch.no_grad():
        print(f"teacher {100 * (teacher(images[1000:]).argmax(1) == labels[1000:]).float().mean():.2f}")
    student = Student(20, 40)
    train(student, teacher, loader, epochs=20)
    student.eval()
    with torch.no_grad():
        right = student(images[1000:])["logits"].argmax(1) == labels[1000:]
    print(f"top1 {100 * right.float().mean():.2f}")


if __name__ == "__main__":
    main()
