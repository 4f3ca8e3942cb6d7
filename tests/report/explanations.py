"""Made-up explanations: entropies of blobs, and what the explanation makes of them, written as it writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.explain.grid import centre_box
from stillroom.explain.hypotheses import judge_hypotheses
from stillroom.explain.metrics import concept_statistics, summarise

TAPS = ("conv1", "layer1", "layer2", "layer3")


@dataclass(frozen=True)
class FakeExplanation:
    """What to make up."""

    compared: bool = True
    teacher: bool = True
    seeds: tuple[int, ...] = (0,)
    epochs: tuple[float, ...] = (0, 2, 5, 10)
    images: int = 6
    grid: int = 8
    moves: bool = True
    compared_networks: bool = True
    attributions: bool = True
    floats: bool = False
    name: str = "resnet8 by features"


def _entropies(fake: FakeExplanation, inside: np.ndarray[Any, Any], role: int, seed: int) -> torch.Tensor:
    """H [M, I, g, g]: flat at first, then low in a blob; the distilled student's lies on the subject, and sooner."""
    draws = np.random.default_rng((seed, role))
    shared = np.random.default_rng(seed)
    rows, columns = np.mgrid[: fake.grid, : fake.grid] / fake.grid
    places = shared.uniform(0.35, 0.65, (fake.images, 2)) + 0.33 * role * draws.choice((-1, 1), (fake.images, 2))
    blobs = np.exp(-((rows - places[:, :1, None]) ** 2 + (columns - places[:, 1:, None]) ** 2) / 0.06)
    noise = draws.normal(0, 0.12, (len(fake.epochs), fake.images, fake.grid, fake.grid))
    pace = (np.arange(len(fake.epochs)) / max(len(fake.epochs) - 1, 1)) ** (0.4 + 1.2 * role)
    return torch.from_numpy(-2.6 - 1.1 * pace[:, None, None, None] * blobs + noise)


def explanation(fake: FakeExplanation) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """The content of both files."""
    foreground = centre_box(fake.images, fake.grid)
    inside = foreground.numpy()
    roles = [(0, seed) for seed in fake.seeds] + [(1, seed) for seed in fake.seeds if fake.compared]
    entropy = [_entropies(fake, inside, role, seed) for role, seed in roles]
    moves = [0.1 * epoch for epoch in fake.epochs] if fake.moves else None
    figures = [concept_statistics(each, foreground, moves, threshold=0.2) for each in entropy]
    runs = []
    for (role, seed), each in zip(roles, figures, strict=True):
        run = {
            "run": f"{'labels' if role else 'taught'}-{seed}",
            "name": "resnet8 from labels" if role else fake.name,
            "role": "baseline" if role else "explained",
            "seed": seed,
            "tap": "layer3",
            **_described(each, fake.epochs, ("layer3.conv", tuple(moves)) if moves is not None else None),
            "entropy_error": [0.05] * len(fake.epochs),
        }
        if fake.compared_networks:
            run["accuracy"] = 0.81 - 0.02 * role
        runs.append(run)
    pairs = list(zip(figures[: len(fake.seeds)], figures[len(fake.seeds) :], strict=False))
    hypotheses = [one.as_dict() for one in judge_hypotheses(pairs, 0)] if pairs else []
    arrays = _arrays(fake, entropy, figures, inside)
    of_teacher = None
    if fake.teacher:
        found = concept_statistics(entropy[0][-1:] - 0.1, foreground, None, threshold=0.2)
        of_teacher = {"name": "resnet56", **_described(found, [None], None)["checkpoints"][0]}
        arrays["entropy-teacher"] = (entropy[0][-1] - 0.1).numpy().astype(np.float16)
        arrays["concepts-teacher"] = found.found[0].numpy()
        if fake.attributions:
            arrays["attribution-teacher"] = arrays["attribution-0"]
    content: dict[str, Any] = {
        "schema": 1,
        "recipe_hash": "00",
        "search": {"grid": fake.grid, "weight": 6.0, "stop": -2.8, "seed": 0, "passes": None},
        "threshold": 0.2,
        "resamples": 2000,
        "runs": runs,
        "hypotheses": hypotheses,
        "sensitivity": _sensitivity(fake, entropy, foreground, moves),
        "images": {
            "rows": [7 * place for place in range(fake.images)],
            "excluded": [3],
            "mask": "centre",
            "without_foreground": 0,
            "foreground_cells": float(inside.mean()),
        },
        "teacher": of_teacher,
    }
    if fake.compared_networks:
        content |= _compared_networks(fake, len(runs))
    return content, arrays


