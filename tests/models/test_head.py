"""The last layer of a model, found by one pass: where the logits are what a linear layer gave, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stillroom.models.tail import find_head


class Made(nn.Module):
    """A body, a last layer, and what is done with it."""

    def __init__(self, after: Callable[[Tensor], Tensor], last: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.last, self.after = nn.Linear(4, 5), last or nn.Linear(5, 3), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.last(self.body(x).relu()))


class Normed(nn.Linear):
    """Gives cosines: its own weights are not those that it multiplies by."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


X = torch.rand(2, 4, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.mark.parametrize("name", ["resnet8", "mlp", "vit_mini"])
def test_models_of_the_zoo_have_one(make: Callable[..., nn.Module], name: str) -> None:
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    found = find_head(model, torch.rand(2, 3, 32, 32))
    assert found is not None
    layer = model.get_submodule(found)
    assert isinstance(layer, nn.Linear)
    assert layer.out_features == 10
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "after",
    [lambda z: z, nn.Dropout(0.5), lambda z: z.view(2, 3), nn.Identity()],
    ids=["as it is", "dropout", "view", "identity"],
)
def test_what_changes_nothing_may_follow(after: Callable[[Tensor], Tensor]) -> None:
    assert find_head(Made(after), X) == "last"


@pytest.mark.parametrize(
    "after",
    [
        torch.tanh,
        lambda z: z.tanh_(),
        lambda z: z / 2,
        lambda z: z.log_softmax(1),
        lambda z: z + 0 * z.mean(),
        lambda z: z[:, :2],
    ],
    ids=["tanh", "tanh in place", "temperature", "log-probabilities", "nothing yet added", "cut"],
)
def test_what_is_made_of_a_layers_output_is_not_its_output(after: Callable[[Tensor], Tensor]) -> None:
    assert find_head(Made(after), X) is None


def test_a_layer_that_normalises_its_weights_has_no_rows_to_read() -> None:
    assert find_head(Made(lambda z: z, Normed(5, 3)), X) is None


def test_weights_that_are_computed_are_those_that_are_read() -> None:
    last = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))
    assert find_head(Made(lambda z: z, last), X) == "last"
