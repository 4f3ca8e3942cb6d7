"""Three teachers of different width and seed speak as one committee."""
import argparse
import random

import torch
import torch.nn as nn
import torch.nn.functional as F


def moons_of_moons(n, g):
    """Eight arcs in the plane, lifted to ten dimensions by a fixed map."""
    y = torch.randint(8, (n,), generator=g)
    a = torch.rand(n, generator=g) * 3.14159
    flip = 1 - 2 * (y % 2).float()
    px = a.cos() + (y % 2).float() + 2.4 * (y // 2 % 2).float()
    py = flip * a.sin() + 0.4 * (y % 2).float() + 2.2 * (y // 4).float()
    plane = torch.stack([px, py], 1) + 0.2 * torch.randn(n, 2, generator=g)
    lift = torch.randn(2, 10, generator=torch.Generator().manual_seed(8))
    return (plane - plane.new_tensor([1.7, 1.3])) @ lift + 0.05 * torch.randn(n, 10, generator=g), y


class Member(nn.Sequential):
    def __init__(self, width):
        super().__init__(
            nn.Linear(10, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 8)
        )


class Committee(nn.Module):
    """Members are asked one by one; the answer is their mean."""

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        votes = torch.stack([m(x).softmax(-1) for m in self.members])
        return votes.mean(0)


class HintonLoss(nn.Module):
    def __init__(self, T, share):
        super().__init__()
        self.T = T
        self.share = share

    def forward(self, student, teacher, y):
        soft_target = (teacher / self.T).softmax(-1)
        divergence = F.kl_div((student / self.T).log_softmax(-1), soft_target, reduction="none").sum(-1)
        return (self.share * self.T**2 * divergence + (1 - self.share) * F.cross_entropy(student, y, reduction="none")).mean()


def learn(net, x, y, steps, lr, criterion=None, guide=None):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    order = list(range(len(x)))
    while steps:
        random.shuffle(order)
        for k in range(0, len(order) - 31, 32):
            i = order[k : k + 32]
            out = net(x[i])
            if guide is None:
                loss = F.cross_entropy(out, y[i])
            else:
                with torch.no_grad():
                    answer = guide(x[i])
                loss = criterion(out, answer, y[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
            steps -= 1
            if not steps:
                break
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--share", type=float, default=0.9)
    ap.add_argument("--temperature", type=float, default=3.0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    random.seed(a.seed)
    g = torch.Generator().manual_seed(a.seed)
    (x, y), (xt, yt) = moons_of_moons(2000, g), moons_of_moons(1500, g)

    def top1(net):
        with torch.no_grad():
            return 100 * (net(xt).argmax(-1) == yt).float().mean().item()

    committee = Committee([learn(Member(w), x, y, 250, 5e-3) for w in (32, 48, 64)]).eval()
    print(f"committee {top1(committee):.2f}")
    student = learn(Member(16), x[:128], y[:128], 450, 8e-3, HintonLoss(a.temperature, a.share), committee)
    print(f"top1 {top1(student):.2f}")


if __name__ == "__main__":
    main()
