"""Damage, kill and mutate: what the product does with files, processes and recipes that are not as they should be.

    python benchmarks/integrity.py flips  --count 200 --out runs/integrity
    python benchmarks/integrity.py kills  --count 100 --out runs/integrity
    python benchmarks/integrity.py mutate --count 100000

`flips` flips one bit of one file at a time (the files of a finished run, a run that was stopped, a run in tasks, a
study and a cache, each in its turn) and then runs every command that reads the folder. A flip is refused where a
command ends with exit code 2 and a line that names the file, harmless where every command prints and writes the same
bytes as on the undamaged folder, and silent otherwise.
`kills` starts five commands (train, a cache, an evaluation, tasks, a study) and ends them at random instants, five of
six times with SIGKILL, else with SIGTERM; each is continued until it is done, and its bytes are compared with those of
one never ended.
`mutate` changes recipes, studies and override lines at random and reads them in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from stillroom.cli import run as command
from stillroom.errors import BadInput
from stillroom.files import CHECKSUMS
from stillroom.recipe import apply_override, load_recipe, parse_recipe
from stillroom.study.config import load_study
from stillroom.study.engine.in_process import InProcessEngine

# What depends on clocks: seconds, and the checksums of files that hold them.
APART = {
    *("timing.jsonl", "environment.json", CHECKSUMS, "cost.csv", "caches.json", "asked.jsonl", "progress.json", "lock"),
    "tuning.db",
}
RECIPES = Path(__file__).parent.parent / "recipes"
DATA = {"train_limit": 96, "test_limit": 40, "batch_size": 32, "augmentation": {"pad_crop": 1, "views": 2}}
TRAINING = {"epochs": 2, "log_every": 1, "precision": "float32", "device": "cpu", "threads": 1, "save_seconds": 0}
STUDENT = {"name": "resnet8", "options": {"width": 2}}
LOSSES = [{"name": "cross_entropy"}, {"name": "kl"}]


def distilling(teacher: Path, **training: object) -> dict[str, object]:
    return {
        "data": DATA,
        "teacher": {"name": "resnet8", "options": {"width": 4}, "weights": str(teacher)},
        "student": STUDENT,
        "losses": LOSSES,
        "training": {**TRAINING, **training},
        "cache": {"enabled": True},
    }


TEACHER = {
    "data": DATA,
    "student": {"name": "resnet8", "options": {"width": 4}},
    "training": TRAINING,
}
TASKS = {
    "data": DATA,
    "student": {"name": "mlp", "options": {"hidden": [12, 8]}},
    "losses": LOSSES,
    "incremental": {"tasks": 3, "memory": 20},
    "training": {**TRAINING, "epochs": None, "steps": 6, "evaluate_every": 99},
}
STUDY = {
    "name": "small",
    "seeds": [0, 1],
    "budget": {"epochs": 1},
    "recipe": {
        "data": DATA,
        "teacher": {"name": "mlp", "weights": "study:big"},
        "student": {"name": "mlp", "options": {"hidden": [8]}},
        "training": {key: value for key, value in TRAINING.items() if key != "epochs"},
    },
    "teachers": [{"name": "big", "set": {"student": {"name": "mlp"}, "training": {"epochs": 1}}}],
    "methods": [
        {"name": "labels", "tune": {"training.optimizer.lr": {"low": 0.05, "high": 0.2}}},
        {"name": "kl", "set": {"losses": LOSSES}, "tune": {"losses.kl.temperature": {"low": 1.0, "high": 8.0}}},
    ],
    "tuning": {"trials": 2, "holdout": 0.25},
}


def digests(folder: Path, leave_out: set[str] = APART) -> dict[str, str]:
    """SHA-256 of every file of a folder that may not depend on clocks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in leave_out)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if "logs" not in path.parts and not path.name.endswith((".html", ".lock"))
    }


@dataclass
class Result:
    """What a command did."""

    code: int | str
    printed: str
    errors: str


