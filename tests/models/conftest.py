"""Where the real weights are, and small models to try things on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from stillroom.models.config import ModelConfig
from stillroom.models.registry import build


@pytest.fixture
def weights_folder() -> Path:
    root = os.environ.get("STILLROOM_DATA")
    if not root:
        pytest.skip("STILLROOM_DATA is not set: no real weights")
    return Path(root) / "weights"


@pytest.fixture
def make() -> Callable[..., nn.Module]:
    """Build a model of the zoo for 32×32 RGB and 10 classes, with weights that depend on the name alone."""

    def build_it(
        name: str, *, classes: int = 10, channels: int = 3, size: int | None = 32, **options: object
    ) -> nn.Module:
        torch.manual_seed(0)
        config = ModelConfig(name=name, options=options)
        return build(config, num_classes=classes, in_channels=channels, image_size=size)

    return build_it


@pytest.fixture
def settle() -> Callable[[nn.Module], nn.Module]:
    """Give every batch norm statistics and factors that are not the ones it starts with, and evaluate."""

    def settle_it(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor, low, high in (
                    (module.running_mean, -1.0, 1.0),
                    (module.running_var, 0.5, 2.0),
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                ):
                    if tensor is not None:
                        tensor.data.uniform_(low, high, generator=generator)
        return model.eval()

    return settle_it


@pytest.fixture
def log_records() -> Iterator[list[logging.LogRecord]]:
    """What is logged while a test runs, by the loggers that hand on to no other, too.

    pytest's own plugin for this is off: it visits each of torch's loggers six times a test.
    """
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = records.append  # type: ignore[method-assign]
    every = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    ends = [logger for logger in every if logger is logging.root or not logger.propagate]
    level = logging.root.level
    for logger in ends:
        logger.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    yield records
    logging.root.setLevel(level)
    for logger in ends:
        logger.removeHandler(handler)
