"""The student sees images without labels only, in bfloat16 autocast; the losses are taken in float32."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, width, drop=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.drop = nn.Dropout(drop)
        self.fc = nn.Linear(2 * width * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(self.drop(x.flatten(1)))


def amp():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def augment(x):
    dy, dx = (int(v) for v in torch.randint(-1, 2, (2,)))
    return torch.roll(x, (dy, dx), dims=(2, 3)) + 0.05 * torch.randn_like(x)


def train_teacher(net, x, y, epochs=12):
    opt = torch.optim.AdamW(net.parameters(), lr=6e-3)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(50):
            with amp():
                logits = net(augment(x[b]))
            loss = F.cross_entropy(logits.float(), y[b])
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()


def distill(student, teacher, x, epochs, T, lr=1e-2):
    opt = torch.optim.AdamW(student.parameters(), lr=lr)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=lr, epochs=epochs, steps_per_epoch=-(-len(x) // 50))
    teacher.eval()
    student.train()
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(50):
            shown = augment(x[b])
            with amp():
                with torch.no_grad():
                    wanted = teacher(shown)
                got = student(shown)
            log_q = F.log_softmax(got.float() / T, dim=1)
            log_p = F.log_softmax(wanted.float() / T, dim=1)
            loss = T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            opt.step()
            sched.step()


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=20)
    ap.add_argument("--T", type=float, default=2.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(58))
    labelled, unlabelled, test = p[:700], p[700:1300], p[1300:]
    teacher = Net(16, 0.2)
    train_teacher(teacher, x[labelled], y[labelled])
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")
    student = Net(8)
    distill(student, teacher, x[unlabelled], args.epochs, args.T)
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
