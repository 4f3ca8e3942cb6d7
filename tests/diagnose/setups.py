"""Recipes on digits with one fault each; nothing is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.data.augmentation import augment
from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair
from stillroom.data.sources import read_digits
from stillroom.losses.registry import build_losses
from stillroom.models.config import ModelConfig
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.models.registry import build
from stillroom.models.weights import load_weights, save_weights
from stillroom.randomness import seed_rng
from stillroom.recipe import Recipe, apply_override, parse_recipe
from stillroom.run.components import RunComponents, build_model

Change = Callable[[nn.Module], nn.Module]
WEIGHTS = Path(__file__).parent.parent / "goldens"

BASE: dict[str, Any] = {
    "data": {"source": "digits", "batch_size": 64, "augmentation": {"pad_crop": 1}},
    "teacher": {"name": "resnet8", "weights": "teacher.safetensors", "preprocess": "half"},
    "student": {"name": "resnet8", "options": {"width": 4}},
    "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4}],
    "training": {"epochs": 10, "precision": "float32", "device": "cpu"},
    "cache": {"enabled": False},
}


def digits() -> DataPair:
    return DataPair(read_digits("train"), read_digits("test"))


def _new() -> nn.Module:
    return build(ModelConfig(name="resnet8", options={"width": 8}), num_classes=10, in_channels=1, image_size=8)


def load_teacher(smoothing: float) -> nn.Module:
    """A teacher of digits with an accuracy of about 97%, trained with label smoothing 0 or 0.2.

    Its weights lie in tests/goldens: those of a teacher trained here would differ in their last bits between machines,
    and with them its predictions. ``python -m diagnose.setups`` in tests/ makes them again.
    """
    model = _new()
    load_weights(model, WEIGHTS / f"digits-teacher-{smoothing}.safetensors")
    return model.eval()


def train_teacher(smoothing: float) -> nn.Module:
    """Train such a teacher, in some seconds."""
    data = digits().train
    torch.manual_seed(0)
    model = _new()
    pipe = Preprocess(resolve_preprocess("half", channels=1, is_pixels=True))
    steps, batch, crop = 200, 64, AugmentationConfig(pad_crop=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    order = torch.cat([torch.randperm(len(data)) for _ in range(steps * batch // len(data) + 1)])
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        x = pipe(augment(data.images, rows, crop, step))
        loss = F.cross_entropy(model(x), data.labels[rows], label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@dataclass(frozen=True)
class Setup:
    """What is diagnosed: a recipe as plain objects, a teacher, data."""

    content: dict[str, Any]
    teacher: nn.Module
    data: DataPair

    def but(self, *overrides: str) -> Setup:
        """With changes to the recipe, as the command line takes them."""
        content = copy.deepcopy(self.content)
        for override in overrides:
            apply_override(content, override)
        return replace(self, content=content)

    def with_teacher(self, change: Change) -> Setup:
        """With another teacher."""
        return replace(self, teacher=change(copy.deepcopy(self.teacher)))

    def with_data(self, change: Callable[[DataPair], DataPair]) -> Setup:
        """With other data."""
        return replace(self, data=change(self.data))

    @property
    def recipe(self) -> Recipe:
        return parse_recipe(self.content)

    def components(self) -> RunComponents:
        """What the recipe names, with this teacher and these data."""
        recipe = self.recipe
        with seed_rng(recipe.seed, "student-init"):
            student = build_model(recipe.student, self.data.train, "student")
        return RunComponents(self.data, student, build_losses(recipe.losses), {"teacher": copy.deepcopy(self.teacher)})


class RotatedInput(nn.Module):
    """A teacher that was trained on images turned by a quarter."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.rot90(1, (2, 3)))
        return logits


class OneChannel(nn.Module):
    """A teacher that reads one of three colour channels."""

    def __init__(self, inner: nn.Module, channel: int) -> None:
        super().__init__()
        self.inner = inner
        self.channel = channel

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, self.channel : self.channel + 1])


class AlwaysTraining(nn.Module):
    """A teacher whose batch norms stay in training mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.train()(x)


class FourTimesLarger(nn.Module):
    """A teacher of images four times as large, which declares so as timm's models do."""

    default_cfg = {"input_size": (1, 32, 32)}

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        # The middle of each square of four by four.
        return self.inner(F.avg_pool2d(x[..., 1:-1, 1:-1], 2, stride=4))


def coloured(data: DataPair) -> DataPair:
    """Digits in red, another digit in blue, nothing in green."""

    def mixed(images: Tensor) -> Tensor:
        other = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
        return torch.cat([images, torch.zeros_like(images), other], 1)

    return DataPair(*(replace(split, images=mixed(split.images)) for split in (data.train, data.test)))


def mislabelled(data: DataPair) -> DataPair:
    """A quarter of the training images under the next class."""
    wrong = torch.arange(len(data.train)) % 4 == 0
    labels = torch.where(wrong, (data.train.labels + 1) % 10, data.train.labels)
    return replace(data, train=replace(data.train, labels=labels))


def with_classes(order: list[int]) -> Change:
    """The teacher's last layer in another order of classes; −1 is a class of no image."""

    def change(teacher: nn.Module) -> nn.Module:
        old = teacher.linear
        new = nn.Linear(old.in_features, len(order))
        with torch.no_grad():
            for row, source in enumerate(order):
                new.weight[row] = old.weight[source] if source >= 0 else 0.0
                new.bias[row] = old.bias[source] if source >= 0 else -20.0
        teacher.linear = new
        return teacher

    return change


def drifted(teacher: nn.Module) -> nn.Module:
    """Running statistics that do not fit the weights."""
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(1.5 * module.running_var.sqrt())
            module.running_var.mul_(4.0)
    return teacher


def sharpened(factor: float) -> Change:
    """The same predictions, far more confident."""

    def change(teacher: nn.Module) -> nn.Module:
        with torch.no_grad():
            teacher.linear.weight.mul_(factor)
            teacher.linear.bias.mul_(factor)
        return teacher

    return change


def untrained(teacher: nn.Module) -> nn.Module:
    """Fresh weights."""
    torch.manual_seed(1)
    return _new()


if __name__ == "__main__":
    for level in (0.0, 0.2):
        save_weights(train_teacher(level), WEIGHTS / f"digits-teacher-{level}.safetensors")
