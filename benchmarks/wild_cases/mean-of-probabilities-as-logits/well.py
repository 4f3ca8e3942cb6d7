"""Three teachers -> one student. The ensemble's answer is the mean over the members."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_classification
from torch.utils.data import DataLoader, TensorDataset


def problem(seed):
    X, y = make_classification(n_samples=2400, n_features=30, n_informative=15, n_redundant=5,
                               n_classes=6, n_clusters_per_class=2, class_sep=2.0, random_state=3)
    X = torch.tensor(X, dtype=torch.float32)
    X = (X - X[:1800].mean(0)) / X[:1800].std(0)
    y = torch.tensor(y)
    return TensorDataset(X[:1800], y[:1800]), TensorDataset(X[1800:], y[1800:])


class Ensemble(nn.Module):
    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    @torch.no_grad()
    def forward(self, x):
        outs = torch.stack([m(x) for m in self.members])      # M, B, C
        return outs.mean(0)


def build(widths, n_in=30, n_out=6):
    layers, prev = [], n_in
    for w in widths:
        layers += [nn.Linear(prev, w), nn.ReLU()]
        prev = w
    return nn.Sequential(*layers, nn.Linear(prev, n_out))


def fit_member(net, loader, epochs=8):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for x, y in loader:
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net


class KDLoss(nn.Module):
    def __init__(self, T=3.0, alpha=0.8):
        super().__init__()
        self.T, self.alpha = T, alpha
        self.kl = nn.KLDivLoss(reduction="batchmean")
        self.ce = nn.CrossEntropyLoss()

    def forward(self, student_logits, teacher_logits, target):
        soft_t = F.softmax(teacher_logits / self.T, dim=1)
        soft_s = F.log_softmax(student_logits / self.T, dim=1)
        kd = self.kl(soft_s, soft_t) * self.T ** 2
        return self.alpha * kd + (1 - self.alpha) * self.ce(student_logits, target)


def evaluate(net, ds):
    net.eval()
    x, y = ds.tensors
    with torch.no_grad():
        return 100.0 * (net(x).argmax(1) == y).sum().item() / len(y)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    opts = parser.parse_args()
    torch.manual_seed(opts.seed)
    torch.set_num_threads(1)
    train, test = problem(opts.seed)
    loader = DataLoader(train, batch_size=60, shuffle=True)

    members = [fit_member(build(w), loader) for w in ([128], [96, 48], [160])]
    for i, m in enumerate(members):
        print(f"member {i}: {evaluate(m, test):.2f}")
    teacher = Ensemble(members).eval()
    print(f"ensemble: {evaluate(teacher, test):.2f}")

    student, criterion = build([10]), KDLoss()
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    for epoch in range(opts.epochs):
        student.train()
        for x, y in loader:
            loss = criterion(student(x), teacher(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {evaluate(student, test):.2f}")


if __name__ == "__main__":
    main()
