"""The loop of plain_pytorch.py again with stillroom: same initial weights, order and loss, so the same student."""

import tempfile
from typing import Any

# %% What the plain script defines.
import torch
from plain_pytorch import BATCH, EPOCHS, TAU, few, images, labels, net, rest, test, top1, train
from torch import Tensor
from torch.utils.data import TensorDataset

import stillroom as sr
from stillroom.data.loader import epoch_order

data = {name: TensorDataset(images[part], labels[part]) for name, part in (("few", few), ("test", test))}


# %% The plain loop, in the order that stillroom draws for seed 0.
def order(size: int, epoch: int) -> Tensor:
    return torch.from_numpy(epoch_order(size, seed=0, epoch=epoch))


def plain() -> tuple[torch.nn.Module, torch.nn.Module]:
    teacher = train(net(32), images[rest], labels[rest])
    return teacher, train(net(4), images[few], labels[few], teacher, order)


# %% The same with stillroom: no loop, and a run folder with everything that went in.
def with_stillroom(teacher: torch.nn.Module, out: str) -> Any:
    return sr.distill(
        teacher,
        net(4),
        data["few"],
        data["test"],
        [sr.CrossEntropy(weight=0.1), sr.KL(weight=0.9, temperature=TAU)],
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
        training={"precision": "float32"},
        cache={"enabled": False},  # the cache holds logits in half precision, which moves the last digits
        out=out,
        progress=False,
    )


# %% Both end at the same student.
def main() -> tuple[float, float, float]:
    teacher, by_hand = plain()
    with tempfile.TemporaryDirectory() as folder:
        run = with_stillroom(teacher, f"{folder}/run")
    pairs = zip(by_hand.parameters(), run.student.parameters(), strict=True)
    gap = max((a - b).abs().max().item() for a, b in pairs)
    print(f"plain PyTorch {top1(by_hand):.2f}%, stillroom {run.summary['top1']:.2f}%")
    print("same weights to four digits:", gap < 1e-4)
    return top1(by_hand), run.summary["top1"], gap


if __name__ == "__main__":
    main()
