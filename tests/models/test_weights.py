"""Weights from files of every kind, what does not fit reported by name, and files that must not be opened."""

from __future__ import annotations

import argparse
import importlib
import pickle
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from stillroom.errors import BadInput
from stillroom.models.config import ModelConfig
from stillroom.models.weights import load_weights, read_state, save_weights, state_bytes, state_hash
from stillroom.run.components import build_model
from stillroom.teachers.config import TeacherConfig


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def other(make, *, classes: int = 10) -> nn.Module:
    """A resnet8 of the same shape with other weights."""
    net = make("resnet8", classes=classes, width=4)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.add_(1)
    return net


def same(a: nn.Module, b: nn.Module) -> bool:
    return state_hash(a) == state_hash(b)


# --- what fits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [None, "state_dict", "model", "model_state_dict", "net", "student"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_containers_and_prefixes_are_looked_through(make, tmp_path, container, prefix) -> None:
    source, target = other(make), make("resnet8", width=4)
    state: object = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    content = {container: state, "epoch": 3, "optimizer": {"state": {}}} if container else state
    torch.save(content, tmp_path / "net.pth")
    load_weights(target, tmp_path / "net.pth")
    assert same(source, target)


def test_a_container_within_a_container_and_strange_company(make, tmp_path) -> None:
    source, target = other(make), make("resnet8", width=4)
    torch.save({"model": {"state_dict": source.state_dict(), "epoch": 1}}, tmp_path / "net.pt")
    load_weights(target, tmp_path / "net.pt")
    assert same(source, target)


