"""Recipes: an error names what is wrong in one line, what is right can be written out and read back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stillroom.config import bad_input
from stillroom.errors import BadInput
from stillroom.recipe import Recipe, apply_override, load_recipe, parse_recipe, schema_of

STUDENT: dict[str, Any] = {"student": {"name": "resnet8"}}


def with_(**fields: Any) -> dict[str, Any]:
    return {**STUDENT, **fields}


BAD: list[tuple[Any, str]] = [
    ([1], "recipe: got [1]; expected a mapping with at least `student`"),
    ({}, "student: missing; this field is required"),
    (with_(sead=1), "sead: unknown field 'sead'; did you mean 'seed'?"),
    # A name that its place does not know, and another place does; and what other libraries call a field.
    (with_(epochs=3), "epochs: unknown field 'epochs'; did you mean 'training.epochs'?"),
    (with_(training={"lr": 1}), "training.lr: unknown field 'lr'; did you mean 'training.optimizer.lr'?"),
    (with_(val_split=0.1), "val_split: unknown field 'val_split'; did you mean 'data.holdout'?"),
    (with_(data={"val_split": 0.1}), "data.val_split: unknown field 'val_split'; did you mean 'data.holdout'?"),
    (with_(temperature=2), "did you mean 'losses.NAME.temperature'"),
    (with_(seed=-1), "seed: got -1; expected greater than or equal to 0"),
    (with_(seed="x"), "seed: got 'x'; expected a whole number"),
    (with_(seed=True), "seed: got True; expected a number or a name, not true/false"),
    (with_(student="resnet8"), "student: got 'resnet8'; expected a mapping of its fields"),
    (with_(student={"name": ""}), "student.name: got ''"),
    (
        with_(student={"name": "mlp", "preprocess": "imagnet"}),
        "student.preprocess: unknown value 'imagnet'; ",
    ),
    (
        with_(student={"name": "mlp", "preprocess": {"mean": [0], "std": [0]}}),
        "expected standard deviations other than 0",
    ),
    (with_(student={"name": "mlp", "preprocess": {"mean": [0], "std": [1, 1]}}), "expected as many means as standard"),
    (with_(data={"source": "digts"}), "data.source: unknown value 'digts'; did you mean 'digits'?"),
    (with_(data={"source": "digits", "path": "x"}), "expected no path with source: digits"),
    (with_(data={"source": "parquet"}), "expected a path with source: parquet"),
    (with_(data={"batch_size": 0}), "data.batch_size: got 0; expected greater than or equal to 1"),
    (with_(data={"augmentation": {"flip": "maybe"}}), "augmentation.flip: unknown value 'maybe'; one of: "),
    (with_(data={"augmentation": {"views": -1}}), "data.augmentation.views: got -1"),
    (with_(losses=[]), "losses: got []; expected at least 1 item"),
    (with_(losses="kl"), "losses: got 'kl'; expected a list"),
    (with_(losses=[{"weight": 1}]), "losses.0: got {'weight': 1}; expected a mapping with a name"),
    (with_(losses=[{"name": "kll"}]), "expected a loss that exists (did you mean 'kl'?)"),
    (with_(losses=[{"name": "kl", "temprature": 1}]), "losses.0.temprature: unknown field 'temprature'"),
    (with_(losses=[{"name": "kl", "temperature": 0}]), "losses.0.temperature: got 0; expected greater than 0"),
    (with_(losses=[{"name": "kl", "weight": 0}]), "expected a weight above 0; leave a term out"),
    (with_(losses=[{"name": "kl", "weight": {"start": 0, "end": 0}}]), "expected a weight above 0"),
    (with_(losses=[{"name": "kl", "weight": -1}]), "losses.0.weight: got -1"),
    (with_(losses=[{"name": "kl", "weight": {"strat": 0}}]), "losses.0.weight.strat: unknown field 'strat'"),
    (
        with_(losses=[{"name": "kl"}, {"name": "kl"}]),
        "each loss once for each teacher, but 'kl' is there 2 times",
    ),
    (with_(training={"epochs": 0}), "training.epochs: got 0"),
    (with_(training={"epochs": 1, "steps": 1}), "expected either epochs or steps, not both"),
    (with_(training={"optimizer": {"lr": float("nan")}}), "training.optimizer.lr: got nan; expected a finite number"),
    (with_(training={"optimizer": {"name": "adm"}}), "training.optimizer.name: unknown value 'adm'"),
    (with_(training={"schedule": {"milestones": [0.9, 0.1]}}), "expected milestones in increasing order"),
    (with_(training={"precision": "fp16"}), "training.precision: unknown value 'fp16'"),
    (with_(training={"ema": 1.0}), "training.ema: got 1.0; expected less than 1"),
    (with_(training={"threads": 0}), "training.threads: got 0"),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_bad_recipe_names_the_field_the_value_and_what_was_expected(content: Any, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_recipe(content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_resolved_recipe_reads_back_as_itself() -> None:
    recipe = parse_recipe(
        with_(
            teacher={"name": "resnet20", "weights": "w.th", "preprocess": {"mean": [0.5], "std": [0.5]}},
            losses=[
                {"name": "kl", "weight": {"start": 0, "end": 1}},
                {"name": "my_file:Mine", "options": {"margin": 2}},
            ],
        )
    )
    again = parse_recipe(yaml.safe_load(recipe.to_yaml()))
    assert again == recipe
    assert again.hash() == recipe.hash()


def test_the_hash_follows_every_field() -> None:
    base = parse_recipe(STUDENT).hash()
    assert parse_recipe(with_(seed=1)).hash() != base
    assert parse_recipe(with_(data={"augmentation": {"views": 5}})).hash() != base


def test_yaml_numbers_written_with_an_exponent_are_numbers() -> None:
    assert parse_recipe(with_(training={"optimizer": {"lr": "1e-2"}})).training.optimizer.lr == 0.01


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.epochs=3", ("training", "epochs"), 3),
        ("training.optimizer.lr=0.5", ("training", "optimizer", "lr"), 0.5),
        ("losses.kl.temperature=2", ("losses", 0, "temperature"), 2),
        ("losses.0.weight=0.5", ("losses", 0, "weight"), 0.5),
        ("teacher=null", ("teacher",), None),
        ("losses=[{name: cross_entropy}]", ("losses", 0, "name"), "cross_entropy"),
        ("name=a=b", ("name",), "a=b"),
    ],
)
def test_overrides_set_one_value(override: str, path: tuple[Any, ...], value: Any) -> None:
    content: Any = {"losses": [{"name": "kl"}], "training": None}
    apply_override(content, override)
    for part in path:
        content = content[part]
    assert content == value


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs",
        "training.epochs=",
        "training.epochs= ",
        "=3",
        "losses.mse.weight=1",
        "losses.7.weight=1",
        "seed.x=1",
        "seed.x.y=1",
        "a=[1",
        "a=2020-99-99",
    ],
)
def test_a_bad_override_is_reported(override: str) -> None:
    with pytest.raises(BadInput):
        apply_override({"losses": [{"name": "kl"}], "seed": 1}, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "expected valid YAML"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
        ("!!python/object/apply:os.system [echo]", "expected valid YAML"),
        ("seed: 2020-99-99", "expected valid YAML"),
        ("[" * 5000, "expected valid YAML"),
        ("student: {name: mlp, options: {x: !!binary /w==}}", "options of text, numbers"),
    ],
)
def test_a_file_that_is_no_recipe_is_reported(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        load_recipe(path)


def test_a_missing_binary_or_folder_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(BadInput, match="a readable recipe file"):
            load_recipe(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["student", "name", "data", "losses", "weight", "training", "seed", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_no_content_raises_anything_but_bad_input(content: Any) -> None:
    with contextlib.suppress(BadInput):
        parse_recipe(content)


def test_the_schema_knows_every_top_level_field_and_describes_it() -> None:
    import json

    schema = json.loads(schema_of(Recipe, "stillroom recipe"))
    assert set(schema["properties"]) == set(Recipe.model_fields)

    def fields(node: Any) -> list[dict[str, Any]]:
        found = list(node.get("properties", {}).values())
        return found + [field for definition in node.get("$defs", {}).values() for field in fields(definition)]

    undescribed = [
        f for f in fields(schema) if "description" not in f and "const" not in f and f.get("type") != "string"
    ]
    assert not undescribed


LIGHT = [["--help"], ["schema"], ["schema", "study"], ["list"], ["list", "--json"]]


@pytest.fixture(scope="module")
def light() -> list[tuple[str, list[str]]]:
    """What each of these commands prints in a fresh process, and which heavy modules are there after it."""
    code = (
        "import contextlib, io, json, sys, stillroom, stillroom.cli as cli\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        assert cli.run(arguments) == 0\n"
        "    heavy = [name for name in ('torch', 'safetensors.torch', 'stillroom.recipe') if name in sys.modules]\n"
        "    print(json.dumps([out.getvalue(), heavy]))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(LIGHT)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize("place", range(len(LIGHT)), ids=[" ".join(arguments) for arguments in LIGHT])
def test_help_schema_and_list_do_not_import_torch(light: list[tuple[str, list[str]]], place: int) -> None:
    printed, heavy = light[place]
    assert len(printed) > 100
    assert heavy == []


def test_a_schema_that_is_read_without_torch_is_the_same(light: list[tuple[str, list[str]]]) -> None:
    assert json.loads(light[LIGHT.index(["schema"])][0]) == json.loads(schema_of(Recipe, "stillroom recipe"))


RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.parametrize("path", [*RECIPES.glob("*.yaml"), *RECIPES.glob("imagenet/*.yaml")], ids=lambda p: p.name)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path).hash()


def test_bad_input_of_another_model_keeps_its_prefix() -> None:
    from pydantic import ValidationError

    from stillroom.data.config import DataConfig

    with pytest.raises(ValidationError) as caught:
        DataConfig.model_validate({"pth": "x"})
    assert str(bad_input(caught.value, DataConfig, "data")) == "data.pth: unknown field 'pth'; did you mean 'path'?"
