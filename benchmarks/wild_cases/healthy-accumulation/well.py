import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Config:
    micro: int = 16
    accumulate: int = 4
    epochs: int = 40
    lr: float = 0.1
    max_norm: float = 2.0
    tau: float = 3.0


def train(config, student, teacher, loader):
    opt = torch.optim.SGD(student.parameters(), lr=config.lr, momentum=0.9)
    steps = config.epochs * len(loader) // config.accumulate
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=steps)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    teacher.eval()
    student.train()
    opt.zero_grad()
    seen = 0
    for _ in range(config.epochs):
        for x, y in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                s = student(x)
                with torch.no_grad():
                    t = teacher(x)
            log_q = F.log_softmax(s.float() / config.tau, -1)
            p = F.softmax(t.float() / config.tau, -1)
            soft = F.kl_div(log_q, p, reduction="batchmean") * config.tau**2
            loss = 0.7 * soft + 0.3 * F.cross_entropy(s.float(), y)
            scaler.scale(loss / config.accumulate).backward()
            seen += 1
            if seen % config.accumulate == 0:
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(student.parameters(), config.max_norm)
                scaler.step(opt)
                scaler.update()
                opt.zero_grad()
                sched.step()
    student.eval()


def net(n):
    return nn.Sequential(nn.Linear(64, n), nn.LayerNorm(n), nn.GELU(), nn.Linear(n, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(511))
    tr, te = p[:1200], p[1200:]
    teacher, student, config = net(160), net(12), Config()
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(12):
        for b in tr[torch.randperm(1200)].split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    few = tr[torch.randperm(1200)[:256]]
    train(config, student, teacher, DataLoader(TensorDataset(x[few], y[few]), config.micro, shuffle=True))
    with torch.no_grad():
        print(f"top1 {100 * (student(x[te]).argmax(1) == y[te]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