def _described(statistics: Any, epochs: Sequence[Any], weight_distance: Any) -> dict[str, Any]:
    checkpoints, speed, stability = summarise(statistics, epochs, weight_distance)
    return {
        "checkpoints": [one.as_dict() for one in checkpoints],
        "speed": None if speed is None else speed.as_dict(),
        "stability": stability.as_dict(),
    }


def _arrays(
    fake: FakeExplanation, entropy: Sequence[torch.Tensor], figures: Sequence[Any], inside: np.ndarray[Any, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    draws = np.random.default_rng(5)
    rows, columns = np.mgrid[:32, :32]
    ground = draws.integers(40, 200, (fake.images, 3, 1, 1)) + 2 * (rows + columns)[None, None]
    ball = (rows - 16) ** 2 + (columns - 16) ** 2 < 90
    pixels = np.clip(np.where(ball, 255 - ground, ground), 0, 255).astype(np.uint8)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "images": pixels.astype(np.float32) / 40 - 3 if fake.floats else pixels,
        "labels": np.arange(fake.images) % 3,
        "foreground": inside,
    }
    for place, (each, found) in enumerate(zip(entropy, figures, strict=True)):
        arrays[f"entropy-{place}"] = each.numpy().astype(np.float16)
        arrays[f"concepts-{place}"] = found.found.numpy()
        if fake.attributions:
            shares = np.exp(-2 * each[-1].numpy())
            arrays[f"attribution-{place}"] = (shares / shares.sum((1, 2), keepdims=True)).astype(np.float16)
    return arrays


def _sensitivity(
    fake: FakeExplanation, entropy: Sequence[torch.Tensor], foreground: torch.Tensor, moves: Sequence[float] | None
) -> list[dict[str, Any]]:
    if not fake.compared:
        return []
    found = []
    for what, value, threshold in (
        ("threshold", 0.1, 0.1),
        ("threshold", 0.9, 0.9),
        ("stop", -3.0, 0.2),
        ("grid", 4, 0.2),
        ("selection", "published", 0.3),
    ):
        figures = [concept_statistics(each, foreground, moves, threshold=threshold) for each in entropy]
        pairs = list(zip(figures[: len(fake.seeds)], figures[len(fake.seeds) :], strict=True))
        found.append(
            {
                "what": what,
                "value": value,
                "images": fake.images,
                "hypotheses": [one.as_dict() for one in judge_hypotheses(pairs, 0)],
            }
        )
    return found


def _compared_networks(fake: FakeExplanation, runs: int) -> dict[str, Any]:
    values = [[round(1 - 0.2 * abs(row - column), 2) for column in range(4)] for row in range(4)]
    cka = {"one_taps": list(TAPS), "other_taps": list(TAPS), "values": values, "images": 500}
    others: list[Any] = [*(["teacher"] if fake.teacher else []), *([runs - 1] if fake.compared else [])]
    agreement = {"agree": 0.834, "both_right": 0.71, "count": 10000}
    return {
        "agreement": [{"one": 0, "other": other, **agreement} for other in others],
        "cka": [{"one": 0, "other": other, **cka} for other in others],
        "attributions": {"method": "integrated gradients", "library": "captum 0.8.0"} if fake.attributions else None,
    }


def write_fake_explanation(folder: Path, fake: FakeExplanation) -> Path:
    """Write both files into a folder."""
    content, arrays = explanation(fake)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "explain.json").write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    np.savez_compressed(folder / "explain-maps.npz", **arrays)
    return folder
