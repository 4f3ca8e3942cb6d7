"""Install the built wheel as users do, into empty environments, and run it: extras, lowest and highest versions.

    python benchmarks/release.py --out docs/results/release.md            # goes on where it was stopped or failed
    python benchmarks/release.py --jobs base "python 3.14"
    python benchmarks/release.py --licences > docs/licences.md            # of what is installed here

It takes uv (``pip install uv``). Each job is a new virtual environment, in which the wheel is installed without the
checkout, its recipes or its tests; then a model is trained, distilled, diagnosed and exported on the embedded digits,
and the extra is used once. *base* and other versions of Python also run the demo, its audit and the Python of the
README, and each version of Python each extra in an environment of its own. Where a version is not at hand, it is
resolved: whether wheels exist. Needs no package but uv. What stands below "## Notes" on the page is kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("captum", "heif", "hf", "hub", "lightning", "onnx", "ray", "text", "timm", "torchvision", "transformers")
JOBS = ("base", *EXTRAS, "lowest", "lowest torch", "python 3.12", "python 3.13", "python 3.14")

RECIPE = """
data: {train_limit: 200, batch_size: 50}
teacher: {name: resnet8, options: {width: 8}, weights: teacher/student.safetensors}
student: {name: resnet8, options: {width: 4}}
losses: [{name: cross_entropy}, {name: kl}]
training: {epochs: 1}
"""
LOSS = "import torch.nn.functional as F\ndef kd(s, t, y):\n    return F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1))\n"
STEPS = (
    "stillroom --version",
    "stillroom train recipe.yaml teacher=null 'losses=[{name: cross_entropy}]' student.options.width=8 --out teacher",
    "stillroom distill recipe.yaml --out run",
    "stillroom report run",
    "stillroom diagnose run",
    "stillroom check loss.py:kd",
)
# Of "base" and of other versions of Python, after these.
FIRST_STEPS = ("stillroom demo --out demo", "stillroom audit demo/faulty_distillation.py", "python readme.py")
# What each extra is for, once.
USES = {
    "onnx": "stillroom export run --format onnx --out student.onnx",
    "timm": "stillroom taps timm:resnet10t",
    "torchvision": "stillroom taps torchvision:resnet18",
    "captum": "python -c 'import captum'",
    "heif": "python -c 'import pillow_heif; pillow_heif.register_heif_opener()'",
    "hf": "python -c 'import datasets'",
    "hub": "python -c 'import huggingface_hub'",
    "text": "python -c 'from stillroom.data import tokens; import tokenizers'",
    "lightning": "python -c 'from stillroom.integrations.lightning import LightningAudit; LightningAudit()'",
    "transformers": "python -c 'from stillroom.integrations.transformers import TrainerAudit; TrainerAudit()'",
    "ray": "stillroom compare study.yaml --engine ray --workers 1 --out study",
}
STUDY = """
name: two
seeds: [0]
recipe:
  data: {train_limit: 200, batch_size: 50}
  student: {name: resnet8, options: {width: 4}}
budget: {epochs: 1}
methods:
  - {name: labels, set: {losses: [{name: cross_entropy}]}}
  - {name: smoothed, set: {losses: [{name: label_smoothing}]}}
