"""The student takes over some of the teacher's layers, as small language models are made from large ones."""
import argparse
import copy
from collections import OrderedDict

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * dim)
        self.down = nn.Linear(2 * dim, dim)

    def forward(self, h):
        return h + self.down(F.gelu(self.up(self.norm(h))))


class Model(nn.Module):
    def __init__(self, dim, layers):
        super().__init__()
        self.embed = nn.Linear(64, dim)
        self.layers = nn.ModuleList(Layer(dim) for _ in range(layers))
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h)
        return OrderedDict(logits=self.head(h), last_hidden_state=h)


def shrink(teacher, keep):
    student = Model(teacher.embed.out_features, len(keep))
    student.embed = copy.deepcopy(teacher.embed)
    student.layers = nn.ModuleList(copy.deepcopy(teacher.layers[i]) for i in keep)
    return student


def kd_loss(student_out, teacher_out, y, T=2.0):
    soft = F.kl_div(
        F.log_softmax(student_out["logits"] / T, dim=-1),
        F.log_softmax(teacher_out["logits"] / T, dim=-1),
        log_target=True,
        reduction="batchmean",
    )
    return 0.5 * T * T * soft + 0.5 * F.cross_entropy(student_out["logits"], y)


def distil(teacher, student, x, y, epochs, lr):
    teacher.eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.01)
    for _ in range(epochs):
        student.train()
        for b in torch.randperm(len(x)).split(32):
            with torch.no_grad():
                target = teacher(x[b])
            loss = kd_loss(student(x[b]), target, y[b])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def learn(model, x, y, epochs, lr):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[b])["logits"], y[b]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()
    return 100 * (model(x)["logits"].argmax(-1) == y).float().mean().item()


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(77))
    train, test = p[:1200], p[1200:]
    few = train[torch.randperm(1200)[:300]]
    teacher = Model(48, 3)
    learn(teacher, x[train], y[train], 12, 2e-3)
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")
    student = shrink(teacher, keep=[0])
    distil(teacher, student, x[few], y[few], 30, 1e-3)
    print(f"teacher afterwards {accuracy(teacher, x[test], y[test]):.2f}")
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
