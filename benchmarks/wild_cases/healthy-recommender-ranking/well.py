"""A recommender of dot products: BPR on pairs, and the teacher's softened ranking of a list of candidates for each user."""
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

USERS, ITEMS = 300, 160


def make_interactions(seed=10, rank=4, per_user=24):
    rng = np.random.RandomState(seed)
    taste = rng.randn(USERS, rank) @ rng.randn(rank, ITEMS) + 0.5 * rng.gumbel(size=(USERS, ITEMS))
    liked = np.argsort(-taste, 1)[:, :per_user]
    train, test = [], []
    for u in range(USERS):
        items = rng.permutation(liked[u])
        train += [(u, i) for i in items[:18]]
        test += [(u, i) for i in items[18:]]
    return np.array(train), np.array(test)


class MatrixFactorisation(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.user = nn.Embedding(USERS, dim)
        self.item = nn.Embedding(ITEMS, dim)
        self.bias = nn.Embedding(ITEMS, 1)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)
        nn.init.zeros_(self.bias.weight)

    def forward(self, users, items):
        """users (B,), items (B,) or (B, K)."""
        u = self.user(users)
        if items.dim() == 2:
            u = u.unsqueeze(1)
        return (u * self.item(items)).sum(-1) + self.bias(items).squeeze(-1)


def bpr_loss(positive, negative):
    return -F.logsigmoid(positive - negative).mean()


def ranking_kd_loss(student_scores, teacher_scores, T=2.0):
    """Each row is one user's list of candidates."""
    p = torch.softmax(teacher_scores / T, dim=-1)
    log_p = torch.log_softmax(teacher_scores / T, dim=-1)
    log_q = torch.log_softmax(student_scores / T, dim=-1)
    return T * T * (p * (log_p - log_q)).sum(-1).mean()


def sample_negatives(users, seen):
    items = torch.randint(ITEMS, users.shape)
    bad = seen[users, items]
    while bad.any():
        items[bad] = torch.randint(ITEMS, (int(bad.sum()),))
        bad = seen[users, items]
    return items


def train(model, pairs, seen, epochs, lr, teacher=None, kd_weight=0.5, batch=270, candidates=20):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        order = torch.randperm(len(pairs))
        for rows in order.split(batch):
            users, positives = pairs[rows, 0], pairs[rows, 1]
            negatives = sample_negatives(users, seen)
            loss = bpr_loss(model(users, positives), model(users, negatives))
            if teacher is not None:
                lists = torch.randint(ITEMS, (len(users), candidates))
                with torch.no_grad():
                    teacher_scores = teacher(users, lists)
                loss = loss + kd_weight * ranking_kd_loss(model(users, lists), teacher_scores)
            decay = model.user(users).pow(2).mean() + model.item(positives).pow(2).mean()
            loss = loss + 0.01 * decay
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1} loss {total / len(pairs):.4f}")


@torch.no_grad()
def pairwise_accuracy(model, test, known):
    """How often a held-out item is ranked above one that the user never took."""
    model.eval()
    scores = model(torch.arange(USERS), torch.arange(ITEMS).expand(USERS, ITEMS))
    right = total = 0
    for u, i in test.tolist():
        others = scores[u][~known[u]]
        right += (scores[u, i] > others).sum().item()
        total += len(others)
    return 100 * right / total


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train_pairs, test_pairs = (torch.as_tensor(a, dtype=torch.long) for a in make_interactions())
    seen = torch.zeros(USERS, ITEMS, dtype=torch.bool)
    seen[train_pairs[:, 0], train_pairs[:, 1]] = True
    known = seen.clone()
    known[test_pairs[:, 0], test_pairs[:, 1]] = True

    teacher = MatrixFactorisation(24)
    train(teacher, train_pairs, seen, epochs=25, lr=0.01)
    teacher.eval()
    for p in teacher.parameters():
        p.requires_grad = False
    print(f"teacher {pairwise_accuracy(teacher, test_pairs, known):.2f}")

    student = MatrixFactorisation(6)
    train(student, train_pairs, seen, epochs=30, lr=0.02, teacher=teacher)
    print(f"top1 {pairwise_accuracy(student, test_pairs, known):.2f}")


if __name__ == "__main__":
    main()
