"""Relational distillation: distances and angles among the embeddings of a batch, of whatever width they are."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class SequenceEncoder(nn.Module):
    """Eight rows one after the other; the embedding is the mean of the states."""

    def __init__(self, hidden):
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, batch_first=True)
        self.classify = nn.Linear(hidden, 10)

    def forward(self, rows):
        states, _ = self.lstm(rows)
        embedding = states.mean(dim=1)
        return self.classify(embedding), embedding


def pairwise_distance(e, eps=1e-12):
    square = e.pow(2).sum(1)
    d = (square[:, None] + square[None, :] - 2 * e @ e.t()).clamp(min=eps).sqrt()
    return d * (1 - torch.eye(len(e)))


def unit_distances(e):
    d = pairwise_distance(e)
    return d / d[d > 0].mean()


def angles(e):
    difference = F.normalize(e[None] - e[:, None], p=2, dim=2)
    return torch.bmm(difference, difference.transpose(1, 2)).flatten()


class RKD(nn.Module):
    def __init__(self, w_distance, w_angle):
        super().__init__()
        self.w_distance, self.w_angle = w_distance, w_angle

    def forward(self, student, teacher):
        with torch.no_grad():
            t_distance, t_angle = unit_distances(teacher), angles(teacher)
        distance = F.smooth_l1_loss(unit_distances(student), t_distance)
        angle = F.smooth_l1_loss(angles(student), t_angle)
        return self.w_distance * distance + self.w_angle * angle


def loop(model, rows, labels, epochs, lr, extra=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        model.train()
        for pick in torch.randperm(len(rows)).split(32):
            logits, embedding = model(rows[pick])
            loss = F.cross_entropy(logits, labels[pick])
            if extra is not None:
                loss = loss + extra(rows[pick], embedding)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()


def correct(model, rows, labels):
    model.eval()
    with torch.no_grad():
        return (model(rows)[0].argmax(1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distance", type=float, default=5.0)
    parser.add_argument("--angle", type=float, default=10.0)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(flags.seed)
    bunch = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(31))
    rows = torch.tensor(bunch.images, dtype=torch.float32)[order] / 16
    labels = torch.tensor(bunch.target)[order]
    train, test = slice(0, 1152), slice(1152, None)

    teacher = SequenceEncoder(48)
    loop(teacher, rows[train], labels[train], 12, 1.2e-2)
    print("teacher %.2f" % (100 * correct(teacher, rows[test], labels[test])))
    teacher.eval()

    relation = RKD(flags.distance, flags.angle)

    def follow(batch, embedding):
        with torch.no_grad():
            _, wanted = teacher(batch)
        return relation(embedding, wanted)

    student = SequenceEncoder(12)
    few = slice(0, 320)
    loop(student, rows[few], labels[few], 22, 1.5e-2, follow)
    print("top1 %.2f" % (100 * correct(student, rows[test], labels[test])))


if __name__ == "__main__":
    main()
