"""DeiT-like: class token and distillation token; hard distillation (the teacher's argmax); inference averages both heads."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Attention(nn.Module):
    def __init__(self, dim, num_heads=4):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * 2), nn.GELU(), nn.Linear(dim * 2, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DistilledVisionTransformer(nn.Module):
    def __init__(self, embed_dim=32, depth=2, num_classes=10):
        super().__init__()
        self.patch_embed = nn.Conv2d(1, embed_dim, kernel_size=2, stride=2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 16 + 2, embed_dim))
        self.blocks = nn.Sequential(*[Block(embed_dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self.head_dist = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.dist_token, std=.02)
        nn.init.trunc_normal_(self.cls_token, std=.02)
        nn.init.trunc_normal_(self.pos_embed, std=.02)

    def forward_features(self, x):
        B = x.shape[0]
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(B, -1, -1), self.dist_token.expand(B, -1, -1), x), dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return x[:, 0], x[:, 1]

    def forward(self, x):
        x, x_dist = self.forward_features(x)
        x, x_dist = self.head(x), self.head_dist(x_dist)
        if self.training:
            return x, x_dist
        # during inference, return the average of both classifier predictions
        return (x + x_dist) / 2


class DistillationLoss(nn.Module):
    def __init__(self, base_criterion, teacher_model, distillation_type, alpha, tau):
        super().__init__()
        self.base_criterion = base_criterion
        self.teacher_model = teacher_model
        assert distillation_type in ['none', 'soft', 'hard']
        self.distillation_type = distillation_type
        self.alpha = alpha
        self.tau = tau

    def forward(self, inputs, outputs, labels):
        outputs_kd = None
        if not isinstance(outputs, torch.Tensor):
            # assume that the model outputs a tuple of [outputs, outputs_kd]
            outputs, outputs_kd = outputs
        base_loss = self.base_criterion(outputs, labels)
        if self.distillation_type == 'none':
            return base_loss

        if outputs_kd is None:
            raise ValueError("a distilled model returns a tuple: the class token's output and the distillation token's")
        # don't backprop through the teacher
        with torch.no_grad():
            teacher_outputs = self.teacher_model(inputs)

        if self.distillation_type == 'soft':
            T = self.tau
            distillation_loss = F.kl_div(
                F.log_softmax(outputs_kd / T, dim=1),
                F.log_softmax(teacher_outputs / T, dim=1),
                reduction='sum', log_target=True) * (T * T) / outputs_kd.size(0)
        else:
            distillation_loss = F.cross_entropy(outputs_kd, teacher_outputs.argmax(dim=1))
        return base_loss * (1 - self.alpha) + distillation_loss * self.alpha


def make_teacher():
    return nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Linear(192, 10))


def train_one_epoch(model, criterion, data_loader, optimizer, max_norm=None):
    model.train(True)
    total = 0.0
    for samples, targets in data_loader:
        outputs = model(samples)
        loss = criterion(samples, outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        total += loss.item()
    return {'loss': total / len(data_loader), 'lr': optimizer.param_groups[0]['lr']}


@torch.no_grad()
def evaluate(data_loader, model):
    # switch to evaluation mode
    model.eval()
    correct = seen = 0
    for images, target in data_loader:
        correct += (model(images).argmax(1) == target).sum().item()
        seen += len(target)
    return {'acc1': 100 * correct / seen}


def main():
    parser = argparse.ArgumentParser('DeiT training and evaluation script')
    parser.add_argument('--seed', default=0, type=int)
    parser.add_argument('--epochs', default=16, type=int)
    parser.add_argument('--distillation-type', default='hard', choices=['none', 'soft', 'hard'])
    parser.add_argument('--distillation-alpha', default=0.5, type=float)
    parser.add_argument('--distillation-tau', default=1.0, type=float)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    d = load_digits()
    x, y = (torch.tensor(d.images).float().unsqueeze(1) / 16 - 0.5) / 0.5, torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(2021))
    data_loader_train = DataLoader(TensorDataset(x[p[:1300]], y[p[:1300]]), batch_size=64, shuffle=True, drop_last=True)
    data_loader_val = DataLoader(TensorDataset(x[p[1300:]], y[p[1300:]]), batch_size=128)

    teacher_model = make_teacher()
    optimizer = torch.optim.AdamW(teacher_model.parameters(), lr=4e-3)
    for _ in range(7):
        train_one_epoch(teacher_model, lambda s, o, t: F.cross_entropy(o, t), data_loader_train, optimizer)
    print('teacher', evaluate(data_loader_val, teacher_model))
    teacher_model.eval()

    model = DistilledVisionTransformer()
    criterion = DistillationLoss(nn.CrossEntropyLoss(), teacher_model, args.distillation_type, args.distillation_alpha,
                                 args.distillation_tau)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs, eta_min=1e-5)
    for epoch in range(args.epochs):
        train_stats = train_one_epoch(model, criterion, data_loader_train, optimizer, max_norm=5.0)
        lr_scheduler.step()
        test_stats = evaluate(data_loader_val, model)
        print({'epoch': epoch, **train_stats, **test_stats})
    print(f"top1 {test_stats['acc1']:.2f}")


if __name__ == '__main__':
    main()
