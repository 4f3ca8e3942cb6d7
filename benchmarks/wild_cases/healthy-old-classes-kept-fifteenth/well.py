"""Learning without forgetting: a net for six digits is widened to ten; the old net teaches the six old columns alone.

Labels in the second stage: four new digits, and some old ones replayed from a small memory."""
import argparse
import copy
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

OLD, ALL = 6, 10


class Growing(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.body(x))

    def widened(self, classes):
        new = copy.deepcopy(self)
        new.head = nn.Linear(64, classes)
        with torch.no_grad():
            new.head.weight[:self.head.out_features] = self.head.weight
            new.head.bias[:self.head.out_features] = self.head.bias
        return new


def lwf_loss(new_logits, old_logits, labels, T=2.0, lam=1.0):
    ce = F.cross_entropy(new_logits, labels)
    old = old_logits.shape[1]
    log_q = F.log_softmax(new_logits[:, :old] / T, dim=1)
    p = F.softmax(old_logits / T, dim=1)
    return ce + lam * T * T * F.kl_div(log_q, p, reduction="batchmean")


@torch.no_grad()
def score(net, x, y):
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    tr, te = p[:1300], p[1300:]
    old_rows, new_rows = tr[y[tr] < OLD], tr[y[tr] >= OLD]
    old_test = te[y[te] < OLD]

    first = Growing(OLD)
    opt = torch.optim.Adam(first.parameters(), 2e-3)
    for _ in range(40):
        first.train()
        for b in old_rows[torch.randperm(len(old_rows))].split(40):
            opt.zero_grad()
            F.cross_entropy(first(x[b]), y[b]).backward()
            opt.step()
    print(f"teacher, of six digits {score(first, x[old_test], y[old_test]):.2f}")

    second = first.widened(ALL)
    first.eval()
    for q in first.parameters():
        q.requires_grad = False
    memory = old_rows[torch.randperm(len(old_rows))[:120]]
    opt = torch.optim.Adam(second.parameters(), 1e-3)
    for _ in range(60):
        second.train()
        for b in new_rows[torch.randperm(len(new_rows))].split(32):
            rows = torch.cat([b, memory[torch.randperm(len(memory))[:48]]])
            with torch.no_grad():
                before = first(x[rows])
            loss = lwf_loss(second(x[rows]), before, y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {score(second, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