def test_a_model_whose_own_names_begin_like_a_prefix_keeps_them(tmp_path) -> None:
    def wrapped() -> nn.Module:
        return nn.ModuleDict({"model": nn.Linear(2, 2), "module": nn.Linear(2, 2)})

    source, target = wrapped(), wrapped()
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    torch.save({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "ddp.pt")
    for file in ("plain.pt", "ddp.pt"):
        load_weights(target, tmp_path / file)
        assert same(source, target)
        target = wrapped()


def test_the_old_format_and_half_precision_load(make, tmp_path) -> None:
    source, target = other(make), make("resnet8", width=4)
    half = {name: t.half() if t.is_floating_point() else t for name, t in source.state_dict().items()}
    torch.save(half, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    load_weights(target, tmp_path / "old.th")
    assert {p.dtype for p in target.parameters()} == {torch.float32}
    assert torch.equal(target.conv1.weight, source.conv1.weight.half().float())


def test_a_missing_count_of_batches_is_tolerated_and_nothing_else(make, tmp_path) -> None:
    source, target = other(make), make("resnet8", width=4)
    state = state_of(source)
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.th")
    load_weights(target, tmp_path / "old.th")
    assert torch.equal(target.linear.weight, source.linear.weight)
    torch.save({k: v for k, v in state.items() if not k.endswith("running_var")}, tmp_path / "worse.th")
    with pytest.raises(BadInput, match=r"missing: bn1.running_var, .* and 2 more"):
        load_weights(target, tmp_path / "worse.th")


def test_a_relative_path_is_found_under_the_data_folder(make, tmp_path, monkeypatch) -> None:
    source, target = other(make), make("resnet8", width=4)
    save_weights(source, tmp_path / "zoo" / "net.safetensors")
    monkeypatch.setenv("STILLROOM_DATA", str(tmp_path))
    load_weights(target, "zoo/net.safetensors")
    assert same(source, target)


def test_the_content_decides_not_the_suffix(make, tmp_path) -> None:
    source, target = other(make), make("resnet8", width=4)
    save_weights(source, tmp_path / "net.pth")
    load_weights(target, tmp_path / "net.pth")
    assert same(source, target)


# --- what we write -------------------------------------------------------------------------------------------------


def test_saved_bytes_depend_on_the_weights_alone(make, tmp_path) -> None:
    net = make("resnet8", width=4)
    save_weights(net, tmp_path / "a.safetensors")
    save_weights(net.to(memory_format=torch.channels_last), tmp_path / "b.safetensors")
    written = (tmp_path / "a.safetensors").read_bytes()
    assert written == (tmp_path / "b.safetensors").read_bytes()
    assert len(written) == state_bytes(net)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_tied_weights_are_saved_and_come_back(tmp_path) -> None:
    def tied() -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    source, target = tied(), tied()
    save_weights(source, tmp_path / "tied.safetensors")
    load_weights(target, tmp_path / "tied.safetensors")
    assert same(source, target)
    assert target[1].weight is target[0].weight
    # What another tool wrote: a tied weight once.
    once = {name: t.clone() for name, t in source.state_dict().items() if name != "1.weight"}
    safetensors.torch.save_file(once, tmp_path / "once.safetensors")
    target = tied()
    load_weights(target, tmp_path / "once.safetensors")
    assert same(source, target)
    with pytest.raises(BadInput, match=r"missing: 1\.weight"):
        load_weights(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), tmp_path / "once.safetensors")


def test_the_hash_sees_every_bit_name_shape_and_buffer(make) -> None:
    net = make("resnet8", width=4)
    first = state_hash(net)
    assert state_hash(make("resnet8", width=4)) == first
    net.bn1.running_mean[0] += 1e-7
    second = state_hash(net)
    net.bn1.num_batches_tracked += 1
    assert len({first, second, state_hash(net)}) == 3
    flat, tall = nn.Module(), nn.Module()
    flat.register_buffer("x", torch.zeros(2, 3))
    tall.register_buffer("x", torch.zeros(3, 2))
    assert state_hash(flat) != state_hash(tall)
    assert state_hash(nn.Linear(2, 2).bfloat16()) != first


# --- what does not fit ---------------------------------------------------------------------------------------------


def test_another_number_of_classes_is_reported_with_both_shapes(make, tmp_path) -> None:
    target = make("resnet8", width=4)
    before = state_hash(target)
    save_weights(other(make, classes=7), tmp_path / "net.safetensors")
    with pytest.raises(BadInput, match="weights that fit the model") as caught:
        load_weights(target, tmp_path / "net.safetensors", field="teacher")
    assert str(caught.value).endswith(
        "; other shapes: linear.weight has [7, 16], wants [10, 16], linear.bias has [7], wants [10]"
    )
    assert str(caught.value).startswith("teacher.weights: got ")
    assert state_hash(target) == before


def test_other_names_are_listed_five_of_each(make, tmp_path) -> None:
    save_weights(make("resnet14"), tmp_path / "net.safetensors")
    with pytest.raises(BadInput) as caught:
        load_weights(make("resnet8"), tmp_path / "net.safetensors")
    message = str(caught.value)
    # One block more a stage: 2 convolutions and 2 norms of 5 tensors.
    assert "unexpected: layer1.1." in message
    assert "and 31 more" in message
    assert "missing" not in message
    safetensors.torch.save_file({"0.weight": torch.ones(1), "0.bias": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=r"missing: linear.weight, linear.bias; unexpected: 0.bias, 0.weight"):
        load_weights(nn.ModuleDict({"linear": nn.Linear(1, 1)}), tmp_path / "other.safetensors")


def test_names_that_would_become_one_are_not_stripped(tmp_path) -> None:
    names = ("weight", "module.weight", "module.bias")
    torch.save({name: torch.ones(1, 1) for name in names}, tmp_path / "net.pt")
    with pytest.raises(BadInput, match=r"missing: bias; unexpected: module\.weight, module\.bias"):
        load_weights(nn.Linear(1, 1), tmp_path / "net.pt")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_numbers_that_are_not_finite_are_refused(make, tmp_path, value, word) -> None:
    source, target = other(make), make("resnet8", width=4)
    before = state_hash(target)
    source.layer2[0].bn1.running_var[1] = value
    save_weights(source, tmp_path / "net.safetensors")
    with pytest.raises(BadInput, match=f"finite numbers; layer2.0.bn1.running_var holds {word}"):
        load_weights(target, tmp_path / "net.safetensors")
    assert state_hash(target) == before


def test_numbers_beyond_the_models_own_precision_are_refused(tmp_path) -> None:
    source = nn.Linear(1, 1)
    source.weight.data.fill_(1e6)
    save_weights(source, tmp_path / "net.safetensors")
    with pytest.raises(BadInput, match="finite numbers; weight holds infinity"):
        load_weights(nn.Linear(1, 1).half(), tmp_path / "net.safetensors")


# --- what is no file of weights ------------------------------------------------------------------------------------


class Odd:
    """A user's class beside the weights."""


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["zip", "old", "bare", "bare protocol 2"])
def test_a_pickle_that_would_run_code_does_not(make, tmp_path, form) -> None:
    sprung, file = tmp_path / "sprung", tmp_path / "net.pt"
    content = {"state_dict": other(make).state_dict(), "extra": Trap(sprung)}
    if form.startswith("bare"):
        protocol = 2 if form.endswith("2") else pickle.DEFAULT_PROTOCOL
        file.write_bytes(pickle.dumps({"w": Trap(sprung)}, protocol=protocol))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(BadInput, match=r"holds more than tensors.* and was not opened") as caught:
        load_weights(make("resnet8", width=4), file, field="student")
    assert not sprung.exists()
    assert "\n" not in str(caught.value)
    # The trap is a real one: whoever unpickles it springs it.
    Trap(sprung).__reduce__()[0](*Trap(sprung).__reduce__()[1]).close()
    assert sprung.exists()


@pytest.mark.parametrize("content", [{"model": {}, "args": Odd()}, nn.Linear(2, 2)])
def test_objects_in_a_checkpoint_are_named(tmp_path, content) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(BadInput, match=r"more than tensors \([\w.]*(Odd|Linear)\).*save its state_dict"):
        read_state(tmp_path / "net.pt")


def saved(tmp_path: Path, *, safe: bool = False, old: bool = False) -> bytes:
    file = tmp_path / "whole"
    if safe:
        safetensors.torch.save_file({"weight": torch.ones(500)}, file)
    else:
        torch.save({"weight": torch.ones(500)}, file, _use_new_zipfile_serialization=not old)
    return file.read_bytes()


@pytest.mark.parametrize("part", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_file_cut_short_is_reported_as_damaged(tmp_path, kind, part) -> None:
    whole = saved(tmp_path, safe=kind == "safetensors", old=kind == "old")
    file = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pt")
    file.write_bytes(whole)
    assert list(read_state(file)) == ["weight"]
    file.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(BadInput, match=r"damaged|cut short") as caught:
        read_state(file, field="teacher.weights")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.pt", b"", "this one is empty"),
        ("net.safetensors", b"", "this one is empty"),
        ("net.pth", b"<!doctype html><html>404</html>", "a web page"),
        ("net.safetensors", b"\n<html>404</html>", "a web page"),
        ("net.pt", b"epoch,loss\n1,0.5\n", "this one is text"),
        ("net.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        ("net.pt", bytes(range(100)), "damaged, cut short or of another kind"),
        ("net.pt", b"\x80", "damaged or cut short"),
        ("net.pt", b"PK\x03\x04" + bytes(50), "damaged or cut short"),
    ],
)
def test_what_is_no_file_of_weights_is_reported(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_state(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"epoch": 3, "lr": 0.1}, "a mapping with epoch, lr"),
        ({}, "an empty mapping"),
        ([torch.ones(2)], "a list"),
        (torch.ones(2), "a Tensor"),
        ({"state_dict": {"a": 1}}, "a mapping with a"),
        ({3: torch.ones(1)}, "a mapping with 3"),
        ({"a\n\x1b[31mb": 1}, r"a mapping with 'a\\n\\x1b\[31mb'"),
    ],
)
def test_a_file_without_named_tensors_says_what_it_holds(tmp_path, content, held) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(BadInput, match=f"the file holds {held}$"):
        read_state(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["nowhere.pt", "n" * 300, "~nobody-by-this-name/net.pt", "a\0b"])
