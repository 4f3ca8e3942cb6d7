"""Soft-label training: cross-entropy between what the tutor says and what the pupil says, plus the labels."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler


def soft_label_loss(pupil_out, tutor_out, y, temp=2.0, lam=0.8):
    tutor_p = F.softmax(tutor_out / temp, dim=1)
    pupil_p = pupil_out / temp
    soft = nn.CrossEntropyLoss()(pupil_p, tutor_p)
    hard = nn.CrossEntropyLoss()(pupil_out, y)
    return lam * temp * temp * soft + (1.0 - lam) * hard


def build(role):
    if role == "tutor":
        return nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Dropout(0.3), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10))
    return nn.Sequential(nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))


def train_tutor(x, y, n_epochs=15):
    tutor = build("tutor")
    opt = torch.optim.RMSprop(tutor.parameters(), lr=1e-3)
    for epoch in range(n_epochs):
        tutor.train()
        perm = torch.randperm(x.shape[0])
        for i in range(0, x.shape[0], 40):
            idx = perm[i:i + 40]
            opt.zero_grad()
            loss = F.cross_entropy(tutor(x[idx]), y[idx])
            loss.backward()
            opt.step()
    tutor.eval()
    return tutor


def train_pupil(tutor, x, y, n_epochs=80):
    pupil = build("pupil")
    opt = torch.optim.SGD(pupil.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(n_epochs):
        perm = torch.randperm(x.shape[0])
        for i in range(0, x.shape[0], 25):
            idx = perm[i:i + 25]
            xb = x[idx] + 0.3 * torch.randn(len(idx), 64)
            with torch.no_grad():
                tutor_out = tutor(xb)
            loss = soft_label_loss(pupil(xb), tutor_out, y[idx])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return pupil


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    raw, lab = load_digits(return_X_y=True)
    cut = torch.randperm(len(raw), generator=torch.Generator().manual_seed(5)).numpy()
    tr, te = cut[:1000], cut[1000:]
    scaler = StandardScaler().fit(raw[tr])
    x, y = torch.tensor(scaler.transform(raw)).float().clamp(-4, 4), torch.tensor(lab)
    tutor = train_tutor(x[tr], y[tr])
    few = tr[torch.randperm(1000)[:100].numpy()]
    pupil = train_pupil(tutor, x[few], y[few])
    with torch.no_grad():
        for name, net in (("tutor", tutor), ("top1", pupil)):
            acc = (net(x[te]).argmax(1) == y[te]).float().mean().item() * 100
            print("%s %.2f" % (name, acc))


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    main(cli.parse_args().seed)
