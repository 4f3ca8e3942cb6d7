"""Deep mutual learning: two young nets, each the other's teacher, both in train mode; each sees the other's answer detached."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def peer_loss(own_logits, peer_logits, labels):
    kl = F.kl_div(F.log_softmax(own_logits, dim=1), F.softmax(peer_logits.detach(), dim=1), reduction="batchmean")
    return F.cross_entropy(own_logits, labels) + kl


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Dropout(0.2), nn.Linear(100, 10))


def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
                         nn.Flatten(), nn.Linear(192, 10))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x = torch.from_numpy(d.images).float().unsqueeze(1).div(16).sub(0.3).div(0.38)
    y = torch.from_numpy(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(41))
    tr, te = p[:1000], p[1000:]
    cohort = [wide(), conv()]
    optims = [torch.optim.SGD(m.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4) for m in cohort]
    epochs = 25
    scheds = [torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs) for o in optims]
    for _ in range(epochs):
        for m in cohort:
            m.train()
        for b in tr[torch.randperm(len(tr))].split(40):
            answers = [m(x[b]) for m in cohort]
            losses = [peer_loss(answers[0], answers[1], y[b]), peer_loss(answers[1], answers[0], y[b])]
            for opt, loss in zip(optims, losses):
                opt.zero_grad()
                loss.backward()
                opt.step()
        for s in scheds:
            s.step()
    for name, m in zip(("wide", "top1"), cohort):
        m.eval()
        with torch.no_grad():
            hit = 100 * (m(x[te]).argmax(1) == y[te]).float().mean().item()
        print(f"{name} {hit:.2f}")


if __name__ == "__main__":
    main()
