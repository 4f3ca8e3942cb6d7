"""Two teachers of different width; the student learns from the mean of their softened answers."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import MultiStepLR

TEMPERATURE = 3.0
LAMBDA_KD = 0.7
EPOCHS = 20
BATCH = 64


class MLP(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.out(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


def get_split():
    raw = load_digits()
    x = torch.FloatTensor(raw.data) / 16
    y = torch.LongTensor(raw.target)
    g = torch.Generator().manual_seed(55)
    idx = torch.randperm(x.size(0), generator=g)
    return x[idx[:1216]], y[idx[:1216]], x[idx[1216:]], y[idx[1216:]]


def train_teacher(net, x, y, epochs=12):
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for i in torch.randperm(x.size(0)).split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[i]), y[i])
            loss.backward()
            optimizer.step()
    net.eval()
    for p in net.parameters():
        p.requires_grad = False
    return net


def ensemble_targets(teachers, x):
    with torch.no_grad():
        return torch.stack([F.softmax(t(x) / TEMPERATURE, dim=1) for t in teachers]).mean(dim=0)


def train_student(student, teachers, x, y):
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    scheduler = MultiStepLR(optimizer, milestones=[12, 17], gamma=0.2)
    for epoch in range(EPOCHS):
        student.train()
        for i in torch.randperm(x.size(0)).split(BATCH):
            logits = student(x[i])
            soft = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=1), ensemble_targets(teachers, x[i]),
                            reduction="batchmean") * TEMPERATURE ** 2
            hard = F.cross_entropy(logits, y[i])
            loss = LAMBDA_KD * soft + (1 - LAMBDA_KD) * hard
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()


def test(net, x, y):
    net.eval()
    with torch.no_grad():
        pred = net(x).argmax(dim=1)
    return pred.eq(y).float().mean().item() * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--seed', default=0, type=int)
    opt = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    x_tr, y_tr, x_te, y_te = get_split()
    teachers = [train_teacher(MLP(h), x_tr, y_tr) for h in (128, 256)]
    for t in teachers:
        print('teacher %.2f' % test(t, x_te, y_te))
    student = MLP(12)
    train_student(student, teachers, x_tr, y_tr)
    print('top1 %.2f' % test(student, x_te, y_te))


if __name__ == '__main__':
    main()
