"""Two stages, one file: `stage_dump` writes the teacher's answers, `stage_student` reads them.

What is stored is logits / T in float16 (that is what the disk quota allows), together with T; the student's side is
divided when the loss is made, the teacher's has been divided already.
"""
import argparse
import os
import tempfile
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


def cnn(c):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c, 2 * c, 3, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(8 * c, 10),
    )


def tensors(seed):
    d = load_digits()
    x = torch.tensor(d.images / 16.0, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(d.target)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=500, random_state=3, stratify=y)
    few = torch.randperm(len(x_train), generator=torch.Generator().manual_seed(seed))[:256]
    return x_train, y_train, x_train[few], y_train[few], x_test, y_test


def stage_dump(path, x_all, y_all, x_few, T):
    big = cnn(24)
    opt = torch.optim.Adam(big.parameters(), lr=2e-3)
    for _ in range(4):
        big.train()
        for i in torch.randperm(len(x_all)).split(64):
            opt.zero_grad()
            F.cross_entropy(big(x_all[i]), y_all[i]).backward()
            opt.step()
    big.eval()
    with torch.inference_mode():
        softened = big(x_few).div(T).half()
    torch.save({"softened": softened.clone(), "T": T}, path)
    return big


def stage_student(path, x, y, opts):
    stored = torch.load(path)
    targets = F.softmax(stored["softened"].float(), dim=1)  # divided by T when written
    T = stored["T"]
    small = cnn(4)
    opt = torch.optim.SGD(small.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, milestones=[12, 17], gamma=0.2)
    for _ in range(20):
        small.train()
        for i in torch.randperm(len(x)).split(32):
            out = small(x[i])
            kd = F.kl_div(F.log_softmax(out / T, dim=1), targets[i], reduction="batchmean")
            loss = opts.kd * T * T * kd + (1 - opts.kd) * F.cross_entropy(out, y[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    return small


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * net(x).argmax(1).eq(y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kd", type=float, default=0.7)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x_all, y_all, x_few, y_few, x_test, y_test = tensors(a.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answers.pt")
        big = stage_dump(path, x_all, y_all, x_few, T=3.0)
        print(f"teacher {accuracy(big, x_test, y_test):.2f}")
        small = stage_student(path, x_few, y_few, SimpleNamespace(kd=a.kd))
    print(f"top1 {accuracy(small, x_test, y_test):.2f}")


if __name__ == "__main__":
    main()
