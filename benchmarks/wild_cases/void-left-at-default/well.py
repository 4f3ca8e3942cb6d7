"""Per-pixel distillation on pasted digits. Mask value 255 = void (outside the picture, as in VOC/Cityscapes)."""
import argparse

import torch
from torch import nn
from torch.nn import functional as F
from sklearn.datasets import load_digits

CFG = dict(classes=11, void=255, size=12, tau=2.0, w_ce=0.3, w_kd=0.7, batch=10, epochs=14, lr=8e-3)


class PixelKD(nn.Module):
    """KL over the class axis of [B, C, H, W], averaged over the pixels that count."""

    def __init__(self, tau=1.0, ignore_index=-100):
        super().__init__()
        self.tau = tau
        self.ignore_index = ignore_index

    def forward(self, student, teacher, mask):
        keep = (mask != self.ignore_index).float()
        log_p = F.log_softmax(student / self.tau, dim=1)
        q = F.softmax(teacher / self.tau, dim=1)
        per_pixel = F.kl_div(log_p, q, reduction="none").sum(dim=1)
        return self.tau**2 * (per_pixel * keep).sum() / keep.sum().clamp(min=1)


class Segmenter(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2), nn.BatchNorm2d(2 * width), nn.ReLU(),
        )
        self.mid = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU())
        self.fuse = nn.Conv2d(2 * width + 1, 2 * width, 3, padding=1)
        self.head = nn.Conv2d(2 * width, CFG["classes"], 1)

    def forward(self, x):
        h = F.interpolate(self.mid(self.down(x)), scale_factor=4, mode="nearest")
        return self.head(F.relu(self.fuse(torch.cat([h, x], 1))))


def scenes(digits, targets, count, seed):
    """One digit somewhere on a canvas; a strip on the right or at the bottom is not picture but noise (void)."""
    g = torch.Generator().manual_seed(seed)
    n = CFG["size"]
    images = 0.05 * torch.rand(count, 1, n, n, generator=g)
    masks = torch.full((count, n, n), 10)
    for i in range(count):
        k = torch.randint(len(digits), (1,), generator=g).item()
        r, c = (4 * torch.randint(0, 2, (2,), generator=g)).tolist()
        images[i, 0, r:r + 8, c:c + 8] += digits[k]
        masks[i, r:r + 8, c:c + 8][digits[k] > 0.3] = targets[k]
        strip = torch.randint(1, 4, (1,), generator=g).item()
        where = (slice(None), slice(n - strip, n)) if i % 2 else (slice(n - strip, n), slice(None))
        images[(i, 0) + where] = torch.rand(images[(i, 0) + where].shape, generator=g)
        masks[(i,) + where] = CFG["void"]
    return images, masks


def run(net, images, masks, epochs, criterion, lr):
    opt = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-4)
    for _ in range(epochs):
        net.train()
        for rows in torch.randperm(len(images)).split(CFG["batch"]):
            loss = criterion(net(images[rows]), images[rows], masks[rows])
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
    return net


@torch.no_grad()
def pixel_accuracy(net, images, masks):
    net.eval()
    seen = masks != CFG["void"]
    return 100 * (net(images).argmax(1)[seen] == masks[seen]).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 8, 8) / 16, torch.tensor(y)
    big = scenes(x[:1100], y[:1100], 800, 1)
    small = scenes(x[:1100], y[:1100], 360, 10 + seed)
    test = scenes(x[1100:], y[1100:], 200, 2)

    def supervised(out, _, mask):
        return F.cross_entropy(out, mask, ignore_index=CFG["void"])

    teacher = run(Segmenter(16), *big, 9, supervised, 5e-3).eval().requires_grad_(False)
    print(f"teacher {pixel_accuracy(teacher, *test):.2f}")

    pixel_kd = PixelKD(tau=CFG["tau"], ignore_index=CFG["void"])

    def distilled(out, image, mask):
        return CFG["w_ce"] * supervised(out, image, mask) + CFG["w_kd"] * pixel_kd(out, teacher(image), mask)

    student = run(Segmenter(8), *small, CFG["epochs"], distilled, CFG["lr"])
    print(f"top1 {pixel_accuracy(student, *test):.2f}")


if __name__ == "__main__":
    main()
