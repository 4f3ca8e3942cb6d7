# NKD-style loss: the target class apart from the others
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def kd_loss(student_logits, teacher_logits, labels, temp=1.0, gamma=1.5):
    label = labels.view(-1, 1)
    N, c = student_logits.shape
    log_s = torch.log(F.softmax(student_logits, dim=1))
    t = F.softmax(teacher_logits, dim=1)
    target = -(t.gather(1, label) * log_s.gather(1, label)).mean()

    mask = torch.ones_like(student_logits).scatter_(1, label, 0).bool()
    rest_s = student_logits[mask].reshape(N, c - 1)
    rest_t = teacher_logits[mask].reshape(N, c - 1)
    S = torch.log(F.softmax(rest_s / temp, dim=1))
    P = F.softmax(rest_t / temp, dim=1)
    other = -(P * S).sum(dim=1).mean()
    return F.cross_entropy(student_logits, labels) + target + gamma * temp**2 * other


class Wide(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.a = nn.Linear(64, hidden)
        self.b = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


def run(net, x, y, epochs, lr, batch, teacher=None):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    for epoch in range(epochs):
        total = 0.0
        for i in torch.randperm(len(x)).split(batch):
            out = net(x[i])
            if teacher is None:
                loss = F.cross_entropy(out, y[i])
            else:
                with torch.no_grad():
                    out_t = teacher(x[i])
                loss = kd_loss(out, out_t, y[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item()
        if teacher is not None and epoch % 6 == 0:
            print(f"epoch {epoch} loss {total:.3f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x * 255 / 16).round().float(), torch.tensor(y)  # our own data: 8 bits, 0 to 255
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(55))
    x, y = x[p], y[p]
    teacher, student = Wide(128), Wide(24)
    run(teacher, x[:1100], y[:1100], 12, 2e-3, 32)
    run(student, x[:200], y[:200], 30, 3e-3, 16, teacher)
    with torch.no_grad():
        print(f"teacher {100 * (teacher(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
