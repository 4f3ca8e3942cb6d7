"""The plan of a training: what is timed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stillroom.data.config import DataConfig
from stillroom.data.sources import load
from stillroom.models.config import ModelConfig
from stillroom.run import duration
from stillroom.run.duration import Speed, measure_speed
from stillroom.train.config import TrainingConfig


class Slow(nn.Module):
    """A net that takes a tenth of a second for an image, three tenths in large batches, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.now = nn.Linear(64, 10), 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.now += len(x) * (0.1 if len(x) <= 8 else 0.3)
        logits: Tensor = self.layer(x.flatten(1))
        return logits


@pytest.mark.parametrize(("patience", "seconds"), [(4.0, 0.3), (3.0, 0.1)])
def test_a_batch_of_the_training_is_timed_where_there_is_time(
    patience: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Slow()
    monkeypatch.setattr(duration, "build_model", lambda *given: net)
    monkeypatch.setattr(duration, "time", SimpleNamespace(perf_counter=lambda: net.now))
    data = load(DataConfig(source="digits", train_limit=100)).train
    before = torch.get_rng_state()
    training = TrainingConfig(threads=1)
    found = measure_speed(ModelConfig(name="mlp"), data, training, "student", learns=True, batch=32, patience=patience)
    assert found == Speed(pytest.approx(seconds), pytest.approx(seconds))
    assert torch.equal(before, torch.get_rng_state())
