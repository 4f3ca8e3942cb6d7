"""The README and the pages run as pasted, and their links lead somewhere."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from processes import fork_python
from stillroom.cli import add_commands
from stillroom.cli.app import app
from stillroom.errors import BadInput
from stillroom.recipe import apply_override, parse_recipe
from stillroom.study.config import parse_study

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block.count("epochs=15") == block.count("epochs=60") == 1
    monkeypatch.chdir(tmp_path)
    # As pasted, but for the length.
    exec(compile(block.replace("epochs=15", "epochs=2").replace("epochs=60", "epochs=4"), "README.md", "exec"), {})
    top1, page = capsys.readouterr().out.split()
    assert 0 < float(top1) <= 100
    assert Path(page).is_file()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    # Pages of the reference are written when the site is built, which checks links to them.
    written = [t for t in targets if "://" not in t and not t.startswith(("mailto:", "../reference/"))]
    missing = [target for target in written if not (page.parent / target).exists()]
    assert not missing


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


# What a page leaves to its reader.
GIVEN = {"CONTRIBUTING.md": "from losses.tester import LossTester\nplain_logit_l1 = None\n"}
WITH_PYTHON = [page for page in PAGES if page.name != "README.md" and blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fork_python(monkeypatch)
    names: dict[str, object] = {}
    for block in [GIVEN.get(page.name, ""), *blocks(page, "python")]:
        # As a script has it: without this file's own future imports.
        exec(compile(block, page.name, "exec", dont_inherit=True), names)
    printed = capsys.readouterr().out
    for shown in re.findall(r"It prints `(\[.*?\])`", page.read_text()):
        assert shown in printed.splitlines()


# A recipe and what blocks that show a part of one leave out.
RECIPE: dict[str, Any] = {
    "student": {"name": "resnet8"},
    "teacher": {"name": "resnet20", "weights": "teacher.safetensors"},
    "losses": [{"name": "cross_entropy"}, {"name": "kl"}],
}


def alternatives(block: str) -> list[dict[str, Any]]:
    """The mappings of a block of YAML, which may show a key in several ways, one below the other."""
    parts = re.split(r"^(?=\w)", re.sub(r"^#.*\n", "", block, flags=re.MULTILINE), flags=re.MULTILINE)
    held = [yaml.safe_load(part) for part in parts if part.strip()]
    keys = [key for part in held for key in part]
    if len(set(keys)) == len(keys):
        return [{key: value for part in held for key, value in part.items()}]
    return held


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_recipes_of_a_page_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        for shown in alternatives(block):
            if "methods" in shown:
                parse_study({**shown, "recipe": RECIPE})
            else:
                without = {"teacher"} if "teachers" in shown else set()
                parse_recipe({key: value for key, value in RECIPE.items() if key not in without} | shown)


def commands_of(page: Path) -> list[tuple[str, str]]:
    """(command, what follows) of each call of the command line in a page, in blocks and within lines."""
    text = page.read_text()
    lines = re.findall(r"^(?:\$ )?stillroom ([a-z][a-z-]*)(.*)$", "\n".join(blocks(page, "")), re.MULTILINE)
    return lines + re.findall(r"`stillroom ([a-z][a-z-]*)([^`\n]*)`", text)


def test_commands_and_options_that_the_pages_name_exist() -> None:
    add_commands()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    unknown, seen = [], 0
    for page in PAGES:
        for name, rest in commands_of(page):
            seen += 1
            if name not in commands:
                unknown.append(f"{page.name}: {name}")
                continue
            known = {option for each in commands[name].params for option in each.opts} | {"--help"}
            # What follows a script is the script's.
            ours = re.split(r"#|\.py\b(?!:)", rest)[0]
            options = re.findall(r"(?<=\s)--[a-z-]+", ours)
            unknown += [f"{page.name}: {name} {option}" for option in options if option not in known]
    assert seen > 100
    assert not unknown


def test_changes_of_recipes_that_the_pages_name_are_valid() -> None:
    seen, refused = 0, []
    for page in PAGES:
        for name, rest in commands_of(page):
            if name not in ("train", "distill", "diagnose", "dissect", "incremental"):
                continue
            words = shlex.split(rest, comments=True)
            changes = [word for word in words if re.fullmatch(r"[a-z_]+(\.[\w.]+)?=.+", word) and "…" not in word]
            files = [word for word in words if word.endswith(".yaml") and (ROOT / word).is_file()]
            content = yaml.safe_load((ROOT / files[0]).read_text()) if files else copy.deepcopy(RECIPE)
            if any("label_columns" in change for change in changes):
                content["data"] = {"path": "photos"}
            try:
                for change in changes:
                    apply_override(content, change)
                parse_recipe(content)
            except BadInput as error:
                refused.append(f"{page.name}: {name}{rest}: {error}")
            seen += len(changes)
    assert seen > 20
    assert not refused


def test_every_page_is_in_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = re.findall(r"[\w/-]+\.md", str(site["nav"]))
    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    generated = {name for name in named if name.startswith("reference/")}
    assert {name for name in written if not name.startswith("results/")} <= set(named)
    assert set(named) - generated <= written


def test_the_page_of_symptoms_is_that_of_the_checks() -> None:
    from stillroom.cli.checklist import symptom_page

    # python -c "from stillroom.cli.checklist import symptom_page as s; print(s(), end='')" > docs/symptoms.md
    assert (ROOT / "docs" / "symptoms.md").read_text() == symptom_page()


def test_every_check_is_listed() -> None:
    from stillroom.cli.checklist import DOORS
    from stillroom.diagnose import checks
    from stillroom.diagnose.check import Check

    modules = [
        importlib.import_module(info.name) for info in pkgutil.walk_packages(checks.__path__, f"{checks.__name__}.")
    ]
    made = [each for module in modules for each in vars(module).values() if isinstance(each, Check)]
    listed = [check for door in DOORS for check in door.checks]
    assert made
    assert [each.id for each in made if each not in listed] == []
