"""The teacher is scikit-learn's; it has no logits, but logarithms of probabilities serve as well."""
import argparse

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def teacher_scores(teacher, pixels):
    # log p differs from the logits by one number a row, which any softmax takes out: log p / T is exact
    return torch.tensor(np.maximum(teacher.predict_log_proba(pixels), -30.0), dtype=torch.float32)


def kd(z, scores, T):
    return F.kl_div(F.log_softmax(z / T, 1), F.softmax(scores / T, 1), reduction="batchmean") * T * T


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--T", type=float, default=3.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(55).permutation(len(pixels))
    pixels, labels = pixels[order], labels[order]
    train, test = slice(0, 1000), slice(1000, None)

    teacher = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300)).fit(pixels[train], labels[train])
    print(f"teacher {100 * teacher.score(pixels[test], labels[test]):.2f}")
    scores = teacher_scores(teacher, pixels[train])

    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    student = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.3)
    student.train()
    for _ in range(25):
        for rows in torch.randperm(1000).split(40):
            z = student(x[rows])
            loss = 0.5 * kd(z, scores[rows], args.T) + 0.5 * F.cross_entropy(z, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
