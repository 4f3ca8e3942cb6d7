"""Decoupled KD (Zhao et al., 2022): target-class and non-target-class parts apart, beta 4, warm-up over 5 epochs."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def dkd_loss(student_logits, teacher_logits, target, alpha=1.0, beta=4.0, temperature=4.0):
    own = torch.zeros_like(student_logits).scatter_(1, target.unsqueeze(1), 1).bool()
    n, T = target.shape[0], temperature
    ps, pt = F.softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1)
    bs = torch.cat([(ps * own).sum(1, keepdim=True), (ps * ~own).sum(1, keepdim=True)], 1)
    bt = torch.cat([(pt * own).sum(1, keepdim=True), (pt * ~own).sum(1, keepdim=True)], 1)
    tckd = F.kl_div(torch.log(bs.clamp_min(1e-12)), bt, reduction="sum") * T ** 2 / n
    # the class itself is pushed out of the softmax, for both sides alike
    rest_t = F.softmax(teacher_logits / T - 1000.0 * own, 1)
    rest_s = F.log_softmax(student_logits / T - 1000.0 * own, 1)
    nckd = F.kl_div(rest_s, rest_t, reduction="sum") * T ** 2 / n
    return alpha * tckd + beta * nckd


def make(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 10))


def evaluate(net, x, y):
    was = net.training
    net.eval()
    with torch.inference_mode():
        acc = (net(x).argmax(-1) == y).float().mean().item() * 100
    net.train(was)
    return acc


def main(argv=None):
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--epochs", type=int, default=45)
    args = ap.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load_digits()
    x = (torch.from_numpy(data.images).float() - 4.88) / 6.02
    y = torch.from_numpy(data.target)
    idx = torch.randperm(len(y), generator=torch.Generator().manual_seed(77))
    xtr, ytr, xte, yte = x[idx[:1100]], y[idx[:1100]], x[idx[1100:]], y[idx[1100:]]

    teacher = make(200)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for _ in range(20):
        for b in torch.randperm(len(xtr)).split(32):
            opt.zero_grad()
            F.cross_entropy(teacher(xtr[b]), ytr[b]).backward()
            opt.step()
    print("teacher", evaluate(teacher, xte, yte))
    teacher.eval().requires_grad_(False)

    student = make(20)
    student.train()
    opt = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, [30, 38], gamma=0.2)
    for epoch in range(args.epochs):
        warm = min((epoch + 1) / 5, 1.0)
        for b in torch.randperm(len(xtr)).split(64):
            with torch.no_grad():
                told = teacher(xtr[b])
            out = student(xtr[b])
            loss = F.cross_entropy(out, ytr[b]) + warm * dkd_loss(out, told, ytr[b])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            opt.step()
        sched.step()
    print(f"top1 {evaluate(student, xte, yte):.2f}")


if __name__ == "__main__":
    main()
