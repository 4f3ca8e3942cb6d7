"""The user's own module:function: what it is called with, and what is said when it cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from stillroom.errors import BadInput
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, hidden=4):
        super().__init__()
        self.hidden, self.num_classes = hidden, num_classes

def classes_only(num_classes):
    return nn.Linear(2, num_classes)

def with_size(num_classes, in_channels, image_size, *, scale=1):
    return nn.Linear(in_channels * image_size ** 2 * scale, num_classes)

def default_size(image_size=7):
    return nn.Linear(image_size, 1)

def anything(**given):
    net = nn.Identity()
    net.given = given
    return net

def hands_on(**given):
    return classes_only(**given)

def needs(depth, num_classes):
    return nn.Linear(depth, num_classes)

def breaks(num_classes):
    raise RuntimeError("no weights today\\nsecond line")

def exits(num_classes):
    raise SystemExit(3)

def refuses(num_classes):
    return nn.Linear(1, num_classes, in_channels=3)

def gives_text(num_classes):
    return "a net"

made = nn.Linear(2, 2)
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_models_under_test.py").write_text(SOURCE)
    (tmp_path / "own_broken_under_test.py").write_text("def f(:\n")
    (tmp_path / "own_raising_under_test.py").write_text("import own_missing_dependency\n")
    yield "own_models_under_test"
    for name in [name for name in sys.modules if name.endswith("_under_test")]:
        del sys.modules[name]


def made(name: str, size: int | None = 8, **options: object) -> nn.Module:
    config = ModelConfig(name=name, options=options)
    return build(config, num_classes=10, in_channels=3, image_size=size, field="teacher")


def test_it_gets_the_keywords_it_accepts(own) -> None:
    assert made(f"{own}:classes_only").out_features == 10
    net = made(f"{own}:with_size", scale=2)
    assert (net.in_features, net.out_features) == (3 * 64 * 2, 10)
    assert made(f"{own}:Net", hidden=9).hidden == 9


def test_an_unknown_size_is_left_to_the_default(own) -> None:
    assert made(f"{own}:default_size", size=5).in_features == 5
    assert made(f"{own}:default_size", size=None).in_features == 7


def test_a_function_of_any_keywords_gets_all_of_them(own) -> None:
    assert made(f"{own}:anything", x=1).given == {"num_classes": 10, "in_channels": 3, "image_size": 8, "x": 1}


def test_a_function_that_hands_keywords_on_gets_those_that_arrive(own) -> None:
    assert made(f"{own}:hands_on").out_features == 10


def test_an_option_wins_over_what_is_offered(own) -> None:
    assert made(f"{own}:classes_only", num_classes=4).out_features == 4


def test_the_import_path_is_as_before(own) -> None:
    before = list(sys.path)
    made(f"{own}:classes_only")
    with pytest.raises(BadInput):
        made("own_raising_under_test:f")
    assert sys.path == before


def test_making_a_model_draws_from_torchs_generator_alone(own) -> None:
    torch.manual_seed(3)
    first = made(f"{own}:hands_on").weight
    torch.manual_seed(3)
    assert torch.equal(first, nn.Linear(2, 10).weight)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no_such_module_anywhere:f", {}, "a module that can be imported; it raised ModuleNotFoundError"),
        ("own_broken_under_test:f", {}, "a module that can be imported; it raised SyntaxError"),
        ("own_raising_under_test:f", {}, "ModuleNotFoundError: No module named 'own_missing_dependency'"),
        ("OWN:clases_only", {}, r"a name that .* has \(did you mean 'classes_only'\?\)"),
        ("OWN:Net.nothing", {}, r"a name that .* has"),
        ("OWN:number", {}, "a function or a class that makes the model, not 3"),
        ("OWN:made", {}, "a function or a class that makes the model, not Linear"),
        ("OWN:breaks", {}, "it raised RuntimeError: no weights today"),
        ("OWN:exits", {}, "it raised SystemExit: 3"),
        ("OWN:refuses", {}, "it raised TypeError: .*in_channels"),
        ("OWN:gives_text", {}, "makes an nn.Module, not 'a net'"),
        ("OWN:needs", {}, "teacher.options: .*a value of 'depth', which .* requires"),
        (
            "OWN:with_size",
            {"scael": 2},
            r"teacher.options.scael: got 2; .*accepts \(num_classes, in_channels, image_size, scale\)",
        ),
        ("OWN:", {}, "expected module:function"),
        (":f", {}, "expected module:function"),
        ("a:b:c", {}, "expected module:function"),
        (".relative:f", {}, "expected module:function"),
    ],
)
def test_what_cannot_be_used_is_reported_in_a_line(own, name, options, message) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        made(name.replace("OWN", own), **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("teacher.")
    assert "second line" not in str(caught.value)
