"""Feature distillation by hooks: a tap on one layer of each net, and a projector between them."""
import argparse
from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


def conv_net(c, last):
    return nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(1, c, 3, padding=1), act1=nn.ReLU(), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(c, last, 3, padding=1), act2=nn.ReLU(), pool2=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(), head=nn.Linear(4 * last, 10)))


class Tap:
    """Keeps what a named layer gave in the latest pass."""

    def __init__(self, model, name):
        self.out = None
        self.handle = dict(model.named_modules())[name].register_forward_hook(self)

    def __call__(self, module, inputs, output):
        self.out = output.detach()

    def close(self):
        self.handle.remove()


class HintLoss(nn.Module):
    def __init__(self, c_student, c_teacher):
        super().__init__()
        self.project = nn.Conv2d(c_student, c_teacher, 1)

    def forward(self, fs, ft):
        return F.mse_loss(self.project(fs), ft)


class FeatureDistiller:
    def __init__(self, student, teacher, layer="act2", beta=1.0, lr=6e-3):
        self.student, self.teacher, self.beta = student, teacher, beta
        self.tap_s, self.tap_t = Tap(student, layer), Tap(teacher, layer)
        self.hint = HintLoss(student.conv2.out_channels, teacher.conv2.out_channels)
        self.optimizer = torch.optim.AdamW([*student.parameters(), *self.hint.parameters()], lr=lr)

    def step(self, x, y):
        with torch.no_grad():
            self.teacher(x)
        logits = self.student(x)
        losses = {"ce": F.cross_entropy(logits, y), "hint": self.beta * self.hint(self.tap_s.out, self.tap_t.out)}
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        return {k: v.item() for k, v in losses.items()}


def fit_teacher(x, y, seed):
    torch.manual_seed(seed)
    teacher = conv_net(16, 32)
    opt = torch.optim.AdamW(teacher.parameters(), lr=4e-3)
    for _ in range(12):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    return teacher.eval().requires_grad_(False)


def make(seed, x, y):
    teacher = fit_teacher(x, y, seed)
    torch.manual_seed(seed + 7)
    return FeatureDistiller(conv_net(6, 12), teacher)


def load(seed):
    d = load_digits()
    x, y = torch.tensor(d.images).float().unsqueeze(1) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(803))
    few = p[:1000][torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:240]]
    return [(x[i], y[i]) for i in (p[:1000], few, p[1000:])]


@torch.no_grad()
def score(model, x, y):
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item() * 100


def main(seed):
    train, few, test = load(seed)
    distiller = make(seed, *train)
    print(f"teacher {score(distiller.teacher, *test):.2f}")
    for epoch in range(60):
        distiller.student.train()
        for b in torch.randperm(len(few[0])).split(20):
            log = distiller.step(few[0][b], few[1][b])
        if epoch % 20 == 0:
            print(" ".join(f"{k}={v:.3f}" for k, v in log.items()))
    distiller.tap_s.close(), distiller.tap_t.close()
    print(f"top1 {score(distiller.student, *test):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", default=0, type=int)
    torch.set_num_threads(1)
    main(parser.parse_args().seed)
