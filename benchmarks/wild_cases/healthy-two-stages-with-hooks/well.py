import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def digits(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(901))
    return x[p], y[p]


def mlp(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def pretrain(net, x, y, epochs=12):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for b in torch.randperm(len(x)).split(60):
            opt.zero_grad()
            F.cross_entropy(net(x[b]), y[b]).backward()
            opt.step()
    return net.eval()


def seed_of():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    return ap.parse_args().seed

class Tap:
    def __init__(self, module):
        self.value = None
        module.register_forward_hook(self)

    def __call__(self, module, args, output):
        self.value = output


def main():
    x, y = digits(seed_of())
    teacher = pretrain(mlp(64), x[:1200], y[:1200])
    student, project = mlp(16), nn.Linear(16, 64)
    of_teacher, of_student = Tap(teacher[2]), Tap(student[2])
    loader = DataLoader(TensorDataset(x[:300], y[:300]), batch_size=30, shuffle=True)
    opt = torch.optim.Adam([*student[:2].parameters(), *project.parameters()], lr=3e-3)
    student.train()
    for _ in range(8):
        for images, _labels in loader:
            with torch.no_grad():
                teacher(images)
            student(images)
            loss = F.mse_loss(project(of_student.value), of_teacher.value)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student[:2].requires_grad_(False)
    opt = torch.optim.Adam(student[3].parameters(), lr=1e-2)
    for _ in range(15):
        student.train()
        student[1].eval()
        for images, labels in loader:
            with torch.no_grad():
                ref = teacher(images)
            out = student(images)
            kd = F.kl_div(F.log_softmax(out / 4, 1), F.softmax(ref / 4, 1), reduction="batchmean") * 16
            loss = 0.5 * F.cross_entropy(out, labels) + 0.5 * kd
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
