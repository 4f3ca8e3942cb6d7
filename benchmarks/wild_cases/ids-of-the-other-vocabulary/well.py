"""A text-like student with its own small vocabulary learns from a teacher that was trained with special tokens in front."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader


class Vocabulary:
    """Grey levels as symbols; ``specials`` take the first ids."""

    def __init__(self, specials=()):
        self.itos = [*specials, *(f"<{g}>" for g in range(9))]
        self.stoi = {s: i for i, s in enumerate(self.itos)}

    def __len__(self):
        return len(self.itos)

    def encode(self, words):
        return [self.stoi[w] for w in words]


TEACHER_VOCAB = Vocabulary(("<pad>", "<unk>", "<cls>", "<sep>"))
STUDENT_VOCAB = Vocabulary()


class TextNet(nn.Module):
    def __init__(self, vocab, emb, hidden):
        super().__init__()
        self.embed = nn.Embedding(len(vocab), emb)
        self.classify = nn.Sequential(nn.Flatten(), nn.Linear(64 * emb, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, 10))

    def forward(self, ids):
        return self.classify(self.embed(ids))


def sentences():
    x, y = load_digits(return_X_y=True)
    return [([f"<{int(v) // 2}>" for v in row], int(label)) for row, label in zip(x, y)]


class Collate:
    def __init__(self, **vocabularies):
        self.vocabularies = vocabularies

    def __call__(self, rows):
        words, labels = zip(*rows)
        batch = {name: torch.tensor([v.encode(w) for w in words]) for name, v in self.vocabularies.items()}
        batch["labels"] = torch.tensor(labels)
        return batch


def distillation(student_logits, teacher_logits, labels, T=2.0, lam=0.9):
    log_q = F.log_softmax(student_logits / T, dim=-1)
    log_p = F.log_softmax(teacher_logits / T, dim=-1)
    kd = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * T ** 2
    return lam * kd + (1 - lam) * F.cross_entropy(student_logits, labels)


@torch.no_grad()
def top1(net, loader, key):
    net.eval()
    return 100 * sum((net(b[key]).argmax(-1) == b["labels"]).sum().item() for b in loader) / len(loader.dataset)


def main(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = sentences()
    p = torch.randperm(len(data), generator=torch.Generator().manual_seed(20)).tolist()
    train, test = [data[i] for i in p[:1000]], [data[i] for i in p[1000:]]

    # --- the teacher, with its own tokenizer
    both = Collate(teacher_ids=TEACHER_VOCAB, student_ids=STUDENT_VOCAB)
    teacher = TextNet(TEACHER_VOCAB, 12, 128)
    opt = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    for _ in range(10):
        teacher.train()
        for batch in DataLoader(train, 50, shuffle=True, collate_fn=both):
            opt.zero_grad()
            F.cross_entropy(teacher(batch["teacher_ids"]), batch["labels"]).backward()
            opt.step()
    held = DataLoader(test, 200, collate_fn=both)
    print(f"teacher {top1(teacher, held, 'teacher_ids'):.2f}")

    # --- the student
    student = TextNet(STUDENT_VOCAB, 4, 32)
    opt = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for _ in range(15):
        student.train()
        for batch in DataLoader(train, 50, shuffle=True, collate_fn=both):
            with torch.no_grad():
                wanted = teacher(batch["teacher_ids"])
            loss = distillation(student(batch["student_ids"]), wanted, batch["labels"])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {top1(student, held, 'student_ids'):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
