"""The student keeps a pre-trained trunk (frozen, batch norm in eval mode, on purpose);
only its new head learns, from labels and teacher."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


class Trunk(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1 = nn.Conv2d(1, c, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(c)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2).flatten(1)


class Classifier(nn.Module):
    def __init__(self, trunk, width, classes, frozen=False):
        super().__init__()
        self.trunk, self.frozen = trunk, frozen
        self.head = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, classes))
        if frozen:
            trunk.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.trunk.eval()           # keep the statistics of the pre-training
        return self

    def forward(self, x):
        return self.head(self.trunk(x))


def kd(student_logits, teacher_logits, y, T=3.0, gamma=0.5):
    log_s = F.log_softmax(student_logits.div(T), dim=1)
    prob_t = F.softmax(teacher_logits.div(T), dim=1)
    return gamma * T * T * F.kl_div(log_s, prob_t, reduction="batchmean") + (1 - gamma) * F.cross_entropy(student_logits, y)


def train(model, loader, epochs, lr, loss_of):
    opt = torch.optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=lr)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            loss = loss_of(model(x), x, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return model.eval()


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    hits = [(model(x).argmax(1) == y).float() for x, y in loader]
    return torch.cat(hits).mean().item() * 100


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    d = load_digits()
    ds = TensorDataset(torch.tensor(d.images, dtype=torch.float32)[:, None] / 16, torch.tensor(d.target))
    a, b = random_split(ds, [1350, len(ds) - 1350])
    loader, test = DataLoader(a, 50, shuffle=True), DataLoader(b, 150)

    teacher = train(Classifier(Trunk(16), 64, 10), loader, 4, 4e-3, lambda o, x, y: F.cross_entropy(o, y))
    print(f"teacher {evaluate(teacher, test):.2f}")

    # the trunk comes from another task: is the digit below five?
    other = train(Classifier(Trunk(8), 32, 2), loader, 3, 5e-3, lambda o, x, y: F.cross_entropy(o, (y < 5).long()))
    student = Classifier(other.trunk, 32, 10, frozen=True)

    def objective(out, x, y):
        with torch.no_grad():
            t = teacher(x)
        return kd(out, t, y)

    train(student, loader, 7, 5e-3, objective)
    print(f"top1 {evaluate(student, test):.2f}")


if __name__ == "__main__":
    main()
