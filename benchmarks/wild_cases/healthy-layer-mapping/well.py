"""TinyBERT-like: layer l of the student learns attention scores and hidden states of layer 2l of the teacher, then the prediction."""
import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import MSELoss


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.size = heads, dim // heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dense = nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def split(self, x):
        return x.view(x.size(0), x.size(1), self.heads, self.size).transpose(1, 2)

    def forward(self, x):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.size)
        context = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = self.norm1(x + self.dense(context))
        return self.norm2(x + self.mlp(x)), scores


class TinyBert(nn.Module):
    """Eight rows of eight pixels, after a [CLS]. Every hidden state goes through fit_dense when is_student."""

    def __init__(self, layers, dim, heads=4, fit_size=None):
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.embed = nn.Linear(8, dim)
        self.position = nn.Parameter(0.02 * torch.randn(1, 9, dim))
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(layers))
        self.classifier = nn.Linear(dim, 10)
        self.fit_dense = nn.Linear(dim, fit_size) if fit_size else None

    def forward(self, rows, is_student=False):
        h = torch.cat([self.cls.expand(len(rows), -1, -1), self.embed(rows)], 1)
        h = self.norm(h + self.position)
        reps, atts = [h], []
        for layer in self.layers:
            h, att = layer(h)
            reps.append(h)
            atts.append(att)
        logits = self.classifier(h[:, 0])
        if is_student:
            reps = [self.fit_dense(r) for r in reps]
        return logits, atts, reps


def soft_cross_entropy(predicts, targets):
    student_likelihood = torch.nn.functional.log_softmax(predicts, dim=-1)
    targets_prob = torch.nn.functional.softmax(targets, dim=-1)
    return (- targets_prob * student_likelihood).sum(dim=-1).mean()


def evaluate(model, x, y):
    was = model.training
    model.eval()
    with torch.no_grad():
        result = 100 * (model(x)[0].argmax(1) == y).float().mean().item()
    model.train(was)
    return result


def finetune(model, x, y, epochs, lr=2e-3):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            logits, _, _ = model(x[rows])
            loss = nn.functional.cross_entropy(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


def distill(teacher_model, student_model, x, y, epochs, lr, pred_distill, test):
    loss_mse = MSELoss()
    optimizer = torch.optim.Adam(student_model.parameters(), lr=lr)
    teacher_model.eval()
    teacher_layer_num, student_layer_num = len(teacher_model.layers), len(student_model.layers)
    assert teacher_layer_num % student_layer_num == 0
    layers_per_block = teacher_layer_num // student_layer_num

    for epoch in range(epochs):
        student_model.train()
        tr_loss, nb_steps = 0., 0
        for rows in torch.randperm(len(x)).split(64):
            att_loss, rep_loss = 0., 0.
            student_logits, student_atts, student_reps = student_model(x[rows], is_student=True)
            with torch.no_grad():
                teacher_logits, teacher_atts, teacher_reps = teacher_model(x[rows])

            if not pred_distill:
                new_teacher_atts = [teacher_atts[i * layers_per_block + layers_per_block - 1]
                                    for i in range(student_layer_num)]
                for student_att, teacher_att in zip(student_atts, new_teacher_atts):
                    att_loss += loss_mse(student_att, teacher_att)
                new_teacher_reps = [teacher_reps[i * layers_per_block] for i in range(student_layer_num + 1)]
                for student_rep, teacher_rep in zip(student_reps, new_teacher_reps):
                    rep_loss += loss_mse(student_rep, teacher_rep)
                loss = rep_loss + att_loss
            else:
                cls_loss = soft_cross_entropy(student_logits, teacher_logits)
                hard_loss = nn.functional.cross_entropy(student_logits, y[rows])
                loss = 0.5 * cls_loss + 0.5 * hard_loss

            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tr_loss += loss.item()
            nb_steps += 1
        note = f" eval {evaluate(student_model, *test):.2f}" if pred_distill else ""
        print(f"epoch {epoch} loss {tr_loss / nb_steps:.4f}{note}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32) / 8 - 1, torch.tensor(digits.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(81))
    train, test = p[:1344], p[1344:]

    teacher = TinyBert(layers=2, dim=48)
    finetune(teacher, x[train], y[train], epochs=14)
    print(f"teacher {evaluate(teacher, x[test], y[test]):.2f}")
    student = TinyBert(layers=1, dim=24, fit_size=48)
    print("*** intermediate layers")
    distill(teacher, student, x[train], y[train], epochs=5, lr=3e-3, pred_distill=False, test=(x[test], y[test]))
    print("*** prediction")
    distill(teacher, student, x[train], y[train], epochs=12, lr=4e-3, pred_distill=True, test=(x[test], y[test]))
    print(f"top1 {evaluate(student, x[test], y[test]):.2f}")


if __name__ == "__main__":
    main()
