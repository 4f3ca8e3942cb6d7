"""A GRU reads digits row by row. The divergence comes from torch.distributions, whose order is (true, model)."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.distributions import Categorical, kl_divergence


def soft_loss(student_logits, teacher_logits, T=4.0):
    wanted = Categorical(logits=teacher_logits / T)
    given = Categorical(logits=student_logits / T)
    # kl_divergence(p, q) is KL(p || q), unlike F.kl_div, which takes log q first
    return T * T * kl_divergence(wanted, given).mean()


class RowReader(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.gru = nn.GRU(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, rows):
        return self.head(self.gru(rows)[1][-1])


def train(net, x, y, epochs, lr, teacher=None, beta=0.0):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(32):
            out = net(x[b])
            loss = (1 - beta) * F.cross_entropy(out, y[b])
            if beta > 0:
                with torch.no_grad():
                    answer = teacher(x[b])
                loss = loss + beta * soft_loss(out, answer)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--beta", type=float, default=0.8, help="share of the teacher")
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(14))
    rows, test = p[:1100], p[1100:]
    teacher = train(RowReader(64), x[rows], y[rows], 14, 4e-3)
    few = rows[torch.randperm(len(rows))[:200]]
    student = train(RowReader(14), x[few], y[few], 40, 8e-3, teacher, a.beta)
    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * (net(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
