"""Load a trained teacher from its checkpoint, freeze it, distil."""
import argparse
import io

import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


class TeacherNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 300)
        self.fc2 = nn.Linear(300, 300)
        self.fc3 = nn.Linear(300, 10)
        self.drop = nn.Dropout(p=0.5)

    def forward(self, x):
        x = x.view(-1, 64)
        x = self.drop(torch.relu(self.fc1(x)))
        x = self.drop(torch.relu(self.fc2(x)))
        return self.fc3(x)


class StudentNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 20)
        self.fc2 = nn.Linear(20, 10)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x.view(-1, 64))))


def loss_fn_kd(outputs, labels, teacher_outputs, params):
    alpha, T = params["alpha"], params["temperature"]
    kd = nn.KLDivLoss(reduction="batchmean")(
        torch.log_softmax(outputs / T, dim=1), torch.softmax(teacher_outputs / T, dim=1)
    )
    return kd * (alpha * T * T) + nn.functional.cross_entropy(outputs, labels) * (1.0 - alpha)


def accuracy(model, loader):
    was_training = model.training
    model.eval()
    right = n = 0
    with torch.no_grad():
        for x, y in loader:
            right += int((model(x).argmax(1) == y).sum())
            n += y.numel()
    model.train(was_training)
    return 100.0 * right / n


def make_checkpoint(loader):
    net = TeacherNet()
    opt = optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    for _ in range(20):
        for x, y in loader:
            opt.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            opt.step()
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    return buffer


def load_teacher(checkpoint):
    teacher = TeacherNet()
    teacher.load_state_dict(torch.load(checkpoint))
    # the teacher must not change any more
    for param in teacher.parameters():
        param.requires_grad = False
    teacher.eval()
    return teacher


def train_kd(student, teacher, loader, params):
    opt = optim.Adam(student.parameters(), lr=params["lr"])
    for _ in range(params["epochs"]):
        student.train()
        for x, y in loader:
            out = student(x)
            with torch.no_grad():
                out_teacher = teacher(x)
            loss = loss_fn_kd(out, y, out_teacher, params)
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    params = {"alpha": 0.9, "temperature": 3.0, "lr": 3e-3, "epochs": 25}

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16.0, dtype=torch.float), torch.tensor(y)
    shuffle = torch.randperm(len(x), generator=torch.Generator().manual_seed(21))
    x, y = x[shuffle], y[shuffle]
    train_dl = DataLoader(TensorDataset(x[:1200], y[:1200]), batch_size=40, shuffle=True)
    test_dl = DataLoader(TensorDataset(x[1200:], y[1200:]), batch_size=300)

    teacher = load_teacher(make_checkpoint(train_dl))
    print("teacher {:.2f}".format(accuracy(teacher, test_dl)))
    student = StudentNet()
    train_kd(student, teacher, train_dl, params)
    print("top1 {:.2f}".format(accuracy(student, test_dl)))


if __name__ == "__main__":
    main()
