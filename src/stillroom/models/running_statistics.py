"""Running means and variances of batch norms: what a short run leaves of their starting values, and computing them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillroom.models.modes import eval_mode


def running_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """A model's batch norms that have running statistics, by name.

    >>> net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    >>> list(running_norms(net))
    ['0']
    """
    modules = model.named_modules()
    return {name: each for name, each in modules if isinstance(each, _BatchNorm) and each.running_mean is not None}


def moving_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Those that update them in the mode in which the model is, by name.

    >>> list(moving_norms(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval())))
    ['0']
    """
    return {name: norm for name, norm in running_norms(model).items() if norm.training}


def is_unused(norm: _BatchNorm) -> bool:
    """Whether no batch has changed the running statistics: all means 0, all variances 1.

    >>> is_unused(nn.BatchNorm1d(2))
    True
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return bool((norm.running_mean == 0).all()) and bool((norm.running_var == 1).all())


def fresh_momentum(model: nn.Module, frozen: Collection[nn.Module] = ()) -> float | None:
    """The smallest momentum of a model's batch norms that have seen no batch yet; None where there is none.

    A norm of momentum None averages all batches alike, so that nothing is left of its starting values.

    Args:
        frozen: modules that see none while the rest is trained.

    >>> fresh_momentum(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.01))), fresh_momentum(nn.ReLU())
    (0.01, None)
    """
    norms = [norm for norm in running_norms(model).values() if norm not in frozen and is_unused(norm)]
    return min((norm.momentum for norm in norms if norm.momentum is not None), default=None)


def starting_share(momentum: float | None, batches: int) -> float:
    """How much running statistics still are their starting values (mean 0, variance 1): (1 − momentum)^batches.

    >>> round(starting_share(0.01, 30), 2), starting_share(None, 30)
    (0.74, 0.0)
    """
    return 0.0 if momentum is None else float((1 - momentum) ** batches)


@torch.no_grad()
def recompute_statistics(model: nn.Module, names: Iterable[str], inputs: Iterable[Tensor]) -> None:
    """Replace the running statistics of some batch norms by averages over batches; everything else stays.

    Each batch counts alike. All other modules are in evaluation mode meanwhile, so that nothing is dropped out.

    Args:
        model: changed in place; its modes are not.
        names: of the batch norms.
        inputs: batches, as the model takes them.

    Paper: Wu & Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576.

    >>> net = nn.Sequential(nn.BatchNorm1d(1, momentum=0.01))
    >>> recompute_statistics(net, ["0"], [torch.tensor([[1.0], [3.0]]), torch.tensor([[3.0], [5.0]])])
    >>> net[0].running_mean.item(), net[0].running_var.item(), net[0].momentum
    (3.0, 2.0, 0.01)
    """
    norms = [model.get_submodule(name) for name in names]
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model):
        try:
            for norm in norms:
                norm.reset_running_stats()  # type: ignore[operator]
                norm.momentum = None  # type: ignore[assignment]
                norm.train()
            for batch in inputs:
                model(batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
