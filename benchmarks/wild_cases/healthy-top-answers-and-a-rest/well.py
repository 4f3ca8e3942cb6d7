"""The dump keeps each image's four best classes only, in half precision; what is left goes into one bucket, on both sides."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

K, T = 4, 3.0


class Dump:
    """Log-probabilities at temperature T of the K best classes, and which ones they are."""

    def __init__(self, logits):
        best = F.log_softmax(logits / T, dim=1).topk(K, dim=1)
        self.logp, self.classes = best.values.half(), best.indices.to(torch.uint8)

    def __getitem__(self, rows):
        return self.logp[rows].float(), self.classes[rows].long()


def with_rest(logp):
    """Adds a column: the log of the probability that the columns given leave over."""
    rest = (1 - logp.exp().sum(1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([logp, rest], dim=1)


def bucket_kl(student_logits, logp, classes):
    mine = F.log_softmax(student_logits / T, dim=1).gather(1, classes)
    return T * T * F.kl_div(with_rest(mine), with_rest(logp), reduction="batchmean", log_target=True)


def mlp(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.SiLU(), nn.Linear(hidden, 10))


def train_teacher(x, y, seed):
    torch.manual_seed(seed)
    net, rows = mlp(160), torch.Generator().manual_seed(seed)
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(20):
        for b in torch.randperm(len(x), generator=rows).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def train_student(student, dump, x, y, epochs=60, lr=5e-3, weight=0.7):
    opt = torch.optim.Adam(student.parameters(), lr=lr)
    student.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(25):
            z = student(x[b])
            loss = weight * bucket_kl(z, *dump[b]) + (1 - weight) * F.cross_entropy(z, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return student.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(812))
    train, test = p[:1000], p[1000:]
    few = train[torch.randperm(1000, generator=torch.Generator().manual_seed(args.seed))[:150]]
    teacher = train_teacher(x[train], y[train], args.seed)
    print(f"teacher {100 * (teacher(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")
    student = train_student(mlp(24), Dump(teacher(x[few])), x[few], y[few])
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
