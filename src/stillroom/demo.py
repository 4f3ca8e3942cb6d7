"""The demo on embedded digits: is a teacher worth it, with an interval; and a planted fault that an audit finds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput, RunFailed
from stillroom.files import is_partial, write_text
from stillroom.study.compare import compare
from stillroom.study.config import Study, parse_study
from stillroom.study.engine import engine_maker
from stillroom.study.progress import StudyObserver

STUDY, SCRIPT, AUDIT = "study", "faulty_distillation.py", "audit"
# No module of the package: importing it would train.
_PACKAGED = "faulty_distillation.txt"
# Chosen so that a teacher matters: it saw 1,297 digits, the student may see 100. The task was chosen on seeds 10 to 14.
_STUDY: dict[str, Any] = {
    "name": "demo",
    "question": "A teacher learned from all 1,297 digits; its student may see 100 of them. Does the teacher help? (The "
    "task was chosen so that it can: a demonstration, not evidence about other data.)",
    "seeds": [0, 1, 2, 3, 4],
    "baseline": "labels",
    "recipe": {
        "data": {"source": "digits", "train_limit": 100, "batch_size": 32, "augmentation": {"pad_crop": 1}},
        "student": {"name": "resnet8", "options": {"width": 4}},
        "teacher": {"name": "resnet14", "weights": "study:teacher"},
        "training": {"epochs": 40, "evaluate_every": 5, "optimizer": {"lr": 0.1}},
    },
    "teachers": [
        {
            "name": "teacher",
            "set": {
                "student": {"name": "resnet14"},
                "data.train_limit": None,
                "data.batch_size": 64,
                "training.epochs": 15,
            },
        }
    ],
    "methods": [
        {"name": "labels", "note": "The labels alone.", "set": {"losses": [{"name": "cross_entropy"}]}},
        {
            "name": "distilled",
            "note": "The same student with the teacher's softened outputs.",
            "set": {
                "losses": [
                    {"name": "cross_entropy", "weight": 0.1},
                    {"name": "kl", "weight": 0.9, "temperature": 4},
                ]
            },
        },
    ],
}


def demo_study() -> Study:
    """The demo's study, as `stillroom compare` takes it."""
    return parse_study(_STUDY)


def run_demo(out: Path, observer: StudyObserver, say: Callable[[str], None], *, fork: bool = False) -> dict[str, Any]:
    """Run the demo; a stopped demo continues.

    Args:
        fork: see :func:`stillroom.study.engine.engine_maker`.

    Returns:
        ``report`` and ``audit`` (pages), ``results`` of the study, ``problems`` of the audit, ``seconds``, and a
        ``conclusion`` in lines.

    Raises:
        BadInput: the folder holds something else.
        RunFailed: a run failed, or the audited script did.
    """
    began = time.perf_counter()
    known = {STUDY, SCRIPT, AUDIT}
    if out.exists() and (not out.is_dir() or not {i.name for i in out.iterdir() if not is_partial(i)} <= known):
        raise BadInput("--out", str(out), "a new or empty folder, or a demo's")
    say("1/2  a teacher, then ten students: five seeds from labels alone, the same five distilled")
    found = compare(demo_study(), out / STUDY, engine_maker("local", None, None, fork), observer)
    # Here, not above: the charts take half a second to import, and no step waits for them.
    from stillroom.report.study.page import write_run_pages, write_study_report

    write_run_pages(out / STUDY)
    page = write_study_report(out / STUDY)
    say(f"2/2  stillroom audit {out / SCRIPT}: a plain PyTorch script with a fault that many wrote")
    script = files("stillroom").joinpath("examples", _PACKAGED).read_text(encoding="utf-8")
    write_text(out / SCRIPT, script)
    problems = _audit(out / SCRIPT, out / AUDIT)
    return {
        "report": str(page),
        "audit": str(out / AUDIT / "diagnosis.html"),
        "results": found.results,
        "problems": problems,
        "seconds": round(time.perf_counter() - began, 1),
        "conclusion": [*found.results["conclusions"], *_problem_lines(problems)],
    }


def _audit(script: Path, out: Path) -> list[dict[str, Any]]:
    """The problems that `stillroom audit` finds in a script, which runs in a process of its own."""
    command = [sys.executable, "-m", "stillroom", "audit", "--json", "--stop", "--out", str(out), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"the audit of {script} ended with exit code {done.returncode}: {done.stderr[-500:]}")
    findings = json.loads(done.stdout)["findings"]
    return [each for each in findings if each["verdict"] == "problem"]


def _problem_lines(problems: list[dict[str, Any]]) -> list[str]:
    return [f"audit: {each['check']} at {each['location']}: {each['summary']}" for each in problems]
