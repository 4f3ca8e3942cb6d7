"""Mixed-precision distillation in plain functions; gradients are clipped to a norm of one."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.amp import GradScaler, autocast

HALF = torch.bfloat16


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def soft_and_hard(zs, zt, y, t=4.0, weight=0.7):
    soft = F.kl_div((zs / t).log_softmax(1), (zt / t).softmax(1), reduction="batchmean") * t * t
    return weight * soft + (1 - weight) * F.cross_entropy(zs, y)


def optimise(scaler, optimizer, params, loss, max_norm=1.0):
    """One scaled step."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    nn.utils.clip_grad_norm_(params, max_norm)
    scaler.step(optimizer)
    scaler.update()


def distill(student, teacher, x, y, epochs=60, lr=0.05, batch=32, seed=0):
    params = list(student.parameters())
    optimizer = torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True)
    scaler = GradScaler("cpu", init_scale=2.0 ** 14)
    shuffle = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        student.train()
        for rows in torch.randperm(len(x), generator=shuffle).split(batch):
            with autocast("cpu", dtype=HALF):
                zs = student(x[rows])
                with torch.no_grad():
                    zt = teacher(x[rows])
            loss = soft_and_hard(zs.float(), zt.float(), y[rows])
            optimise(scaler, optimizer, params, loss)
        if epoch % 20 == 0:
            print(f"epoch {epoch:3d} loss {loss.item():.3f} scale {scaler.get_scale():.0f}")
    return student


def trained_teacher(x, y, seed):
    torch.manual_seed(seed)
    net = mlp(64, 160, 160, 10)
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(25):
        for rows in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
    net.eval()
    for p in net.parameters():
        p.requires_grad = False
    return net


def new_student(seed):
    torch.manual_seed(1000 + seed)
    return mlp(64, 32, 10)


def top1(net, x, y):
    net.eval()
    with torch.inference_mode():
        return (net(x).argmax(1) == y).double().mean().item() * 100


def data(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float().div(16), torch.from_numpy(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(802))
    rows, rest = p[:1100], p[1100:]
    few = rows[torch.randperm(1100, generator=torch.Generator().manual_seed(seed))[:220]]
    return {"train": (x[rows], y[rows]), "few": (x[few], y[few]), "test": (x[rest], y[rest])}


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    d = data(seed)
    teacher = trained_teacher(*d["train"], seed)
    print(f"teacher {top1(teacher, *d['test']):.2f}")
    student = distill(new_student(seed), teacher, *d["few"], seed=seed)
    print(f"top1 {top1(student, *d['test']):.2f}")
