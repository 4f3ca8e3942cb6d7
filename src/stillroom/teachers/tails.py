"""The rest of a teacher from a tap on: frozen, differentiable, its logits in the data's class order."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stillroom.data.tokens import is_tokens
from stillroom.models.fold import fold_batchnorm
from stillroom.models.modes import device_of, freeze, to_channels_last
from stillroom.models.preprocess import Preprocess, select_classes
from stillroom.models.tail import Tail, tail_of
from stillroom.models.tracing import Untraceable, trace


class TeacherTail(nn.Module):
    """The rest of a teacher: features at a tap [B, …] → logits [B, K], in the data's class order.

    Its parameters are constants in no state dict; gradients flow through it to the features. A loss must not register
    it as a submodule: it belongs to the teacher.

    Args:
        tail: the model's.
        order: for each class of the data, a column of the model's logits; None leaves them.

    Attributes:
        tap: name of the tap.
    """

    order: Tensor | None

    def __init__(self, tail: Tail, order: Tensor | None = None) -> None:
        super().__init__()
        self.tap = tail.tap
        self._tail = tail
        self.register_buffer("order", order, persistent=False)
        self._ids: Tensor | None = None

    def of(self, ids: Tensor) -> TeacherTail:
        """The same tail for a batch of texts, whose ids say where each is padded; of images, this one."""
        if not self._tail.reads_ids or not is_tokens(ids):
            return self
        bound = copy.copy(self)
        bound._ids = ids
        return bound

    @property
    def head(self) -> Tensor | None:
        """The weights W [K, d], where the tail is one linear layer; else None."""
        head = self._tail.head
        if head is None or self.order is None:
            return head
        # Where columns are merged, the logits are no longer linear in the features.
        return head.index_select(0, self.order) if self.order.dim() == 1 else None

    def forward(self, features: Tensor) -> Tensor:
        """Features as the tap reads them [B, …] → logits [B, K]."""
        logits: Tensor = self._tail(features, self._ids)
        return select_classes(logits, self.order)

    def jvp(self, features: Tensor, gap: Tensor) -> Tensor:
        """Jacobian-vector product: how a small step δh in the features changes the logits, J·δh, J = ∂z/∂h.

        Args:
            features: h, [B, …]; detached.
            gap: δh, of the same shape; gradients flow to it.

        Returns:
            [B, K].

        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
        >>> tail = TeacherTail(tail_of(net, "features", torch.rand(2, 3)))
        >>> gap = torch.tensor([[1.0, 0.5]])
        >>> torch.allclose(tail.jvp(torch.zeros(1, 2), gap), tail(gap))
        True
        """
        with torch.autocast(gap.device.type, enabled=False):
            head = self.head
            if head is not None:
                return gap @ head.to(gap.dtype).T
            # Forward mode takes one pass instead of two backward passes; fused attention does not support it.
            with sdpa_kernel(SDPBackend.MATH):
                pushed: tuple[Tensor, Tensor] = torch.func.jvp(self, (features.detach(),), (gap,))
            return pushed[1]


def cut_tails(
    model: nn.Module, preprocess: Preprocess, taps: Iterable[str], *, example: Tensor, device: torch.device
) -> dict[str, TeacherTail]:
    """Cut a teacher at some taps, its batch norms folded as in the live teacher.

    Args:
        model: the teacher; copied.
        preprocess: of the teacher's input, for its order of classes.
        taps: where it is cut.
        example: a few raw images, [B, C, H, W].
        device: where the tails run.

    Raises:
        BadInput: no exact tail can be made at one of the taps.
    """
    names = sorted(set(taps))
    if not names:
        return {}
    inputs = preprocess(example).to(device_of(model))
    folded, _ = fold_batchnorm(model, inputs, keep=names)
    freeze(folded)
    to_channels_last(folded, inputs)
    try:
        traced = trace(folded, inputs)
    except Untraceable:
        traced = None
    order = preprocess.order
    return {name: TeacherTail(tail_of(folded, name, inputs, traced=traced), order).to(device) for name in names}
