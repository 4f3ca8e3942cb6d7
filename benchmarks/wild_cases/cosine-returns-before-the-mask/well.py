"""Lines of 2 to 10 digits, padded; hidden states are matched to the teacher's beside the labels."""
import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

NO_LABEL = -100


class LineReader(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.embed = nn.Linear(64, dim)
        self.attend = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True)
        self.classify = nn.Linear(dim, 10)

    def forward(self, images, lengths):
        padding = torch.arange(images.size(1)) >= lengths.unsqueeze(1)
        hidden = self.attend(self.embed(images), src_key_padding_mask=padding)
        return {"hidden": hidden, "logits": self.classify(hidden)}


def hidden_loss(student_hidden, teacher_hidden, labels, kind="cosine"):
    mask = (labels != NO_LABEL).float()
    if kind == "cosine":
        distance = 1 - F.cosine_similarity(student_hidden, teacher_hidden, dim=-1)
    else:
        distance = (student_hidden - teacher_hidden).pow(2).mean(-1)
    return (distance * mask).sum() / mask.sum().clamp(min=1)


class LineDistiller(nn.Module):
    def __init__(self, teacher, student, weight):
        super().__init__()
        self.student, self.weight = student, weight
        self.bridge = nn.Linear(student.classify.in_features, teacher.classify.in_features)
        object.__setattr__(self, "teacher", teacher.eval())

    def forward(self, images, lengths, labels):
        out = self.student(images, lengths)
        with torch.no_grad():
            wanted = self.teacher(images, lengths)
        ce = F.cross_entropy(out["logits"].transpose(1, 2), labels, ignore_index=NO_LABEL)
        return ce + self.weight * hidden_loss(self.bridge(out["hidden"]), wanted["hidden"], labels)


def lines(x, y, count, seed):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 11, (count,), generator=g)
    pick = torch.randint(len(x), (count, 10), generator=g)
    images, labels = x[pick], y[pick]
    empty = torch.arange(10) >= lengths.unsqueeze(1)
    return images.masked_fill(empty.unsqueeze(2), 0.0), lengths, labels.masked_fill(empty, NO_LABEL)


def optimise(parameters, loss_of, data, epochs, lr):
    opt = torch.optim.Adam(parameters, lr=lr)
    for _ in range(epochs):
        for b in torch.randperm(len(data[0])).split(16):
            longest = int(data[1][b].max())
            loss = loss_of(data[0][b][:, :longest], data[1][b], data[2][b][:, :longest])
            opt.zero_grad()
            loss.backward()
            opt.step()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--weight", type=float, default=2.0)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(913))
    x, y = x[p], y[p]
    test = lines(x[1100:], y[1100:], 200, 5)

    def hits(net):
        net.eval()
        with torch.no_grad():
            guess = net(test[0], test[1])["logits"].argmax(-1)
        return 100 * (guess == test[2])[test[2] != NO_LABEL].float().mean().item()

    teacher = LineReader(48)
    plain = lambda i, n, l: F.cross_entropy(teacher(i, n)["logits"].transpose(1, 2), l, ignore_index=NO_LABEL)
    optimise(teacher.parameters(), plain, lines(x[:1100], y[:1100], 500, 100 + args.seed), 6, 2e-3)
    print(f"teacher {hits(teacher):.2f}")
    distiller = LineDistiller(teacher, LineReader(12), args.weight)
    few = torch.randperm(1100)[:150]
    optimise(distiller.parameters(), distiller, lines(x[few], y[few], 120, 200 + args.seed), 25, 4e-3)
    print(f"top1 {hits(distiller.student):.2f}")


if __name__ == "__main__":
    main()
