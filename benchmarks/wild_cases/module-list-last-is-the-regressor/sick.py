"""Hint training with a module_list, criterion_list and trainable_list."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class AverageMeter(object):
    """Computes and stores the average and current value"""

    def __init__(self):
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


def conv_bn(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU())


class PlainNet(nn.Module):
    def __init__(self, width, drop=0.0, num_classes=10):
        super().__init__()
        self.block0 = conv_bn(1, width)
        self.block1 = conv_bn(width, 2 * width)
        self.drop = nn.Dropout(drop)
        self.classifier = nn.Linear(2 * width * 4, num_classes)

    def forward(self, x, is_feat=False):
        f0 = F.max_pool2d(self.block0(x), 2)
        f1 = F.max_pool2d(self.block1(f0), 2)
        logits = self.classifier(self.drop(f1.flatten(1)))
        return ([f0, f1], logits) if is_feat else logits


class ConvReg(nn.Module):
    """Convolutional regression for the hint"""

    def __init__(self, s_shape, t_shape):
        super().__init__()
        self.conv = nn.Conv2d(s_shape[1], t_shape[1], 1)

    def forward(self, x):
        return F.relu(self.conv(x))


class HintLoss(nn.Module):
    def forward(self, f_s, f_t):
        return F.mse_loss(f_s, f_t)


class DistillKL(nn.Module):
    def __init__(self, T):
        super().__init__()
        self.T = T

    def forward(self, y_s, y_t):
        p_s = F.log_softmax(y_s / self.T, dim=1)
        p_t = F.softmax(y_t / self.T, dim=1)
        return F.kl_div(p_s, p_t, reduction="batchmean") * (self.T**2)


def train_vanilla(model, loader, epochs):
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        model.train()
        for images, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), target).backward()
            optimizer.step()


def train_distill(epoch, loader, module_list, criterion_list, optimizer, opt):
    """One epoch distillation"""
    for module in module_list:
        module.train()
    module_list[-1].eval()  # the teacher
    criterion_cls, criterion_div, criterion_kd = criterion_list
    model_s, model_t, regress_s = module_list
    losses, top1 = AverageMeter(), AverageMeter()
    for images, target in loader:
        feat_s, logit_s = model_s(images, is_feat=True)
        with torch.no_grad():
            feat_t, logit_t = model_t(images, is_feat=True)
        loss_cls = criterion_cls(logit_s, target)
        loss_div = criterion_div(logit_s, logit_t)
        loss_kd = criterion_kd(regress_s(feat_s[opt.hint_layer]), feat_t[opt.hint_layer])
        loss = opt.gamma * loss_cls + opt.alpha * loss_div + opt.beta * loss_kd
        losses.update(loss.item(), images.size(0))
        top1.update((logit_s.argmax(1) == target).float().mean().item() * 100, images.size(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return top1.avg, losses.avg


@torch.no_grad()
def validate(loader, model):
    model.eval()
    top1 = AverageMeter()
    for images, target in loader:
        top1.update((model(images).argmax(1) == target).float().mean().item() * 100, images.size(0))
    return top1.avg


def load_teacher(path):
    model = PlainNet(16, drop=0.5)
    model.load_state_dict(torch.load(path)["model"])
    return model


def parse_option():
    parser = argparse.ArgumentParser("argument for training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    parser.add_argument("-r", "--gamma", type=float, default=0.2)
    parser.add_argument("-a", "--alpha", type=float, default=0.8)
    parser.add_argument("-b", "--beta", type=float, default=2.0)
    parser.add_argument("--kd_T", type=float, default=3)
    parser.add_argument("--hint_layer", type=int, default=1, choices=[0, 1])
    return parser.parse_args()


def main():
    opt = parse_option()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(13))
    full, few, test = order[:1000], order[:200], order[1000:]
    loader = lambda i, b, s: DataLoader(TensorDataset(x[i], y[i]), b, shuffle=s)
    val_loader = loader(test, 400, False)
    model_t = PlainNet(16, drop=0.5)
    train_vanilla(model_t, loader(full, 50, True), 8)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ckpt_epoch_8.pth")
        torch.save({"epoch": 8, "model": model_t.state_dict()}, path)
        model_t = load_teacher(path)
    model_s = PlainNet(4)
    model_t.eval(), model_s.eval()
    feat_t, _ = model_t(x[:2], is_feat=True)
    feat_s, _ = model_s(x[:2], is_feat=True)
    regress_s = ConvReg(feat_s[opt.hint_layer].shape, feat_t[opt.hint_layer].shape)
    module_list = nn.ModuleList([model_s, model_t, regress_s])
    trainable_list = nn.ModuleList([model_s, regress_s])
    criterion_list = nn.ModuleList([nn.CrossEntropyLoss(), DistillKL(opt.kd_T), HintLoss()])
    optimizer = optim.SGD(trainable_list.parameters(), lr=opt.learning_rate, momentum=0.9, weight_decay=5e-4)
    print(f"teacher accuracy: {validate(val_loader, model_t):.2f}")
    train_loader = loader(few, 20, True)
    for epoch in range(1, opt.epochs + 1):
        train_acc, train_loss = train_distill(epoch, train_loader, module_list, criterion_list, optimizer, opt)
        if epoch % 10 == 0:
            print(f"epoch {epoch}, train acc {train_acc:.2f}, loss {train_loss:.3f}")
    print(f"top1 {validate(val_loader, model_s):.2f}")


if __name__ == "__main__":
    main()
