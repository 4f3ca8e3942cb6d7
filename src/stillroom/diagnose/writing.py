"""Writing a diagnosis: ``diagnosis.json`` for programs, ``diagnosis.html`` for a person."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from stillroom.diagnose.finding import VERDICTS, Finding
from stillroom.errors import BadInput
from stillroom.files import write_json

SCHEMA = 1
NAME = "diagnosis.json"
Kind = Literal["recipe", "run", "study"]

# What is wrong without costing a right answer.
_NOT_ACCURACY = ("miscalibrated",)
# What the study of the remedies calls the same student without its teacher.
_LABELS = "labels"
# And all remedies together.
_ALL = "all-fixes"


def write_diagnosis(
    folder: Path, what: str, findings: Sequence[Finding], tried: Mapping[str, Any] | None = None
) -> Path:
    """Write what was found as ``diagnosis.json``, and the page ``diagnosis.html`` beside it.

    Args:
        folder: where to; made if it is not there.
        what: what was diagnosed, as the user named it: a recipe file, a run's or a study's folder.
        findings: what was found, causes first.
        tried: what :func:`stillroom.diagnose.trying.try_remedies` returned.

    Returns:
        The page.

    Raises:
        BadInput: the folder cannot be written.

    >>> import tempfile
    >>> page = write_diagnosis(Path(tempfile.mkdtemp()), "runs/kl", [Finding("diverged", "ok", "It did not.")])
    >>> page.name, (page.parent / "diagnosis.json").exists()
    ('diagnosis.html', True)
    """
    # Here, not above: whoever only asks for findings need not wait for the page.
    from stillroom.report.diagnosis.page import write_diagnosis_page

    try:
        write_json(folder / NAME, diagnosis_of(what, findings, tried))
    except OSError as error:
        raise BadInput("--out", str(folder), f"a folder that can be written ({error.strerror})") from None
    return write_diagnosis_page(folder)


def diagnosis_of(what: str, findings: Sequence[Finding], tried: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What ``diagnosis.json`` holds: the findings from sick to skipped, each with the command that tries its remedy.

    Args:
        what: what was diagnosed.
        findings: what was found.
        tried: what remedies brought back.

    >>> told = diagnosis_of("runs/kl", [Finding("diverged", "ok", "It did not.")])
    >>> told["verdict"], told["headline"]
    ('ok', 'Nothing is wrong with this run, as far as 1 check can tell.')
    """
    kind = kind_of(what)
    ordered = sorted(findings, key=lambda one: VERDICTS.index(one.verdict))
    first = _first(ordered, tried)
    lead = _lead(kind, ordered)
    return {
        "schema": SCHEMA,
        "what": what,
        "kind": kind,
        "verdict": ordered[0].verdict if ordered else "skipped",
        "headline": headline(kind, ordered, tried),
        "lead": lead,
        "do_first": first.remedy.words if first is not None and first.remedy is not None else None,
        "command": command_of(what, kind, first) if first is not None else None,
        "findings": [{**_plain(one.as_dict()), "command": command_of(what, kind, one)} for one in ordered],
        "tried": _plain(tried) if tried is not None else None,
    }


def kind_of(what: str) -> Kind:
    """What was diagnosed, by what lies there; a run where nothing does.

    >>> kind_of("recipes/digits.yaml")
    'recipe'
    """
    path = Path(what)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return "recipe"
    return "study" if (path / "study.yaml").is_file() else "run"


def headline(kind: Kind, findings: Sequence[Finding], tried: Mapping[str, Any] | None = None) -> str:
    """The diagnosis in a line: how much is wrong, what to do first, and what that brought where it was tried.

    Args:
        kind: what was diagnosed.
        findings: from sick to skipped.
        tried: what remedies brought back.
    """
    first = _first(findings, tried)
    do = f" Do this first: {first.remedy.words}" if first is not None and first.remedy is not None else ""
    return f"{_lead(kind, findings)}{do}{_brought(tried)}"


