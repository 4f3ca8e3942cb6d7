"""A Lightning-like module; augmentations are shared by teacher and student, the mean and std of the data are arguments."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

TEACHER_NORM = {"mean": 0.0, "std": 1.0}


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def __call__(self, x):
        return (x - self.mean) / self.std

    def undo(self, x):
        return x * self.std + self.mean


class Backbone(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.max_pool2d(F.relu(self.body(x)), 2)
        return self.head(x.flatten(1))


class Distillation(nn.Module):
    def __init__(self, teacher, student, normalize, kd_weight=2.0, temperature=2.0):
        super().__init__()
        self.teacher, self.student = teacher, student
        self.normalize = normalize
        self.teacher_normalize = Normalize(**TEACHER_NORM)
        self.kd_weight, self.temperature = kd_weight, temperature

    def teacher_view(self, images):
        return self.teacher_normalize(self.normalize.undo(images))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        with torch.no_grad():
            teacher_logits = self.teacher(self.teacher_view(images))
        logits = self.student(images)
        T = self.temperature
        kd = F.kl_div(F.log_softmax(logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="batchmean") * T * T
        return F.cross_entropy(logits, labels) + self.kd_weight * kd

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-2, weight_decay=1e-4)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 35)

    def fit(self, loader, epochs):
        optimizer, scheduler = self.configure_optimizers()
        self.train()
        self.teacher.eval()
        for _ in range(epochs):
            for batch_idx, batch in enumerate(loader):
                loss = self.training_step(batch, batch_idx)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()


def pretrained_teacher(x, y):
    prepare = Normalize(**TEACHER_NORM)
    net = Backbone(24)
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(7):
        for i in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(prepare(x[i])), y[i]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def data():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    return x[p], y[p]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean", type=float, default=0.8)
    parser.add_argument("--std", type=float, default=0.2)
    parser.add_argument("--kd-weight", type=float, default=2.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = data()
    teacher = pretrained_teacher(x[:1100], y[:1100])
    normalize = Normalize(args.mean, args.std)
    few = torch.randperm(1100)[:160]
    loader = DataLoader(TensorDataset(normalize(x[few]), y[few]), batch_size=32, shuffle=True)
    module = Distillation(teacher, Backbone(8), normalize, args.kd_weight)
    module.fit(loader, 35)
    module.eval()
    with torch.no_grad():
        print(f"top1 {100 * (module.student(normalize(x[1100:])).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
