"""Tokens: 64 grey levels are 64 tokens of a vocabulary of 17. The student's encoder first learns odd from even, of
which there are many labels; then it gets a new head and is distilled on few images of ten classes."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class TokenClassifier(nn.Module):
    def __init__(self, hidden_size, num_layers, num_labels):
        super().__init__()
        self.word = nn.Embedding(17, hidden_size)
        self.position = nn.Embedding(64, hidden_size)
        self.layers = nn.ModuleList(nn.Conv1d(hidden_size, hidden_size, 3, padding=1) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(num_layers))
        self.classifier = nn.Linear(8 * hidden_size, num_labels)

    def forward(self, input_ids, labels=None):
        h = self.word(input_ids) + self.position.weight
        for layer, norm in zip(self.layers, self.norms):
            h = h + F.gelu(layer(norm(h).transpose(1, 2))).transpose(1, 2)
        pooled = h.unflatten(1, (8, 8)).mean(2).flatten(1)
        logits = self.classifier(pooled)
        out = {"logits": logits, "pooler_output": pooled}
        if labels is not None:
            out["loss"] = F.cross_entropy(logits, labels)
        return out


def make_optimizer(model, lr):
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)


def supervised(model, optimizer, ids, labels, epochs):
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(ids)).split(32):
            out = model(ids[rows], labels=labels[rows])
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()


def distil(model, teacher, optimizer, ids, labels, args, temperature=2.0):
    teacher.eval()
    model.train()
    for _ in range(args.epochs):
        for rows in torch.randperm(len(ids)).split(16):
            out = model(ids[rows], labels=labels[rows])
            with torch.no_grad():
                target = teacher(ids[rows])["logits"]
            kd = F.kl_div(
                F.log_softmax(out["logits"] / temperature, -1), F.softmax(target / temperature, -1), reduction="batchmean"
            )
            loss = (1 - args.alpha) * out["loss"] + args.alpha * temperature**2 * kd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def prepare_student(ids, labels, lr, num_labels=10):
    student = TokenClassifier(6, 1, num_labels=2)
    optimizer = make_optimizer(student, lr)
    supervised(student, optimizer, ids, labels % 2, epochs=5)
    student.classifier = nn.Linear(student.classifier.in_features, num_labels)
    optimizer = make_optimizer(student, lr)
    return student, optimizer


@torch.no_grad()
def evaluate(model, ids, labels):
    model.eval()
    return 100 * (model(ids)["logits"].argmax(-1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.8)
    parser.add_argument("--epochs", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    ids, labels = torch.tensor(digits.data).long(), torch.tensor(digits.target)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(5150))
    train, test = order[:1100], order[1100:]
    few = train[torch.randperm(1100)[:200]]

    teacher = TokenClassifier(32, 2, num_labels=10)
    supervised(teacher, make_optimizer(teacher, 3e-3), ids[train], labels[train], epochs=8)
    print(f"teacher {evaluate(teacher, ids[test], labels[test]):.2f}")
    student, optimizer = prepare_student(ids[train], labels[train], lr=5e-3)
    distil(student, teacher, optimizer, ids[few], labels[few], args)
    print(f"top1 {evaluate(student, ids[test], labels[test]):.2f}")


if __name__ == "__main__":
    main()
