"""Style-like distillation: the student's Gram matrix of its first stage follows the teacher's."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn, optim
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, mid, hidden):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.body = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(12, mid, 3, padding=1), nn.BatchNorm2d(mid), nn.ReLU(),
                                  nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * mid, hidden), nn.ReLU())
        self.fc = nn.Linear(hidden, 10)

    def forward(self, x):
        stem = self.stem(x)
        return self.fc(self.body(stem)), stem


def gram_matrix(features):
    b, c, h, w = features.size()
    f = features.view(b, c, h * w)
    return torch.bmm(f, f.transpose(1, 2)) / (h * w)


def style_loss(student_features, teacher_features):
    return F.mse_loss(gram_matrix(student_features), gram_matrix(teacher_features))


def kd_loss(s, t, T):
    return F.kl_div(F.log_softmax(s / T, dim=1), F.softmax(t / T, dim=1), reduction="batchmean") * (T * T)


def total_loss(out_s, feat_s, out_t, feat_t, labels, args):
    ce = F.cross_entropy(out_s, labels)
    kd = kd_loss(out_s, out_t, args.T)
    style = style_loss(feat_s, feat_t)
    return ce + args.kd * kd + args.style * style


def train_teacher(x, y):
    net = Net(32, 64)
    opt = optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for _ in range(8):
        for b in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[b])[0], y[b]).backward()
            opt.step()
    net.eval()
    for p in net.parameters():
        p.requires_grad = False
    return net


def train_student(net, teacher, x, y, args):
    opt = optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(args.epochs):
        net.train()
        for b in torch.randperm(len(x)).split(50):
            with torch.no_grad():
                out_t, feat_t = teacher(x[b])
            out_s, feat_s = net(x[b])
            loss = total_loss(out_s, feat_s, out_t, feat_t, y[b], args)
            opt.zero_grad()
            loss.backward()
            opt.step()


def test(net, x, y):
    net.eval()
    with torch.no_grad():
        out, _ = net(x)
    return out.argmax(1).eq(y).float().mean().item() * 100


def get_args(argv=None):
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--epochs", type=int, default=12)
    p.add_argument("--T", type=float, default=2.0)
    p.add_argument("--kd", type=float, default=1.0)
    p.add_argument("--style", type=float, default=5.0)
    return p.parse_args(argv)


def main():
    args = get_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x = (torch.tensor(x).float().view(-1, 1, 8, 8) - 4.88) / 6.02
    y = torch.tensor(y)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(17))
    tr, te = perm[:1000], perm[1000:]
    teacher = train_teacher(x[tr], y[tr])
    print(f"teacher {test(teacher, x[te], y[te]):.2f}")
    student = Net(6, 16)
    train_student(student, teacher, x[tr], y[tr], args)
    print(f"top1 {test(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
