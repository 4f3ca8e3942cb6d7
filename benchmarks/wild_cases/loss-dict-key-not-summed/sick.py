"""Dense prediction, in the manner of the open toolboxes: a runner, a segmentor, a dictionary of losses."""
import argparse
from collections import OrderedDict

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

IGNORE = 255
cfg = dict(
    student=dict(width=6, depth=2),
    teacher=dict(width=24, depth=3),
    distill=dict(tau=2.0, loss_weight=3.0),
    optimizer=dict(lr=1e-2, weight_decay=1e-4),
    runner=dict(max_epochs=40, samples_per_batch=10),
    n_train=300, n_few=60, n_test=100,
)


def make_scenes(n, pool, rng):
    """2 x 2 digits on a 16 x 16 canvas; each inked pixel bears its digit's class, paper is ignored."""
    digits = load_digits()
    imgs = np.zeros((n, 16, 16), "float32")
    gts = np.full((n, 16, 16), IGNORE)
    for i in range(n):
        for r in (0, 8):
            for c in (0, 8):
                k = rng.choice(pool)
                ink = digits.images[k] / 16
                imgs[i, r:r + 8, c:c + 8] = ink
                gts[i, r:r + 8, c:c + 8] = np.where(ink > 0.3, digits.target[k], IGNORE)
    return torch.from_numpy(imgs).unsqueeze(1), torch.from_numpy(gts).long()


class EncoderDecoder(nn.Module):
    def __init__(self, width, depth, num_classes=10):
        super().__init__()
        layers, prev = [], 1
        for _ in range(depth):
            layers += [nn.Conv2d(prev, width, 5, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            prev = width
        self.backbone = nn.Sequential(*layers)
        self.context = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(width, width, 1), nn.Upsample(scale_factor=8))
        self.shape = nn.Sequential(nn.Conv2d(1, 3 * width, 8, stride=8), nn.ReLU(), nn.Upsample(scale_factor=8))
        self.decode_head = nn.Conv2d(5 * width, num_classes, 1)

    def encode_decode(self, img):
        x = self.backbone(img)
        return self.decode_head(torch.cat([x, self.context(x), self.shape(img)], 1))

    def forward_train(self, img, gt):
        logits = self.encode_decode(img)
        losses = OrderedDict(loss_seg=F.cross_entropy(logits, gt, ignore_index=IGNORE))
        valid = gt != IGNORE
        losses["acc_seg"] = (logits.argmax(1) == gt)[valid].float().mean() * 100
        return logits, losses


class ChannelKLLoss(nn.Module):
    def __init__(self, tau, loss_weight):
        super().__init__()
        self.tau, self.loss_weight = tau, loss_weight

    def forward(self, preds_s, preds_t, valid):
        log_p = F.log_softmax(preds_s / self.tau, dim=1)
        q = F.softmax(preds_t / self.tau, dim=1)
        per_pixel = F.kl_div(log_p, q, reduction="none").sum(1)
        return self.loss_weight * self.tau**2 * per_pixel[valid].mean()


class SegDistiller(nn.Module):
    def __init__(self, student, teacher, distill):
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(False)
        self.distill_loss = ChannelKLLoss(**distill)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, img, gt):
        logits, losses = self.student.forward_train(img, gt)
        with torch.no_grad():
            t_logits = self.teacher.encode_decode(img)
        losses["logits_kd"] = self.distill_loss(logits, t_logits, gt != IGNORE)
        return losses

    @staticmethod
    def parse_losses(losses):
        """What is called a loss is summed; the rest is only logged."""
        total = sum(value for key, value in losses.items() if "loss" in key)
        log_vars = {key: value.item() for key, value in losses.items()}
        log_vars["total"] = total.item()
        return total, log_vars

    def train_step(self, data, optimizer):
        total, log_vars = self.parse_losses(self(*data))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return log_vars


class TeacherRunner(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def train_step(self, data, optimizer):
        loss = self.net.forward_train(*data)[1]["loss_seg"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"total": loss.item()}


def run(model, img, gt, max_epochs, batch, optimizer):
    for epoch in range(max_epochs):
        model.train()
        for idx in torch.randperm(len(img)).split(batch):
            log_vars = model.train_step((img[idx], gt[idx]), optimizer)
        if (epoch + 1) % 20 == 0:
            print(f"epoch {epoch + 1} " + " ".join(f"{k} {v:.3f}" for k, v in log_vars.items()))


@torch.no_grad()
def single_test(net, img, gt):
    net.eval()
    valid = gt != IGNORE
    return (net.encode_decode(img).argmax(1) == gt)[valid].float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(31)
    img, gt = make_scenes(cfg["n_train"], np.arange(0, 1200), rng)
    test = make_scenes(cfg["n_test"], np.arange(1200, 1797), rng)
    teacher = EncoderDecoder(**cfg["teacher"])
    run(TeacherRunner(teacher), img, gt, 12, 10, torch.optim.Adam(teacher.parameters(), lr=3e-3))
    print(f"teacher {single_test(teacher, *test):.2f}")
    student = EncoderDecoder(**cfg["student"])
    distiller = SegDistiller(student, teacher, cfg["distill"])
    optimizer = torch.optim.AdamW(student.parameters(), **cfg["optimizer"])
    few = cfg["n_few"]
    run(distiller, img[:few], gt[:few], cfg["runner"]["max_epochs"], cfg["runner"]["samples_per_batch"], optimizer)
    print(f"top1 {single_test(student, *test):.2f}")


if __name__ == "__main__":
    main()
