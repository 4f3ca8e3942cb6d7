"""The teacher is a random forest: its out-of-bag votes, clipped and renormalised, are softened as logits by their logarithm."""
import argparse
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from torch.utils.data import DataLoader, Dataset


class WithVotes(Dataset):
    """An image, what the forest's trees that never saw it say of it, and its label."""

    def __init__(self, x, votes, y):
        self.x, self.votes, self.y = x, votes, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {"image": self.x[i], "votes": self.votes[i], "label": self.y[i]}


def collate(rows):
    return {"image": torch.from_numpy(np.stack([r["image"] for r in rows])),
            "votes": torch.from_numpy(np.stack([r["votes"] for r in rows])),
            "label": torch.tensor([int(r["label"]) for r in rows])}


def kd_loss(student_logits, teacher_log_probs, labels, T=2.0, alpha=0.6):
    p = F.softmax(teacher_log_probs / T, dim=1)  # log p is a logit: p ** (1 / T), renormalised
    soft = -(p * F.log_softmax(student_logits / T, dim=1)).sum(1).mean()
    return alpha * T * T * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    order = np.random.default_rng(12).permutation(len(x))
    tr, te = order[:1200], order[1200:]
    forest = RandomForestClassifier(200, oob_score=True, random_state=seed).fit(x[tr], y[tr])
    print(f"teacher {100 * forest.score(x[te], y[te]):.2f}")
    votes = np.clip(forest.oob_decision_function_, 1e-3, None)
    votes = np.log(votes / votes.sum(1, keepdims=True)).astype(np.float32)

    loader = DataLoader(WithVotes(x[tr], votes, y[tr]), batch_size=40, shuffle=True, collate_fn=collate)
    student = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    opt = torch.optim.AdamW(student.parameters(), lr=4e-3, weight_decay=1e-3)
    for _ in range(35):
        student.train()
        for batch in loader:
            loss = kd_loss(student(batch["image"]), batch["votes"], batch["label"])
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        hit = student(torch.from_numpy(x[te])).argmax(1).numpy() == y[te]
    print(f"top1 {100 * hit.mean():.2f}")


if __name__ == "__main__":
    main()
