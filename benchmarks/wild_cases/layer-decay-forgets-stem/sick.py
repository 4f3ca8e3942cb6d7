"""Tiny ViT student, layer-wise learning rates, logits and class token distilled."""
import argparse
import math
import re
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


@dataclass
class Config:
    epochs: int = 30
    batch: int = 40
    lr: float = 8e-3
    layer_decay: float = 0.8
    weight_decay: float = 0.02
    tau: float = 2.0
    kd_weight: float = 0.7
    token_weight: float = 0.5
    warmup: float = 0.1


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        h = self.norm1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, dim, depth, heads, num_classes=10):
        super().__init__()
        self.patch_embed = nn.Conv2d(1, dim, 2, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, dim) * 0.02)
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward_features(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for blk in self.blocks:
            x = blk(x)
        return self.norm(x)[:, 0]

    def forward(self, x):
        f = self.forward_features(x)
        return self.head(f), f


_models = {"vit_teacher": (32, 2, 4), "vit_student": (12, 2, 2)}


def create_model(name):
    return VisionTransformer(*_models[name])


def get_layer_id(name, depth):
    if name.startswith(("patch_embed", "cls_token", "pos_embed")):
        return 0
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match.group(1)) + 1 if match else depth + 1


def param_groups_lrd(model, cfg):
    """One group per layer and kind (decay or not); earlier layers learn more slowly."""
    depth = len(model.blocks)
    groups = {}
    for name, p in model.named_parameters():
        layer = get_layer_id(name, depth)
        decay = 0.0 if p.ndim == 1 or "pos" in name or "cls" in name else cfg.weight_decay
        key = (layer, decay > 0)
        scale = cfg.layer_decay ** (depth + 1 - layer)
        groups.setdefault(key, {"params": [], "weight_decay": decay, "lr": cfg.lr * scale})
        groups[key]["params"].append(p)
    return [groups[(i, d)] for i in range(1, depth + 2) for d in (True, False) if (i, d) in groups]


class Distiller(nn.Module):
    def __init__(self, student, teacher, cfg):
        super().__init__()
        self.student, self.cfg = student, cfg
        self.connector = nn.Linear(12, 32)
        self.__dict__["teacher"] = teacher.eval().requires_grad_(False)

    def forward(self, x, y):
        cfg = self.cfg
        logits, token = self.student(x)
        with torch.no_grad():
            t_logits, t_token = self.teacher(x)
        ce = F.cross_entropy(logits, y)
        kd = F.kl_div(F.log_softmax(logits / cfg.tau, -1), F.log_softmax(t_logits / cfg.tau, -1),
                      reduction="batchmean", log_target=True) * cfg.tau**2
        tok = F.mse_loss(self.connector(token), t_token)
        return (1 - cfg.kd_weight) * ce + cfg.kd_weight * kd + cfg.token_weight * tok


def run_epochs(step_fn, n, epochs, batch):
    for _ in range(epochs):
        for idx in torch.randperm(n).split(batch):
            step_fn(idx)


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()
    return (model(x)[0].argmax(-1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cfg = Config()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load_digits()
    x, y = torch.tensor(data.images).float().unsqueeze(1) / 8 - 1, torch.tensor(data.target)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    train, few, test = perm[:1200], perm[:400], perm[1200:]

    teacher = create_model("vit_teacher")
    opt = torch.optim.AdamW(teacher.parameters(), lr=2e-3)

    def teacher_step(idx):
        opt.zero_grad()
        F.cross_entropy(teacher(x[train[idx]])[0], y[train[idx]]).backward()
        opt.step()

    run_epochs(teacher_step, len(train), 14, 50)
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")

    student = create_model("vit_student")
    distiller = Distiller(student, teacher, cfg)
    groups = param_groups_lrd(student, cfg) + [{"params": distiller.connector.parameters(), "lr": cfg.lr}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr)
    total = cfg.epochs * math.ceil(len(few) / cfg.batch)
    warm = int(cfg.warmup * total)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warm if s < warm else 0.5 * (1 + math.cos(math.pi * (s - warm) / (total - warm))))

    def student_step(idx):
        loss = distiller(x[few[idx]], y[few[idx]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    run_epochs(student_step, len(few), cfg.epochs, cfg.batch)
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
