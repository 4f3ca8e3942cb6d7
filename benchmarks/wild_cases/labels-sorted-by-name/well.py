import argparse
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# the teacher was trained on folders (ImageFolder style), whose classes are sorted by name
FOLDERS = sorted(NAMES)
FOLDER_OF = np.array([FOLDERS.index(n) for n in NAMES])      # digit -> teacher's class


def load(seed):
    X, y = load_digits(return_X_y=True)
    p = np.random.default_rng(seed).permutation(len(y))
    X = torch.as_tensor(X[p] / 8.0 - 1.0, dtype=torch.float32)
    y = torch.as_tensor(y[p])
    return X[:-450], y[:-450], X[-450:], y[-450:]


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 10))

    def forward(self, x):
        return self.net(x)


class Student(nn.Module):
    def __init__(self, hidden=14):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, hidden), nn.GELU(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.net(x)


def minibatches(n, size):
    perm = torch.randperm(n)
    for k in range(0, n - size + 1, size):
        yield perm[k:k + size]


def train_teacher(X, y):
    folder_labels = torch.as_tensor(FOLDER_OF)[y]
    net = Teacher()
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(8):
        for idx in minibatches(len(X), 64):
            opt.zero_grad()
            F.cross_entropy(net(X[idx]), folder_labels[idx]).backward()
            opt.step()
    return net.eval()


def teacher_logits(net, x):
    with torch.no_grad():
        out = net(x)
    return out[:, FOLDER_OF]


def kd_criterion(student_out, teacher_out, y, T, w_kd):
    p_t = F.softmax(teacher_out / T, dim=-1)
    log_p_s = F.log_softmax(student_out / T, dim=-1)
    kl = (p_t * (p_t.clamp_min(1e-12).log() - log_p_s)).sum(-1).mean()
    return F.cross_entropy(student_out, y) + w_kd * T * T * kl


def accuracy(fn, X, y):
    with torch.no_grad():
        return (fn(X).argmax(-1) == y).float().mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("-T", "--temperature", type=float, default=2.5)
    ap.add_argument("--w-kd", type=float, default=1.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    Xtr, ytr, Xte, yte = load(args.seed)

    teacher = train_teacher(Xtr, ytr)
    print("teacher (its own labels): %.2f" % accuracy(teacher, Xte, torch.as_tensor(FOLDER_OF)[yte]))

    student = Student()
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    for ep in range(10):
        student.train()
        for idx in minibatches(len(Xtr), 48):
            x, y = Xtr[idx], ytr[idx]
            loss = kd_criterion(student(x), teacher_logits(teacher, x), y, args.temperature, args.w_kd)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    print("top1 %.2f" % accuracy(student, Xte, yte))


if __name__ == "__main__":
    main()
