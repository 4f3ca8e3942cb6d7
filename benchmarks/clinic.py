"""Does `stillroom diagnose` find what is wrong with a distillation, without false alarms?

    python benchmarks/clinic.py                     # everything: docs/results/clinic.{md,json}
    python benchmarks/clinic.py --digits-only       # no real images; printed only, unless --out names a folder
    python benchmarks/clinic.py --half development  # the half that thresholds may be tuned on, the other not looked at
    python benchmarks/clinic.py --cohort 3   # few labels, losses of one's own; resumes, with --out FOLDER to be kept
    python benchmarks/clinic.py --quick             # one seed of each kind on digits, no remedies: does it run?

Faulty and correct set-ups are made and diagnosed; the checks do not see what was done to them. Each case's
row is kept in the work folder as it comes: the same command goes on where it was stopped, and asks again only where the
checks have changed since. Real images need $STILLROOM_DATA with cifar10, cifar100-part, fashion-mnist and weights; else
those cases are left out, and said so. On a quiet core everything takes about 25 minutes, digits alone 10.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import clinic_correct_recipes
import clinic_faulty_recipes
import clinic_runs
import clinic_second_runs
import clinic_third
import torch
from clinic_remedies import TRIALS, tried
from clinic_report import Clinic, ScoredVersion, digest_of_checks, is_found, page
from clinic_setups import WORLDS, ClinicCase, Kind, SetupMaker, cases_of, has_real_images
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from speed import cores, shown_command, stop_on_signals, when_and_what

from stillroom.diagnose.recipe import diagnose_recipe
from stillroom.diagnose.run import diagnose_run
from stillroom.diagnose.study import diagnose_study
from stillroom.files import write_json, write_text
from stillroom.recipe import load_recipe
from stillroom.schema.diagnosis import VERDICTS, Finding

KINDS: list[Kind] = [
    kind
    for module in (clinic_faulty_recipes, clinic_correct_recipes, clinic_runs, clinic_second_runs, clinic_third)
    for kind in module.KINDS.all
]
PAIR = Path(__file__).parents[1] / "recipes" / "cifar10-resnet56-resnet8.yaml"
# Of the checks as they were imported: what changes on disk from here on is not what is asked.
DIGEST = digest_of_checks()
# What a reader of the score must know of how it came about.
NOTES: tuple[str, ...] = (
    "Before the first look, remedies were tried of which some mend kinds of the scored half, and the accuracy of its "
    "correct set-ups was looked at: two kinds were made over, and a moving average is judged by the test images since.",
    "After the looks above these checks were changed: errors shared with the teacher are a problem from 10% of all "
    "images on, a warning from 5%; a moving average that remembers more than the run is found also where the "
    "student stays at chance; a decay of .01 a step is a problem though the loss still falls; a teacher's term below "
    "1% of the loss is a problem though both agree. So kinds of the first cohort had been seen when the checks were "
    "frozen for the last time, their seeds had not; of the second cohort's scored half neither had.",
    "After the look with `3e1ddc941672` nothing was changed but that a file of the checks was split in two; the same "
    "cases were then diagnosed again, with the same verdicts.",
    "A temperature that is too high is a problem by what it leaves of its purpose: students of digits lost nothing "
    "by it. A capacity gap of 300 times rests on published experience: on digits a teacher of 50 times its "
    "student's size still helped.",
)


class Rows:
    """Rows that were made, one JSON a line, by key; the last of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:  # the last, cut short by whatever ended it
                continue
            self.held[row["key"]] = row

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, on disk first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.held[row["key"]] = row


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What the user asks for, checked before anything runs."""
    parser = argparse.ArgumentParser(
        prog="clinic.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits-only", action="store_true", help="no real images")
    parser.add_argument(
        "--quick", action="store_true", help="one seed of each kind on digits, no remedies; printed only"
    )
    parser.add_argument("--half", choices=("development", "scored"), help="this half alone (both)")
    parser.add_argument("--cohort", type=int, choices=(1, 2, 3), help="this cohort alone (all)")
    parser.add_argument("--no-remedies", action="store_true", help="diagnose alone, train no remedies")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, metavar="WORLD", help=f"of {', '.join(WORLDS)} (all)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds of the cases, in place of the rules'")
    parser.add_argument("--sample", type=int, metavar="N", help="so many cases, drawn at random, in place of all")
    parser.add_argument("--images", type=int, help="training images that a teacher is asked about (512; 320 real ones)")
    parser.add_argument("--work", type=Path, default=Path("runs/clinic"), help="folder of what is made (runs/clinic)")
    parser.add_argument("--out", type=Path, help="folder of clinic.{md,json} (docs/results where everything is done)")
    chosen = parser.parse_args(words)
    if chosen.images is not None and chosen.images < 32:
        parser.error(f"--images: got {chosen.images}; expected 32 or more")
    for name in ("work", "out"):
        path = getattr(chosen, name)
        if path is not None and path.exists() and not path.is_dir():
            parser.error(f"--{name}: got {str(path)!r}; expected a folder, not a file")
    chosen.real = has_real_images() and not chosen.digits_only and not chosen.quick
    is_slice = chosen.seeds is not None or chosen.sample is not None
    chosen.remedies = not (
        chosen.no_remedies or chosen.quick or chosen.half or chosen.worlds or chosen.cohort or is_slice
    )
    if chosen.out is None and chosen.real and chosen.remedies:
        chosen.out = Path("docs/results")
    return chosen


def diagnosed(case: ClinicCase, work: Path, images: int | None) -> dict[str, Any]:
    """Make a case and diagnose it; what went wrong with that, if so."""
    kind, row = case.kind, {"key": case.key, "kind": case.kind.name, "world": case.world, "seed": case.seed}
    row |= {"half": case.half, "about": kind.about, "expects": list(kind.expects), "digest": DIGEST}
    row |= {"cohort": kind.cohort}
    try:
        path = kind.make(SetupMaker(work, case.world, case.seed, kind.dealt_name))
        began, spent = time.perf_counter(), time.process_time()
        findings = _findings(kind, path, images or (512 if case.world == "digits" else 320))
    except Exception as error:  # a case that cannot be made is a case that was missed
        return {**row, "verdicts": {}, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    row |= {"seconds": round(time.perf_counter() - began, 2), "cpu": round(time.process_time() - spent, 2)}
    verdicts: dict[str, str] = {}
    for finding in findings:
        # A study has a finding for each method that ails.
        worse = min(finding.verdict, verdicts.get(finding.check, "skipped"), key=VERDICTS.index)
        verdicts[finding.check] = worse
    reported = [one for one in findings if one.verdict == "problem" or one.check in kind.expects]
    # What is published names no folder of this machine.
    return {
        **row,
        "verdicts": verdicts,
        "summaries": {one.check: one.summary.replace(f"{work}/", "") for one in reported},
    }


def _findings(kind: Kind, path: Path, images: int) -> list[Finding]:
    """What the command says of it."""
    if kind.about == "recipe":
        return diagnose_recipe(load_recipe(path), images=images)
    return diagnose_run(path) if kind.about == "run" else diagnose_study(path)


def timed(recipe: Path) -> dict[str, float]:
    """Seconds of the command on the CIFAR-10 pair, in a process of its own."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "stillroom", "diagnose", str(recipe), "training.device=cpu", "--json"]
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(wall, 1), "cpu": round(cpu, 1), "cores": cores()}


