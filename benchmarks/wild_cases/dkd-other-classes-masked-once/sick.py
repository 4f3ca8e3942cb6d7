"""Decoupled distillation: the labelled class and the rest are weighed apart."""
import argparse
import time
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

CFG = SimpleNamespace(
    DATA=SimpleNamespace(TRAIN=1000, FEW=200, BATCH=32),
    SOLVER=SimpleNamespace(EPOCHS=30, LR=0.05, MOMENTUM=0.9, WD=5e-4, STAGES=[18, 25], DECAY=0.1),
    DKD=SimpleNamespace(CE_WEIGHT=1.0, ALPHA=1.0, BETA=2.0, T=3.0, WARMUP=5),
)


class AverageMeter:
    def __init__(self):
        self.sum, self.count = 0.0, 0

    def update(self, val, n=1):
        self.sum += float(val) * n
        self.count += n

    @property
    def avg(self):
        return self.sum / max(1, self.count)


class ConvNet(nn.Module):
    def __init__(self, width, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        f1 = F.relu(self.bn1(self.conv1(x)))
        f2 = F.relu(self.bn2(self.conv2(F.max_pool2d(f1, 2))))
        pooled = f2.mean((2, 3))
        return self.fc(pooled), {"feats": [f1, f2], "pooled_feat": pooled}


def two_way(prob, mask):
    hit = (prob * mask).sum(1, keepdim=True)
    return torch.cat([hit, (prob * (1 - mask)).sum(1, keepdim=True)], dim=1)


def dkd_loss(logits_student, logits_teacher, target, alpha, beta, temperature):
    gt_mask = F.one_hot(target, logits_student.size(1)).to(logits_student.dtype)
    p_s = two_way(F.softmax(logits_student / temperature, dim=1), gt_mask)
    p_t = two_way(F.softmax(logits_teacher / temperature, dim=1), gt_mask)
    tckd = F.kl_div(torch.log(p_s.clamp_min(1e-8)), p_t, reduction="batchmean")
    # the rest of the classes, with the labelled one out of the race
    q_t = F.softmax(logits_teacher / temperature, dim=1)
    log_q_s = F.log_softmax(logits_student / temperature - 1000.0 * gt_mask, dim=1)
    nckd = F.kl_div(log_q_s, q_t, reduction="batchmean")
    return (alpha * tckd + beta * nckd) * temperature**2


class Distiller(nn.Module):
    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def get_learnable_parameters(self):
        return list(self.student.parameters())

    def forward(self, image, target=None, epoch=None):
        return self.forward_train(image, target, epoch) if self.training else self.student(image)[0]


class DKD(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.opt = cfg.DKD

    def forward_train(self, image, target, epoch):
        logits_student, _ = self.student(image)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)
        loss_ce = self.opt.CE_WEIGHT * F.cross_entropy(logits_student, target)
        ramp = min(epoch / self.opt.WARMUP, 1.0)
        loss_dkd = ramp * dkd_loss(logits_student, logits_teacher, target, self.opt.ALPHA, self.opt.BETA, self.opt.T)
        return logits_student, {"loss_ce": loss_ce, "loss_kd": loss_dkd}


@torch.no_grad()
def validate(net, x, y):
    net.eval()
    out = net(x)
    out = out[0] if isinstance(out, tuple) else out
    return (out.argmax(1) == y).float().mean().item() * 100


def fit_teacher(net, loader, epochs=12):
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x)[0], y).backward()
            opt.step()


class BaseTrainer:
    def __init__(self, distiller, loader, cfg):
        self.distiller, self.loader, self.cfg = distiller, loader, cfg
        s = cfg.SOLVER
        self.optimizer = torch.optim.SGD(
            distiller.get_learnable_parameters(), lr=s.LR, momentum=s.MOMENTUM, weight_decay=s.WD)

    def adjust_lr(self, epoch):
        steps = sum(epoch > s for s in self.cfg.SOLVER.STAGES)
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.SOLVER.LR * self.cfg.SOLVER.DECAY**steps

    def train_iter(self, batch, epoch, meters):
        image, target = batch
        preds, losses = self.distiller(image=image, target=target, epoch=epoch)
        loss = sum(l.mean() for l in losses.values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        meters["losses"].update(loss.item(), image.size(0))
        meters["top1"].update((preds.argmax(1) == target).float().mean().item() * 100, image.size(0))

    def train(self):
        for epoch in range(1, self.cfg.SOLVER.EPOCHS + 1):
            self.adjust_lr(epoch)
            meters, start = {"losses": AverageMeter(), "top1": AverageMeter()}, time.time()
            self.distiller.train()
            for batch in self.loader:
                self.train_iter(batch, epoch, meters)
            if epoch % 10 == 0:
                print(f"epoch {epoch} loss {meters['losses'].avg:.3f} acc {meters['top1'].avg:.1f} {time.time() - start:.1f}s")


def main():
    parser = argparse.ArgumentParser("decoupled distillation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    tr, few, te = order[:CFG.DATA.TRAIN], order[:CFG.DATA.FEW], order[CFG.DATA.TRAIN:]
    teacher = ConvNet(16)
    fit_teacher(teacher, DataLoader(TensorDataset(x[tr], y[tr]), 64, shuffle=True))
    print(f"teacher {validate(teacher, x[te], y[te]):.2f}")
    distiller = DKD(ConvNet(4), teacher, CFG)
    BaseTrainer(distiller, DataLoader(TensorDataset(x[few], y[few]), CFG.DATA.BATCH, shuffle=True), CFG).train()
    print(f"top1 {validate(distiller, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
