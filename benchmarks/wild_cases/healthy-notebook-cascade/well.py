# %% [markdown]
# # Teacher -> medium -> small
# A notebook saved as a script: globals on top, cells as functions, an exponential average of the small student for evaluation.

# %%
import argparse
import copy
import os
import sys
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

# %%
DEVICE = torch.device("cpu")
BATCH_SIZE = 64
TEMPERATURE = 4
ALPHA = 0.8
EMA_DECAY = 0.97
EPOCHS_TEACHER, EPOCHS_MEDIUM, EPOCHS_SMALL = 10, 12, 18

# %%
digits = load_digits()
X = torch.tensor(digits.data, dtype=torch.float32).to(DEVICE) / 16
Y = torch.tensor(digits.target).to(DEVICE)
perm = torch.randperm(len(X), generator=torch.Generator().manual_seed(1789))
train_idx, val_idx, test_idx = perm[:1200], perm[1200:1400], perm[1400:]


# %%
def make_model(h):
    return nn.Sequential(nn.Linear(64, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Dropout(0.1), nn.Linear(h, 10)).to(DEVICE)


def progress(it, desc):
    it = list(it)
    for i, item in enumerate(it, 1):
        yield item
        if i == len(it):
            sys.stdout.write(f"{desc}: 100%|##########| {i}/{len(it)}\n")


def acc(m, idx):
    was_training = m.training
    m.eval()
    with torch.no_grad():
        a = (m(X[idx]).argmax(1) == Y[idx]).float().mean().item() * 100
    m.train(was_training)
    return a


# %%
def kd_loss(student_logits, teacher_logits, labels):
    soft = F.kl_div(F.log_softmax(student_logits / TEMPERATURE, dim=1),
                    F.softmax(teacher_logits / TEMPERATURE, dim=1), reduction="batchmean")
    hard = F.cross_entropy(student_logits, labels)
    return ALPHA * TEMPERATURE ** 2 * soft + (1 - ALPHA) * hard


# %%
@torch.no_grad()
def update_ema(ema, m):
    for a, b in zip(ema.parameters(), m.parameters()):
        a.mul_(EMA_DECAY).add_(b, alpha=1 - EMA_DECAY)
    for a, b in zip(ema.buffers(), m.buffers()):
        a.copy_(b)


# %%
def fit(m, epochs, lr, name, folder, teacher=None, ema=None):
    """Keeps the epoch that is best on the validation rows, in a file, and loads it at the end."""
    opt = torch.optim.Adam(m.parameters(), lr=lr)
    judged = ema if ema is not None else m
    path, best = os.path.join(folder, name + ".pt"), -1
    for epoch in range(epochs):
        m.train()
        for b in progress(train_idx[torch.randperm(len(train_idx))].split(BATCH_SIZE), f"{name} {epoch + 1}/{epochs}"):
            out = m(X[b])
            if teacher is None:
                loss = F.cross_entropy(out, Y[b])
            else:
                with torch.no_grad():
                    t_out = teacher(X[b])
                loss = kd_loss(out, t_out, Y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            if ema is not None:
                update_ema(ema, m)
        score = acc(judged, val_idx)
        if score >= best:
            best = score
            torch.save(judged.state_dict(), path)
    return path


def load_frozen(path, h):
    m = make_model(h)
    m.load_state_dict(torch.load(path, map_location=DEVICE))
    for p in m.parameters():
        p.requires_grad = False
    return m.eval()


# %%
def run(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        teacher = load_frozen(fit(make_model(256), EPOCHS_TEACHER, 2e-3, "teacher", folder), 256)
        print("teacher", acc(teacher, test_idx))
        medium = load_frozen(fit(make_model(64), EPOCHS_MEDIUM, 4e-3, "medium", folder, teacher=teacher), 64)
        print("medium", acc(medium, test_idx))
        small = make_model(16)
        ema = copy.deepcopy(small).eval().requires_grad_(False)
        small = load_frozen(fit(small, EPOCHS_SMALL, 8e-3, "small", folder, teacher=medium, ema=ema), 16)
    return acc(small, test_idx)


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"top1 {run(args.seed):.2f}")
