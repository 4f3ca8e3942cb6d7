"""Whole-batch distillation with L-BFGS. The teacher is no module any more: a dict of tensors run by functional_call."""
import argparse
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F


def teacher_of(x, y):
    skeleton = nn.Sequential(nn.Linear(64, 160), nn.Tanh(), nn.Linear(160, 10))
    opt = torch.optim.Adam(skeleton.parameters(), lr=2e-3)
    for _ in range(20):
        for b in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(skeleton(x[b]), y[b]).backward()
            opt.step()
    frozen = {k: v.detach().clone() for k, v in skeleton.state_dict().items()}
    return partial(functional_call, skeleton.to("meta"), frozen)


def gap(student_logits, teacher_logits, T=2.0):
    q, p = (student_logits / T).log_softmax(1), (teacher_logits / T).log_softmax(1)
    return F.kl_div(q, p, log_target=True, reduction="sum") / len(q) * T**2


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16 - 0.3, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(7001))
    train, test = p[:1000], p[1000:]
    ask = teacher_of(x[train], y[train])
    few = train[torch.randperm(1000)[:100]]

    student = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    opt = torch.optim.LBFGS(student.parameters(), lr=1.0, max_iter=40, history_size=20, line_search_fn="strong_wolfe")
    told = ask((x[train],))
    decay = 1e-3

    def closure():
        opt.zero_grad()
        loss = gap(student(x[train]), told) + 0.1 * F.cross_entropy(student(x[few]), y[few])
        loss = loss + decay * sum(w.square().sum() for w in student.parameters())
        loss.backward()
        return loss

    for _ in range(8):
        opt.step(closure)
    with torch.no_grad():
        print(f"teacher {100 * (ask((x[test],)).argmax(1) == y[test]).float().mean():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean():.2f}")


if __name__ == "__main__":
    main()
