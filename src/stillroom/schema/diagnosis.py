"""``diagnosis.json``: what each check found, what to do first, and what the remedies brought."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from stillroom.errors import BadInput
from stillroom.files import parse_yaml
from stillroom.schema.base import Items, JsonFile, JsonObject, is_finite, read_json, write
from stillroom.wording import Unit

NAME = "diagnosis.json"
Verdict = Literal["problem", "warning", "ok", "skipped"]
# The order in which findings are shown.
VERDICTS: tuple[Verdict, ...] = ("problem", "warning", "ok", "skipped")
Kind = Literal["recipe", "run", "study", "loss", "setup", "loop"]
KIND_WORDS: Mapping[Kind, str] = {"setup": "set-up", "loop": "training loop"}
# Method names in the study that verifies remedies.
UNCHANGED, ALL_REMEDIES, LABELS = "unchanged", "all-remedies", "labels"

# Problems that cost no accuracy.
_NOT_ACCURACY = ("miscalibrated",)
# Reasons of skipped checks that a headline gives.
_REASONS = 2
_FINITE = ConfigDict(allow_inf_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON holds it: lists for tuples and sets, Python numbers for numpy's, None for NaN and infinity.

    >>> plain({"share": float("nan"), "images": (1, 2)})
    {'share': None, 'images': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


Plain = Annotated[dict[str, Any], BeforeValidator(plain)]


@dataclass(frozen=True, config=_FINITE)
class Remedy:
    """What to change, in words, as recipe overrides or as a line of code.

    Attributes:
        words: one sentence that says what to do.
        overrides: dotted recipe keys to new values; empty where no recipe can make the change.
        code: the line to write instead, where the code is the user's.

    >>> Remedy("Use the teacher's own normalisation.", {"teacher.preprocess": "imagenet"}).arguments()
    ['teacher.preprocess=imagenet']
    """

    words: str
    overrides: Plain = Field(default_factory=dict)
    code: str | None = None

    def arguments(self) -> list[str]:
        """The overrides as command line arguments."""
        values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.overrides.items()}
        return [f"{key}={value}" for key, value in values.items()]


@dataclass(frozen=True, config=_FINITE)
class Plot:
    """Evidence to draw."""

    # ``bars`` (a value for each label), ``line`` (y against x) or ``histogram`` (counts between edges).
    kind: Literal["bars", "line", "histogram"]
    title: str  # what it shows
    x: Items[Any]  # labels, positions, or the n + 1 edges
    y: Items[Annotated[float, Strict()]]  # n values
    x_label: str = ""  # name and unit of the x axis
    y_label: str = ""  # name and unit of the y axis
    mark: float | None = None  # where the threshold lies on the axis of the values, if it has one

    @model_validator(mode="after")
    def _x_fits_y(self) -> Plot:
        wanted = len(self.y) + (self.kind == "histogram")
        if len(self.x) != wanted:
            raise ValueError(f"x: a list of {wanted}")
        if self.kind != "bars" and not all(is_finite(value) for value in self.x):
            raise ValueError("x: finite numbers")
        return self


@dataclass(frozen=True, config=_FINITE)
class Finding:
    """What one check found.

    Attributes:
        check: its id.
        verdict: ``problem`` (it costs accuracy), ``warning`` (it may), ``ok``, or ``skipped`` (it could not be judged).
        summary: one sentence with the number that decided.
        evidence: the measured numbers, by name.
        threshold: where the verdict turns, and why there.
        remedy: what to do; None where nothing needs to be done.
        location: file and line of the user's code; None where there is none.
        source: the paper or the reason behind the check.
        plots: the evidence as plots.
        title: what the page calls the finding; empty for the check's id in words.
        command: the command line that trains with the remedy; None where a recipe cannot say it.
    """

    check: str
    verdict: Verdict
    summary: str
    evidence: Plain = Field(default_factory=dict)
    threshold: str = ""
    remedy: Remedy | None = None
    source: str = ""
    plots: Items[Plot] = ()
    location: str | None = None
    title: str = ""
    command: str | None = None

    @property
    def heading(self) -> str:
        """The title, or the check's id in words.

        >>> Finding("head_mismatch", "ok", "").heading
        'Head mismatch'
        """
        words = self.check.replace("_", " ").strip()
        return self.title or words[:1].upper() + words[1:]

    @property
    def needs_attention(self) -> bool:
        """Whether it is a problem or a warning."""
        return self.verdict in ("problem", "warning")

    def filled(self, unit: Unit) -> Finding:
        """The same with what a sample of the data is called filled into its sentences."""
        remedy = self.remedy and replace(self.remedy, words=unit.fill(self.remedy.words))
        plots = tuple(
            replace(each, title=unit.fill(each.title), x_label=unit.fill(each.x_label), y_label=unit.fill(each.y_label))
            for each in self.plots
        )
        return replace(
            self,
            summary=unit.fill(self.summary),
            threshold=unit.fill(self.threshold),
            title=unit.fill(self.title),
            remedy=remedy,
            plots=plots,
        )


class RemedyScore(JsonObject):
    """A mean over seeds with its interval; None where no run finished, or one seed has no interval."""

    name: str = ""
    mean: float | None
    low: float | None
    high: float | None
    seeds: Annotated[int, Field(ge=0)]


class RemedyMeasure(JsonObject):
    """The measure that methods are compared by."""

    name: str = ""
    title: str
    unit: str | None = None
    digits: Annotated[int, Field(ge=0, le=12)]
    higher_is_better: bool = True


class RemedyComparison(JsonObject):
    """What a method scored, and its difference to the unchanged student in points, paired by seed."""

    score: RemedyScore
    regained: float | None
    low: float | None
    high: float | None
    holm_p: Annotated[float, Field(ge=0, le=1)] | None
    verdict: Literal["better", "worse", "undecided"]
    share_of_loss: float | None
    seeds_to_decide: int | None = None


class VerifiedRemedy(RemedyComparison):
    """What one remedy brought.

    ``share_of_loss`` is the share of the difference to the best method; ``relative_steps`` compares lengths of runs.
    """

    name: str
    checks: Items[str]
    overrides: dict[str, Any] = Field(default_factory=dict)
    relative_steps: float | None = None


class Unverified(JsonObject):
    """A check whose remedy could not be trained, and why."""

    check: str
    why: str


class Verification(JsonObject):
    """A study of the remedies: the unchanged student, each remedy, all of them, and labels alone."""

    study: str = ""
    seeds: Items[int]
    measure: RemedyMeasure | None = None
    unchanged: RemedyScore | None = None
    labels: RemedyComparison | None = None
    best: str | None = None
    lost: float | None = None
    remedies: Items[VerifiedRemedy] = ()
    conflicts: Items[str] = ()
    not_verified: Items[Unverified] = ()
    equal: bool = True
    inequalities: Items[str] = ()
    missing: Items[str] = ()

    @property
    def digits(self) -> int:
        """Decimals of the measure."""
        return self.measure.digits if self.measure is not None else 2

    @property
    def unit(self) -> str:
        """Unit of a difference, with a space before it."""
        unit = self.measure.unit if self.measure is not None else None
        return " points" if unit == "%" else f" {unit}" if unit else ""

    @property
    def best_remedy(self) -> VerifiedRemedy | None:
        """The remedy that regained most, of those that are shown to help."""
        better = [one for one in self.remedies if one.verdict == "better" and one.regained is not None]
        return max(better, key=lambda one: one.regained or 0.0, default=None)

    @property
    def labels_are_best(self) -> bool:
        """Whether the same student trained on labels alone is shown to be better, and scores best of all."""
        return self.best == LABELS and self.labels is not None and self.labels.verdict == "better"


class DiagnosisFile(JsonFile):
    """All findings on a recipe, a run, a study, a loss function, a set-up or a training loop."""

    target: str  # what was diagnosed, as the user named it
    kind: Kind  # which of these it is
    verdict: Verdict  # the worst verdict
    # The diagnosis in a line: how much is wrong, what to do first, what that brought where it was verified.
    headline: str = ""
    lead: str  # how much is wrong
    note: str = ""  # what limits the diagnosis: of a script, that it failed or was stopped
    do_first: str | None = None  # the remedy to begin with
    command: str | None = None  # the command line that trains with it
    findings: Items[Finding]  # what the checks found, problems first
    verification: Verification | None = None  # what the remedies brought; None where they were not trained

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that are problems."""
        return tuple(one for one in self.findings if one.verdict == "problem")

    @property
    def kind_words(self) -> str:
        """What was diagnosed, in words: ``loss``, ``set-up``, ``training loop``."""
        return KIND_WORDS.get(self.kind, self.kind)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object to write, every field of a finding in it."""
        content = self.model_dump(mode="json", exclude={"version", "verification"})
        verification = self.verification.as_dict() if self.verification is not None else None
        return {"schema": self.version, **content, "verification": verification}

    @classmethod
    def of(
        cls,
        target: str,
        findings: Iterable[Finding],
        verification: Mapping[str, Any] | Verification | None = None,
        *,
        kind: Kind | None = None,
        note: str = "",
    ) -> Self:
        """Order findings, say what to do first, and give each the command that trains with its remedy.

        Args:
            target: what was diagnosed: a recipe file, the folder of a run or a study, the name of a loss or a script.
            findings: what the checks found, causes first.
            verification: what the remedies brought.
            kind: what was diagnosed; left out: a recipe, a run or a study, by what lies at the path.
            note: what limits the diagnosis, a sentence.

        >>> DiagnosisFile.of("runs/kl", [Finding("diverged", "ok", "It did not.")]).headline
        'Nothing is wrong with this run, as far as 1 check can tell.'
        """
        if isinstance(verification, Mapping):
            verification = Verification.model_validate(plain(verification))
        kind = kind or kind_of(target)
        ordered = [
            _with_command(target, kind, one) for one in sorted(findings, key=lambda one: VERDICTS.index(one.verdict))
        ]
        lead, first = _lead(kind, ordered), _first(ordered, verification)
        do_first = first.remedy.words if first is not None and first.remedy is not None else None
        where = f", at {first.location}" if first is not None and first.location else ""
        advice = f" Do this first{where}: {do_first}" if do_first is not None else ""
        return cls(
            target=target,
            kind=kind,
            verdict=ordered[0].verdict if ordered else "skipped",
            headline=f"{lead}{advice}{_regained(verification)}{' ' if note else ''}{note}",
            lead=lead,
            note=note,
            do_first=do_first,
            command=first.command if first is not None else None,
            findings=tuple(ordered),
            verification=verification,
        )

    def write(self, folder: Path) -> Path:
        """Write ``diagnosis.json`` into a folder; make the folder where needed.

        Raises:
            OSError: the folder cannot be written.
        """
        write(folder / NAME, self)
        return folder / NAME


def read_diagnosis(folder: Path) -> DiagnosisFile:
    """Read ``diagnosis.json`` of a folder; BadInput where there is none, or it is damaged."""
    if not (folder / NAME).is_file():
        raise BadInput("diagnosis", str(folder), f"a folder with {NAME}; `stillroom diagnose` writes it")
    return read_json(DiagnosisFile, folder / NAME)


def kind_of(target: str) -> Kind:
    """Whether a path is a recipe, a run or a study; a run where nothing lies there.

    >>> kind_of("recipes/digits.yaml")
    'recipe'
    """
    path = Path(target)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return "recipe"
    return "study" if (path / "study.yaml").is_file() else "run"


def _lead(kind: Kind, findings: Sequence[Finding]) -> str:
    """How much is wrong."""
    problems = [one for one in findings if one.verdict == "problem"]
    warnings = sum(one.verdict == "warning" for one in findings)
    costly = sum(one.check not in _NOT_ACCURACY for one in problems)
    judged = sum(one.verdict != "skipped" for one in findings)
    subject = f"this {KIND_WORDS.get(kind, kind)}"
    # A student's accuracy is what recipes and runs are judged by; anything else is right or wrong.
    costs_accuracy = kind in ("recipe", "run")
    unsure = _unsure(findings)
    if not judged:
        return _only_reason(findings) or "No check could judge anything."
    if problems and not costs_accuracy:
        return f"{_things(len(problems))} {'is' if len(problems) == 1 else 'are'} wrong with {subject}."
    if costly:
        verb = "will cost" if kind == "recipe" else "costs" if costly == 1 else "cost"
        also = "; its probabilities cannot be used either" if costly < len(problems) else ""
        return f"{_things(costly)} {verb} this student accuracy{also}."
    if problems:
        return "Nothing was found that costs this student accuracy, but its probabilities cannot be used."
    if warnings and len(findings) - judged > judged:
        return f"Nothing is surely wrong; {_things(warnings)} may be. {_not_judged(findings)}"
    if warnings:
        may = "cost this student accuracy" if costs_accuracy else f"be wrong with {subject}"
        return f"Nothing is surely wrong; {_things(warnings)} may {may}{f'; {unsure}' if unsure else ''}."
    checks = "1 check" if judged == 1 else f"{judged} checks"
    if len(findings) - judged > judged:
        return f"{checks} found nothing wrong with {subject}; {_not_judged(findings)}"
    if unsure:
        return f"Nothing wrong was found by {checks}; {unsure}."
    return f"Nothing is wrong with {subject}, as far as {checks} can tell."


def _only_reason(findings: Sequence[Finding]) -> str:
    """Why no check could judge, where all give the same reason; else empty."""
    reasons = {one.summary for one in findings}
    return reasons.pop() if len(reasons) == 1 and all(one.verdict == "skipped" for one in findings) else ""


def _unsure(findings: Sequence[Finding]) -> str:
    """Which checks could not judge for want of another run; empty where there is none."""
    found = [one for one in findings if one.verdict == "skipped" and one.evidence.get("needs")]
    names = ", ".join(one.check for one in found)
    return f"{names} cannot tell without a run from {found[0].evidence['needs']}" if found else ""


def _not_judged(findings: Sequence[Finding]) -> str:
    """How many checks could not judge, and the commonest reasons."""
    reasons = Counter(one.summary.rstrip(".") for one in findings if one.verdict == "skipped")
    common = "; ".join(f"{why} ({count})" for why, count in reasons.most_common(_REASONS))
    more = "; and other reasons" if len(reasons) > _REASONS else ""
    return f"{reasons.total()} could not judge: {common}{more}."


def _things(count: int) -> str:
    return "1 thing" if count == 1 else f"{count} things"


def _first(findings: Sequence[Finding], verification: Verification | None) -> Finding | None:
    """The finding whose remedy comes first: the one that regained most, else the first problem that costs accuracy.

    A remedy that made the student worse is never the first.
    """
    single = [one for one in (verification.remedies if verification else ()) if one.name != ALL_REMEDIES]
    worse = {check for one in single if one.verdict == "worse" for check in one.checks}
    better = [one for one in single if one.verdict == "better"]
    best = max(better, key=lambda one: one.regained or 0.0).checks if better else ()
    open_ones = [one for one in findings if one.needs_attention and one.remedy is not None and one.check not in worse]
    verified = [one for one in open_ones if one.check in best]
    costly = [one for one in open_ones if one.verdict == "problem" and one.check not in _NOT_ACCURACY]
    return next(iter(verified or costly or open_ones), None)


def _regained(verification: Verification | None) -> str:
    """What the best remedy regained, for the headline."""
    if verification is None or not verification.remedies:
        return ""
    best = verification.best_remedy
    if best is None:
        return " No remedy is shown to help yet."
    unit = " points" if verification.unit == " points" else ""
    text = f" Verified: {best.name} regained {best.regained:.{verification.digits}f}{unit}."
    return f"{text} The same student from labels alone is better still." if verification.labels_are_best else text


def _with_command(target: str, kind: Kind, finding: Finding) -> Finding:
    """The finding with the command line that trains with its remedy."""
    if finding.remedy is None or not finding.remedy.overrides:
        return finding
    path = Path(target)
    if kind == "study":
        run = finding.evidence.get("run")
        if not isinstance(run, str):
            return finding
        path = path / run / "recipe.yaml"
    elif kind == "run":
        path = path / "recipe.yaml"
    verb = "distill" if _has_teacher(path) else "train"
    command = shlex.join(["stillroom", verb, path.as_posix(), *finding.remedy.arguments()])
    return replace(finding, command=command)


def _has_teacher(path: Path) -> bool:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return True
    return not isinstance(content, dict) or content.get("teacher") is not None
