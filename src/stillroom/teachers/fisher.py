"""The diagonal of a teacher's Fisher matrix in its features: how much its output depends on each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.randomness import counter_uniform


@dataclass(frozen=True, order=True)
class FisherOf:
    """Which Fisher weights: of which features, at which temperature, exact or sampled.

    >>> str(FisherOf("layer2", 4.0)), str(FisherOf("layer2", 1.0, samples=2))
    ('layer2 at τ = 4, all classes', 'layer2 at τ = 1, 2 drawn classes')
    """

    tap: str  # where the teacher's features are read
    temperature: float  # τ > 0 of p = softmax(z_t/τ)
    samples: int = 0  # classes sampled from p for each image; 0 takes the expectation over all classes

    def __str__(self) -> str:
        how = {0: "all classes", 1: "1 drawn class"}.get(self.samples, f"{self.samples} drawn classes")
        return f"{self.tap} at τ = {self.temperature:g}, {how}"

    def as_dict(self) -> dict[str, Any]:
        """For the identity of a cache."""
        return {**asdict(self), "temperature": float(self.temperature)}


def head_fisher(head: Tensor, logits: Tensor, *, temperature: float) -> Tensor:
    """The Fisher diagonal in the inputs of a last linear layer z = Wh + b, in closed form.

    Formula: ``w_j = (Wᵀ F W)_jj = Var_{i∼p}(W_ij)``, F = diag(p) − p pᵀ, p = softmax(z_t/τ).

    Args:
        head: W, [K, d].
        logits: z_t, [B, K].
        temperature: τ > 0.

    Returns:
        w, [B, d], in the type of ``logits``, 0 or above.

    Paper: Hsu et al., A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> head_fisher(torch.tensor([[1.0], [-1.0]]), torch.zeros(1, 2), temperature=4.0)
    tensor([[1.]])
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    p = torch.softmax(logits.detach().to(wide) / temperature, 1)
    w = head.detach().to(wide)
    # Relative to the likeliest class: for a confident teacher E[W²] − E[W]² is a small difference of large numbers,
    # even in float64.
    top = p.argmax(1)
    others, first = p.scatter(1, top[:, None], 0.0), w[top]
    with torch.autocast(logits.device.type, enabled=False):
        share, mean = others.sum(1, keepdim=True), others @ w
        square = others @ w.square() - 2 * first * mean + share * first.square()
        return (square - (mean - share * first).square()).clamp_min(0).to(logits.dtype)


def tail_fisher(
    tail: Callable[[Tensor], Tensor],
    features: Tensor,
    *,
    temperature: float,
    draws: Tensor | None = None,
) -> Tensor:
    """The Fisher diagonal in features at any layer, by autograd through the teacher's tail.

    Formula: ``w_j = (Jᵀ F J)_jj = τ²·E_{i∼p}[g_ij²]``, g_i = ∇_h log p_i = Jᵀ(e_i − p)/τ, J = ∂z_t/∂h at h_t; a
    backward pass for each class, or for each class drawn.

    Args:
        tail: features [B, …] → logits [B, K], each image's alone.
        features: h_t, [B, …].
        temperature: τ > 0.
        draws: uniform in [0, 1), [n, B]: the expectation over classes becomes the mean over n sampled from p.

    Returns:
        w, of the shape of ``features``, 0 or above.

    Paper: Hsu et al., A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> w = torch.tensor([[1.0], [-1.0]])
    >>> tail_fisher(lambda h: h @ w.T, torch.zeros(1, 1), temperature=4.0)
    tensor([[1.]])
    """
    with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
        leaf = features.detach().float().requires_grad_() if features.dtype != torch.float64 else features.detach()
        leaf = leaf.requires_grad_()
        logits = tail(leaf)
        p = torch.softmax(logits.detach() / temperature, 1)
        classes = p.shape[1]
        if draws is None:
            rounds = [(p.new_full((len(p),), float(i)).long(), p[:, i]) for i in range(classes)]
        else:
            drawn = drawn_classes(p, draws)
            rounds = [(row, p.new_full((len(p),), 1 / len(drawn))) for row in drawn]
        weight = torch.zeros_like(leaf)
        for place, (chosen, share) in enumerate(rounds):
            more = place + 1 < len(rounds)
            (gradient,) = torch.autograd.grad(logits, leaf, _towards(p, chosen), retain_graph=more)
            weight += share.view(-1, *[1] * (leaf.dim() - 1)) * gradient.square()
    return weight.detach()


def drawn_classes(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Sample classes from p by inverting its distribution function.

    Args:
        probabilities: p, [B, K].
        draws: uniform in [0, 1), [n, B].

    Returns:
        int64 [n, B].

    >>> drawn_classes(torch.tensor([[0.25, 0.75]]), torch.tensor([[0.2], [0.3]])).tolist()
    [[0], [1]]
    """
    reached = probabilities.double().cumsum(1)
    # Rounding may leave the last cumulative probability just below 1.
    below = draws.to(reached).T.contiguous() * reached[:, -1:]
    return torch.searchsorted(reached, below, right=True).clamp_max(probabilities.shape[1] - 1).T.contiguous()


def uniform_draws(samples: int, rows: npt.NDArray[np.int64], view: int) -> Tensor:
    """Uniform numbers to sample classes with: a function of draw, view and image alone.

    They do not depend on a run's seed, so that all runs can share a cache.

    Args:
        samples: n.
        rows: the images' indices, [B].
        view: their view.

    Returns:
        float64 [n, B].

    >>> import numpy as np
    >>> one, both = uniform_draws(1, np.array([7]), 0), uniform_draws(2, np.array([3, 7]), 0)
    >>> bool(one[0, 0] == both[0, 1])
    True
    """
    return torch.from_numpy(np.stack([counter_uniform(0, view, rows, n, purpose="fisher") for n in range(samples)]))


def _towards(p: Tensor, chosen: Tensor) -> Tensor:
    """e_i − p, with 1 − p_i as the sum of the others: exact where p_i is within rounding of 1."""
    place = chosen[:, None]
    others = p.scatter(1, place, 0.0)
    return (-p).scatter(1, place, others.sum(1, keepdim=True))
