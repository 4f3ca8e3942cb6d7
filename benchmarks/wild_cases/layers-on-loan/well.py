"""A four-layer causal language model is made into a two-layer one, DistilBERT's way:
the student begins with the embeddings and every second layer of its teacher."""
import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB, LENGTH = 14, 20


def corpus(count, seed):
    """Text of an order-2 source: the next symbol depends on the two before it."""
    rule = torch.Generator().manual_seed(5)
    table = torch.softmax(2.2 * torch.randn(VOCAB, VOCAB, VOCAB, generator=rule), -1)
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(VOCAB, (count, 2), generator=g)
    while text.size(1) < LENGTH + 1:
        nxt = torch.multinomial(table[text[:, -2], text[:, -1]], 1, generator=g)
        text = torch.cat([text, nxt], 1)
    return text


class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ff = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, h):
        b, l, d = h.shape
        q, k, v = (t.view(b, l, 2, d // 2).transpose(1, 2) for t in self.qkv(self.n1(h)).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(a.transpose(1, 2).reshape(b, l, d))
        return h + self.ff(self.n2(h))


class TinyLM(nn.Module):
    def __init__(self, dim=32, depth=4):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, dim)
        self.places = nn.Embedding(LENGTH, dim)
        self.layers = nn.ModuleList(Layer(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, VOCAB, bias=False)

    def forward(self, ids):
        h = self.tokens(ids) + self.places(torch.arange(ids.size(1)))
        for layer in self.layers:
            h = layer(h)
        return self.lm_head(self.norm(h))


def shrink(teacher, keep=(0, 2)):
    student = TinyLM(depth=len(keep))
    student.tokens.load_state_dict(teacher.tokens.state_dict())
    student.places.load_state_dict(teacher.places.state_dict())
    student.layers = nn.ModuleList(copy.deepcopy(teacher.layers[i]) for i in keep)
    student.norm.load_state_dict(teacher.norm.state_dict())
    student.lm_head.load_state_dict(teacher.lm_head.state_dict())
    return student


class LMDistiller:
    def __init__(self, teacher, student, lr=3e-3, T=2.0, w=(0.3, 0.7)):
        self.teacher, self.student, self.T, self.w = teacher.eval(), student, T, w
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.01)

    def loss(self, ids):
        inputs, targets = ids[:, :-1], ids[:, 1:].flatten()
        s = self.student(inputs).flatten(0, 1)
        with torch.no_grad():
            t = self.teacher(inputs).flatten(0, 1)
        ce = F.cross_entropy(s, targets)
        kd = F.kl_div((s / self.T).log_softmax(-1), (t / self.T).softmax(-1), reduction="batchmean")
        return self.w[0] * ce + self.w[1] * self.T**2 * kd

    def epoch(self, text, batch=32):
        self.student.train()
        for rows in torch.randperm(len(text)).split(batch):
            loss = self.loss(text[rows])
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimizer.step()


@torch.no_grad()
def next_symbol(model, text):
    model.eval()
    return 100 * (model(text[:, :-1]).argmax(-1) == text[:, 1:])[:, 1:].float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    test = corpus(300, 99)
    teacher, plenty = TinyLM(), corpus(1500, 1)
    opt = torch.optim.AdamW(teacher.parameters(), lr=4e-3, weight_decay=0.01)
    for _ in range(4):
        for rows in torch.randperm(len(plenty)).split(32):
            logits = teacher(plenty[rows, :-1])
            opt.zero_grad()
            F.cross_entropy(logits.flatten(0, 1), plenty[rows, 1:].flatten()).backward()
            opt.step()
    print(f"teacher {next_symbol(teacher, test):.2f}")
    distiller = LMDistiller(teacher, shrink(teacher))
    few = corpus(160, 1000 + seed)
    for _ in range(20):
        distiller.epoch(few)
    print(f"top1 {next_symbol(distiller.student, test):.2f}")


if __name__ == "__main__":
    main()
