import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def digits(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(901))
    return x[p], y[p]


def mlp(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def pretrain(net, x, y, epochs=12):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.eval()


def seed_of():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    return ap.parse_args().seed

class Detector(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, width), nn.ReLU())
        self.cls, self.box = nn.Linear(width, 10), nn.Linear(width, 2)

    def forward(self, x):
        h = self.body(x)
        return {"cls": self.cls(h), "box": self.box(h)}


def centre(x):
    image = x.reshape(-1, 8, 8)
    place = torch.arange(8.0)
    total = image.sum((1, 2))
    return torch.stack([(image.sum(1) * place).sum(1) / total, (image.sum(2) * place).sum(1) / total], 1) / 8


def losses(out, y, box):
    return {"loss_cls": F.cross_entropy(out["cls"], y), "loss_box": F.smooth_l1_loss(out["box"], box)}


def distil_losses(out, ref, tau=2.0):
    scores = out["cls"].detach()
    kd = F.kl_div(F.log_softmax(scores / tau, 1), F.softmax(ref["cls"] / tau, 1), reduction="batchmean") * tau**2
    return {"kd_cls": 0.5 * kd}


def train(net, x, y, epochs, teacher=None):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(40):
            out = net(x[b])
            found = losses(out, y[b], centre(x[b]))
            if teacher is not None:
                with torch.no_grad():
                    ref = teacher(x[b])
                found |= distil_losses(out, ref)
            opt.zero_grad()
            sum(found.values()).backward()
            opt.step()
    return net.eval()


def main():
    x, y = digits(seed_of())
    teacher = train(Detector(128), x[:1200], y[:1200], 12)
    student = train(Detector(12), x[:300], y[:300], 30, teacher)
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1200:])['cls'].argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
