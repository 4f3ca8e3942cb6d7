"""Features of texts: the mean is that over each text's own tokens."""

from __future__ import annotations

import torch

from stillroom.losses.base import LossInputs
from stillroom.losses.feature_mse import FeatureMSE, FeatureMSEConfig
from stillroom.losses.relational import Relational, RelationalConfig
from stillroom.models.taps import Tap
from stillroom.teachers.output import ModelOutput

TOKEN = Tap("a", (4, 3), 0, 0.5, "token")
MASK = torch.tensor([[True, True, False, False], [True, True, True, False]])


def inputs(mask: torch.Tensor | None, fill: float) -> LossInputs:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 4, 3, generator=generator) for _ in range(2))
    outputs = [
        ModelOutput(torch.zeros(2, 2), {"a": each.masked_fill(~MASK[..., None], fill * place)})
        for place, each in enumerate((student, teacher), 1)
    ]
    return LossInputs(outputs[0], outputs[1], torch.tensor([0, 1]), torch.tensor([0, 1]), 0.0, mask=mask)


def test_mse_of_hidden_states_is_the_mean_over_each_texts_tokens() -> None:
    loss = FeatureMSE(FeatureMSEConfig())
    loss.pairs, loss.connectors = ((TOKEN, TOKEN),), torch.nn.ModuleList([torch.nn.Identity()])
    given = inputs(MASK, 7.0)
    s, t = given.student.features["a"], given.teacher_features["a"]
    wanted = torch.stack([(s[row, MASK[row]] - t[row, MASK[row]]).square().mean() for row in (0, 1)]).mean()
    assert torch.allclose(loss(given), wanted)


def test_pooled_features_are_means_over_each_texts_tokens() -> None:
    loss = Relational(RelationalConfig())
    loss.pairs, loss.connectors = ((TOKEN, TOKEN),), torch.nn.ModuleList([torch.nn.Identity()])
    given = inputs(MASK, 7.0)
    ((student, _),) = loss.pooled_pairs(given)
    wanted = torch.stack([given.student.features["a"][row, MASK[row]].mean(0) for row in (0, 1)])
    assert torch.allclose(student, wanted, atol=1e-6)
