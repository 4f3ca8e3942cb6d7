"""The teacher's answers, kept: the same run as without, never from a cache that is not this run's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from processes import Fate, Process, until
from run.conftest import bytes_of, read_lines
from stillroom.cli import run
from stillroom.errors import BadInput
from stillroom.files import cache_root
from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.components import build_components
from stillroom.run.run import execute
from stillroom.teachers.cache_store import list_caches
from stillroom.train.device import has_native_bfloat16

Make = Callable[..., Recipe]
ON, OFF = "cache.enabled=true", "cache.enabled=false"
AUTO = "training.precision=auto"
SEEN = ("data.augmentation.flip=true", "data.augmentation.views=2", "training.epochs=3")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "answers"))
    return tmp_path / "answers"


def asked(run: Path) -> int:
    """Images that the run asked its teacher about for the cache."""
    return sum(line["images"] for line in read_lines(run / "timing.jsonl") if line["event"] == "cache")


def only_cache(root: Path, images: int) -> Path:
    """The folder of the answers to this many images."""
    folders = [path.parent for path in root.glob("*/cache.json")]
    (found,) = [
        f for f in folders if json.loads((f / "cache.json").read_text())["identity"]["kept"]["images"] == images
    ]
    return found


@pytest.mark.parametrize("augmented", [True, False], ids=["two views", "one view"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cache_on_is_cache_off(recipe: Make, tmp_path: Path, dtype: str, augmented: bool) -> None:
    options = [*SEEN, f"cache.dtype={dtype}"]
    options += [] if augmented else ["data.augmentation={}"]
    execute(recipe(*options, OFF), tmp_path / "off")
    execute(recipe(*options, ON), tmp_path / "on")
    assert asked(tmp_path / "on") == 200 * (2 if augmented else 1)
    off, on = (read_lines(tmp_path / who / "metrics.jsonl") for who in ("off", "on"))
    # float32 is kept bit by bit; the teacher's last bits may depend on how many images it is asked about at once.
    close = 1e-6 if dtype == "float32" else 2e-3
    for left, right in zip(off, on, strict=True):
        assert left.keys() == right.keys()
        assert right["loss"] == pytest.approx(left["loss"], rel=close) if "loss" in left else True
    summaries = [json.loads((tmp_path / who / "summary.json").read_text()) for who in ("off", "on")]
    assert summaries[0]["hashes"] == summaries[1]["hashes"]
    assert summaries[0]["teachers"] == summaries[1]["teachers"]


class Depthwise(nn.Module):
    """A student with a depthwise convolution."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(in_channels, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.depthwise(self.wide(x)).mean((2, 3)))
        return logits


def test_a_depthwise_student_trains_in_float32_and_its_teacher_answers_in_bfloat16(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillroom.train.device.has_native_bfloat16", lambda device: True)
    # The teacher's last bits depend on how many images it is asked about at once: eight bits are kept of each.
    own = f"student={{name: '{__name__}:Depthwise'}}"
    for name, cache in (("off", OFF), ("on", ON)):
        execute(recipe(*SEEN, own, AUTO, cache), tmp_path / name)
        written = yaml.safe_load((tmp_path / name / "recipe.yaml").read_text())["training"]
        assert (written["precision"], written["teacher_precision"]) == ("float32", "bfloat16")
    off, on = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("off", "on"))
    for left, right in zip(off, on, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=0.02) if "loss" in left else True
    (spec,) = [
        found["identity"]["precision"]
        for path in (tmp_path / "answers").glob("*/cache.json")
        if (found := json.loads(path.read_text()))["identity"]["kept"]["images"] == 200
    ]
    assert spec == "bfloat16"
    # As the user says, where the user says it; and any other student learns in what the machine is fastest in.
    execute(recipe(own, "training.precision=float32", "training.epochs=1"), tmp_path / "exact")
    execute(recipe(AUTO, "student={name: resnet8, options: {width: 2}}"), tmp_path / "other")
    for name, expected in (("exact", "float32"), ("other", "bfloat16")):
        written = yaml.safe_load((tmp_path / name / "recipe.yaml").read_text())["training"]
        assert (written["precision"], written["teacher_precision"]) == (expected, expected)


