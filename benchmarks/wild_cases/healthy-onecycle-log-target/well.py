import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser(description="KD with KLDivLoss(log_target=True) and a one-cycle learning rate")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tau", type=float, default=3.0)
parser.add_argument("--gamma", type=float, default=0.5, help="weight of the labels")
parser.add_argument("--delta", type=float, default=0.5, help="weight of the teacher")
parser.add_argument("--n-epochs", type=int, default=20)


def mlp(h, p=0.0):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, h), nn.ReLU(), nn.Dropout(p), nn.Linear(h, h), nn.ReLU(), nn.Dropout(p),
        nn.Linear(h, 10))


def run_supervised(net, loader, n_epochs=15):
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(n_epochs):
        net.train()
        for images, targets in loader:
            loss = F.cross_entropy(net(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def run_kd(net_s, net_t, loader, args):
    kl = nn.KLDivLoss(reduction="batchmean", log_target=True)
    optimizer = torch.optim.SGD(net_s.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, epochs=args.n_epochs, steps_per_epoch=len(loader))
    net_t.eval()
    for _ in range(args.n_epochs):
        net_s.train()
        for images, targets in loader:
            with torch.inference_mode():
                out_t = net_t(images)
            out_s = net_s(images)
            log_t = F.log_softmax(out_t.clone() / args.tau, dim=1)
            log_s = F.log_softmax(out_s / args.tau, dim=1)
            loss = args.gamma * F.cross_entropy(out_s, targets) + args.delta * args.tau**2 * kl(log_s, log_t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


def test(net, loader):
    net.eval()
    correct = count = 0
    with torch.inference_mode():
        for images, targets in loader:
            correct += net(images).argmax(1).eq(targets).sum().item()
            count += targets.numel()
    return 100.0 * correct / count


def main(argv=None):
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32)
    targets = torch.tensor(raw.target)
    perm = torch.randperm(len(images), generator=torch.Generator().manual_seed(7))
    train, held = perm[:1250], perm[1250:]
    mean, std = images[train].mean(), images[train].std()
    images = (images - mean) / std
    train_loader = DataLoader(TensorDataset(images[train], targets[train]), batch_size=50, shuffle=True)
    held_loader = DataLoader(TensorDataset(images[held], targets[held]), batch_size=200)

    net_t = mlp(192, p=0.25)
    run_supervised(net_t, train_loader)
    print("teacher {:.2f}".format(test(net_t, held_loader)))
    net_s = mlp(12)
    run_kd(net_s, net_t, train_loader, args)
    print("top1 {:.2f}".format(test(net_s, held_loader)))


if __name__ == "__main__":
    main()
