"""Teacher: trained on standardised pixels. Student: distilled on the training images with that teacher."""
import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

PARAMS = dict(T=2.0, alpha=0.75, lr=0.05, epochs=30, batch=40)


def build(n_hidden, depth):
    sizes = [64] + [n_hidden] * depth
    body = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*body, nn.Linear(n_hidden, 10))


def fit_teacher(x, y):
    net = build(200, 2)
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    for _ in range(20):
        for ix in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[ix]), y[ix]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


def distill(net, teacher, x, y, T, alpha, lr, epochs, batch):
    opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    sch = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.93)
    kld = nn.KLDivLoss(reduction="batchmean")
    for _ in range(epochs):
        net.train()
        for ix in torch.randperm(len(x)).split(batch):
            with torch.no_grad():
                p = F.softmax(teacher(x[ix]) / T, dim=1)
            z = net(x[ix])
            loss = alpha * T * T * kld(F.log_softmax(z / T, dim=1), p) + (1 - alpha) * F.cross_entropy(z, y[ix])
            opt.zero_grad()
            loss.backward()
            opt.step()
        sch.step()
    return net.eval()


@torch.no_grad()
def score(net, x, y):
    return (net(x).argmax(1) == y).float().mean().item() * 100


def tensor(a):
    return torch.as_tensor(a, dtype=torch.float32)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    raw, labels = load_digits(return_X_y=True)
    raw_train, raw_test, y_train, y_test = train_test_split(raw, labels, test_size=0.3, random_state=1)
    y_train, y_test = torch.as_tensor(y_train), torch.as_tensor(y_test)
    scaler = StandardScaler().fit(raw_train)

    teacher = fit_teacher(tensor(scaler.transform(raw_train)), y_train)
    print(f"teacher {score(teacher, tensor(scaler.transform(raw_test)), y_test):.2f}")

    x_train, x_test = tensor(raw_train / 16.0), tensor(raw_test / 16.0)
    student = distill(build(12, 1), teacher, x_train, y_train, **PARAMS)
    print(f"top1 {score(student, x_test, y_test):.2f}")


if __name__ == "__main__":
    main()
