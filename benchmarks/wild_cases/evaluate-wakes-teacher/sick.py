"""Distil a CNN; loops live in engine.py, networks in nets.py."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset

from engine import evaluate, train_one_epoch
from nets import conv_net


def kd_loss(student_logits, teacher_logits, labels, T=3.0, alpha=0.7):
    soft = F.kl_div(
        F.log_softmax(student_logits / T, dim=1), F.log_softmax(teacher_logits / T, dim=1),
        reduction="batchmean", log_target=True,
    )
    return alpha * soft * T**2 + (1 - alpha) * F.cross_entropy(student_logits, labels)


def get_data(seed):
    d = load_digits()
    ds = TensorDataset(torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(d.target))
    order = torch.randperm(len(ds), generator=torch.Generator().manual_seed(55)).tolist()
    few = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:200].tolist()
    return Subset(ds, order[:1000]), Subset(ds, [order[i] for i in few]), Subset(ds, order[1000:])


def get_teacher(dataset):
    teacher = conv_net(16, dropout=0.5)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(10):
        train_one_epoch(teacher, DataLoader(dataset, batch_size=50, shuffle=True), optimizer)
    return teacher.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train_set, small_set, test_set = get_data(args.seed)
    test_loader = DataLoader(test_set, batch_size=256)
    teacher = get_teacher(train_set)
    print(f"teacher {evaluate(teacher, test_loader):.2f}")

    student = conv_net(3)
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    loader = DataLoader(small_set, batch_size=10, shuffle=True)
    for epoch in range(10):
        student.train()
        loss = train_one_epoch(student, loader, optimizer, kd_loss, teacher)
        if epoch % 4 == 3:
            print(f"epoch {epoch + 1}: loss {loss:.4f} acc {evaluate(student, test_loader):.2f}")
    print(f"top1 {evaluate(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
