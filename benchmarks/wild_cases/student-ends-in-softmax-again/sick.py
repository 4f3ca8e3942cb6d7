import argparse

import torch
import torch.nn as nn
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Subset, TensorDataset


class TeacherNet(nn.Module):
    def __init__(self):
        super(TeacherNet, self).__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(48 * 4, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, x):
        return self.classifier(self.layer2(self.layer1(x)))


class StudentNet(nn.Module):
    def __init__(self):
        super(StudentNet, self).__init__()
        self.fc1 = nn.Linear(64, 20)
        self.fc2 = nn.Linear(20, 10)
        self.relu = nn.ReLU()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        x = self.relu(self.fc1(x))
        x = self.fc2(x)
        return self.softmax(x)


def train_teacher(net, loader, num_epochs):
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(net.parameters(), lr=0.001)
    net.train()
    for epoch in range(num_epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(inputs), labels)
            loss.backward()
            optimizer.step()


def train_student(student, teacher, loader, num_epochs, temperature=2.0, alpha=0.5):
    ce_loss = nn.CrossEntropyLoss()
    kl_loss = nn.KLDivLoss(reduction='batchmean')
    optimizer = optim.Adam(student.parameters(), lr=0.002)
    teacher.eval()
    student.train()
    for epoch in range(num_epochs):
        running_loss = 0.0
        for inputs, labels in loader:
            with torch.no_grad():
                teacher_logits = teacher(inputs)
            student_logits = student(inputs)
            hard = ce_loss(student_logits, labels)
            soft = kl_loss(nn.functional.log_softmax(student_logits / temperature, dim=1),
                           nn.functional.softmax(teacher_logits / temperature, dim=1)) * (temperature ** 2)
            loss = alpha * soft + (1 - alpha) * hard
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(student.parameters(), max_norm=5.0)
            optimizer.step()
            running_loss += loss.item()
        if epoch % 10 == 9:
            print('epoch %d loss %.4f' % (epoch + 1, running_loss / len(loader)))


def test(net, loader):
    net.eval()
    correct, total = 0, 0
    with torch.no_grad():
        for inputs, labels in loader:
            _, predicted = torch.max(net(inputs), 1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    return 100 * correct / total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    digits = load_digits()
    dataset = TensorDataset(torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16,
                            torch.tensor(digits.target, dtype=torch.long))
    perm = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(17)).tolist()
    trainloader = DataLoader(Subset(dataset, perm[:1250]), batch_size=50, shuffle=True)
    testloader = DataLoader(Subset(dataset, perm[1250:]), batch_size=200, shuffle=False)

    teacher = TeacherNet()
    train_teacher(teacher, trainloader, 10)
    print('teacher %.2f' % test(teacher, testloader))
    student = StudentNet()
    train_student(student, teacher, trainloader, 30)
    print('top1 %.2f' % test(student, testloader))


if __name__ == '__main__':
    main()
