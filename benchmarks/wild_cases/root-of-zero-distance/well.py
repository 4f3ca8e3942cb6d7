"""Relations between the images of a batch: the student's distances are to look like the teacher's."""
import argparse
from types import SimpleNamespace

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


def distances(e):
    squared = (e.unsqueeze(0) - e.unsqueeze(1)).square().sum(-1)
    d = squared.clamp(min=1e-12).sqrt()
    off = ~torch.eye(len(e), dtype=torch.bool)
    return d / d[off].mean()


def relation_loss(student_e, teacher_e):
    with torch.no_grad():
        wanted = distances(teacher_e)
    return F.smooth_l1_loss(distances(student_e), wanted)


class Embedder(nn.Module):
    def __init__(self, hidden, size):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, hidden), nn.PReLU(), nn.Linear(hidden, size))
        self.scores = nn.Linear(size, 10)

    def forward(self, x):
        e = self.trunk(x)
        return SimpleNamespace(embedding=e, logits=self.scores(e))


class Teaching:
    def __init__(self, teacher, student, gamma=10.0, kd=0.5, T=2.0):
        self.teacher, self.student, self.gamma, self.kd, self.T = teacher, student, gamma, kd, T
        self.history = {"label": [], "soft": [], "relation": []}

    def terms(self, x, y):
        with torch.no_grad():
            t = self.teacher(x)
        s = self.student(x)
        soft = F.kl_div(
            F.log_softmax(s.logits / self.T, -1), F.softmax(t.logits / self.T, -1), reduction="batchmean"
        )
        return {
            "label": F.cross_entropy(s.logits, y),
            "soft": self.kd * self.T**2 * soft,
            "relation": self.gamma * relation_loss(s.embedding, t.embedding),
        }

    def go(self, x, y, epochs, lr):
        opt = torch.optim.Adam(self.student.parameters(), lr=lr)
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(30):
                terms = self.terms(x[b], y[b])
                for name, value in terms.items():
                    self.history[name].append(value.item())
                opt.zero_grad()
                sum(terms.values()).backward()
                opt.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(914))
    (x, xt), (y, yt) = x[p].split([1100, 697]), y[p].split([1100, 697])

    teacher = Embedder(128, 24)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(10):
        for b in torch.randperm(1100).split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]).logits, y[b]).backward()
            opt.step()
    few = torch.randperm(1100)[:150]
    teaching = Teaching(teacher.eval(), Embedder(12, 8))
    teaching.go(x[few], y[few], epochs=50, lr=8e-3)
    with torch.no_grad():
        scores = [100 * (m(xt).logits.argmax(1) == yt).float().mean().item() for m in (teacher, teaching.student)]
    print(f"teacher {scores[0]:.2f}")
    print(f"top1 {scores[1]:.2f}")


if __name__ == "__main__":
    main()
