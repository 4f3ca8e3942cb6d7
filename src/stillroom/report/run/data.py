"""A finished run folder, read and checked: what is wrong becomes one line and never reaches the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stillroom.errors import BadInput
from stillroom.files import parse_yaml
from stillroom.schema.base import clean, read_json, read_jsonl, read_optional, read_text
from stillroom.schema.continual import INCREMENTAL_FILE, JOINT_FILE, FinishedRecord, JointComparison
from stillroom.schema.fidelity import FIDELITY, Fidelity, read_fidelity
from stillroom.schema.predictions import Predictions, read_run_predictions
from stillroom.schema.run import (
    ENVIRONMENT,
    METRICS,
    RELATION_EPOCHS,
    RELATIONS,
    RESCALING,
    SUMMARY,
    TIMING,
    Environment,
    MetricsLine,
    ModelScores,
    RelationEpoch,
    RelationsRecord,
    RescalingEpoch,
    RunSummary,
    TeacherSummary,
    check_finished,
    read_timing,
)
from stillroom.wording import IMAGES, TEXTS, Unit

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class RunData:
    """One finished run."""

    path: Path  # the folder
    summary: RunSummary  # what the run came to
    recipe_text: str | None  # ``recipe.yaml`` as it is written, where it is there
    recipe: Row  # the same, parsed
    train: tuple[Row, ...]  # the figures of each line of training, with ``step`` and ``epoch``
    validation: tuple[Row, ...]  # those of each evaluation on the validation images, where there are some
    test: tuple[Row, ...]  # those of each evaluation on the test split
    latency: dict[str, dict[int, float]]  # for ``student`` and ``teacher`` milliseconds by batch size
    latency_by_tokens: dict[str, dict[int, float]]  # of texts: milliseconds at batch 1 by the number of tokens
    latency_threads: tuple[int, ...]  # the CPU threads that these were measured with
    environment: dict[str, str]  # versions and machine, as text
    predictions: Predictions | None  # of the test images
    checkpoints: int  # how many of the student's the folder holds
    fidelity: Fidelity | None  # the map of ``stillroom fidelity``
    incremental: FinishedRecord | None  # of a run whose classes came in tasks
    joint: JointComparison | None  # that run compared with joint training on the same tasks
    relations: RelationsRecord | None  # how the last layers relate the classes
    relation_epochs: tuple[RelationEpoch, ...]  # the same for the student after each epoch
    rescaling: tuple[RescalingEpoch, ...]  # how the teacher rescaled the gradient of each sample, by epoch

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.summary.name

    @property
    def in_python(self) -> bool:
        """Whether it was made of modules and data in Python, which its recipe cannot make again."""
        return (self.recipe.get("data") or {}).get("source") == "python"

    @property
    def unit(self) -> Unit:
        """What a sample of its data is called."""
        return IMAGES if self.summary.data.vocabulary is None else TEXTS

    @property
    def student(self) -> ModelScores:
        """The student on the test split."""
        return self.summary.student

    @property
    def teachers(self) -> dict[str, ModelScores]:
        """The teachers that were scored on the test split, by name."""
        return {name: one.scores for name, one in self.summary.teachers.items() if one.scores is not None}

    @property
    def teacher(self) -> ModelScores | None:
        """The one that the student is compared with, of several the most accurate.

        None without scores, and where it follows the student: that is no other model.
        """
        return None if self.compared_teacher is None else self.compared_teacher.scores

    @property
    def compared_teacher(self) -> TeacherSummary | None:
        """What the summary says of it."""
        teacher = self.summary.teacher
        return None if teacher is None or teacher.follows_student else teacher

    @property
    def curve(self) -> tuple[str, tuple[Row, ...]]:
        """The split that was measured along the way, and its rows."""
        return ("validation", self.validation) if self.validation else ("test", self.test)

    @property
    def distilled(self) -> bool:
        """Whether the student learned from a teacher, which may also be there for comparison alone."""
        return self.summary.distilled

    @property
    def teacher_word(self) -> str:
        """What sentences call the one that the student is compared with: ``peer`` where it learned, too."""
        return self.teacher_title(self.summary.reference or "").partition(" ")[0].lower()

    def teacher_title(self, name: str) -> str:
        """What the page calls a teacher."""
        teacher = self.summary.teachers.get(name)
        title = "Peer" if teacher is not None and teacher.peer else "Teacher"
        return f"{title} {name}" if len(self.summary.teachers) > 1 else title


def read_run(path: Path) -> RunData:
    """Read a finished run.

    Returns:
        What its files say. Files that a run may lack (predictions, timing, environment, fidelity) leave their part
        empty.

    Raises:
        BadInput: the folder is missing, is not a run folder, holds an unfinished run, or a file in it is damaged.
    """
    check_finished(path)
    summary = read_json(RunSummary, path / SUMMARY)
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for line in read_jsonl(MetricsLine, path / METRICS):
        splits[line.split].append({"step": line.step, "epoch": line.epoch, **line.figures})
    events = [event for event in read_timing(path / TIMING) if event.event == "latency" and event.milliseconds]
    latency, by_tokens = (
        {
            event.who: {int(b): ms for b, ms in (getattr(event, key) or {}).items() if b.isdigit() and ms > 0}
            for event in events
            if event.who is not None
        }
        for key in ("milliseconds", "by_tokens")
    )
    environment = read_optional(Environment, path / ENVIRONMENT)
    recipe_text, recipe = _recipe(path / "recipe.yaml")
    return RunData(
        path=path,
        summary=summary,
        recipe_text=recipe_text,
        recipe=recipe,
        train=tuple(splits["train"]),
        validation=tuple(splits["validation"]),
        test=tuple(splits["test"]),
        latency=latency,
        latency_by_tokens=by_tokens,
        latency_threads=tuple(sorted({event.threads for event in events if event.threads is not None})),
        environment={} if environment is None else _flat(environment.as_dict()),
        predictions=read_run_predictions(path, summary),
        checkpoints=len(list((path / "checkpoints").glob("epoch-*.safetensors"))),
        fidelity=read_fidelity(path / FIDELITY, summary.recipe_hash),
        incremental=read_optional(FinishedRecord, path / INCREMENTAL_FILE),
        joint=read_optional(JointComparison, path / JOINT_FILE),
        relations=read_optional(RelationsRecord, path / RELATIONS),
        relation_epochs=tuple(read_jsonl(RelationEpoch, path / RELATION_EPOCHS)),
        rescaling=tuple(read_jsonl(RescalingEpoch, path / RESCALING)),
    )


def _recipe(path: Path) -> tuple[str | None, Row]:
    if not path.is_file():
        return None, {}
    text = read_text(path)
    try:
        content = parse_yaml(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise BadInput(path.name, str(path), "valid YAML") from None
    return str(clean(text)), content if isinstance(content, dict) else {}


def _flat(content: Row, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys, everything as text.

    >>> _flat({"a": {"b": 1}, "c": None})
    {'a.b': '1', 'c': '–'}
    """
    rows: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            rows[f"{prefix}{key}"] = ", ".join(map(str, value))
        else:
            rows[f"{prefix}{key}"] = "–" if value is None else str(value)
    return rows
