"""Lightning-like module (training_step, validation_step, configure_optimizers) under a small hand-made trainer."""
import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class LightningLikeModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.logged = {}

    def log(self, name, value, n=1):
        total, count = self.logged.get(name, (0.0, 0))
        self.logged[name] = (total + float(value) * n, count + n)

    def averages(self):
        out = {k: t / c for k, (t, c) in self.logged.items()}
        self.logged = {}
        return out


def backbone(width):
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * width, 10))


class LitClassifier(LightningLikeModule):
    def __init__(self, width, lr, max_epochs):
        super().__init__()
        self.net, self.lr, self.max_epochs = backbone(width), lr, max_epochs

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss.detach(), len(y))
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean(), len(y))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.lr, weight_decay=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.max_epochs)]


class LitDistiller(LightningLikeModule):
    def __init__(self, teacher, student, lr, max_epochs, temperature=3.0, alpha=0.7):
        super().__init__()
        self.teacher, self.student = teacher, student
        self.lr, self.max_epochs, self.temperature, self.alpha = lr, max_epochs, temperature, alpha
        for p in self.teacher.parameters():
            p.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x):
        return self.student(x)

    def distillation_loss(self, student_logits, teacher_logits):
        T = self.temperature
        return F.kl_div(F.log_softmax(student_logits / T, dim=1), F.log_softmax(teacher_logits / T, dim=1),
                        reduction="batchmean", log_target=True) * T * T

    def training_step(self, batch, batch_idx):
        x, y = batch
        student_logits = self(x)
        with torch.no_grad():
            teacher_logits = self.teacher(x)
        hard = F.cross_entropy(student_logits, y)
        soft = self.distillation_loss(student_logits, teacher_logits)
        loss = (1 - self.alpha) * hard + self.alpha * soft
        self.log("train_hard", hard.detach(), len(y))
        self.log("train_soft", soft.detach(), len(y))
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean(), len(y))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=self.lr, weight_decay=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.max_epochs)]


class MiniTrainer:
    def __init__(self, max_epochs, gradient_clip_val=None):
        self.max_epochs, self.gradient_clip_val = max_epochs, gradient_clip_val
        self.best, self.best_state = -1.0, None

    def fit(self, module, train_loader, val_loader):
        (optimizer,), (scheduler,) = module.configure_optimizers()
        for epoch in range(self.max_epochs):
            module.train()
            for i, batch in enumerate(train_loader):
                optimizer.zero_grad()
                module.training_step(batch, i).backward()
                if self.gradient_clip_val:
                    nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], self.gradient_clip_val)
                optimizer.step()
            scheduler.step()
            logs = {**module.averages(), **self.validate(module, val_loader)}
            print(epoch, {k: round(v, 4) for k, v in logs.items()})
            if logs["val_acc"] >= self.best:
                self.best, self.best_state = logs["val_acc"], copy.deepcopy(module.state_dict())
        module.load_state_dict(self.best_state)

    @torch.no_grad()
    def validate(self, module, loader):
        module.eval()
        for i, batch in enumerate(loader):
            module.validation_step(batch, i)
        return module.averages()


def loaders():
    x, y = load_digits(return_X_y=True)
    x_fit, x_test, y_fit, y_test = train_test_split(x, y, test_size=400, random_state=1, stratify=y)
    x_train, x_val, y_train, y_val = train_test_split(x_fit, y_fit, test_size=200, random_state=1, stratify=y_fit)

    def ds(a, b):
        return TensorDataset(torch.tensor(a, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(b))
    return (DataLoader(ds(x_train, y_train), batch_size=64, shuffle=True, drop_last=True),
            DataLoader(ds(x_val, y_val), batch_size=200), DataLoader(ds(x_test, y_test), batch_size=200))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train_loader, val_loader, test_loader = loaders()

    teacher = LitClassifier(width=20, lr=4e-3, max_epochs=8)
    MiniTrainer(8).fit(teacher, train_loader, val_loader)

    module = LitDistiller(teacher.net, backbone(6), lr=1e-2, max_epochs=16)
    trainer = MiniTrainer(16, gradient_clip_val=5.0)
    trainer.fit(module, train_loader, val_loader)
    print("top1 %.2f" % (100 * trainer.validate(module, test_loader)["val_acc"]))


if __name__ == "__main__":
    main()
