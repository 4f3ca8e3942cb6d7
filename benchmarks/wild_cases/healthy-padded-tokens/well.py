"""Tagging of sequences: labels -100 at the padding and at unlabelled tokens, KD on every real token by the attention mask."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB, TAGS, LONGEST, IGNORE = 40, 6, 12, -100


def corpus(n, seed):
    """A token's tag hangs on its own class and on the class of the token before it."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCAB, (n, LONGEST), generator=g)
    kind = tokens % 4
    before = torch.cat([torch.zeros(n, 1, dtype=torch.long), kind[:, :-1]], 1)
    tags = (kind * 2 + before) % TAGS
    lengths = torch.randint(4, LONGEST + 1, (n,), generator=g)
    mask = torch.arange(LONGEST)[None] < lengths[:, None]
    return tokens.masked_fill(~mask, 0), mask, tags.masked_fill(~mask, IGNORE)


class Tagger(nn.Module):
    def __init__(self, dim, drop=0.1):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim, padding_idx=0)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.drop = nn.Dropout(drop)
        self.out = nn.Linear(dim, TAGS)

    def forward(self, tokens):
        return self.out(self.drop(self.rnn(self.emb(tokens))[0]))


def token_loss(student_logits, teacher_logits, labels, attention_mask, T=2.0, alpha=0.5):
    # CE: only where somebody has labelled; KD: wherever there is a token
    ce = F.cross_entropy(student_logits.reshape(-1, TAGS), labels.reshape(-1), ignore_index=IGNORE)
    s, t = student_logits[attention_mask], teacher_logits[attention_mask]
    kd = F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="sum") / attention_mask.sum() * T ** 2
    return alpha * ce + (1 - alpha) * kd


def right(model, tokens, mask, labels):
    model.eval()
    with torch.no_grad():
        return 100 * (model(tokens).argmax(-1)[mask] == labels[mask]).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokens, mask, labels = corpus(1500, 100)
    ttok, tmask, tlab = corpus(500, 101)
    few = labels.clone()
    few[torch.rand(labels.shape) < 0.7] = IGNORE  # the student's data: 30 % of the tokens have a tag

    teacher = Tagger(48)
    opt = torch.optim.Adam(teacher.parameters(), 5e-3)
    for _ in range(12):
        teacher.train()
        for b in torch.randperm(len(tokens)).split(50):
            loss = F.cross_entropy(teacher(tokens[b]).flatten(0, 1), labels[b].flatten(), ignore_index=IGNORE)
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"teacher {right(teacher, ttok, tmask, tlab):.2f}")
    teacher.eval()

    student = Tagger(20, 0.05)
    opt = torch.optim.Adam(student.parameters(), 8e-3)
    for _ in range(14):
        student.train()
        for b in torch.randperm(len(tokens)).split(50):
            with torch.no_grad():
                answers = teacher(tokens[b])
            loss = token_loss(student(tokens[b]), answers, few[b], mask[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print(f"top1 {right(student, ttok, tmask, tlab):.2f}")


if __name__ == "__main__":
    main()
