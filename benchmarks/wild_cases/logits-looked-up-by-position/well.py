"""A table of the teacher's logits, a row for each image of the training set; the student sees a labelled part of it."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, Subset


class Digits(Dataset):
    def __init__(self, rows):
        x, y = load_digits(return_X_y=True)
        self.x, self.y = torch.tensor(x, dtype=torch.float32)[rows] / 16, torch.tensor(y)[rows]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {"pixels": self.x[i], "label": self.y[i]}


class WithIndex(Dataset):
    """Adds the index, by which the teacher's logits are looked up."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, i):
        return {**self.inner[i], "index": i}


@torch.no_grad()
def tabulate(teacher, dataset):
    teacher.eval()
    return torch.cat([teacher(b["pixels"]) for b in DataLoader(dataset, batch_size=128)])


def labelled_part(train, chosen):
    return Subset(WithIndex(train), chosen)


def kd_step(student, optimizer, batch, table, config):
    tau = config["tau"]
    logits = student(batch["pixels"])
    wanted = table[batch["index"]]
    ce = F.cross_entropy(logits, batch["label"])
    kd = F.kl_div(
        F.log_softmax(logits / tau, dim=-1), F.log_softmax(wanted / tau, dim=-1),
        log_target=True, reduction="batchmean",
    )
    loss = ce * (1 - config["kd"]) + kd * config["kd"] * tau * tau
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def score(model, dataset):
    model.eval()
    with torch.no_grad():
        return 100 * (model(dataset.x).argmax(-1) == dataset.y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kd", type=float, default=0.8)
    config = {"tau": 3.0, "epochs": 50, **vars(parser.parse_args())}
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(88))
    train, test = Digits(order[:1200]), Digits(order[1200:])
    chosen = torch.randperm(len(train))[:180].tolist()

    teacher = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(12):
        for batch in DataLoader(train, batch_size=40, shuffle=True):
            loss = F.cross_entropy(teacher(batch["pixels"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    table = tabulate(teacher, train)
    print(f"teacher {score(teacher, test):.2f}")

    student = nn.Sequential(nn.Linear(64, 12), nn.GELU(), nn.Linear(12, 10))
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    loader = DataLoader(labelled_part(train, chosen), batch_size=30, shuffle=True)
    for _ in range(config["epochs"]):
        for batch in loader:
            kd_step(student, optimizer, batch, table, config)
    print(f"top1 {score(student, test):.2f}")


if __name__ == "__main__":
    main()
