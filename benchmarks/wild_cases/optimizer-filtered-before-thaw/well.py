"""FitNets in two stages: hints for the lower half first (upper half frozen), then soft targets for the whole student."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class HalfNet(nn.Module):
    def __init__(self, low, high):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(64, low), nn.ReLU(), nn.Linear(low, low), nn.ReLU())
        self.upper = nn.Sequential(nn.Linear(low, high), nn.ReLU(), nn.Linear(high, 10))

    def forward(self, x):
        hint = self.lower(x)
        return hint, self.upper(hint)


def freeze(module, frozen=True):
    for p in module.parameters():
        p.requires_grad = not frozen


def stage_hint(teacher, student, regressor, x, opt, epochs):
    for _ in range(epochs):
        student.train()
        for b in torch.randperm(len(x)).split(50):
            with torch.no_grad():
                wanted, _ = teacher(x[b])
            hint, _ = student(x[b])
            loss = F.mse_loss(regressor(hint), wanted)
            opt.zero_grad()
            loss.backward()
            opt.step()


def stage_soft(teacher, student, x, y, opt, epochs, T=4.0, alpha=0.7):
    decay = torch.optim.lr_scheduler.StepLR(opt, step_size=epochs // 2, gamma=0.2)
    for _ in range(epochs):
        student.train()
        for b in torch.randperm(len(x)).split(50):
            with torch.no_grad():
                _, wanted = teacher(x[b])
            _, out = student(x[b])
            kd = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(out / T, dim=1), F.softmax(wanted / T, dim=1))
            loss = alpha * T * T * kd + (1 - alpha) * F.cross_entropy(out, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
        decay.step()


def top1(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x)[1].argmax(1) == y).float().mean().item()


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(12))
    (x, y), (xt, yt) = (x[p[:1000]], y[p[:1000]]), (x[p[1000:]], y[p[1000:]])

    teacher = HalfNet(128, 64)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for _ in range(20):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b])[1], y[b]).backward()
            opt.step()
    teacher.eval()
    freeze(teacher)
    print(f"teacher {top1(teacher, xt, yt):.2f}")

    student, regressor = HalfNet(24, 20), nn.Linear(24, 128)
    freeze(student.upper)
    opt = torch.optim.Adam([p for p in student.parameters() if p.requires_grad] + list(regressor.parameters()), lr=3e-3)
    stage_hint(teacher, student, regressor, x, opt, epochs=15)

    freeze(student.upper, False)
    opt = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=3e-3)
    stage_soft(teacher, student, x, y, opt, epochs=30)
    print(f"top1 {top1(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
