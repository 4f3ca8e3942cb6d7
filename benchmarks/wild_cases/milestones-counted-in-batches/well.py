# knowledge distillation, simple script
# usage: python distill.py --seed 0
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import TensorDataset, DataLoader
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--epochs', type=int, default=30)
parser.add_argument('--lr', type=float, default=0.05)
parser.add_argument('--T', type=float, default=3.0)


class LeNetish(nn.Module):
    def __init__(self, k):
        super(LeNetish, self).__init__()
        self.conv1 = nn.Conv2d(1, k, 3)
        self.conv2 = nn.Conv2d(k, 2 * k, 3)
        self.fc = nn.Linear(2 * k * 4, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(torch.flatten(x, 1))


def loss_fn_kd(outputs, teacher_outputs, T=3.0):
    return nn.KLDivLoss(reduction='batchmean')(F.log_softmax(outputs / T, dim=1),
                                               F.softmax(teacher_outputs / T, dim=1)) * (T * T)


def test(model, loader):
    model.eval()
    correct = 0
    with torch.no_grad():
        for data, target in loader:
            correct += model(data).argmax(dim=1).eq(target).sum().item()
    return 100. * correct / len(loader.dataset)


def train_epoch(model, teacher, loader, optimizer, T):
    model.train()
    for data, target in loader:
        optimizer.zero_grad()
        output = model(data)
        if teacher is None:
            loss = F.cross_entropy(output, target)
        else:
            with torch.no_grad():
                teacher_output = teacher(data)
            loss = loss_fn_kd(output, teacher_output, T)
        loss.backward()
        optimizer.step()


def fit(model, teacher, loader, args):
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-4)
    scheduler = MultiStepLR(optimizer, milestones=[args.epochs // 2, args.epochs * 3 // 4], gamma=0.1)
    for epoch in range(args.epochs):
        train_epoch(model, teacher, loader, optimizer, args.T)
        scheduler.step()


def main():
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x = torch.tensor(digits.images / 16., dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target)
    idx = torch.randperm(len(x), generator=torch.Generator().manual_seed(77))
    train_set, test_set = TensorDataset(x[idx[:1000]], y[idx[:1000]]), TensorDataset(x[idx[1000:]], y[idx[1000:]])
    train_loader = DataLoader(train_set, batch_size=50, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=797)

    teacher = LeNetish(16)
    optimizer = optim.Adam(teacher.parameters(), lr=3e-3)
    for epoch in range(12):
        train_epoch(teacher, None, train_loader, optimizer, args.T)
    print('teacher %.2f' % test(teacher, test_loader))

    student = LeNetish(2)
    fit(student, teacher, train_loader, args)
    print('top1 %.2f' % test(student, test_loader))


if __name__ == '__main__':
    main()