def test_a_file_that_is_not_there(name) -> None:
    with pytest.raises(BadInput, match=r"a file that exists, here or under \$STILLROOM_DATA"):
        read_state(name)


# --- a slice of benchmarks/oddities.py, which has some 130 files ----------------------------------------------------

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def oddities() -> Iterator[ModuleType]:
    sys.path.insert(0, BENCHMARKS)
    try:
        yield importlib.import_module("oddities_weights")
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.mark.parametrize(
    "name",
    [
        "teacher.",
        "module.encoder.base_model.",
        "a mapping for each module (nested)",
        "two models that fit, under a and b",
        "the same, weights_key: a",
        "state_dict and state_dict_ema",
        "model. and ema. of one state",
        "torch's AveragedModel (n_averaged, module.)",
        "student. and teacher. of one shape",
        "student. and teacher., weights_prefix: teacher",
        "int8, scales lost",
        "torch's quantised tensors",
        "of 1,000 classes in the file, head: new",
        "a layer before the head missing, head: new",
        "safetensors, the folder",
        "torch, the index",
        "one missing",
        "the index names a file outside",
        "argparse.Namespace",
        "a numpy number",
        "an empty folder",
        "4 bytes expanded to 4 TB",
        "mappings of mappings, 2^30 ways",
    ],
)
def test_a_file_of_weights_loads_or_is_refused_in_one_line(oddities: ModuleType, tmp_path: Path, name: str) -> None:
    (case,) = [case for case in oddities.WEIGHTS_CASES if case.name == name]
    right, happened = oddities.try_weights(case, tmp_path)
    assert right, happened


