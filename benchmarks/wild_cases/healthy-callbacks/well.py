"""fastai-like Learner: the distillation is a callback that swaps the loss; fit_one_cycle steps OneCycleLR after each batch."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Callback:
    order = 0

    def __getattr__(self, name):
        if name.startswith("before_") or name.startswith("after_"):
            return lambda: None
        raise AttributeError(name)


class DataLoaders:
    def __init__(self, train, valid):
        self.train, self.valid = train, valid


class Learner:
    def __init__(self, dls, model, loss_func, cbs=(), wd=0.01):
        self.dls, self.model, self.loss_func, self.wd = dls, model, loss_func, wd
        self.cbs = sorted(cbs, key=lambda c: c.order)
        for cb in self.cbs:
            cb.learn = self

    def __call__(self, event):
        for cb in self.cbs:
            getattr(cb, event)()

    def one_batch(self, xb, yb):
        self.xb, self.yb = xb, yb
        self("before_batch")
        self.pred = self.model(self.xb)
        self("after_pred")
        self.loss = self.loss_func(self.pred, self.yb)
        self("after_loss")
        if self.training:
            self.loss.backward()
            self("after_backward")
            self.opt.step()
            self.sched.step()
            self.opt.zero_grad()
        self("after_batch")

    def all_batches(self, dl, training):
        self.training = training
        self.model.train(training)
        with torch.set_grad_enabled(training):
            for xb, yb in dl:
                self.one_batch(xb, yb)

    def fit_one_cycle(self, n_epoch, lr_max):
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=lr_max, weight_decay=self.wd)
        self.sched = torch.optim.lr_scheduler.OneCycleLR(self.opt, max_lr=lr_max, total_steps=n_epoch * len(self.dls.train))
        self.opt.zero_grad()
        self("before_fit")
        for self.epoch in range(n_epoch):
            self("before_epoch")
            self.all_batches(self.dls.train, True)
            self.all_batches(self.dls.valid, False)
            self("after_epoch")
        self("after_fit")


class NormalisedTeacher(nn.Module):
    """Takes what the loaders give (already in [0, 1]); the student scales by the same figures."""

    def __init__(self, net, norm):
        super().__init__()
        self.norm, self.net = norm, net

    def forward(self, x):
        return self.net(self.norm(x))


class Norm(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    def forward(self, x):
        return (x - self.mean) / self.std


class Recorder(Callback):
    order = 50

    def before_epoch(self):
        self.train_loss, self.n, self.right, self.seen = 0.0, 0, 0, 0

    def after_batch(self):
        learn = self.learn
        if learn.training:
            self.train_loss += learn.loss.item() * len(learn.yb)
            self.n += len(learn.yb)
        else:
            self.right += (learn.pred.argmax(1) == learn.yb).sum().item()
            self.seen += len(learn.yb)

    def after_epoch(self):
        self.accuracy = 100 * self.right / self.seen
        print(f"{self.learn.epoch:3d} {self.train_loss / self.n:.4f} {self.accuracy:.2f}")


class GradientClip(Callback):
    order = 5

    def __init__(self, max_norm):
        self.max_norm = max_norm

    def after_backward(self):
        nn.utils.clip_grad_norm_(self.learn.model.parameters(), self.max_norm)


def soft_loss(pred, teacher_pred, T=3.0):
    student = F.log_softmax(pred / T, dim=-1)
    teacher = F.softmax(teacher_pred / T, dim=-1)
    return nn.KLDivLoss(reduction="batchmean")(student, teacher) * (T ** 2)


class KnowledgeDistillation(Callback):
    order = 1

    def __init__(self, teacher, weight=0.6, T=3.0):
        self.teacher, self.weight, self.T = teacher, weight, T

    def before_fit(self):
        self.teacher.eval()
        self.old_loss = self.learn.loss_func
        self.learn.loss_func = self.loss

    def after_pred(self):
        if self.learn.training:
            with torch.no_grad():
                self.teacher_pred = self.teacher(self.learn.xb)

    def loss(self, pred, yb):
        hard = self.old_loss(pred, yb)
        if not self.learn.training:
            return hard
        return (1 - self.weight) * hard + self.weight * soft_loss(pred, self.teacher_pred, self.T)

    def after_fit(self):
        self.learn.loss_func = self.old_loss


def mlp(hidden, drop):
    return nn.Sequential(nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(drop),
                         nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 10))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(66))
    tr, va = p[:1300], p[1300:]
    dls = DataLoaders(DataLoader(TensorDataset(x[tr], y[tr]), batch_size=64, shuffle=True, drop_last=True),
                      DataLoader(TensorDataset(x[va], y[va]), batch_size=250))
    mean, std = x[tr].mean(), x[tr].std()

    teacher = NormalisedTeacher(mlp(160, 0.2), Norm(mean, std))
    Learner(dls, teacher, F.cross_entropy, cbs=[Recorder()]).fit_one_cycle(12, 0.01)

    student = nn.Sequential(Norm(mean, std), mlp(20, 0.0))
    recorder = Recorder()
    learn = Learner(dls, student, F.cross_entropy, cbs=[KnowledgeDistillation(teacher), GradientClip(5.0), recorder])
    learn.fit_one_cycle(22, 0.02)
    print(f"top1 {recorder.accuracy:.2f}")


if __name__ == "__main__":
    main()
