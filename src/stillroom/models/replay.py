"""The rest of a model that cannot be traced: the whole model run again, with what a tap would have read put in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stillroom.models.cost import device_of, evaluating
from stillroom.models.taps import Taps, place_of


class Replay(nn.Module):
    """Runs a whole model on an image of noise and puts features in at a tap: the logits are those of the features.

    It costs a whole pass, with gradients from the tap on alone. It is exact where the tap cuts the model, which
    :func:`replays` tries out. The model is held by reference, its tensors are shared, and none is in a state dict.

    Args:
        model: the whole model.
        tap: its name.
        example: an input [B, …] as the model gets it.
    """

    def __init__(self, model: nn.Module, tap: str, example: Tensor) -> None:
        super().__init__()
        # In a list, so that it is no part of this module.
        self._model = [model]
        modules, self._side = place_of(model, tap)
        self._modules_at = list(modules)
        self._calls = 0
        noise = torch.rand(example[:1].shape, generator=torch.Generator().manual_seed(0))
        self._names: list[str] = []
        self.register_buffer("noise", noise.to(example), persistent=False)
        for place, (name, tensor) in enumerate([*model.named_parameters(), *model.named_buffers()]):
            self._names.append(name)
            self.register_buffer(f"tensor_{place}", tensor.detach(), persistent=False)
        self._calls = self._run(None, self.noise)[1]

    noise: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, …] → logits [B, K]."""
        logits, _ = self._run(features, self.noise.expand(len(features), *self.noise.shape[1:]))
        return logits

    def _run(self, features: Tensor | None, images: Tensor) -> tuple[Tensor, int]:
        calls = 0

        def put(module: nn.Module, *given: Any) -> Any:
            nonlocal calls
            calls += 1
            if features is None or calls != self._calls:
                return None
            # A copy: a model that works in place must not change what it was given.
            return features.clone() if self._side == "output" else (features.clone(), *given[0][1:])

        model = self._model[0]
        output = self._side == "output"
        handles = [
            module.register_forward_hook(put) if output else module.register_forward_pre_hook(put)
            for module in self._modules_at
        ]
        tensors = {name: self.get_buffer(f"tensor_{place}") for place, name in enumerate(self._names)}
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with evaluating(model):
                logits = functional_call(model, tensors, (images,))
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for handle in handles:
                handle.remove()
        return logits, calls


def replays(model: nn.Module, tap: str, example: Tensor) -> bool:
    """Whether what a tap reads decides the logits: put into a pass over other images, it gives the same ones.

    False also where that cannot be told, as the model says the same of both images.

    Args:
        model: the model, which is left as it was.
        tap: its name.
        example: an input [B, …] as the model gets it.

    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    >>> replays(net, "1", torch.ones(1, 2))
    True
    """
    taps = Taps(model, [tap])
    images = example.to(device_of(model))
    try:
        with evaluating(model), torch.no_grad():
            with taps:
                wanted = model(images)
            again = Replay(model, tap, images)
            features = taps.take()[tap]
            said = again(features)
            other = again._run(None, again.noise.expand(images.shape))[0]
    except Exception:  # a model's own code can fail in any way where something else is put in
        return False
    if not isinstance(wanted, Tensor) or said.shape != wanted.shape or torch.equal(other, wanted):
        return False
    return agree(said, wanted)


def agree(said: Tensor, wanted: Tensor) -> bool:
    """Whether two batches of logits are the same but for rounding.

    >>> agree(torch.tensor([1.0]), torch.tensor([1.00001])), agree(torch.tensor([1.0]), torch.tensor([1.1]))
    (True, False)
    """
    # Wide enough for the shortened float32 of GPUs; what a wrong cut gives is of another size.
    tolerance = 1e-3 if said.dtype in (torch.float32, torch.float64) else 3e-2
    worst = (said.double() - wanted.double()).abs().max()
    return bool(worst <= tolerance * wanted.double().abs().max().clamp_min(1e-12))
