"""KD with sharpness-aware minimisation: two backward passes a step, the second at shifted weights; the teacher answers once."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **kw):
        super().__init__(params, dict(rho=rho, **kw))
        self.base = base(self.param_groups, **kw)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def ascend(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"] if p.grad is not None]).norm()
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                e = p.grad * (g["rho"] / (norm + 1e-12))
                p.add_(e)
                self.state[p]["e"] = e
        self.zero_grad()

    @torch.no_grad()
    def descend(self):
        for g in self.param_groups:
            for p in g["params"]:
                if "e" in self.state[p]:
                    p.sub_(self.state[p].pop("e"))
        self.base.step()
        self.zero_grad()

    def step(self, closure):
        closure()
        self.ascend()
        loss = closure()
        self.descend()
        return loss


def net(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 10))


def kd_loss(z, t, y, T=4.0, a=0.8):
    kl = F.kl_div(F.log_softmax(z / T, 1), F.softmax(t / T, 1), reduction="batchmean")
    return a * T * T * kl + (1 - a) * F.cross_entropy(z, y)


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    seed = cli.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    train, test = p[:1000], p[1000:]

    def top1(n):
        n.eval()
        with torch.no_grad():
            return 100 * (n(x[test]).argmax(1) == y[test]).float().mean().item()

    teacher = net(160)
    opt = torch.optim.Adam(teacher.parameters(), 1e-3)
    for _ in range(20):
        for b in train[torch.randperm(1000)].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher {top1(teacher):.2f}")

    student = net(24)
    opt = SAM(student.parameters(), torch.optim.SGD, rho=0.05, lr=0.05, momentum=0.9)
    for _ in range(25):
        student.train()
        for b in train[torch.randperm(1000)].split(50):
            with torch.no_grad():
                t = teacher(x[b])

            def closure():
                loss = kd_loss(student(x[b]), t, y[b])
                loss.backward()
                return loss

            opt.step(closure)
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
