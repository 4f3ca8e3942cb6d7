"""A script made for a GPU, run on a CPU: bfloat16 autocast, a GradScaler that is off, torch.compile with the eager backend, gradient checkpointing. The losses are taken in float32."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(d), nn.Linear(d, d)

    def forward(self, h):
        return h + F.relu(self.fc(self.norm(h)))


class Net(nn.Module):
    def __init__(self, d, n, save_memory=False):
        super().__init__()
        self.stem = nn.Linear(64, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(n))
        self.head = nn.Linear(d, 10)
        self.save_memory = save_memory

    def forward(self, x):
        h = F.relu(self.stem(x))
        for b in self.blocks:
            h = checkpoint(b, h, use_reentrant=False) if self.save_memory and self.training else b(h)
        return self.head(h)


@torch.no_grad()
def score(m, x, y):
    m.eval()
    return 100 * (m(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    device = "cpu"
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, device=device).float() / 16, torch.tensor(y, device=device)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(91))
    x, y, xt, yt = x[p[:1200]], y[p[:1200]], x[p[1200:]], y[p[1200:]]
    teacher = Net(128, 2).to(device)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    teacher.train()
    for _ in range(14):
        for b in torch.randperm(1200).split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher {score(teacher, xt, yt):.2f}")

    plain = Net(24, 2, save_memory=True).to(device)
    student = torch.compile(plain, backend="eager")
    opt = torch.optim.AdamW(plain.parameters(), lr=5e-3, weight_decay=1e-3)
    scaler = torch.amp.GradScaler(device, enabled=False)
    steps = 15 * 20
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda k: min((k + 1) / 30, 1 - 0.95 * k / steps))
    tau, alpha = 4.0, 0.7
    for epoch in range(15):
        student.train()
        for b in torch.randperm(1200).split(60):
            with torch.autocast(device, dtype=torch.bfloat16):
                with torch.no_grad():
                    t = teacher(x[b])
                s = student(x[b])
            s, t = s.float(), t.float()
            kd = F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean") * tau ** 2
            loss = alpha * kd + (1 - alpha) * F.cross_entropy(s, y[b])
            opt.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(plain.parameters(), 2.0)
            scaler.step(opt)
            scaler.update()
            sched.step()
    print(f"top1 {score(plain, xt, yt):.2f}")


if __name__ == "__main__":
    main()
