"""KD trainer: teacher from a checkpoint, early stopping on a validation split, best student kept."""
import argparse
import copy
import io

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class ConvBlock(nn.Sequential):
    def __init__(self, c_in, c_out):
        super().__init__(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class Net(nn.Module):
    def __init__(self, width, drop=0.0):
        super().__init__()
        self.features = nn.Sequential(
            ConvBlock(1, width), nn.MaxPool2d(2), ConvBlock(width, 2 * width), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.drop = nn.Dropout(drop)
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x):
        return self.fc(self.drop(self.features(x)))


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item() * 100


def make_checkpoint(train, test, epochs=10):
    model = Net(32, drop=0.5)
    optim = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    x, y = train
    for _ in range(epochs):
        model.train()
        for idx in torch.randperm(len(x)).split(64):
            optim.zero_grad()
            F.cross_entropy(model(x[idx]), y[idx]).backward()
            optim.step()
    print(f"teacher {accuracy(model, *test):.2f}")
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "epochs": epochs}, file)
    file.seek(0)
    return file


def load_teacher(file):
    teacher = Net(32, drop=0.5)
    teacher.load_state_dict(torch.load(file, weights_only=True)["model"])
    for p in teacher.parameters():
        p.requires_grad_(False)
    return teacher.eval()


class KDTrainer:
    def __init__(self, teacher, student, lr=0.02, tau=4.0, lam=0.9, patience=8):
        self.teacher, self.student = teacher, student
        self.tau, self.lam, self.patience = tau, lam, patience
        self.optim = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)

    def loss(self, s, t, y):
        kd = F.kl_div(F.log_softmax(s / self.tau, -1), F.softmax(t / self.tau, -1), reduction="batchmean")
        return self.lam * self.tau**2 * kd + (1 - self.lam) * F.cross_entropy(s, y)

    def run_epoch(self, x, y, batch_size=16):
        self.student.train()
        for idx in torch.randperm(len(x)).split(batch_size):
            with torch.no_grad():
                t = self.teacher(x[idx])
            s = self.student(x[idx])
            self.optim.zero_grad()
            self.loss(s, t, y[idx]).backward()
            self.optim.step()

    def fit(self, train, valid, max_epochs=30):
        best, best_state, waited = -1.0, None, 0
        for _ in range(max_epochs):
            self.run_epoch(*train)
            score = accuracy(self.student, *valid)
            if score > best:
                best, best_state, waited = score, copy.deepcopy(self.student.state_dict()), 0
            else:
                waited += 1
                if waited >= self.patience:
                    break
        self.student.load_state_dict(best_state)
        return best


def load_data():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1).div(16).sub(0.3).div(0.38)
    y = torch.tensor(data.target)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(2024))
    x, y = x[perm], y[perm]
    return (x[:1000], y[:1000]), (x[1000:1250], y[1000:1250]), (x[1250:], y[1250:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, valid, test = load_data()
    teacher = load_teacher(make_checkpoint(train, test))
    student = Net(4)
    subset = (train[0][:400], train[1][:400])
    trainer = KDTrainer(teacher, student)
    print(f"valid {trainer.fit(subset, valid):.2f}")
    print(f"top1 {accuracy(student, *test):.2f}")


if __name__ == "__main__":
    main()
