# %% [markdown]
# # Knowledge distillation on digits
# Student gets alpha * soft + (1 - alpha) * hard. Exported from a notebook, cells wrapped in a function so that it can be imported.

# %%
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

CFG = dict(T=2.0, alpha=0.5, lr=4e-3, bs=32, epochs=15, n_student=320, teacher_epochs=3)


# %%
def get_data(seed):
    X, y = load_digits(return_X_y=True)
    X = torch.tensor(X, dtype=torch.float32) / 16
    y = torch.tensor(y)
    perm = torch.randperm(len(X), generator=torch.Generator().manual_seed(2024))
    tr, te = perm[:1200], perm[1200:]
    sub = tr[torch.randperm(len(tr), generator=torch.Generator().manual_seed(seed))[: CFG["n_student"]]]
    return X, y, tr, sub, te


def mlp(sizes, drop=0.0):
    mods = []
    for i in range(len(sizes) - 2):
        mods += [nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU(inplace=True), nn.Dropout(drop)]
    return nn.Sequential(*mods, nn.Linear(sizes[-2], sizes[-1]))


# %%
def train_teacher(X, y, idx):
    teacher = mlp([64, 256, 128, 10], 0.2)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for _ in range(CFG["teacher_epochs"]):
        teacher.train()
        for b in idx[torch.randperm(len(idx))].split(CFG["bs"]):
            opt.zero_grad()
            F.cross_entropy(teacher(X[b]), y[b]).backward()
            opt.step()
    for p in teacher.parameters():
        p.requires_grad = False
    return teacher.eval()


# %%
def kd_loss(student_logits, teacher_logits, labels, T, alpha):
    soft = F.kl_div(
        F.log_softmax(student_logits / T, dim=1),
        F.softmax(teacher_logits / T, dim=1),
        reduction="batchmean",
    )
    hard = F.cross_entropy(student_logits, labels)
    loss = (alpha * T * T * soft
            + (1 - alpha) * hard)
    return loss


# %%
def evaluate(net, X, y, idx):
    net.eval()
    with torch.no_grad():
        return (net(X[idx]).argmax(1) == y[idx]).float().mean().item() * 100


# %%
def train_student(teacher, X, y, idx, cfg):
    student = mlp([64, 12, 10])
    opt = torch.optim.Adam(student.parameters(), lr=cfg["lr"])
    history = []
    for epoch in range(cfg["epochs"]):
        student.train()
        running = 0.0
        for b in idx[torch.randperm(len(idx))].split(cfg["bs"]):
            xb, yb = X[b], y[b]
            with torch.no_grad():
                t_out = teacher(xb)
            loss = kd_loss(student(xb), t_out, yb, cfg["T"], cfg["alpha"])
            opt.zero_grad()
            loss.backward()
            opt.step()
            running += loss.item() * len(b)
        history.append(running / len(idx))
    return student, history


# %%
if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=CFG["alpha"])
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    cfg = copy.deepcopy(CFG)
    cfg["alpha"] = args.alpha
    X, y, tr, sub, te = get_data(args.seed)
    teacher = train_teacher(X, y, tr)
    print(f"teacher: {evaluate(teacher, X, y, te):.2f}")
    student, history = train_student(teacher, X, y, sub, cfg)
    print("loss:", " ".join(f"{h:.3f}" for h in history[::5]))
    print(f"top1 {evaluate(student, X, y, te):.2f}")
