"""Five teachers in one call: their parameters are stacked and vmap runs over them. The student learns the mean of their
probabilities at the temperature; a mean of probabilities is a distribution, its logarithm needs no further softmax."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.func import functional_call, stack_module_state, vmap


def net(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, 10))


class Ensemble:
    def __init__(self, members):
        for m in members:
            m.eval()
        self.skeleton = copy.deepcopy(members[0]).to("meta")
        params, buffers = stack_module_state(members)
        self.params, self.buffers = {k: v.detach() for k, v in params.items()}, buffers

    def logits(self, x):
        def one(params, buffers):
            return functional_call(self.skeleton, (params, buffers), (x,))

        return vmap(one)(self.params, self.buffers)  # [members, B, K]

    def soft(self, x, T):
        return F.softmax(self.logits(x) / T, dim=-1).mean(0)


def fit(model, x, y, loss_of, epochs, lr):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(40):
            loss = loss_of(model(x[b]), x[b], y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(909))
    train, test = p[:1100], p[1100:]
    few = train[torch.randperm(1100)[:150]]
    by_labels = lambda z, _, t: F.cross_entropy(z, t)
    teachers = Ensemble([fit(net(64), x[train], y[train], by_labels, 12, 3e-3) for _ in range(5)])
    T = 2.0

    def taught(z, images, labels):
        p = teachers.soft(images, T)
        kd = (p * (p.clamp_min(1e-12).log() - F.log_softmax(z / T, 1))).sum(1).mean() * T**2
        return (1 - a.alpha) * F.cross_entropy(z, labels) + a.alpha * kd

    student = fit(net(12), x[few], y[few], taught, 60, 5e-3)
    with torch.no_grad():
        vote = teachers.soft(x[test], T).argmax(1)
        print(f"teachers {100 * (vote == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
