"""Classes are renumbered so that coarse groups lie side by side; a coarse head reads them as slices."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

GROUPS = [[0, 6, 8, 9], [1, 4, 7], [2, 3, 5]]  # closed, straight, open shapes
NEW_TO_OLD = [c for group in GROUPS for c in group]
OLD_TO_NEW = torch.argsort(torch.tensor(NEW_TO_OLD))
COARSE_OF_NEW = torch.tensor([g for g, group in enumerate(GROUPS) for _ in group])


class Net(nn.Module):
    def __init__(self, hidden, dropout=0.0, coarse=True):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout),
                                      nn.Linear(hidden, hidden), nn.GELU())
        self.fc = nn.Linear(hidden, 10)
        self.coarse = nn.Linear(hidden, len(GROUPS)) if coarse else None

    def forward(self, x):
        h = self.backbone(x)
        return {"fine": self.fc(h), "coarse": self.coarse(h) if self.coarse is not None else None}


def renumber_head(model):
    """Row k of the head becomes the class that is called k from now on."""
    with torch.no_grad():
        model.fc.weight.copy_(model.fc.weight[NEW_TO_OLD].clone())
        model.fc.bias.copy_(model.fc.bias[NEW_TO_OLD].clone())
    return model


def load_teacher(path):
    model = Net(128, 0.2, coarse=False)
    model.load_state_dict(torch.load(path)["state_dict"])
    return renumber_head(model).eval().requires_grad_(False)


def group_log_probs(log_probs):
    return torch.stack([log_probs[:, COARSE_OF_NEW == g].logsumexp(1) for g in range(len(GROUPS))], 1)


class MultiTaskKD(nn.Module):
    def __init__(self, T=3.0, alpha=0.8, coarse_weight=0.3):
        super().__init__()
        self.T, self.alpha, self.coarse_weight = T, alpha, coarse_weight

    def kl(self, log_p, log_q):
        return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * self.T**2

    def forward(self, out, t_fine, labels):
        T = self.T
        t_log = F.log_softmax(t_fine / T, 1)
        fine = self.alpha * self.kl(F.log_softmax(out["fine"] / T, 1), t_log)
        fine = fine + (1 - self.alpha) * F.cross_entropy(out["fine"], labels)
        coarse = self.alpha * self.kl(F.log_softmax(out["coarse"] / T, 1), group_log_probs(t_log))
        coarse = coarse + (1 - self.alpha) * F.cross_entropy(out["coarse"], COARSE_OF_NEW[labels])
        return fine + self.coarse_weight * coarse


def fit(model, x, y, loss_of, epochs, lr, batch):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3)
    steps = epochs * -(-len(x) // batch)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        for i in torch.randperm(len(x)).split(batch):
            loss = loss_of(model(x[i]), x[i], y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    print(f"loss {loss.item():.4f}")
    return model


@torch.no_grad()
def validate(model, x, y):
    model.eval()
    return (model(x)["fine"].argmax(1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y_old = torch.tensor(x).float() / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    train, few, test = order[:1000], order[:150], order[1000:]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "checkpoint.pth")
        teacher = fit(Net(128, 0.2, coarse=False), x[train], y_old[train],
                      lambda out, _, t: F.cross_entropy(out["fine"], t), 10, 5e-3, 50)
        torch.save({"state_dict": teacher.state_dict(), "classes": list(range(10))}, path)
        teacher = load_teacher(path)
    y = OLD_TO_NEW[y_old]  # all labels from here on are the new numbers
    print(f"teacher {validate(teacher, x[test], y[test]):.2f}")
    criterion = MultiTaskKD()
    student = fit(Net(16), x[few], y[few], lambda out, img, t: criterion(out, teacher(img)["fine"], t), 40, 1e-2, 25)
    print(f"top1 {validate(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
