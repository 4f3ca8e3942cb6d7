"""Several teachers by name: each loss reads its own, live and cached alike."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

import stillroom as sr
from run.conftest import bytes_of, read_lines, stop_and_resume
from stillroom.cli import run
from stillroom.data.loader import BatchSampler
from stillroom.errors import BadInput
from stillroom.losses.functional import kl, logit_mse
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.components import build_components
from stillroom.run.run import execute

Make = Callable[..., Recipe]
LOSSES = [
    {"name": "cross_entropy", "weight": 0.2},
    {"name": "kl", "weight": 0.5, "temperature": 2, "teacher": "wide"},
    {"name": "logit_mse", "weight": 0.3, "teacher": "narrow"},
]
# The narrow teacher sees other pixels than the wide one.
NARROW = {"mean": [0.2], "std": [0.5]}


@pytest.fixture
def two(content: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A recipe of two teachers of different widths and preprocess."""
    wide = content.pop("teacher")
    torch.manual_seed(1)
    narrow = tmp_path / "narrow.safetensors"
    config = ModelConfig(name="resnet8", options={"width": 4})
    save_weights(build(config, num_classes=10, in_channels=1, image_size=8), narrow)
    content["teachers"] = {
        "wide": wide,
        "narrow": {"name": "resnet8", "options": {"width": 4}, "weights": str(narrow), "preprocess": NARROW},
    }
    content["losses"] = copy.deepcopy(LOSSES)
    content["data"]["augmentation"] = {}
    return content


def test_each_loss_reads_its_own_teacher(two: dict[str, Any], tmp_path: Path) -> None:
    two["training"] |= {
        "epochs": None,
        "steps": 1,
        "log_every": 1,
        "optimizer": {"lr": 0.1, "momentum": 0, "weight_decay": 0},
        "schedule": {"name": "constant"},
    }
    recipe = parse_recipe(two)
    finished = execute(recipe, tmp_path / "run")
    parts = build_components(recipe)
    train = parts.data.train
    rows = torch.from_numpy(BatchSampler(len(train), 32, recipe.seed).indices(0, 0).astype(np.int64))
    images, labels = train.images[rows], train.labels[rows]
    plain = Preprocess(resolve_preprocess(None, channels=1, is_pixels=True), is_pixels=True)
    own = Preprocess(
        resolve_preprocess(recipe.all_teachers["narrow"].preprocess, channels=1, is_pixels=True), is_pixels=True
    )
    with torch.no_grad():
        wide = parts.teachers["wide"].eval()(plain(images))
        narrow = parts.teachers["narrow"].eval()(own(images))
    z = parts.student.train()(plain(images))
    terms = [F.cross_entropy(z, labels), kl(z, wide, temperature=2), logit_mse(z, narrow)]
    line = read_lines(finished.path / "metrics.jsonl")[0]
    for key, term in zip(("cross_entropy", "kl@wide", "logit_mse@narrow"), terms, strict=True):
        assert line[f"loss/{key}"] == pytest.approx(term.item(), rel=1e-4), key
    total = 0.2 * terms[0] + 0.5 * terms[1] + 0.3 * terms[2]
    total.backward()
    weights = load_file(finished.path / "student.safetensors")
    for name, parameter in parts.student.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(weights[name], parameter.detach() - 0.1 * parameter.grad, rtol=1e-4, atol=1e-6)


