"""Feature distillation: hooks collect the feature maps of both nets, 1x1 convs inside the loss bring them to one width."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.SiLU())


class Net(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.stage1 = block(1, w)
        self.stage2 = block(w, 2 * w)
        self.head = nn.Linear(8 * w, 10)

    def forward(self, x):
        x = F.max_pool2d(self.stage1(x), 2)
        x = self.stage2(x)
        return self.head(F.max_pool2d(x, 2).flatten(1))


class FeatureLoss(nn.Module):
    def __init__(self, channels_s, channels_t):
        super().__init__()
        self.align = nn.ModuleList(nn.Conv2d(s, t, 1) for s, t in zip(channels_s, channels_t))
        self.norm = nn.ModuleList(nn.BatchNorm2d(t, affine=False) for t in channels_t)

    def forward(self, feats_s, feats_t):
        loss = 0.0
        for s, t, align, norm in zip(feats_s, feats_t, self.align, self.norm):
            loss = loss + F.mse_loss(norm(align(s)), norm(t))
        return loss / len(feats_s)


class Hooks:
    def __init__(self, model, layers):
        self.out = []
        self.handles = [getattr(model, n).register_forward_hook(self.keep) for n in layers]

    def keep(self, module, args, output):
        self.out.append(output)

    def pop(self):
        out, self.out = self.out, []
        return out

    def remove(self):
        for h in self.handles:
            h.remove()


class Trainer:
    def __init__(self, model, teacher=None, weight=1.0, lr=0.02):
        self.model, self.teacher, self.weight = model, teacher, weight
        self.feature_loss = None
        if teacher is not None:
            layers = ["stage1", "stage2"]
            self.hook_s, self.hook_t = Hooks(model, layers), Hooks(teacher, layers)
            self.feature_loss = FeatureLoss([6, 12], [32, 64])
        self.optimizer = self.build_optimizer(lr)

    def build_optimizer(self, lr):
        decay, rest = [], []
        modules = [self.model] + ([self.feature_loss] if self.feature_loss is not None else [])
        for m in modules:
            for p in m.parameters():
                (decay if p.ndim > 1 else rest).append(p)
        return torch.optim.SGD(
            [{"params": decay, "weight_decay": 5e-4}, {"params": rest}], lr=lr, momentum=0.9, nesterov=True
        )

    def train_batch(self, x, y):
        loss = F.cross_entropy(self.model(x), y)
        if self.teacher is not None:
            with torch.no_grad():
                self.teacher(x)
            loss = loss + self.weight * self.feature_loss(self.hook_s.pop(), self.hook_t.pop())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def fit(self, x, y, epochs, batch=32):
        self.model.train()
        for _ in range(epochs):
            for i in torch.randperm(len(x)).split(batch):
                self.train_batch(x[i], y[i])


def data(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(31))
    return x[p[:1100]], y[p[:1100]], x[p[1100:]], y[p[1100:]]


def top1(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=1.0)
    opt = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    x, y, xt, yt = data(opt.seed)
    teacher = Net(32)
    Trainer(teacher).fit(x, y, 5)
    print(f"teacher {top1(teacher, xt, yt):.2f}")
    teacher.requires_grad_(False)
    few = torch.randperm(len(x))[:200]
    student = Net(6)
    Trainer(student, teacher, opt.weight).fit(x[few], y[few], 25)
    print(f"top1 {top1(student, xt, yt):.2f}")
