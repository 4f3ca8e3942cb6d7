"""Each term is sent back on its own; gradients add up over four small batches; the odd rest makes a step too."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Gathered:
    """Collects gradients of several calls; the step divides by the number of images seen."""

    def __init__(self, parameters, lr, every):
        self.parameters = list(parameters)
        self.optimizer = torch.optim.SGD(self.parameters, lr=lr, momentum=0.9)
        self.every, self.calls, self.images = every, 0, 0

    def add(self, *summed_terms, images):
        for i, term in enumerate(summed_terms):
            term.backward(retain_graph=i + 1 < len(summed_terms))
        self.calls += 1
        self.images += images
        if self.calls == self.every:
            self.flush()

    def flush(self):
        if not self.calls:
            return
        for p in self.parameters:
            p.grad.div_(self.images)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.calls = self.images = 0


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(920))
    x, y = x[p], y[p]
    teacher = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(10):
        for b in torch.randperm(1100).split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    few = torch.randperm(1100)[:190]
    loader = DataLoader(TensorDataset(x[few], y[few]), batch_size=8, shuffle=True)
    student = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    gathered = Gathered(student.parameters(), lr=0.1, every=4)
    for _ in range(50):
        for images, labels in loader:
            z = student(images)
            with torch.no_grad():
                t = teacher(images)
            soft = 9 * F.kl_div(F.log_softmax(z / 3, 1), F.softmax(t / 3, 1), reduction="sum")
            hard = F.cross_entropy(z, labels, reduction="sum")
            gathered.add(0.7 * soft, 0.3 * hard, images=len(images))
        gathered.flush()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
