"""The architecture: the order of the packages, no circular imports, no two classes of one name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "stillroom"

# From the bottom up: a package or a module at the top level may import those on the lines before its own.
ORDER = [
    ["errors"],
    ["callables", "files", "memory", "observer", "randomness", "tasks", "wording"],
    ["runtime"],
    ["config"],
    ["schema"],
    ["data"],
    ["models"],
    ["teachers"],
    ["class_relations"],
    ["losses"],
    ["train"],
    ["recipe"],
    ["run"],
    ["continual"],
    ["study"],
    ["report"],
    ["explain"],
    ["diagnose"],
    ["pipeline"],
    ["integrations"],
    ["demo"],
    ["cli"],
    ["api"],
    ["__main__"],
]
HEIGHT = {package: height for height, line in enumerate(ORDER) for package in line}
# A page is made from files alone.
REPORT_IMPORTS = {"report", "schema", "config", "errors", "files", "tasks", "wording"}


def module_of(path: Path) -> str:
    """``losses.kl`` of ``losses/kl.py``, ``losses`` of ``losses/__init__.py``, ```` of the top ``__init__.py``."""
    return ".".join(part for part in path.relative_to(SOURCE).with_suffix("").parts if part != "__init__")


FILES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


@cache
def trees() -> dict[str, ast.Module]:
    return {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def imports_of(module: str) -> set[str]:
    """The modules that a file imports anywhere in it: under TYPE_CHECKING and inside functions too."""
    found = set()
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "stillroom":
            package = (node.module or "").partition(".")[2]
            for alias in node.names:
                name = f"{package}.{alias.name}".strip(".")
                found.add(name if name in FILES else package)
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.partition(".")[0] == "stillroom"}
    return found - {module}


@cache
def imports() -> dict[str, set[str]]:
    return {module: imports_of(module) & set(FILES) for module in FILES}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module, by Tarjan's algorithm."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == number[module]:
            start = stack.index(module)
            component = sorted(stack[start:])
            del stack[start:]
            if len(component) > 1:
                found.append(component)

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": set()}
    assert circles(graph) == [["b", "c"]]


def test_no_circular_imports_between_files() -> None:
    assert circles(imports()) == []


@pytest.mark.parametrize("module", [module for module in FILES if module])
def test_a_package_imports_only_those_below_it(module: str) -> None:
    package = module.partition(".")[0]
    assert package in HEIGHT, f"{package} is missing in ORDER"
    for other in imports()[module]:
        below = other.partition(".")[0]
        # A recipe is made of the options and presets of every package; the top __init__.py is __version__ only.
        if below in ("", package) or (package == "recipe" and other.endswith((".config", ".presets"))):
            continue
        assert HEIGHT[below] < HEIGHT[package], f"{module} imports {other}, which is not below it"
        assert package != "report" or below in REPORT_IMPORTS, f"{module} imports {other}"


def test_no_two_classes_of_one_name() -> None:
    places = defaultdict(list)
    for module, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("module", [module for module in FILES if module.rpartition(".")[2] == "config"])
def test_options_do_not_import_torch(module: str) -> None:
    for node in ast.walk(trees()[module]):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        assert not any(name.partition(".")[0] == "torch" for name in names if isinstance(name, str))


def test_a_bare_import_does_not_import_torch() -> None:
    code = "import sys, stillroom; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_unpickled() -> None:
    for path in FILES.values():
        text = path.read_text(encoding="utf-8")
        assert "pickle.load" not in text
        assert "allow_pickle=True" not in text
        for line in text.splitlines():
            if "torch.load(" in line:
                assert "weights_only=True" in line, f"{path}: {line}"
