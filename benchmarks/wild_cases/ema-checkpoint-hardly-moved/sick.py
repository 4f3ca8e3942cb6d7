"""Born again: the teacher's averaged weights are saved, then teach a net of half the width."""
import argparse
import copy
import os
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class ModelEmaV2(nn.Module):
    """Moving average of everything in the model's state_dict."""

    def __init__(self, model, decay=0.9998):
        super().__init__()
        self.module = copy.deepcopy(model).eval()
        self.decay = decay
        self.updates = 0

    def get_decay(self):
        return self.decay

    @torch.no_grad()
    def update(self, model):
        self.updates += 1
        d = self.get_decay()
        for ema_v, v in zip(self.module.state_dict().values(), model.state_dict().values()):
            if ema_v.dtype.is_floating_point:
                ema_v.copy_(ema_v * d + (1 - d) * v)
            else:
                ema_v.copy_(v)


class Residual(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self, dim=16, depth=1, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, dim, 3, 2, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU())
        self.layers = nn.Sequential(*[Residual(dim) for _ in range(depth)])
        self.fc = nn.Linear(dim * 4, num_classes)

    def forward(self, x):
        x = self.layers(self.stem(x))
        return self.fc(F.avg_pool2d(x, 2).flatten(1))


def create_model(name, checkpoint_path="", use_ema=True):
    model = {"resnet_d16": ResNet, "resnet_d8": lambda: ResNet(6)}[name]()
    if checkpoint_path:
        load_checkpoint(model, checkpoint_path, use_ema)
    return model


def load_checkpoint(model, path, use_ema=True):
    checkpoint = torch.load(path)
    key = "state_dict_ema" if use_ema and "state_dict_ema" in checkpoint else "state_dict"
    model.load_state_dict(checkpoint[key], strict=True)
    print(f"=> loaded {key} of '{os.path.basename(path)}' (epoch {checkpoint['epoch']})")


@torch.no_grad()
def evaluate(model, x, y):
    was_training = model.training
    model.eval()
    acc = (model(x).argmax(1) == y).float().mean().item() * 100
    model.train(was_training)
    return acc


class SoftCrossEntropy(nn.Module):
    def __init__(self, T=3.0):
        super().__init__()
        self.T = T

    def forward(self, logits, teacher_logits):
        target = F.softmax(teacher_logits / self.T, dim=-1)
        return -(target * F.log_softmax(logits / self.T, dim=-1)).sum(-1).mean() * self.T**2


def train_generation(model, x, y, test, epochs, lr, batch, teacher=None, ema=None, kd_weight=0.8):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    soft = SoftCrossEntropy()
    for epoch in range(epochs):
        model.train()
        for i in torch.randperm(len(x)).split(batch):
            logits = model(x[i])
            loss = F.cross_entropy(logits, y[i], label_smoothing=0.0 if teacher else 0.05)
            if teacher is not None:
                with torch.no_grad():
                    t_logits = teacher(x[i])
                loss = (1 - kd_weight) * loss + kd_weight * soft(logits, t_logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if ema is not None:
                ema.update(model)
        scheduler.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1} loss {loss.item():.3f} acc {evaluate(model, *test):.2f}")


def first_generation(x, y, test, path, epochs=10):
    model = create_model("resnet_d16")
    ema = ModelEmaV2(model)
    train_generation(model, x, y, test, epochs, lr=0.05, batch=50, ema=ema)
    torch.save({"epoch": epochs, "state_dict": model.state_dict(), "state_dict_ema": ema.module.state_dict()}, path)


def second_generation(x, y, test, path, epochs=40):
    teacher = create_model("resnet_d16", checkpoint_path=path).eval().requires_grad_(False)
    student = create_model("resnet_d8")
    train_generation(student, x, y, test, epochs, lr=0.03, batch=25, teacher=teacher)
    return student


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16.0, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(9))
    train, test = order[:1000], order[1000:]
    few = train[:200]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model_best.pth.tar")
        first_generation(x[train], y[train], (x[test], y[test]), path)
        student = second_generation(x[few], y[few], (x[test], y[test]), path)
    print(f"top1 {evaluate(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
