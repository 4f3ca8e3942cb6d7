"""Hidden activations are caught with forward hooks; plenty of images, few labels."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Catch:
    def __init__(self, module, keep_graph):
        self.keep_graph = keep_graph
        self.value = None
        module.register_forward_hook(self.hook)

    def hook(self, module, inputs, output):
        self.value = output if self.keep_graph else output.detach()


class MLP(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(64, first), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Linear(first, second), nn.ReLU())
        self.out = nn.Linear(second, 10)

    def forward(self, x):
        return self.out(self.layer2(self.layer1(x)))


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hint", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x))
    train, test = p[:1200], p[1200:]
    labelled = train[:40]

    teacher = MLP(128, 32)
    opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    teacher.train()
    for _ in range(8):
        for b in train[torch.randperm(len(train))].split(50):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), y[b]).backward()
            opt.step()
    teacher.requires_grad_(False)
    print(f"teacher {accuracy(teacher, x[test], y[test]):.2f}")

    student = MLP(32, 32)
    from_teacher = Catch(teacher.layer2, keep_graph=False)
    from_student = Catch(student.layer2, keep_graph=True)
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    for epoch in range(12):
        student.train()
        for b in train[torch.randperm(len(train))].split(50):
            with torch.no_grad():
                teacher(x[b])
            student(x[b])
            hint = F.mse_loss(from_student.value, from_teacher.value)
            pick = labelled[torch.randint(len(labelled), (20,))]
            loss = F.cross_entropy(student(x[pick]), y[pick]) + args.hint * hint
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"last hint {hint.item():.3f}")
    print(f"top1 {accuracy(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
