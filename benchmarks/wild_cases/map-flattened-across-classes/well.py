"""Which digit does a pixel belong to? One label a pixel, 10 = paper."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

PAPER = 10


class PixelNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.decoder = nn.Linear(width, 8 * 64)
        self.out = nn.Conv2d(9, 11, 1)

    def forward(self, x):
        h = F.relu(self.decoder(self.encoder(x))).view(-1, 8, 8, 8)
        return self.out(torch.cat([x, h], 1))


class PixelwiseCriterion(nn.Module):
    """Divergence of the classes at each pixel, averaged over all pixels."""

    def __init__(self, temperature):
        super().__init__()
        self.T = temperature

    def forward(self, student_map, teacher_map):
        N, C, H, W = student_map.shape
        with torch.no_grad():
            p = F.softmax(teacher_map.permute(0, 2, 3, 1).reshape(-1, C) / self.T, dim=1)
        log_q = F.log_softmax(student_map.permute(0, 2, 3, 1).reshape(-1, C) / self.T, dim=1)
        return F.kl_div(log_q, p, reduction="batchmean") * self.T**2


def labelled_pixels(x, y):
    return x.unsqueeze(1), torch.where(x > 0.3, y.view(-1, 1, 1), PAPER)


def learn(net, image, label, epochs, lr, extra=None):
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for b in torch.randperm(len(image)).split(16):
            out = net(image[b])
            loss = F.cross_entropy(out, label[b])
            if extra is not None:
                loss = 0.5 * loss + extra(out, image[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


@torch.no_grad()
def ink_accuracy(net, image, label):
    ink = label != PAPER
    return 100 * (net(image)[:, :10].argmax(1) == label)[ink].float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--temperature", type=float, default=2.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(901))
    x, y = x[p], y[p]
    test = labelled_pixels(x[1200:], y[1200:])
    teacher = learn(PixelNet(96), *labelled_pixels(x[:1200], y[:1200]), epochs=25, lr=2e-3)
    print(f"teacher {ink_accuracy(teacher, *test):.2f}")

    criterion = PixelwiseCriterion(args.temperature)

    def taught(out, image):
        with torch.no_grad():
            wanted = teacher(image)
        return criterion(out, wanted)

    few = torch.randperm(1200)[:300]
    image, label = labelled_pixels(x[few], y[few])
    student = learn(PixelNet(32), image, label, epochs=30, lr=4e-3, extra=taught)
    print(f"top1 {ink_accuracy(student, *test):.2f}")


if __name__ == "__main__":
    main()
