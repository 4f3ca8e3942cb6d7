"""KD plus a small discriminator that tells teacher features from student features. Two optimizers, two backward passes per batch; the student's pass leaves gradients on the discriminator, which are cleared before its own turn."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

bce = F.binary_cross_entropy_with_logits


class Classifier(nn.Module):
    def __init__(self, h, f=32):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, h), nn.ReLU(), nn.Linear(h, f), nn.ReLU())
        self.last = nn.Linear(f, 10)

    def forward(self, x):
        f = self.features(x)
        return f, self.last(f)


def top1(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x)[1].argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tau", type=float, default=4.0)
    ap.add_argument("--beta", type=float, default=0.05)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(73))
    x, y, xt, yt = x[p[:1200]], y[p[:1200]], x[p[1200:]], y[p[1200:]]
    teacher = Classifier(200)
    opt = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(15):
        for b in torch.randperm(1200).split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b])[1], y[b]).backward()
            opt.step()
    teacher.eval().requires_grad_(False)
    print(f"teacher {top1(teacher, xt, yt):.2f}")

    student = Classifier(36)
    critic = nn.Sequential(nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    s_opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    c_opt = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    for epoch in range(18):
        student.train()
        for b in torch.randperm(1200).split(50):
            with torch.no_grad():
                tf, tz = teacher(x[b])
            sf, sz = student(x[b])
            ones, zeros = torch.ones(len(b), 1), torch.zeros(len(b), 1)
            # the critic learns: the student's features are detached
            c_opt.zero_grad()
            (0.5 * bce(critic(tf), ones) + 0.5 * bce(critic(sf.detach()), zeros)).backward()
            c_opt.step()
            # the student learns: labels, teacher, and to pass for the teacher
            kd = a.tau ** 2 * F.kl_div(F.log_softmax(sz / a.tau, 1), F.softmax(tz / a.tau, 1), reduction="batchmean")
            loss = 0.3 * F.cross_entropy(sz, y[b]) + 0.7 * kd + a.beta * bce(critic(sf), ones)
            s_opt.zero_grad()
            loss.backward()
            s_opt.step()
    print(f"top1 {top1(student, xt, yt):.2f}")


if __name__ == "__main__":
    main()
