"""Trainer and distiller apart: the distiller's forward_train returns logits and a dict of losses, the trainer sums them."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset


class CFG:
    class SOLVER:
        BATCH_SIZE = 64
        EPOCHS = 24
        LR = 0.05
        LR_DECAY_STAGES = [14, 20]
        LR_DECAY_RATE = 0.1
        WEIGHT_DECAY = 1e-4
        MOMENTUM = 0.9

    class KD:
        TEMPERATURE = 4.0

        class LOSS:
            CE_WEIGHT = 0.1
            KD_WEIGHT = 0.9


class AverageMeter(object):
    def __init__(self):
        self.reset()

    def reset(self):
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


def kd_loss(logits_student, logits_teacher, temperature=4.0):
    log_pred_student = F.log_softmax(logits_student / temperature, dim=1)
    pred_teacher = F.softmax(logits_teacher / temperature, dim=1)
    loss_kd = F.kl_div(log_pred_student, pred_teacher, reduction="none").sum(1).mean()
    loss_kd *= temperature**2
    return loss_kd


class Net(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        layers, previous = [], 64
        for _ in range(depth):
            layers += [nn.Linear(previous, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
            previous = width
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(previous, 10)

    def forward(self, x):
        feats = self.body(x.flatten(1))
        return self.fc(feats), dict(pooled_feat=feats)


class Distiller(nn.Module):
    def __init__(self, student, teacher):
        super(Distiller, self).__init__()
        self.student = student
        self.teacher = teacher

    def train(self, mode=True):
        # teacher as eval mode by default
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        self.teacher.eval()
        return self

    def get_learnable_parameters(self):
        return [v for k, v in self.student.named_parameters()]

    def forward_train(self, **kwargs):
        raise NotImplementedError()

    def forward_test(self, image):
        return self.student(image)[0]

    def forward(self, **kwargs):
        if self.training:
            return self.forward_train(**kwargs)
        return self.forward_test(kwargs["image"])


class KD(Distiller):
    """Distilling the Knowledge in a Neural Network"""

    def __init__(self, student, teacher, cfg):
        super(KD, self).__init__(student, teacher)
        self.temperature = cfg.KD.TEMPERATURE
        self.ce_loss_weight = cfg.KD.LOSS.CE_WEIGHT
        self.kd_loss_weight = cfg.KD.LOSS.KD_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, _ = self.student(image)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)

        loss_ce = self.ce_loss_weight * F.cross_entropy(logits_student, target)
        loss_kd = self.kd_loss_weight * kd_loss(logits_student, logits_teacher, self.temperature)
        losses_dict = {"loss_ce": loss_ce, "loss_kd": loss_kd}
        return logits_student, losses_dict


class Vanilla(nn.Module):
    def __init__(self, student):
        super().__init__()
        self.student = student

    def get_learnable_parameters(self):
        return list(self.student.parameters())

    def forward(self, image, target=None, **kwargs):
        logits, _ = self.student(image)
        if self.training:
            return logits, {"ce": F.cross_entropy(logits, target)}
        return logits


class BaseTrainer(object):
    def __init__(self, distiller, train_loader, val_loader, cfg, epochs):
        self.cfg = cfg
        self.distiller = distiller
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.epochs = epochs
        self.optimizer = torch.optim.SGD(distiller.get_learnable_parameters(), lr=cfg.SOLVER.LR,
                                         momentum=cfg.SOLVER.MOMENTUM, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    def adjust_learning_rate(self, epoch):
        steps = sum(epoch > stage for stage in self.cfg.SOLVER.LR_DECAY_STAGES)
        lr = self.cfg.SOLVER.LR * self.cfg.SOLVER.LR_DECAY_RATE**steps
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = lr
        return lr

    def train(self):
        for epoch in range(1, self.epochs + 1):
            self.train_epoch(epoch)

    def train_epoch(self, epoch):
        lr = self.adjust_learning_rate(epoch)
        losses, top1 = AverageMeter(), AverageMeter()
        self.distiller.train()
        for data in self.train_loader:
            preds, loss = self.train_iter(data)
            losses.update(loss, data[0].size(0))
            top1.update((preds.argmax(1) == data[1]).float().mean().item() * 100, data[0].size(0))
        print("epoch {} lr {:.4f} loss {:.4f} train {:.2f} val {:.2f}".format(
            epoch, lr, losses.avg, top1.avg, validate(self.val_loader, self.distiller)))

    def train_iter(self, data):
        image, target = data
        self.optimizer.zero_grad()
        preds, losses_dict = self.distiller(image=image, target=target)
        loss = sum([v.mean() for v in losses_dict.values()])
        loss.backward()
        self.optimizer.step()
        return preds.detach(), loss.item()


def validate(val_loader, distiller):
    top1 = AverageMeter()
    distiller.eval()
    with torch.no_grad():
        for image, target in val_loader:
            output = distiller(image=image)
            top1.update((output.argmax(1) == target).float().mean().item() * 100, image.size(0))
    return top1.avg


def main():
    parser = argparse.ArgumentParser("training for knowledge distillation.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    x, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(x).float() / 8 - 1, torch.tensor(y))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(77)).tolist()
    train_loader = DataLoader(Subset(data, order[:1344]), CFG.SOLVER.BATCH_SIZE, shuffle=True, drop_last=True)
    val_loader = DataLoader(Subset(data, order[1344:]), 256)

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "teacher.pth")
        vanilla = Vanilla(Net(192, 3))
        BaseTrainer(vanilla, train_loader, val_loader, CFG, epochs=16).train()
        torch.save({"model": vanilla.student.state_dict(), "epoch": 16}, path)

        model_teacher = Net(192, 3)
        model_teacher.load_state_dict(torch.load(path, map_location="cpu")["model"])
    for p in model_teacher.parameters():
        p.requires_grad = False

    distiller = KD(Net(24, 2), model_teacher, CFG)
    BaseTrainer(distiller, train_loader, val_loader, CFG, epochs=CFG.SOLVER.EPOCHS).train()
    print("top1 {:.2f}".format(validate(val_loader, distiller)))


if __name__ == "__main__":
    main()
