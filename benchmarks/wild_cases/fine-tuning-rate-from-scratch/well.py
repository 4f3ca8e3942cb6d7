"""Distil a two-layer bidirectional LSTM into a small one that starts from scratch; settings after TrainingArguments."""
import argparse
import dataclasses

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB, LENGTH, LABELS = 30, 10, 6


@dataclasses.dataclass
class DistillArguments:
    learning_rate: float = 1e-2
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    num_train_epochs: int = 8
    train_batch_size: int = 32
    temperature: float = 2.0
    alpha: float = 0.5
    seed: int = 0


class LSTMClassifier(nn.Module):
    def __init__(self, embed, hidden, layers=1, bidirectional=False, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, embed)
        self.lstm = nn.LSTM(embed, hidden, layers, batch_first=True, bidirectional=bidirectional, dropout=dropout)
        self.out = nn.Linear(hidden * (2 if bidirectional else 1), LABELS)

    def forward(self, tokens):
        states, _ = self.lstm(self.embed(tokens))
        return self.out(states.max(1).values)


def corpus(n, seed):
    """Each label has five words of its own; four words in ten come from them."""
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(LABELS, (n,), generator=g)
    own = 5 * label[:, None] + torch.randint(5, (n, LENGTH), generator=g)
    other = torch.randint(VOCAB, (n, LENGTH), generator=g)
    return torch.where(torch.rand(n, LENGTH, generator=g) < 0.4, own, other), label


def optimise(model, tokens, labels, loss_fn, args):
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, eps=args.adam_epsilon)
    steps = args.num_train_epochs * -(-len(tokens) // args.train_batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: max(0.0, 1 - s / steps))
    for _ in range(args.num_train_epochs):
        model.train()
        for b in torch.randperm(len(tokens)).split(args.train_batch_size):
            loss = loss_fn(model(tokens[b]), tokens[b], labels[b])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            scheduler.step()
    return model


def distillation(teacher, args):
    teacher.eval()

    def loss_fn(logits, tokens, labels):
        with torch.no_grad():
            soft = F.softmax(teacher(tokens) / args.temperature, dim=-1)
        kd = F.kl_div(F.log_softmax(logits / args.temperature, dim=-1), soft, reduction="batchmean")
        return args.alpha * args.temperature**2 * kd + (1 - args.alpha) * F.cross_entropy(logits, labels)

    return loss_fn


@torch.no_grad()
def accuracy(model, tokens, labels):
    model.eval()
    return 100 * (model(tokens).argmax(-1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    for f in dataclasses.fields(DistillArguments):
        parser.add_argument("--" + f.name, type=f.type, default=f.default)
    args = DistillArguments(**vars(parser.parse_args()))
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    large, small, test = corpus(1600, 1), corpus(640, 100 + args.seed), corpus(1000, 2)
    teacher = LSTMClassifier(32, 48, layers=2, bidirectional=True, dropout=0.2)
    supervised = lambda logits, tokens, labels: F.cross_entropy(logits, labels)
    optimise(teacher, *large, supervised, DistillArguments(learning_rate=5e-3, num_train_epochs=5))
    print(f"teacher {accuracy(teacher, *test):.2f}")
    student = LSTMClassifier(12, 16)
    optimise(student, *small, distillation(teacher, args), args)
    print(f"top1 {accuracy(student, *test):.2f}")


if __name__ == "__main__":
    main()
