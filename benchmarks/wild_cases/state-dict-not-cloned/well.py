"""Born again: a net is trained, kept, and its successor of the same shape starts anew with the kept one as teacher."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class Tabular(nn.Module):
    def __init__(self, fields=12, width=32, classes=8):
        super().__init__()
        self.enter = nn.Linear(fields, width)
        self.mix = nn.Linear(width, width)
        self.leave = nn.Linear(width, classes)

    def reset(self):
        for layer in (self.enter, self.mix, self.leave):
            layer.reset_parameters()

    def forward(self, x):
        h = F.elu(self.enter(x))
        return self.leave(h + F.elu(self.mix(h)))


class BornAgain:
    def __init__(self, model, tau=2.0, trust=0.9):
        self.model, self.tau, self.trust = model, tau, trust
        self.teacher = None

    def loss(self, x, y):
        z = self.model(x)
        out = F.cross_entropy(z, y)
        if self.teacher is not None:
            with torch.no_grad():
                p = F.softmax(self.teacher(x) / self.tau, -1)
            # cross_entropy takes probabilities as well
            out = (1 - self.trust) * out + self.trust * self.tau**2 * F.cross_entropy(z / self.tau, p)
        return out

    def generation(self, x, y, steps, batch=32):
        opt = torch.optim.AdamW(self.model.parameters(), lr=4e-3, weight_decay=1e-2)
        for _ in range(steps):
            i = torch.randint(len(x), (batch,))
            opt.zero_grad()
            self.loss(x[i], y[i]).backward()
            opt.step()

    def reborn(self):
        state = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.reset()
        self.teacher = Tabular()
        self.teacher.load_state_dict(state)
        self.teacher.requires_grad_(False).eval()


def table(n, seed):
    g = torch.Generator().manual_seed(5)
    mix = torch.randn(8, 2, 12, generator=g) * 1.3
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(8, (n,), generator=g)
    return mix[y, torch.randint(2, (n,), generator=g)] + torch.randn(n, 12, generator=g), y


def score(model, x, y):
    with torch.no_grad():
        return 100 * (model(x).argmax(-1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--trust", type=float, default=0.9)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = table(400, 10 + a.seed)
    test = table(1500, 1000 + a.seed)
    line = BornAgain(Tabular(), trust=a.trust)
    line.generation(x, y, 250)
    print(f"generation 0: {score(line.model, *test):.2f}")
    line.reborn()
    line.generation(x, y, 250)
    print(f"top1 {score(line.model, *test):.2f}")


if __name__ == "__main__":
    main()
