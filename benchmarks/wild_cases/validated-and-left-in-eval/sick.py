"""Own trainer with a config; early results are logged by validation after each epoch."""
import argparse
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


@dataclass(frozen=True)
class Config:
    seed: int = 0
    epochs: int = 30
    batch_size: int = 40
    lr: float = 0.03
    momentum: float = 0.9
    temperature: float = 4.0
    kd: float = 0.8


def conv_bn(i, o, stride=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


def cnn(width, dropout):
    return nn.Sequential(
        conv_bn(1, width), conv_bn(width, width, 2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(16 * width, 10)
    )


class KDTrainer:
    def __init__(self, config, teacher, student, train_loader, val_loader):
        self.config, self.teacher, self.student = config, teacher, student
        self.train_loader, self.val_loader = train_loader, val_loader
        self.optimizer = torch.optim.SGD(student.parameters(), lr=config.lr, momentum=config.momentum)
        self.history = []

    def criterion(self, logits, teacher_logits, labels):
        t = self.config.temperature
        kl = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(logits / t, 1), F.softmax(teacher_logits / t, 1))
        return self.config.kd * t * t * kl + (1 - self.config.kd) * F.cross_entropy(logits, labels)

    def training_epoch(self):
        for images, labels in self.train_loader:
            with torch.no_grad():
                teacher_logits = self.teacher(images)
            loss = self.criterion(self.student(images), teacher_logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def validate(self):
        self.student.eval()
        good = [self.student(images).argmax(1).eq(labels) for images, labels in self.val_loader]
        return 100 * torch.cat(good).float().mean().item()

    def fit(self):
        self.teacher.eval()
        self.student.train()
        for epoch in range(self.config.epochs):
            self.training_epoch()
            self.history.append({"epoch": epoch, "val": self.validate(), **asdict(self.config)})
        return self.history[-1]["val"]


def pretrain(net, loader, epochs):
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for images, labels in loader:
            opt.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            opt.step()
    net.eval()
    for p in net.parameters():
        p.requires_grad = False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=Config.seed)
    config = Config(seed=parser.parse_args().seed)
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    d = load_digits()
    full = TensorDataset(torch.tensor(d.images).float().unsqueeze(1) / 16, torch.tensor(d.target))
    pool, val = random_split(full, [1200, 597], generator=torch.Generator().manual_seed(2))
    few, _ = random_split(pool, [200, 1000], generator=torch.Generator().manual_seed(config.seed))
    teacher = cnn(16, 0.2)
    pretrain(teacher, DataLoader(pool, batch_size=60, shuffle=True), 6)
    trainer = KDTrainer(
        config, teacher, cnn(3, 0.0), DataLoader(few, config.batch_size, shuffle=True), DataLoader(val, batch_size=200)
    )
    print(f"top1 {trainer.fit():.2f}")


if __name__ == "__main__":
    main()
