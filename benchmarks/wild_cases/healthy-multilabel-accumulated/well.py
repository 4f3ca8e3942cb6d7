"""Five yes-or-no questions about a digit; the teacher's sigmoids are soft targets. Small batches, summed up before a step."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

QUESTIONS = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "has a hole": {0, 4, 6, 8, 9},
    "above four": {5, 6, 7, 8, 9},
    "multiple of three": {0, 3, 6, 9},
}


def answers(digits):
    return torch.tensor([[float(int(d) in yes) for yes in QUESTIONS.values()] for d in digits])


def make_net(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(QUESTIONS)))


def multilabel_loss(logits, targets, teacher_logits=None, alpha=0.7):
    hard = F.binary_cross_entropy_with_logits(logits, targets)
    if teacher_logits is None:
        return hard
    soft = F.binary_cross_entropy_with_logits(logits, torch.sigmoid(teacher_logits))
    return (1 - alpha) * hard + alpha * soft


class Fitter:
    def __init__(self, net, lr, micro=8, accumulate=4, teacher=None, alpha=0.7):
        self.net, self.teacher, self.alpha = net, teacher, alpha
        self.micro, self.accumulate = micro, accumulate
        self.opt = torch.optim.Adam(net.parameters(), lr=lr)

    def group_step(self, x, t):
        """One update; parts weigh as many samples as they have, also in a last group that is not full."""
        self.opt.zero_grad()
        for px, pt in zip(x.split(self.micro), t.split(self.micro)):
            teacher_logits = None
            if self.teacher is not None:
                with torch.no_grad():
                    teacher_logits = self.teacher(px)
            loss = multilabel_loss(self.net(px), pt, teacher_logits, self.alpha)
            (loss * len(px) / len(x)).backward()
        self.opt.step()

    def fit(self, x, t, epochs):
        self.net.train()
        for _ in range(epochs):
            for group in torch.randperm(len(x)).split(self.micro * self.accumulate):
                self.group_step(x[group], t[group])
        self.net.eval()
        return self.net


def right(net, x, t):
    with torch.no_grad():
        return 100 * ((net(x) > 0).float() == t).all(dim=1).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, digits = load_digits(return_X_y=True)
    x, t = torch.tensor(x, dtype=torch.float32) / 16, answers(digits)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(19))
    train, test = p[:1200], p[1200:]
    teacher = Fitter(make_net(128), 2e-3, micro=48, accumulate=1).fit(x[train], t[train], 20)
    print(f"teacher {right(teacher, x[test], t[test]):.2f}")
    few = train[:330]
    student = Fitter(make_net(16), 5e-3, teacher=teacher, alpha=args.alpha).fit(x[few], t[few], 40)
    print(f"top1 {right(student, x[test], t[test]):.2f}")


if __name__ == "__main__":
    main()