def call(*arguments: object) -> Result:
    """A command in this process; a traceback is its code."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code: int | str = command([str(each) for each in arguments])
        except BaseException as error:
            code = f"traceback: {type(error).__name__}"
            errors.write(traceback.format_exc())
    # How long it took is no part of what it says.
    printed = "\n".join(line for line in out.getvalue().splitlines() if not line.startswith("time: "))
    return Result(code, printed, errors.getvalue())


def sure(*arguments: object) -> None:
    result = call(*arguments)
    if result.code != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: {result.code}\n{result.errors}")


# --- flips


@dataclass
class Target:
    """A folder to damage.

    Attributes:
        folder: undamaged.
        readers: the commands that read it, each called with the folder's copy.
        files: those that are damaged.
    """

    name: str
    folder: Path
    readers: Sequence[Callable[[Path], Result]]
    files: list[Path] = field(default_factory=list)

    def observe(self, copy: Path) -> list[tuple[int | str, str, str]]:
        found = []
        for read in self.readers:
            result = read(copy)
            found.append((result.code, result.printed, result.errors))
            if result.code != 0:
                break
        return found


def comparing(folder: Path) -> Result:
    """``stillroom compare`` of the small study, its jobs in this process."""
    from stillroom.report.study.page import write_study_report
    from stillroom.study.compare import compare
    from stillroom.study.config import parse_study

    out = io.StringIO()
    try:
        found = compare(parse_study(STUDY), folder, lambda folder, threads: InProcessEngine())
        write_study_report(folder)
    except BadInput as error:
        return Result(2, "", f"error: {error}")
    except BaseException as error:
        return Result(f"traceback: {type(error).__name__}", "", traceback.format_exc())
    problems = [gap["reason"] for gap in found.results["missing"]] + list(found.failures.values())
    return Result(0 if found.sound else 2, out.getvalue(), "; ".join(problems))


def targets(home: Path) -> Iterator[Target]:
    """Each folder, made once."""
    for name, content in (("teacher", TEACHER), ("tasks", TASKS)):
        (home / f"{name}.yaml").write_text(yaml.safe_dump(content))
    weights = home / "teacher" / "student.safetensors"
    kept = {"checkpoints": [0, 1, 2], "record_weight_distance": ["layer3.0.conv1"], "record_gradient_rescaling": True}
    (home / "distil.yaml").write_text(yaml.safe_dump(distilling(weights, **kept)))
    cache = Path(os.environ["STILLROOM_CACHE"])
    if not (home / "made").exists():
        sure("train", home / "teacher.yaml", "--out", home / "teacher")
        sure("distill", home / "distil.yaml", "--out", home / "run")
        for way in (["fidelity", home / "run", "--images", 16], ["report", home / "run"]):
            sure(*way)
        sure("explain", home / "run", "--images", 4, "--grid", 6, "--passes", 60)
        for recipe, out, lines in (("distil", "stopped", 4), ("tasks", "stopped-tasks", 9)):
            stop_after(home, recipe, home / out, lines)
        comparing(home / "study")
        shutil.copytree(home / "study", home / "begun", ignore=lambda at, names: {"tuned.json", "results.json"})
        shutil.rmtree(home / "begun" / "runs" / "all" / "kl" / "seed-1", ignore_errors=True)
        (home / "made").touch()

    def on(*arguments: object) -> Callable[[Path], Result]:
        """A command whose argument ``RUN`` is the copy."""
        return lambda copy: call(*(copy if each == "RUN" else each for each in arguments))

    finished = [
        on("distill", home / "distil.yaml", "--out", "RUN", "--resume"),
        on("export", "RUN"),
        on("fidelity", "RUN", "--images", 16),
        on("diagnose", "RUN"),
        on("explain", "RUN", "--images", 4, "--grid", 6, "--passes", 60),
        on("report", "RUN"),
    ]
    evaluating = ["evaluate", "--model", "resnet8", "--option", "width=4", "--data", "digits", "--json", "--weights"]
    yield Target("finished run", home / "run", finished)
    yield Target("stopped run", home / "stopped", [on("distill", home / "distil.yaml", "--out", "RUN", "--resume")])
    yield Target(
        "stopped tasks", home / "stopped-tasks", [on("incremental", home / "tasks.yaml", "--out", "RUN", "--resume")]
    )
    yield Target("teacher", home / "teacher", [lambda copy: call(*evaluating, copy / "student.safetensors")])
    yield Target("study", home / "study", [comparing, on("diagnose", "RUN"), on("report", "RUN")])
    yield Target("begun study", home / "begun", [comparing])

    def distil_again(copy: Path) -> Result:
        os.environ["STILLROOM_CACHE"] = str(copy)
        out = home / "again"
        shutil.rmtree(out, ignore_errors=True)
        try:
            return call("distill", home / "distil.yaml", "--out", out)
        finally:
            os.environ["STILLROOM_CACHE"] = str(cache)
            # What was made of the cache is compared with it.
            for name in ("student.safetensors", "metrics.jsonl"):
                if (out / name).exists():
                    shutil.copy(out / name, copy / name)

    yield Target("cache", cache, [distil_again])


def stop_after(home: Path, recipe: str, out: Path, lines: int) -> None:
    """A run that was interrupted in a step once its log has so many lines."""
    verb = "incremental" if recipe == "tasks" else "distill"
    from stillroom.train.folder import RunFolder

    real, seen = RunFolder.append, 0

    def append(self: RunFolder, name: str, line: dict[str, object]) -> None:
        nonlocal seen
        real(self, name, line)
        seen += name == "metrics.jsonl"
        if seen == lines:
            signal.raise_signal(signal.SIGINT)

    RunFolder.append = append  # type: ignore[method-assign]
    try:
        code = call(verb, home / f"{recipe}.yaml", "--out", out).code
    finally:
        RunFolder.append = real  # type: ignore[method-assign]
    assert code == 130, f"{verb} {recipe}: exit code {code} in place of 130"


def flips(arguments: argparse.Namespace) -> int:
    """Flip bits and print what came of it."""
    home = arguments.out.resolve() / "flips"
    home.mkdir(parents=True, exist_ok=True)
    os.environ["STILLROOM_CACHE"] = str(home / "cache")
    os.chdir(home)
    silent = 0
    rows: list[tuple[str, Counter[str], int]] = []
    made = [target for target in targets(home) if not arguments.only or target.name in arguments.only]
    for target in made:
        files = [path for path in sorted(target.folder.rglob("*")) if path.is_file() and path.stat().st_size]
        target.files = [path for path in files if not path.name.endswith(".lock")]
    whole = sum(len(target.files) for target in made)
    # One line a flip, so that a sweep that was stopped goes on.
    log = home / "flips.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(line["target"], line["number"]): line["kind"] for line in lines}
    for target in made:
        draw = random.Random(f"{arguments.seed} {target.name}")
        work = home / "work"
        counts: Counter[str] = Counter()
        wanted = max(round(arguments.count * len(target.files) / whole), len(target.files) if arguments.every else 1)
        chosen = [*target.files, *draw.choices(target.files, k=wanted)][:wanted]
        if wanted < len(target.files):
            chosen = draw.sample(target.files, wanted)
        expected: Observed | None = None
        for number, path in enumerate(chosen):
            name, bit = path.relative_to(target.folder), draw.randrange(8 * path.stat().st_size)
            kind = done.get((target.name, number))
            if kind is None:
                if expected is None:
                    fresh_copy(target.folder, work)
                    expected = target.observe(work), digests(work)
                fresh_copy(target.folder, work)
                content = bytearray((work / name).read_bytes())
                content[bit // 8] ^= 1 << bit % 8
                (work / name).write_bytes(content)
                found = target.observe(work), digests(work)
                kind = judge(name, expected, found, bytes(content))
                said = "" if kind == "harmless" else f"{found[0][-1][0]} {found[0][-1][2][-300:]}"
                line = {
                    "target": target.name,
                    "number": number,
                    "file": str(name),
                    "bit": bit,
                    "kind": kind,
                    "said": said,
                }
                with log.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                if kind not in ("refused", "harmless"):
                    print(f"{kind}: {target.name}/{name} bit {bit}: {said}", flush=True)
            counts[kind] += 1
            silent += kind not in ("refused", "harmless")
        rows.append((target.name, counts, len(target.files)))
        print(table_row(*rows[-1]), flush=True)
    total = sum((counts for _, counts, _ in rows), Counter[str]())
    print(table_row("all", total, whole))
    return 1 if silent else 0


def fresh_copy(folder: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder, work)


def table_row(name: str, counts: Counter[str], files: int) -> str:
    kinds = ("refused", "harmless", "silent", "traceback", "unnamed")
    return f"| {name} | {files} | {counts.total()} | {' | '.join(str(counts[kind]) for kind in kinds)} |"


Observed = tuple[list[tuple[int | str, str, str]], dict[str, str]]


def judge(name: Path, expected: Observed, found: Observed, damaged: bytes) -> str:
    """What came of a flip: see the top of the file."""
    code, _, errors = found[0][-1]
    if isinstance(code, str):
        return "traceback"
    if code != 0:
        # A damaged list of checksums is found out by the file that is not listed any more.
        names = (name.name, name.parent.name or name.name, CHECKSUMS)
        return "refused" if any(each in errors for each in names) else "unnamed"
    if [each[:2] for each in found[0]] != [each[:2] for each in expected[0]]:
        return "silent"
    same = {key: value for key, value in found[1].items() if key != str(name)}
    if same != {key: value for key, value in expected[1].items() if key != str(name)}:
        return "silent"
    # The file itself: nobody read it, and it is as it was damaged, or it was made again.
    whole = expected[1].get(str(name))
    now = found[1].get(str(name))
    if whole is None or now in (whole, hashlib.sha256(damaged).hexdigest()):
        return "harmless"
    return "silent"


# --- kills


def spawn(arguments: Sequence[object], log: Path) -> int:
    """A command in a child of this process, which has imported everything: its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(to, 1)
    os.dup2(to, 2)
    from stillroom.cli import main

    try:
        main([str(each) for each in arguments])
    except SystemExit as left:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(left.code if isinstance(left.code, int) else 0)
    os._exit(99)


