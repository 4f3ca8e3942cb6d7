"""What a run's student has learned and how, beside the same student from labels: found, and written as explain.json."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.explain.beside import attributions, beside, captum_version
from stillroom.explain.entropy import entropy_of_energies
from stillroom.explain.figures import Figures, figures_of, rounded, told
from stillroom.explain.foreground import on_grid
from stillroom.explain.hypotheses import RESAMPLES, judged
from stillroom.explain.measuring import FOLDER, Maps, Search, describe, entropies, responding
from stillroom.explain.metrics import concepts
from stillroom.explain.subject import Pictures, Subject, last_stage, load_pictures, load_subjects, load_teacher, runs_in
from stillroom.files import write_bytes, write_json
from stillroom.models.prepared import PreparedModel
from stillroom.models.weights import load_weights
from stillroom.run.records import read_json
from stillroom.runtime import Observer
from stillroom.train.device import exact_float32, resolve_device, threads

SCHEMA = 1
NAME, MAPS = "explain.json", "explain-maps.npz"
THRESHOLD, STOP = 0.2, -2.8
FEWEST = 4
# Beside each claim: the same with another threshold, stop and grid, and with the images that the paper's code keeps.
_THRESHOLDS, _STOPS = (0.1, 0.3), (-3.0, -2.6)


@dataclass(frozen=True)
class Options:
    """What is asked of the runs; see :func:`explain`."""

    tap: str | None = None
    images: int = 50
    grid: int = 16
    weight: float | None = None
    foreground: str = "auto"
    passes: int | None = None
    seed: int = 0
    attribute: bool = False


def explain(
    runs: Sequence[Path],
    against: Sequence[Path] = (),
    *,
    tap: str | None = None,
    images: int = 50,
    grid: int = 16,
    weight: float | None = None,
    foreground: str = "auto",
    passes: int | None = None,
    seed: int = 0,
    attribute: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Find what runs' students have learned, and hold each beside the same student from labels.

    Writes ``explain.json`` and ``explain-maps.npz`` into the first run's folder, and each network's entropies into its
    own run's ``explain/``: what is there is not done again, so that a command that was stopped goes on.

    Args:
        runs: folders of finished runs, one a seed; or one that holds such, as a study's method has.
        against: the same students from labels, one for each of ``runs``; none for no comparison.
        tap: where features are read; left out: the last stage.
        images: of the test split, evenly spread.
        grid: g; at most the images' side.
        weight: λ; left out: 6 for ResNets and 7 for others, as published.
        foreground: see :func:`~stillroom.explain.subject.load_pictures`.
        passes: most network passes an image and checkpoint.
        seed: of the noise and of the intervals.
        attribute: also find attributions, by Captum.
        observer: told how it goes.

    Returns:
        What was written as ``explain.json``; docs/architecture.md says what is in it.

    Raises:
        BadInput: runs, data or options cannot be used.
    """
    if images < FEWEST:
        raise BadInput("--images", images, f"{FEWEST} or more")
    runs, against = runs_in(runs), runs_in(against)
    if against and len(against) != len(runs):
        raise BadInput("--baseline", f"{len(against)} runs", f"one for each of the {len(runs)} runs to explain")
    options = Options(tap, images, grid, weight, foreground, passes, seed, attribute)
    library = f"captum {captum_version()}" if attribute else None
    observer = observer or Observer()
    try:
        with exact_float32():
            subjects = load_subjects([*runs, *against], tap)
            _check_seeds(subjects, len(runs))
            with threads(subjects[0].recipe.training.threads):
                return _explained(subjects, len(runs), options, library, observer)
    finally:
        observer.run_ended()


def _check_seeds(subjects: Sequence[Subject], runs: int) -> None:
    for run, other in zip(subjects, subjects[runs:], strict=False):
        if run.recipe.seed != other.recipe.seed:
            expected = f"the seed of {run.path}, {run.recipe.seed}: the same first weights and order of images"
            raise BadInput("--baseline", f"{other.path} of seed {other.recipe.seed}", expected)


