"""module_list / criterion_list / trainable_list; gamma for the classification, alpha for the divergence, beta for the hint."""
import argparse
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def parse_option():
    parser = argparse.ArgumentParser('argument for training')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--batch_size', type=int, default=64)
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--learning_rate', type=float, default=0.05)
    parser.add_argument('--lr_decay_epochs', type=str, default='12,17')
    parser.add_argument('--lr_decay_rate', type=float, default=0.1)
    parser.add_argument('--weight_decay', type=float, default=5e-4)
    parser.add_argument('--momentum', type=float, default=0.9)
    parser.add_argument('-r', '--gamma', type=float, default=0.5, help='weight for classification')
    parser.add_argument('-a', '--alpha', type=float, default=0.5, help='weight balance for KD')
    parser.add_argument('-b', '--beta', type=float, default=2.0, help='weight balance for other losses')
    parser.add_argument('--kd_T', type=float, default=4, help='temperature for KD distillation')
    parser.add_argument('--hint_layer', default=1, type=int, choices=[0, 1, 2])
    opt = parser.parse_args()
    opt.lr_decay_epochs = [int(it) for it in opt.lr_decay_epochs.split(',')]
    return opt


class DistillKL(nn.Module):
    """Distilling the Knowledge in a Neural Network"""
    def __init__(self, T):
        super(DistillKL, self).__init__()
        self.T = T

    def forward(self, y_s, y_t):
        p_s = F.log_softmax(y_s/self.T, dim=1)
        p_t = F.softmax(y_t/self.T, dim=1)
        loss = F.kl_div(p_s, p_t, reduction='sum') * (self.T**2) / y_s.shape[0]
        return loss


class HintLoss(nn.Module):
    """Fitnets: hints for thin deep nets"""
    def __init__(self):
        super(HintLoss, self).__init__()
        self.crit = nn.MSELoss()

    def forward(self, f_s, f_t):
        return self.crit(f_s, f_t)


class ConvReg(nn.Module):
    """Convolutional regression for FitNet"""
    def __init__(self, s_shape, t_shape):
        super(ConvReg, self).__init__()
        assert s_shape[2:] == t_shape[2:]
        self.conv = nn.Conv2d(s_shape[1], t_shape[1], kernel_size=1)
        self.bn = nn.BatchNorm2d(t_shape[1])
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


class ConvNet(nn.Module):
    def __init__(self, widths):
        super(ConvNet, self).__init__()
        a, b = widths
        self.conv1 = nn.Conv2d(1, a, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, padding=1, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.fc = nn.Linear(b*4, 10)

    def forward(self, x, is_feat=False):
        f0 = F.relu(self.bn1(self.conv1(x)))
        f1 = F.relu(self.bn2(self.conv2(f0)))
        f2 = F.avg_pool2d(f1, 2).flatten(1)
        out = self.fc(f2)
        if is_feat:
            return [f0, f1, f2], out
        return out


class AverageMeter(object):
    def __init__(self):
        self.sum = self.count = self.avg = 0.

    def update(self, val, n=1):
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


def adjust_learning_rate(epoch, opt, optimizer):
    steps = sum(epoch > e for e in opt.lr_decay_epochs)
    for param_group in optimizer.param_groups:
        param_group['lr'] = opt.learning_rate * (opt.lr_decay_rate ** steps)


def train_vanilla(model, loader, epochs, lr):
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    model.train()
    for _ in range(epochs):
        for input, target in loader:
            loss = F.cross_entropy(model(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def train_distill(epoch, train_loader, module_list, criterion_list, optimizer, opt):
    """One epoch distillation"""
    # set modules as train()
    for module in module_list:
        module.train()
    # set teacher as eval()
    module_list[-1].eval()

    criterion_cls = criterion_list[0]
    criterion_div = criterion_list[1]
    criterion_kd = criterion_list[2]

    model_s = module_list[0]
    model_t = module_list[-1]

    losses, top1 = AverageMeter(), AverageMeter()
    for idx, (input, target) in enumerate(train_loader):
        # ===================forward=====================
        feat_s, logit_s = model_s(input, is_feat=True)
        with torch.no_grad():
            feat_t, logit_t = model_t(input, is_feat=True)
            feat_t = [f.detach() for f in feat_t]

        # cls + kl div
        loss_cls = criterion_cls(logit_s, target)
        loss_div = criterion_div(logit_s, logit_t)

        # other kd beyond KL divergence
        f_s = module_list[1](feat_s[opt.hint_layer])
        f_t = feat_t[opt.hint_layer]
        loss_kd = criterion_kd(f_s, f_t)

        loss = opt.gamma * loss_cls + opt.alpha * loss_div + opt.beta * loss_kd

        losses.update(loss.item(), input.size(0))
        top1.update((logit_s.argmax(1) == target).float().mean().item() * 100, input.size(0))

        # ===================backward=====================
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return top1.avg, losses.avg


def validate(val_loader, model):
    top1 = AverageMeter()
    model.eval()
    with torch.no_grad():
        for input, target in val_loader:
            top1.update((model(input).argmax(1) == target).float().mean().item() * 100, input.size(0))
    return top1.avg


def main():
    opt = parse_option()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(404))
    train_loader = DataLoader(TensorDataset(x[p[:1300]], y[p[:1300]]), batch_size=opt.batch_size, shuffle=True, num_workers=0)
    val_loader = DataLoader(TensorDataset(x[p[1300:]], y[p[1300:]]), batch_size=opt.batch_size // 2, shuffle=False, num_workers=0)

    model_t = ConvNet((24, 48))
    train_vanilla(model_t, train_loader, epochs=8, lr=0.05)
    print('teacher accuracy: ', validate(val_loader, model_t))
    model_s = ConvNet((6, 12))

    data = torch.randn(2, 1, 8, 8)
    model_t.eval()
    model_s.eval()
    with torch.no_grad():
        feat_t, _ = model_t(data, is_feat=True)
        feat_s, _ = model_s(data, is_feat=True)

    module_list = nn.ModuleList([])
    module_list.append(model_s)
    trainable_list = nn.ModuleList([])
    trainable_list.append(model_s)

    regress_s = ConvReg(feat_s[opt.hint_layer].shape, feat_t[opt.hint_layer].shape) if opt.hint_layer < 2 \
        else nn.Linear(feat_s[2].shape[1], feat_t[2].shape[1])
    module_list.append(regress_s)
    trainable_list.append(regress_s)

    criterion_list = nn.ModuleList([nn.CrossEntropyLoss(), DistillKL(opt.kd_T), HintLoss()])
    optimizer = optim.SGD(trainable_list.parameters(), lr=opt.learning_rate, momentum=opt.momentum,
                          weight_decay=opt.weight_decay)
    # append teacher after optimizer to avoid weight_decay
    module_list.append(model_t)

    for epoch in range(1, opt.epochs + 1):
        adjust_learning_rate(epoch, opt, optimizer)
        train_acc, train_loss = train_distill(epoch, train_loader, module_list, criterion_list, optimizer, opt)
        test_acc = validate(val_loader, model_s)
        print('epoch {0} loss {1:.3f} train {2:.2f} test {3:.2f}'.format(epoch, train_loss, train_acc, test_acc))
        sys.stdout.flush()
    print('top1 {:.2f}'.format(test_acc))


if __name__ == '__main__':
    main()
