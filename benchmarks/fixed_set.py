"""Record the results of a fixed set of commands, and compare two records: a refactoring must change none of them.

    python benchmarks/fixed_set.py record --tree ../before --out before.json
    python benchmarks/fixed_set.py record --out after.json
    python benchmarks/fixed_set.py compare before.json after.json

The commands run from a given checkout, on the embedded data: training, each loss, cached and live, a run killed and
resumed, studies, class-incremental learning, diagnosis, dissection, fidelity, explanation, evaluation, export, the
Python API. A record holds the hashes of weights and every number of the artifacts, clocks and recipe hashes left out.
``compare`` exits with 1 where a number differs or is gone; fields that are new are listed and do not count. Findings
go by their check, so an order that changed is no difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

STUDENT = {"name": "resnet8", "options": {"width": 4}}
TEACHER = {"name": "resnet8", "options": {"width": 8}, "weights": "runs/teacher/student.safetensors"}
DATA = {"source": "digits", "batch_size": 64, "train_limit": 512, "augmentation": {"pad_crop": 1, "views": 2}}
KEEP = {"checkpoints": [0, 1, 2, 3], "record_weight_distance": ["layer3.0.conv2"]}
LABELS = [{"name": "cross_entropy"}]
KL = [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4}]
TWO_TAPS = ["layer1", "layer3"]
# Name: the terms of its loss, and what else it changes.
METHODS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "cross_entropy": (LABELS, {}),
    "label_smoothing": ([{"name": "label_smoothing"}], {}),
    "kl": (KL, {}),
    "kl_live": (KL, {"cache.enabled": False}),
    "kl_top_k_cache": (KL, {"cache.top_k": 3}),
    "kl_scheduled": ([{"name": "kl", "weight": {"shape": "cosine", "start": 1, "end": 0.2}}, *LABELS], {}),
    "logit_mse": ([*LABELS, {"name": "logit_mse", "centred": True}], {}),
    "logit_fisher": ([*LABELS, {"name": "logit_fisher", "temperature": 4}], {}),
    "logit_fisher_diagonal": ([*LABELS, {"name": "logit_fisher", "diagonal": True}], {"cache.enabled": False}),
    "feature_mse": ([*LABELS, {"name": "feature_mse", "taps": TWO_TAPS}], {}),
    "feature_fisher": ([*LABELS, {"name": "feature_fisher", "taps": TWO_TAPS, "samples": 2}], {}),
    "feature_fisher_penultimate": ([*LABELS, {"name": "feature_fisher", "scale": "mse"}], {}),
    "feature_full_fisher": ([*LABELS, {"name": "feature_full_fisher", "taps": ["layer3"]}], {}),
    "block_logit": ([{"name": "block_logit", "taps": "all", "alpha": 0.1}], {}),
    "average_accumulated": (KL, {"training.ema": 0.9, "training.accumulate": 2, "training.clip_norm": 1.0}),
}

API = """
import sys, torch, stillroom as sr
def images(n, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 8, 8, generator=draw)
    return torch.utils.data.TensorDataset(x, (x.mean((2, 3)).argmax(1)))
def net(width, seed):
    torch.manual_seed(seed)
    layers = torch.nn.Conv2d(3, width, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, 3))
run = sr.distill(net(16, 0), net(4, 1), images(256, 0), images(64, 1), [sr.CrossEntropy(), sr.KL(temperature=2)],
                 epochs=2, batch_size=32, out="runs/api", progress=False)
