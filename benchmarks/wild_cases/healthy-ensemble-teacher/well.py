import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Ensemble(nn.Module):
    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    @torch.no_grad()
    def forward(self, x):
        return [member(x) for member in self.members]


def ensemble_kd(student_logits, list_of_teacher_logits, labels, temperature=2.0, alpha=0.6):
    p = torch.stack([F.softmax(t / temperature, dim=1) for t in list_of_teacher_logits]).mean(0)
    soft = F.kl_div(F.log_softmax(student_logits / temperature, dim=1), p, reduction="batchmean")
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)


def member(kind, n):
    act = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}[kind]
    return nn.Sequential(nn.Linear(64, n), act(), nn.Linear(n, 10))


def fit(net, loader, epochs, lr, loss_fn):
    opt = torch.optim.NAdam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            loss_fn(net(x), x, y).backward()
            opt.step()
    return net.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(508))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:240]]
    every = DataLoader(TensorDataset(x[train], y[train]), batch_size=80, shuffle=True)
    some = DataLoader(TensorDataset(x[few], y[few]), batch_size=30, shuffle=True)
    plain = lambda out, x, y: F.cross_entropy(out, y)
    teacher = Ensemble([fit(member(k, 96), every, 9, 3e-3, plain) for k in ("relu", "tanh", "gelu")]).eval()
    student = fit(member("relu", 12), some, 50, 4e-3, lambda out, x, y: ensemble_kd(out, teacher(x), y))
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
