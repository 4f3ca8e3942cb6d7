"""In two stages: first the student's lower half learns the teacher's middle, with no labels; then all of it learns answers."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Half(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.upper = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x):
        return self.upper(self.lower(x))


def stage(parameters, objective, rows, epochs, lr):
    opt = torch.optim.Adam(parameters, lr=lr)
    for _ in range(epochs):
        for b in rows[torch.randperm(len(rows))].split(25):
            opt.zero_grad()
            objective(b).backward()
            opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(921))
    train, test = p[:1100], p[1100:]
    few = train[torch.randperm(1100)[:150]]

    teacher = Half(96)
    stage(teacher.parameters(), lambda b: F.cross_entropy(teacher(x[b]), y[b]), train, 6, 2e-3)
    teacher.eval().requires_grad_(False)

    student, regressor = Half(14), nn.Linear(14, 96)
    stage(
        [*student.lower.parameters(), *regressor.parameters()],
        lambda b: F.mse_loss(regressor(student.lower(x[b])), teacher.lower(x[b])),
        few, 30, 8e-3,
    )

    def answers(b):
        z, t = student(x[b]), teacher(x[b])
        soft = F.kl_div((z / 3).log_softmax(1), (t / 3).softmax(1), reduction="batchmean")
        return 0.8 * 9 * soft + 0.2 * F.cross_entropy(z, y[b])

    stage(student.parameters(), answers, few, 70, 8e-3)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
