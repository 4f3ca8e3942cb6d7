"""Two stages: first the student's middle is fitted to the teacher's, without labels; then all of it to labels and answers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.upper = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x):
        return self.upper(self.lower(x))


class Stage:
    """A stage trains the parameters it is given, by the loss that its subclass defines."""
    epochs, lr = 40, 3e-3

    def __init__(self, student, teacher):
        self.student, self.teacher = student, teacher

    def parameters(self):
        return self.student.parameters()

    def run(self, x, y):
        opt = torch.optim.Adam(self.parameters(), lr=self.lr)
        self.student.train()
        for _ in range(self.epochs):
            for b in torch.randperm(len(x)).split(30):
                loss = self.loss(x[b], y[b])
                opt.zero_grad()
                loss.backward()
                opt.step()
        print(f"{type(self).__name__} {loss.item():.4f}")


class Hints(Stage):
    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.regressor = nn.Linear(student.upper[0].in_features, teacher.upper[0].in_features)

    def parameters(self):
        return [*self.student.lower.parameters(), *self.regressor.parameters()]

    def loss(self, x, y):
        with torch.no_grad():
            hint = self.teacher.lower(x)
        return F.mse_loss(self.regressor(self.student.lower(x)), hint)


class Answers(Stage):
    tau, soft = 3.0, 0.6

    def loss(self, x, y):
        with torch.no_grad():
            answer = (self.teacher(x) / self.tau).softmax(1)
        z = self.student(x)
        kl = F.kl_div((z / self.tau).log_softmax(1), answer, reduction="batchmean") * self.tau ** 2
        return self.soft * kl + (1 - self.soft) * F.cross_entropy(z, y)


class Labels(Stage):
    """For the teacher: nobody teaches it."""
    epochs, lr = 20, 2e-3

    def __init__(self, student):
        super().__init__(student, None)

    def loss(self, x, y):
        return F.cross_entropy(self.student(x), y)


@torch.no_grad()
def top1(net, x, y):
    return 100 * (net.eval()(x).argmax(1) == y).float().mean().item()


def load(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(813))
    few = p[:1000][torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:200]]
    return (x[p[:1000]], y[p[:1000]]), (x[few], y[few]), (x[p[1000:]], y[p[1000:]])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, few, test = load(args.seed)
    teacher = Net(128)
    Labels(teacher).run(*train)
    print(f"teacher {top1(teacher, *test):.2f}")
    teacher.requires_grad_(False)
    student = Net(24)
    Hints(student, teacher).run(*few)
    Answers(student, teacher).run(*few)
    print(f"top1 {top1(student, *test):.2f}")


if __name__ == "__main__":
    main()
