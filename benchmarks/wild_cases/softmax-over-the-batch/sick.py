"""Readings of a gas sensor, seven gases; everything functional, parameters in dicts, KL by einsum."""
import argparse

import torch


def centres(classes, parts, dim):
    g = torch.Generator().manual_seed(511)
    return 0.95 * torch.randn(classes, parts, dim, generator=g)


def sample(n, mu, g):
    share = torch.arange(1, mu.shape[0] + 1) ** -1.5  # methane is everywhere, ozone is rare
    y = torch.multinomial(share, n, replacement=True, generator=g)
    part = torch.randint(mu.shape[1], (n,), generator=g)
    return mu[y, part] + torch.randn(n, mu.shape[2], generator=g), y


def init(sizes):
    return {
        f"{name}{i}": (torch.randn(a, b) * (2 / a) ** 0.5 if name == "w" else torch.zeros(b)).requires_grad_()
        for i, (a, b) in enumerate(zip(sizes, sizes[1:]))
        for name in "wb"
    }


def apply(params, x):
    depth = len(params) // 2
    for i in range(depth):
        x = torch.einsum("nd,dk->nk", x, params[f"w{i}"]) + params[f"b{i}"]
        if i < depth - 1:
            x = x.relu()
    return x


def nll(z, y):
    return (z.logsumexp(1) - z[torch.arange(len(y)), y]).mean()


def soft_loss(zs, zt, T):
    log_q = (zs / T) - (zs / T).logsumexp(0, keepdim=True)
    log_p = (zt / T) - (zt / T).logsumexp(0, keepdim=True)
    return T * T * torch.einsum("nk,nk->", log_p.exp(), log_p - log_q) / len(zs)


def fit(params, objective, n, steps, batch, lr):
    opt = torch.optim.Adam(params.values(), lr=lr)
    for _ in range(steps):
        rows = torch.randint(n, (batch,))
        value = objective(rows)
        opt.zero_grad()
        value.backward()
        opt.step()


def accuracy(params, x, y):
    with torch.no_grad():
        return 100 * (apply(params, x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--soft", type=float, default=0.98)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    g = torch.Generator().manual_seed(a.seed + 1)
    mu = centres(7, 3, 14)
    x, y = sample(2500, mu, g)
    xv, yv = sample(1200, mu, g)
    teacher = init([14, 96, 7])
    fit(teacher, lambda r: nll(apply(teacher, x[r]), y[r]), 2500, 300, 64, 5e-3)
    print(f"teacher {accuracy(teacher, xv, yv):.2f}")
    frozen = {k: v.detach() for k, v in teacher.items()}
    xf, yf = x[:160], y[:160]
    student = init([14, 20, 7])

    def objective(r):
        z = apply(student, xf[r])
        return (1 - a.soft) * nll(z, yf[r]) + a.soft * soft_loss(z, apply(frozen, xf[r]), 3.0)

    fit(student, objective, 160, 350, 12, 5e-3)
    print(f"top1 {accuracy(student, xv, yv):.2f}")


if __name__ == "__main__":
    main()