def test_cached_is_live_and_a_resumed_run_ends_in_the_same_bytes(two: dict[str, Any], tmp_path: Path) -> None:
    two["cache"] = {"enabled": False}
    live = execute(parse_recipe(two), tmp_path / "live")
    two["cache"] = {"enabled": True, "dtype": "float32"}
    cached = execute(parse_recipe(two), tmp_path / "cached")
    for left, right in zip(*(read_lines(each.path / "metrics.jsonl") for each in (live, cached)), strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert right[key] == (value if key == "split" else pytest.approx(value, rel=1e-4, abs=1e-5)), key
    keys = [line["key"] for line in read_lines(cached.path / "timing.jsonl") if line["event"] == "cache"]
    assert len(set(keys)) == 2, "each teacher has a cache of its own"
    facts = cached.summary["teachers"]
    assert list(facts) == ["wide", "narrow"]
    assert facts["wide"]["parameters"] > facts["narrow"]["parameters"]
    last = read_lines(cached.path / "metrics.jsonl")[-1]
    for name in facts:
        assert {key: facts[name][key] for key in ("agreement", "teacher_kl")} == {
            key: last[f"{key}/{name}"] for key in ("agreement", "teacher_kl")
        }
    assert "agreement" not in cached.summary
    predictions = load_file(cached.path / "predictions.safetensors")
    assert {"teacher_logits/wide", "teacher_logits/narrow"} <= predictions.keys()
    stop_and_resume(parse_recipe(two), tmp_path / "stopped", 7)
    assert bytes_of(tmp_path / "stopped") == bytes_of(cached.path)
    again = execute(parse_recipe(two), cached.path, resume=True)
    assert again.summary == cached.summary


def test_the_command_line_distils_from_two_and_reports(two: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(two, sort_keys=False))
    out = tmp_path / "run"
    assert run(["distill", str(tmp_path / "recipe.yaml"), "teachers.narrow.preprocess=unit", "--out", str(out)]) == 0
    assert run(["report", str(out)]) == 0
    capsys.readouterr()
    # Each teacher is looked at with the losses that read it; what is the same for both is said once.
    assert run(["diagnose", str(tmp_path / "recipe.yaml"), "--images", "64", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    about = [each["summary"].partition(":")[0] for each in findings if each["check"] == "teacher_accuracy"]
    assert about == ["Teacher wide", "Teacher narrow"]
    assert [each["check"] for each in findings].count("budget") == 1
    # A run of two is compared with the more accurate one, or with the one that is named.
    assert run(["diagnose", str(out), "--json"]) == 0
    findings = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    tops = [each["top1"] for each in json.loads((out / "summary.json").read_text())["teachers"].values()]
    assert findings["student_at_teacher"]["evidence"]["teacher_top1"] == max(tops)
    assert run(["fidelity", str(out), "--images", "16", "--teacher", "narrow", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teacher"] == "narrow"
    assert run(["fidelity", str(out), "--teacher", "narow"]) == 2
    assert "--teacher: unknown value 'narow'; did you mean 'narrow'?" in capsys.readouterr().err


@pytest.fixture
def mean(two: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose losses read the mean of both teachers."""
    two["teachers"]["both"] = {"members": {"wide": 3, "narrow": 1}}
    two["losses"] = [{"name": "cross_entropy", "weight": 0.2}, {"name": "kl", "weight": 0.8, "temperature": 2}]
    return two


def test_a_mean_of_teachers_teaches_the_mean_of_their_probabilities(mean: dict[str, Any], tmp_path: Path) -> None:
    mean["training"] |= {"epochs": None, "steps": 1, "log_every": 1}
    recipe = parse_recipe(mean)
    finished = execute(recipe, tmp_path / "run")
    parts = build_components(recipe)
    rows = torch.from_numpy(BatchSampler(len(parts.data.train), 32, recipe.seed).indices(0, 0).astype(np.int64))
    plain = Preprocess(resolve_preprocess(None, channels=1, is_pixels=True), is_pixels=True)
    own = Preprocess(resolve_preprocess(PreprocessConfig(**NARROW), channels=1, is_pixels=True), is_pixels=True)

    def answers(images: torch.Tensor, temperature: float) -> torch.Tensor:
        with torch.no_grad():
            wide = parts.teachers["wide"].eval()(plain(images)).double()
            narrow = parts.teachers["narrow"].eval()(own(images)).double()
        return 0.75 * (wide / temperature).softmax(1) + 0.25 * (narrow / temperature).softmax(1)

    images = parts.data.train.images[rows]
    q = (parts.student.train()(plain(images)).double() / 2).log_softmax(1)
    p = answers(images, 2.0)
    expected = 4 * (p * (p.log() - q)).sum(1).mean().item()
    assert read_lines(finished.path / "metrics.jsonl")[0]["loss/kl"] == pytest.approx(expected, rel=1e-4)
    assert yaml.safe_load((finished.path / "recipe.yaml").read_text())["teachers"]["both"]["mean_temperature"] == 2
    # Scored as what it would predict: the mean of the probabilities themselves.
    test = parts.data.test
    right = (answers(test.images, 1.0).argmax(1) == test.labels).double().mean().item()
    assert finished.summary["teachers"]["both"]["top1"] == pytest.approx(100 * right)


def test_a_mean_is_cached_by_its_members_and_resumed_exactly(mean: dict[str, Any], tmp_path: Path) -> None:
    # A member may be read beside the mean.
    mean["losses"] += [{"name": "logit_mse", "weight": 0.1, "teacher": "narrow"}]
    mean["losses"][1]["teacher"] = "both"
    mean["data"]["augmentation"] = {"pad_crop": 1, "views": 2}
    mean["cache"] = {"enabled": False}
    live = execute(parse_recipe(mean), tmp_path / "live")
    mean["cache"] = {"enabled": True, "dtype": "float32"}
    cached = execute(parse_recipe(mean), tmp_path / "cached")
    for left, right in zip(*(read_lines(each.path / "metrics.jsonl") for each in (live, cached)), strict=True):
        assert right["loss/kl@both" if left["split"] == "train" else "teacher_kl/both"] == pytest.approx(
            left["loss/kl@both" if left["split"] == "train" else "teacher_kl/both"], rel=1e-4, abs=1e-5
        )
    answers = [line for line in read_lines(live.path / "timing.jsonl") if line["event"] == "teacher"]
    assert sum(line["answers"] for line in answers) == 2 * (12 * 32 + 60), "each member once a batch and test image"
    stop_and_resume(parse_recipe(mean), tmp_path / "stopped", 7)
    assert bytes_of(tmp_path / "stopped") == bytes_of(cached.path)


BAD_MEANS: list[tuple[dict[str, Any], list[dict[str, Any]], str]] = [
    ({"members": {"wid": 1}}, [{"name": "kl"}], r"members: got 'wid'; .*did you mean 'wide'"),
    ({"members": {"both": 1}}, [{"name": "kl"}], r"teachers.both.members: got 'both'"),
    ({"members": {"wide": 0}}, [{"name": "kl"}], r"members.wide: got 0"),
    ({"members": {"wide": 1}, "weights": "x"}, [{"name": "kl"}], r"members alone"),
    ({"members": {"wide": 1, "narrow": 1}}, [{"name": "kl"}, {"name": "dkd", "temperature": 1}], r"several \(1, 4\)"),
    (
        {"members": {"wide": 1, "narrow": 1}},
        [{"name": "feature_mse"}],
        r"members.*reads more than its logits; name one",
    ),
]


@pytest.mark.parametrize(("entry", "losses", "message"), BAD_MEANS, ids=[message[:30] for *_, message in BAD_MEANS])
def test_a_mean_that_cannot_be_is_named(
    mean: dict[str, Any], tmp_path: Path, entry: dict[str, Any], losses: list[dict[str, Any]], message: str
) -> None:
    mean["teachers"]["both"], mean["losses"] = entry, losses
    with pytest.raises(BadInput, match=message):
        execute(parse_recipe(mean), tmp_path / "run")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"losses": [{"name": "kl"}]}, r"losses.kl.teacher: got None; .*wide, narrow"),
    ({"losses": [{"name": "kl", "teacher": "wid"}]}, r"losses.kl.teacher .*did you mean 'wide'"),
    ({"losses": [{"name": "cross_entropy", "teacher": "wide"}]}, r"losses.cross_entropy.teacher: got 'wide'; .*none"),
    ({"teacher": {"name": "resnet8", "weights": "w"}}, r"either teacher, or teachers"),
    ({"teachers": {"a b": {"name": "resnet8", "weights": "w"}}, "losses": [{"name": "cross_entropy"}]}, "'a b'"),
    ({"losses": [{"name": "kl", "teacher": "wide"}, {"name": "kl", "teacher": "wide"}]}, "'kl' is there 2 times"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_what_does_not_fit_is_named(two: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        execute(parse_recipe({**two, **changes}), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_from_python_two_modules_teach_by_the_same_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.rand(64, 1, 8, 8), torch.arange(64) % 4)

    def net(width: int) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 4)
        )

    losses = [sr.KL(teacher="a", weight=0.5), sr.KL(teacher="b", weight=0.5)]
    done = sr.distill(
        {"a": net(16), "b": net(8)}, net(4), data, data, losses, epochs=1, out=tmp_path / "r", progress=False
    )
    assert set(done.summary["teachers"]) == {"a", "b"}
    lines = read_lines(done.path / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(0.5 * lines[0]["loss/kl@a"] + 0.5 * lines[0]["loss/kl@b"])
    assert lines[0]["loss/kl@a"] != lines[0]["loss/kl@b"]
    assert done.report().exists()
