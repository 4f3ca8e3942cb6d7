"""The plain script of ``wall.py``: distillation as one would write it in PyTorch, and nothing else.

``python benchmarks/wall_plain.py FOLDER IMAGES EPOCHS SEED [TEST_IMAGES]``: CIFAR-10 as parquet and a ResNet-56 in
FOLDER; a DataLoader with crops and flips, the teacher under no_grad in every step, one evaluation at the end. It prints
one JSON object. The networks' definitions and the rows of the subset are the package's, so that both learn the same.
"""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stillroom.data.images import balanced_rows
from stillroom.models.zoo import ResNet

BEGAN = time.perf_counter()
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
TAU, ALPHA, BATCH = 4.0, 0.9, 64


class Cifar(Dataset[tuple[Tensor, int]]):
    """Images of a parquet file, normalised; cropped and mirrored at random where they are learned from."""

    def __init__(self, path: Path, limit: int | None, augment: bool) -> None:
        table = pq.read_table(path)
        picture, label = (next(name for name in table.column_names if kind in name) for kind in ("im", "label"))
        labels = table[label].to_numpy()
        rows = balanced_rows(labels, limit)
        cells = table[picture].take(rows).to_pylist()
        self.images = [np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in cells]
        self.labels = labels[rows].tolist()
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        x = torch.from_numpy(self.images[row].copy()).permute(2, 0, 1).float().div(255)
        if self.augment:
            # Before the normalisation, as torchvision's RandomCrop in front of Normalize: the padding is black.
            top, left = torch.randint(0, 9, (2,)).tolist()
            x = F.pad(x, (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
            if torch.rand(()) < 0.5:
                x = x.flip(2)
        return (x - MEAN) / STD, self.labels[row]


def main(folder: str, images: int, epochs: int, seed: int, test_images: int | None = None) -> dict[str, Any]:
    """Train and evaluate; the seconds by phase, and the accuracy in per cent."""
    torch.manual_seed(seed)
    seconds = {"start": time.perf_counter() - BEGAN}
    mark = time.perf_counter()
    train = Cifar(Path(folder) / "cifar10" / "train.parquet", images, augment=True)
    test = Cifar(Path(folder) / "cifar10" / "test.parquet", test_images, augment=False)
    loader = DataLoader(train, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=2)
    seconds["data"] = time.perf_counter() - mark
    teacher, student = ResNet(56), ResNet(8)
    weights = torch.load(Path(folder) / "weights" / "resnet56-cifar10.th", map_location="cpu", weights_only=True)
    values = [value for name, value in weights["state_dict"].items() if not name.endswith("num_batches_tracked")]
    names = [name for name in teacher.state_dict() if not name.endswith("num_batches_tracked")]
    teacher.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * len(loader))
    mark, asking = time.perf_counter(), 0.0
    for _ in range(epochs):
        student.train()
        for x, y in loader:
            before = time.perf_counter()
            with torch.no_grad():
                answer = teacher(x)
            asking += time.perf_counter() - before
            logits = student(x)
            soft = F.kl_div(
                F.log_softmax(logits / TAU, 1), F.log_softmax(answer / TAU, 1), reduction="batchmean", log_target=True
            )
            loss = (1 - ALPHA) * F.cross_entropy(logits, y) + ALPHA * TAU**2 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    seconds |= {"teacher": asking, "training": time.perf_counter() - mark - asking}
    mark = time.perf_counter()
    accuracy = evaluate(student, test)
    return {"top1": accuracy, "phases": seconds | {"evaluation": time.perf_counter() - mark}}


@torch.no_grad()
def evaluate(model: nn.Module, data: Cifar) -> float:
    """Per cent right."""
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in DataLoader(data, batch_size=500, num_workers=2))
    return 100 * right / len(data)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:]))))
