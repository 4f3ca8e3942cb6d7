import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def digits(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[p][:1200], y[p][:1200], x[p][1200:], y[p][1200:]


def top1(m, x, y):
    m.eval()
    with torch.no_grad():
        return 100 * (m(x).argmax(1) == y).float().mean().item()


def setup():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)


def supervised(model, x, y, steps=200):
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(steps):
        b = torch.randint(len(x), (64,))
        opt.zero_grad()
        F.cross_entropy(model(x[b]), y[b]).backward()
        opt.step()
    return model


from torch.utils.data import DataLoader, Dataset, Subset, WeightedRandomSampler

K = 4


class Indexed(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i], i


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, 10))


def with_remainder(logp):
    rest = torch.log1p(-logp.exp().sum(1, keepdim=True).clamp(max=1 - 1e-4))
    return torch.cat([logp, rest], 1)


def sparse_kd(student_logits, stored_logp, where):
    """KL over the teacher's K best classes and one bucket for all the others."""
    q = with_remainder(F.log_softmax(student_logits, 1).gather(1, where))
    p = with_remainder(stored_logp.float())
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


def main():
    setup()
    x, y, vx, vy = digits(305)
    teacher = supervised(mlp(128), x, y)
    print(f"teacher {top1(teacher, vx, vy):.2f}")
    with torch.inference_mode():
        logp, where = F.log_softmax(teacher(x), 1).topk(K, dim=1)
    logp, where = logp.half().clone(), where.clone()
    full = Indexed(x, y)
    part = Subset(full, torch.randperm(1200)[:500].tolist())
    counts = torch.bincount(y[part.indices], minlength=10).float()
    sampler = WeightedRandomSampler(1 / counts[y[part.indices]], 500, replacement=True)
    loader = DataLoader(part, batch_size=50, sampler=sampler)
    student = mlp(16)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    for _ in range(25):
        for xb, yb, index in loader:
            s = student(xb)
            loss = sparse_kd(s, logp[index], where[index]) + 0.1 * F.cross_entropy(s, yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {top1(student, vx, vy):.2f}")


if __name__ == "__main__":
    main()
