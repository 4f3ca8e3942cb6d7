"""Learning without forgetting: digits 0 to 4 first, then 5 to 9 with the old model as the teacher of the old outputs."""
import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim


class Net(nn.Module):
    def __init__(self, n_classes=10):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU())
        self.head = nn.Linear(48, n_classes)

    def forward(self, x):
        return self.head(self.backbone(x))


class LwF:
    def __init__(self, net, temperature=2.0, lamda=3.0):
        self.net = net
        self.old_net = None
        self.known = 0
        self.temperature = temperature
        self.lamda = lamda

    def kd_loss(self, pred, soft):
        T = self.temperature
        log_p = F.log_softmax(pred / T, dim=1)
        q = F.softmax(soft / T, dim=1)
        return T * T * F.kl_div(log_p, q, reduction="batchmean")

    def learn_task(self, x, y, total, epochs, lr):
        opt = optim.SGD(self.net.parameters(), lr=lr, momentum=0.9)
        self.net.train()
        for _ in range(epochs):
            for idx in torch.randperm(len(x)).split(32):
                logits = self.net(x[idx])
                # the hard loss sees the outputs of this task's classes
                loss = F.cross_entropy(logits[:, self.known:total], y[idx] - self.known)
                if self.old_net is not None:
                    with torch.no_grad():
                        old_logits = self.old_net(x[idx])
                    loss = loss + self.lamda * self.kd_loss(logits[:, :self.known], old_logits[:, :self.known])
                opt.zero_grad()
                loss.backward()
                opt.step()

    def after_task(self, total):
        self.known = total
        self.old_net = copy.deepcopy(self.net).eval().requires_grad_(False)


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100.0 * (net(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lamda", type=float, default=3.0)
    opts = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(opts.seed)
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32) / 16
    y = torch.tensor(y)
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(12))
    tr, te = perm[:1200], perm[1200:]

    learner = LwF(Net(), lamda=opts.lamda)
    for task, (first, total) in enumerate([(0, 5), (5, 10)]):
        rows = tr[(y[tr] >= first) & (y[tr] < total)]
        learner.learn_task(x[rows], y[rows], total, epochs=25, lr=0.02 if task == 0 else 0.01)
        learner.after_task(total)
        seen = te[y[te] < total]
        print(f"task {task}: classes below {total} {accuracy(learner.net, x[seen], y[seen]):.2f}")
    print(f"top1 {accuracy(learner.net, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
