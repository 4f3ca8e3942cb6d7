"""DistilBERT-style, in small: a GRU with wide embeddings teaches a GRU with narrow ones on short made-up posts."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

PAD, VOCAB, TOPICS = 0, 300, 6


def divergence(p_logits, q_logits):
    """KL(p || q), averaged over the batch."""
    return F.kl_div(F.log_softmax(q_logits, dim=-1), F.softmax(p_logits, dim=-1), reduction="batchmean")


def kd_loss(student_logits, teacher_logits, labels, temperature=3.0, alpha=0.8):
    # Hinton et al.: the student's distribution has to cover the teacher's, KL(teacher || student)
    soft = divergence(teacher_logits / temperature, student_logits / temperature) * temperature**2
    hard = F.cross_entropy(student_logits, labels)
    return alpha * soft + (1 - alpha) * hard


class PostClassifier(nn.Module):
    def __init__(self, emb, hidden, dropout):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, emb, padding_idx=PAD)
        self.gru = nn.GRU(emb, hidden, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, TOPICS)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.drop(self.emb(ids)), lengths, batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed)
        return self.out(self.drop(last[-1]))


def make_posts(count, seed):
    words = torch.softmax(0.8 * torch.randn(TOPICS, VOCAB - 1, generator=torch.Generator().manual_seed(77)), dim=1)
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(TOPICS, (count,), generator=g)
    lengths = torch.randint(10, 25, (count,), generator=g)
    ids = torch.multinomial(words[labels], 24, replacement=True, generator=g) + 1
    ids[torch.arange(24)[None] >= lengths[:, None]] = PAD
    return TensorDataset(ids, lengths, labels)


def fit(model, data, epochs, lr, loss_fn, teacher=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    loader = DataLoader(data, batch_size=32, shuffle=True)
    model.train()
    for _ in range(epochs):
        for ids, lengths, labels in loader:
            logits = model(ids, lengths)
            if teacher is None:
                loss = F.cross_entropy(logits, labels)
            else:
                with torch.no_grad():
                    teacher_logits = teacher(ids, lengths)
                loss = loss_fn(logits, teacher_logits, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, data):
    ids, lengths, labels = data.tensors
    return 100 * (model(ids, lengths).argmax(-1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels-alone", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    test = make_posts(1000, 5000)
    teacher = fit(PostClassifier(48, 48, 0.3), make_posts(3000, 1), 5, 3e-3, None)
    teacher.requires_grad_(False)
    print(f"teacher {accuracy(teacher, test):.2f}")
    few = make_posts(640, 100 + args.seed)
    student = fit(PostClassifier(16, 24, 0.1), few, 14, 5e-3, kd_loss, None if args.labels_alone else teacher)
    print(f"top1 {accuracy(student, test):.2f}")


if __name__ == "__main__":
    main()