def test_a_limit_of_instructions_is_no_native_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for limit, expected in (("AVX2", False), ("avx512_core", False), ("AVX512_CORE_AMX", True), ("", True)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert has_native_bfloat16(torch.device("cpu")) is expected


@pytest.mark.usefixtures("perceptrons")
def test_it_is_built_once_for_all_runs_and_a_longer_list_of_views_finds_the_shorter(
    recipe: Make, tmp_path: Path
) -> None:
    two = execute(recipe(*SEEN, ON), tmp_path / "first")
    again = execute(recipe(*SEEN, ON), tmp_path / "second")
    assert (asked(two.path), asked(again.path)) == (400, 0)
    assert bytes_of(two.path) == bytes_of(again.path)
    execute(recipe(*SEEN, ON, "data.augmentation.views=3"), tmp_path / "third")
    assert asked(tmp_path / "third") == 200
    # Another augmentation is another cache; a run of two epochs comes to two of its views.
    other = ["data.augmentation.views=3", "data.augmentation.seed=9", "training.epochs=2"]
    execute(recipe(*SEEN, ON, *other), tmp_path / "other")
    assert asked(tmp_path / "other") == 400


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["data.augmentation.views=2", "training.epochs=3"], True),
        (["data.augmentation.views=4", "training.epochs=3"], True),
        (["data.augmentation={}", "training.epochs=1"], True),
        # A step of the last view alone, or images that are held out, would cost passes that a run without it spares.
        (["data.augmentation.views=4", "training.epochs=null", "training.steps=13"], False),
        (["data.augmentation.views=4", "training.epochs=3", "data.holdout=0.2"], False),
        (["data.augmentation.views=4", "training.epochs=3", "cache.max_gb=0.00001"], False),
        (["data.augmentation.views=4", "training.epochs=3", "losses=[{name: feature_mse}, {name: kl}]"], False),
        (["data.augmentation.views=0", "training.epochs=9"], False),
        (["losses=[{name: cross_entropy}]", "training.epochs=1"], True),
    ],
)
@pytest.mark.usefixtures("perceptrons")
def test_auto_keeps_answers_where_that_costs_no_pass(
    recipe: Make, tmp_path: Path, options: list[str], expected: bool
) -> None:
    finished = execute(recipe(*options), tmp_path / "run")
    written = yaml.safe_load((finished.path / "recipe.yaml").read_text())
    assert written["cache"]["enabled"] is expected


@pytest.mark.usefixtures("perceptrons")
def test_it_lies_where_the_variable_says_and_is_listed_and_removed(
    recipe: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(recipe(*SEEN, ON), tmp_path / "run")
    capsys.readouterr()
    assert run(["cache", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["root"] == str(cache_root()) == str(tmp_path / "answers")
    assert sorted((kept["images"], kept["views"]) for kept in listed["caches"]) == [(60, 1), (200, 2)]
    assert run(["cache", "--remove", "nothing"]) == 2
    assert "error: cache: got 'nothing'; expected the key of a cache" in capsys.readouterr().err
    assert run(["cache", "--remove", listed["caches"][0]["key"][:8]]) == 0
    assert run(["cache", "--remove", "all", "--json"]) == 0
    capsys.readouterr()
    assert run(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["caches"] == []


def flip_a_byte(folder: Path) -> None:
    data = folder / "view-0001.logits.bin"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def cut_short(folder: Path) -> None:
    os.truncate(folder / "view-0000.logits.bin", 100)


def make_foreign(folder: Path) -> None:
    written = json.loads((folder / "cache.json").read_text())
    written["identity"]["teacher"]["weights"] = "0" * 64
    written["identity"]["augmentation"]["seed"] = 7
    (folder / "cache.json").write_text(json.dumps(written))


def make_stale(folder: Path) -> None:
    """As if the teacher's code had changed after it was asked: what is kept is whole, and no longer its answer."""
    import zlib

    for view in (0, 1):
        data, record = folder / f"view-{view:04d}.logits.bin", folder / f"view-{view:04d}.json"
        numbers = (np.fromfile(data, dtype="<f2").astype(np.float32) * 1.5).astype("<f2").reshape(200, 10)
        data.write_bytes(numbers.tobytes())
        written = json.loads(record.read_text())
        written["arrays"]["logits"]["crc32"] = f"{zlib.crc32(numbers.tobytes()):08x}"
        record.write_text(json.dumps(written))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_byte, ["view-0001.logits.bin", "damaged"]),
        (cut_short, ["view-0000.logits.bin", "cut short"]),
        (
            make_foreign,
            [
                "the cache of this run, but it differs",
                "teacher.weights is '0000",
                "augmentation.seed is 7, this run has 0",
            ],
        ),
        (make_stale, ["stale", "the teacher now"]),
    ],
    ids=["damaged", "truncated", "foreign", "stale"],
)
@pytest.mark.usefixtures("perceptrons")
def test_a_cache_that_is_not_this_runs_own_is_refused_by_name(
    recipe: Make, tmp_path: Path, empty_cache: Path, harm: Callable[[Path], None], message: list[str]
) -> None:
    made = recipe(*SEEN, ON)
    execute(made, tmp_path / "first")
    folder = only_cache(empty_cache, 200)
    harm(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BadInput) as refused:
        execute(made, tmp_path / "second")
    assert all(part in str(refused.value) for part in message), refused.value
    assert f"remove the folder {folder}" in str(refused.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    shutil.rmtree(folder)
    execute(made, tmp_path / "second", resume=True)
    assert bytes_of(tmp_path / "first") == bytes_of(tmp_path / "second")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([ON, "data.augmentation.views=0"], "cache.enabled: got True; expected data.augmentation.views of 1 or more"),
        ([ON, "cache.max_gb=0.000001"], "cache.max_gb: got 1e-06; expected room for 2.4 kB"),
    ],
)
@pytest.mark.usefixtures("perceptrons")
def test_what_cannot_be_kept_is_refused(recipe: Make, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message.replace(".", r"\.")):
        execute(recipe(*SEEN, *options), tmp_path / "run")
    # Nothing is left behind, so the corrected command goes through.
    execute(recipe("cache.max_gb=1", OFF), tmp_path / "run")


