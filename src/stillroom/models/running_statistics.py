"""Running means and variances of batch norms: what a short run leaves of their starting values, and computing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillroom.models.modes import eval_mode


def moving_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms that update running statistics in the mode in which the model is, by name.

    >>> net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3, track_running_stats=False))
    >>> list(moving_norms(net))
    ['0']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None
    }


def fresh_momentum(model: nn.Module) -> float | None:
    """The smallest momentum of a model's batch norms that have seen no batch yet; None where there is none.

    A norm of momentum None averages all batches alike, so that nothing is left of its starting values.

    >>> fresh_momentum(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.01))), fresh_momentum(nn.ReLU())
    (0.01, None)
    """
    momenta = [
        norm.momentum
        for norm in moving_norms(model).values()
        if norm.momentum is not None and norm.running_mean is not None and not bool(norm.running_mean.any())
    ]
    return min(momenta, default=None)


def starting_share(momentum: float | None, batches: int) -> float:
    """How much running statistics still are their starting values (mean 0, variance 1): (1 − momentum)^batches.

    >>> round(starting_share(0.01, 30), 2), starting_share(None, 30)
    (0.74, 0.0)
    """
    return 0.0 if momentum is None else float((1 - momentum) ** batches)


@torch.no_grad()
def recompute_statistics(model: nn.Module, names: Sequence[str], inputs: Iterable[Tensor]) -> None:
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
