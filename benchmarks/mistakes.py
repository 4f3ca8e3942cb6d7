"""What operators and researchers do amiss, and what is printed: each right, or refused in one line.

    STILLROOM_DATA=DATA python benchmarks/mistakes.py --out docs/results/mistakes.md

Every case is tried on small data: commands on digits and on photographs of Imagenette, calls of `stillroom.distill` on
random images. A case is right where its exit code is the expected one and what was printed matches the expected words;
a traceback, a line of more than 1,000 characters, or a refusal in several lines is wrong whatever it says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from oddities import table
from PIL import Image

from stillroom.cli import run as command

LONGEST = 1000


@dataclass(frozen=True)
class Case:
    """Something that a person does.

    Attributes:
        act: does it; returns exit code and what was printed.
        code: the right exit code.
        words: what must be printed, as a regular expression.
    """

    group: str
    name: str
    act: Callable[[], tuple[int | str, str]]
    code: int
    words: str


def call(*arguments: object) -> tuple[int | str, str]:
    """A command in this process: its exit code, and what it printed on both streams."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code: int | str = command([str(each) for each in arguments])
        except BaseException:
            code = "traceback"
            traceback.print_exc(file=out)
    return code, out.getvalue()


def judge(case: Case) -> tuple[bool, str]:
    """Whether a case went right, and what happened in a line."""
    code, printed = case.act()
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    right = code == case.code and bool(re.search(case.words, printed)) and "Traceback" not in printed
    right = right and len(errors) <= 1 and all(len(line) <= LONGEST for line in errors)
    if errors:
        happened = errors[0]
    else:
        said = [line for line in lines if re.search(case.words, line)] if case.words else []
        happened = said[0] if said else (lines[-1] if lines else "")
    happened = re.sub(r"/tmp/\S+/", "…/", happened)
    return right, f"exit {code}; {happened[:300]}"


BASE = {
    "data": {"train_limit": 120, "test_limit": 60, "batch_size": 32},
    "student": {"name": "resnet8", "options": {"width": 4}},
    "training": {"epochs": 1, "precision": "float32", "device": "cpu", "threads": 1},
}


def photographs(root: Path, source: Path) -> None:
    """Photographs of three classes and of many sizes."""
    for name in sorted(path.name for path in (source / "train").iterdir())[:3]:
        for split, count in (("train", 12), ("test", 4)):
            (root / split / name).mkdir(parents=True)
            for place, file in enumerate(sorted((source / split / name).iterdir())[:count]):
                picture = Image.open(file).convert("RGB").resize((40 + place % 7, 36 + place % 5))
                picture.save(root / split / name / f"{place}.jpg", quality=95)


