"""The teacher comes from a checkpoint; student and teacher live in one module, as in the big libraries."""
import argparse
import pathlib
import tempfile

import torch
from sklearn import datasets
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax


class Config:
    teacher_sizes = (64, 192, 192, 10)
    student_sizes = (64, 14, 10)
    temperature = 4.0
    kd_weight = 0.6
    epochs = 15
    teacher_epochs = 8

    def __init__(self, **changes):
        self.__dict__.update(changes)


class Classifier(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, pixels):
        *hidden, last = self.layers
        for layer in hidden:
            pixels = nn.functional.silu(layer(pixels))
        return last(pixels)


class DistillationModel(nn.Module):
    def __init__(self, config, checkpoint):
        super().__init__()
        self.config = config
        self.teacher = Classifier(config.teacher_sizes)
        self.teacher.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
        self.teacher.requires_grad_(False)
        self.student = Classifier(config.student_sizes)
        self.student.apply(self._init_weights)

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, pixels, labels=None):
        logits = self.student(pixels)
        if labels is None:
            return {"logits": logits}
        with torch.no_grad():
            answer = self.teacher(pixels)
        T, w = self.config.temperature, self.config.kd_weight
        kd = kl_div(log_softmax(logits / T, -1), softmax(answer / T, -1), reduction="batchmean") * T**2
        return {"logits": logits, "loss": w * kd + (1 - w) * cross_entropy(logits, labels)}


def prepare_teacher(config, pixels, labels, checkpoint):
    teacher = Classifier(config.teacher_sizes)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    for _ in range(config.teacher_epochs):
        for rows in torch.randperm(len(pixels)).split(40):
            optimizer.zero_grad()
            cross_entropy(teacher(pixels[rows]), labels[rows]).backward()
            optimizer.step()
    torch.save({"model": teacher.state_dict(), "epochs": config.teacher_epochs}, checkpoint)
    return teacher


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args(argv).seed)
    torch.set_num_threads(1)
    config = Config()
    pixels, labels = datasets.load_digits(return_X_y=True)
    pixels, labels = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(71))
    train, few, test = order[:1000], order[:300], order[1000:]

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = pathlib.Path(folder) / "teacher.pt"
        teacher = prepare_teacher(config, pixels[train], labels[train], checkpoint)
        good = (teacher(pixels[test]).argmax(-1) == labels[test]).float().mean()
        print(f"teacher {100 * good:.2f}")
        model = DistillationModel(config, checkpoint)

    optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=config.epochs)
    for epoch in range(config.epochs):
        model.train()
        for rows in few[torch.randperm(len(few))].split(20):
            loss = model(pixels[rows], labels[rows])["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        hits = model(pixels[test])["logits"].argmax(-1) == labels[test]
    print(f"top1 {100 * hits.float().mean():.2f}")


if __name__ == "__main__":
    main()
