"""The student inherits the teacher's stem, which stays as it is (statistics too); the stages are
learnt with SGD and the head with AdamW, two optimizers, both warmed up from a rate of zero."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self, stem_width, width, dropout=0.0):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, stem_width, 3, 2, 1, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU())
        self.stages = nn.Sequential(nn.Conv2d(stem_width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x):
        f = self.stages(self.stem(x))
        return self.head(self.dropout(f.flatten(1))), f


class Student(Net):
    def inherit_stem(self, teacher):
        self.stem.load_state_dict(teacher.stem.state_dict())
        self.stem.requires_grad_(False)
        return self

    def train(self, mode=True):
        super().train(mode)
        self.stem.eval()  # inherited weights go with inherited statistics
        return self


def similarity(f):
    f = F.normalize(f.flatten(1))
    return f @ f.t()


class LitDistill(nn.Module):
    """Manual optimization, in the manner of a LightningModule."""

    def __init__(self, student, teacher, steps, T=2.0, alpha=0.8, sim_weight=5.0):
        super().__init__()
        self.student, self.steps = student, steps
        self.T, self.alpha, self.sim_weight = T, alpha, sim_weight
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.opts, self.scheds = self.configure_optimizers()

    def configure_optimizers(self):
        body = torch.optim.SGD(self.student.stages.parameters(), lr=0.1, momentum=0.9)
        head = torch.optim.AdamW(self.student.head.parameters(), lr=1e-2, weight_decay=1e-3)
        warm = self.steps // 10
        # step 0 has rate 0 by this formula; the optimizers take it all the same
        factor = lambda s: s / warm if s < warm else 1 - (s - warm) / (self.steps - warm)
        opts = [body, head]
        return opts, [torch.optim.lr_scheduler.LambdaLR(o, factor) for o in opts]

    def forward(self, x):
        return self.student(x)[0]

    def shared_loss(self, x, y):
        logits, f = self.student(x)
        with torch.no_grad():
            t_logits, t_f = self._teacher[0](x)
        ce = F.cross_entropy(logits, y)
        kd = F.kl_div(F.log_softmax(logits / self.T, 1), F.softmax(t_logits / self.T, 1), reduction="batchmean") * self.T**2
        sp = (similarity(f) - similarity(t_f)).pow(2).mean()
        return {"ce": (1 - self.alpha) * ce, "kd": self.alpha * kd, "sp": self.sim_weight * sp}

    def training_step(self, batch, batch_idx):
        terms = self.shared_loss(*batch)
        loss = sum(terms.values())
        for opt in self.opts:
            opt.zero_grad()
        loss.backward()
        for opt, sched in zip(self.opts, self.scheds):
            opt.step()
            sched.step()
        return loss.detach()

    @torch.no_grad()
    def validation_step(self, batch):
        x, y = batch
        return (self(x).argmax(1) == y).float().mean().item() * 100


class Trainer:
    def __init__(self, max_epochs, batch):
        self.max_epochs, self.batch = max_epochs, batch

    def fit(self, module, x, y):
        for epoch in range(self.max_epochs):
            module.train()
            for k, i in enumerate(torch.randperm(len(x)).split(self.batch)):
                loss = module.training_step((x[i], y[i]), k)
            if epoch % 10 == 9:
                print(f"epoch {epoch + 1} loss {loss:.4f}")

    def validate(self, module, x, y):
        module.eval()
        return module.validation_step((x, y))


def pretrain(x, y, epochs=10):
    net = Net(12, 48, 0.1)
    opt = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(epochs):
        net.train()
        for i in torch.randperm(len(x)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(x[i])[0], y[i]).backward()
            opt.step()
    net.eval()
    return net


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(14))
    train, few, test = order[:1000], order[:200], order[1000:]
    teacher = pretrain(x[train], y[train])
    with torch.no_grad():
        print(f"teacher {(teacher(x[test])[0].argmax(1) == y[test]).float().mean().item() * 100:.2f}")
    student = Student(12, 8).inherit_stem(teacher)
    trainer = Trainer(max_epochs=30, batch=20)
    module = LitDistill(student, teacher, steps=30 * 10)
    trainer.fit(module, x[few], y[few])
    print(f"top1 {trainer.validate(module, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
