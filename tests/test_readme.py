"""The README and the pages run as pasted, and their links lead somewhere."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import typer
import yaml

from stillroom.cli import add_commands
from stillroom.cli.app import app

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


RUNNABLE = ["start/loop.md", "start/python.md", "how-to/add-a-loss.md", "guide/teachers.md", "guide/targets.md"]


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_python_of_a_page_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / name).read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        # As a script has it: without this file's own future imports.
        exec(compile(block, name, "exec", dont_inherit=True), names)
    for printed in re.findall(r"(?:It prints|It names two:) `(\[.*?\])`", page):
        assert printed in capsys.readouterr().out


def test_commands_and_options_that_the_pages_name_exist() -> None:
    add_commands()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    unknown = []
    for page in PAGES:
        blocks = re.findall(r"```(?:\w*)\n(.*?)```", page.read_text(), re.DOTALL)
        lines = re.findall(r"^(?:\$ )?stillroom ([a-z-]+)(.*)$", "\n".join(blocks), re.MULTILINE)
        for name, rest in lines:
            if name not in commands:
                unknown.append(f"{page.name}: {name}")
                continue
            known = {option for each in commands[name].params for option in each.opts} | {"--help"}
            # What follows a script is the script's.
            ours = re.split(r"#|\.py\b(?!:)", rest)[0]
            options = re.findall(r"(?<=\s)--[a-z-]+", ours)
            unknown += [f"{page.name}: {name} {option}" for option in options if option not in known]
    assert not unknown


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
