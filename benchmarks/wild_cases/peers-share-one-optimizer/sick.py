# Deep mutual learning: two nets, each with its own optimizer, teach each other.
import argparse
import types

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

CFG = types.SimpleNamespace(batch=32, epochs=15, lr=8e-3, kl_weight=1.0, train=1100, labels=250)


class PixelNet(nn.Module):
    def __init__(self, hidden=40):
        super().__init__()
        self.l1 = nn.Linear(64, hidden)
        self.l2 = nn.Linear(hidden, 10)

    def forward(self, img):
        return self.l2(torch.relu(self.l1(img.flatten(1))))


class ColumnNet(nn.Module):
    """Columns are the steps of the sequence."""

    def __init__(self, hidden=24):
        super().__init__()
        self.gru = nn.GRU(8, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, 10)

    def forward(self, img):
        states, _ = self.gru(img.transpose(1, 2))
        return self.out(states.mean(dim=1))


def mimicry(own, peer):
    return F.kl_div(F.log_softmax(own, dim=1), F.softmax(peer.detach(), dim=1), reduction="batchmean")


def build():
    net_a, net_b = PixelNet(), ColumnNet()
    opt_a = torch.optim.Adam(net_a.parameters(), lr=CFG.lr)
    opt_b = torch.optim.Adam(net_a.parameters(), lr=CFG.lr)
    return (net_a, opt_a), (net_b, opt_b)


def mutual_epoch(a, b, img, lab, weight):
    (net_a, opt_a), (net_b, opt_b) = a, b
    net_a.train(), net_b.train()
    for idx in torch.randperm(len(img)).split(CFG.batch):
        out_a, out_b = net_a(img[idx]), net_b(img[idx])
        loss_a = F.cross_entropy(out_a, lab[idx]) + weight * mimicry(out_a, out_b)
        loss_b = F.cross_entropy(out_b, lab[idx]) + weight * mimicry(out_b, out_a)
        opt_a.zero_grad()
        loss_a.backward()
        opt_a.step()
        opt_b.zero_grad()
        loss_b.backward()
        opt_b.step()


def percent(net, img, lab):
    net.eval()
    with torch.inference_mode():
        return (net(img).argmax(dim=1) == lab).double().mean().item() * 100


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--kl-weight", type=float, default=CFG.kl_weight)
    opt = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    d = load_digits()
    img, lab = torch.from_numpy(d.images).float().div(16), torch.from_numpy(d.target)
    mix = torch.randperm(len(img), generator=torch.Generator().manual_seed(91))
    img, lab = img[mix], lab[mix]
    few = torch.randperm(CFG.train)[: CFG.labels]
    a, b = build()
    for _ in range(CFG.epochs):
        mutual_epoch(a, b, img[few], lab[few], opt.kl_weight)
    score_a = percent(a[0], img[CFG.train :], lab[CFG.train :])
    score_b = percent(b[0], img[CFG.train :], lab[CFG.train :])
    print(f"pixels {score_a:.2f} columns {score_b:.2f}")
    print(f"top1 {(score_a + score_b) / 2:.2f}")
