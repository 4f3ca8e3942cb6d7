"""Figures of an evaluation, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stillroom.models.config import PreprocessConfig
from stillroom.models.prepared import predict
from stillroom.models.preprocess import Preprocess
from stillroom.train.evaluation import compare, score


def test_score_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
    found = score(logits, torch.tensor([0, 1, 0, 2]))
    q = [math.exp(2) / (math.exp(2) + 2), math.e / (math.e + 2), 1 / (math.exp(3) + 2), 1 / (math.e + 2)]
    assert (found.top1, found.correct, found.count, found.top5) == (50.0, 2, 4, None)
    assert found.nll == pytest.approx(-sum(math.log(v) for v in q) / 4, rel=1e-6)


def test_top5_counts_labels_among_the_five_largest() -> None:
    logits = torch.arange(7.0).repeat(2, 1)
    found = score(logits, torch.tensor([1, 2]))
    assert (found.top1, found.top5) == (0.0, 50.0)


def test_calibration_error_by_hand() -> None:
    # Ten answers of confidence .8 of which six are right: the gap is .2.
    logit = math.log(0.8 / 0.2)
    logits = torch.tensor([[logit, 0.0]] * 10)
    labels = torch.tensor([0] * 6 + [1] * 4)
    assert score(logits, labels).ece == pytest.approx(0.2, abs=1e-6)


def test_compare_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = compare(student, teacher)
    p = math.e / (1 + math.e)
    first = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    second = (1 - p) * math.log((1 - p) / p) + p * math.log(p / (1 - p))
    assert found["agreement"] == 50.0
    assert found["teacher_kl"] == pytest.approx((first + second) / 2, rel=1e-6)


def test_predict_is_in_eval_mode_in_batches_and_puts_the_mode_back() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3), nn.BatchNorm1d(3))
    images = torch.randint(0, 256, (11, 1, 2, 2), dtype=torch.uint8)
    seen: list[int] = []
    arguments = {"device": torch.device("cpu"), "on_batch": seen.append}
    logits = predict(net, Preprocess(None), images, batch_size=4, **arguments)  # type: ignore[arg-type]
    assert net.training
    assert seen == [4, 8, 11]
    assert torch.equal(net[3].running_mean, torch.zeros(3))
    net.eval()
    assert torch.allclose(logits, net(images.float()), atol=1e-4)
    reorder = Preprocess(PreprocessConfig(mean=(0.0,), std=(1.0,), class_order=(2, 0, 1)))
    reordered = predict(net, reorder, images * 0, **arguments)  # type: ignore[arg-type]
    assert torch.allclose(reordered[:, [1, 2, 0]], net(images.float() * 0), atol=1e-4)
