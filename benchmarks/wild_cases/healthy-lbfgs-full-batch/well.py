"""A softmax regression as the student, fitted to the teacher's answers by L-BFGS: one batch, a closure, few steps."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler


def load(seed=17):
    x, y = load_digits(return_X_y=True)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
    scaler = StandardScaler().fit(x[p[:1000]])
    x = torch.tensor(scaler.transform(x), dtype=torch.float32)
    y = torch.tensor(y)
    return x[p[:1000]], y[p[:1000]], x[p[1000:]], y[p[1000:]]


def top1(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=2.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y, xt, yt = load()
    T = args.temperature

    teacher = nn.Sequential(nn.Linear(64, 150), nn.ReLU(), nn.Dropout(0.3), nn.Linear(150, 10))
    adam = torch.optim.Adam(teacher.parameters(), 2e-3)
    for _ in range(20):
        for b in torch.randperm(len(x)).split(50):
            adam.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            adam.step()
    print(f"teacher {top1(teacher, xt, yt):.2f}")     # and leaves it in eval mode

    with torch.no_grad():
        wanted = F.softmax(teacher(x) / T, dim=1)
    student = nn.Linear(64, 10)
    lbfgs = torch.optim.LBFGS(student.parameters(), lr=1.0, max_iter=20, line_search_fn="strong_wolfe")

    def closure():
        lbfgs.zero_grad()
        z = student(x)
        kd = F.kl_div(F.log_softmax(z / T, dim=1), wanted, reduction="batchmean") * T * T
        ridge = sum(p.pow(2).sum() for p in student.parameters())
        loss = 0.8 * kd + 0.2 * F.cross_entropy(z, y) + 1e-3 * ridge
        loss.backward()
        return loss

    student.train()
    for k in range(5):
        print(k, lbfgs.step(closure).item())
    print(f"top1 {top1(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
