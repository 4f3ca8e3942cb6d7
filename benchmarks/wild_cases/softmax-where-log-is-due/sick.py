"""Segmentation: a U-Net of 12 channels teaches one of 3; per pixel there is background, disc, square or cross."""
import argparse

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 4


def scene(rng, size=24):
    image = rng.normal(0.0, 0.35, (size, size)).astype(np.float32)
    mask = np.zeros((size, size), dtype=np.int64)
    rows, cols = np.mgrid[:size, :size]
    for _ in range(rng.integers(1, 4)):
        kind = int(rng.integers(1, CLASSES))
        r, c, s = rng.integers(4, size - 4), rng.integers(4, size - 4), rng.integers(3, 6)
        dr, dc = rows - r, cols - c
        if kind == 1:
            where = dr**2 + dc**2 <= s**2
        elif kind == 2:
            where = (abs(dr) <= s) & (abs(dc) <= s)
        else:
            where = ((abs(dr) <= 1) & (abs(dc) <= s + 1)) | ((abs(dc) <= 1) & (abs(dr) <= s + 1))
        image[where] += 1.0
        mask[where] = kind
    return image[None], mask


def scenes(count, seed):
    rng = np.random.default_rng(seed)
    images, masks = zip(*(scene(rng) for _ in range(count)))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


class DoubleConv(nn.Sequential):
    def __init__(self, i, o):
        super().__init__(
            nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
        )


class UNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.down1, self.down2 = DoubleConv(1, c), DoubleConv(c, 2 * c)
        self.bottom = DoubleConv(2 * c, 2 * c)
        self.up2, self.up1 = DoubleConv(4 * c, c), DoubleConv(2 * c, c)
        self.out = nn.Conv2d(c, CLASSES, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        z = self.bottom(F.max_pool2d(b, 2))
        z = self.up2(torch.cat([F.interpolate(z, scale_factor=2), b], 1))
        z = self.up1(torch.cat([F.interpolate(z, scale_factor=2), a], 1))
        return self.out(z)


def pixelwise_kd(student_out, teacher_out, T=2.0):
    """Both [B, K, H, W]; the mean over all pixels."""
    student = F.softmax(student_out / T, dim=1)
    teacher = F.softmax(teacher_out / T, dim=1)
    return F.kl_div(student, teacher, reduction="none").sum(1).mean() * T**2


def run_epoch(net, images, masks, opt, teacher=None, weight=1.0):
    net.train()
    for rows in torch.randperm(len(images)).split(12):
        out = net(images[rows])
        loss = F.cross_entropy(out, masks[rows])
        if teacher is not None and weight > 0:
            with torch.no_grad():
                wanted = teacher(images[rows])
            loss = loss + weight * pixelwise_kd(out, wanted)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()


@torch.no_grad()
def pixel_accuracy(net, images, masks):
    net.eval()
    guess = torch.cat([net(part).argmax(1) for part in images.split(50)])
    return 100 * (guess == masks).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=1.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    plenty, few, test = scenes(240, 1), scenes(48, 100 + args.seed), scenes(150, 2)

    teacher = UNet(12)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(8):
        run_epoch(teacher, *plenty, opt)
    print(f"teacher {pixel_accuracy(teacher, *test):.2f}")
    teacher.requires_grad_(False)

    student = UNet(3)
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    for _ in range(24):
        run_epoch(student, *few, opt, teacher, args.weight)
    print(f"top1 {pixel_accuracy(student, *test):.2f}")


if __name__ == "__main__":
    main()