"""


def run_job(job: str, wheel: Path, links: list[str]) -> dict[str, Any]:
    """Install and run, or resolve; what came of it."""
    with tempfile.TemporaryDirectory(prefix="stillroom-release-") as name:
        folder = Path(name)
        python = job.removeprefix("python ") if job.startswith("python ") else None
        environment = folder / "env"
        if not new_environment(environment, python):
            return resolve(python or "", f"stillroom @ {wheel.as_uri()}", folder, links)
        # What the package requires is named here, too: "direct" is what stands on the command line.
        flags = ["--resolution", "lowest-direct", *dependencies()] if job.startswith("lowest") else []
        if job not in ("base", "lowest torch") and not python:
            # One torch for all the others: that of the constraints, of which there may be a small build for CPUs.
            flags += ["--override", str(write(folder / "torch.txt", f"{pinned_torch()}\n"))]
        row: dict[str, Any] = {"job": job, "date": time.strftime("%Y-%m-%d"), "commit": commit()}
        empty = empty_cache()
        began = time.perf_counter()
        error = install(environment, wheel, job if job in EXTRAS else None, [*links, *flags])
        seconds = time.perf_counter() - began
        if error:
            return row | {"failed": f"install: {error}"}
        size = sum(file.stat().st_size for file in environment.rglob("*") if file.is_file() and not file.is_symlink())
        row |= {
            "install_seconds": round(seconds),
            "empty_cache": empty,
            "mib": round(size / 2**20),
            "python": python_version(environment),
            "versions": versions(environment),
        }
        prepare(folder)
        first = FIRST_STEPS if python or job == "base" else ()
        for step in (*STEPS, *first, *([USES[job]] if job in USES else [])):
            if error := run_step(step, folder, environment):
                return row | {"failed": f"{step}: {error}"}
        if python:
            row["extras"] = {extra: use_extra(extra, wheel, python, folder, links) for extra in EXTRAS}
        return row


def new_environment(place: Path, python: str | None) -> bool:
    """Make an empty environment; False where that version of Python is not at hand."""
    chosen = ["--python", python, "--no-python-downloads"] if python else []
    return not subprocess.run(["uv", "venv", "-q", *chosen, str(place)], check=not python).returncode


def install(environment: Path, wheel: Path, extra: str | None, flags: list[str]) -> str | None:
    """Install the wheel, with an extra; what went wrong."""
    requirement = f"stillroom{f'[{extra}]' if extra else ''} @ {wheel.as_uri()}"
    done = subprocess.run(
        ["uv", "pip", "install", "-q", "--python", str(environment), *flags, requirement],
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stderr.strip()[-300:] if done.returncode else None


def use_extra(extra: str, wheel: Path, python: str, folder: Path, links: list[str]) -> str:
    """Install an extra alone, from wheels, and use it: "runs", or what went wrong."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        environment = Path(name) / "env"
        new_environment(environment, python)
        if error := install(environment, wheel, extra, ["--only-binary", ":all:", *links]):
            return f"install: {error}"
        return run_step(USES[extra], folder, environment) or "runs"


def prepare(folder: Path) -> None:
    """Write what the steps read."""
    write(folder / "recipe.yaml", RECIPE)
    write(folder / "study.yaml", STUDY)
    write(folder / "loss.py", LOSS)
    write(folder / "readme.py", re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0])


def run_step(step: str, folder: Path, environment: Path) -> str | None:
    """Run a line of a shell in the environment; the end of what it printed where it failed."""
    answer = subprocess.run(
        step, shell=True, cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": "",
             "STILLROOM_CACHE": str(folder / "cache")},
    )  # fmt: skip
    if not answer.returncode:
        return None
    return (answer.stderr or answer.stdout).strip()[-300:] or f"exit code {answer.returncode}"


