"""Logs are written through their models: the bytes are those of the plain objects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stillroom.schema.base import json_line
from stillroom.schema.run import LOG_MODELS, METRICS, RELATION_EPOCHS, TIMING


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (METRICS, {"step": 3, "epoch": 0.5, "split": "train", "loss": 1.25, "loss/kl": 2.0, "lr": 0.1}),
        (METRICS, {"step": 3, "epoch": 0.5, "split": "test", "task": 2, "top1": 81.0}),
        (TIMING, {"event": "progress", "step": 3, "seconds": 1.5, "images_per_second": 9.0, "peak_memory_mb": 3.0}),
        (TIMING, {"event": "out_of_memory", "step": 3, "parts": 2}),
        (TIMING, {"event": "cache", "key": "a", "views": 1, "images": 3, "seconds": 1.0, "bytes": 4}),
        (TIMING, {"event": "latency", "who": "student", "milliseconds": {"1": 1.0}, "threads": 2}),
        (TIMING, {"event": "teacher", "answers": 1, "checks": 2}),
        (TIMING, {"event": "compile", "step": 1, "seconds": 2.0}),
        (RELATION_EPOCHS, {"step": 0, "epoch": 0.0, "score": None, "truth": 0.5, "teacher": None}),
    ],
)
def test_a_line_keeps_its_fields_their_order_and_their_bytes(log: str, line: dict[str, Any]) -> None:
    assert json_line(LOG_MODELS[log].model_validate(line)) == json.dumps(line) + "\n"