@pytest.mark.usefixtures("perceptrons")
def test_top_k_keeps_less_and_teaches_nearly_the_same(recipe: Make, tmp_path: Path, empty_cache: Path) -> None:
    execute(recipe(*SEEN, ON), tmp_path / "all")
    execute(recipe(*SEEN, ON, "cache.top_k=8"), tmp_path / "some")
    losses = [read_lines(tmp_path / who / "metrics.jsonl")[0]["loss/kl"] for who in ("all", "some")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


class ReadsFeatures(Loss[LossConfig]):
    """A term that reads features of both models at a stage of equal shape."""

    requires = Requires(teacher=True, teacher_features=("layer1",), student_features=("layer3",))

    def forward(self, inputs: LossInputs) -> torch.Tensor:
        assert inputs.teacher is not None
        student, teacher = inputs.student.features["layer3"], inputs.teacher.features["layer1"]
        # Stage 3 of the student has 8 channels of 2×2, stage 1 of the teacher 8 of 8×8.
        return (student - torch.nn.functional.avg_pool2d(teacher, 4)).square().mean()


def test_a_small_change_of_the_teacher_is_seen_in_its_answers_to_the_test_images(
    recipe: Make, tmp_path: Path, empty_cache: Path
) -> None:
    import zlib

    made = recipe(*SEEN, ON, "training.precision=bfloat16")
    execute(made, tmp_path / "first")
    folder = only_cache(empty_cache, 60)
    numbers = np.fromfile(folder / "view-0000.logits.bin", dtype="<f4") * np.float32(1.02)
    (folder / "view-0000.logits.bin").write_bytes(numbers.tobytes())
    written = json.loads((folder / "view-0000.json").read_text())
    written["arrays"]["logits"]["crc32"] = f"{zlib.crc32(numbers.tobytes()):08x}"
    (folder / "view-0000.json").write_text(json.dumps(written))
    with pytest.raises(BadInput, match="stale"):
        execute(made, tmp_path / "second")


class Moody(nn.Module):
    """A teacher of one's own whose code, not whose weights, says what it answers."""

    def __init__(self, factor: float, patience: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.factor, self.patience = factor, patience

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.patience -= len(x) > 200
        if self.patience < 0:
            raise KeyboardInterrupt
        logits: torch.Tensor = self.factor * self.body(x)
        return logits


def test_a_half_built_view_of_a_teacher_that_changed_is_refused(
    recipe: Make, tmp_path: Path, empty_cache: Path
) -> None:
    made = recipe(*SEEN, ON, "data.train_limit=null")

    def go(teacher: nn.Module, out: str) -> None:
        found = build_components(made)
        execute(
            made, tmp_path / out, components=type(found)(found.data, found.student, found.losses, {"teacher": teacher})
        )

    with pytest.raises(KeyboardInterrupt):
        go(Moody(1.0, patience=2), "first")
    shutil.rmtree(only_cache(empty_cache, 60))
    with pytest.raises(BadInput, match="stale"):
        go(Moody(-2.0, patience=99), "second")


class AlwaysDropping(Moody):
    """Drops in eval mode, too: functional dropout without `self.training`."""

    is_random = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(x), 0.2, training=self.is_random)


def test_a_teacher_that_is_random_is_reported_as_that_before_and_after_it_was_stored(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_it(*options: str) -> None:
        made = recipe(*SEEN, *options)
        components = build_components(made)
        teachers = {"teacher": AlwaysDropping(1.0, 10**9)}
        execute(made, tmp_path / "run", components=replace(components, teachers=teachers), observer=observer)

    lines: list[str] = []
    observer = Observer()
    observer.note = lines.append  # type: ignore[method-assign]
    with pytest.raises(BadInput, match=r"this one is random.*cache\.enabled: false") as caught:
        run_it(ON)
    assert caught.value.field == "teacher"
    # What was stored while it was not random: no advice to remove a folder, which would not help.
    monkeypatch.setattr(AlwaysDropping, "is_random", False)
    run_it(ON)
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setattr(AlwaysDropping, "is_random", True)
    with pytest.raises(BadInput, match="this one is random") as caught:
        run_it(ON)
    assert "stale" not in str(caught.value)
    run_it(OFF)
    assert any("is random" in line for line in lines)


def test_two_teachers_that_differ_in_structure_alone_have_a_cache_each(recipe: Make, tmp_path: Path) -> None:
    made = recipe(*SEEN, ON)
    for name, activation in (("relu", nn.ReLU()), ("gelu", nn.GELU())):
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), activation, nn.Linear(16, 10))
        found = build_components(made)
        execute(
            made, tmp_path / name, components=type(found)(found.data, found.student, found.losses, {"teacher": teacher})
        )
        assert asked(tmp_path / name) == 400


