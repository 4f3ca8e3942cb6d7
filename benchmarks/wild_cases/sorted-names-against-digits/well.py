"""The teacher was fitted on class names with a LabelEncoder; the student is trained on the numbers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.preprocessing import LabelEncoder

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class NameClassifier:
    """fit(images, names), predict(images) -> names, logits(images): columns in the order of encoder.classes_"""

    def __init__(self, width=128):
        self.encoder = LabelEncoder()
        self.net = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 10))

    def fit(self, x, names, epochs=12):
        y = torch.as_tensor(self.encoder.fit_transform(names))
        opt = torch.optim.AdamW(self.net.parameters(), lr=2e-3)
        self.net.train()
        for _ in range(epochs):
            for b in torch.randperm(len(x)).split(50):
                loss = F.cross_entropy(self.net(x[b]), y[b])
                opt.zero_grad()
                loss.backward()
                opt.step()
        self.net.eval()
        return self

    @torch.no_grad()
    def logits(self, x):
        return self.net(x)

    def predict(self, x):
        return self.encoder.inverse_transform(self.logits(x).argmax(1).numpy())


def teacher_answers(teacher, x):
    order = torch.as_tensor(teacher.encoder.transform(NAMES))
    return teacher.logits(x)[:, order]


def kd_loss(student_logits, teacher_logits, labels, T=4.0, alpha=0.7):
    soft = F.kl_div(
        F.log_softmax(student_logits / T, dim=1), F.softmax(teacher_logits / T, dim=1), reduction="batchmean"
    )
    return alpha * T * T * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)


def make_student():
    return nn.Sequential(nn.Linear(64, 14), nn.GELU(), nn.Linear(14, 10))


def load(seed):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(101))
    few = p[:1100][torch.randperm(1100, generator=torch.Generator().manual_seed(seed))[:180]]
    return x, y, p[:1100], few, p[1100:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y, rows, few, test = load(args.seed)
    names = [NAMES[i] for i in y.tolist()]

    teacher = NameClassifier().fit(x[rows], [names[i] for i in rows.tolist()])
    right = sum(said == names[i] for said, i in zip(teacher.predict(x[test]), test.tolist()))
    print(f"teacher {100 * right / len(test):.2f}")

    student = make_student()
    opt = torch.optim.AdamW(student.parameters(), lr=5e-3)
    student.train()
    for _ in range(50):
        for b in few[torch.randperm(len(few))].split(30):
            loss = kd_loss(student(x[b]), teacher_answers(teacher, x[b]), y[b], alpha=args.alpha)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