def main(words: Sequence[str]) -> int:
    """Make, diagnose, score, write; exit codes as stillroom's own."""
    chosen = arguments(words)
    console = Console(stderr=True, highlight=False)
    lines = when_and_what(os.getloadavg()[0] if hasattr(os, "getloadavg") else None)
    torch.set_num_threads(1)
    work: Path = chosen.work.resolve()
    digest, rows = DIGEST, Rows(work / "rows.jsonl")
    cases = [
        case
        for case in cases_of(KINDS, real=chosen.real, half=chosen.half)
        if case.world in (chosen.worlds or WORLDS) and case.kind.cohort == (chosen.cohort or case.kind.cohort)
    ]
    if chosen.quick:
        first = {case.kind.name: case for case in reversed(cases)}
        cases = [case for case in cases if first[case.kind.name] is case]
    if chosen.seeds is not None:
        again = {(case.kind.name, case.world): case for case in cases}
        cases = [replace(case, seed=seed) for case in again.values() for seed in chosen.seeds]
    if chosen.sample is not None:
        cases = random.Random(0).sample(cases, min(chosen.sample, len(cases)))
    trials = TRIALS if chosen.remedies else ()
    if not chosen.real:
        lines.append("real images were left out" + ("" if has_real_images() else ": STILLROOM_DATA is not set"))
    # Models of the clinic's own are imported by name, in this process and by the command.
    sys.path.insert(0, str(Path(__file__).parent))
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with stop_on_signals(), Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=len(cases) + len(trials) + bool(chosen.real and chosen.remedies))
            for case in cases:
                bar.update(task, description=case.key)
                if rows.held.get(case.key, {}).get("digest") != digest:
                    rows.add(diagnosed(case, work, chosen.images))
                    _report(console, rows.held[case.key])
                bar.advance(task)
            for trial in trials:
                key = f"remedy/{trial.name}"
                bar.update(task, description=key)
                if rows.held.get(key, {}).get("digest") != digest:
                    rows.add({"key": key, "digest": digest, **tried(work, trial)})
                bar.advance(task)
            if chosen.real and chosen.remedies and rows.held.get("recipe_checks", {}).get("digest") != digest:
                bar.update(task, description="checks of the CIFAR-10 pair")
                rows.add({"key": "recipe_checks", "digest": digest, **timed(PAIR)})
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on")
        return 130
    clinic = Clinic(
        KINDS,
        [rows.held[case.key] for case in cases],
        [rows.held[f"remedy/{trial.name}"] for trial in trials],
        rows.held.get("recipe_checks", {}) if chosen.real and chosen.remedies else {},
        digest,
        _scored_versions(rows.path),
        NOTES,
    )
    text = page(clinic, shown_command(words, "clinic.py"), lines)
    if chosen.out is not None:
        write_text(chosen.out / "clinic.md", text)
        write_json(chosen.out / "clinic.json", {"command": shown_command(words, "clinic.py"), **clinic.as_dict()})
    print(text)
    return 0


def _scored_versions(path: Path) -> list[ScoredVersion]:
    """What was ever found on scored cases, by the checks that they were diagnosed with; in order."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("}") and (row := json.loads(line)).get("half") == "scored":
            found.setdefault(row["digest"], {})[row["key"]] = row
    return [ScoredVersion(digest, list(rows.values())) for digest, rows in found.items()]


def _report(console: Console, row: dict[str, Any]) -> None:
    """A line for what is not as it should be, as it comes."""
    alarms = [check for check, verdict in row["verdicts"].items() if verdict == "problem"]
    if "error" in row:
        console.print(f"{row['key']}: {row['error']}", markup=False, soft_wrap=True)
    elif row["expects"] and not is_found(row):
        console.print(f"missed: {row['key']}: problems: {', '.join(alarms) or 'none'}", markup=False)
    elif not row["expects"] and alarms:
        console.print(f"false alarm: {row['key']}: {', '.join(alarms)}", markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