def test_features_are_kept_where_a_loss_reads_them(recipe: Make, tmp_path: Path, empty_cache: Path) -> None:
    summaries = {}
    for name, option in (("off", OFF), ("on", ON)):
        made = recipe(*SEEN, option, "cache.dtype=float32")
        components = build_components(made)
        losses = [*components.losses, ReadsFeatures(name="reads_features")]
        components = type(components)(components.data, components.student, losses, components.teachers)
        finished = execute(made, tmp_path / name, components=components)
        assert not any(module._forward_hooks for module in finished.student.modules())
        summaries[name] = read_lines(tmp_path / name / "metrics.jsonl")
    for left, right in zip(summaries["off"], summaries["on"], strict=True):
        assert all(
            right[key] == (value if key == "split" else pytest.approx(value, rel=1e-5)) for key, value in left.items()
        )
    assert (only_cache(empty_cache, 200) / "view-0001.feature-0.bin").stat().st_size == 200 * 8 * 8 * 8 * 4


def test_features_are_not_read_from_a_compiled_student(recipe: Make, tmp_path: Path) -> None:
    made = recipe(OFF, "training.compile=true")
    found = build_components(made)
    components = type(found)(found.data, found.student, [ReadsFeatures(name="reads_features")], found.teachers)
    with pytest.raises(BadInput, match="expected false: a loss reads"):
        execute(made, tmp_path / "run", components=components)


def test_a_tap_that_is_not_there_is_reported(recipe: Make, tmp_path: Path) -> None:
    class Misses(ReadsFeatures):
        requires = Requires(teacher=True, teacher_features=("layer9",))

    made = recipe(OFF)
    components = build_components(made)
    components = type(components)(components.data, components.student, [Misses(name="misses")], components.teachers)
    with pytest.raises(BadInput, match="teacher tap: got 'layer9'; expected a module of the teacher: did you mean"):
        execute(made, tmp_path / "run", components=components)


# Through the command line, as processes that can be killed.


@pytest.fixture
def workplace(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    content["data"] |= {"train_limit": None, "augmentation": {"pad_crop": 1, "views": 4}}
    content["training"]["epochs"] = 4
    content["student"] = {"name": "mlp", "options": {"hidden": [8]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def start(out: str, *more: str, cache: str = "answers", **options: Any) -> Process:
    command = ["distill", "recipe.yaml", "--out", out, "--resume", ON, *more]
    return Process(*command, environment={"STILLROOM_CACHE": cache}, **options)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*"))}


def test_two_processes_that_build_at_once_end_with_one_good_cache(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [start("one"), start("two")]
    errors = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert asked(workplace / "one") + asked(workplace / "two") == 4 * 1297
    assert bytes_of(workplace / "one") == bytes_of(workplace / "two")
    monkeypatch.setenv("STILLROOM_CACHE", "answers")
    assert all(kept["problem"] is None for kept in list_caches())


def test_killed_while_building_the_next_run_goes_on_and_ends_with_the_same_bytes(workplace: Path) -> None:
    process = start("killed")
    # In the middle of a view that is not the first: two epochs are trained.
    until(lambda: list((workplace / "answers").glob("*/view-0002.progress")), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for out, cache in (("killed", "answers"), ("whole", "others")):
        process = start(out, cache=cache)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert asked(workplace / "killed") <= 4 * 1297, "no image is asked about twice"
    assert bytes_of(workplace / "killed") == bytes_of(workplace / "whole")
    assert content_of(workplace / "answers") == content_of(workplace / "others")


def test_a_disk_that_is_full_while_building_loses_nothing(workplace: Path) -> None:
    # 1,297 images of 10 logits in float16 take 26 kB; the test split's answers, 20 kB, still fit.
    full = start("run", "data.test_limit=60", fate=Fate(file_bytes=22 * 1024))
    _, errors = full.communicate()
    assert full.returncode == 2, errors
    assert errors.splitlines()[-1].startswith("error: cache: "), errors
    assert "Traceback" not in errors
    assert start("run").wait() == 0
    assert asked(workplace / "run") < 4 * 1297, "the blocks that were written are not asked about again"
