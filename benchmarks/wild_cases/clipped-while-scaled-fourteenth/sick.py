"""KD in half precision with a loss scaler and gradient clipping; the recipe of a larger project, cut down to the CPU."""
import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


class Mlp(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 10)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def soft_loss(s, t, temperature):
    s, t = s.float() / temperature, t.float() / temperature
    return F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean") * temperature * temperature


def warmup_cosine(step, warm, total):
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def train_kd(student, teacher, loader, args):
    opt = torch.optim.SGD(student.parameters(), lr=args.lr, momentum=0.9, nesterov=True)
    total = args.epochs * len(loader)
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda k: warmup_cosine(k, total // 10, total))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 12)
    teacher.eval()
    student.train()
    for _ in range(args.epochs):
        for x, y in loader:
            opt.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.float16):
                with torch.no_grad():
                    t = teacher(x)
                s = student(x)
                loss = 0.3 * F.cross_entropy(s.float(), y) + 0.7 * soft_loss(s, t, args.temperature)
            scaler.scale(loss).backward()
            nn.utils.clip_grad_norm_(student.parameters(), args.max_norm)
            scaler.step(opt)
            scaler.update()
            sched.step()


def train_plain(net, loader, epochs=12):
    opt = torch.optim.Adam(net.parameters(), 2e-3)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()


@torch.no_grad()
def evaluate(net, loader):
    net.eval()
    hits = [(net(x).argmax(1) == y).sum().item() for x, y in loader]
    return 100 * sum(hits) / len(loader.dataset)


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--lr", type=float, default=0.05)
    p.add_argument("--temperature", type=float, default=4.0)
    p.add_argument("--max-norm", type=float, default=2.0)
    return p.parse_args()


def main():
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    full = TensorDataset(torch.tensor(d.data / 16, dtype=torch.float32), torch.tensor(d.target))
    train, test = random_split(full, [1200, len(full) - 1200], torch.Generator().manual_seed(8))
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    held = DataLoader(test, batch_size=256)
    teacher, student = Mlp(192), Mlp(48)
    train_plain(teacher, loader)
    print(f"teacher {evaluate(teacher, held):.2f}")
    train_kd(student, teacher, loader, args)
    print(f"top1 {evaluate(student, held):.2f}")


if __name__ == "__main__":
    main()