print(run.summary["top1"])
"""

# Runs `python -m stillroom` for each line of standard input in a fork, so that torch is imported once.
SERVER = """
import importlib, json, os, pkgutil, runpy, sys
import torch, scipy.stats, optuna, stillroom
for found in pkgutil.walk_packages(stillroom.__path__, "stillroom."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        out = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(os.open(job["log"] + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = ["stillroom", *job["argv"]]
        code = 0
        try:
            if job["code"]:
                exec(job["code"], {"__name__": "__main__"})
            else:
                runpy.run_module("stillroom", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 70
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)
    print(json.dumps({"pid": child}), flush=True)
    print(json.dumps({"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}), flush=True)
"""


class Commands:
    """Runs the commands of one checkout in a folder."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.folder = folder
        python = tree / ".venv" / "bin" / "python"
        (folder / "logs").mkdir(exist_ok=True)
        self.server = subprocess.Popen(
            [str(python if python.exists() else sys.executable), "-c", SERVER],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(tree / "src"),
                "OMP_NUM_THREADS": "1",
                "STILLROOM_CACHE": str(folder / "cache"),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, name: str, *argv: str, code: str = "", may_end: tuple[int, ...] = (0,)) -> int:
        began = time.perf_counter()
        self.begin(name, *argv, code=code)
        status = self.end(name, may_end)
        print(f"{name:24} {time.perf_counter() - began:6.1f} s", file=sys.stderr, flush=True)
        return status

    def begin(self, name: str, *argv: str, code: str = "") -> int:
        """Start a command; its process id."""
        log = str(self.folder / "logs" / name)
        job = {"argv": argv, "log": log, "code": code}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self._answer()["pid"])

    def end(self, name: str, may_end: tuple[int, ...] = (0,)) -> int:
        """Wait for it; its exit code."""
        status = int(self._answer()["status"])
        if status not in may_end:
            sys.exit(f"{name}: exit code {status}\n" + (self.folder / "logs" / f"{name}.err").read_text()[-3000:])
        return status

    def close(self) -> None:
        """Stop the process that forks."""
        self.server.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        return json.loads(line) if line else sys.exit("the checkout cannot be imported")

    def write(self, name: str, content: dict[str, Any]) -> str:
        """Write a recipe or a study, JSON being YAML too; its file."""
        (self.folder / name).write_text(json.dumps(content))
        return name


def recipe(losses: list[dict[str, Any]], training: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A recipe on the digits."""
    training = {"epochs": 3, "log_every": 4, **training}
    return {"data": DATA, "teacher": TEACHER, "student": STUDENT, "losses": losses, "training": training, **more}


def run_all(run: Commands, tree: Path) -> None:
    """Run every command."""
    recipes = tree / "recipes"
    run("teacher", "train", str(recipes / "digits.yaml"), "student.options.width=8", "training.epochs=6",
        "--out", "runs/teacher", "--json")  # fmt: skip
    labels = run.write("labels.yaml", recipe(LABELS, KEEP))
    run("labels", "train", labels, "--out", "runs/labels", "--json")
    kl = run.write("kl.yaml", recipe(KL, {**KEEP, "record_gradient_rescaling": True}))
    run("kl", "distill", kl, "cache.enabled=true", "--out", "runs/kl", "--json")
    run("kl-live", "distill", kl, "cache.enabled=false", "--out", "runs/kl-live", "--json")
    kill_and_resume(run, kl)
    run("evaluate", "evaluate", "--model", "resnet8", "--option", "width=8", "--data", "digits", "--split", "test",
        "--weights", "runs/teacher/student.safetensors", "--json")  # fmt: skip
    run("export", "export", "runs/kl", "--out", "exported.safetensors", "--json")
    run("python-api", code=API)

    vit = recipe([*LABELS, {"name": "feature_mse", "taps": "all"}], {"epochs": 1})
    vit["student"] = {"name": "vit_mini", "options": {"depth": 2, "dim": 16, "heads": 2, "patch": 2}}
    run("vit", "distill", run.write("vit.yaml", vit), "--out", "runs/vit", "--json")

    run("synthetic-teacher", "train", str(recipes / "synthetic-teacher.yaml"), "data.synthetic.train=4000",
        "training.epochs=2", "--out", "runs/synthetic-teacher", "--json")  # fmt: skip
    run("synthetic", "distill", str(recipes / "synthetic.yaml"), "data.synthetic.train=2000", "training.epochs=2",
        "training.record_gradient_rescaling=true", "--out", "runs/synthetic", "--json")  # fmt: skip

    run("digits-study", "compare", str(recipes / "studies" / "digits.yaml"), "--out", "studies/digits",
        "--workers", "1", "seeds=[0,1,2]", "budget.epochs=1", "recipe.data.train_limit=512",
        "teachers.resnet20.set.training.epochs=2", "--json", may_end=(0, 1))  # fmt: skip
    methods = [{"name": name, "set": {"losses": terms, **more}} for name, (terms, more) in METHODS.items()]
    base = recipe(LABELS, {})
    del base["training"]["epochs"]
    base["teacher"] = {**TEACHER, "weights": str(run.folder / "runs/teacher/student.safetensors")}
    every = {"name": "every-loss", "seeds": [0], "budget": {"epochs": 2}, "recipe": base, "methods": methods}
    every["allowed_differences"] = ["cache", "moving average", "batch size"]
    run("every-loss", "compare", run.write("every-loss.yaml", every), "--out", "studies/every-loss", "--workers", "1",
        "--json", may_end=(0, 1))  # fmt: skip

    tasks = (str(recipes / "incremental" / "digits.yaml"), "training.steps=20", "incremental.tasks=3")
    run("incremental-joint", "incremental", *tasks, "--preset", "joint", "--out", "runs/joint", "--json")
    run("incremental", "incremental", *tasks, "--joint", "runs/joint", "--out", "runs/tasks", "--json")
    run("incremental-icarl", "incremental", *tasks, "incremental.memory=30", "--preset", "icarl", "--out", "runs/icarl",
        "--json")  # fmt: skip

    run("diagnose-recipe", "diagnose", kl, "losses.kl.temperature=1", "--images", "256", "--out", "diagnosis", "--json")
    wrong = run.write("wrong.yaml", recipe([*LABELS, {"name": "feature_mse", "weight": 100}], {"epochs": 1}))
    swapped = "{mean: [0.5], std: [0.5], class_order: [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]}"
    run("diagnose-wrong", "diagnose", wrong, f"teacher.preprocess={swapped}", "--images", "256",
        "--out", "diagnosis-wrong", "--json")  # fmt: skip
    run("diagnose-run", "diagnose", "runs/kl", "--json")
    run("diagnose-study", "diagnose", "studies/digits", "--json")
    run("dissect", "dissect", kl, "training.checkpoints=[]", "training.record_gradient_rescaling=false",
        "training.epochs=1", "--out", "studies/dissect", "--seeds", "0,1", "--trials", "1", "--workers", "1", "--json",
        may_end=(0, 1))  # fmt: skip
    run("fidelity", "fidelity", "runs/kl", "--images", "64", "--json")
    run("explain", "explain", "runs/kl", "--baseline", "runs/labels", "--images", "4", "--grid", "8", "--mask",
        "positive", "--json")  # fmt: skip


def kill_and_resume(run: Commands, path: str) -> None:
    """Kill a run after its first epoch, and resume it."""
    arguments = ("distill", path, "cache.enabled=true", "training.save_seconds=0", "--out", "runs/resumed", "--json")
    process = run.begin("killed", *arguments)
    metrics = run.folder / "runs" / "resumed" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 4:
        time.sleep(0.002)
    os.killpg(process, signal.SIGKILL)
    run.end("killed", may_end=(-signal.SIGKILL,))
    run("resumed", *arguments, "--resume")


# --- what a record holds -------------------------------------------------------------------------------------------

_LEFT_OUT = re.compile(
    r"seconds|_per_second|memory_mb|peak|schema|recipe_hash|study_hash|^hash$|platform|processor|python|date|time"
)
_HASHES = {"init", "order", "views", "fingerprint", "weights_hash", "split"}
_JSON = {
    "summary.json", "metrics.jsonl", "class_relations.jsonl", "class_relations.json", "weight_distance.jsonl",
    "gradient_rescaling.jsonl", "results.json", "incremental.json", "diagnosis.json", "fidelity.json", "explain.json",
    "dissection.json",
}  # fmt: skip
# Commands whose output is the result; others leave files.
_PRINTED = {"evaluate", "export", "python-api", "diagnose-recipe", "diagnose-wrong", "diagnose-run", "diagnose-study"}


def read_all(folder: Path) -> dict[str, Any]:
    """Every number that the commands left, by file and path."""
    record: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        where = path.relative_to(folder).as_posix()
        if not path.is_file() or where.startswith("cache/"):
            continue
        if where.startswith("logs/"):
            if path.name in _PRINTED:
                record |= read_text(where, path.read_text())
        elif path.name == "predictions.safetensors":
            record[where] = tensors(path)
        elif path.suffix == ".safetensors":
            record[where] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".npz":
            record[where] = arrays(path)
        elif path.name in _JSON:
            record |= read_text(where, path.read_text())
    return record


def read_text(where: str, text: str) -> dict[str, Any]:
    """The numbers of a JSON file, or of one with an object a line."""
    try:
        content = json.loads(text)
    except ValueError:
        try:
            content = [json.loads(line) for line in text.splitlines()]
        except ValueError:
            return {where: text} if text else {}
    return dict(numbers(content, where))


def numbers(content: Any, where: str, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each number, with its path; words only where they are a result."""
    if isinstance(content, dict):
        for part, value in content.items():
            if not _LEFT_OUT.search(part):
                yield from numbers(value, f"{where}:{part}", part)
    elif isinstance(content, list):
        for place, value in enumerate(content):
            name = value.get("check", place) if isinstance(value, dict) else place
            yield from numbers(value, f"{where}:{name}", key)
    elif isinstance(content, str):
        if key in ("check", "verdict") or (key in _HASHES and re.fullmatch("[0-9a-f]{64}", content)):
            yield where, content
    else:
        yield where, content


def tensors(path: Path) -> list[str]:
    """The hashes of the tensors of a file, sorted: without their names."""
    from safetensors.numpy import load_file

    return sorted(hashlib.sha256(each.tobytes()).hexdigest() for each in load_file(path).values())


def arrays(path: Path) -> list[str]:
    """The like of a file of arrays."""
    import numpy as np

    with np.load(path) as held:
        return sorted(hashlib.sha256(held[name].tobytes()).hexdigest() for name in held.files if name != "key")


def record(tree: Path, out: Path, keep: Path | None) -> None:
    """Run the commands of a checkout and write what they came to."""
    folder = keep.resolve() if keep else Path(tempfile.mkdtemp(prefix="fixed-set-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    run = Commands(tree, folder)
    try:
        run_all(run, tree)
    finally:
        run.close()
    found = read_all(folder)
    out.write_text(json.dumps(found, indent=0, sort_keys=True))
    print(f"{len(found):,} values in {time.perf_counter() - began:.0f} s: {out}")
    if keep is None:
        shutil.rmtree(folder)


def compare(one: dict[str, Any], other: dict[str, Any], shown: int) -> int:
    """Print what differs; 1 where anything does."""
    changed = [key for key in one.keys() & other.keys() if one[key] != other[key]]
    gone = [key for key in one.keys() - other.keys() if one[key] is not None]
    new = [key for key in other.keys() - one.keys() if other[key] is not None]
    for what, keys in (("changed", changed), ("gone", gone), ("new", new)):
        print(f"{what}: {len(keys):,}")
        for key in sorted(keys)[:shown]:
            print(f"  {key}: {one.get(key)} -> {other.get(key)}")
    print(f"the same: {len(one.keys() & other.keys()) - len(changed):,} of {len(one):,}")
    return int(bool(changed or gone))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the commands and write a record")
    recording.add_argument("--tree", type=Path, default=ROOT, help="the checkout; left out: the one of this file")
    recording.add_argument("--out", type=Path, required=True)
    recording.add_argument("--keep", type=Path, help="an empty folder to run in, which is kept")
    reading = commands.add_parser("read", help="write the record of a folder that was kept")
    reading.add_argument("folder", type=Path)
    reading.add_argument("--out", type=Path, required=True)
    comparing = commands.add_parser("compare", help="print the differences of two records")
    comparing.add_argument("records", type=Path, nargs=2)
    comparing.add_argument("--shown", type=int, default=40, help="how many of each kind are printed")
    given = parser.parse_args()
    if given.command == "record":
        record(given.tree.resolve(), given.out, given.keep)
    elif given.command == "read":
        given.out.write_text(json.dumps(read_all(given.folder), indent=0, sort_keys=True))
    else:
        one, other = (json.loads(path.read_text()) for path in given.records)
        sys.exit(compare(one, other, given.shown))


if __name__ == "__main__":
    main()
