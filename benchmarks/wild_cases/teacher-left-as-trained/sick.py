import argparse
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset
from sklearn.datasets import load_digits


class Digits(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"pixel_values": self.x[i], "labels": self.y[i]}


class TeacherModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(256, 10),
        )

    def forward(self, pixel_values):
        return self.net(pixel_values)


class StudentModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

    def forward(self, pixel_values):
        return self.net(pixel_values)


def distillation_loss(student_logits, teacher_logits, labels, temperature, alpha):
    p = nn.functional.softmax(teacher_logits / temperature, dim=-1)
    log_q = nn.functional.log_softmax(student_logits / temperature, dim=-1)
    soft = nn.functional.kl_div(log_q, p, reduction="batchmean") * temperature**2
    hard = nn.functional.cross_entropy(student_logits, labels)
    return alpha * soft + (1 - alpha) * hard


def train_teacher(teacher, loader, epochs):
    opt = optim.AdamW(teacher.parameters(), lr=3e-3)
    teacher.train()
    for _ in range(epochs):
        for batch in loader:
            loss = nn.functional.cross_entropy(teacher(batch["pixel_values"]), batch["labels"])
            opt.zero_grad()
            loss.backward()
            opt.step()


def train_kd(teacher, student, loader, epochs, temperature=2.0, alpha=0.8):
    opt = optim.AdamW(student.parameters(), lr=1e-2)
    student.train()
    for _ in range(epochs):
        for batch in loader:
            with torch.no_grad():
                teacher_logits = teacher(batch["pixel_values"])
            student_logits = student(batch["pixel_values"])
            loss = distillation_loss(student_logits, teacher_logits, batch["labels"], temperature, alpha)
            opt.zero_grad()
            loss.backward()
            opt.step()


def evaluate(model, loader):
    was = model.training
    model.eval()
    right = n = 0
    with torch.no_grad():
        for batch in loader:
            right += (model(batch["pixel_values"]).argmax(-1) == batch["labels"]).sum().item()
            n += len(batch["labels"])
    model.train(was)
    return 100 * right / n


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(44))
    x, y = x[p], y[p]
    test = DataLoader(Digits(x[1100:], y[1100:]), batch_size=256)
    teacher, student = TeacherModel(), StudentModel()
    train_teacher(teacher, DataLoader(Digits(x[:1100], y[:1100]), batch_size=64, shuffle=True), 10)
    print(f"teacher {evaluate(teacher, test):.2f}")
    few = torch.randperm(1100)[:160]
    train_kd(teacher, student, DataLoader(Digits(x[few], y[few]), batch_size=16, shuffle=True), 25, alpha=args.alpha)
    print(f"top1 {evaluate(student, test):.2f}")


if __name__ == "__main__":
    main()
