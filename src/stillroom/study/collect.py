"""The finished runs of a study, read and checked: an error names the damaged file, which never becomes a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from stillroom.errors import BadInput
from stillroom.files import canonical_json, digest
from stillroom.recipe import Recipe, parse_recipe
from stillroom.schema.base import read_json, read_jsonl, read_text
from stillroom.schema.continual import INCREMENTAL_FILE, FinishedRecord
from stillroom.schema.measures import compare_outputs, figures_of, measure_outputs
from stillroom.schema.predictions import read_predictions
from stillroom.schema.run import Environment, MetricsLine, RunSummary
from stillroom.study.config import MEASURES, MEASURES_OF
from stillroom.study.plan import PlannedRun, StudyFolder, StudyPlan
from stillroom.tasks import TASK_INFO
from stillroom.wording import plain

# Of any task; a run has those of its own.
TEST_FIGURES = tuple(
    dict.fromkeys(each.name for info in TASK_INFO.values() for each in (*info.measures, *info.compared))
)
_CHUNK = 8192
# The C parser, where it was built: eight times as fast, which counts in a study of hundreds of runs.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def measure_of(summary: RunSummary, measure: str) -> float | None:
    """A measure in a run's summary; None where the run has none."""
    info = MEASURES[measure]
    found = getattr(getattr(summary, info.part) if info.part else summary, info.key or measure, None)
    return None if found is None else float(found)


def figure_of(summary: RunSummary, name: str) -> float | None:
    """A figure of an evaluation as the summary reports it."""
    found = getattr(summary, name, None)
    return getattr(summary.measures, name, None) if found is None else found


def why_no_measure(summary: RunSummary, measure: str) -> str:
    """Why a run has no such measure, where it says so; else empty."""
    info = MEASURES[measure]
    if measure not in MEASURES_OF[summary.task]:
        return f"the run is of {TASK_INFO[summary.task].title}"
    if info.part == "incremental":
        return "its classes did not come in tasks" if summary.incremental is None else ""
    if info.part != "relations":
        return ""
    if summary.relations is None:
        return "the student does not end in a linear layer, or has too many classes"
    return summary.relations.why.get(info.key, "")


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation of ``metrics.jsonl``: the optimizer steps done, and its figures."""

    step: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class PredictionFigures:
    """The figures that ``predictions.safetensors`` gives, computed again in double precision."""

    labels: str  # SHA-256 of the labels that the run was evaluated with
    count: int  # how many there are
    correct: int | None  # how many top-1 answers are right; None where an image has no one class
    figures: Mapping[str, float]  # `nll` or what the task has, and with a teacher `agreement` and `teacher_kl`


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a study."""

    planned: PlannedRun  # the run that the study asked for
    summary: RunSummary  # what it came to
    recipe: Recipe  # the recipe in the run's folder
    recipe_hash: str  # that recipe's hash, of the file as it is
    evaluations: tuple[EvaluationRecord, ...]  # on the test split, in the order of steps
    predictions: PredictionFigures  # what its predictions come to
    environment: Environment  # versions and machine
    record: FinishedRecord | None = None  # of one whose classes came in tasks, what it says of each


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that has no result, and why."""

    planned: PlannedRun
    reason: str
    status: Literal["failed", "unfinished", "waiting"]


@dataclass(frozen=True)
class CollectedRuns:
    """What there is of a study, in the order of its plan, whatever the order in which runs finished."""

    runs: tuple[FinishedRun, ...]
    missing: tuple[UnfinishedRun, ...]


def collect(folder: StudyFolder, plan: StudyPlan, failures: Mapping[str, str] | None = None) -> CollectedRuns:
    """Read the finished runs of a study.

    Args:
        failures: run id → why it failed; a run that is finished all the same counts as finished.

    Raises:
        BadInput: a file of a finished run is missing or damaged.
    """
    runs, missing = [], []
    place = str(folder.path.resolve())
    for planned in plan.runs:
        path = folder.run(planned.pair, planned.method, planned.seed)
        reason = (failures or {}).get(planned.id)
        if (path / "summary.json").is_file():
            runs.append(read_run(path, planned))
        elif reason is not None:
            # Where the study lies is no result.
            reason = reason.replace(place + "/", "").replace(place, "the study folder")
            missing.append(UnfinishedRun(planned, f"failed: {plain(reason)}", "failed"))
        elif (path / "recipe.yaml").exists():
            missing.append(UnfinishedRun(planned, "not finished yet", "unfinished"))
        else:
            missing.append(UnfinishedRun(planned, "not run yet", "waiting"))
    return CollectedRuns(tuple(runs), tuple(missing))


def read_run(path: Path, planned: PlannedRun) -> FinishedRun:
    """Read a finished run; BadInput where a file is missing or damaged."""
    summary = read_json(RunSummary, path / "summary.json")
    recipe, recipe_hash = _read_recipe(path / "recipe.yaml")
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise BadInput("run", str(metrics), "a file of a finished run")
    return FinishedRun(
        planned=planned,
        summary=summary,
        recipe=recipe,
        recipe_hash=recipe_hash,
        evaluations=tuple(
            EvaluationRecord(line.step, {name: line.figures[name] for name in TEST_FIGURES if name in line.figures})
            for line in read_jsonl(MetricsLine, metrics)
            if line.split == "test"
        ),
        predictions=read_prediction_figures(path / "predictions.safetensors"),
        environment=read_json(Environment, path / "environment.json"),
        record=read_json(FinishedRecord, path / INCREMENTAL_FILE) if summary.incremental is not None else None,
    )


def read_prediction_figures(path: Path) -> PredictionFigures:
    """Compute again the figures that a run's predictions give.

    Raises:
        BadInput: the file is missing, truncated or damaged.
    """
    found = read_predictions(path, images=False, task=None)
    if found.task != "single_label":
        measures = measure_outputs(found.task, found.student_logits, found.labels, found.class_names)
        figures = figures_of(measures)
        if found.teacher_logits is not None:
            figures |= compare_outputs(found.task, found.student_logits, found.teacher_logits)
        return PredictionFigures(digest(found.labels.astype("<f4").tobytes()), len(found.labels), None, figures)
    labels, student, teacher = found.labels, found.student_logits, found.teacher_logits
    count = len(labels)
    answers = student.argmax(axis=1)
    sums = {"nll": 0.0} if teacher is None else {"nll": 0.0, "teacher_kl": 0.0}
    # In pieces, so that a thousand classes do not need all of their probabilities at once.
    for start in range(0, count, _CHUNK):
        piece = slice(start, start + _CHUNK)
        mine = _log_softmax(student[piece])
        sums["nll"] -= float(np.take_along_axis(mine, labels[piece, None], axis=1).sum())
        if teacher is not None:
            theirs = _log_softmax(teacher[piece])
            sums["teacher_kl"] += float((np.exp(theirs) * (theirs - mine)).sum())
    figures = {name: total / count for name, total in sums.items()}
    if teacher is not None:
        figures["agreement"] = 100.0 * int((answers == teacher.argmax(axis=1)).sum()) / count
    return PredictionFigures(digest(labels.astype("<i8").tobytes()), count, int((answers == labels).sum()), figures)


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _read_recipe(path: Path) -> tuple[Recipe, str]:
    text = read_text(path)
    try:
        content = yaml.load(text, _Loader)
        return parse_recipe(content), digest(canonical_json(content))
    except BadInput as error:
        raise error.within(str(path)) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BadInput("run", str(path), f"valid YAML ({type(error).__name__})") from None
