"""FixMatch with a teacher: 10 labelled images and 70 unlabelled ones a step, in one concatenated student batch.

The teacher answers the weakly shifted image, the student must give that answer for the erased and noisy one."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def weak(x):
    """A shift of at most one pixel for each image."""
    padded = F.pad(x, (1, 1, 1, 1))
    out = torch.empty_like(x)
    for i, (a, b) in enumerate(torch.randint(0, 3, (len(x), 2)).tolist()):
        out[i] = padded[i, :, a:a + 8, b:b + 8]
    return out


def strong(x):
    x = x + 0.15 * torch.randn_like(x)
    rows = torch.randint(0, 7, (len(x),))
    cols = torch.randint(0, 7, (len(x),))
    n = torch.arange(len(x))
    for dr in (0, 1):
        for dc in (0, 1):
            x[n, 0, rows + dr, cols + dc] = 0.0
    return x


def cnn(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * width * 16, 10))


def unlabelled_loss(student_logits, teacher_logits, T=2.0, threshold=0.8):
    """KL at T for the images that the teacher is sure of; the others count as zero in the mean, as in FixMatch."""
    sure = (teacher_logits.softmax(1).amax(1) >= threshold).float()
    per_image = F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="none").sum(1)
    return T * T * (sure * per_image).mean()


def accuracy(net, x, y):
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
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    pool, test = order[:1300], order[1300:]
    labelled = pool[:100]

    teacher = cnn(16)
    opt = torch.optim.Adam(teacher.parameters(), 2e-3)
    for _ in range(10):
        teacher.train()
        for b in pool[torch.randperm(len(pool))].split(50):
            loss = F.cross_entropy(teacher(weak(x[b])), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")
    teacher.eval().requires_grad_(False)

    student = cnn(6)
    opt = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for _ in range(14):
        student.train()
        for u in pool[torch.randperm(len(pool))].split(70):
            few = labelled[torch.randint(0, len(labelled), (10,))]
            unl = weak(x[u])
            with torch.no_grad():
                answers = teacher(unl)
            both = student(torch.cat([weak(x[few]), strong(unl)]))
            on_labels, on_rest = both[:10], both[10:]
            loss = F.cross_entropy(on_labels, y[few]) + unlabelled_loss(on_rest, answers)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
