"""The batch is cut in parts of uneven size; each part's loss is a sum over the whole batch's count, so the cut changes nothing."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def part_loss(student_logits, teacher_logits, labels, total, t=4.0, alpha=0.6):
    """A part's share of the batch's mean loss."""
    kl = F.kl_div(F.log_softmax(student_logits / t, 1), F.log_softmax(teacher_logits / t, 1), reduction="sum", log_target=True)
    ce = F.cross_entropy(student_logits, labels, reduction="sum")
    return (alpha * t ** 2 * kl + (1 - alpha) * ce) / total


class Accumulator:
    """Collects the gradient of a batch that does not fit at once; room is given in rows."""

    def __init__(self, student, teacher, optimizer, room=14):
        self.student, self.teacher, self.optimizer, self.room = student, teacher, optimizer, room

    def batch(self, x, y):
        value = 0.0
        for xp, yp in zip(x.split(self.room), y.split(self.room)):
            with torch.no_grad():
                zt = self.teacher(xp)
            loss = part_loss(self.student(xp), zt, yp, total=len(x))
            loss.backward()
            value += loss.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value


def make(width):
    return nn.Sequential(nn.Linear(64, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 10))


def teach(x, y):
    net = make(160)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(15):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(814))
    train, test = p[:1000], p[1000:]
    teacher = teach(x[train], y[train])
    print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
    student, few = make(20), train[torch.randperm(1000)[:200]]
    run = Accumulator(student, teacher, torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9))
    student.train()
    for epoch in range(40):
        for b in few[torch.randperm(len(few))].split(40):
            value = run.batch(x[b], y[b])
        if epoch % 10 == 0:
            print(f"{epoch} {value:.3f}")
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
