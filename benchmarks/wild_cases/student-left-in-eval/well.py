"""Hidden features of the teacher (caught by hooks) as hints for the student, beside the labels and the soft answers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

HINT_WEIGHT = 0.5
KD_WEIGHT = 0.5
TEMP = 2.0


def make_net(dims, p):
    mods = []
    for d_in, d_out in zip(dims, dims[1:]):
        mods += [nn.Linear(d_in, d_out), nn.BatchNorm1d(d_out), nn.ReLU(), nn.Dropout(p)]
    return nn.Sequential(nn.Sequential(*mods), nn.Linear(dims[-1], 10))


class Tap:
    """Keeps what a module returned last."""

    def __init__(self, module):
        self.value = None
        self.handle = module.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output):
        self.value = output

    def close(self):
        self.handle.remove()


def validate(model, loader):
    model.eval()
    hits = n = 0
    with torch.no_grad():
        for x, y in loader:
            hits += (model(x).argmax(-1) == y).sum().item()
            n += y.numel()
    return 100 * hits / n


def pretrain(model, loader, epochs):
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
    model.eval()
    return model


def distil(teacher, student, loader, val_loader, epochs):
    tap_t, tap_s = Tap(teacher[0]), Tap(student[0])
    adapter = nn.Linear(student[1].in_features, teacher[1].in_features)
    opt = torch.optim.Adam(list(student.parameters()) + list(adapter.parameters()), lr=3e-3)
    teacher.eval()
    history = []
    for epoch in range(epochs):
        student.train()
        for x, y in loader:
            with torch.no_grad():
                soft = F.softmax(teacher(x) / TEMP, dim=-1)
            logits = student(x)
            hint = F.mse_loss(adapter(tap_s.value), tap_t.value)
            kd = F.kl_div(F.log_softmax(logits / TEMP, dim=-1), soft, reduction="batchmean") * TEMP**2
            loss = F.cross_entropy(logits, y) + KD_WEIGHT * kd + HINT_WEIGHT * hint
            opt.zero_grad()
            loss.backward()
            opt.step()
        history.append(validate(student, val_loader))
    tap_t.close()
    tap_s.close()
    return history


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    X, Y = load_digits(return_X_y=True)
    X, Y = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(Y)
    rest, test = train_test_split(range(len(X)), test_size=450, random_state=8)
    fit, val = train_test_split(rest, test_size=247, random_state=8)
    fit_loader = DataLoader(TensorDataset(X[fit], Y[fit]), batch_size=50, shuffle=True)
    val_loader = DataLoader(TensorDataset(X[val], Y[val]), batch_size=500)
    test_loader = DataLoader(TensorDataset(X[test], Y[test]), batch_size=500)

    teacher = pretrain(make_net([64, 200, 100], 0.3), fit_loader, epochs=20)
    print(f"teacher {validate(teacher, test_loader):.2f}")
    student = make_net([64, 24, 16], 0.1)
    history = distil(teacher, student, fit_loader, val_loader, epochs=25)
    print("val", " ".join(f"{h:.1f}" for h in history[::5]))
    print(f"top1 {validate(student, test_loader):.2f}")


if __name__ == "__main__":
    main()
