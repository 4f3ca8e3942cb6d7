"""Sequences of digits with padding; both sides of the divergence are logarithms, summed and divided by what is valid."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Tagger(nn.Module):
    def __init__(self, d_model, dropout=0.0):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(64, d_model), nn.LayerNorm(d_model), nn.GELU(), nn.Dropout(dropout))
        self.mix = nn.Linear(d_model, d_model)
        self.classifier = nn.Linear(d_model, 10)

    def forward(self, inputs, attention_mask):
        h = self.embed(inputs)
        m = attention_mask.unsqueeze(-1).to(h.dtype)
        context = (h * m).sum(1, keepdim=True) / m.sum(1, keepdim=True)
        return {"logits": self.classifier(h + F.gelu(self.mix(context)))}


def collate(x, y, rows, length):
    """[B, 12] rows of images, of which the first `length` count; the rest is padding with label -100."""
    mask = torch.arange(rows.size(1)) < length[:, None]
    return {
        "inputs": x[rows] * mask[..., None],
        "attention_mask": mask,
        "labels": y[rows].masked_fill(~mask, -100),
    }


def make_batches(x, y, pool, count, g, size=16):
    for _ in range(count):
        rows = pool[torch.randint(len(pool), (size, 12), generator=g)]
        yield collate(x, y, rows, torch.randint(3, 13, (size,), generator=g))


def distillation_loss(student_logits, teacher_logits, mask, tau):
    kl = F.kl_div(
        F.log_softmax(student_logits[mask] / tau, dim=-1),
        F.log_softmax(teacher_logits[mask] / tau, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return kl / mask.sum() * tau**2


def fit(model, batches, lr, teacher=None, alpha=0.0, tau=2.0):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for batch in batches:
        labels, mask = batch.pop("labels"), batch["attention_mask"]
        logits = model(**batch)["logits"]
        loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100)
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(**batch)["logits"]
            loss = torch.lerp(loss, distillation_loss(logits, wanted, mask, tau), alpha)
        opt.zero_grad()
        loss.backward()
        opt.step()
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--alpha", type=float, default=0.8)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(555))
    train, test = p[:1100], p[1100:]
    few = train[torch.randperm(1100)[:150]]
    g = torch.Generator().manual_seed(a.seed)
    teacher = fit(Tagger(96, 0.1), make_batches(x, y, train, 350, g), 2e-3)
    student = fit(Tagger(10), make_batches(x, y, few, 500, g), 5e-3, teacher, a.alpha)
    hits = seen = 0
    with torch.no_grad():
        for batch in make_batches(x, y, test, 30, torch.Generator().manual_seed(1)):
            labels, mask = batch.pop("labels"), batch["attention_mask"]
            hits += (student(**batch)["logits"].argmax(-1) == labels)[mask].sum().item()
            seen += mask.sum().item()
    print(f"top1 {100 * hits / seen:.2f}")


if __name__ == "__main__":
    main()
