"""A graph of nearest neighbours over digits, dense and normalised adjacency, full batch; a smaller GCN learns from a larger one."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def normalised_adjacency(x, k=8):
    near = torch.cdist(x, x).topk(k + 1, largest=False).indices[:, 1:]
    a = torch.zeros(len(x), len(x))
    a[torch.arange(len(x))[:, None], near] = 1.0
    a = torch.maximum(a, a.t()) + torch.eye(len(x))
    d = a.sum(1).rsqrt()
    return d[:, None] * a * d[None]


class GraphConvolution(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.lin = nn.Linear(n_in, n_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x, adj):
        return adj @ self.lin(x) + self.bias


class GCN(nn.Module):
    def __init__(self, nfeat, nhid, nclass, dropout):
        super().__init__()
        self.gc1 = GraphConvolution(nfeat, nhid)
        self.gc2 = GraphConvolution(nhid, nclass)
        self.dropout = dropout

    def forward(self, x, adj):
        x = F.relu(self.gc1(x, adj))
        x = F.dropout(x, self.dropout, training=self.training)
        return self.gc2(x, adj)


def accuracy(output, labels):
    return (output.max(1)[1] == labels).double().mean().item()


def kd_criterion(student_logits, teacher_logits, tau=2.0):
    return F.kl_div(F.log_softmax(student_logits / tau, dim=1), F.softmax(teacher_logits / tau, dim=1),
                    reduction="batchmean") * tau * tau


def train_teacher(model, features, adj, labels, idx_train, epochs):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    for epoch in range(epochs):
        model.train()
        optimizer.zero_grad()
        output = model(features, adj)
        loss_train = F.cross_entropy(output[idx_train], labels[idx_train])
        loss_train.backward()
        optimizer.step()
    model.eval()


def distill(teacher, student, features, adj, labels, idx_train, idx_observed, idx_val, epochs, lamb=0.5):
    """Labels of idx_train; the teacher's answers on every observed node, which the test nodes are not among."""
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02, weight_decay=5e-4)
    teacher.eval()
    for epoch in range(epochs):
        student.train()
        with torch.no_grad():
            wanted = teacher(features, adj)
        logits = student(features, adj)
        loss_label = F.cross_entropy(logits[idx_train], labels[idx_train])
        loss_kd = kd_criterion(logits[idx_observed], wanted[idx_observed])
        loss = lamb * loss_label + (1 - lamb) * loss_kd
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch % 20 == 0 or epoch == epochs - 1:
            student.eval()
            with torch.no_grad():
                val = accuracy(student(features, adj)[idx_val], labels[idx_val])
            print(f"Epoch: {epoch:04d} loss_label: {loss_label.item():.4f} loss_kd: {loss_kd.item():.4f} acc_val: {val:.4f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    keep = torch.randperm(len(x), generator=torch.Generator().manual_seed(28))[:1000]
    features, labels = torch.tensor(x, dtype=torch.float32)[keep] / 16, torch.tensor(y)[keep]
    adj = normalised_adjacency(features)
    nodes = torch.arange(1000)
    idx_train, idx_val, idx_test = nodes[:300], nodes[600:700], nodes[700:]
    idx_observed = nodes[:600]

    teacher = GCN(64, 64, 10, dropout=0.3)
    train_teacher(teacher, features, adj, labels, idx_train, epochs=80)
    with torch.no_grad():
        print(f"teacher {100 * accuracy(teacher(features, adj)[idx_test], labels[idx_test]):.2f}")

    student = GCN(64, 12, 10, dropout=0.1)
    distill(teacher, student, features, adj, labels, idx_train, idx_observed, idx_val, epochs=120)
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * accuracy(student(features, adj)[idx_test], labels[idx_test]):.2f}")


if __name__ == "__main__":
    main()