def _lead(kind: Kind, findings: Sequence[Finding]) -> str:
    """How much is wrong."""
    sick = [one for one in findings if one.verdict == "problem"]
    suspect = sum(one.verdict == "warning" for one in findings)
    costly = sum(one.check not in _NOT_ACCURACY for one in sick)
    judged = sum(one.verdict != "skipped" for one in findings)
    if not judged:
        return "No check could tell anything."
    if kind == "study" and sick:
        return f"{_things(len(sick))} {'is' if len(sick) == 1 else 'are'} wrong with this study."
    if costly:
        verb = "will cost" if kind == "recipe" else "costs" if costly == 1 else "cost"
        also = "; its probabilities cannot be used either" if costly < len(sick) else ""
        return f"{_things(costly)} {verb} this student accuracy{also}."
    if sick:
        return "Nothing was found that costs this student accuracy, but its probabilities cannot be used."
    if suspect:
        may = "be wrong with this study" if kind == "study" else "cost this student accuracy"
        return f"Nothing is surely wrong; {_things(suspect)} may {may}."
    return f"Nothing is wrong with this {kind}, as far as {'1 check' if judged == 1 else f'{judged} checks'} can tell."


def _first(findings: Sequence[Finding], tried: Mapping[str, Any] | None = None) -> Finding | None:
    """The finding to mend first, of those with a remedy: the one whose remedy brought most where one is known to help.

    Else the first that is sick and costs accuracy, else the first that ails; none whose remedy made it worse.
    """
    fixes = [one for one in (tried or {}).get("fixes", []) if one["name"] != _ALL]
    worse = {check for one in fixes if one["verdict"] == "worse" for check in one["checks"]}
    better = [one for one in fixes if one["verdict"] == "better"]
    best = max(better, key=lambda one: one["regained"])["checks"] if better else []
    ailing = [one for one in findings if one.verdict in ("problem", "warning") and one.remedy is not None]
    ailing = [one for one in ailing if one.check not in worse]
    known = [one for one in ailing if one.check in best]
    costly = [one for one in ailing if one.verdict == "problem" and one.check not in _NOT_ACCURACY]
    return next(iter(known or costly or ailing), None)


def _things(count: int) -> str:
    return "1 thing" if count == 1 else f"{count} things"


def _brought(tried: Mapping[str, Any] | None) -> str:
    """What the remedy that brought most came to; nothing where none is known to have helped."""
    fixes = [one for one in (tried or {}).get("fixes", []) if one.get("verdict") == "better"]
    if not fixes:
        return "" if not (tried or {}).get("fixes") else " Tried, no remedy is known to help yet."
    best = max(fixes, key=lambda one: one["regained"])
    measure = (tried or {}).get("measure", {})
    digits = measure.get("digits", 2)
    unit = " points" if measure.get("unit") == "%" else ""
    told = f" Tried: {best['name']} regained {best['regained']:.{digits}f}{unit}."
    is_without = (tried or {}).get("best") == _LABELS and (tried or {})["labels"]["verdict"] == "better"
    return f"{told} From labels alone the same student is better still." if is_without else told


def command_of(what: str, kind: Kind, finding: Finding) -> str | None:
    """The command line that trains with a finding's remedy; None where a recipe cannot say it.

    >>> from stillroom.diagnose.finding import Remedy
    >>> longer = Finding("under_training", "problem", "", remedy=Remedy("", {"training.epochs": 24}))
    >>> command_of("recipe.yaml", "recipe", longer)
    'stillroom distill recipe.yaml training.epochs=24'
    """
    if finding.remedy is None or not finding.remedy.overrides:
        return None
    path = Path(what)
    if kind == "study":
        run = finding.evidence.get("run")
        if not isinstance(run, str):
            return None
        path = path / run / "recipe.yaml"
    elif kind == "run":
        path = path / "recipe.yaml"
    verb = "distill" if _has_teacher(path) else "train"
    return shlex.join(["stillroom", verb, path.as_posix(), *finding.remedy.arguments()])


def _has_teacher(path: Path) -> bool:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return True
    return not isinstance(content, dict) or content.get("teacher") is not None


def _plain(content: Any) -> Any:
    """The same in what JSON holds: no tuples, no numbers of numpy's, none that is not finite."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [_plain(value) for value in content]
    if content is None or isinstance(content, bool | int | str):
        return content
    if hasattr(content, "item"):
        return _plain(content.item())
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return str(content)
