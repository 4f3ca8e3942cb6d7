"""First the teacher's answers are dumped, by image id, then the student learns from the dump alone: no teacher in memory."""
import argparse
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

OPTIONS = {"temperature": 4.0, "alpha": 0.9, "epochs": 40, "lr": 5e-3, "batch": 25}


class ConvNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, c, 3, padding=1), nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.fc = nn.Linear(32 * c, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1))


class DumpedDigits(Dataset):
    """Items are dicts; the dump maps an id to the teacher's logits for that image."""

    def __init__(self, ids, images, labels, dump):
        self.ids, self.images, self.labels, self.dump = ids, images, labels, dump

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, k):
        i = self.ids[k]
        return {"id": i, "image": self.images[i], "label": self.labels[i], "teacher_logits": self.dump[i]}


class KDLoss(nn.Module):
    def __init__(self, temperature, alpha):
        super().__init__()
        self.T, self.alpha = temperature, alpha

    def forward(self, logits, teacher_logits, labels):
        targets = torch.softmax(teacher_logits / self.T, dim=-1)
        log_probs = torch.log_softmax(logits / self.T, dim=-1)
        soft = F.kl_div(log_probs, targets, reduction="batchmean") * self.T ** 2
        return self.alpha * soft + (1.0 - self.alpha) * F.cross_entropy(logits, labels)


def train_teacher(images, labels, seed):
    torch.manual_seed(seed)
    net = ConvNet(16)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(10):
        for b in torch.randperm(len(images)).split(50):
            opt.zero_grad()
            F.cross_entropy(net(images[b]), labels[b]).backward()
            opt.step()
    return net.eval()


@torch.no_grad()
def write_dump(teacher, ids, images, path):
    logits = teacher(images[ids]) / OPTIONS["temperature"]
    torch.save({i: row.clone() for i, row in zip(ids, logits)}, path)


def train_student(student, loader, options):
    criterion = KDLoss(options["temperature"], options["alpha"])
    opt = torch.optim.Adam(student.parameters(), lr=options["lr"])
    student.train()
    for epoch in range(options["epochs"]):
        total = 0.0
        for batch in loader:
            loss = criterion(student(batch["image"]), batch["teacher_logits"], batch["label"])
            opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item()
        if epoch % 10 == 0:
            print(f"epoch {epoch} {total / len(loader):.3f}")
    return student


def evaluate(net, images, labels):
    net.eval()
    with torch.no_grad():
        return (net(images).argmax(-1) == labels).float().mean().item() * 100


def data(seed):
    d = load_digits()
    images, labels = torch.tensor(d.images).float()[:, None] / 16, torch.tensor(d.target)
    p = torch.randperm(len(images), generator=torch.Generator().manual_seed(810))
    few = p[:1000][torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:150]].tolist()
    return images, labels, p[:1000], few, p[1000:]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.set_num_threads(1)
    images, labels, train, few, test = data(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answers.pt")
        teacher = train_teacher(images[train], labels[train], seed)
        print(f"teacher {evaluate(teacher, images[test], labels[test]):.2f}")
        write_dump(teacher, few, images, path)
        del teacher
        loader = DataLoader(DumpedDigits(few, images, labels, torch.load(path)), OPTIONS["batch"], shuffle=True)
    student = train_student(ConvNet(3), loader, OPTIONS)
    print(f"top1 {evaluate(student, images[test], labels[test]):.2f}")


if __name__ == "__main__":
    main()
