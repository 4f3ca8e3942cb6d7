"""The teacher knows 13 classes (ten digits, and three sorts of noise) in alphabetical order; the student, six of the digits.

The six columns are picked by name from the teacher's 13 logits, before the softmax, and put in the student's order."""
import argparse
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEACHER_CLASSES = sorted(DIGITS + ["blank", "snow", "stripes"])
STUDENT_CLASSES = ["three", "eight", "nine", "five", "six", "zero"]
COLUMNS = torch.tensor([TEACHER_CLASSES.index(c) for c in STUDENT_CLASSES])


def rubbish(n, rng):
    x, names = np.zeros((3 * n, 64), np.float32), []
    for i in range(n):
        x[i] = rng.uniform(0, 0.1, 64)
        x[n + i] = rng.uniform(0, 1, 64)
        x[2 * n + i] = np.tile(rng.permutation([0, 0, 0, 0, 1, 1, 1, 1]), 8) * rng.uniform(0.5, 1)
    return x, ["blank"] * n + ["snow"] * n + ["stripes"] * n


def criterion(outputs, teacher_outputs, labels, T=2.5, alpha=0.7):
    t = teacher_outputs.index_select(1, COLUMNS)
    q, p = F.log_softmax(outputs / T, 1), F.softmax(t / T, 1)
    return alpha * nn.KLDivLoss(reduction="batchmean")(q, p) * (T * T) + (1.0 - alpha) * F.cross_entropy(outputs, labels)


def mlp(n, out):
    return nn.Sequential(nn.Linear(64, n), nn.ReLU(), nn.Dropout(0.1), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, out))


def top1(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, names = (x / 16).astype(np.float32), np.array([DIGITS[i] for i in y])
    order = np.random.default_rng(27).permutation(len(x))
    tr, te = order[:1250], order[1250:]
    noise, noise_names = rubbish(120, np.random.default_rng(seed))
    tx = torch.tensor(np.concatenate([x[tr], noise]))
    ty = torch.tensor([TEACHER_CLASSES.index(c) for c in [*names[tr], *noise_names]])

    teacher = mlp(200, len(TEACHER_CLASSES))
    opt = torch.optim.Adam(teacher.parameters(), 1e-3)
    for _ in range(20):
        teacher.train()
        for b in torch.randperm(len(tx)).split(40):
            loss = F.cross_entropy(teacher(tx[b]), ty[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {top1(teacher, torch.tensor(x[te]), torch.tensor([TEACHER_CLASSES.index(c) for c in names[te]])):.2f}")
    teacher.eval().requires_grad_(False)

    mine = np.isin(names, STUDENT_CLASSES)
    label = {c: i for i, c in enumerate(STUDENT_CLASSES)}
    tr, te = tr[mine[tr]], te[mine[te]]
    sx, sy = torch.tensor(x[tr]), torch.tensor([label[c] for c in names[tr]])
    ex, ey = torch.tensor(x[te]), torch.tensor([label[c] for c in names[te]])
    student = mlp(20, len(STUDENT_CLASSES))
    opt = torch.optim.RMSprop(student.parameters(), 1e-3)
    for _ in range(60):
        student.train()
        for b in torch.randperm(len(sx)).split(24):
            with torch.no_grad():
                told = teacher(sx[b])
            loss = criterion(student(sx[b]), told, sy[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {top1(student, ex, ey):.2f}")


if __name__ == "__main__":
    main()
