"""Contrastive distillation: the student's embedding must find the teacher's of the same image among a queue of earlier ones.

The queue holds the teacher's embeddings of other images alone: every positive comes from the batch, and a queued row of the
same image is left out of the negatives by its number."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Backbone(nn.Module):
    def __init__(self, width, dim):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, dim), nn.ReLU())
        self.classifier = nn.Linear(dim, 10)

    def forward(self, x):
        f = self.features(x)
        return f, self.classifier(f)


class Contrast(nn.Module):
    def __init__(self, s_dim, t_dim, size=512, tau=0.1):
        super().__init__()
        self.embed = nn.Linear(s_dim, t_dim)
        self.tau = tau
        self.register_buffer("queue", torch.zeros(size, t_dim))
        self.register_buffer("numbers", torch.full((size,), -1))
        self.at = 0

    def forward(self, s_feat, t_feat, numbers):
        z = F.normalize(self.embed(s_feat), dim=1)
        k = F.normalize(t_feat, dim=1)
        own = (z * k).sum(1, keepdim=True)
        others = z @ self.queue.t()
        out = (self.numbers[None] == numbers[:, None]) | (self.numbers[None] < 0)
        scores = torch.cat([own, others.masked_fill(out, -1e4)], 1) / self.tau
        loss = F.cross_entropy(scores, torch.zeros(len(z), dtype=torch.long))
        self.push(k.detach(), numbers)
        return loss

    @torch.no_grad()
    def push(self, k, numbers):
        where = (self.at + torch.arange(len(k))) % len(self.queue)
        # out of place: the product above still needs the old rows
        queue, held = self.queue.clone(), self.numbers.clone()
        queue[where], held[where] = k, numbers
        self.queue, self.numbers = queue, held
        self.at = int(where[-1] + 1) % len(self.queue)


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x)[1].argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(23))
    tr, te = p[:1200], p[1200:]
    teacher = Backbone(200, 48)
    opt = torch.optim.Adam(teacher.parameters(), 1e-3)
    for _ in range(20):
        teacher.train()
        for b in tr[torch.randperm(len(tr))].split(40):
            loss = F.cross_entropy(teacher(x[b])[1], y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {accuracy(teacher, x[te], y[te]):.2f}")
    teacher.eval().requires_grad_(False)

    student, contrast = Backbone(40, 24), Contrast(24, 48)
    opt = torch.optim.Adam(list(student.parameters()) + list(contrast.parameters()), 2e-3)
    for _ in range(30):
        student.train()
        for b in tr[torch.randperm(len(tr))].split(50):
            with torch.no_grad():
                known, _ = teacher(x[b])
            felt, logits = student(x[b])
            loss = F.cross_entropy(logits, y[b]) + 0.2 * contrast(felt, known, b)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {accuracy(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
