"""Teachers of other or more classes than the data's: columns by name, merged by a map, or lacking."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import stillroom as sr
from run.conftest import bytes_of, read_lines, stop_and_resume
from stillroom.cli import run
from stillroom.errors import BadInput
from stillroom.models.preprocess import select_classes
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute
from stillroom.teachers.class_map import class_columns

NAMES = [str(digit) for digit in range(10)]


class Named(torch.utils.data.TensorDataset):
    """Points of classes with names."""

    def __init__(self, classes: list[str], seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        super().__init__(torch.randn(48, 6, generator=draw), torch.arange(48) % len(classes))
        self.classes = classes


def net(columns: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(6, columns)


def step(teacher: nn.Module, options: dict[str, Any], out: Path, classes: list[str], **more: Any) -> Any:
    data = Named(classes)
    return sr.distill(
        teacher,
        net(len(classes), 1),
        data,
        data,
        [sr.KL(temperature=2.0)],
        steps=1,
        batch_size=48,
        training={"log_every": 1, "device": "cpu", "precision": "float32", **more.pop("training", {})},
        teacher_options=options,
        out=out,
        progress=False,
        **more,
    )


def expected(teacher: nn.Module, columns: list[list[int]], known: list[int], classes: list[str]) -> float:
    """τ²·KL over the classes that both have, worked from probabilities."""
    x = Named(classes).tensors[0].double()
    z = copy.deepcopy(teacher).double()(x).detach()
    merged = torch.stack([z[:, group].logsumexp(1) for group in columns], 1)
    q = (net(len(classes), 1).double()(x)[:, known] / 2).log_softmax(1)
    return 4 * F.kl_div(q, (merged / 2).log_softmax(1), reduction="batchmean", log_target=True).item()


CASES: list[tuple[dict[str, Any], list[list[int]], list[int]]] = [
    # More classes, in another order.
    ({"class_names": ["car", "Dog", "tree", "cat"]}, [[3], [1], [0]], [0, 1, 2]),
    # Others: "car" is lacking.
    ({"class_names": ["fish", "dog", "tree", "cat"]}, [[3], [1]], [0, 1]),
    # Several for one, and one by its column.
    (
        {"class_names": ["van", "hound", "poodle", "cat"], "class_map": {"dog": ["hound", "poodle"], "car": 0}},
        [[3], [1, 2], [0]],
        [0, 1, 2],
    ),
]


@pytest.mark.parametrize(("options", "columns", "known"), CASES, ids=["more", "other", "merged"])
def test_the_loss_compares_the_classes_that_both_have(
    options: dict[str, Any], columns: list[list[int]], known: list[int], tmp_path: Path
) -> None:
    classes, teacher = ["cat", "dog", "car"], net(4)
    done = step(teacher, options, tmp_path / "r", classes)
    line = read_lines(done.path / "metrics.jsonl")[0]
    assert line["loss/kl"] == pytest.approx(expected(teacher, columns, known, classes), rel=1e-3)
    facts = done.summary["teachers"]["teacher"]
    assert ("top1" in facts) == (len(known) == 3), "a teacher that lacks classes has no accuracy on all"
    assert done.report().exists()
    findings = done.diagnose().findings
    assert not [
        each for each in findings if each.check in ("class_order", "teacher_input") and each.verdict == "problem"
    ]


def test_probabilities_of_merged_columns_add_up() -> None:
    z = torch.randn(5, 4, dtype=torch.float64)
    p = z.softmax(1)
    found = select_classes(z, torch.tensor([[0, 3], [2, -1]])).exp()
    sums = torch.stack([p[:, 0] + p[:, 3], p[:, 2]], 1)
    torch.testing.assert_close(found / found.sum(1, keepdim=True), sums / sums.sum(1, keepdim=True))


def test_names_match_whatever_their_case_and_separators() -> None:
    assert class_columns(["garbage truck, dustcart", "TENCH"], None, ["tench", "garbage_truck"]) == (1, 0)


BAD: list[tuple[dict[str, Any], str]] = [
    (
        {"class_names": ["a", "b", "c", "d"]},
        r"class_names: .*two classes of the data or more \(cat, dog, car …\), not 0",
    ),
    ({"class_names": ["cat", "dog", "car"]}, r"class_names: got '3 names'; .*each of the 4 logits"),
    ({"class_names": ["cat", "Cat", "dog", "car"]}, r"class_names: got 'cat'; .*\[0, 1\]"),
    ({"class_names": ["cat", "dog", "x", "y"], "class_map": {"cart": "x"}}, r"class_map: got 'cart'; .*mean 'ca"),
    ({"class_names": ["cat", "dog", "x", "y"], "class_map": {"car": "z"}}, r"class_map.car: got 'z'; .*of the teacher"),
    ({"class_names": ["cat", "dog", "x", "y"], "class_map": {"car": "dog"}}, r"each column once, but 1 is there twice"),
    ({"class_names": "no-such-file"}, r"teacher.class_names: got 'no-such-file'; .*readable"),
    ({"class_map": {"cat": 0, "dog": 9}}, r"columns from 0 to 3, but 9"),
    ({"class_map": {"cat": 0}}, r"class_map: got .*not 1: a column for each, or class_names"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message[:24] for _, message in BAD])
def test_a_map_that_fits_nothing_is_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        step(net(4), options, tmp_path / "r", ["cat", "dog", "car"])
    assert "\n" not in str(caught.value)


def test_a_loss_that_sets_labels_against_a_teacher_without_them_is_refused(tmp_path: Path) -> None:
    data = Named(["cat", "dog", "car"])
    with pytest.raises(BadInput, match=r"losses.dkd: .*lacks some classes"):
        sr.distill(
            net(2), net(3), data, data, ["dkd"], steps=1, out=tmp_path / "r", progress=False,
            teacher_options={"class_names": ["cat", "dog"]},
        )  # fmt: skip


@pytest.mark.usefixtures("perceptrons")
def test_a_recipe_of_other_classes_is_cached_resumed_and_diagnosed(
    content: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    # A teacher of the digits that calls some of them otherwise and has none for 9.
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["zero", *NAMES[1:9], "other"]))
    content["teacher"] |= {"class_names": str(names), "class_map": {"0": "zero"}}
    content["cache"] = {"enabled": False}
    live = execute(parse_recipe(content), tmp_path / "live")
    content["cache"] = {"enabled": True, "dtype": "float32"}
    cached = execute(parse_recipe(content), tmp_path / "cached")
    kl = [
        [line["loss/kl"] for line in read_lines(each.path / "metrics.jsonl") if "loss/kl" in line]
        for each in (live, cached)
    ]
    assert kl[0] == pytest.approx(kl[1], rel=1e-4)
    stop_and_resume(parse_recipe(content), tmp_path / "stopped", 7)
    assert bytes_of(tmp_path / "stopped") == bytes_of(cached.path)
    resolved = tmp_path / "stopped" / "recipe.yaml"
    assert parse_recipe(yaml.safe_load(resolved.read_text())).teacher is not None
    assert run(["diagnose", str(resolved), "--images", "64", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    about = {each["check"]: each["verdict"] for each in findings}
    assert about["teacher_accuracy"] == about["class_order"] == "skipped"
    assert about["loss_finite"] == "ok"
    assert run(["report", str(cached.path)]) == 0
