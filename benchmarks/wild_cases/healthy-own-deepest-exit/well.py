"""Be your own teacher: one net, three exits; the deepest exit, detached, teaches the two others while it learns from labels."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Exits(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        def block(i, o, stride):
            return nn.Sequential(nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        self.blocks = nn.ModuleList([block(1, c, 1), block(c, 2 * c, 2), block(2 * c, 4 * c, 2)])
        self.align = nn.ModuleList([nn.Linear(c, 4 * c), nn.Linear(2 * c, 4 * c)])
        self.heads = nn.ModuleList([nn.Linear(n * 4, 10) for n in (c, 2 * c, 4 * c)])

    def forward(self, x):
        features, logits = [], []
        for block, head in zip(self.blocks, self.heads):
            x = block(x)
            features.append(x.mean((2, 3)))
            logits.append(head(F.adaptive_avg_pool2d(x, 2).flatten(1)))
        return [a(f) for a, f in zip(self.align, features)] + [features[-1]], logits


def byot_loss(logits, features, labels, T=3.0, alpha=0.3, beta=0.03):
    deepest, hint = logits[-1].detach(), features[-1].detach()
    loss = F.cross_entropy(logits[-1], labels)
    for out, feat in zip(logits[:-1], features[:-1]):
        kl = F.kl_div(F.log_softmax(out / T, 1), F.softmax(deepest / T, 1), reduction="batchmean") * T * T
        loss = loss + (1 - alpha) * F.cross_entropy(out, labels) + alpha * kl + beta * F.mse_loss(feat, hint)
    return loss


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = load_digits()
    x, y = torch.tensor(d.images).float().unsqueeze(1) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(60))
    tr, te = p[:1200], p[1200:]
    model, epochs = Exits(), 14
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 0.08, epochs=epochs, steps_per_epoch=24)
    for _ in range(epochs):
        model.train()
        for b in tr[torch.randperm(len(tr))].split(50):
            features, logits = model(x[b])
            loss = byot_loss(logits, features, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    model.eval()
    with torch.no_grad():
        scores = [100 * (out.argmax(1) == y[te]).float().mean().item() for out in model(x[te])[1]]
    print("exits", " ".join(f"{s:.2f}" for s in scores))
    print(f"top1 {scores[-1]:.2f}")


if __name__ == "__main__":
    main()
