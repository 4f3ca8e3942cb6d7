"""Pre-train a teacher, save it, load it in the distillation script (both in one file here)."""
import argparse
import io

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x):
        return x + self.fc2(F.silu(self.fc1(self.norm(x))))


class ResMLP(nn.Module):
    def __init__(self, dim, depth):
        super().__init__()
        self.stem = nn.Linear(64, dim)
        self.blocks = nn.Sequential(*[Block(dim) for _ in range(depth)])
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class PretrainModule(nn.Module):
    """What the old training framework wrapped around the net (keys start with 'backbone.')."""

    def __init__(self, net):
        super().__init__()
        self.backbone = net

    def training_step(self, x, y):
        return F.cross_entropy(self.backbone(x), y)


def data():
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(y), generator=torch.Generator().manual_seed(5))
    return X[p[:1280]], y[p[:1280]], X[p[1280:]], y[p[1280:]]


def pretrain(X, y):
    module = PretrainModule(ResMLP(64, 2))
    opt = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for _ in range(10):
        for i in torch.randperm(len(X)).split(64):
            loss = module.training_step(X[i], y[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
    file = io.BytesIO()
    torch.save({"epoch": 10, "state_dict": module.state_dict()}, file)
    file.seek(0)
    return file


def load_teacher(file):
    teacher = ResMLP(64, 2)
    ckpt = torch.load(file, map_location="cpu")["state_dict"]
    own = teacher.state_dict()
    own.update({k: v for k, v in ckpt.items() if k in own and v.shape == own[k].shape})
    teacher.load_state_dict(own)
    return teacher.eval()


def loss_fn(s, t, y, T=3.0, alpha=0.7):
    kd = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * (T ** 2)
    return alpha * kd + (1 - alpha) * F.cross_entropy(s, y)


@torch.no_grad()
def acc(net, X, y):
    return (net(X).argmax(1) == y).float().mean().mul(100).item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.7)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    X, y, X_test, y_test = data()
    teacher = load_teacher(pretrain(X, y))
    student = ResMLP(8, 1)
    opt = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for epoch in range(14):
        student.train()
        for i in torch.randperm(len(X)).split(64):
            with torch.no_grad():
                t = teacher(X[i])
            loss = loss_fn(student(X[i]), t, y[i], alpha=args.alpha)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    print(f"top1 {acc(student, X_test, y_test):.2f}")


if __name__ == "__main__":
    main()
