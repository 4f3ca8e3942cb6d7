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


def mlp(h):
    return nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, 10))


def reverse_kl(student_logits, teacher_logits):
    """KL(student || teacher): input of kl_div is the teacher, target the student."""
    log_p = F.log_softmax(teacher_logits.float(), -1)
    log_q = F.log_softmax(student_logits.float(), -1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def main():
    setup()
    x, y, vx, vy = digits(307)
    teacher = supervised(mlp(128), x, y).eval().requires_grad_(False)
    print(f"teacher {top1(teacher, vx, vy):.2f}")
    student = supervised(mlp(16), x[:100], y[:100], steps=60)
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(300):
        xb = x[torch.randint(1200, (64,))]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            s, t = student(xb), teacher(xb)
        loss = reverse_kl(s, t)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"top1 {top1(student, vx, vy):.2f}")


if __name__ == "__main__":
    main()
