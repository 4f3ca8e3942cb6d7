import argparse
import itertools
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn import datasets, preprocessing
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

# Effective batch 64 = 16 x 4; the card only holds 16.

config = {
    "micro": 16,
    "accumulate": 4,
    "epochs": 24,
    "lr": 0.25,
    "momentum": 0.9,
    "T": 4.0,
    "lambda_kd": 0.8,
}


def get_data(seed):
    x, y = datasets.load_digits(return_X_y=True)
    x = preprocessing.StandardScaler().fit(x[:1000]).transform(x)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(77))
    x, y = x[order], y[order]
    teach = TensorDataset(x[:1100], y[:1100])
    pick = torch.randperm(1100, generator=torch.Generator().manual_seed(seed))[:256]
    return teach, TensorDataset(x[pick], y[pick]), TensorDataset(x[1100:], y[1100:])


def mlp(*sizes, p=0.0):
    layers = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(p)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def hinton(zs, zt, y, T, lam):
    soft = F.kl_div(F.log_softmax(zs / T, 1), F.softmax(zt / T, 1), reduction="batchmean") * T * T
    return lam * soft + (1 - lam) * F.cross_entropy(zs, y)


def train_teacher(data):
    net = mlp(64, 128, 128, 10, p=0.2)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(10):
        for x, y in DataLoader(data, batch_size=64, shuffle=True):
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    net.eval()
    for p in net.parameters():
        p.requires_grad = False
    return net


def distill(student, teacher, data, c):
    loader = DataLoader(data, batch_size=c["micro"], shuffle=True, drop_last=True)
    k = c["accumulate"]
    updates = c["epochs"] * (len(loader) // k)
    opt = torch.optim.SGD(student.parameters(), lr=c["lr"], momentum=c["momentum"], nesterov=True)
    sched = CosineAnnealingLR(opt, T_max=updates)
    history = []
    for epoch in range(c["epochs"]):
        student.train()
        opt.zero_grad()
        total = 0.0
        for step, (x, y) in enumerate(loader, 1):
            with torch.no_grad():
                zt = teacher(x)
            loss = hinton(student(x), zt, y, c["T"], c["lambda_kd"])
            (loss / k).backward()
            total += loss.item()
            if step % k == 0:
                opt.step()
                opt.zero_grad()
            sched.step()
        history.append(total / len(loader))
    return history


@torch.no_grad()
def top1(net, data):
    net.eval()
    x, y = data.tensors
    return 100.0 * net(x).argmax(1).eq(y).float().mean().item()


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=config["lr"])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    plenty, few, test = get_data(args.seed)
    teacher = train_teacher(plenty)
    student = mlp(64, 16, 10)
    history = distill(student, teacher, few, {**config, "lr": args.lr})
    print("teacher", round(top1(teacher, test), 2), "loss", [round(h, 3) for h in history[::6]])
    print(f"top1 {top1(student, test):.2f}")


if __name__ == "__main__":
    main()
