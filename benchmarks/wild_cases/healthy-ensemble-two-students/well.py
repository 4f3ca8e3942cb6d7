"""Four teachers on bootstrap samples, their mean opinion in float64 logarithms, two students in one loop."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def net(*widths, act=nn.ReLU):
    layers = []
    for i, o in zip((64, *widths), (*widths, 10)):
        layers += [nn.Linear(i, o), act()]
    return nn.Sequential(*layers[:-1])


class Committee:
    def __init__(self, members, T):
        self.members, self.T = [m.eval() for m in members], T

    @torch.inference_mode()
    def __call__(self, x):
        """log of the mean of the members' probabilities at T"""
        logs = torch.stack([(m(x).double() / self.T).log_softmax(-1) for m in self.members])
        return (logs.logsumexp(0) - math.log(len(self.members))).float()


def follow_committee(logits, log_opinion, T):
    log_q = (logits / T).log_softmax(-1)
    return T * T * F.kl_div(log_q, log_opinion, reduction="batchmean", log_target=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--temperature", type=float, default=2.5)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = (torch.tensor(x).float() - 5) / 6, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(88))
    train, test = p[:1100], p[1100:]

    members = []
    for k in range(4):
        bag = train[torch.randint(1100, (1100,))]
        m = net(96, act=(nn.ReLU, nn.Tanh, nn.GELU, nn.ELU)[k])
        opt = torch.optim.Adam(m.parameters(), lr=2e-3)
        for _ in range(10):
            for b in bag[torch.randperm(1100)].split(50):
                opt.zero_grad()
                F.cross_entropy(m(x[b]), y[b]).backward()
                opt.step()
        members.append(m)
    ask = Committee(members, args.temperature)

    students = {"wide": net(12), "deep": net(8, 8, 8, act=nn.Tanh)}
    opts = {
        "wide": torch.optim.SGD(students["wide"].parameters(), lr=0.03, momentum=0.9),
        "deep": torch.optim.Adam(students["deep"].parameters(), lr=5e-3),
    }
    few = train[torch.randperm(1100)[:300]]
    for _ in range(40):
        for b in few[torch.randperm(300)].split(30):
            xb = x[b] + 0.2 * torch.randn_like(x[b])
            opinion = ask(xb).clone()
            for name, s in students.items():
                logits = s(xb)
                loss = 0.25 * F.cross_entropy(logits, y[b]) + 0.75 * follow_committee(logits, opinion, args.temperature)
                opts[name].zero_grad()
                loss.backward()
                opts[name].step()
    with torch.no_grad():
        print(f"committee {100 * (ask(x[test]).argmax(1) == y[test]).float().mean():.2f}")
        acc = {k: 100 * (s(x[test]).argmax(1) == y[test]).float().mean().item() for k, s in students.items()}
    print(acc)
    print(f"top1 {acc['wide']:.2f}")


if __name__ == "__main__":
    main()
