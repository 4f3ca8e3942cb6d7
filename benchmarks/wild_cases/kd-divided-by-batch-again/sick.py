"""Knowledge distillation trainer: big CNN -> small CNN on 8x8 digits."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset


class ConvNet(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels * 2, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels * 2)
        self.fc = nn.Linear(channels * 2 * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


class KDLoss(nn.Module):
    """lambda_kd * soft loss + (1 - lambda_kd) * hard loss"""

    def __init__(self, T=4.0, lambda_kd=0.8):
        super().__init__()
        self.T = T
        self.lambda_kd = lambda_kd
        self.kl = nn.KLDivLoss(reduction="batchmean")

    def forward(self, student_out, teacher_out, target):
        soft = self.kl(
            F.log_softmax(student_out / self.T, dim=1),
            F.softmax(teacher_out / self.T, dim=1),
        ) * self.T * self.T / student_out.size(0)
        hard = F.cross_entropy(student_out, target)
        return self.lambda_kd * soft + (1 - self.lambda_kd) * hard


class Trainer:
    def __init__(self, model, lr, teacher=None, criterion=None):
        self.model = model
        self.teacher = teacher
        self.criterion = criterion
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def train_epoch(self, loader):
        self.model.train()
        running = 0.0
        for inputs, targets in loader:
            self.optimizer.zero_grad()
            outputs = self.model(inputs)
            if self.teacher is None:
                loss = F.cross_entropy(outputs, targets)
            else:
                with torch.no_grad():
                    teacher_outputs = self.teacher(inputs)
                loss = self.criterion(outputs, teacher_outputs, targets)
            loss.backward()
            self.optimizer.step()
            running += loss.item()
        return running / len(loader)

    @torch.no_grad()
    def test(self, loader):
        self.model.eval()
        correct = total = 0
        for inputs, targets in loader:
            correct += (self.model(inputs).argmax(1) == targets).sum().item()
            total += len(targets)
        return 100.0 * correct / total


def get_loaders(batch_size=64):
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 1, 8, 8) / 16.0 - 0.305) / 0.376
    xa, xb, ya, yb = train_test_split(x, y, test_size=0.4, random_state=3, stratify=y)
    train = TensorDataset(torch.tensor(xa, dtype=torch.float32), torch.tensor(ya))
    test = TensorDataset(torch.tensor(xb, dtype=torch.float32), torch.tensor(yb))
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(test, 256)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train_loader, test_loader = get_loaders()

    teacher = ConvNet(24)
    t = Trainer(teacher, lr=0.05)
    for _ in range(10):
        t.train_epoch(train_loader)
    print("teacher %.2f" % t.test(test_loader))
    teacher.eval()
    for p in teacher.parameters():
        p.requires_grad = False

    student = ConvNet(4)
    s = Trainer(student, lr=0.02, teacher=teacher, criterion=KDLoss())
    for epoch in range(args.epochs):
        loss = s.train_epoch(train_loader)
        print("epoch %d loss %.4f" % (epoch, loss))
    print("top1 %.2f" % s.test(test_loader))


if __name__ == "__main__":
    main()
