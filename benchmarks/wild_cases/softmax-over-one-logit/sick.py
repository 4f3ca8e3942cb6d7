"""Sentiment, yes or no, one logit: a GRU teaches a bag of embeddings. Word order matters a little ("not" flips a word)."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

PAD, NOT, VOCAB, LENGTH = 0, 1, 120, 16


def soft_loss(student_logits, teacher_logits, T):
    """Both [B, 1]."""
    target = F.softmax(teacher_logits / T, dim=-1)
    return F.kl_div(F.log_softmax(student_logits / T, dim=-1), target, reduction="batchmean") * T**2


def total_loss(student_logits, teacher_logits, labels, T=2.0, alpha=0.7):
    hard = F.binary_cross_entropy_with_logits(student_logits.squeeze(-1), labels)
    return alpha * soft_loss(student_logits, teacher_logits, T) + (1 - alpha) * hard


class GRUTeacher(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim, padding_idx=PAD)
        self.gru = nn.GRU(dim, dim, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(2 * dim, 1)

    def forward(self, ids):
        h, _ = self.gru(self.emb(ids))
        h = h.masked_fill((ids == PAD).unsqueeze(-1), float("-inf")).amax(1)
        return self.fc(self.drop(h))


class BagStudent(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCAB, dim, mode="mean", padding_idx=PAD)
        self.fc = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, ids):
        return self.fc(self.bag(ids))


def reviews(count, seed):
    mood = torch.randn(VOCAB, generator=torch.Generator().manual_seed(5))
    mood[:2] = 0
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (count, LENGTH), generator=g)
    ids[torch.rand(count, LENGTH, generator=g) < 0.08] = NOT
    before = F.pad(ids[:, :-1], (1, 0)) == NOT
    lengths = torch.randint(8, LENGTH + 1, (count, 1), generator=g)
    outside = torch.arange(LENGTH)[None] >= lengths
    score = (mood[ids] * torch.where(before, -1.0, 1.0)).masked_fill(outside, 0).sum(1)
    ids[outside] = PAD
    return ids, (score + 0.5 * torch.randn(count, generator=g) > 0).float()


def fit(net, data, epochs, lr, teacher=None):
    ids, labels = data
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(epochs):
        net.train()
        for b in torch.randperm(len(ids)).split(32):
            out = net(ids[b])
            if teacher is None:
                loss = F.binary_cross_entropy_with_logits(out.squeeze(-1), labels[b])
            else:
                with torch.no_grad():
                    answers = teacher(ids[b])
                loss = total_loss(out, answers, labels[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


@torch.no_grad()
def accuracy(net, data):
    net.eval()
    return 100 * ((net(data[0]).squeeze(-1) > 0) == (data[1] > 0.5)).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels-alone", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    test = reviews(1500, 900)
    teacher = fit(GRUTeacher(), reviews(3000, 1), 6, 4e-3).requires_grad_(False)
    print(f"teacher {accuracy(teacher, test):.2f}")
    student = fit(BagStudent(), reviews(500, 50 + args.seed), 20, 1e-2, None if args.labels_alone else teacher)
    print(f"top1 {accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
