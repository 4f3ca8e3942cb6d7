"""A segmentation toy: 2x2 mosaics of digits, every cell of a 4x4 grid gets the class of the digit it lies in."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

K = 10


def kd_loss(preds_s, preds_t):
    """pixel-wise distillation of [N, C, H, W] maps"""
    assert preds_s.shape == preds_t.shape, "the output dim of teacher and student differ"
    N, C, H, W = preds_s.shape
    target = F.softmax(preds_t.detach().permute(0, 2, 3, 1).reshape(-1, C), dim=1)
    log_prob = F.log_softmax(preds_s.permute(0, 2, 3, 1).reshape(-1, C), dim=1)
    return torch.sum(-target * log_prob) / (N * H * W)


class SegNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        )
        self.classifier = nn.Conv2d(2 * width, K, 1)

    def forward(self, x):
        return self.classifier(self.body(x))


def mosaics(x, y, count, gen):
    rows = torch.randint(len(x), (count, 4), generator=gen)
    t, l = x[rows].view(count, 2, 2, 8, 8), y[rows].view(count, 2, 2)
    return t.permute(0, 1, 3, 2, 4).reshape(count, 1, 16, 16), l.repeat_interleave(2, 1).repeat_interleave(2, 2)


def train(net, images, masks, epochs, lr, teacher=None, lambda_pi=2.0):
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    total = epochs * ((len(images) + 15) // 16)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: max(1 - i / total, 1e-3) ** 0.9)
    net.train()
    for _ in range(epochs):
        for i in torch.randperm(len(images)).split(16):
            preds = net(images[i])
            loss = F.cross_entropy(preds, masks[i])
            if teacher is not None:
                with torch.no_grad():
                    preds_t = teacher(images[i])
                loss = loss + lambda_pi * kd_loss(preds, preds_t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lambda-pi", type=float, default=2.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(77))
    x, y = x[p], y[p]
    gen = torch.Generator().manual_seed(args.seed + 1)
    test = mosaics(x[1100:], y[1100:], 200, torch.Generator().manual_seed(0))
    big = mosaics(x[:1100], y[:1100], 500, gen)
    small = mosaics(x[:1100], y[:1100], 110, gen)

    def accuracy(net):
        with torch.no_grad():
            return 100 * (net(test[0]).argmax(1) == test[1]).float().mean().item()

    teacher = SegNet(24)
    train(teacher, *big, epochs=8, lr=0.05)
    print(f"teacher {accuracy(teacher):.2f}")
    student = SegNet(6)
    train(student, *small, epochs=30, lr=0.05, teacher=teacher, lambda_pi=args.lambda_pi)
    print(f"top1 {accuracy(student):.2f}")


if __name__ == "__main__":
    main()
