"""Install the built wheel as users do, into empty environments, and run it: extras, lowest and highest versions.

    python benchmarks/release.py --out docs/results/release.md            # goes on where it was stopped
    python benchmarks/release.py --jobs base "python 3.14"
    python benchmarks/release.py --licences > docs/licences.md            # of what is installed here

It takes uv (``pip install uv``). Each job is a new virtual environment, in which the wheel is installed without the
checkout, its recipes or its tests; then a model is trained, distilled, diagnosed and exported on the embedded digits,
and the extra is used once. Under another version of Python, where it is at hand, the demo, its audit and the Python of
the README run, too; where it is not, the versions are resolved: whether wheels exist. Needs no package but uv.
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
# Under another version of Python, after these.
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
        requirement = f"stillroom{f'[{job}]' if job in EXTRAS else ''} @ {wheel.as_uri()}"
        python = job.removeprefix("python ") if job.startswith("python ") else None
        environment = folder / "env"
        chosen = ["--python", python, "--no-python-downloads"] if python else []
        if subprocess.run(["uv", "venv", "-q", *chosen, str(environment)], check=not python).returncode:
            return resolve(python or "", requirement, folder, links)
        # What the package requires is named here, too: "direct" is what stands on the command line.
        flags = ["--resolution", "lowest-direct", *dependencies()] if job.startswith("lowest") else []
        if job not in ("base", "lowest torch") and not python:
            # One torch for all the others: that of the constraints, of which there may be a small build for CPUs.
            flags += ["--override", str(write(folder / "torch.txt", f"{pinned_torch()}\n"))]
        began = time.perf_counter()
        done = subprocess.run(
            ["uv", "pip", "install", "-q", "--python", str(environment), *links, *flags, requirement],
            capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if done.returncode:
            return {"job": job, "failed": f"install: {done.stderr.strip()[-300:]}"}
        size = sum(file.stat().st_size for file in environment.rglob("*") if file.is_file() and not file.is_symlink())
        row = {
            "job": job,
            "install_seconds": round(seconds),
            "mib": round(size / 2**20),
            "versions": versions(environment),
        }
        write(folder / "recipe.yaml", RECIPE)
        write(folder / "study.yaml", STUDY)
        write(folder / "loss.py", LOSS)
        write(folder / "readme.py", re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0])
        for step in (*STEPS, *(FIRST_STEPS if python else []), *([USES[job]] if job in USES else [])):
            answer = subprocess.run(
                step, shell=True, cwd=folder, capture_output=True, text=True,
                env={**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": "",
                     "STILLROOM_CACHE": str(folder / "cache")},
            )  # fmt: skip
            if answer.returncode:
                return row | {"failed": f"{step}: {(answer.stderr or answer.stdout).strip()[-300:]}"}
        return row


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
        command = [
            "uv",
            "pip",
            "compile",
            "-q",
            "--python-version",
            python,
            "--only-binary",
            ":all:",
            *links,
            str(file),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            failed.append(f"{extra or 'base'}: {done.stderr.strip().splitlines()[-1][:200]}")
    return {"job": f"python {python}"} | ({"failed": "; ".join(failed)} if failed else {})


def versions(environment: Path) -> str:
    """Of what matters most."""
    listed = json.loads(
        subprocess.run(
            ["uv", "pip", "list", "-q", "--format", "json", "--python", str(environment)],
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    wanted = ("torch", "numpy", "pydantic", "typer", "accelerate", "scipy", "pyarrow", "optuna", *EXTRAS)
    return ", ".join(f"{each['name']} {each['version']}" for each in listed if each["name"] in wanted)


def licences() -> str:
    """The licence of each package that is required directly, as its own metadata names it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        "# Licences",
        "",
        "stillroom is under Apache-2.0. It contains plotly.js's cartesian bundle (MIT, `report/vendor/`), which its "
        "pages hold. What it requires is installed by pip and not part of it; each package names its licence itself. "
        "*base* is always installed, an extra where it is asked for, *docs* and *dev* in a checkout alone.",
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


def page(rows: list[dict[str, Any]], command: str) -> str:
    """The table of what ran."""
    lines = [
        "# The wheel in empty environments",
        "",
        f"`{command}`",
        "",
        "The built wheel, installed with uv into a new virtual environment, without the checkout and without "
        "development tools. In each a model is trained, distilled, reported, diagnosed, and a loss checked, on the "
        "embedded digits; then the extra is used once. *lowest*: every dependency but torch at the oldest version of "
        "its range that the registry has; *lowest torch*: torch, too. *base* and *lowest torch* take a torch of the "
        "registry, which brings CUDA; all others that of `constraints.txt`, for CPUs. *python X*: also the demo, its "
        "audit and the Python of the README; *resolves* where that version is not at hand: wheels of the package, of "
        "its dependencies and of every extra exist.",
        "",
        "| job | result | install, s | size, MiB | versions |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        result = row.get("failed", "runs" if "versions" in row else "resolves").replace("|", "\\|")
        cells = (row["job"], " ".join(result.split()), row.get("install_seconds", "–"), row.get("mib", "–"))
        lines.append(f"| {' | '.join(map(str, cells))} | {row.get('versions', '–')} |")
    return "\n".join(lines) + "\n"


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
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file and rows_file.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["uv", "build", "-q", "--wheel", "--out-dir", folder, *options.uv, str(ROOT)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        for job in options.jobs:
            if any(row["job"] == job for row in rows):
                continue
            rows.append(run_job(job, wheel, options.uv))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if rows_file:
                with rows_file.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    text = page(sorted(rows, key=lambda row: JOBS.index(row["job"])), "python benchmarks/release.py")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
