"""Two teachers, one for the left half of the image and one for the right; the student sees it whole, without labels."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class HalfSighted(nn.Module):
    def __init__(self, columns, hidden=96):
        super().__init__()
        self.columns = columns
        self.net = nn.Sequential(nn.Linear(8 * len(columns), hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.net(x.view(-1, 8, 8)[:, :, self.columns].flatten(1))


class Ensemble(nn.Module):
    """log of the mean of the members' softened probabilities"""

    def __init__(self, members, T):
        super().__init__()
        self.members, self.T = nn.ModuleList(members), T

    @torch.no_grad()
    def forward(self, x):
        logs = torch.stack([F.log_softmax(m(x) / self.T, 1) for m in self.members])
        return logs.logsumexp(0) - torch.log(torch.tensor(float(len(self.members))))


def kd_loss(student_logits, teacher_log_probs, T=2.0):
    return T * T * F.kl_div(F.log_softmax(student_logits / T, 1), teacher_log_probs, reduction="batchmean", log_target=True)


def pretrain(net, x, y, epochs=8):
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            opt.step()
    return net


def distil(student, ensemble, x, epochs):
    opt = torch.optim.Adam(student.parameters(), lr=1e-2)
    ensemble.eval()
    student.train()
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(32):
            loss = kd_loss(student(x[i]), ensemble(x[i]))
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(83))
    x, y = x[p], y[p]
    members = [pretrain(HalfSighted(c), x[:1100], y[:1100]) for c in ([0, 1, 2, 3, 4], [3, 4, 5, 6, 7])]
    ensemble = Ensemble(members, T=2.0)
    student = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    distil(student, ensemble, x[:500], 15)
    student.eval()
    with torch.no_grad():
        print(f"ensemble {100 * (ensemble(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[1100:]).argmax(1) == y[1100:]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
