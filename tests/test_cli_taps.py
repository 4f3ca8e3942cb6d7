"""`stillroom taps`: the tables, the JSON and the errors."""

from __future__ import annotations

import json

import pytest

from stillroom.cli import run


def test_taps_of_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["taps", "resnet14", "resnet8", "--image-size", "16", "--classes", "5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in printed["models"]] == ["resnet14", "resnet8"]
    layer2, logits = printed["models"][0]["taps"][1], printed["models"][0]["taps"][-1]
    assert {**layer2, "depth": None} == {
        "name": "layer2",
        "kind": "map",
        "shape": [32, 8, 8],
        "stage": 1,
        "depth": None,
        "channels_last": False,
        "resolution": [8, 8],
    }
    assert 0 < layer2["depth"] < logits["depth"] == 1
    assert logits["shape"] == [5]
    names = ["layer1", "layer2", "layer3", "features", "logits"]
    assert printed["pairs"] == [{"teacher": name, "student": name} for name in names]


def test_the_tables_show_shapes_and_depths(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["taps", "resnet8", "vit_mini", "--data", "digits"]) == 0
    printed = capsys.readouterr().out
    for part in ("taps of resnet8", "16×8×8", "blocks.3", "64×64", "100.0%", "pairs"):
        assert part in printed


def test_one_model_has_no_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["taps", "mlp", "--channels", "1", "--image-size", "8", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"models"}
    assert [tap["name"] for tap in printed["models"][0]["taps"]] == ["layers.0", "features", "logits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnt8"], "did you mean 'resnet8'?"),
        (["resnet8", "resnet8", "resnet8"], "one model, or a teacher and a student"),
        (["torch.nn:Identity"], "gives logits [batch, classes], not 1×3×32×32"),
        (["resnet8", "--data", "nowhere"], "nowhere"),
        (["resnet8", "--image-size", "0"], "--image-size"),
    ],
)
def test_what_cannot_be_shown_is_reported_in_a_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["taps", *arguments]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
