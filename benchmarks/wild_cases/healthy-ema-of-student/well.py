"""The student is judged by a moving average of its weights; the teacher is a fixed, larger net."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset


def classifier(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 10))


def distill_loss(student_out, teacher_out, T):
    soft_prob = F.softmax(teacher_out / T, dim=-1)
    soft_target = F.log_softmax(student_out / T, dim=-1)
    return torch.sum(soft_prob * (soft_prob.log() - soft_target)) / student_out.size(0) * (T**2)


def teach(net, loader, epochs=12):
    optimizer = torch.optim.Adam(net.parameters(), lr=1.5e-3)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    net.train()
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            criterion(net(inputs), labels).backward()
            optimizer.step()


@torch.no_grad()
def evaluate(net, inputs, labels):
    net.eval()
    return 100.0 * (net(inputs).argmax(dim=-1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decay", type=float, default=0.97)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load_digits()
    inputs = torch.tensor(data.data, dtype=torch.float32).div_(16).sub_(0.5)
    labels = torch.tensor(data.target)
    perm = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(123))
    train, test = perm[:1300], perm[1300:]
    loader = DataLoader(TensorDataset(inputs[train], labels[train]), batch_size=65, shuffle=True)

    teacher = classifier(160)
    teach(teacher, loader)
    print(f"teacher {evaluate(teacher, inputs[test], labels[test]):.2f}")

    student = classifier(14)
    ema = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(args.decay))
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    teacher.eval()
    for _ in range(25):
        student.train()
        for x, y in loader:
            with torch.no_grad():
                t = teacher(x)
            s = student(x)
            loss = 0.5 * distill_loss(s, t, T=2) + 0.5 * F.cross_entropy(s, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update_parameters(student)
    print(f"last weights {evaluate(student, inputs[test], labels[test]):.2f}")
    print(f"top1 {evaluate(ema, inputs[test], labels[test]):.2f}")


if __name__ == "__main__":
    main()
