"""Short synthetic texts on six topics; a bag-of-words teacher, a smaller bag-of-words student."""
import argparse
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

TOPICS = {
    "sport": "goal match team coach ball league score player".split(),
    "cooking": "oven salt dough butter recipe stir pan boil".split(),
    "travel": "hotel flight beach map train ticket island visa".split(),
    "music": "guitar chord song drum melody band concert tune".split(),
    "finance": "stock bank market loan profit share bond rate".split(),
    "garden": "soil seed plant rose prune lawn compost bloom".split(),
}
COMMON = "the a of and to in is it was for on with that at this from".split()
ALL_WORDS = COMMON + [w for words in TOPICS.values() for w in words]
VOCAB = {w: i for i, w in enumerate(ALL_WORDS)}


def write(rng, topic):
    others = rng.choice([t for t in TOPICS if t != topic])
    return [
        rng.choice(COMMON) if rng.random() < 0.5 else rng.choice(TOPICS[others] if rng.random() < 0.3 else TOPICS[topic])
        for _ in range(11)
    ]


def corpus(rng, n):
    names = [rng.choice(list(TOPICS)) for _ in range(n)]
    return torch.tensor([[VOCAB[w] for w in write(rng, t)] for t in names]), names


def label_ids(names):
    table = {}
    for name in names:
        table.setdefault(name, len(table))
    return table


class BagOfWords(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.words = nn.EmbeddingBag(len(VOCAB), dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, len(TOPICS)))

    def forward(self, tokens):
        return self.mlp(self.words(tokens))


def train_teacher(texts, names):
    table = {name: i for i, name in enumerate(sorted(set(names)))}
    y = torch.tensor([table[n] for n in names])
    model = BagOfWords(32, 64)
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(6):
        for b in torch.randperm(len(y)).split(40):
            opt.zero_grad()
            F.cross_entropy(model(texts[b]), y[b]).backward()
            opt.step()
    model.eval()
    with torch.no_grad():
        print(f"teacher on its own texts {100 * (model(texts).argmax(1) == y).float().mean().item():.2f}")
    return model.requires_grad_(False)


def distill(teacher, student, texts, y, T=2.0, alpha=0.75, epochs=25):
    opt = torch.optim.Adam(student.parameters(), lr=1e-2)
    student.train()
    for _ in range(epochs):
        for b in torch.randperm(len(y)).split(25):
            logits = student(texts[b])
            with torch.no_grad():
                target = F.softmax(teacher(texts[b]) / T, dim=1)
            soft = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(logits / T, dim=1), target)
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(logits, y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    teacher = train_teacher(*corpus(rng, 1500))
    texts, names = corpus(rng, 300)
    table = label_ids(names)
    student = BagOfWords(4, 8)
    distill(teacher, student, texts, torch.tensor([table[n] for n in names]))
    texts, names = corpus(rng, 800)
    y = torch.tensor([table[n] for n in names])
    with torch.no_grad():
        print(f"top1 {100 * (student(texts).argmax(1) == y).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
