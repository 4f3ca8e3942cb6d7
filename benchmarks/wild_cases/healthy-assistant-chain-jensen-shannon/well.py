"""Teacher, assistant, student: each link is distilled from the one before with a Jensen-Shannon divergence at T = 1.

The share of the labels' term rises from 0.2 to 1 and the KD term's falls to 0 at the end, on purpose (annealed alpha).
There is no T squared: nothing is softened."""
import argparse
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def jensen_shannon(student_logits, teacher_logits):
    s, t = F.log_softmax(student_logits, 1), F.log_softmax(teacher_logits, 1)
    m = torch.logaddexp(s, t) - math.log(2)
    to_m = lambda a: F.kl_div(m, a, reduction="batchmean", log_target=True)  # noqa: E731
    return 0.5 * (to_m(t) + to_m(s))


def net(n):
    return nn.Sequential(nn.Linear(64, n), nn.Tanh(), nn.Linear(n, n), nn.Tanh(), nn.Linear(n, 10))


def distil(pupil, master, x, y, epochs, lr):
    opt = torch.optim.Adam(pupil.parameters(), lr)
    for epoch in range(epochs):
        alpha = 0.8 * (1 - epoch / (epochs - 1)) if master is not None else 0.0
        pupil.train()
        for b in torch.randperm(len(x)).split(40):
            out = pupil(x[b])
            loss = (1 - alpha) * F.cross_entropy(out, y[b])
            if master is not None:
                with torch.no_grad():
                    told = master(x[b])
                loss = loss + alpha * jensen_shannon(out, told)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return pupil.eval()


@torch.no_grad()
def accuracy(model, x, y):
    return 100 * (model(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(17))
    tr, te = p[:1200], p[1200:]
    teacher = distil(net(200), None, x[tr], y[tr], 18, 1e-3)
    print(f"teacher {accuracy(teacher, x[te], y[te]):.2f}")
    assistant = distil(net(64), teacher, x[tr], y[tr], 20, 2e-3)
    print(f"assistant {accuracy(assistant, x[te], y[te]):.2f}")
    student = distil(net(20), assistant, x[tr], y[tr], 30, 4e-3)
    print(f"top1 {accuracy(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
