"""The net that is evaluated is never the one the optimizer moves: SWA average, batch-norm statistics made anew at the end."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset


def block(i, o):
    return nn.Sequential(nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.ReLU(inplace=True))


def make_teacher():
    return nn.Sequential(block(64, 192), nn.Dropout(0.25), block(192, 96), nn.Linear(96, 10))


def make_student():
    return nn.Sequential(block(64, 28), nn.Linear(28, 10))


def run_epoch(net, loader, opt, loss_of):
    net.train()
    for x, y in loader:
        loss = loss_of(net, x, y)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()


def test(net, x, y):
    net.eval()
    with torch.inference_mode():
        return 100.0 * net(x).argmax(-1).eq(y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    opts = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opts.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float) / 16, torch.tensor(y)
    idx = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    xa, ya, xb, yb = x[idx[:1280]], y[idx[:1280]], x[idx[1280:]], y[idx[1280:]]
    loader = DataLoader(TensorDataset(xa, ya), batch_size=64, shuffle=True)

    teacher = make_teacher()
    t_opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(18):
        run_epoch(teacher, loader, t_opt, lambda n, x, y: F.cross_entropy(n(x), y))
    print(f"teacher {test(teacher, xb, yb):.2f}")

    tau, alpha = 4.0, 0.7

    def kd(net, x, y):
        with torch.no_grad():
            soft = F.softmax(teacher(x) / tau, dim=-1)
        out = net(x)
        k = F.kl_div(F.log_softmax(out / tau, dim=-1), soft, reduction="batchmean")
        return alpha * tau * tau * k + (1 - alpha) * F.cross_entropy(out, y)

    student = make_student()
    average = AveragedModel(student)
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    epochs, start = 24, 16
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=start, eta_min=0.02)
    swa = SWALR(opt, swa_lr=0.02, anneal_epochs=2)
    for epoch in range(epochs):
        run_epoch(student, loader, opt, kd)
        if epoch < start:
            cosine.step()
        else:
            average.update_parameters(student)
            swa.step()
    update_bn(loader, average)
    print(f"last {test(student, xb, yb):.2f}")
    print(f"top1 {test(average, xb, yb):.2f}")


if __name__ == "__main__":
    main()
