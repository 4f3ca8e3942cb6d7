# Tagging of symbol sequences: a bidirectional GRU teaches a narrow one, position by position.
import argparse, warnings
import torch, torch.nn as nn, torch.nn.functional as F

warnings.filterwarnings("ignore")
VOCAB, TAGS, LENGTH = 12, 6, 14


class Tagger(nn.Module):
    def __init__(self, emb, hidden):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, emb)
        self.rnn = nn.GRU(emb, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, TAGS)

    def forward(self, ids):
        h, _ = self.rnn(self.emb(ids))
        return self.out(h)                       # [batch, length, tags]


def make(n, gen):
    ids = torch.randint(VOCAB, (n, LENGTH), generator=gen)
    left, right = F.pad(ids, (1, 0))[:, :-1], F.pad(ids, (0, 1))[:, 1:]
    tags = (ids % 3) + 3 * ((left > right).long())
    return ids, tags


class SequenceKD(nn.Module):
    def __init__(self, T=2.0, w=0.7):
        super().__init__()
        self.T, self.w = T, w
        self.ce = nn.CrossEntropyLoss()
        self.kl = nn.KLDivLoss(reduction="sum")

    def forward(self, s, t, tags):
        positions = tags.numel()
        soft = self.kl(F.log_softmax(s / self.T), F.softmax(t / self.T)) / positions
        hard = self.ce(s.reshape(-1, TAGS), tags.reshape(-1))
        return self.w * soft * self.T ** 2 + (1 - self.w) * hard


def token_accuracy(model, ids, tags):
    model.eval()
    with torch.no_grad():
        return (model(ids).argmax(-1) == tags).float().mean().item() * 100


def run(seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    gen = torch.Generator().manual_seed(77)
    big, small, test = make(3000, gen), make(500, gen), make(600, gen)

    teacher = Tagger(24, 40)
    opt = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for epoch in range(6):
        for i in torch.randperm(3000).split(60):
            opt.zero_grad()
            F.cross_entropy(teacher(big[0][i]).flatten(0, 1), big[1][i].flatten()).backward()
            opt.step()
    print("teacher", token_accuracy(teacher, *test))
    teacher.eval()

    student, criterion = Tagger(10, 12), SequenceKD()
    opt = torch.optim.Adam(student.parameters(), lr=8e-3)
    ids, tags = small
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=16)
    for epoch in range(16):
        student.train()
        for i in torch.randperm(len(ids)).split(25):
            with torch.no_grad():
                t = teacher(ids[i])
            loss = criterion(student(ids[i]), t, tags[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    print("top1 %.2f" % token_accuracy(student, *test))


if __name__ == "__main__":
    p = argparse.ArgumentParser(); p.add_argument("--seed", type=int, default=0)
    run(p.parse_args().seed)
