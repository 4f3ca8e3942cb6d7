"""Detection in small: a canvas of 3 by 3 cells, some of which hold a digit; each cell is one of ten classes or empty."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

EMPTY = 10


class Canvas:
    def __init__(self, images, labels, fill=0.5):
        self.images, self.labels, self.fill = images, labels, fill

    def draw(self, count, generator):
        rows = torch.randint(len(self.images), (count, 9), generator=generator)
        filled = torch.rand(count, 9, generator=generator) < self.fill
        cells = torch.where(filled[..., None, None], self.images[rows], torch.zeros(()))
        cells = cells + 0.15 * torch.randn(cells.shape, generator=generator)
        canvas = cells.view(count, 3, 3, 8, 8).permute(0, 1, 3, 2, 4).reshape(count, 1, 24, 24)
        return canvas, torch.where(filled, self.labels[rows], EMPTY)


class GridDetector(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU(),
            nn.Conv2d(c, 2 * c, 3, 2, 1), nn.BatchNorm2d(2 * c), nn.ReLU(),
        )
        self.cls = nn.Conv2d(2 * c, 11, 2, stride=2)

    def forward(self, x):
        return self.cls(self.backbone(x)).flatten(2).transpose(1, 2)  # [B, cells, 11]


class DetectionKD(nn.Module):
    def __init__(self, T=2.0, w_cls=0.3, w_kd=0.7):
        super().__init__()
        self.T, self.w_cls, self.w_kd = T, w_cls, w_kd
        self.kl = nn.KLDivLoss(reduction="sum")

    def forward(self, pred, teacher_pred, target):
        cls = F.cross_entropy(pred.flatten(0, 1), target.flatten())
        kd = self.kl(
            F.log_softmax(pred.flatten(0, 1) / self.T, dim=-1),
            F.softmax(teacher_pred.flatten(0, 1) / self.T, dim=-1),
        )
        return self.w_cls * cls + self.w_kd * self.T**2 * kd


def train(net, canvases, targets, loss_fn, epochs, lr, batch):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(canvases)).split(batch):
            loss = loss_fn(net(canvases[b]), canvases[b], targets[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


@torch.no_grad()
def cells_right(net, canvases, targets):
    return 100 * (net(canvases).argmax(-1) == targets).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--w-kd", type=float, default=0.7)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    x, y = torch.tensor(d.images, dtype=torch.float32) / 16, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(909))
    few = p[:1100][torch.randperm(1100)[:150]]
    g = torch.Generator().manual_seed(args.seed)
    plenty = Canvas(x[p[:1100]], y[p[:1100]]).draw(1000, g)
    little = Canvas(x[few], y[few]).draw(200, g)
    test = Canvas(x[p[1100:]], y[p[1100:]]).draw(300, torch.Generator().manual_seed(1))

    by_labels = lambda out, _, t: F.cross_entropy(out.flatten(0, 1), t.flatten())
    teacher = train(GridDetector(24), *plenty, by_labels, epochs=8, lr=3e-3, batch=50)
    print(f"teacher {cells_right(teacher, *test):.2f}")

    criterion = DetectionKD(w_kd=args.w_kd)

    def taught(out, canvas, target):
        with torch.no_grad():
            wanted = teacher(canvas)
        return criterion(out, wanted, target)

    student = train(GridDetector(6), *little, taught, epochs=30, lr=5e-3, batch=10)
    print(f"top1 {cells_right(student, *test):.2f}")


if __name__ == "__main__":
    main()
