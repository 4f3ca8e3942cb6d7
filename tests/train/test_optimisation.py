"""Learning-rate schedules by hand, and which parameters are decayed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from stillroom.train.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from stillroom.train.optimisation import MovingAverage, apply_schedule, build_optimizer, lr_factor, momentum_at


def test_one_cycle_equals_torchs_own() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    total = 50
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=total + 1)
    # torch puts its peak and end at whole steps of total − 1; over total + 1 points both peaks are near step 15.
    theirs, their_momenta = [], []
    for _ in range(total):
        theirs.append(optimizer.param_groups[0]["lr"])
        their_momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        reference.step()
    ours = [lr_factor(ScheduleConfig(), step, total) for step in range(total)]
    assert ours[0] == pytest.approx(theirs[0])
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.08
    assert ours.index(max(ours)) == 15
    momenta = [momentum_at(ScheduleConfig(momentum=(0.85, 0.95)), step, total) or 0 for step in range(total)]
    assert momenta == pytest.approx(their_momenta, abs=0.008)
    assert (momenta[0], momenta[15]) == pytest.approx((0.95, 0.85))


@pytest.mark.parametrize(("momentum", "expected"), [(None, 0.9), ((0.85, 0.95), 0.95)])
def test_a_schedule_moves_the_momentum_only_where_asked(momentum: tuple[float, float] | None, expected: float) -> None:
    optimizer = build_optimizer([nn.Linear(1, 1)], OptimizerConfig())
    apply_schedule(optimizer, [0.5], ScheduleConfig(momentum=momentum), 0, 10)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == pytest.approx((0.02, expected))
    assert ("momentum" in ScheduleConfig(momentum=momentum).model_dump()) is (momentum is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": {"name": "cosine", "momentum": [0.85, 0.95]}}, "only with one_cycle, not cosine"),
        ({"schedule": {"momentum": [0.95, 0.85]}}, "the smaller first"),
        ({"schedule": {"momentum": [0.85, 0.95]}, "optimizer": {"name": "adamw"}}, "schedule.momentum only with"),
    ],
)
def test_a_momentum_that_cannot_move_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.model_validate(options)


@pytest.mark.parametrize("name", ["one_cycle", "cosine", "multi_step", "constant"])
@pytest.mark.parametrize("warmup", [None, 0.0, 0.2])
def test_factors_lie_in_zero_to_one_and_the_first_step_learns(name: str, warmup: float | None) -> None:
    config = ScheduleConfig.model_validate({"name": name, "warmup": warmup})
    factors = [lr_factor(config, step, 40) for step in range(40)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1.0)


def test_multi_step_drops_at_its_milestones() -> None:
    config = ScheduleConfig(name="multi_step", milestones=(0.5, 0.75), gamma=0.1)
    factors = [lr_factor(config, step, 8) for step in range(8)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_is_linear() -> None:
    config = ScheduleConfig(name="constant", warmup=0.5)
    assert [lr_factor(config, step, 8) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_cosine_by_hand() -> None:
    assert lr_factor(ScheduleConfig(name="cosine"), 1, 4) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_biases_and_norms_are_not_decayed_where_asked() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = build_optimizer([net], OptimizerConfig(decay_vectors=False, weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 3]
    assert len(build_optimizer([net], OptimizerConfig()).param_groups) == 1


@pytest.mark.parametrize(("given", "rate"), [({}, 0.1), ({"name": "adamw"}, 1e-3), ({"name": "adamw", "lr": 0.1}, 0.1)])
def test_each_optimizer_has_a_usual_rate_of_its_own(given: dict[str, Any], rate: float) -> None:
    assert OptimizerConfig.model_validate(given).lr == rate
    assert OptimizerConfig.model_validate(OptimizerConfig(**given).model_dump()).lr == rate


def test_adamw_takes_its_betas() -> None:
    optimizer = build_optimizer([nn.Linear(2, 2)], OptimizerConfig(name="adamw", lr=0.01, betas=(0.8, 0.9)))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


def test_a_moving_average_keeps_the_share_that_its_decay_says() -> None:
    net = nn.Linear(1, 1, bias=False)
    average = MovingAverage(net, decay=0.9)
    for weight in (1.0, 3.0, 5.0):
        nn.init.constant_(net.weight, weight)
        average.update()
    assert average.module.weight.item() == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 3) + 0.1 * 5)
