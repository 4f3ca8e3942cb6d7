"""KD under crowd labels (a third of them wrong): per-example losses through torch.func.vmap, so that they can be weighted."""
import argparse
import warnings
from functools import partial

import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional as F
from sklearn.datasets import load_digits


warnings.filterwarnings("ignore", message="There is a performance drop")


def example_loss(logits, target_logits, onehot, *, tau, alpha):
    soft = F.kl_div((logits / tau).log_softmax(0), (target_logits / tau).softmax(0), reduction="batchmean") * tau**2
    hard = torch.logsumexp(logits, 0) - (logits * onehot).sum()
    return alpha * soft + (1 - alpha) * hard


def kd_loss(logits, target_logits, labels, tau=3.0, alpha=0.8):
    per_example = vmap(partial(example_loss, tau=tau, alpha=alpha))
    return per_example(logits, target_logits, F.one_hot(labels, logits.shape[-1]).to(logits)).mean()


def net(*sizes):
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def digits():
    d = load_digits()
    order = torch.randperm(len(d.target), generator=torch.Generator().manual_seed(1414))
    x, y = torch.from_numpy(d.data).float().div(16)[order], torch.from_numpy(d.target)[order]
    return (x[:1000], y[:1000]), (x[1000:], y[1000:])


def crowd(y, wrong, gen):
    lie = torch.rand(len(y), generator=gen) < wrong
    return torch.where(lie, torch.randint(10, y.shape, generator=gen), y)


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()
    return 100 * (model(x).argmax(-1) == y).float().mean().item()


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    (x, y), test = digits()
    given = crowd(y, 0.35, torch.Generator().manual_seed(seed))

    # the experts' labels were to be had for the teacher only
    teacher = net(64, 256, 128, 10)
    opt = torch.optim.AdamW(teacher.parameters(), 2e-3)
    for _ in range(25):
        for i in torch.randperm(1000).split(64):
            opt.zero_grad()
            F.cross_entropy(teacher(x[i]), y[i]).backward()
            opt.step()
    teacher.eval()
    print("teacher", round(accuracy(teacher, *test), 2))

    student = net(64, 96, 10)
    opt = torch.optim.AdamW(student.parameters(), 1e-2)
    steps = 16 * 16
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=steps)
    for _ in range(16):
        student.train()
        for i in torch.randperm(1000).split(64):
            with torch.no_grad():
                t = teacher(x[i])
            loss = kd_loss(student(x[i]), t, given[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    print(f"top1 {accuracy(student, *test):.2f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    main(ap.parse_args().seed)
