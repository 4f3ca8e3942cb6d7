"""A Keras-like Distiller: compile(), fit(), train_step()."""
import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn, optim


class Distiller(nn.Module):
    def __init__(self, student, teacher):
        super().__init__()
        self.teacher = student
        self.student = teacher

    def compile(self, make_optimizer, student_loss_fn, distillation_loss_fn, alpha=0.3, temperature=3.0):
        self.optimizer = make_optimizer(self.student.parameters())
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha
        self.temperature = temperature

    def train_step(self, x, y):
        with torch.no_grad():
            teacher_predictions = self.teacher(x)
        student_predictions = self.student(x)
        student_loss = self.student_loss_fn(student_predictions, y)
        distillation_loss = self.distillation_loss_fn(
            torch.log_softmax(student_predictions / self.temperature, dim=1),
            torch.softmax(teacher_predictions / self.temperature, dim=1),
        ) * self.temperature**2
        loss = self.alpha * student_loss + (1 - self.alpha) * distillation_loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item(), "student_loss": student_loss.item()}

    def fit(self, x, y, epochs, batch_size=64):
        self.teacher.eval()
        self.student.train()
        logs = {}
        for epoch in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size):
                logs = self.train_step(x[rows], y[rows])
        return logs


def create_teacher():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.Flatten(), nn.LeakyReLU(0.2), nn.Linear(64 * 4, 10))


def create_student():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(6, 12, 3, stride=2, padding=1),
        nn.Flatten(), nn.LeakyReLU(0.2), nn.Linear(12 * 4, 10))


def fit_classifier(model, x, y, epochs):
    model.train()
    opt = optim.Adam(model.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            criterion(model(x[rows]), y[rows]).backward()
            opt.step()


def evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean()) * 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    x, y = load_digits(return_X_y=True)
    x = np.reshape(x.astype("float32") / 16.0, (-1, 1, 8, 8))
    shuffled = np.random.default_rng(4).permutation(len(x))
    x, y = torch.from_numpy(x[shuffled]), torch.from_numpy(y[shuffled])
    x_train, y_train, x_test, y_test = x[:1300], y[:1300], x[1300:], y[1300:]

    teacher = create_teacher()
    fit_classifier(teacher, x_train, y_train, epochs=12)
    print(f"teacher {evaluate(teacher, x_test, y_test):.2f}")

    student = create_student()
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile(
        make_optimizer=lambda params: optim.Adam(params, lr=3e-3),
        student_loss_fn=nn.CrossEntropyLoss(),
        distillation_loss_fn=nn.KLDivLoss(reduction="batchmean"),
    )
    print(distiller.fit(x_train, y_train, epochs=15))
    print(f"top1 {evaluate(student, x_test, y_test):.2f}")


if __name__ == "__main__":
    main()
