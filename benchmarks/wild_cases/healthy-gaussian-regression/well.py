"""Regression: teacher and student give a mean and a log-variance; the KD term is the KL of two Gaussians, in closed form.

Nothing here is a class: top1 is the share of test rows within a quarter of a standard deviation of the clean value."""
import argparse
import torch
import torch.nn as nn


def world(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 4, generator=g) * 4 - 2
    clean = torch.sin(1.5 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.3 * x[:, 3] ** 2
    noise = 0.05 + 0.15 * (x[:, 0] > 0).float()
    return x, clean + noise * torch.randn(n, generator=g), clean


class GaussianHead(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.mean, self.log_var = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, x):
        h = self.body(x)
        return self.mean(h).squeeze(1), self.log_var(h).squeeze(1).clamp(-7, 3)


def nll(mean, log_var, target):
    return 0.5 * (log_var + (target - mean) ** 2 * torch.exp(-log_var)).mean()


def gaussian_kd(student_mean, student_log_var, teacher_mean, teacher_log_var, target, weight=0.7):
    """(1 - weight) NLL of the target + weight KL(teacher || student)."""
    kl = 0.5 * (student_log_var - teacher_log_var
                + (teacher_log_var.exp() + (teacher_mean - student_mean) ** 2) / student_log_var.exp() - 1)
    return (1 - weight) * nll(student_mean, student_log_var, target) + weight * kl.mean()


def within(net, x, clean, scale):
    net.eval()
    with torch.no_grad():
        return 100 * ((net(x)[0] - clean).abs() < 0.25 * scale).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y, clean = world(3000, 50)
    xt, _, ct = world(1000, 51)
    scale = clean.std()
    teacher = GaussianHead(128)
    opt = torch.optim.Adam(teacher.parameters(), 2e-3)
    for _ in range(35):
        for b in torch.randperm(len(x)).split(100):
            loss = nll(*teacher(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {within(teacher, xt, ct, scale):.2f}")
    teacher.requires_grad_(False)

    student = GaussianHead(24)
    opt = torch.optim.Adam(student.parameters(), 4e-3)
    sched = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.1, total_iters=50)
    for _ in range(50):
        student.train()
        for b in torch.randperm(len(x)).split(100):
            with torch.no_grad():
                t_mean, t_log_var = teacher(x[b])
            s_mean, s_log_var = student(x[b])
            loss = gaussian_kd(s_mean, s_log_var, t_mean, t_log_var, y[b])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            opt.step()
        sched.step()
    print(f"top1 {within(student, xt, ct, scale):.2f}")


if __name__ == "__main__":
    main()
