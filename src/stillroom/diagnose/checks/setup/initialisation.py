"""Whether a layer's weights still have the statistics of their initialisation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from stillroom.models.running_statistics import is_unused, running_norms

# Fewer weights fit several laws.
LEAST = 64
# More prove no more, and the test sorts them.
_MOST = 20_000
# Below this p a law does not fit.
_FITS = 1e-3


def initial_law(weight: Tensor) -> str | None:
    """The usual initialisation that a layer's weights still follow; None where they follow none of them.

    Uniform laws are bounded, so that any training that moves weights outwards is seen at once; both kinds by a
    Kolmogorov-Smirnov test.

    Args:
        weight: of a linear or convolutional layer, at least two axes.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> layer = nn.Linear(64, 32)
    >>> initial_law(layer.weight)
    "PyTorch's default"
    >>> initial_law(layer.weight + 0.02 * torch.randn(32, 64)) is None
    True
    """
    # Slow to import, and needed here alone.
    from scipy.stats import kstest

    values = weight.detach().double().flatten().cpu()
    if weight.dim() < 2 or len(values) < LEAST:
        return None
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    largest = float(values.abs().max())
    values = values[:: max(len(values) // _MOST, 1)]
    uniform = {
        "PyTorch's default": 1 / math.sqrt(fan_in),
        "Xavier's uniform law": math.sqrt(6 / (fan_in + fan_out)),
        "Kaiming's uniform law": math.sqrt(6 / fan_in),
    }
    for name, bound in uniform.items():
        near_bound = bound * (1 - 20 / weight.numel()) <= largest <= bound * (1 + 1e-5)
        if near_bound and kstest((values / bound).numpy(), "uniform", args=(-1, 2)).pvalue > _FITS:
            return name
    normal = {
        "Kaiming's normal law": (math.sqrt(2 / fan_out), math.sqrt(2 / fan_in)),
        "LeCun's normal law": (math.sqrt(1 / fan_in),),
        "Xavier's normal law": (math.sqrt(2 / (fan_in + fan_out)),),
        "a normal law of deviation 0.02 or 0.01": (0.02, 0.01),
    }
    for name, deviations in normal.items():
        if any(kstest((values / each).numpy(), "norm").pvalue > _FITS for each in deviations):
            return name
    return None


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that a law can be tested for: matrices and filters of at least 64 numbers, by their names."""
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and parameter.numel() >= LEAST and parameter.is_floating_point():
            yield name, parameter


def untrained_layers(model: nn.Module) -> tuple[dict[str, str], int]:
    """Which of a model's layers still follow the law of their initialisation.

    Returns:
        Names of their weights with the law, and how many layers were looked at.
    """
    layers = dict(weighted_layers(model))
    laws = {name: law for name, weight in layers.items() if (law := initial_law(weight)) is not None}
    return laws, len(layers)


def unused_norms(model: nn.Module) -> int:
    """How many batch norms have running statistics that no batch has changed.

    >>> unused_norms(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    1
    """
    return sum(map(is_unused, running_norms(model).values()))
