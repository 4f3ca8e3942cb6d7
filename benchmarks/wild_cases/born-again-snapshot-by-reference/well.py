"""Born-again networks: each generation is taught by the one before it."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def make_net():
    return nn.Sequential(nn.Linear(64, 80), nn.LayerNorm(80), nn.SiLU(), nn.Dropout(0.1), nn.Linear(80, 80), nn.SiLU(), nn.Linear(80, 10))


def fresh(module):
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


class BornAgain:
    def __init__(self, x, y, generations=3, epochs=20, weight=0.9, lr=2e-3):
        self.x, self.y = x, y
        self.generations, self.epochs, self.weight, self.lr = generations, epochs, weight, lr
        self.student, self.teacher = make_net(), make_net()
        self.has_teacher = False

    def objective(self, b):
        out = self.student(self.x[b])
        hard = F.cross_entropy(out, self.y[b])
        if not self.has_teacher:
            return hard
        with torch.no_grad():
            wanted = self.teacher(self.x[b]).softmax(-1)
        soft = -(wanted * out.log_softmax(-1)).sum(-1).mean()
        return self.weight * soft + (1 - self.weight) * hard

    def generation(self):
        opt = torch.optim.AdamW(self.student.parameters(), lr=self.lr)
        sched = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.1, total_iters=self.epochs)
        for _ in range(self.epochs):
            self.student.train()
            for b in torch.randperm(len(self.x)).split(64):
                loss = self.objective(b)
                opt.zero_grad()
                loss.backward()
                opt.step()
            sched.step()

    def run(self, report):
        for g in range(self.generations):
            if g:
                learnt = {k: v.clone() for k, v in self.student.state_dict().items()}
                self.student.apply(fresh)
                self.teacher.load_state_dict(learnt)
                self.teacher.eval()
                self.has_teacher = True
            self.generation()
            report(g, self.student)
        return self.student


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    seed = cli.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    xa, xb, ya, yb = train_test_split(x.astype("float32") / 16, y, test_size=600, random_state=14, stratify=y)
    xa, xb, ya, yb = map(torch.from_numpy, (xa, xb, ya, yb))

    def top1(net):
        net.eval()
        with torch.no_grad():
            return 100 * (net(xb).argmax(-1) == yb).double().mean().item()

    net = BornAgain(xa, ya).run(lambda g, n: print(f"generation {g}: {top1(n):.2f}"))
    print(f"top1 {top1(net):.2f}")


if __name__ == "__main__":
    main()
