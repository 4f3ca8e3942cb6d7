"""Distils with a trainer that sums the gradient over several small batches, for machines with little memory."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return {"pixel_values": self.images[i], "labels": self.targets[i]}


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.classifier = nn.Linear(width, 10)

    def forward(self, pixel_values):
        return {"logits": self.classifier(self.body(pixel_values))}


class DistillTrainer:
    def __init__(self, student, teacher, loader, accumulate=4, temperature=3.0, alpha=0.6, lr=0.05):
        self.student, self.teacher, self.loader = student, teacher, loader
        self.accumulate, self.temperature, self.alpha = accumulate, temperature, alpha
        self.optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)

    def compute_loss(self, batch):
        out = self.student(batch["pixel_values"])["logits"]
        with torch.no_grad():
            ref = self.teacher(batch["pixel_values"])["logits"]
        t = self.temperature
        soft = F.kl_div(F.log_softmax(out / t, dim=-1), F.softmax(ref / t, dim=-1), reduction="batchmean") * t ** 2
        return self.alpha * soft + (1 - self.alpha) * F.cross_entropy(out, batch["labels"])

    def train_epoch(self):
        self.student.train()
        running = 0.0
        for step, batch in enumerate(self.loader, start=1):
            self.optimizer.zero_grad()
            loss = self.compute_loss(batch)
            (loss / self.accumulate).backward()
            running += loss.item()
            if step % self.accumulate == 0:
                self.optimizer.step()
        return running / len(self.loader)


def make_teacher(images, targets, seed):
    torch.manual_seed(seed)
    net = Net(128)
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(20):
        for b in torch.randperm(len(images)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(images[b])["logits"], targets[b]).backward()
            opt.step()
    return net.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(net, images, targets):
    net.eval()
    return 100 * (net(images)["logits"].argmax(-1) == targets).float().mean().item()


def split(seed):
    images, targets = load_digits(return_X_y=True)
    images, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(targets)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(801))
    few = order[:1000][torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:192]]
    return (images[order[:1000]], targets[order[:1000]]), (images[few], targets[few]), \
        (images[order[1000:]], targets[order[1000:]])


def make_trainer(seed, train, few):
    teacher = make_teacher(*train, seed)
    torch.manual_seed(seed + 1)
    loader = DataLoader(Digits(*few), batch_size=8, shuffle=True, drop_last=True)
    return DistillTrainer(Net(24), teacher, loader)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, few, test = split(args.seed)
    trainer = make_trainer(args.seed, train, few)
    print(f"teacher {accuracy(trainer.teacher, *test):.2f}")
    for epoch in range(40):
        loss = trainer.train_epoch()
        if epoch % 10 == 0:
            print(f"epoch {epoch} loss {loss:.3f}")
    print(f"top1 {accuracy(trainer.student, *test):.2f}")


if __name__ == "__main__":
    main()
