"""The training loop is a generator that yields after each step; a worker thread drains it and posts its progress to a queue that the main thread prints."""
import argparse
import queue
import threading

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def perceptron(h):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, h), nn.ReLU(), nn.Dropout(0.1), nn.Linear(h, 10))


def endless(x, y, size, gen):
    while True:
        for b in torch.randperm(len(x), generator=gen).split(size):
            if len(b) == size:
                yield x[b], y[b]


def trainer(model, loss_fn, stream, steps, lr):
    """A coroutine: send(True) asks it for an evaluation pause, after which it goes back to train mode."""
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    sched = torch.optim.lr_scheduler.PolynomialLR(opt, total_iters=steps, power=1.0)
    model.train()
    for step, (x, y) in zip(range(steps), stream):
        opt.zero_grad()
        loss = loss_fn(model, x, y)
        loss.backward()
        opt.step()
        sched.step()
        if (yield step, loss.item()):
            model.train()


def hard(model, x, y):
    return F.cross_entropy(model(x), y)


class Kd:
    def __init__(self, teacher, tau=4.0, alpha=0.7):
        self.teacher, self.tau, self.alpha = teacher, tau, alpha

    @torch.no_grad()
    def soft(self, x):
        return F.softmax(self.teacher(x) / self.tau, dim=1)

    def __call__(self, model, x, y):
        out = model(x)
        kl = F.kl_div(F.log_softmax(out / self.tau, dim=1), self.soft(x), reduction="batchmean")
        return self.alpha * self.tau ** 2 * kl + (1 - self.alpha) * F.cross_entropy(out, y)


@torch.no_grad()
def evaluate(model, x, y):
    model.eval()
    return 100 * (model(x).argmax(1) == y).float().mean().item()


def worker(run, student, xt, yt, box):
    torch.set_num_threads(1)
    try:
        pause = None
        while True:
            step, loss = run.send(pause)
            pause = None
            if step % 100 == 99:
                box.put((step + 1, loss, evaluate(student, xt, yt)))
                pause = True
    except StopIteration:
        box.put(None)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float() / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(21))
    x, y, xt, yt = x[p[:1250]], y[p[:1250]], x[p[1250:]], y[p[1250:]]
    gen = torch.Generator().manual_seed(a.seed)
    teacher = perceptron(256)
    for _ in trainer(teacher, hard, endless(x, y, 64, gen), 450, 3e-3):
        pass
    print(f"teacher {evaluate(teacher, xt, yt):.2f}")
    student, box = perceptron(32), queue.Queue()
    run = trainer(student, Kd(teacher), endless(x, y, 64, gen), 600, 5e-3)
    t = threading.Thread(target=worker, args=(run, student, xt, yt, box))
    t.start()
    while (news := box.get()) is not None:
        print("step %d loss %.3f test %.2f" % news)
    t.join()
    print(f"top1 {evaluate(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
