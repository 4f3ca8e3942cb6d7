"""The pages for users of other libraries: every name and every recipe entry in them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stillroom.losses.registry import losses
from stillroom.recipe import parse_recipe

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "migrate" / f"{name}.md" for name in ("torchdistill", "mdistiller", "repdistiller")]


def entries(text: str) -> list[str]:
    return re.findall(r"`(\{name: [^`]*\})`", text)


@pytest.mark.parametrize("page", [*PAGES, DOCS / "losses.md"], ids=lambda page: page.stem)
def test_every_recipe_entry_of_a_page_is_one(page: Path) -> None:
    found = entries(page.read_text())
    assert len(found) > 10
    for entry in found:
        recipe = parse_recipe({"student": {"name": "mlp"}, "losses": [yaml.safe_load(entry)]})
        assert recipe.losses[0].name in losses()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_row_of_a_migration_page_leads_somewhere(page: Path) -> None:
    rows = [line.strip("|").split("|") for line in page.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for row in rows:
        theirs, ours, differs = (cell.strip() for cell in row)
        assert theirs
        assert differs
        assert entries(ours) or (ours == "–" and differs == "not here"), ours


def test_every_loss_with_a_paper_is_in_the_index_of_papers() -> None:
    index = (DOCS / "losses.md").read_text().split("## By paper")[1]
    for name, kind in losses().items():
        assert (f"| {kind.citation} | `{name}` | `{{name: {name}" in index) == (kind.citation is not None)
