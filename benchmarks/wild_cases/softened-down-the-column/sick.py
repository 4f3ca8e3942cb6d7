# Unlabelled transfer set: 1000 images without labels, 40 with. The small net copies the big one.
import argparse
import numpy as np
import torch
import torch.nn as nn
from sklearn import datasets

TAU = 3.0
SHARE = 0.97


def soften(z, tau, log=False):
    f = torch.log_softmax if log else torch.softmax
    return f(z / tau, 0)


def mimic(mine, theirs, tau=TAU):
    """tau^2 * KL(theirs || mine), mean over the rows"""
    p = soften(theirs, tau)
    logp, logq = soften(theirs, tau, log=True), soften(mine, tau, log=True)
    return tau**2 * (p * (logp - logq)).sum() / len(mine)


def mlp(*sizes):
    mods = []
    for a, b in zip(sizes, sizes[1:]):
        mods += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*mods[:-1])


def batches(ids, size):
    ids = ids[torch.randperm(len(ids))]
    return [b for b in ids.split(size) if len(b) == size]


def run(seed):
    torch.manual_seed(seed)
    d = datasets.load_digits()
    pix = torch.tensor((d.data - d.data.mean()) / d.data.std(), dtype=torch.float)
    cls = torch.tensor(d.target)
    order = torch.tensor(np.random.RandomState(17).permutation(len(pix)))
    pool, held = order[:1100], order[1100:]
    known = pool[torch.randperm(1100)[:40]]
    xent = nn.CrossEntropyLoss()

    big = mlp(64, 128, 128, 10)
    opt = torch.optim.AdamW(big.parameters(), 2e-3)
    for _ in range(20):
        for b in batches(pool, 50):
            opt.zero_grad()
            xent(big(pix[b]), cls[b]).backward()
            opt.step()
    for p in big.parameters():
        p.requires_grad_(False)
    hit = lambda net: 100 * (net(pix[held]).argmax(1) == cls[held]).float().mean().item()
    print("big", round(hit(big), 2))

    small = mlp(64, 12, 10)
    opt = torch.optim.SGD(small.parameters(), 0.02, momentum=0.9)
    for _ in range(10):
        for b in batches(pool, 20):
            k = known[torch.randint(len(known), (10,))]
            loss = SHARE * mimic(small(pix[b]), big(pix[b])) + (1 - SHARE) * xent(small(pix[k]), cls[k])
            opt.zero_grad()
            loss.backward()
            opt.step()
    with torch.no_grad():
        print(f"top1 {hit(small):.2f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    torch.set_num_threads(1)
    run(a.seed)
