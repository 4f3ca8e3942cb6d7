"""Classes arrive in two tasks, in an order drawn once; a teacher that knows all ten (in the usual order) helps in both."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

ORDER = torch.tensor([7, 2, 9, 0, 5, 1, 8, 3, 6, 4])
POSITION = torch.argsort(ORDER)


class Learner(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.heads = nn.ModuleList()

    def add_classes(self, n):
        self.heads.append(nn.Linear(self.features[0].out_features, n))

    def forward(self, x):
        f = self.features(x)
        return torch.cat([head(f) for head in self.heads], 1)


class Incremental:
    """Trains a learner task by task; keeps a few images of each class that it has seen."""

    def __init__(self, teacher, per_task=5, keep=8, tau=3.0, mix=0.5):
        self.teacher, self.learner = teacher, Learner()
        self.per_task, self.keep, self.tau, self.mix = per_task, keep, tau, mix
        self.memory_x, self.memory_y = torch.empty(0, 64), torch.empty(0, dtype=torch.long)

    @torch.no_grad()
    def teacher_answers(self, x):
        """The teacher's logits, with its columns in the order in which the classes arrive."""
        return self.teacher(x)[:, POSITION]

    def loss(self, x, y):
        out = self.learner(x)
        seen = out.shape[1]
        ref = self.teacher_answers(x)[:, :seen]
        kd = F.kl_div((out / self.tau).log_softmax(1), (ref / self.tau).softmax(1), reduction="batchmean") * self.tau ** 2
        return self.mix * kd + (1 - self.mix) * F.cross_entropy(out, y)

    def learn_task(self, x, y, epochs=50):
        self.learner.add_classes(self.per_task)
        x_all, y_all = torch.cat([x, self.memory_x]), torch.cat([y, self.memory_y])
        opt = torch.optim.Adam(self.learner.parameters(), lr=3e-3)
        self.learner.train()
        for _ in range(epochs):
            for b in torch.randperm(len(x_all)).split(25):
                opt.zero_grad()
                self.loss(x_all[b], y_all[b]).backward()
                opt.step()
        for c in y.unique():
            rows = (y == c).nonzero()[: self.keep, 0]
            self.memory_x, self.memory_y = torch.cat([self.memory_x, x[rows]]), torch.cat([self.memory_y, y[rows]])

    @torch.no_grad()
    def predict(self, x):
        self.learner.eval()
        return self.learner(x).argmax(1)


def all_class_teacher(x, digits):
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(15):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), digits[b]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def load():
    x, digits = load_digits(return_X_y=True)
    x, digits = torch.tensor(x).float() / 16, torch.tensor(digits)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(808))
    return (x[p[:1000]], digits[p[:1000]]), (x[p[1000:]], digits[p[1000:]])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    (x, digits), (x_test, digits_test) = load()
    teacher = all_class_teacher(x, digits)
    print(f"teacher {(teacher(x_test).argmax(1) == digits_test).float().mean().item() * 100:.2f}")
    few = torch.randperm(1000)[:300]
    x, y, y_test = x[few], POSITION[digits[few]], POSITION[digits_test]
    run = Incremental(teacher)
    for task in range(2):
        mine = (y // 5) == task
        run.learn_task(x[mine], y[mine])
        known = y_test < 5 * (task + 1)
        print(f"after task {task}: {(run.predict(x_test[known]) == y_test[known]).float().mean().item() * 100:.2f}")
    print(f"top1 {(run.predict(x_test) == y_test).float().mean().item() * 100:.2f}")


if __name__ == "__main__":
    main()
