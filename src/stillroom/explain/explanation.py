"""The explanation of runs: entropies at each checkpoint, concepts, hypotheses; written as ``explain.json``."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.images import ImageSet
from stillroom.errors import BadInput
from stillroom.explain.entropy import entropy_of_energies, pixel_entropy_with_error
from stillroom.explain.grid import on_grid
from stillroom.explain.hypotheses import RESAMPLES, judge_hypotheses
from stillroom.explain.metrics import ConceptStatistics, concept_statistics, concepts, match_position, summarise
from stillroom.explain.queries import TapFeatures
from stillroom.explain.runs import (
    ImageSample,
    RunToExplain,
    check_seeds,
    last_stage,
    load_images,
    load_runs,
    load_teacher,
    matched_runs,
)
from stillroom.explain.similarity import attributions, captum_version, compare_representations
from stillroom.files import canonical_json, verify, write_bytes
from stillroom.models.modes import device_of
from stillroom.models.prepared import PreparedModel
from stillroom.models.weights import load_weights, state_hash
from stillroom.observer import Observer
from stillroom.run.components import RunObjects
from stillroom.schema.base import six_digits, six_digits_or_none, write
from stillroom.schema.explanation import (
    EXPLANATION,
    EXPLANATION_MAPS,
    FEWEST_IMAGES,
    AttributionMethod,
    EntropySearch,
    ExplainedImages,
    ExplainedNetwork,
    Explanation,
    HypothesisTest,
    SensitivityRow,
    TeacherConcepts,
)
from stillroom.train.device import exact_float32, resolve_device, threads

# Folder in a run for the entropies found so far; how many images are found between two writes.
FOLDER = "explain"
_BLOCK = 8
THRESHOLD, STOP = 0.2, -2.8
# Of an image and checkpoint: an untrained ResNet-8 gets 44% too many concepts from 232, 22% from 600.
PASSES = 600
# With each claim: the same with another threshold, stop and grid, and with the images that the paper's code keeps.
_THRESHOLDS, _STOPS = (0.1, 0.3), (-3.0, -2.6)
# The part of the training from which on the paper's code asks of every checkpoint whether an image is kept.
_SELECTED_FROM = 40 / 150


def explain(
    runs: Sequence[Path],
    baselines: Sequence[Path] = (),
    *,
    tap: str | None = None,
    images: int = 50,
    grid: int | None = None,
    weight: float | None = None,
    mask: str = "auto",
    passes: int | None = None,
    seed: int = 0,
    attribute: bool = False,
    observer: Observer | None = None,
    objects: Mapping[Path, RunObjects] | None = None,
) -> Explanation:
    """Find the concepts that runs' students have learned, and compare each with the same student trained on labels.

    Writes ``explain.json`` and ``explain-maps.npz`` into the first run's folder, and each network's entropies into its
    run's ``explain/``. Existing entropies are reused, so that a stopped command can be continued.

    Args:
        runs: folders of finished runs, one per seed; or the folder of a study's method that contains them.
        baselines: the same students trained on labels, one for each of ``runs``; none for no comparison.
        tap: where features are read; default: the last stage.
        images: how many of the test split, evenly spread.
        grid: g; default: 16, or the images' smaller side in pixels where that is less.
        weight: λ; left out: 6 for ResNets and 7 for others, as published.
        mask: see :func:`~stillroom.explain.runs.load_images`.
        passes: maximum network passes an image and checkpoint; default: 600.
        seed: of the noise and of the intervals.
        attribute: also find attributions, by Captum.
        observer: shows how it goes.
        objects: of runs made in Python, what their recipes cannot make again.

    Returns:
        What was written as ``explain.json``.

    Raises:
        BadInput: runs, data or options cannot be used.
    """
    runs, baselines = matched_runs(runs, baselines, images)
    library = f"captum {captum_version()}" if attribute else None
    observer = observer or Observer()
    try:
        with exact_float32():
            loaded = load_runs([*runs, *baselines], tap, objects)
            check_seeds(loaded, len(runs))
            usual = 6.0 if "resnet" in loaded[0].recipe.student.name else 7.0
            weight = usual if weight is None else float(weight)
            cells = fitting_grid(loaded[0].summary.data.shape) if grid is None else grid
            search = EntropySearch(grid=cells, weight=weight, stop=STOP, seed=seed, passes=passes or PASSES)
            with threads(loaded[0].recipe.training.threads):
                sample, data = load_images(loaded[0], count=images, grid=cells, mask=mask, note=observer.note)
                return _explain(loaded, len(runs), sample, data, search, tap, library, observer)
    finally:
        observer.run_ended()


def fitting_grid(shape: Sequence[int]) -> int:
    """The default grid of images [C, H, W]: 16 cells along a side, or one a pixel where images are smaller.

    >>> fitting_grid((3, 224, 224)), fitting_grid((1, 8, 8))
    (16, 8)
    """
    return min((16, *shape[1:]))


def _explain(
    runs: list[RunToExplain],
    explained: int,
    sample: ImageSample,
    data: ImageSet,
    search: EntropySearch,
    tap: str | None,
    library: str | None,
    observer: Observer,
) -> Explanation:
    teacher = load_teacher(runs[0], data)
    maps, teacher_maps = _all_entropies(runs, teacher, tap, sample, search, observer)
    usable = responding_images(
        [*(one for run in maps for one in run), *([teacher_maps] if teacher_maps is not None else [])]
    )
    if not bool(usable.all()):
        left_out = int((~usable).sum())
        observer.note(f"{left_out} of {len(usable)} images are left out: a network does not respond to them")
    excluded = tuple(row for row, use in zip(sample.rows, usable.tolist(), strict=True) if not use)
    sample = sample.select(usable)
    maps = [[one.select(usable) for one in run] for run in maps]
    comparison = _Comparison(runs, explained, maps, sample, search)
    # Each student now has its final weights.
    networks = {str(place): run.student for place, run in enumerate(runs)}
    entropy = {str(place): each for place, each in enumerate(comparison.entropy)}
    teacher_concepts = None
    if teacher is not None and teacher_maps is not None:
        networks["teacher"], entropy["teacher"] = teacher, teacher_maps.select(usable).entropy
        statistics = concept_statistics(entropy["teacher"][None], sample.foreground, None, threshold=THRESHOLD)
        (counts,), _, _ = summarise(statistics, [None], None)
        teacher_concepts = TeacherConcepts(name=teacher.name, **dict(counts))
    observer.phase("comparing layers", 0, len(networks))
    ended = [(run.path, run.student) for run in runs]
    agreements, tables = compare_representations(ended, explained, teacher, data, observer)
    statistics_of_runs = comparison.statistics(comparison.entropy, sample.foreground, THRESHOLD)
    explanation = Explanation(
        recipe_hash=runs[0].summary.recipe_hash,
        search=search,
        threshold=THRESHOLD,
        resamples=RESAMPLES,
        runs=comparison.networks(statistics_of_runs),
        hypotheses=comparison.hypotheses(statistics_of_runs),
        sensitivity=comparison.sensitivity(),
        images=ExplainedImages(
            rows=sample.rows,
            excluded=excluded,
            mask=sample.mask,
            without_foreground=int((~sample.foreground.flatten(1).any(1)).sum()),
            published=int(comparison.published_images.sum()) if len(runs) > explained else None,
            foreground_cells=six_digits(float(sample.foreground.double().mean())),
        ),
        teacher=teacher_concepts,
        agreement=agreements,
        cka=tables,
        attributions=AttributionMethod(method="integrated gradients", library=library) if library else None,
    )
    attributed: dict[str, Tensor] = {}
    for name, network in networks.items() if library else ():
        observer.phase("attributing", len(attributed), len(networks))
        attributed[name] = attributions(network, sample.images, sample.labels, search.grid)
    _write_maps(runs[0].path / EXPLANATION_MAPS, sample, entropy, attributed)
    write(runs[0].path / EXPLANATION, explanation)
    return explanation


@dataclass(frozen=True)
class _Comparison:
    """The runs to explain, then their baselines, with what was found of each: [runs][checkpoints]."""

    runs: Sequence[RunToExplain]
    explained: int
    maps: list[list[EntropyMaps]]
    sample: ImageSample
    search: EntropySearch

    @cached_property
    def entropy(self) -> list[Tensor]:
        """H of each run, [M, I, g, g]."""
        return [torch.stack([one.entropy for one in run]) for run in self.maps]

    def statistics(self, entropy: Sequence[Tensor], foreground: Tensor, threshold: float) -> list[ConceptStatistics]:
        """Concepts of each run by some entropies."""
        return [
            concept_statistics(
                each, foreground, run.weight_distance[1] if run.weight_distance else None, threshold=threshold
            )
            for run, each in zip(self.runs, entropy, strict=True)
        ]

    def networks(self, statistics: Sequence[ConceptStatistics]) -> tuple[ExplainedNetwork, ...]:
        """Each run as ``explain.json`` has it."""
        found = []
        for place, (run, each) in enumerate(zip(self.runs, statistics, strict=True)):
            error = torch.stack([one.error for one in self.maps[place]]).square().mean((1, 2, 3)).sqrt()
            checkpoints, speed, stability = summarise(each, run.epochs, run.weight_distance)
            found.append(
                ExplainedNetwork(
                    run=run.path.name,
                    name=run.summary.name,
                    role="explained" if place < self.explained else "baseline",
                    seed=run.recipe.seed,
                    tap=run.tap,
                    accuracy=six_digits(run.summary.student.top1 / 100),
                    checkpoints=checkpoints,
                    speed=speed,
                    stability=stability,
                    entropy_error=tuple(six_digits_or_none(float(one)) for one in error),
                )
            )
        return tuple(found)

    @cached_property
    def published_images(self) -> Tensor:
        """The images that the authors' selection keeps, bool [I]: at each checkpoint from 40/150 of the training on."""
        late = late_checkpoints([each.epochs for each in self.runs], self.entropy)
        return published_selection(late, self.sample.foreground)

    def hypotheses(self, statistics: list[ConceptStatistics]) -> tuple[HypothesisTest, ...]:
        """The hypotheses by each explained run against its baseline; none without baselines.

        No verdict where the authors' selection keeps fewer than ``FEWEST_IMAGES``: there the background is no measure
        of what a network discards.
        """
        pairs = list(zip(statistics[: self.explained], statistics[self.explained :], strict=False))
        if not pairs:
            return ()
        decided = int(self.published_images.sum()) >= FEWEST_IMAGES
        return judge_hypotheses(pairs, self.search.seed, decided=decided)

    def sensitivity(self) -> tuple[SensitivityRow, ...]:
        """The verdicts again where one choice is made differently; nothing without a comparison."""
        if len(self.runs) == self.explained:
            return ()
        inside, grid, stop = self.sample.foreground, self.search.grid, STOP
        choices: list[tuple[str, float | str, Sequence[Tensor], Tensor, float]] = [
            ("threshold", threshold, self.entropy, inside, threshold) for threshold in _THRESHOLDS
        ]
        choices += [("stop", other, self._entropy_at(other, grid), inside, THRESHOLD) for other in _STOPS]
        if grid % 2 == 0 and not bool(on_grid(inside, grid // 2).all()):
            coarse = grid // 2
            choices.append(("grid", coarse, self._entropy_at(stop, coarse), on_grid(inside, coarse), THRESHOLD))
        matched = [
            match_position(each, inside, each[0] if run.epochs[0] == 0 else None)
            for run, each in zip(self.runs, self.entropy, strict=True)
        ]
        if all(each is not None for each in matched):
            choices.append(("position", "matched", [each for each in matched if each is not None], inside, THRESHOLD))
        keep = self.published_images
        if int(keep.sum()) >= FEWEST_IMAGES:
            selected = [run[:, keep] for run in self.entropy]
            choices.append(("selection", "published", selected, inside[keep], THRESHOLD))
        return tuple(
            SensitivityRow(
                what=what,
                value=value,
                images=len(foreground),
                hypotheses=self.hypotheses(self.statistics(entropy, foreground, threshold)),
            )
            for what, value, entropy, foreground, threshold in choices
        )

    def _entropy_at(self, stop: float, grid: int) -> list[Tensor]:
        weight = self.search.weight
        return [
            torch.stack(
                [
                    entropy_of_energies(one.energies, one.sigma_f, weight=weight, stop=stop, grid=grid).double()
                    for one in run
                ]
            )
            for run in self.maps
        ]


def late_checkpoints(epochs: Sequence[Sequence[float]], entropy: Sequence[Tensor]) -> list[Tensor]:
    """The entropies of all networks, [M, I, g, g] each, at the checkpoints of which the paper's code asks."""
    return [
        run[place]
        for mine, run in zip(epochs, entropy, strict=True)
        for place, epoch in enumerate(mine)
        if place == len(run) - 1 or epoch >= _SELECTED_FROM * mine[-1]
    ]


def published_selection(entropy: Sequence[Tensor], foreground: Tensor, cells: Tensor | None = None) -> Tensor:
    """The images that the paper's code keeps: all networks have discarded more of the background than of the subject.

    Args:
        entropy: H of each network at each checkpoint that counts, [I, g, g].
        foreground: bool [I, g, g].
        cells: which cells there are, bool [I, g, g]; None: all.

    Returns:
        bool [I]; an image without foreground or background is not kept.

    >>> inside = torch.tensor([[[True, False]], [[True, False]], [[False, False]]])
    >>> published_selection([torch.tensor([[[-3.0, -2.0]], [[-2.0, -3.0]], [[-3.0, -2.0]]])], inside).tolist()
    [True, False, False]
    """
    inside = foreground.double()
    outside = 1 - inside if cells is None else (cells & ~foreground).double()
    keep = torch.ones(len(foreground), dtype=torch.bool)
    for each in entropy:
        within = (each.double() * inside).sum((1, 2)) / inside.sum((1, 2))
        without = (each.double() * outside).sum((1, 2)) / outside.sum((1, 2))
        keep &= without > within
    return keep


def _write_maps(path: Path, sample: ImageSample, entropy: dict[str, Tensor], attributed: dict[str, Tensor]) -> None:
    """For the page: the images, their foreground, and each network's entropies and concepts over its training."""
    arrays = {"images": sample.images.numpy(), "labels": sample.labels.numpy(), "foreground": sample.foreground.numpy()}
    for name, each in entropy.items():
        maps = each if each.ndim == 4 else each[None]
        cells = torch.stack([concepts(one, sample.foreground, threshold=THRESHOLD) for one in maps])
        arrays[f"entropy-{name}"] = each.numpy().astype(np.float16)
        arrays[f"concepts-{name}"] = (cells if each.ndim == 4 else cells[0]).numpy()
    arrays |= {f"attribution-{name}": of.numpy().astype(np.float16) for name, of in attributed.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue(), checksum=True)


# --- the entropies of each network, kept as they are found ---

_FIELDS = ("entropy", "error", "energies", "sigma_f")


@dataclass(frozen=True)
class EntropyMaps:
    """What was found of one network."""

    entropy: Tensor  # H [I, g, g], NaN for images that it does not respond to
    error: Tensor  # its standard error, [I, g, g]
    energies: Tensor  # a [I, g, g]
    sigma_f: Tensor  # [I]

    def select(self, chosen: Tensor) -> EntropyMaps:
        """A subset of the images, by a bool [I]."""
        return EntropyMaps(*(getattr(self, name)[chosen] for name in _FIELDS))


def _all_entropies(
    runs: Sequence[RunToExplain],
    teacher: PreparedModel | None,
    tap: str | None,
    sample: ImageSample,
    search: EntropySearch,
    observer: Observer,
) -> tuple[list[list[EntropyMaps]], EntropyMaps | None]:
    """The entropies of each run's checkpoints, and of the teacher."""
    count = len(sample.rows)
    total = count * (sum(len(run.checkpoints) for run in runs) + (teacher is not None))
    device = resolve_device("auto")
    done = 0

    def advance(images: int) -> None:
        observer.phase("finding entropies", done + images, total)

    found: list[list[EntropyMaps]] = []
    for run in runs:
        run.student.model.to(device)
        found.append([])
        for checkpoint in run.checkpoints:
            # Read again for each checkpoint: however many there are, one is in memory.
            load_weights(run.student.model, checkpoint.path, field="student")
            path = run.path / FOLDER / f"epoch-{checkpoint.epoch:g}.npz"
            found[-1].append(entropies(run.student, run.tap, sample, search, path, advance))
            done += count
    if teacher is None:
        return found, None
    teacher.model.to(device)
    # The same name where it has it, as networks of one family do.
    place = tap if tap in dict(teacher.model.named_modules()) else None
    place = place or last_stage(teacher, sample.images[:4])
    return found, entropies(teacher, place, sample, search, runs[0].path / FOLDER / "teacher.npz", advance)


def entropies(
    prepared: PreparedModel,
    tap: str,
    sample: ImageSample,
    search: EntropySearch,
    path: Path,
    advance: Callable[[int], None],
) -> EntropyMaps:
    """The entropies of one network, from its file where they are there, else found and kept, some images at a time.

    An image's noise depends on the seed and its row alone, so all networks see the same.
    """
    key = {
        "weights": state_hash(prepared.model),
        "preprocess": config.model_dump(mode="json") if (config := prepared.preprocess_config) is not None else None,
        "tap": tap,
        "images": hashlib.sha256(canonical_json([sample.fingerprint, list(sample.rows)])).hexdigest(),
        "search": search.as_dict(),
    }
    held = _read_entropies(path, key)
    done = len(held["sigma_f"]) if held else 0
    advance(done)
    device = device_of(prepared.model)
    features, pipe = TapFeatures(prepared.model, tap), prepared.preprocess().to(device)
    for start in range(done, len(sample.rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        found = pixel_entropy_with_error(
            features,
            pipe(sample.images[part].to(device)),
            **{name: getattr(search, name) for name in ("grid", "weight", "stop", "seed", "passes")},
            index=sample.rows[part],
        )
        fresh = {name: getattr(found, name).double().cpu().numpy() for name in _FIELDS}
        held = {name: np.concatenate([held[name], fresh[name]]) for name in _FIELDS} if held else fresh
        buffer = io.BytesIO()
        np.savez(buffer, key=np.frombuffer(canonical_json(key), dtype=np.uint8), **held)  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getvalue(), checksum=True)
        advance(len(held["sigma_f"]))
    return EntropyMaps(*(torch.from_numpy(held[name]) for name in _FIELDS))


def _read_entropies(path: Path, key: dict[str, Any]) -> dict[str, npt.NDArray[np.float64]]:
    """What a file holds, where it is of the same key; nothing where it is not, or damaged."""
    try:
        verify(path)
        with np.load(path) as file:
            if bytes(file["key"]) != canonical_json(key):
                return {}
            held = {name: np.asarray(file[name]) for name in _FIELDS}
    except (OSError, ValueError, KeyError, BadZipFile):
        return {}
    return held if len({len(each) for each in held.values()}) == 1 else {}


def responding_images(maps: Sequence[EntropyMaps]) -> Tensor:
    """Which images all networks respond to, bool [I]."""
    there = torch.stack([one.sigma_f > 0 for one in maps]).all(0)
    if int(there.sum()) < 2:
        expected = (
            "features that move with the images; noise changes nothing (σ_f = 0) in all images but one, or in all"
        )
        raise BadInput("--tap", f"{int(there.sum())} of {len(there)} images with a response", expected)
    return there
