"""Labels, soft answers and hints at three depths, collected by forward hooks."""
import argparse
from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


def tower(width):
    return nn.Sequential(OrderedDict(
        low=nn.Sequential(nn.Linear(64, width), nn.ReLU()),
        mid=nn.Sequential(nn.Linear(width, width), nn.ReLU()),
        high=nn.Sequential(nn.Linear(width, width), nn.ReLU()),
        top=nn.Linear(width, 10),
    ))


class Tap:
    """Keeps what the named parts of a net put out."""

    def __init__(self, net, names):
        self.seen = {}
        for name in names:
            getattr(net, name).register_forward_hook(self.keep(name))

    def keep(self, name):
        def hook(module, inputs, output):
            self.seen[name] = output
        return hook


class HintTrainer:
    depths = ("low", "mid", "high")

    def __init__(self, teacher, student, beta, lr):
        self.teacher, self.student, self.beta = teacher.eval(), student, beta
        self.teacher_tap, self.student_tap = Tap(teacher, self.depths), Tap(student, self.depths)
        s, t = student.top.in_features, teacher.top.in_features
        self.regressors = nn.ModuleDict({d: nn.Linear(s, t) for d in self.depths})
        self.optimizer = torch.optim.Adam(
            [{"params": student.parameters()}, {"params": self.regressors.parameters(), "lr": lr}], lr=lr
        )

    def losses(self, x, y):
        with torch.no_grad():
            answer = self.teacher(x)
        z = self.student(x)
        hints = []
        for d in self.depths:
            wanted = F.normalize(self.teacher_tap.seen[d], dim=1)
            hints.append((F.normalize(self.regressors[d](self.student_tap.seen[d]), dim=1) - wanted).pow(2).sum(1).mean())
        hint = torch.tensor([h.item() for h in hints]).mean()
        soft = F.kl_div(F.log_softmax(z / 2, 1), F.softmax(answer / 2, 1), reduction="batchmean") * 4
        return F.cross_entropy(z, y), soft, hint

    def step(self, x, y):
        label, soft, hint = self.losses(x, y)
        loss = 0.3 * label + 0.3 * soft + self.beta * hint
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--beta", type=float, default=1.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(915))
    train, test = p[:1100], p[1100:]
    teacher = tower(96)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        for b in train[torch.randperm(1100)].split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    few = train[torch.randperm(1100)[:150]]
    trainer = HintTrainer(teacher, tower(14), args.beta, lr=5e-3)
    for epoch in range(60):
        losses = [trainer.step(x[b], y[b]) for b in few[torch.randperm(150)].split(15)]
        if epoch % 20 == 0:
            print(f"epoch {epoch} loss {sum(losses) / len(losses):.3f}")
    with torch.no_grad():
        print(f"top1 {100 * (trainer.student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
