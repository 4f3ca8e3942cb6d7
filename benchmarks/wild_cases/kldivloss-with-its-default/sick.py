"""CNN distillation, parameters in one place; the teacher runs beside the student."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset
from types import SimpleNamespace

params = SimpleNamespace(alpha=0.9, temperature=3.0, learning_rate=5e-3, batch_size=32, num_epochs=45)


def loss_fn_kd(outputs, labels, teacher_outputs, params):
    """alpha: share of the teacher's term"""
    alpha = params.alpha
    T = params.temperature
    soft = nn.KLDivLoss()(F.log_softmax(outputs / T, dim=1), F.softmax(teacher_outputs / T, dim=1))
    return soft * (alpha * T * T) + F.cross_entropy(outputs, labels) * (1.0 - alpha)


def kd_loss(student_logits, teacher_logits, labels):
    return loss_fn_kd(student_logits, labels, teacher_logits, params)


class Cnn(nn.Module):
    def __init__(self, num_channels, dropout_rate=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(1, num_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.conv2 = nn.Conv2d(num_channels, num_channels * 2, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(num_channels * 2)
        self.fc1 = nn.Linear(num_channels * 8, num_channels * 4)
        self.fc2 = nn.Linear(num_channels * 4, 10)
        self.dropout_rate = dropout_rate

    def forward(self, s):
        s = F.relu(F.max_pool2d(self.bn1(self.conv1(s)), 2))
        s = F.relu(F.max_pool2d(self.bn2(self.conv2(s)), 2))
        s = F.dropout(F.relu(self.fc1(s.flatten(1))), p=self.dropout_rate, training=self.training)
        return self.fc2(s)


def train(model, loader, epochs, lr, teacher=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for batch, labels in loader:
            out = model(batch)
            if teacher is None:
                loss = F.cross_entropy(out, labels)
            else:
                with torch.no_grad():
                    out_t = teacher(batch)
                loss = loss_fn_kd(out, labels, out_t, params)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    x, y = x[p], y[p]
    few = torch.randperm(1100)[:160]
    plenty = DataLoader(TensorDataset(x[:1100], y[:1100]), params.batch_size, shuffle=True)
    loader = DataLoader(TensorDataset(x[few], y[few]), params.batch_size, shuffle=True)
    teacher = train(Cnn(16, 0.3), plenty, 6, 3e-3)
    student = train(Cnn(6), loader, params.num_epochs, params.learning_rate, teacher)
    with torch.no_grad():
        for name, net in ("teacher", teacher), ("top1", student):
            print(f"{name} {100 * (net(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
