"""Relational distillation (distances within the batch), features taken by hooks; teacher from a checkpoint."""
import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def make_net(width, dropout=0.0):
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)))
    net.add_module("body", nn.Sequential(nn.Conv2d(width, width * 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()))
    net.add_module("embed", nn.Linear(width * 8, width * 4))
    net.add_module("head", nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(width * 4, 10)))
    return net


def init_weights(m):
    if isinstance(m, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(m.weight, nonlinearity="linear")
        nn.init.zeros_(m.bias)


def distances(e):
    d = torch.cdist(e, e)
    off = ~torch.eye(len(e), dtype=torch.bool)
    return d / d[off].mean().clamp_min(1e-6)


class RelationalKD(nn.Module):
    def __init__(self, teacher, student, lam_d=1.0, lam_kl=0.5, T=4.0):
        super().__init__()
        self.teacher = teacher
        self.student = student
        self.lam_d, self.lam_kl, self.T = lam_d, lam_kl, T
        self.student.apply(init_weights)
        self.seen = {}
        for who, net in (("teacher", teacher), ("student", student)):
            net.embed.register_forward_hook(self.keep(who))
        self.teacher.requires_grad_(False)

    def keep(self, who):
        def hook(module, args, output):
            self.seen[who] = output
        return hook

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x, y):
        logits = self.student(x)
        with torch.no_grad():
            t_logits = self.teacher(x)
            relation = distances(self.seen["teacher"])
        parts = {
            "ce": F.cross_entropy(logits, y),
            "dist": self.lam_d * F.smooth_l1_loss(distances(self.seen["student"]), relation),
            "kl": self.lam_kl * self.T**2 * F.kl_div(
                F.log_softmax(logits / self.T, 1), F.softmax(t_logits / self.T, 1), reduction="batchmean"
            ),
        }
        return sum(parts.values()), parts


def pretrain(path, x, y):
    net = make_net(16, 0.2)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(40):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
    torch.save({"model": net.state_dict()}, path)


def load_teacher(path):
    net = make_net(16, 0.2)
    net.load_state_dict(torch.load(path, weights_only=True)["model"])
    return net.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(15))
    train, test = p[:1100], p[1100:]
    few = train[torch.randperm(1100)[:200]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.pt"
        pretrain(path, x[train], y[train])
        teacher = load_teacher(path)

    module = RelationalKD(teacher, make_net(5))
    opt = torch.optim.AdamW((p for p in module.parameters() if p.requires_grad), lr=6e-3, weight_decay=1e-3)
    module.train()
    for epoch in range(35):
        for rows in few[torch.randperm(len(few))].split(40):
            loss, _ = module(x[rows], y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
    module.eval()
    with torch.no_grad():
        print(f"top1 {100 * (module.student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
