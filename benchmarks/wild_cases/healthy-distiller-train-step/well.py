"""A Keras-like Distiller: compile(), fit(), train_step(), test_step(). Label smoothing beside the soft targets."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn


class Mean:
    def __init__(self, name):
        self.name = name
        self.reset_state()

    def reset_state(self):
        self.total, self.count = 0.0, 0

    def update_state(self, value, n=1):
        self.total += float(value) * n
        self.count += n

    def result(self):
        return self.total / max(self.count, 1)


class KLDivergence:
    """Summed over the last axis, averaged over the batch, as in Keras."""

    def __call__(self, y_true, y_pred, eps=1e-7):
        y_true = y_true.clamp(eps, 1)
        y_pred = y_pred.clamp(eps, 1)
        return (y_true * torch.log(y_true / y_pred)).sum(dim=-1).mean()


class Distiller(nn.Module):
    def __init__(self, student, teacher):
        super().__init__()
        self.teacher = teacher
        self.student = student

    def compile(self, optimizer, student_loss_fn, distillation_loss_fn, alpha=0.1, temperature=3):
        self.optimizer = optimizer
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha
        self.temperature = temperature
        self.metrics = {k: Mean(k) for k in ("student_loss", "distillation_loss", "accuracy")}

    def compute_loss(self, y, y_pred, teacher_pred):
        student_loss = self.student_loss_fn(y_pred, y)
        distillation_loss = self.distillation_loss_fn(
            torch.softmax(teacher_pred / self.temperature, dim=1),
            torch.softmax(y_pred / self.temperature, dim=1),
        ) * self.temperature ** 2
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss, student_loss, distillation_loss

    def train_step(self, data):
        x, y = data
        with torch.no_grad():
            teacher_pred = self.teacher(x)
        y_pred = self.student(x)
        loss, student_loss, distillation_loss = self.compute_loss(y, y_pred, teacher_pred)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.metrics["student_loss"].update_state(student_loss.detach(), len(y))
        self.metrics["distillation_loss"].update_state(distillation_loss.detach(), len(y))
        self.metrics["accuracy"].update_state((y_pred.argmax(1) == y).float().mean(), len(y))
        return {k: m.result() for k, m in self.metrics.items()}

    @torch.no_grad()
    def test_step(self, data):
        x, y = data
        y_pred = self.student(x)
        self.metrics["accuracy"].update_state((y_pred.argmax(1) == y).float().mean(), len(y))
        return {"accuracy": self.metrics["accuracy"].result()}

    def _reset(self):
        for m in self.metrics.values():
            m.reset_state()

    def fit(self, x, y, epochs, batch_size):
        history = []
        for epoch in range(epochs):
            self.student.train()
            self.teacher.eval()
            self._reset()
            order = torch.randperm(len(x))
            for i in range(0, len(x), batch_size):
                rows = order[i:i + batch_size]
                logs = self.train_step((x[rows], y[rows]))
            history.append(logs)
            print("Epoch %d/%d - " % (epoch + 1, epochs) + " - ".join("%s: %.4f" % kv for kv in logs.items()))
        return history

    def evaluate(self, x, y, batch_size=256):
        self.student.eval()
        self._reset()
        for i in range(0, len(x), batch_size):
            logs = self.test_step((x[i:i + batch_size], y[i:i + batch_size]))
        return logs["accuracy"]


def create_model(filters, name):
    layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, filters[0], 3, padding=1), nn.LeakyReLU(0.2), nn.MaxPool2d(2),
              nn.Conv2d(filters[0], filters[1], 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten(),
              nn.Linear(filters[1] * 16, 10)]
    model = nn.Sequential(*layers)
    model.name = name
    return model


def fit_alone(model, x, y, epochs, batch_size, lr):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loss_fn = nn.CrossEntropyLoss()
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            loss_fn(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    x, y = x[order], y[order]
    x_train, y_train, x_test, y_test = x[:1350], y[:1350], x[1350:], y[1350:]

    teacher = create_model((24, 48), "teacher")
    fit_alone(teacher, x_train, y_train, epochs=10, batch_size=64, lr=2e-3)
    with torch.no_grad():
        print("teacher accuracy %.4f" % (teacher(x_test).argmax(1) == y_test).float().mean().item())

    student = create_model((4, 8), "student")
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile(optimizer=torch.optim.Adam(student.parameters(), lr=5e-3),
                      student_loss_fn=nn.CrossEntropyLoss(label_smoothing=0.05),
                      distillation_loss_fn=KLDivergence(), alpha=0.3, temperature=4)
    distiller.fit(x_train, y_train, epochs=20, batch_size=64)
    print("top1 %.2f" % (100 * distiller.evaluate(x_test, y_test)))


if __name__ == "__main__":
    main()
