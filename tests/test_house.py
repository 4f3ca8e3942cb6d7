"""The house: each room imports only those below it, there is no circle, and no file is one that one would dread."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "stillroom"

# From the ground up; a room may import the rooms before it.
FLOORS = [
    ["errors", "files", "memory", "randomness"],
    ["config"],
    ["data"],
    ["models"],
    ["teacher"],
    ["geometry", "targets"],
    ["objectives"],
    ["training"],
    ["recipe"],
    ["runs"],
    ["continual"],
    ["studies"],
    ["report"],
    ["explain"],
    ["diagnose"],
    ["listing"],
    ["console"],
    ["live"],
    ["api", "demo"],
    ["cli"],
    ["__main__"],
]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
# The options of a package above, which a recipe holds.
OPTIONS_ABOVE = {("recipe", "stillroom.continual.config")}
# What anybody may read without climbing: the report reads folders, not other rooms.
REPORT_READS = {"errors", "files"}


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stillroom"):
            parts = (node.module or "").split(".")
            if (room_of(path), node.module) in OPTIONS_ABOVE:
                continue
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("stillroom.")}
    return found - {"__version__"}


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_down(path: Path) -> None:
    room = room_of(path)
    for other in imports_of(path):
        assert other in HEIGHT, f"{other} is not in the house"
        assert other == room or HEIGHT[other] < HEIGHT[room], f"{room} imports {other}, which is not below it"
    if room == "report":
        assert imports_of(path) <= REPORT_READS | {"report"}


def test_every_room_is_on_a_floor() -> None:
    assert {room_of(path) for path in FILES} == set(HEIGHT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("config.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_configs_do_not_import_torch(path: Path) -> None:
    assert "import torch" not in path.read_text(encoding="utf-8")


def test_nothing_is_unpickled() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "pickle.load" not in text
        assert "allow_pickle=True" not in text
        for line in text.splitlines():
            if "torch.load(" in line:
                assert "weights_only=True" in line, f"{path}: {line}"
