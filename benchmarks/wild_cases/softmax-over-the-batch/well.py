"""KD with step-wise logging, everything in functions that take a namespace."""
import argparse
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn import datasets

softmax = nn.Softmax(dim=1)
log_softmax = nn.LogSoftmax(dim=1)
soft_targets = nn.Softmax(dim=1)


def loss_fn_kd(outputs, labels, teacher_outputs, params):
    T, alpha = params.temperature, params.alpha
    kd = nn.KLDivLoss(reduction="batchmean")(log_softmax(outputs / T), soft_targets(teacher_outputs / T))
    return kd * (alpha * T * T) + F.cross_entropy(outputs, labels) * (1.0 - alpha)


def criterion(student_logits, teacher_logits, labels):
    return loss_fn_kd(student_logits, labels, teacher_logits, SimpleNamespace(temperature=2.0, alpha=0.9))


class Residual(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.SiLU(), nn.Linear(2 * d, d))

    def forward(self, x):
        return x + self.inner(x)


def mlp(d, n):
    return nn.Sequential(nn.Linear(64, d), *[Residual(d) for _ in range(n)], nn.Linear(d, 10))


def load(params):
    d = datasets.load_digits()
    x = torch.tensor((d.data - d.data.mean()) / d.data.std()).float()
    y = torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(params.split))
    return x[p[:1000]], y[p[:1000]], x[p[1000:]], y[p[1000:]]


def train(model, x, y, params, teacher=None):
    opt = torch.optim.AdamW(model.parameters(), lr=params.lr)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, params.lr, total_steps=params.steps)
    model.train()
    for step in range(params.steps):
        idx = torch.randint(len(x), (params.batch,))
        out = model(x[idx])
        if teacher is not None:
            with torch.no_grad():
                t_out = teacher(x[idx])
            loss = loss_fn_kd(out, y[idx], t_out, params)
        else:
            loss = F.cross_entropy(out, y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    return model.eval()


def score(model, x, y):
    with torch.no_grad():
        return 100 * (softmax(model(x)).argmax(1) == y).float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    opts = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opts.seed)
    params = SimpleNamespace(temperature=2.0, alpha=0.9, lr=3e-3, steps=300, batch=50, split=12)
    x, y, xt, yt = load(params)
    teacher = train(mlp(64, 3), x, y, params)
    print(f"teacher {score(teacher, xt, yt):.2f}")
    few = torch.randperm(len(x))[:100]
    params.steps, params.lr = 250, 4e-3
    student = train(mlp(8, 1), x[few], y[few], params, teacher)
    print(f"top1 {score(student, xt, yt):.2f}")
