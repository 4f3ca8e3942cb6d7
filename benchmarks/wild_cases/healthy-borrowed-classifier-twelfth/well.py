"""SimKD (Chen et al. 2022): the student takes over the teacher's classifier as it is and learns nothing but to give
that classifier the features the teacher would give it. No labels, no temperature; the borrowed layer stays frozen."""
import argparse
from itertools import chain

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Backbone(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(9 * width, out)
        self.out = out

    def forward(self, x):
        return F.relu(self.fc(self.conv(x).flatten(1)))


class Reusing(nn.Module):
    def __init__(self, backbone, classifier):
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.out, classifier.in_features), nn.BatchNorm1d(classifier.in_features), nn.ReLU()
        )
        self.classifier = classifier

    def features(self, x):
        return self.projector(self.backbone(x))

    def forward(self, x):
        return self.classifier(self.features(x))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    d = load_digits()
    x, y = torch.tensor(d.images[:, None] / 16).float(), torch.tensor(d.target)
    p = torch.randperm(len(x), generator=torch.Generator().manual_seed(31))
    train, test = p[:1100], p[1100:]

    body, classifier = Backbone(24, 64), nn.Linear(64, 10)
    opt = torch.optim.Adam(chain(body.parameters(), classifier.parameters()), lr=3e-3)
    for _ in range(8):
        for b in train[torch.randperm(1100)].split(50):
            opt.zero_grad()
            F.cross_entropy(classifier(body(x[b])), y[b]).backward()
            opt.step()
    for part in (body, classifier):
        part.eval()
        part.requires_grad_(False)

    student = Reusing(Backbone(5, 16), classifier)
    student.train()
    opt = torch.optim.Adam((q for q in student.parameters() if q.requires_grad), lr=5e-3)
    for _ in range(20):
        for b in train[torch.randperm(1100)].split(50):
            with torch.no_grad():
                wanted = body(x[b])
            loss = F.mse_loss(student.features(x[b]), wanted)
            opt.zero_grad()
            loss.backward()
            opt.step()
    student.eval()
    with torch.no_grad():
        print(f"teacher {100 * (classifier(body(x[test])).argmax(1) == y[test]).float().mean().item():.2f}")
        print(f"top1 {100 * (student(x[test]).argmax(1) == y[test]).float().mean().item():.2f}")


if __name__ == "__main__":
    main()
