"""Only the teacher has seen labels. The student gets its probabilities as they are (no temperature) on an unlabelled pool."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_classification


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    X, y = make_classification(6000, 16, n_informative=10, n_redundant=2, n_classes=5, n_clusters_per_class=2,
                               class_sep=1.8, random_state=21)
    X, y = torch.tensor(X).float(), torch.tensor(y)
    labelled, pool, test = slice(0, 2000), slice(2000, 4500), slice(4500, None)

    def mlp(h):
        return nn.Sequential(nn.Linear(16, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 5))

    teacher = mlp(96)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for i in torch.randperm(2000).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(X[labelled][i]), y[labelled][i]).backward()
            opt.step()
    teacher.eval()

    # annotate the pool once; rows stay beside their inputs from here on
    with torch.no_grad():
        annotated = torch.utils.data.TensorDataset(X[pool], teacher(X[pool]).softmax(1))

    student = mlp(16)
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for epoch in range(8):
        student.train()
        for xb, probs in torch.utils.data.DataLoader(annotated, batch_size=50, shuffle=True):
            loss = F.cross_entropy(student(xb), probs)
            opt.zero_grad()
            loss.backward()
            opt.step()

    student.eval()
    with torch.no_grad():
        for name, net in (("teacher", teacher), ("top1", student)):
            print(f"{name} {100 * (net(X[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
