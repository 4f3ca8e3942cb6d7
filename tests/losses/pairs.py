"""Small models of digits, and setup contexts of two of them."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillroom.losses.setup_context import ModelInfo, SetupContext
from stillroom.models.config import ModelConfig
from stillroom.models.preprocess import Preprocess
from stillroom.models.registry import build
from stillroom.teachers.tails import TeacherTail, cut_tails


def model(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(ModelConfig(name=name, options=options), num_classes=10, in_channels=1, image_size=8)


def images() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def model_info(net: nn.Module, field: Literal["teacher", "student"]) -> ModelInfo:
    return ModelInfo(net, images, field)


def setup_context(teacher: nn.Module, student: nn.Module, seed: int = 0) -> SetupContext:
    return SetupContext(model_info(student, "student"), model_info(teacher, "teacher"), num_classes=10, seed=seed)


def cnn() -> nn.Module:
    return model("resnet8", width=8)


def slim() -> nn.Module:
    return model("resnet8", width=4)


def vit() -> nn.Module:
    return model("vit_mini", dim=16, depth=2)


MODELS = {"cnn": cnn, "slim": slim, "vit": vit}


@cache
def shared_context(teacher: str, student: str) -> SetupContext:
    """A context that several tests share: tracing two models takes time, and leaves them as they were."""
    return setup_context(MODELS[teacher](), MODELS[student]())


@cache
def tails_of(teacher: str) -> dict[str, TeacherTail]:
    """The teacher of a shared context from each of its taps on."""
    model = shared_context(teacher, "slim").teacher
    names = [tap.name for tap in model.taps if tap.name != "logits"]
    return cut_tails(model.model, Preprocess(None), names, example=images(), device=torch.device("cpu"))