def python_version(environment: Path) -> str:
    """Of the environment, as 3.12.1."""
    asked = [str(environment / "bin" / "python"), "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def empty_cache() -> bool:
    """Whether uv has no package in its cache, so that all of them are fetched."""
    place = Path(subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip())
    return not any(place.glob("archive-*/*"))


def commit() -> str:
    """Of the checkout that the wheel was built from; empty where there is none."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def dependencies() -> list[str]:
    """What the package requires, with its ranges."""
    required: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return required


def pinned_torch() -> str:
    """The torch of the constraints."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def resolve(python: str, requirement: str, folder: Path, links: list[str]) -> dict[str, Any]:
    """Whether there are wheels for a version of Python, of the package and every extra."""
    name, _, place = requirement.partition(" @ ")
    failed = []
    for extra in ("", *EXTRAS):
        file = write(folder / "requirement.txt", f"{name}{f'[{extra}]' if extra else ''} @ {place}\n")
        asked = ["uv", "pip", "compile", "-q", "--python-version", python, "--only-binary", ":all:"]
        done = subprocess.run([*asked, *links, str(file)], capture_output=True, text=True)
        if done.returncode:
            failed.append(f"{extra or 'base'}: {done.stderr.strip().splitlines()[-1][:200]}")
    row = {"job": f"python {python}", "date": time.strftime("%Y-%m-%d"), "commit": commit()}
    return row | ({"failed": "; ".join(failed)} if failed else {})


def versions(environment: Path) -> str:
    """Of what matters most."""
    listed = json.loads(
        subprocess.run(
            ["uv", "pip", "list", "-q", "--format", "json", "--python", str(environment)],
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    base = ("torch", "numpy", "pydantic", "typer", "accelerate", "scipy", "pyarrow", "optuna")
    wanted = {*base, *EXTRAS, "datasets", "huggingface-hub", "pillow-heif", "tokenizers"}
    return ", ".join(f"{each['name']} {each['version']}" for each in listed if each["name"] in wanted)


def licences() -> str:
    """The licence of each package that is required directly, as its own metadata names it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        "# Licences",
        "",
        "stillroom is under Apache-2.0. It contains plotly.js's cartesian bundle (MIT, `report/vendor/`), which its "
        "pages hold; its documentation contains iframe-worker (MIT, `docs/javascripts/`). What it requires is "
        "installed by pip and not part of it; each package names its licence itself. *base* is always installed, an "
        "extra where it is asked for, *docs* and *dev* in a checkout alone.",
        "",
        "`python benchmarks/release.py --licences`",
        "",
        "| for | package | version here | licence |",
        "|---|---|---|---|",
    ]
    for group, required in {"base": project["dependencies"], **project["optional-dependencies"]}.items():
        for requirement in required:
            name = re.match(r"[\w-]+", requirement)[0]  # type: ignore[index]
            try:
                held = importlib.metadata.metadata(name)
            except importlib.metadata.PackageNotFoundError:
                lines.append(f"| {group} | {name} | – | not installed here |")
                continue
            classes = [each for each in held.get_all("Classifier") or () if each.startswith("License ::")]
            named = held["License-Expression"] or "; ".join(each.rpartition(" :: ")[2] for each in classes)
            licence = named or (held["License"] or "–").splitlines()[0]
            lines.append(f"| {group} | {name} | {held['Version']} | {licence} |")
    return "\n".join(lines)


def write(path: Path, text: str) -> Path:
    """Write a file; its path."""
    path.write_text(text)
    return path


def page(rows: list[dict[str, Any]], command: str, notes: str = "") -> str:
    """The table of what ran, and the notes below it."""
    lines = [
        "# The wheel in empty environments",
        "",
        f"`{command}`",
        "",
        "The built wheel, installed with uv into a new virtual environment, without the checkout and without "
        "development tools. In each a model is trained, distilled, reported, diagnosed, and a loss checked, on the "
        "embedded digits; then the extra is used once. *lowest*: every dependency but torch at the oldest version of "
        "its range that the registry has; *lowest torch*: torch, too. *base*, *lowest torch* and *python X* take a "
        "torch of the registry, which brings CUDA; all others that of `constraints.txt`, for CPUs where uv is given "
        "one. *base* and *python X*: also the demo, its audit and the Python of the README; *python X*: also each "
        "extra in an environment of its own. *resolves* where that version is not at hand: wheels of the package, of "
        "its dependencies and of every extra exist.",
        "",
        "| job | result | Python | install, s | size, MiB | versions | day, commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = f"{row.get('install_seconds', '–')}{', all fetched' if row.get('empty_cache') else ''}"
        measured = (row.get("python", "–"), seconds, row.get("mib", "–"), row.get("versions", "–"))
        day = " ".join(filter(None, (row.get("date"), row.get("commit")))) or "–"
        lines.append(f"| {' | '.join(map(str, (row['job'], result(row), *measured, day)))} |")
    return "\n".join(lines) + "\n" + (f"\n{notes}" if notes else "")


def result(row: dict[str, Any]) -> str:
    """What came of a job, in a cell."""
    if "failed" in row:
        said = f"fails: {row['failed']}"
    elif "versions" not in row:
        said = "resolves"
    else:
        extras = row.get("extras", {})
        ran = [extra for extra, came in extras.items() if came == "runs"]
        said = "runs" + (f", each alone: {', '.join(ran)}" if ran else "")
        said += "".join(f"; {extra} fails: {came}" for extra, came in extras.items() if came != "runs")
    return " ".join(said.split()).replace("|", "\\|")


def main() -> None:
    """Run what has not been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--out", type=Path, help="the table, as Markdown; rows are kept next to it")
    parser.add_argument(
        "--uv", nargs=argparse.REMAINDER, default=[], help="last: what else uv is given, such as --find-links DIR"
    )
    parser.add_argument("--licences", action="store_true", help="print the licences of what is required, and end")
    options = parser.parse_args()
    if options.licences:
        print(licences())
        return
    if shutil.which("uv") is None:
        sys.exit("uv is not there; expected it on the PATH: pip install uv")
    rows_file = options.out.with_suffix(".jsonl") if options.out else None
    kept = rows_file.read_text().splitlines() if rows_file and rows_file.exists() else []
    rows = {row["job"]: row for row in map(json.loads, kept)}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["uv", "build", "-q", "--wheel", "--out-dir", folder, *options.uv, str(ROOT)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        for job in options.jobs:
            if job in rows and "failed" not in rows[job]:
                continue
            rows[job] = run_job(job, wheel, options.uv)
            print(json.dumps(rows[job]), file=sys.stderr, flush=True)
            if rows_file:
                write(rows_file, "".join(json.dumps(row) + "\n" for row in rows.values()))
    notes = ""
    if options.out and options.out.exists():
        _, mark, rest = options.out.read_text(encoding="utf-8").partition("## Notes\n")
        notes = mark + rest
    text = page(sorted(rows.values(), key=lambda row: JOBS.index(row["job"])), "python benchmarks/release.py", notes)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
