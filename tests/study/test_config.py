"""Study files: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.errors import BadInput
from stillroom.study.config import load_study, parse_study
from study.small import small, study_file

CONTESTANT = {"name": "a"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": []}, "methods: got []; expected at least 1 item"),
        ({"methods": [CONTESTANT, {"name": "a"}]}, "each method once, but 'a' is there 2 times"),
        ({"methods": [CONTESTANT, {"name": "A"}]}, "each method once, but 'a' is there 2 times"),
        ({"methods": [{"name": "../a"}]}, "methods.0.name"),
        ({"methods": [{"name": "a", "sett": {}}]}, "methods.0.sett: unknown field 'sett'; did you mean 'set'?"),
        ({"seeds": []}, "seeds: got []; expected at least 1 item"),
        ({"seeds": [1, 1]}, "each seed once"),
        ({"seeds": [-1]}, "seeds.0: got -1; expected greater than or equal to 0"),
        ({"baseline": "lables"}, "a method as baseline, not 'lables' (did you mean 'labels'?)"),
        ({"budget": {"epochs": 1, "steps": 2}}, "one of epochs, steps and seconds"),
        ({"budget": {"seconds": 0}}, "budget.seconds: got 0; expected greater than 0"),
        ({"measure": "top2"}, "measure: unknown value 'top2'"),
        ({"model_pairs": [{"name": "x"}, {"name": "x"}]}, "each pair once"),
        ({"tuning": {"trials": 0}}, "tuning.trials: got 0"),
        ({"tuning": {"trials": 2, "space": {"a": {"low": 2, "high": 1}}}}, "low below high"),
        ({"methods": [{"name": "a", "tune": {"seed": [1]}}]}, "tuning.trials with a method's tune"),
    ],
)
def test_a_bad_study_is_reported_in_a_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_study(small(**changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(BadInput, match="a mapping of"):
        parse_study([1])


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(BadInput, match="'name' is there twice, line 2"):
        load_study(path)


def test_a_recipe_is_found_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("student: {name: mlp}\n")
    study = load_study(study_file(tmp_path, recipe="recipe.yaml"), ["budget.epochs=5", "recipe.seed=3"])
    assert study.recipe == {"student": {"name": "mlp"}, "seed": 3}
    assert study.budget is not None
    assert study.budget.epochs == 5


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"recipe: got '.*gone.yaml'"):
        load_study(study_file(tmp_path, recipe="gone.yaml"))
