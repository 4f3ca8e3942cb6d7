"""Logits that were stored elsewhere: their checks need labels alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.data.config import AugmentationConfig
from stillroom.data.images import DataPair
from stillroom.data.sources import read_digits
from stillroom.diagnose.recipe import diagnose_recipe
from stillroom.recipe import parse_recipe
from stillroom.schema.diagnosis import Finding
from stillroom.teachers.precomputed import inputs_of

Array = np.ndarray[Any, Any]
DATA = DataPair(read_digits("train"), read_digits("test"))


def answers(labels: Array, seed: int) -> Array:
    """Logits that are right for 95 of 100 images, more or less sure of them, and relate the classes."""
    random = np.random.default_rng(seed)
    guess = np.where(random.random(len(labels)) < 0.95, labels, random.integers(0, 10, len(labels)))
    near = np.abs(np.arange(10)[None] - guess[:, None])
    return (
        random.gamma(8, 1.0, (len(labels), 1)) * (near == 0) - 0.4 * near + random.normal(0, 0.5, near.shape)
    ).astype(np.float32)


TRAIN, TEST = (answers(split.labels.numpy(), seed) for seed, split in enumerate((DATA.train, DATA.test)))


def found(folder: Path, train: Array, test: Array | None) -> dict[str, Finding]:
    folder.mkdir(exist_ok=True)
    inputs = inputs_of(DATA, AugmentationConfig(), same_for_views=True)
    (folder / "inputs.json").write_text(json.dumps(inputs))
    np.save(folder / "train-logits.npy", train)
    if test is not None:
        np.save(folder / "test-logits.npy", test)
    recipe = parse_recipe(
        {
            "teacher": {"name": "elsewhere", "logits": str(folder)},
            "student": {"name": "mlp"},
            "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4}],
            "training": {"epochs": 20, "device": "cpu"},
        }
    )
    return {one.check: one for one in diagnose_recipe(recipe, images=512)}


def problems(findings: dict[str, Finding]) -> set[str]:
    return {check for check, one in findings.items() if one.verdict == "problem"}


def shuffled(logits: Array) -> Array:
    return np.random.default_rng(3).permutation(logits)


def softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def test_good_logits_are_judged_by_all_checks_that_need_no_model(tmp_path: Path) -> None:
    findings = found(tmp_path / "stored", TRAIN, TEST)
    assert problems(findings) == set()
    judged = {"stale_answers", "teacher_accuracy", "class_order", "teacher_logits", "temperature", "loss_balance"}
    judged |= {"teacher_confidence", "teacher_label_smoothing", "disputed_labels", "loss_finite", "teacher_unused"}
    assert {findings[check].verdict for check in judged} <= {"ok", "warning"}
    assert findings["teacher_normalisation"].verdict == "skipped"
    assert "read from a file" in findings["teacher_normalisation"].summary


@pytest.mark.parametrize(
    ("change", "check", "text"),
    [
        (shuffled, "stale_answers", "belong to other images"),
        (lambda logits: np.roll(logits, 1, 0), "stale_answers", "stand 1 row too late"),
        (np.zeros_like, "stale_answers", "are empty"),
        (softmax, "teacher_logits", "gives probabilities"),
        (lambda logits: logits[:, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]], "class_order", "another order"),
        (
            lambda logits: np.random.default_rng(0).normal(0, 0.1, logits.shape).astype(np.float32),
            "teacher_accuracy",
            "",
        ),
    ],
    ids=["other images", "shifted", "zeros", "probabilities", "class order", "at chance"],
)
@pytest.mark.parametrize("with_test", [True, False], ids=["", "without test logits"])
def test_each_fault_of_stored_logits_is_found(
    tmp_path: Path, change: Callable[[Array], Array], check: str, text: str, with_test: bool
) -> None:
    findings = found(tmp_path / "stored", change(TRAIN), change(TEST) if with_test else None)
    assert check in problems(findings), findings[check].summary
    assert text in findings[check].summary
    assert problems(findings) - {check} <= {"temperature"}


def test_logits_of_other_test_images_are_found(tmp_path: Path) -> None:
    findings = found(tmp_path / "stored", TRAIN, shuffled(TEST))
    assert findings["stale_answers"].verdict == "problem"
    assert "of test images" in findings["stale_answers"].summary