def _explained(
    subjects: list[Subject], runs: int, options: Options, library: str | None, observer: Observer
) -> dict[str, Any]:
    first = subjects[0]
    pictures, data = load_pictures(first, count=options.images, grid=options.grid, foreground=options.foreground)
    usual = 6.0 if "resnet" in first.recipe.student.name else 7.0
    weight = options.weight if options.weight is not None else usual
    search = Search(options.grid, weight, STOP, options.seed, options.passes)
    teacher = load_teacher(first, data)
    of_runs, of_teacher = _searched(subjects, teacher, options.tap, pictures, search, observer)
    usable = responding([maps for run in of_runs for maps in run] + ([of_teacher] if of_teacher is not None else []))
    if not bool(usable.all()):
        left_out = int((~usable).sum())
        observer.note(f"{left_out} of {len(usable)} images are left out: a network does not respond to them")
    there = _usable(pictures, usable)
    maps = [[_part(one, usable) for one in run] for run in of_runs]
    content = _content(subjects, runs, maps, there, search, options.seed)
    content["images"] = {
        "rows": list(there.rows),
        "excluded": [row for row, use in zip(pictures.rows, usable.tolist(), strict=True) if not use],
        "foreground": pictures.rule,
        "without_foreground": int((~there.foreground.flatten(1).any(1)).sum()),
        "foreground_cells": rounded(float(there.foreground.double().mean())),
    }
    content["teacher"] = _teacher(of_teacher, usable, there, teacher.name) if teacher and of_teacher else None
    # Their weights are those of the end by now.
    ended = [(subject.path, subject.student) for subject in subjects]
    observer.phase("comparing layers", 0, len(ended) + (teacher is not None))
    content |= beside(ended, runs, teacher, data, observer)
    content["attributions"] = {"method": "integrated gradients", "library": library} if library else None
    networks = {str(place): student for place, (_, student) in enumerate(ended)}
    entropy = {str(place): torch.stack([one.entropy for one in run]) for place, run in enumerate(maps)}
    if teacher is not None and of_teacher is not None:
        networks["teacher"], entropy["teacher"] = teacher, _part(of_teacher, usable).entropy
    attributed: dict[str, Tensor] = {}
    for name, network in networks.items() if library else ():
        observer.phase("attributing", len(attributed), len(networks))
        attributed[name] = attributions(network, there.images, there.labels, options.grid)
    _write_maps(first.path / MAPS, there, entropy, attributed)
    write_json(first.path / NAME, content)
    return content


def _searched(
    subjects: Sequence[Subject],
    teacher: PreparedModel | None,
    tap: str | None,
    pictures: Pictures,
    search: Search,
    observer: Observer,
) -> tuple[list[list[Maps]], Maps | None]:
    """The entropies of each run's checkpoints, and of the teacher."""
    count = len(pictures.rows)
    total = count * (sum(len(subject.kept) for subject in subjects) + (teacher is not None))
    device = resolve_device("auto")
    done = 0

    def moved(by: int) -> None:
        observer.phase("finding entropies", done + by, total)

    of_runs: list[list[Maps]] = []
    for subject in subjects:
        subject.student.model.to(device)
        of_runs.append([])
        for kept in subject.kept:
            # Read again for each checkpoint: however many there are, one is in memory.
            load_weights(subject.student.model, kept.path, field="student")
            path = subject.path / FOLDER / f"epoch-{kept.epoch:g}.npz"
            of_runs[-1].append(entropies(subject.student, subject.tap, pictures, search, path, moved))
            done += count
    if teacher is None:
        return of_runs, None
    teacher.model.to(device)
    # The same name where it has it, as networks of one family do.
    place = tap if tap in dict(teacher.model.named_modules()) else None
    place = place or last_stage(teacher, pictures.images[:4].to(device))
    return of_runs, entropies(teacher, place, pictures, search, subjects[0].path / FOLDER / "teacher.npz", moved)


def _content(
    subjects: Sequence[Subject], runs: int, maps: list[list[Maps]], pictures: Pictures, search: Search, seed: int
) -> dict[str, Any]:
    entropy = [torch.stack([one.entropy for one in run]) for run in maps]
    usual = _figures(subjects, entropy, pictures.foreground, THRESHOLD)
    described = []
    for place, (subject, figures) in enumerate(zip(subjects, usual, strict=True)):
        error = torch.stack([one.error for one in maps[place]]).square().mean((1, 2, 3)).sqrt()
        summary = read_json(subject.path / "summary.json")
        described.append(
            {
                "run": subject.path.name,
                "name": summary.get("name"),
                "role": "explained" if place < runs else "against",
                "seed": subject.recipe.seed,
                "tap": subject.tap,
                "accuracy": rounded(float(summary["top1"]) / 100),
                **told(figures, subject.epochs, subject.moves),
                "entropy_error": [rounded(float(each)) for each in error],
            }
        )
    return {
        "schema": SCHEMA,
        "recipe_hash": read_json(subjects[0].path / "summary.json").get("recipe_hash"),
        "search": describe(search),
        "threshold": THRESHOLD,
        "resamples": RESAMPLES,
        "runs": described,
        "hypotheses": _tested(usual, runs, seed),
        "sensitivity": _sensitivity(subjects, runs, maps, entropy, pictures, search, seed),
    }


def _tested(figures: list[Figures], runs: int, seed: int) -> list[dict[str, Any]]:
    pairs = list(zip(figures[:runs], figures[runs:], strict=False))
    return judged(pairs, seed) if pairs else []


