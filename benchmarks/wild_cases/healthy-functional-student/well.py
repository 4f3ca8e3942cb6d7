"""The student is a dict of tensors: torch.func for the gradients, momentum written by hand, no optimizer at all."""
import argparse

import torch
from torch import nn
from torch.func import functional_call, grad
from sklearn.datasets import load_digits


def kl_rows(p, log_q):
    return torch.einsum("bc,bc->b", p, p.clamp_min(1e-12).log() - log_q)


def objective(params, net, x, t, y, T, a):
    z = functional_call(net, params, (x,))
    log_q = z / T - torch.logsumexp(z / T, 1, keepdim=True)
    hard = (torch.logsumexp(z, 1) - z.gather(1, y[:, None]).squeeze(1)).mean()
    return (1 - a) * hard + a * T**2 * kl_rows(torch.softmax(t / T, 1), log_q).mean()


def batches(n, size):
    return torch.randperm(n).split(size)


def momentum_step(params, velocity, grads, lr, mu=0.9):
    for k in params:
        velocity[k] = mu * velocity[k] + grads[k]
    return {k: (p - lr * velocity[k]).detach() for k, p in params.items()}, velocity


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(71))
    x, y, xt, yt = x[p[:1000]], y[p[:1000]], x[p[1000:]], y[p[1000:]]

    teacher = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10))
    opt = torch.optim.Adam(teacher.parameters(), 3e-3)
    for _ in range(20):
        for b in batches(1000, 50):
            opt.zero_grad()
            nn.functional.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.eval()
    with torch.no_grad():
        answers = teacher(x)

    skeleton = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))
    params = {k: v.detach().clone() for k, v in skeleton.named_parameters()}
    velocity = {k: torch.zeros_like(v) for k, v in params.items()}
    gradient = grad(objective)
    epochs = 30
    for e in range(epochs):
        lr = 0.05 * (1 - e / epochs)
        for b in batches(1000, 50):
            g = gradient(params, skeleton, x[b], answers[b], y[b], 2.0, 0.7)
            params, velocity = momentum_step(params, velocity, g, lr)

    with torch.no_grad():
        hit = functional_call(skeleton, params, (xt,)).argmax(1) == yt
    print(f"top1 {100 * hit.float().mean().item():.2f}")


if __name__ == "__main__":
    main()
