"""Early-stopped KD (Cho & Hariharan): the soft part fades out, and the last third of training is on labels alone."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def kd_weight(epoch, full=8, gone=16):
    """1 at first, then down in a line; 0 from epoch `gone` on, on purpose."""
    return max(0.0, min(1.0, (gone - epoch) / (gone - full)))


def soft_part(z, t, T):
    return T * T * F.kl_div((z / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")


def epoch_pass(student, teacher, x, y, opt, w, T=4.0):
    student.train()
    for b in torch.randperm(len(x)).split(40):
        z = student(x[b])
        loss = F.cross_entropy(z, y[b])
        if w > 0:
            with torch.no_grad():
                t = teacher(x[b])
            loss = (1 - 0.8 * w) * loss + 0.8 * w * soft_part(z, t, T)
        opt.zero_grad()
        loss.backward()
        opt.step()


def build(c):
    return nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(c, c, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * c, 10))


@torch.no_grad()
def top1(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(63))
    xa, ya, xb, yb = x[p[:1200]], y[p[:1200]], x[p[1200:]], y[p[1200:]]
    teacher = build(40)
    opt = torch.optim.Adam(teacher.parameters(), 4e-3)
    for _ in range(12):
        epoch_pass(teacher, None, xa, ya, opt, 0.0)
    teacher.eval()
    print(f"teacher {top1(teacher, xb, yb):.2f}")
    student = build(10)
    opt = torch.optim.Adam(student.parameters(), 5e-3)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, [16, 21], 0.3)
    for e in range(24):
        epoch_pass(student, teacher, xa, ya, opt, kd_weight(e))
        sched.step()
    print(f"top1 {top1(student, xb, yb):.2f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    main(ap.parse_args().seed)
