"""What is recorded while a run trains."""

from __future__ import annotations

import pytest
import torch

from stillroom.errors import RunFailed
from stillroom.train.recorders import Meter


def test_a_meter_gives_the_mean_over_its_steps_and_starts_anew() -> None:
    meter = Meter(["kl"], torch.device("cpu"))
    for loss in (1.0, 2.0, 6.0):
        meter.add(torch.tensor([loss, 2 * loss]))
    assert meter.read(3) == {"loss": 3.0, "loss/kl": 6.0}
    assert meter.empty
    meter.add(torch.tensor([5.0, 7.0]))
    assert meter.read(4) == {"loss": 5.0, "loss/kl": 7.0}


def test_a_meter_names_the_loss_and_the_steps_where_it_is_not_finite() -> None:
    meter = Meter(["kl"], torch.device("cpu"))
    for loss in (1.0, float("nan")):
        meter.add(torch.tensor([1.0, loss]))
    with pytest.raises(RunFailed, match=r"loss/kl is not finite from step 5 on"):
        meter.read(5)
