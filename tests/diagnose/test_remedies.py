"""Paths of remedies: any option of any loss can be set by the override that a remedy names."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.diagnose.remedies import option_path, path_in
from stillroom.losses.registry import losses
from stillroom.recipe import apply_override, parse_recipe
from stillroom.schema.diagnosis import Remedy

_names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)
_custom = st.builds(
    lambda modules, name: f"{'.'.join(modules)}:{'.'.join(name)}",
    st.lists(_names, min_size=1, max_size=3),
    st.lists(_names.map(str.capitalize), min_size=1, max_size=2),
)
_terms = st.one_of(
    st.sampled_from(list(losses())).map(lambda name: {"name": name}),
    st.builds(lambda name, scale: {"name": name, "options": {"scale": scale}}, _custom, st.integers(1, 9)),
)
_lists = st.lists(_terms, min_size=1, max_size=4, unique_by=lambda term: term["name"])


@settings(max_examples=60)
@given(_lists, st.data())
def test_an_override_changes_exactly_the_term_that_it_names(terms: list[dict[str, Any]], data: st.DataObject) -> None:
    content = {"student": {"name": "mlp"}, "teacher": {"name": "mlp"}, "losses": terms}
    before = parse_recipe(copy.deepcopy(content))
    position = data.draw(st.integers(0, len(terms) - 1))
    is_custom = "options" in terms[position]
    option = data.draw(st.sampled_from(["weight", "scale", "temperature"] if is_custom else ["weight"]))
    path = option_path(before.losses, position, option)
    assert path == path_in(before, terms[position]["name"], option)

    for override in Remedy("Set it.", {path: 7.5}).arguments():
        apply_override(content, override)
    after = parse_recipe(content)
    assert after.losses[:position] == before.losses[:position]
    assert after.losses[position + 1 :] == before.losses[position + 1 :]
    old, new = (recipe.losses[position].model_dump(mode="json") for recipe in (before, after))
    where = ("options", option) if option not in type(before.losses[position]).model_fields else (option,)
    assert _pop(new, where) == 7.5
    _pop(old, where)
    assert new == old
    assert after.model_copy(update={"losses": before.losses}) == before


def _pop(content: dict[str, Any], path: tuple[str, ...]) -> Any:
    for part in path[:-1]:
        content = content[part]
    return content.pop(path[-1], None)
