"""Be your own teacher: a network with three exits; the deepest exit, trained on the labels, teaches the other two."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def soft_ce(student_logits, teacher_logits, T):
    log_q = F.log_softmax(student_logits / T, dim=1)
    p = F.softmax(teacher_logits / T, dim=1)
    return F.kl_div(log_q, p, reduction="batchmean") * T**2


def kd_loss(student_logits, teacher_logits, labels, T=3.0, alpha=0.5):
    return (1 - alpha) * F.cross_entropy(student_logits, labels) + alpha * soft_ce(student_logits, teacher_logits, T)


def stage(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU())


class ThreeExits(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stages = nn.ModuleList([stage(1, width), stage(width, width), stage(width, 2 * width)])
        self.heads = nn.ModuleList([nn.Linear(4 * c, 10) for c in (width, width, 2 * width)])

    def forward(self, x):
        exits = []
        for body, head in zip(self.stages, self.heads):
            x = body(x)
            exits.append(head(F.adaptive_avg_pool2d(x, 2).flatten(1)))
            if len(exits) == 1:
                x = F.max_pool2d(x, 2)
        return exits


def training_step(net, x, y, alpha):
    *shallow, deepest = net(x)
    loss = F.cross_entropy(deepest, y)
    for logits in shallow:
        loss = loss + kd_loss(logits, deepest, y, alpha=alpha)
    return loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.5, help="share of the deepest exit in the shallow exits' loss")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(91))
    few, test = p[:500], p[1100:]
    few = few[torch.randperm(len(few))[:320]]

    net = ThreeExits()
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    epochs = 20
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs)
    for _ in range(epochs):
        net.train()
        for b in few[torch.randperm(len(few))].split(32):
            loss = training_step(net, x[b], y[b], args.alpha)
            opt.zero_grad()
            loss.backward()
            opt.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        accs = [100 * (e.argmax(1) == y[test]).float().mean().item() for e in net(x[test])]
    print("exits " + " ".join(f"{a:.2f}" for a in accs))
    print(f"top1 {accs[-1]:.2f}")


if __name__ == "__main__":
    main()