def _figures(
    subjects: Sequence[Subject], entropy: Sequence[Tensor], foreground: Tensor, threshold: float
) -> list[Figures]:
    return [
        figures_of(each, foreground, subject.moves[1] if subject.moves else None, threshold=threshold)
        for subject, each in zip(subjects, entropy, strict=True)
    ]


def _sensitivity(
    subjects: Sequence[Subject],
    runs: int,
    maps: list[list[Maps]],
    entropy: list[Tensor],
    pictures: Pictures,
    search: Search,
    seed: int,
) -> list[dict[str, Any]]:
    """The verdicts again where something that was chosen is chosen otherwise; nothing without a comparison."""
    if len(subjects) == runs:
        return []
    inside = pictures.foreground

    def otherwise(stop: float, grid: int) -> list[Tensor]:
        return [
            torch.stack(
                [
                    entropy_of_energies(one.energies, one.sigma_f, weight=search.weight, stop=stop, grid=grid).double()
                    for one in run
                ]
            )
            for run in maps
        ]

    found = []

    def row(what: str, value: object, of: Sequence[Tensor], cells: Tensor, threshold: float) -> None:
        hypotheses = _tested(_figures(subjects, of, cells, threshold), runs, seed)
        found.append({"what": what, "value": value, "images": len(cells), "hypotheses": hypotheses})

    for threshold in _THRESHOLDS:
        row("threshold", threshold, entropy, inside, threshold)
    for stop in _STOPS:
        row("stop", stop, otherwise(stop, search.grid), inside, THRESHOLD)
    if search.grid % 2 == 0 and not bool(on_grid(inside, search.grid // 2).all()):
        coarse = search.grid // 2
        row("grid", coarse, otherwise(search.stop, coarse), on_grid(inside, coarse), THRESHOLD)
    keep = published_selection([run[-1] for run in entropy], inside)
    if int(keep.sum()) >= FEWEST:
        row("selection", "published", [run[:, keep] for run in entropy], inside[keep], THRESHOLD)
    return found


def published_selection(entropy: Sequence[Tensor], foreground: Tensor) -> Tensor:
    """The images that the paper's code keeps: all networks at the end have discarded more of the background.

    Args:
        entropy: H of each network, [I, g, g].
        foreground: bool [I, g, g].

    Returns:
        bool [I]; an image without foreground or background is not kept.

    >>> inside = torch.tensor([[[True, False]], [[True, False]], [[False, False]]])
    >>> published_selection([torch.tensor([[[-3.0, -2.0]], [[-2.0, -3.0]], [[-3.0, -2.0]]])], inside).tolist()
    [True, False, False]
    """
    inside = foreground.double()
    keep = torch.ones(len(foreground), dtype=torch.bool)
    for each in entropy:
        within = (each.double() * inside).sum((1, 2)) / inside.sum((1, 2))
        without = (each.double() * (1 - inside)).sum((1, 2)) / (1 - inside).sum((1, 2))
        keep &= without > within
    return keep


def _teacher(maps: Maps, usable: Tensor, pictures: Pictures, name: str) -> dict[str, Any]:
    figures = figures_of(_part(maps, usable).entropy[None], pictures.foreground, None, threshold=THRESHOLD)
    return {"name": name, **told(figures, [0.0], None)["checkpoints"][0]} | {"epoch": None}


def _usable(pictures: Pictures, usable: Tensor) -> Pictures:
    rows = tuple(row for row, use in zip(pictures.rows, usable.tolist(), strict=True) if use)
    return replace(
        pictures,
        rows=rows,
        images=pictures.images[usable],
        labels=pictures.labels[usable],
        foreground=pictures.foreground[usable],
    )


def _part(maps: Maps, usable: Tensor) -> Maps:
    return Maps(maps.entropy[usable], maps.error[usable], maps.energies[usable], maps.sigma_f[usable])


def _write_maps(path: Path, pictures: Pictures, entropy: dict[str, Tensor], attributed: dict[str, Tensor]) -> None:
    """For pictures: the images, their foreground, and each network's entropies and concepts over its training."""
    arrays = {
        "images": pictures.images.numpy(),
        "labels": pictures.labels.numpy(),
        "foreground": pictures.foreground.numpy(),
    }
    for name, of in entropy.items():
        cells = [
            concepts(each, pictures.foreground, threshold=THRESHOLD) for each in (of if of.ndim == 4 else of[None])
        ]
        arrays[f"entropy-{name}"] = of.numpy().astype(np.float16)
        arrays[f"concepts-{name}"] = (torch.stack(cells) if of.ndim == 4 else cells[0]).numpy()
    arrays |= {f"attribution-{name}": of.numpy().astype(np.float16) for name, of in attributed.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
