"""SimKD: the student's projected features go through the teacher's own classifier. By design there
is no label in the loss, the student has no head of its own, and the reused head does not learn."""
import argparse
import copy
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def conv_bn(cin, cout, stride, k=3):
    return nn.Sequential(nn.Conv2d(cin, cout, k, stride, k // 2, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class Backbone(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.out_channels = 2 * width
        self.body = nn.Sequential(conv_bn(1, width, 2), conv_bn(width, 2 * width, 1))

    def forward(self, x):
        return self.body(x)


class TeacherNet(nn.Module):
    def __init__(self, width=20):
        super().__init__()
        self.backbone = Backbone(width)
        self.fc = nn.Linear(self.backbone.out_channels * 4, 10)

    def forward(self, x, is_feat=False):
        f = self.backbone(x)
        out = self.classify(f)
        return (f, out) if is_feat else out

    def classify(self, f):
        return self.fc(F.avg_pool2d(f, 2).flatten(1))


class SimKD(nn.Module):
    """Backbone and projector learn; `cls` is the teacher's, frozen."""

    def __init__(self, backbone, t_channels, cls, factor=2):
        super().__init__()
        mid = t_channels // factor
        self.backbone = backbone
        self.projector = nn.Sequential(conv_bn(backbone.out_channels, mid, 1, k=1), conv_bn(mid, mid, 1),
                                       conv_bn(mid, t_channels, 1, k=1))
        self.cls = cls.requires_grad_(False)

    def forward(self, x):
        f = self.projector(self.backbone(x))
        return f, self.cls(F.avg_pool2d(f, 2).flatten(1))


def train_teacher(x, y, path, epochs=8):
    net = TeacherNet()
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        net.train()
        for i in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            opt.step()
    torch.save({"model": net.state_dict(), "epoch": epochs}, path)


def load_teacher(path):
    net = TeacherNet()
    net.load_state_dict(torch.load(path)["model"])
    return net.eval()


def train_distill(epoch, images, module_list, criterion_kd, optimizer, batch):
    model_s, model_t = module_list
    model_s.train()
    model_t.eval()
    total, seen = 0.0, 0
    for i in torch.randperm(len(images)).split(batch):
        with torch.no_grad():
            feat_t, _ = model_t(images[i], is_feat=True)
        feat_s, _ = model_s(images[i])
        loss = criterion_kd(feat_s, feat_t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, seen = total + loss.item() * len(i), seen + len(i)
    if epoch % 10 == 0:
        print(f"epoch {epoch} loss {total / seen:.4f}")


@torch.no_grad()
def validate(model, x, y):
    model.eval()
    out = model(x)
    out = out[1] if isinstance(out, tuple) else out
    return (out.argmax(1) == y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(12))
    train, few, test = order[:1000], order[:200], order[1000:]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "teacher.pth")
        train_teacher(x[train], y[train], path)
        model_t = load_teacher(path)
    print(f"teacher {validate(model_t, x[test], y[test]):.2f}")
    model_s = SimKD(Backbone(5), model_t.backbone.out_channels, copy.deepcopy(model_t.fc))
    trainable_list = nn.ModuleList([model_s.backbone, model_s.projector])
    optimizer = torch.optim.AdamW(trainable_list.parameters(), lr=1e-2, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs, eta_min=1e-4)
    for epoch in range(1, args.epochs + 1):
        train_distill(epoch, x[few], (model_s, model_t), nn.MSELoss(), optimizer, 20)
        scheduler.step()
    print(f"top1 {validate(model_s, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
