"""How near a run in tasks comes to joint training, which has all images of all classes seen: Ω, made of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillroom.continual.metrics import offline_normalised
from stillroom.continual.summary import NAME
from stillroom.errors import BadInput
from stillroom.files import write_json
from stillroom.run.records import read_json

OFFLINE = "offline.json"
_ZERO = "joint training was right on no image after some task"


def compare_offline(run: Path, joint: Path) -> dict[str, Any]:
    """Work out Ω of a finished run in tasks, and write it beside it as ``offline.json``.

    Args:
        run: its folder.
        joint: the folder of the same tasks, learned jointly.

    Returns:
        ``omega`` (None with ``why`` where it is undefined), and the accuracies after each task of both.

    Raises:
        BadInput: one of them is no such run, or they are of other tasks or other data.
    """
    mine, other = (_record(folder) for folder in (run, joint))
    if not (other.get("memory") or {}).get("joint"):
        raise BadInput("--joint", str(joint), "a run that learned jointly: `stillroom incremental --preset joint`")
    for what in ("class_names", "class_order"):
        if mine.get(what) != other.get(what):
            raise BadInput("--joint", str(joint), "a run of the same classes in the same order")
    if [task["classes"] for task in mine["tasks"]] != [task["classes"] for task in other["tasks"]]:
        raise BadInput("--joint", str(joint), "a run of the same tasks")
    accuracies, ceiling = ([task["accuracy"] for task in each["tasks"]] for each in (mine, other))
    omega = offline_normalised(accuracies, ceiling)
    told = {"schema": 1, "omega": omega, "why": None if omega is not None else _ZERO}
    content = {**told, "accuracies": accuracies, "offline": ceiling}
    write_json(run / OFFLINE, content)
    return content


def _record(folder: Path) -> dict[str, Any]:
    if not (folder / NAME).is_file() or not (folder / "summary.json").is_file():
        raise BadInput("--joint", str(folder), "the folder of a finished run in tasks")
    return read_json(folder / NAME)
