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

def train_one_epoch(student, teacher, loader, opt, sched, amp_dtype=torch.bfloat16):
    student.train()
    for images, target in loader:
        with torch.autocast("cpu", dtype=amp_dtype):
            out = student(images)
            with torch.inference_mode():
                ref = teacher(images)
        out, ref = out.float(), ref.float()
        kd = F.kl_div((out / 2).log_softmax(-1), (ref / 2).log_softmax(-1), log_target=True, reduction="batchmean")
        loss = 0.5 * F.cross_entropy(out, target) + 0.5 * 4 * kd
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        opt.step()
        sched.step()


def main():
    x, y = digits(seed_of())
    teacher = pretrain(mlp(128), x[:1200], y[:1200])
    student = mlp(12)
    epochs = 30
    opt = torch.optim.AdamW(student.parameters(), lr=5e-3, weight_decay=0.01)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs)
    loader = DataLoader(TensorDataset(x[:320], y[:320]), batch_size=32, shuffle=True)
    for _epoch in range(epochs):
        train_one_epoch(student, teacher, loader, opt, sched)
    student.eval()
    with torch.no_grad():
        print(f"top1 {100 * (student(x[1200:]).argmax(1) == y[1200:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