def prepare(home: Path) -> None:
    """The recipes, data and runs that the cases are about."""
    photographs(home / "photos", Path(os.environ["STILLROOM_DATA"]) / "imagenette-part")
    classes = sorted((home / "photos" / "train").iterdir())
    for name in ("copied", "cut", "linked", "few", "heic"):
        shutil.copytree(home / "photos", home / name)
    for place in range(3):
        picture = Image.open(classes[0] / f"{place}.jpg")
        picture.save(home / "copied" / "test" / classes[0].name / f"copy{place}.png")
    cut = home / "cut" / "train" / classes[0].name / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:500])
    (home / "linked" / "train" / classes[0].name / "more").symlink_to(home / "linked" / "test" / classes[0].name)
    (home / "linked" / "train" / classes[0].name / "x.heic").write_bytes(b"x")
    for file in sorted((home / "few" / "train" / classes[1].name).iterdir())[1:]:
        file.unlink()
    for file in [*(home / "heic").rglob("*.jpg")]:
        file.rename(file.with_suffix(".heic"))
    photos = {**BASE, "data": {"path": "photos", "image_size": 32, "batch_size": 12}}
    teacher = {"name": "resnet8", "options": {"width": 4}, "weights": "done/student.safetensors"}
    distilled = {**BASE, "teacher": teacher, "losses": [{"name": "cross_entropy"}, {"name": "kl"}]}
    long = {**BASE, "training": {**BASE["training"], "epochs": 4000}}
    study = {
        "name": "small",
        "seeds": [0, 1],
        "budget": {"steps": 3},
        "recipe": {**BASE, "training": {"precision": "float32", "device": "cpu", "threads": 1}},
        "methods": [{"name": "labels"}, {"name": "smoothed", "set": {"losses": [{"name": "label_smoothing"}]}}],
    }
    recipes = {"base": BASE, "photos": photos, "kd": distilled, "long": long, "study": study}
    for name, content in recipes.items():
        (home / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (home / "bomb.yaml").write_text(
        "x0: &x0 [a, a, a, a, a, a, a, a, a]\n"
        + "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 9))
        + "\nstudent: {name: mlp, options: {x: *x8}}\n"
    )
    for arguments in (("train", "base.yaml", "--out", "done"), ("train", "photos.yaml", "--out", "shot")):
        code, printed = call(*arguments)
        assert code == 0, printed
    kept = ("training.checkpoints=[0,1]", "training.epochs=1")
    assert call("distill", "kd.yaml", *kept, "--out", "taught")[0] == 0


def started(*arguments: object) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    words = [sys.executable, "-m", "stillroom", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def interrupted(number: signal.Signals, out: str) -> tuple[int | str, str]:
    """A long run that a signal ends in its training."""
    process = started("train", "long.yaml", "--out", out)
    log, until = Path(out) / "metrics.jsonl", time.monotonic() + 300
    before = log.stat().st_size if log.exists() else 0
    while (log.stat().st_size if log.exists() else 0) <= before and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    return process.wait(300), process.communicate()[0]


def gone_on(out: str, number: signal.Signals) -> tuple[int | str, str]:
    """The same command again after an interruption, and once more interrupted: it goes on from where it was."""
    before = len((Path(out) / "metrics.jsonl").read_text().splitlines())
    code, printed = interrupted(number, out)
    more = len((Path(out) / "metrics.jsonl").read_text().splitlines()) - before
    return code, f"{printed}\nthe log has {'more' if more > 0 else 'no more'} lines than before"


def at_once() -> tuple[int | str, str]:
    """Three runs without --out at the same instant."""
    processes = [started("train", "base.yaml", f"seed={seed}") for seed in range(3)]
    printed = [process.communicate()[0] for process in processes]
    codes = {process.returncode for process in processes}
    folders = {match[1] for text in printed if (match := re.search(r"run: (\S+)", text))}
    return max(codes), f"three runs in {len(folders)} folders: {', '.join(sorted(folders))}"


def commands() -> Iterator[Case]:
    """The command line."""

    def case(group: str, name: str, words: str, *arguments: object, code: int = 2) -> Case:
        return Case(group, f"{name} `{' '.join(map(str, arguments))}`", lambda: call(*arguments), code, words)

    evaluate = ("evaluate", "--model", "resnet8", "--option", "width=4", "--weights")
    fields = (
        ("training.lr=0.1", "did you mean 'training.optimizer.lr'"),
        ("epochs=3", "did you mean 'training.epochs'"),
        ("val_split=0.1", "did you mean 'data.holdout'"),
        ("lr=1", "did you mean 'training.optimizer.lr'"),
        ("batch_size=4", "did you mean 'data.batch_size'"),
        ("training.epoch=3", "did you mean 'epochs'"),
        ("training.epochs=", "a value after the equals sign"),
        ("training.epochs=0", "greater than or equal to 1"),
        ("training.epochs=1e400", "a whole number"),
        ("seed=x", "a whole number"),
        ("student=resnet18", "a mapping"),
        ("training.optimizer.name=adam", "did you mean 'adamw'"),
        ("data.path=nowhere", "a folder that exists"),
        ("losses=[{name: kll}]", "did you mean 'kl'"),
        ("student.name=resnet9", "did you mean"),
        ("training.device=cuda:9", "device"),
        ("losses=[{name: kl}]", "losses that read labels alone"),
        ("training.checkpoints=[99]", "epochs of the run"),
        ("student.options.width=0", "width"),
    )
    for line, words in fields:
        yield case("fields", "an override", words, "train", "base.yaml", line, "--out", "x")
    yield Case(
        "fields",
        "adamw without a rate has its own, .001",
        lambda: (
            call("train", "base.yaml", "training.optimizer={name: adamw}", "--out", "own")[0],
            str(yaml.safe_load(Path("own/recipe.yaml").read_text())["training"]["optimizer"]),
        ),
        0,
        "'lr': 0.001",
    )
    yield case("files", "no recipe", "a readable recipe file", "train", "none.yaml", "--out", "x")
    yield case("files", "a recipe of 9⁹ aliases", "more than 100,000 values", "train", "bomb.yaml", "--out", "x")
    yield case("files", "an output that is a file", "a folder, not a file", "train", "base.yaml", "--out", "base.yaml")
    yield case("files", "a run that is there", "a finished run", "train", "base.yaml", "--out", "done")
    yield case(
        "files", "the same, --resume", "finished already", "train", "base.yaml", "--out", "done", "--resume", code=0
    )
    yield case(
        "files", "another recipe", "seed is 3, was 0", "train", "base.yaml", "seed=3", "--out", "done", "--resume"
    )
    yield Case("files", "three runs at once without --out", at_once, 0, "three runs in 3 folders")
    for verb in ("report", "export", "explain", "fidelity", "diagnose", "watch"):
        yield case("files", "no such folder", "exists|the folder of a study", verb, "nowhere")
    photos = ("train", "photos.yaml", "--out", "x")
    yield case("photographs", "of many sizes", r"set data\.image_size", *photos, "data.image_size=null")
    yield case(
        "photographs", "of many sizes", r"`--image-size`", *evaluate, "shot/student.safetensors", "--data", "photos"
    )
    yield case(
        "photographs",
        "the option that it names",
        "12 images of the test split, 3 classes",
        *evaluate,
        "shot/student.safetensors",
        "--data",
        "photos",
        "--image-size",
        32,
        code=0,
    )
    photographed = (
        ("test = train", "all 36 test images are training images", "data.test_split=train", "data.path=photos"),
        ("copies in another format", "3 of 15 test images are training images", "data.path=copied"),
        ("the same, streamed", "3 of 15 test images are training images", "data.path=copied", "data.in_memory=false"),
        ("a link to the other split", "1 link of train leads to test", "data.path=linked"),
        ("another suffix", r"left out 1 file of train, .*\.heic \(1\)", "data.path=linked"),
        ("12 to 1", "12 training images of .*, 1 of .*: 12 to 1", "data.path=few"),
        ("a file cut short, skipped", "1 file left out", "data.path=cut", "data.bad_files=skip"),
        ("the same, streamed", "1 file left out", "data.path=cut", "data.bad_files=skip", "data.in_memory=false"),
        ("counts of images and classes", "36 training and 12 test images, 3 classes"),
    )
    for number, (name, words, *lines) in enumerate(photographed):
        yield case("photographs", name, words, "train", "photos.yaml", *lines, "--out", f"photographed{number}", code=0)
    yield case("photographs", "a file cut short", "can be decoded", *photos, "data.path=cut")
    yield case("photographs", "the same, streamed", "can be decoded", *photos, "data.path=cut", "data.in_memory=false")
    yield case("photographs", "all of another suffix", r"\.heic \(\d+\): .*convert", *photos, "data.path=heic")
    yield case("photographs", "leak", "3 of 15 test images", "diagnose", "photos.yaml", "data.path=copied", code=0)
    yield case("photographs", "imbalance", "12 to 1", "diagnose", "photos.yaml", "data.path=few", code=0)
    public = "{name: resnet20, weights: weights/resnet20-cifar10.th%s}"
    few = ("data={path: photos, image_size: 32, batch_size: 12}",)
    yield case(
        "weights",
        "of 10 classes for 3",
        r"student\.head: new",
        "train",
        "base.yaml",
        *few,
        f"student={public % ''}",
        "--out",
        "x",
    )
    yield case(
        "weights",
        "the same, head: new",
        "new, not from the file: linear",
        "train",
        "base.yaml",
        *few,
        f"student={public % ', head: new'}",
        "--out",
        "tuned",
        code=0,
    )
    yield case("weights", "none to evaluate", "a weights file", "evaluate", "--model", "resnet8", "--data", "digits")
    yield case(
        "weights",
        "of another width",
        "other shapes",
        "evaluate",
        "--model",
        "resnet8",
        "--data",
        "digits",
        "--weights",
        "done/student.safetensors",
    )
    yield case("weights", "no teacher", "a teacher model", "distill", "base.yaml", "--out", "x")
    yield case("runs", "explain without checkpoints", r"training\.checkpoints=", "explain", "done")
    yield case("runs", "explain on digits", "", "explain", "taught", "--images", 4, "--passes", 60, code=0)
    yield case("runs", "fidelity without a teacher", "a run with a teacher", "fidelity", "done")
    yield case("runs", "fidelity", "rank correlation", "fidelity", "taught", "--images", 16, code=0)
    yield case("runs", "export to a folder", "a file, not a folder", "export", "done", "--out", ".")
    yield case("runs", "export", "student.safetensors", "export", "done", code=0)
    yield case("runs", "diagnose of a run", "under_training", "diagnose", "done", code=0)
    yield case("runs", "an override of a run", "only a recipe can be changed", "diagnose", "done", "seed=1")
    yield Case(
        "interruptions", "SIGTERM", lambda: interrupted(signal.SIGTERM, "longrun"), 130, "to go on: stillroom train"
    )
    yield Case(
        "interruptions",
        "the same command, then Ctrl-C",
        lambda: gone_on("longrun", signal.SIGINT),
        130,
        "has more lines",
    )
    yield case("interruptions", "report of it", "the command that began this one", "report", "longrun")
    yield case("interruptions", "diagnose of it", "unfinished", "diagnose", "longrun", code=0)
    yield Case("interruptions", "report of an unfinished study", unfinished_study, 2, "`stillroom compare`.* goes on")
    yield case("interruptions", "a damaged file", "is not what was written", "distill", "kd.yaml", "--out", "hurt")


def unfinished_study() -> tuple[int | str, str]:
    """A study that lost a run, reported."""
    code, printed = call("compare", "study.yaml", "--out", "study", "--workers", 1)
    if code != 0:
        return code, printed
    (Path("study") / "results.json").unlink()
    shutil.rmtree(Path("study") / "runs" / "all" / "smoothed" / "seed-1")
    return call("report", "study")


# --- Python


def python_cases() -> Iterator[Case]:
    """`stillroom.distill` and what follows it, as researchers call them."""
    from mistakes_python import cases

    def act(attempt: Callable[[], Any]) -> tuple[int | str, str]:
        import stillroom as sr

        out = io.StringIO()
        with contextlib.redirect_stderr(out):
            try:
                result = attempt()
            except (sr.BadInput, sr.RunFailed) as error:
                return 2, f"error: {error}"
            except Exception as error:
                return "traceback", f"{type(error).__name__}: {error}"
        return 0, f"{out.getvalue()}\n{result}"

    for group, name, attempt, words in cases():
        code = 0 if words.startswith("→") else 2
        yield Case(group, name, lambda attempt=attempt: act(attempt), code, words.removeprefix("→"))  # type: ignore[misc]


def main() -> int:
    """Try every case, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write; left out, it is printed.")
    parser.add_argument("--only", choices=("commands", "python"))
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    os.environ["STILLROOM_DATA"] = str(Path(os.environ["STILLROOM_DATA"]).resolve())
    tables: dict[str, list[tuple[str, str, str]]] = {}
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path.cwd()
        os.chdir(folder)
        os.environ["STILLROOM_CACHE"] = str(Path(folder, "cache"))
        try:
            if given.only != "python":
                prepare(Path(folder))
                shutil.copytree("taught", "hurt")
                (Path("hurt") / "summary.json").unlink()
                damage(Path("hurt") / "recipe.yaml")
            for kind, found in (("Commands", commands), ("Python", python_cases)):
                if given.only not in (None, kind.lower()):
                    continue
                for case in found():
                    right, happened = judge(case)
                    row = (case.group, case.name, ("" if right else "**wrong:** ") + happened)
                    tables.setdefault(kind, []).append(row)
                    if not right:
                        wrong += 1
                        print(f"{case.group}: {case.name}: expected exit {case.code} and {case.words!r}: {happened}")
        finally:
            os.chdir(place)
    total = sum(map(len, tables.values()))
    lines = [
        "# What operators and researchers do, and what is printed",
        "",
        "`STILLROOM_DATA=DATA python benchmarks/mistakes.py --out docs/results/mistakes.md`",
        "",
        f"{total - wrong} of {total} are right, or refused in one line. Commands ran on digits and on photographs of "
        "Imagenette of many sizes; Python on random images.",
    ]
    for kind, rows in tables.items():
        lines += ["", f"## {kind}: {len(rows)} cases", "", *table(("what was done", "what happened"), rows)]
    text = "\n".join(lines) + "\n"
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text, encoding="utf-8")
    return 1 if wrong else 0


def damage(path: Path) -> None:
    """Flip a bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
