"""KD with the optimizer fused into backward: one small optimizer per tensor, run by a hook, so that no full set of gradients is ever held."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def make_data():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    return x[p[:1200]], y[p[:1200]], x[p[1200:]], y[p[1200:]]


def mlp(*dims, drop=0.0):
    layers = []
    for i, o in zip(dims[:-2], dims[1:-1]):
        layers += [nn.Linear(i, o), nn.ReLU(), nn.Dropout(drop)]
    return nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1]))


def fuse(model, lr):
    """Gives each parameter its own AdamW; it steps as soon as its gradient is ready, then drops it."""
    table = {p: torch.optim.AdamW([p], lr=lr, weight_decay=1e-3) for p in model.parameters()}

    def hook(p):
        table[p].step()
        table[p].zero_grad(set_to_none=True)

    for p in table:
        p.register_post_accumulate_grad_hook(hook)
    return list(table.values())


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


def fit_teacher(model, x, y, epochs=20):
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            F.cross_entropy(model(x[b]), y[b]).backward()
            opt.step()
    model.requires_grad_(False)
    return model.eval()


def main(argv=None):
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tau", type=float, default=4.0)
    ap.add_argument("--alpha", type=float, default=0.7)
    a = ap.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y, xt, yt = make_data()
    teacher = fit_teacher(mlp(64, 256, 128, 10, drop=0.2), x, y)
    print(f"teacher {accuracy(teacher, xt, yt):.2f}")
    student = mlp(64, 32, 10)
    base, epochs = 8e-3, 25
    fused = fuse(student, base)
    total, step = epochs * 20, 0
    for epoch in range(epochs):
        student.train()
        for b in torch.randperm(len(x)).split(60):
            for o in fused:
                o.param_groups[0]["lr"] = base * 0.5 * (1 + math.cos(math.pi * step / total))
            with torch.no_grad():
                t = teacher(x[b])
            s = student(x[b])
            kd = F.kl_div(F.log_softmax(s / a.tau, 1), F.softmax(t / a.tau, 1), reduction="batchmean") * a.tau ** 2
            loss = a.alpha * kd + (1 - a.alpha) * F.cross_entropy(s, y[b])
            loss.backward()  # the update happens in here
            step += 1
    print(f"top1 {accuracy(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
