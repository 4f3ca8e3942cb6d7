"""One trainer for both nets; everything it does stands in a config."""
import argparse
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

CONFIG = {
    "data": {"classes": 9, "dim": 20, "train": 2400, "few": 240, "test": 1200},
    "teacher": {"width": 128, "epochs": 6, "lr": 0.05},
    "student": {"width": 16, "epochs": 30, "lr": 0.05},
    "schedule": {"step_size": 10, "gamma": 0.3},
    "distill": {"temperature": 3.0, "weight": 0.8},
}


@dataclass
class Recipe:
    epochs: int
    lr: float
    step_size: int = 10**9
    gamma: float = 1.0
    temperature: float = 1.0
    weight: float = 0.0


class Trainer:
    def __init__(self, net, recipe, teacher=None):
        self.net, self.recipe, self.teacher = net, recipe, teacher
        self.optimizer = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, recipe.step_size, recipe.gamma)

    def criterion(self, out, x, y):
        hard = F.cross_entropy(out, y)
        if self.teacher is None:
            return hard
        T, w = self.recipe.temperature, self.recipe.weight
        with torch.inference_mode():
            guide = self.teacher(x).div(T).softmax(-1)
        soft = -(guide.clone() * out.div(T).log_softmax(-1)).sum(-1).mean()
        return torch.lerp(hard, soft * T**2, w)

    def run_epoch(self, loader):
        self.net.train()
        for x, y in loader:
            self.optimizer.zero_grad(set_to_none=True)
            self.criterion(self.net(x), x, y).backward()
            self.optimizer.step()
            self.scheduler.step()

    def fit(self, loader):
        for _ in range(self.recipe.epochs):
            self.run_epoch(loader)
        return self.net.eval()


def make_net(dim, width, classes):
    return nn.Sequential(nn.Linear(dim, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, classes))


def make_data(cfg, seed):
    fixed = torch.Generator().manual_seed(77)
    mean = torch.randn(cfg["classes"], 3, cfg["dim"], generator=fixed) * 0.95
    g = torch.Generator().manual_seed(seed)

    def draw(n):
        y = torch.randint(cfg["classes"], (n,), generator=g)
        k = torch.randint(3, (n,), generator=g)
        return TensorDataset(mean[y, k] + torch.randn(n, cfg["dim"], generator=g), y)

    return draw(cfg["train"]), draw(cfg["few"]), draw(cfg["test"])


def top1(net, dataset):
    x, y = dataset.tensors
    with torch.no_grad():
        return (net(x).argmax(-1) == y).float().mean().item() * 100


def main(cfg=CONFIG):
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=cfg["distill"]["weight"])
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, few, test = make_data(cfg["data"], args.seed)
    d, k = cfg["data"]["dim"], cfg["data"]["classes"]
    plain = Recipe(cfg["teacher"]["epochs"], cfg["teacher"]["lr"])
    teacher = Trainer(make_net(d, cfg["teacher"]["width"], k), plain).fit(DataLoader(train, 64, shuffle=True))
    print(f"teacher {top1(teacher, test):.2f}")
    recipe = Recipe(cfg["student"]["epochs"], cfg["student"]["lr"], **cfg["schedule"])
    recipe = replace(recipe, temperature=cfg["distill"]["temperature"], weight=args.weight)
    student = Trainer(make_net(d, cfg["student"]["width"], k), recipe, teacher).fit(DataLoader(few, 24, shuffle=True))
    print(f"top1 {top1(student, test):.2f}")


if __name__ == "__main__":
    main()
