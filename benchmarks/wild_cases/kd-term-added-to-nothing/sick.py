"""KD on a tabular task of six classes (scikit-learn's make_classification)."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_classification


class TabNet(nn.Module):
    def __init__(self, hidden, depth):
        super().__init__()
        dims = [20] + [hidden] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(dims, dims[1:]))
        self.norms = nn.ModuleList(nn.LayerNorm(b) for b in dims[1:])
        self.last = nn.Linear(hidden, 6)

    def forward(self, x):
        for lin, norm in zip(self.hidden, self.norms):
            x = norm(lin(x)).relu()
        return self.last(x)


class KDTrainer:
    def __init__(self, student, teacher, temperature=2.0, beta=4.0):
        self.student = student
        self.teacher = teacher.eval()
        self.temperature = temperature
        self.beta = beta
        self.opt = torch.optim.AdamW(student.parameters(), lr=4e-3, weight_decay=1e-2)

    def compute_loss(self, x, y):
        logits = self.student(x)
        with torch.no_grad():
            teacher_logits = self.teacher(x)
        loss = F.cross_entropy(logits, y)
        kd = F.kl_div(
            F.log_softmax(logits / self.temperature, -1),
            F.softmax(teacher_logits / self.temperature, -1),
            reduction="batchmean",
        ).mul(self.temperature**2)
        loss.add(kd, alpha=self.beta)
        return loss, {"ce": F.cross_entropy(logits.detach(), y).item(), "kd": kd.item()}

    def train_step(self, x, y):
        self.student.train()
        loss, logs = self.compute_loss(x, y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return logs


def pretrain(net, x, y, epochs):
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(100):
            opt.zero_grad()
            F.cross_entropy(net(x[i]), y[i], label_smoothing=0.02).backward()
            opt.step()
    return net


def acc(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(-1) == y).float().mean().item()


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    seed = cli.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    X, Y = make_classification(5000, 20, n_informative=10, n_redundant=4, n_classes=6, n_clusters_per_class=2,
                               class_sep=1.6, random_state=4)
    X, Y = torch.tensor(X).float(), torch.tensor(Y)
    X = (X - X[:3500].mean(0)) / X[:3500].std(0)
    teacher = pretrain(TabNet(128, 2), X[:3500], Y[:3500], 12)
    print(f"teacher {acc(teacher, X[3500:], Y[3500:]):.2f}")
    few = torch.randperm(3500)[:240]
    trainer = KDTrainer(TabNet(24, 1), teacher)
    for epoch in range(40):
        for i in few[torch.randperm(240)].split(40):
            logs = trainer.train_step(X[i], Y[i])
        if epoch % 10 == 9:
            print(epoch + 1, {k: round(v, 4) for k, v in logs.items()})
    print(f"top1 {acc(trainer.student, X[3500:], Y[3500:]):.2f}")
