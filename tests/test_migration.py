"""The pages for users of other libraries: every name and every recipe entry in them exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from losses.pairs import shared_context
from stillroom.losses.registry import losses
from stillroom.recipe import Recipe, parse_recipe

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


def test_taps_of_the_migration_pages_are_those_of_our_networks() -> None:
    """Of the two libraries whose networks we have; torchdistill's pages are of torchvision's."""
    context = shared_context("cnn", "slim")
    chosen = {}
    for page in PAGES[1:]:
        for entry in map(yaml.safe_load, entries(page.read_text())):
            if isinstance(entry.get("taps"), list):
                pairs = context.choose_pairs(entry["taps"])
                chosen[page.stem, entry["name"]] = [tap.name for pair in pairs for tap in pair]
    assert chosen["repdistiller", "activation_boundary"] == [f"layer{n}:pre" for n in (1, 1, 2, 2, 3, 3)]
    assert len(chosen) > 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipe_fields_that_a_migration_page_names_exist(page: Path) -> None:
    schema = json.dumps(Recipe.model_json_schema())
    named = re.findall(r"`((?:data|training|teacher|student|cache)(?:\.\w+)+)", page.read_text())
    assert named
    fields = [path for path in named if not path.endswith(".safetensors")]
    assert [path for path in fields if f'"{path.rpartition(".")[2]}"' not in schema] == []
