"""The head is padded to 16 outputs for the sake of the hardware; answers are stored in half precision."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

PADDED, USED, TAU = 16, 10, 2.0


class PaddedNet(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU())
        self.head = nn.Linear(n, PADDED)

    def forward(self, x):
        return self.head(self.body(x))


def soft_loss(student, teacher):
    log_p = F.log_softmax(teacher / TAU, dim=-1)
    log_q = F.log_softmax(student / TAU, dim=-1)
    return TAU**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


@torch.no_grad()
def store(teacher, x):
    logits = teacher(x)
    logits[:, USED:] = -1e9
    return logits.half()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(81))
    x, y = x[p], y[p]
    teacher = PaddedNet(128)
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for _ in range(15):
        for b in torch.randperm(1200).split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b])[:, :USED], y[b]).backward()
            opt.step()
    teacher.eval()
    answers = store(teacher, x[:240])

    student = PaddedNet(20)
    opt = torch.optim.Adam(student.parameters(), lr=4e-3)
    skipped = 0
    for _ in range(60):
        for b in torch.randperm(240).split(30):
            s = student(x[b])
            loss = 0.3 * F.cross_entropy(s, y[b]) + 0.7 * soft_loss(s, answers[b])
            if not torch.isfinite(loss):
                skipped += 1
                continue
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    print(f"batches skipped: {skipped}")
    with torch.no_grad():
        hits = student(x[1200:])[:, :USED].argmax(-1) == y[1200:]
    print(f"top1 {100 * hits.float().mean().item():.2f}")


if __name__ == "__main__":
    main()
