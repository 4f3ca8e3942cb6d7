"""Where data lie: a path, or `hf:NAME`, a data set of the Hugging Face hub, fetched once and kept as Arrow files."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from stillroom.errors import BadInput, format_error
from stillroom.files import cache_root, find_input

PREFIX = "hf:"
_FORM = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")


def find_data(path: str, field: str = "data.path") -> Path:
    """The file or folder that a user named; ``hf:NAME``, ``hf:NAME:CONFIG@REVISION`` is fetched where it is not kept.

    Raises:
        BadInput: no such data set, no package ``datasets``, or the hub cannot be reached.
    """
    if not path.startswith(PREFIX):
        return find_input(path)
    form = _FORM.fullmatch(path.removeprefix(PREFIX))
    if form is None:
        raise BadInput(field, path, "hf:NAME, or hf:NAME:CONFIG@REVISION, a data set of the Hugging Face hub")
    kept = cache_root() / "hub" / re.sub(r"[/:@]", "--", form[0])
    if not kept.is_dir():
        _fetch(form["name"], form["config"], form["revision"], kept, field, path)
    return kept


def _fetch(name: str, config: str | None, revision: str | None, kept: Path, field: str, value: str) -> None:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise BadInput(field, value, "the extra: pip install 'stillroom[hf]'") from None
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # A second process waits for the first, and finds what that one fetched.
        with FileLock(f"{kept}.lock"):
            if not kept.is_dir():
                _download(datasets, name, config, revision, kept)
    except Exception as error:  # of the network, the hub, the data set's own files, a full disk
        expected = (
            "a data set that can be fetched, or a folder: load_dataset(…).save_to_disk(FOLDER) where there is a "
            f"network gives one to name here (datasets raised {format_error(error, 200)})"
        )
        raise BadInput(field, value, expected) from None


def _download(datasets: Any, name: str, config: str | None, revision: str | None, kept: Path) -> None:
    work = tempfile.mkdtemp(prefix=f"{kept.name}.part-", dir=kept.parent)
    try:
        datasets.load_dataset(name, config, revision=revision).save_to_disk(work)
        os.replace(work, kept)
    finally:
        shutil.rmtree(work, ignore_errors=True)
