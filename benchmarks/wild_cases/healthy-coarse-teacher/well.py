"""The teacher knows three groups of digits only; the student's ten logits are gathered by log-sum-exp to be compared with it."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

GROUPS = {"round": (0, 6, 8, 9), "straight": (1, 4, 7), "bent": (2, 3, 5)}
GROUP_OF = torch.empty(10, dtype=torch.long)
for _g, _members in enumerate(GROUPS.values()):
    GROUP_OF[list(_members)] = _g


def coarse_log_probs(fine_logits):
    """log p(group) = log of the sum of its classes' probabilities."""
    lp = F.log_softmax(fine_logits, 1)
    return torch.stack([lp[:, list(m)].logsumexp(1) for m in GROUPS.values()], 1)


def hierarchical_loss(student_logits, teacher_logits, labels, weight=1.0):
    """At temperature 1: groups' probabilities add up at no other one."""
    kl = F.kl_div(coarse_log_probs(student_logits), F.log_softmax(teacher_logits, 1), reduction="batchmean", log_target=True)
    return F.cross_entropy(student_logits, labels) + weight * kl


def mlp(width, out, drop):
    return nn.Sequential(nn.Linear(64, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


@torch.no_grad()
def acc(net, x, y):
    net.eval()
    return 100.0 * (net(x).argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 8 - 1, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(31))
    tr, te = p[:1200], p[1200:]

    teacher = mlp(160, 3, 0.2)
    opt = torch.optim.AdamW(teacher.parameters(), 2e-3)
    for _ in range(25):
        teacher.train()
        for b in tr[torch.randperm(len(tr))].split(48):
            opt.zero_grad()
            F.cross_entropy(teacher(x[b]), GROUP_OF[y[b]]).backward()
            opt.step()
    print(f"teacher, of groups {acc(teacher, x[te], GROUP_OF[y[te]]):.2f}")

    few = tr[:500]
    student = mlp(28, 10, 0.0)
    opt = torch.optim.AdamW(student.parameters(), 3e-3)
    for _ in range(45):
        student.train()
        for b in few[torch.randperm(len(few))].split(25):
            with torch.no_grad():
                groups = teacher(x[b])
            opt.zero_grad()
            hierarchical_loss(student(x[b]), groups, y[b]).backward()
            opt.step()
    print(f"top1 {acc(student, x[te], y[te]):.2f}")


if __name__ == "__main__":
    main()
