"""A working folder of each test's own, with a teacher in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.engine.jobs import save_teacher


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: paths in the recipes start from it."""
    save_teacher(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