def test_a_new_head_is_the_one_that_was_drawn(make, tmp_path) -> None:
    save_weights(other(make, classes=7), tmp_path / "net.safetensors")
    facts = SimpleNamespace(num_classes=10, channels=3, image_size=32, vocabulary=None)
    config = ModelConfig(name="resnet8", options={"width": 4}, weights=str(tmp_path / "net.safetensors"), head="new")
    torch.manual_seed(5)
    drawn = build_model(config.without_weights(), facts, "student")
    torch.manual_seed(5)
    lines: list[str] = []
    made = build_model(config, facts, "student", lines.append)
    assert torch.equal(made.linear.weight, drawn.linear.weight)
    assert not torch.equal(made.conv1.weight, drawn.conv1.weight)
    assert lines == [
        "student.weights: new, not from the file: linear.bias, linear.weight; not used of the file: linear.bias, "
        "linear.weight"
    ]


def test_options_about_weights_need_weights_and_are_written_only_where_set() -> None:
    assert not {"weights_key", "weights_prefix", "head"} & ModelConfig(name="resnet8").model_dump().keys()
    assert ModelConfig(name="resnet8", weights="a", head="new").model_dump()["head"] == "new"
    for option in ({"head": "new"}, {"weights_key": "a"}, {"weights_prefix": "a"}):
        with pytest.raises(ValueError, match=f"weights with {next(iter(option))}"):
            ModelConfig(name="resnet8", **option)
    with pytest.raises(ValueError, match="a new one knows no class"):
        TeacherConfig(name="resnet8", weights="a", head="new")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_checkpoints_of_later_pickle_protocols_are_read(make, tmp_path, protocol, zipped) -> None:
    state = other(make).state_dict()
    content = {"args": argparse.Namespace(lr=0.1, names={"a"}, raw=b"x"), "model": state, "again": ["model", "model"]}
    file = tmp_path / "net.pt"
    torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    net = make("resnet8", width=4)
    load_weights(net, file, field="student")
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_damaged_pickle_of_a_later_protocol_is_one_line(make, tmp_path) -> None:
    file = tmp_path / "net.pt"
    whole = pickle.dumps({"model": {"w": 1.5, "name": "x" * 300}}, protocol=4)
    draw = random.Random(0)
    for _ in range(60):
        content = bytearray(whole[: draw.randrange(2, len(whole))])
        content[draw.randrange(2, len(content)) if len(content) > 2 else 0] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        with pytest.raises(BadInput) as caught:
            load_weights(make("resnet8", width=4), file, field="student")
        assert "\n" not in str(caught.value)
