"""Distillation with a criterion module; weights come from a config dict."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CONFIG = {
    "temperature": 3.0,
    "ce_weight": 0.1,   # labels are few and partly wrong: listen to the teacher
    "kd_weight": 0.9,
    "lr": 0.08,
    "epochs": 30,
}


class DistillCriterion(nn.Module):
    def __init__(self, temperature, ce_weight, kd_weight):
        super().__init__()
        self.tau = temperature
        self.register_buffer("weights", torch.tensor([ce_weight, kd_weight]))
        self.ce = nn.CrossEntropyLoss()
        self.kl = nn.KLDivLoss(reduction="batchmean")

    def forward(self, student_logits, teacher_logits, labels):
        kd = self.kl((student_logits / self.tau).log_softmax(1), (teacher_logits / self.tau).softmax(1)) * self.tau**2
        ce = self.ce(student_logits, labels)
        return (self.weights * torch.stack([kd, ce])).sum()


def kd_criterion(student_logits, teacher_logits, labels, temperature=3.0, ce_weight=0.1, kd_weight=0.9):
    return DistillCriterion(temperature, ce_weight, kd_weight)(student_logits, teacher_logits, labels)


class Mlp(nn.Sequential):
    def __init__(self, *sizes):
        layers = []
        for a, b in zip(sizes[:-1], sizes[1:]):
            layers += [nn.Linear(a, b), nn.GELU()]
        super().__init__(*layers[:-1])


def accuracy(model, loader):
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).argmax(1) == y).sum().item()
            total += len(y)
    return 100 * correct / total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    x, y = load_digits(return_X_y=True)
    x = torch.as_tensor(x / 16, dtype=torch.float32)
    y = torch.as_tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    train, test = order[:1100], order[1100:]
    test_loader = DataLoader(TensorDataset(x[test], y[test]), batch_size=256)

    teacher = Mlp(64, 128, 10)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for xb, yb in DataLoader(TensorDataset(x[train], y[train]), batch_size=64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(teacher(xb), yb).backward()
            optimizer.step()
    teacher.requires_grad_(False).eval()
    print(f"teacher {accuracy(teacher, test_loader):.2f}")

    few = train[:250]
    given = y[few].clone()
    wrong = torch.rand(len(few)) < 0.35
    given[wrong] = torch.randint(10, (int(wrong.sum()),))
    loader = DataLoader(TensorDataset(x[few], given), batch_size=25, shuffle=True)

    student = Mlp(64, 16, 10)
    criterion = DistillCriterion(CONFIG["temperature"], CONFIG["ce_weight"], CONFIG["kd_weight"])
    optimizer = torch.optim.SGD(student.parameters(), lr=CONFIG["lr"], momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CONFIG["epochs"])
    for epoch in range(CONFIG["epochs"]):
        student.train()
        for xb, yb in loader:
            loss = criterion(student(xb), teacher(xb), yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    print(f"top1 {accuracy(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
