"""Three terms: labels, the teacher's answers, the teacher's features."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

# labels, answers, features
WEIGHTS = [0.3, 0.7, 0.02]


class Encoder(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.c1 = nn.Conv2d(1, channels, 3, padding=1)
        self.c2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * channels, 10)

    def forward(self, x):
        h = F.relu(self.c1(x))
        h = F.relu(self.c2(h))
        return self.fc(h.flatten(1)), h


class Distiller(nn.Module):
    def __init__(self, teacher, student, channels_t, channels_s, tau=3.0):
        super().__init__()
        self.student = student
        self.regress = nn.Conv2d(channels_s, channels_t, 1)
        self.tau = tau
        object.__setattr__(self, "teacher", teacher)  # no submodule: stays out of parameters() and train()

    def losses(self, x, y):
        s, hs = self.student(x)
        with torch.no_grad():
            t, ht = self.teacher(x)
        labels = F.cross_entropy(s, y)
        answers = self.tau**2 * F.kl_div(
            F.log_softmax(s / self.tau, 1), F.softmax(t / self.tau, 1), reduction="batchmean"
        )
        features = F.mse_loss(self.regress(hs), ht)
        terms = [features, labels, answers]
        return sum(w * term for w, term in zip(WEIGHTS, terms))


def loop(params, objective, rows, epochs, batch, lr):
    opt = torch.optim.Adam(params, lr=lr)
    for _ in range(epochs):
        for b in rows[torch.randperm(len(rows))].split(batch):
            opt.zero_grad(set_to_none=True)
            objective(b).backward()
            opt.step()


def run(seed):
    torch.manual_seed(seed)
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(44))
    train, test = order[:1150], order[1150:]
    few = train[torch.randperm(1150)[:180]]

    def top1(net):
        net.eval()
        with torch.no_grad():
            return 100 * (net(x[test])[0].argmax(1) == y[test]).float().mean().item()

    teacher = Encoder(20)
    loop(teacher.parameters(), lambda b: F.cross_entropy(teacher(x[b])[0], y[b]), train, 8, 50, 3e-3)
    print(f"teacher {top1(teacher):.2f}")
    d = Distiller(teacher, Encoder(3), 20, 3)
    d.train()
    loop(d.parameters(), lambda b: d.losses(x[b], y[b]), few, 60, 30, 3e-3)
    return top1(d.student)


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    print(f"top1 {run(ap.parse_args().seed):.2f}")
