"""``benchmarks/release.py`` goes on where it was stopped, and keeps what was written by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmark_module import benchmark


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, without uv."""
    module = benchmark("release")
    monkeypatch.setattr(module.shutil, "which", lambda name: name)

    def build(command: list[str], **options: Any) -> None:
        (Path(command[command.index("--out-dir") + 1]) / "x.whl").touch()

    monkeypatch.setattr(module.subprocess, "run", build)
    return module


def test_a_job_that_failed_runs_again_and_one_that_ran_does_not(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = []

    def run_job(job: str, wheel: Path, links: list[str]) -> dict[str, Any]:
        ran.append(job)
        return {"job": job, "versions": "torch 2"} | ({"failed": "no network"} if len(ran) == 1 else {})

    monkeypatch.setattr(release, "run_job", run_job)
    page = tmp_path / "release.md"
    page.write_text("# Old\n\n## Notes\nBy hand.\n")
    monkeypatch.setattr(sys, "argv", ["release.py", "--jobs", "base", "text", "--out", str(page)])
    release.main()
    assert "| base | fails: no network |" in page.read_text()
    release.main()
    assert ran == ["base", "text", "base"]
    assert "| base | runs |" in page.read_text()
    assert page.read_text().endswith("|\n\n## Notes\nBy hand.\n")
    assert [json.loads(line)["job"] for line in page.with_suffix(".jsonl").read_text().splitlines()] == ["base", "text"]


def test_the_cell_names_the_extras_that_ran_and_why_others_did_not(release: ModuleType) -> None:
    extras = {"onnx": "runs", "ray": "install: no wheel | none"}
    said = release.result({"job": "python 3.12", "versions": "torch 2", "extras": extras})
    assert said == "runs, each alone: onnx; ray fails: install: no wheel \\| none"
