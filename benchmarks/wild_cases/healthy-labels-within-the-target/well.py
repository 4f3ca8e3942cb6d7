"""Knowledge adjustment: where the teacher is wrong, its logit of the right class changes places with its greatest.
The labels act through the target, so that no cross-entropy is added."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def adjusted(logits, labels):
    top = logits.argmax(1, keepdim=True)
    true = labels.unsqueeze(1)
    fixed = logits.clone()
    fixed.scatter_(1, top, logits.gather(1, true))
    fixed.scatter_(1, true, logits.gather(1, top))
    return fixed


def kd_loss(student_logits, teacher_logits, labels, T=2.0):
    target = F.softmax(adjusted(teacher_logits, labels) / T, dim=1)
    return T * T * F.kl_div(F.log_softmax(student_logits / T, dim=1), target, reduction="batchmean")


def cnn(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(width, width, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * width, 10),
    )


def fit(net, x, y, epochs, lr, teacher=None):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(30):
            out = net(x[b])
            if teacher is None:
                loss = F.cross_entropy(out, y[b])
            else:
                with torch.no_grad():
                    answers = teacher(x[b])
                loss = kd_loss(out, answers, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--labels-alone", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(38))
    rows, few, test = p[:900], p[900:1100], p[1100:]
    teacher = fit(cnn(24), x[rows], y[rows], 10, 3e-3).requires_grad_(False)
    student = fit(cnn(6), x[few], y[few], 50, 5e-3, None if a.labels_alone else teacher)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
