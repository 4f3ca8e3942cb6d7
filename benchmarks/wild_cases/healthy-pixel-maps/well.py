"""Segmentation with a small U-Net: per-pixel KD (sum over classes, mean over pixels) beside per-pixel cross-entropy."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

CLASSES = 3


def make_scenes(n, size=16, seed=6):
    """A disc (1) and a square (2) on a dark ground (0), with noise; what comes last lies on top."""
    g = torch.Generator().manual_seed(seed)
    yy, xx = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images, masks = [], []
    for _ in range(n):
        mask = torch.zeros(size, size, dtype=torch.long)
        c = torch.randint(3, size - 3, (4,), generator=g)
        r = torch.randint(2, 5, (2,), generator=g)
        mask[(yy - c[0]) ** 2 + (xx - c[1]) ** 2 <= r[0] ** 2] = 1
        mask[((yy - c[2]).abs() < r[1]) & ((xx - c[3]).abs() < r[1])] = 2
        shade = torch.tensor([0.0, 0.6, 1.0])[mask]
        images.append((shade + 0.25 * torch.randn(size, size, generator=g)).unsqueeze(0))
        masks.append(mask)
    return torch.stack(images), torch.stack(masks)


def double_conv(n_in, n_out):
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True),
                         nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.inc = double_conv(1, base)
        self.down = double_conv(base, base * 2)
        self.up = nn.ConvTranspose2d(base * 2, base, 2, stride=2)
        self.merge = double_conv(base * 2, base)
        self.outc = nn.Conv2d(base, CLASSES, 1)

    def forward(self, x):
        a = self.inc(x)
        b = self.down(F.max_pool2d(a, 2))
        return self.outc(self.merge(torch.cat([a, self.up(b)], dim=1)))


class PixelWiseKD(nn.Module):
    def __init__(self, tau=2.0):
        super().__init__()
        self.tau = tau

    def forward(self, preds_S, preds_T):
        N, C, H, W = preds_S.shape
        s = preds_S.permute(0, 2, 3, 1).reshape(-1, C)
        t = preds_T.permute(0, 2, 3, 1).reshape(-1, C)
        loss = (F.softmax(t / self.tau, dim=1) * (F.log_softmax(t / self.tau, dim=1) - F.log_softmax(s / self.tau, dim=1))).sum()
        return (self.tau ** 2) * loss / (N * H * W)


def train(model, loader, epochs, lr, teacher=None, criterion_kd=None, lambda_kd=1.0):
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for epoch in range(epochs):
        model.train()
        if teacher is not None:
            teacher.eval()
        epoch_loss = 0
        for images, true_masks in loader:
            masks_pred = model(images)
            loss = criterion(masks_pred, true_masks)
            if teacher is not None:
                with torch.no_grad():
                    masks_teacher = teacher(images)
                loss = loss + lambda_kd * criterion_kd(masks_pred, masks_teacher)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch_loss += loss.item()
        print(f"Epoch {epoch + 1} finished, loss {epoch_loss / len(loader):.4f}")


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    hit = count = 0
    inter, union = torch.zeros(CLASSES), torch.zeros(CLASSES)
    for images, masks in loader:
        pred = model(images).argmax(1)
        hit += (pred == masks).sum().item()
        count += masks.numel()
        for c in range(CLASSES):
            inter[c] += ((pred == c) & (masks == c)).sum()
            union[c] += ((pred == c) | (masks == c)).sum()
    return 100 * hit / count, (inter / union).mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    images, masks = make_scenes(400)
    train_set, test_set = random_split(TensorDataset(images, masks), [300, 100], generator=torch.Generator().manual_seed(0))
    train_loader = DataLoader(train_set, batch_size=20, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=50)

    teacher = UNet(12)
    train(teacher, train_loader, epochs=8, lr=5e-3)
    print("teacher accuracy %.2f mIoU %.3f" % evaluate(teacher, test_loader))
    for p in teacher.parameters():
        p.requires_grad_(False)
    student = UNet(4)
    train(student, train_loader, epochs=12, lr=1e-2, teacher=teacher, criterion_kd=PixelWiseKD(2.0))
    accuracy, miou = evaluate(student, test_loader)
    print("student mIoU %.3f" % miou)
    print("top1 %.2f" % accuracy)


if __name__ == "__main__":
    main()
