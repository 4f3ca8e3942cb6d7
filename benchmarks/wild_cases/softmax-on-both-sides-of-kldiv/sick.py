# %% [markdown]
# Vanilla KD, rows of a digit read by an LSTM
# %%
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

# %%
class VanillaKD:
    def __init__(self, teacher, student, optimizer_t, optimizer_s, temp=4.0, distil_weight=0.7):
        self.teacher, self.student = teacher, student
        self.optimizer_t, self.optimizer_s = optimizer_t, optimizer_s
        self.temp, self.distil_weight = temp, distil_weight
        self.ce_fn = nn.CrossEntropyLoss()
        self.loss_fn = nn.KLDivLoss(reduction="batchmean")
        self.history = []

    def calculate_kd_loss(self, y_pred_student, y_pred_teacher, y_true):
        soft_teacher_out = F.softmax(y_pred_teacher / self.temp, dim=1)
        soft_student_out = F.softmax(y_pred_student / self.temp, dim=1)
        loss = (1 - self.distil_weight) * self.ce_fn(y_pred_student, y_true)
        loss += self.distil_weight * self.temp * self.temp * self.loss_fn(soft_student_out, soft_teacher_out)
        return loss

    def train_teacher(self, x, y, epochs):
        self.teacher.train()
        for _ in range(epochs):
            for i in torch.randperm(len(x)).split(64):
                self.optimizer_t.zero_grad()
                self.ce_fn(self.teacher(x[i]), y[i]).backward()
                self.optimizer_t.step()

    def train_student(self, x, y, epochs):
        self.teacher.eval()
        self.student.train()
        for _ in range(epochs):
            total = 0.0
            for i in torch.randperm(len(x)).split(32):
                with torch.no_grad():
                    teacher_out = self.teacher(x[i])
                loss = self.calculate_kd_loss(self.student(x[i]), teacher_out, y[i])
                self.optimizer_s.zero_grad()
                loss.backward()
                self.optimizer_s.step()
                total += loss.item() * len(i)
            self.history.append(total / len(x))

    def evaluate(self, x, y, teacher=False):
        model = (self.teacher if teacher else self.student).eval()
        with torch.no_grad():
            return 100 * (model(x).argmax(1) == y).float().mean().item()


# %%
class RowLSTM(nn.Module):
    def __init__(self, hidden, both_ways=False):
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, batch_first=True, bidirectional=both_ways)
        self.out = nn.Linear(hidden * (2 if both_ways else 1), 10)

    def forward(self, x):
        h, _ = self.lstm(x.view(-1, 8, 8))
        return self.out(h.mean(1))


# %%
def kd_loss(student_logits, teacher_logits, labels):
    return VanillaKD(None, None, None, None).calculate_kd_loss(student_logits, teacher_logits, labels)


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(17))
    x, y = x[order], y[order]
    teacher, student = RowLSTM(64, both_ways=True), RowLSTM(16)
    kd = VanillaKD(
        teacher,
        student,
        torch.optim.Adam(teacher.parameters(), 1e-2),
        torch.optim.Adam(student.parameters(), 1e-2),
    )
    kd.train_teacher(x[:1100], y[:1100], epochs=14)
    print(f"teacher {kd.evaluate(x[1100:], y[1100:], teacher=True):.2f}")
    kd.train_student(x[:240], y[:240], epochs=60)
    print("loss", " ".join(f"{v:.3f}" for v in kd.history[::12]))
    print(f"top1 {kd.evaluate(x[1100:], y[1100:]):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
