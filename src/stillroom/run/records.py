"""Reading and checking run folders, and describing the machine of a run."""

from __future__ import annotations

import functools
import itertools
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import stillroom
from stillroom.errors import BadInput, shorten
from stillroom.files import CHECKSUMS, canonical_json, digest, is_partial, parse_yaml, read_bytes
from stillroom.recipe import Recipe, parse_recipe
from stillroom.schema.run import Environment

if TYPE_CHECKING:
    import torch

# Where weights lie; what they are is in every save, by their hash.
_PLACES = ("teacher.weights", "student.weights")
_VERSIONS = ("torch", "numpy", "pydantic", "safetensors")


def environment(device: torch.device) -> Environment:
    """Versions and machine, for the report."""
    # Here, not above: whoever only reads records need not wait for it.
    import torch

    versions: dict[str, Any] = {name: _version(name) for name in _VERSIONS}
    return Environment(
        stillroom=stillroom.__version__,
        python=sys.version.split()[0],
        platform=platform.platform(),
        processor=_processor(),
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        cores=os.cpu_count() or 1,
        **versions,
    )


@functools.cache
def _version(package: str) -> str | None:
    """The version that a package was installed as; None where it runs from its sources alone."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def load_run_recipe(run: Path) -> Recipe:
    """The resolved recipe of a run folder; BadInput where the folder holds none, or a damaged one."""
    try:
        content = parse_yaml(read_bytes(run / "recipe.yaml").decode("utf-8"))
    except BadInput:
        raise
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        raise BadInput("run", str(run), "a run folder, with a readable recipe.yaml") from None
    return parse_recipe(content)


def check_free(out: Path, resume: bool) -> None:
    """Refuse a folder that a run would overwrite.

    Raises:
        BadInput: it is a file, holds a run and is not to be resumed, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise BadInput("--out", str(out), "a folder, not a file")
    if not out.exists() or not any(out.iterdir()):
        return
    if not is_unfinished(out) and not (out / "recipe.yaml").exists():
        raise BadInput("--out", str(out), "a new or empty folder, or a run's; this one holds other files")
    if not resume:
        kind = "an unfinished" if is_unfinished(out) else "a finished"
        raise BadInput("--out", str(out), f"a new or empty folder; this one holds {kind} run, which resume reads")


def is_unfinished(out: Path) -> bool:
    """Whether a folder holds a run that was begun and not finished."""
    if not out.is_dir() or (out / "summary.json").exists():
        return False
    # A run stopped before its recipe is written leaves no more than these.
    held = {item.name for item in out.iterdir() if not is_partial(item)}
    return "recipe.yaml" in held or (bool(held) and held <= {"state", "timing.jsonl", CHECKSUMS})


def check_same_recipe(recipe: Recipe, out: Path) -> None:
    """Refuse to go on with a run that another recipe began; its files may have moved.

    Raises:
        BadInput: naming what differs.
    """
    if not (out / "recipe.yaml").exists():
        return
    before = flatten(load_run_recipe(out).model_dump(mode="json"))
    now = flatten(recipe.model_dump(mode="json"))
    changed = [key for key in now | before if now.get(key) != before.get(key) and key not in _PLACES]
    if changed:
        differences = "; ".join(
            f"{key} is {shorten(now.get(key))}, was {shorten(before.get(key))}" for key in changed[:3]
        )
        expected = f"a new folder, or the recipe that the run there was started with: {differences}"
        raise BadInput("--out", str(out), expected)


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as ``a.b.0: value``.

    >>> flatten({"a": {"b": [1, 2]}})
    {'a.b.0': 1, 'a.b.1': 2}
    """
    if isinstance(content, dict) and content:
        items = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list) and content:
        items = [(str(position), value) for position, value in enumerate(content)]
    else:
        return {prefix.removesuffix("."): content}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


@contextmanager
def output_folder(out: Path | None, stem: str) -> Iterator[Path]:
    """The folder that a command writes: ``out``; left out, a new one, ``runs/STEM``, ``runs/STEM-2`` …

    The new one is made at once, so that no other process takes the same; it is removed again where it stays empty.

    Raises:
        BadInput: the run has several processes, which would each make another.
    """
    if out is not None:
        yield out
        return
    from stillroom.train.device import launched

    if launched() > 1:
        raise BadInput("--out", None, f"a folder: the {launched()} processes of the run must agree on it")
    folder = _new_folder(Path("runs"), stem)
    try:
        yield folder
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _new_folder(parent: Path, stem: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-") or "run"
    for number in itertools.count(1):
        folder = parent / (safe if number == 1 else f"{safe}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError  # the count has no end


def chain_hashes(hashes: Sequence[str]) -> str:
    """One hash for those of several tasks in their order; of one alone, its own.

    >>> chain_hashes(["a"]), chain_hashes(["a", "b"]) == chain_hashes(["b", "a"])
    ('a', False)
    """
    return hashes[0] if len(hashes) == 1 else digest(*(one.encode() for one in hashes))


def budget_hash(
    *, steps: int, batch_size: int, accumulate: int, processes: int, data: str, tasks: int | None = None
) -> str:
    """The hash of a run's budget.

    Args:
        steps: optimizer steps, of all tasks.
        batch_size: images a step.
        accumulate: micro-batches of each batch at the end.
        processes: how many shared the work.
        data: the data's fingerprint: of the whole of it, whichever images a memory kept.
        tasks: how many; None of an ordinary run.
    """
    content = {
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "processes": processes,
        "data": data,
        "reported": "last",
    }
    return digest(canonical_json(content if tasks is None else {**content, "tasks": tasks}))
