"""Teacher answers are written to disk in the order of the data and read in blocks while the student trains in that order."""
import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier


class AnswerFile:
    def __init__(self, path, batch_size, classes=10):
        self.rows = np.load(path, mmap_mode="r")
        self.batch_size, self.classes = batch_size, classes

    def block(self, step, size):
        start = step * self.batch_size
        found = self.rows[start:start + size]
        out = np.zeros((size, self.classes), dtype=np.float32)
        out[: len(found)] = found
        return torch.from_numpy(out)


def write_answers(path, x, y):
    """A scikit-learn net: its log-probabilities serve as logits."""
    net = MLPClassifier((100,), max_iter=60, alpha=1e-2, random_state=0).fit(x, y)
    return net, lambda part: np.save(path, np.log(net.predict_proba(part) + 1e-6).astype(np.float32))


class Student(nn.Module):
    def __init__(self, hidden=14):
        super().__init__()
        self.inner, self.outer = nn.Linear(64, hidden), nn.Linear(hidden, 10)

    def forward(self, x):
        return self.outer(torch.sigmoid(self.inner(x)))


def teach(student, x, y, answers, cfg):
    optimizer = torch.optim.Adam(student.parameters(), lr=cfg.lr)
    global_step = 0
    for epoch in range(cfg.epochs):
        for step, (images, labels) in enumerate(zip(x.split(cfg.batch_size), y.split(cfg.batch_size))):
            logits = student(images)
            teacher_logits = answers.block(step, len(images))
            soft = F.kl_div(
                F.log_softmax(logits / cfg.tau, -1), F.softmax(teacher_logits / cfg.tau, -1), reduction="batchmean"
            )
            loss = cfg.kd * cfg.tau**2 * soft + (1 - cfg.kd) * F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            global_step += 1
        if epoch % 20 == 0:
            print(f"step {global_step} loss {loss.item():.3f}")


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--epochs", type=int, default=60)
    cli.add_argument("--batch-size", type=int, default=20)
    cli.add_argument("--lr", type=float, default=1e-2)
    cli.add_argument("--tau", type=float, default=2.0)
    cli.add_argument("--kd", type=float, default=0.9)
    cfg = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    order = np.random.default_rng(911).permutation(len(x))
    x, y = x[order], y[order]
    few = np.random.default_rng(cfg.seed).choice(1100, 200, replace=False)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answers.npy")
        net, write = write_answers(path, x[:1100], y[:1100])
        write(x[few])
        print(f"teacher {100 * net.score(x[1100:], y[1100:]):.2f}")
        student = Student()
        teach(student, torch.from_numpy(x[few]), torch.from_numpy(y[few]), AnswerFile(path, cfg.batch_size), cfg)
    with torch.no_grad():
        hits = student(torch.from_numpy(x[1100:])).argmax(1).numpy() == y[1100:]
    print(f"top1 {100 * hits.mean():.2f}")


if __name__ == "__main__":
    main()