def wait(pid: int, seconds: float | None) -> int | None:
    """The exit status of a child, minus the signal that killed it; None where it is still there after so long."""
    until = time.monotonic() + (seconds or 1e9)
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kills(arguments: argparse.Namespace) -> int:
    """End commands at random instants and compare what they leave with those never ended."""
    import torch  # noqa: F401 - the children find it imported

    from stillroom.run import run  # noqa: F401
    from stillroom.study import compare  # noqa: F401

    home = arguments.out.resolve() / "kills"
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1"}
    teacher = home / "teacher" / "student.safetensors"
    big = {**DATA, "train_limit": 400, "augmentation": {"pad_crop": 1, "views": 4}}
    recipes = {
        "train": {**TEACHER, "training": {**TRAINING, "epochs": 20}},
        "cache": {**distilling(teacher, epochs=4), "data": big},
        "evaluate": {**TEACHER, "data": {**DATA, "test_limit": 500}, "training": {**TRAINING, "epochs": 12}},
        "incremental": {**TASKS, "training": {**TASKS["training"], "steps": 40}},  # type: ignore[dict-item]
        "study": STUDY,
    }
    os.environ["STILLROOM_CACHE"] = str(home / "cache")
    (home / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    if not teacher.exists():
        assert wait(spawn(["train", home / "teacher.yaml", "--out", home / "teacher"], home / "log"), None) == 0
    draw = random.Random(arguments.seed)
    shares = {"train": 0.3, "cache": 0.15, "evaluate": 0.15, "incremental": 0.2, "study": 0.2}
    bad = 0
    for name, content in recipes.items():
        if arguments.only and name not in arguments.only:
            continue
        file = home / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        verb = {"cache": "distill", "incremental": "incremental", "study": "compare"}.get(name, "train")

        def start(out: Path, verb: str = verb, file: Path = file) -> int:
            os.environ["STILLROOM_CACHE"] = str(out.with_name(f"{out.name}-cache"))
            more = ["--workers", 1] if verb == "compare" else ["--resume"]
            return spawn([verb, file, "--out", out, *more], home / "log")

        # Always the same folder: a study's recipes name its teacher's weights by their place.
        out = home / f"{name}-run"

        def clear(name: str = name) -> None:
            for old in home.glob(f"{name}-*"):
                shutil.rmtree(old, ignore_errors=True)

        clear()
        began = time.monotonic()
        assert wait(start(out), None) == 0, (home / "log").read_text()
        took = time.monotonic() - began
        expected = digests(out)
        most = {signal.SIGKILL: round(arguments.count * shares[name]), signal.SIGTERM: round(0.2 * arguments.count / 5)}
        done: Counter[int] = Counter()
        outcomes: Counter[str] = Counter()
        number = 0
        while any(done[each] < count for each, count in most.items()):
            number += 1
            clear()
            while True:
                left = [each for each, count in most.items() for _ in range(count - done[each])]
                if not left:
                    code = wait(start(out), None)
                    break
                pid = start(out)
                code = wait(pid, draw.uniform(0.02, 0.5) * took)
                if code is not None:
                    break
                what = draw.choice(left)
                if what == signal.SIGKILL:
                    os.killpg(pid, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGTERM)
                code = wait(pid, 120)
                done[what] += 1
                log = (home / "log").read_text()
                if what == signal.SIGTERM and code != 0 and (code != 130 or "interrupted" not in log):
                    outcomes["badly ended"] += 1
                    print(f"{name}: SIGTERM left {code}: {log[-400:]}", flush=True)
            found = digests(out)
            if code != 0 or found != expected:
                outcomes["different"] += 1
                differs = [key for key in {*expected, *found} if expected.get(key) != found.get(key)]
                print(f"{name}-{number}: exit {code}, differs in {differs}: {(home / 'log').read_text()[-600:]}")
            else:
                outcomes["same"] += 1
        bad += outcomes["different"] + outcomes["badly ended"]
        cells = [name, f"{took:.1f} s", done[signal.SIGKILL], done[signal.SIGTERM], number]
        cells += [outcomes[each] for each in ("same", "different", "badly ended")]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 1 if bad else 0


# --- mutate

WORDS = (
    *("null", "true", "-1", "1e400", ".nan", "-.inf", "0x" + "f" * 6000, "9" * 5000, "2020-99-99", "~", "''", "[]"),
    *("{}", "&a [*a]", "&a {x: *a}", "*b", "<<: {seed: 1}", "!!binary /w==", "!!set {a, b}", "!!python/name:os.x", "'"),
    *("\u202e", "\x07", "é" * 300, "a: b: c", "- - - -", "[" * 60, "{" * 60, "|", ">", "%TAG", "---", "...", "1:30:30"),
    *("study:big", "1e-320", "-0.0", "1_000", "0o17", "yes", "resnet8", "kl", "[1, [2, [3]]]", "{name: kl}", "\t"),
    "&x [&y [&z [a, a, a], *z, *z], *y, *y, *y]",
)


def mutate_text(text: str, draw: random.Random) -> str:
    """One to four changes of a text."""
    for _ in range(draw.randint(1, 4)):
        lines = text.split("\n")
        row = draw.randrange(len(lines))
        kind = draw.randrange(8)
        if kind == 0:
            del lines[row]
        elif kind == 1:
            lines.insert(draw.randrange(len(lines) + 1), lines[row])
        elif kind == 2:
            lines[row] = "  " * draw.randint(0, 3) + lines[row].lstrip()
        elif kind == 3 and ":" in lines[row]:
            lines[row] = lines[row].partition(":")[0] + ": " + draw.choice(WORDS)
        elif kind == 4:
            place = draw.randrange(len(lines[row]) + 1)
            lines[row] = lines[row][:place] + draw.choice(WORDS) + lines[row][place:]
        elif kind == 5 and lines[row]:
            place = draw.randrange(len(lines[row]))
            lines[row] = lines[row][:place] + chr(draw.choice((draw.randrange(1, 128), draw.randrange(1, 0xD800))))
        elif kind == 6:
            lines[row] = lines[row].replace(draw.choice("0123456789"), draw.choice(WORDS), 1)
        else:
            other = lines[draw.randrange(len(lines))]
            lines[row] = lines[row][: draw.randrange(len(lines[row]) + 1)] + other[draw.randrange(len(other) + 1) :]
        text = "\n".join(lines)
    return text


def mutate_override(keys: Sequence[str], draw: random.Random) -> str:
    key = draw.choice(keys)
    if draw.random() < 0.3:
        key = mutate_text(key, draw)
    if draw.random() < 0.2:
        key += draw.choice((".", ".0", ".kl", ".x.y.z", "." * 30, ".-1"))
    return f"{key}={draw.choice(WORDS)}" if draw.random() < 0.8 else mutate_text(f"{key}=3", draw)


def keys_of(content: object, before: str = "") -> list[str]:
    if isinstance(content, dict):
        places = {f"{before}{name}": value for name, value in content.items()}
        return [key for place, value in places.items() for key in (place, *keys_of(value, f"{place}."))]
    if isinstance(content, list):
        return [key for place, value in enumerate(content) for key in keys_of(value, f"{before}{place}.")]
    return []


def mutate(arguments: argparse.Namespace) -> int:
    """Read mutated recipes, studies and override lines."""
    folder = arguments.out.resolve() / "mutate"
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(arguments.seed)
    recipes = [path.read_text() for path in sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("incremental/*.yaml")])]
    studies = [path.read_text() for path in sorted(RECIPES.glob("studies/*.yaml"))]
    studies.append(yaml.safe_dump(STUDY))
    bases = [yaml.safe_load(text) for text in recipes]
    keys = sorted({key for base in bases for key in keys_of(base)})
    counts: Counter[tuple[str, str]] = Counter()
    longest, slowest, bad = 0, 0.0, 0
    file = folder / "mutant.yaml"
    os.chdir(RECIPES.parent)
    before = peak_mb()
    for number in range(arguments.count):
        # A study takes ten times as long to read as a recipe.
        kind = "study" if number % 20 == 0 else ("recipe", "override", "override")[number % 3]
        began = time.perf_counter()
        given = ""
        try:
            if kind == "override":
                given = mutate_override(keys, draw)
                content = copy.deepcopy(draw.choice(bases))
                apply_override(content, given)
                parse_recipe(content)
            else:
                given = mutate_text(draw.choice(recipes if kind == "recipe" else studies), draw)
                file.write_text(given, encoding="utf-8", errors="surrogatepass")
                (load_recipe if kind == "recipe" else load_study)(file)
            ending = "accepted"
        except BadInput as error:
            ending = "refused"
            longest = max(longest, len(str(error)))
            if len(str(error)) > 1000 or "\n" in str(error):
                ending, bad = "bad message", bad + 1
                print(f"{len(str(error))} characters: {str(error)[:200]!r} for {given[:300]!r}", flush=True)
        except BaseException as error:
            ending, bad = "traceback", bad + 1
            print(f"{type(error).__name__}: {str(error)[:200]} for {given[:2000]!r}", flush=True)
        slowest = max(slowest, time.perf_counter() - began)
        counts[kind, ending] += 1
        if number % 10_000 == 0:
            print(f"{number} read, peak memory {peak_mb()} MB", flush=True)
    endings = ("accepted", "refused", "bad message", "traceback")
    for kind in ("recipe", "study", "override"):
        print(f"| {kind} | {' | '.join(str(counts[kind, ending]) for ending in endings)} |")
    print(f"longest message {longest} characters, slowest {slowest:.2f} s, peak memory {before} MB → {peak_mb()} MB")
    return 1 if bad else 0


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = {"flips": (flips, 200), "kills": (kills, 100), "mutate": (mutate, 100_000)}
    commands = parser.add_subparsers(required=True)
    for name, (way, count) in ways.items():
        one = commands.add_parser(name)
        one.add_argument("--count", type=int, default=count)
        one.add_argument("--seed", type=int, default=0)
        one.add_argument("--out", type=Path, default=Path("runs/integrity"))
        one.add_argument("--only", nargs="*", default=[], help="these targets alone")
        one.add_argument("--every", action="store_true", help="flips: each file at least once")
        one.set_defaults(way=way)
    arguments = parser.parse_args()
    # In the background of a shell without job control it is ignored, and inherited so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(arguments.way(arguments))


if __name__ == "__main__":
    main()
