"""What a run leaves, and what may not change it."""

from __future__ import annotations

import copy
import errno
import io
import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import stillroom as sr
from run.conftest import Stop, StopAt, bytes_of, read_lines, stop_and_resume
from stillroom.cli import run
from stillroom.cli.terminal import describe_phases
from stillroom.errors import BadInput, RunFailed
from stillroom.files import write_bytes
from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires
from stillroom.losses.registry import build_losses
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.components import build_components
from stillroom.run.run import Finished, execute
from stillroom.train.folder import RunFolder
from stillroom.train.recorders import StepHook, StepInfo

Make = Callable[..., Recipe]
Once = Callable[[Recipe], Finished]
Stopped = Callable[[Recipe, Path], None]


def test_a_run_leaves_what_the_contract_says(recipe: Make, tmp_path: Path) -> None:
    made = recipe("training.checkpoints=[0, 1, 2]", "training.record_weight_distance=[linear, layer1.0.conv1]")
    finished = execute(made, tmp_path / "run")
    names = {str(p.relative_to(finished.path)) for p in finished.path.rglob("*") if p.is_file()}
    assert names == {
        "recipe.yaml",
        "metrics.jsonl",
        "weight_distance.jsonl",
        "class_relations.jsonl",
        "class_relations.json",
        "timing.jsonl",
        "summary.json",
        "environment.json",
        "student.safetensors",
        "predictions.safetensors",
        "checkpoints/epoch-0000.safetensors",
        "checkpoints/epoch-0001.safetensors",
        "checkpoints/epoch-0002.safetensors",
        "checksums.sha256",
        "checkpoints/checksums.sha256",
    }
    lines = read_lines(finished.path / "metrics.jsonl")
    assert [(line["step"], line["split"]) for line in lines] == [
        (4, "train"), (6, "train"), (6, "test"), (8, "train"), (12, "train"), (12, "test"),
    ]  # fmt: skip
    assert set(lines[0]) == {"step", "epoch", "split", "loss", "loss/cross_entropy", "loss/kl", "lr"}
    assert set(lines[2]) == {"step", "epoch", "split", "top1", "top5", "nll", "ece", "agreement", "teacher_kl"}
    for line in lines:
        if line["split"] == "train":
            assert line["loss"] == pytest.approx(0.5 * line["loss/cross_entropy"] + 0.5 * line["loss/kl"], rel=1e-5)
    summary = finished.summary
    assert {key: lines[-1][key] for key in ("top1", "nll", "agreement")} == {
        key: summary[key] for key in ("top1", "nll", "agreement")
    }
    assert (summary["steps"], summary["count"], summary["data"]["train"]) == (12, 60, 200)
    assert summary["top1"] == 100 * summary["correct"] / 60
    layout = {key: summary[key] for key in ("device", "precision", "threads", "processes", "accumulate")}
    assert layout == {"device": "cpu", "precision": "float32", "threads": 1, "processes": 1, "accumulate": 1}
    moves = [line["distance"] for line in read_lines(finished.path / "weight_distance.jsonl")]
    assert all(set(m) == {"linear", "layer1.0.conv1"} for m in moves)
    assert moves[0]["linear"] < moves[-1]["linear"]


def test_the_written_recipe_makes_the_same_run(recipe: Make, once: Once, tmp_path: Path) -> None:
    first = once(recipe()).path
    again = parse_recipe(yaml.safe_load((first / "recipe.yaml").read_text()))
    execute(again, tmp_path / "b")
    assert bytes_of(first) == bytes_of(tmp_path / "b")


def test_another_seed_makes_another_run(recipe: Make, once: Once, tmp_path: Path) -> None:
    a = once(recipe()).summary["hashes"]
    b = execute(recipe("seed=1"), tmp_path / "b").summary["hashes"]
    assert {key for key in a if a[key] != b[key]} == {"init", "order"}


@pytest.mark.parametrize(
    ("override", "differs"),
    [
        ("data.augmentation.seed=1", {"views"}),
        ("data.augmentation.pad_crop=2", {"views"}),
        ("data.augmentation.views=1", {"views"}),
        ("training.epochs=1", {"budget", "order", "views"}),
        ("data.batch_size=50", {"budget"}),
        ("student.options.hidden=[9]", {"init"}),
        ("training.threads=2", {"threads"}),
        ("losses=[{name: cross_entropy}]", set()),
        ("losses.kl.temperature=2", set()),
        ("training.optimizer.lr=0.01", set()),
    ],
)
@pytest.mark.usefixtures("perceptrons")
def test_hashes_follow_what_must_be_equal_and_nothing_else(
    recipe: Make, once: Once, tmp_path: Path, override: str, differs: set[str]
) -> None:
    a = once(recipe("training.epochs=2", "data.train_limit=100", "data.test_limit=10"))
    b = execute(recipe(override), tmp_path / "b")
    hashes = a.summary["hashes"]
    assert {key for key in hashes if hashes[key] != b.summary["hashes"][key]} == differs


@pytest.mark.parametrize("step", [1, 5, 6, 9, 12])
def test_a_stopped_run_ends_as_one_never_stopped(recipe: Make, once: Once, tmp_path: Path, step: int) -> None:
    made = recipe(
        "training.ema=0.9", "training.save_seconds=0",
        "training.record_weight_distance=[linear]", "training.checkpoints=[1]",
        "student.name=vit_mini", "student.options={dropout: 0.2, dim: 16, heads: 2, depth: 1}",
        "training.record_weight_distance=[]", "training.optimizer.name=adamw",
    )  # fmt: skip
    stop_and_resume(made, tmp_path / "stopped", step)
    assert bytes_of(once(made).path) == bytes_of(tmp_path / "stopped")


def test_moves_of_a_stopped_run_are_those_of_one_never_stopped(recipe: Make, tmp_path: Path) -> None:
    made = recipe("training.save_seconds=0", "training.record_weight_distance=[linear]")
    execute(made, tmp_path / "whole")
    stop_and_resume(made, tmp_path / "stopped", 9)
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "stopped")


def test_moves_are_the_summed_steps_by_hand(recipe: Make, tmp_path: Path) -> None:
    class Weights(StepHook):
        def start(self, student: nn.Module) -> None:
            self.seen = [student.get_parameter("linear.weight").detach().clone()]

        def after_step(self, info: StepInfo) -> None:
            self.seen.append(info.student.get_parameter("linear.weight").detach().clone())

    weights = Weights()
    execute(recipe("training.record_weight_distance=[linear]"), tmp_path / "run", hooks=[weights])
    w = weights.seen
    by_hand = sum(float((b - a).norm()) for a, b in itertools.pairwise(w)) / float(w[0].norm())
    last = read_lines(tmp_path / "run" / "weight_distance.jsonl")[-1]["distance"]["linear"]
    assert len(w) == 13
    assert last == pytest.approx(by_hand, rel=1e-5)


def test_resuming_a_finished_run_gives_it_back_untouched(recipe: Make, tmp_path: Path) -> None:
    first = execute(recipe(), tmp_path / "run")
    before = bytes_of(tmp_path / "run")
    again = execute(recipe(), tmp_path / "run", resume=True)
    assert again.summary == first.summary
    assert bytes_of(tmp_path / "run") == before
    for name, value in first.student.state_dict().items():
        assert torch.equal(value, again.student.state_dict()[name])


def test_the_teacher_is_bit_equal_after_a_run_and_in_no_file(recipe: Make, tmp_path: Path) -> None:
    made = recipe("training.save_seconds=0", "training.precision=bfloat16")
    components = build_components(made)
    components.teachers["teacher"].train()
    before = {name: value.clone() for name, value in components.teachers["teacher"].state_dict().items()}
    finished = execute(made, tmp_path / "run", components=components, hooks=[KeepStates(tmp_path / "run")])
    after = components.teachers["teacher"].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert components.teachers["teacher"].training, "its mode is put back"
    assert all(p.grad is None and p.requires_grad for p in components.teachers["teacher"].parameters())
    needles = [v.numpy().tobytes() for v in before.values() if v.is_floating_point() and v.numel() >= 64]
    assert len(needles) > 4
    files = [p for folder in (finished.path, tmp_path / "run" / "kept") for p in folder.rglob("*") if p.is_file()]
    assert any(p.name == "last.pt" for p in files), "the saves were looked at too"
    for path in files:
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), path


class KeepStates(StepHook):
    """Keeps a copy of each save, which a finished run removes."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def after_step(self, info: StepInfo) -> None:
        save = self.run / "state" / "last.pt"
        if save.exists():
            (self.run / "kept").mkdir(exist_ok=True)
            (self.run / "kept" / "last.pt").write_bytes(save.read_bytes())


def test_a_teacher_of_other_normalisation_is_asked_in_its_own(recipe: Make, tmp_path: Path) -> None:
    """The same function of the pixels, written for another normalisation, must teach the same."""
    made = recipe("teacher.preprocess={mean: [0.5], std: [0.5]}", "student.preprocess=unit")
    plain = build_components(made)
    a = execute(made, tmp_path / "a", components=plain)

    shifted = recipe("teacher.preprocess={mean: [0.25], std: [2.0]}")
    other = build_components(shifted)

    class Undo(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(((x * 2.0 + 0.25) - 0.5) / 0.5)  # type: ignore[no-any-return]

    other = replace(other, teachers={"teacher": Undo(other.teachers["teacher"])})
    b = execute(shifted, tmp_path / "b", components=other)
    first, second = (read_lines(run.path / "metrics.jsonl")[0]["loss/kl"] for run in (a, b))
    assert first == pytest.approx(second, rel=1e-4)
    assert a.summary["teachers"]["teacher"]["nll"] == pytest.approx(b.summary["teachers"]["teacher"]["nll"], rel=1e-4)

    wrong = recipe("teacher.preprocess=unit")
    c = execute(wrong, tmp_path / "c")
    assert read_lines(c.path / "metrics.jsonl")[0]["loss/kl"] != pytest.approx(first, rel=1e-3)


def test_a_teacher_of_other_class_order_is_put_in_the_datas(recipe: Make, tmp_path: Path) -> None:
    made = recipe("teacher.preprocess={mean: [0.5], std: [0.5]}")
    a = execute(made, tmp_path / "a")
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    shuffled = recipe(f"teacher.preprocess={{mean: [0.5], std: [0.5], class_order: {order}}}")
    components = build_components(shuffled)
    head = components.teachers["teacher"].get_submodule("linear")
    with torch.no_grad():
        for parameter in head.parameters():
            permuted = torch.empty_like(parameter)
            permuted[order] = parameter
            parameter.copy_(permuted)
    b = execute(shuffled, tmp_path / "b", components=components)
    assert b.summary["teachers"]["teacher"]["correct"] == a.summary["teachers"]["teacher"]["correct"]
    assert load_file(a.path / "student.safetensors").keys() == load_file(b.path / "student.safetensors").keys()
    assert read_lines(a.path / "metrics.jsonl")[0]["loss/kl"] == pytest.approx(
        read_lines(b.path / "metrics.jsonl")[0]["loss/kl"], rel=1e-5
    )


def test_the_teacher_is_not_run_where_no_term_reads_it(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stillroom.teachers.live

    def refuse(self: Any, images: Tensor) -> None:
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(stillroom.teachers.live.LiveTeacher, "__call__", refuse)
    finished = execute(recipe("losses=[{name: cross_entropy}]"), tmp_path / "run")
    assert "agreement" in finished.summary, "it is still compared with"


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_give_the_step_of_the_whole_batch_without_batchnorm(
    recipe: Make, once: Once, tmp_path: Path, accumulate: int
) -> None:
    a = once(recipe("student={name: mlp, options: {hidden: [16]}}", "training.epochs=1"))
    b = execute(recipe(f"training.accumulate={accumulate}"), tmp_path / "b")
    for name, value in a.student.state_dict().items():
        assert torch.allclose(value, b.student.state_dict()[name], atol=1e-5), name
    assert a.summary["hashes"]["budget"] != b.summary["hashes"]["budget"]


def test_more_micro_batches_than_images_lose_none(recipe: Make, tmp_path: Path) -> None:
    plain = recipe("student={name: mlp, options: {hidden: [16]}}", "training.epochs=1", "data.batch_size=4")
    a = execute(plain, tmp_path / "a")
    b = execute(recipe("training.accumulate=8"), tmp_path / "b")
    for name, value in a.student.state_dict().items():
        assert torch.allclose(value, b.student.state_dict()[name], atol=1e-5), name


def test_with_batchnorm_micro_batches_normalise_by_themselves(recipe: Make, tmp_path: Path) -> None:
    a = execute(recipe("training.epochs=1"), tmp_path / "a")
    b = execute(recipe("training.accumulate=2"), tmp_path / "b")
    name = "linear.weight"
    assert not torch.allclose(a.student.get_parameter(name), b.student.get_parameter(name), atol=1e-5)


def test_clipping_bounds_the_first_step(recipe: Make, tmp_path: Path) -> None:
    clipped = recipe("training.steps=1", "training.epochs=null", "training.clip_norm=1.0e-3",
                     "training.optimizer={lr: 1.0, momentum: 0, weight_decay: 0}", "training.schedule.name=constant",
                     "training.checkpoints=[0]")  # fmt: skip
    finished = execute(clipped, tmp_path / "run")
    before = load_file(finished.path / "checkpoints" / "epoch-0000.safetensors")
    moved = math.sqrt(
        sum(float((p.detach() - before[name]).square().sum()) for name, p in finished.student.named_parameters())
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_the_moving_average_is_what_is_kept(recipe: Make, once: Once, tmp_path: Path) -> None:
    plain = once(recipe())
    averaged = execute(recipe("training.ema=0.99"), tmp_path / "ema")
    assert not torch.equal(
        plain.student.get_parameter("linear.weight"), averaged.student.get_parameter("linear.weight")
    )
    # The same training behind it: the losses of the steps are equal.
    lines = [
        [line for line in read_lines(run.path / "metrics.jsonl") if line["split"] == "train"]
        for run in (plain, averaged)
    ]
    assert lines[0] == lines[1]


def test_a_weight_that_follows_a_schedule_is_seen_in_the_loss(recipe: Make, tmp_path: Path) -> None:
    made = recipe("training.log_every=1", "losses.kl.weight={start: 0, end: 1, begin: 0, until: 0.5}")
    lines = read_lines(execute(made, tmp_path / "run").path / "metrics.jsonl")
    for line in (line for line in lines if line["split"] == "train"):
        weight = min(1.0, (line["step"] - 1) / 12 / 0.5)
        assert line["loss"] == pytest.approx(0.5 * line["loss/cross_entropy"] + weight * line["loss/kl"], rel=1e-5)


def test_steps_may_be_the_budget_and_end_mid_epoch(recipe: Make, tmp_path: Path) -> None:
    finished = execute(recipe("training.steps=8", "training.epochs=null"), tmp_path / "run")
    assert (finished.summary["steps"], finished.summary["epochs"]) == (8, round(8 / 6, 6))
    assert read_lines(finished.path / "metrics.jsonl")[-1]["step"] == 8


def test_a_student_that_equals_its_teacher_is_reported(recipe: Make, tmp_path: Path) -> None:
    # Its answers come from the cache, rounded to float16.
    made = recipe("student={name: mlp}", "teacher.name=mlp", "teacher.options={}", "losses=[{name: logit_mse}]")
    components = build_components(recipe("teacher=null", "losses=[{name: cross_entropy}]"))
    alike = replace(
        components, teachers={"teacher": copy.deepcopy(components.student)}, losses=build_losses(made.losses)
    )
    with pytest.raises(RunFailed, match="'logit_mse' gives the student no gradient at the first step"):
        execute(made, tmp_path / "run", components=alike)
    assert not (tmp_path / "run" / "summary.json").exists()


class Detached(Loss[LossConfig]):
    """A loss whose author forgot that detaching silences it."""

    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        return (inputs.student.logits.detach() - inputs.teacher_logits).square().mean()


def test_a_loss_that_teaches_nothing_is_reported_by_name(recipe: Make, tmp_path: Path) -> None:
    made = recipe("losses=[{name: cross_entropy}]")
    silent = Detached(name="detached")
    components = build_components(made)
    with pytest.raises(RunFailed, match="'detached' gives the student no gradient"):
        execute(made, tmp_path / "run", components=replace(components, losses=[*components.losses, silent]))


def test_a_loss_that_is_not_finite_stops_the_run(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"not finite.*lr"):
        execute(recipe("training.optimizer.lr=1.0e+30", "training.log_every=1"), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_two_writers_on_one_folder_are_kept_apart(recipe: Make, tmp_path: Path) -> None:
    class Second(StepHook):
        seen = ""

        def after_step(self, info: StepInfo) -> None:
            if info.step == 2:
                with pytest.raises(BadInput, match="no other process is writing"):
                    execute(made, tmp_path / "run", resume=True)
                Second.seen = "yes"

    made = recipe()
    execute(made, tmp_path / "run", hooks=[Second()])
    assert Second.seen == "yes"


def test_a_damaged_save_is_reported_and_nothing_is_lost(recipe: Make, stopped: Stopped, tmp_path: Path) -> None:
    made = recipe("training.save_seconds=0")
    stopped(made, tmp_path / "run")
    save = tmp_path / "run" / "state" / "last.pt"
    save.write_bytes(save.read_bytes()[:1000])
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(BadInput, match="a save that can be read"):
        execute(made, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_line_of_timing_that_a_kill_cut_short_is_taken_away(recipe: Make, stopped: Stopped, tmp_path: Path) -> None:
    made = recipe("training.save_seconds=0")
    stopped(made, tmp_path / "run")
    timing = tmp_path / "run" / "timing.jsonl"
    whole = len(timing.read_text().splitlines())
    with timing.open("a") as log:
        log.write('{"event": "progr')
    execute(made, tmp_path / "run", resume=True, hooks=[StopAt(-1)])
    events = read_lines(timing)
    assert events[whole] == {"event": "resume", "step": 8}


def test_a_log_that_is_gone_is_reported(recipe: Make, stopped: Stopped, tmp_path: Path) -> None:
    made = recipe("training.save_seconds=0")
    stopped(made, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(BadInput, match="bytes it had at the last save, not 0"):
        execute(made, tmp_path / "run", resume=True, hooks=[StopAt(-1)])


def test_other_hooks_than_the_run_was_started_with_are_reported(recipe: Make, tmp_path: Path) -> None:
    made = recipe("training.save_seconds=0", "training.record_weight_distance=[linear]")
    with pytest.raises(Stop):
        execute(made, tmp_path / "run", hooks=[StopAt(10)])
    with pytest.raises(BadInput, match="the hooks that the run was started with: StopAt, RecordWeightDistance"):
        execute(made, tmp_path / "run", resume=True)


def test_a_hooks_state_that_could_not_be_read_back_is_reported_at_the_first_save(recipe: Make, tmp_path: Path) -> None:
    class Odd(StepHook):
        def state_dict(self) -> dict[str, Any]:
            return {"path": tmp_path}

    with pytest.raises(RunFailed, match="a hook's state_dict may hold only tensors"):
        execute(recipe(), tmp_path / "run", hooks=[Odd()])


def test_a_run_killed_in_its_first_write_is_resumed(recipe: Make, once: Once, tmp_path: Path) -> None:
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run" / "state" / "lock").touch()
    (tmp_path / "run" / ".recipe.yaml.abc.part").write_text("half")
    execute(recipe(), tmp_path / "run", resume=True)
    assert bytes_of(tmp_path / "run") == bytes_of(once(recipe()).path)


def test_a_run_killed_after_its_last_write_is_tidied(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: RunFolder) -> None:
        raise Stop

    made = recipe()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", killed)
        with pytest.raises(Stop):
            execute(made, tmp_path / "run")
    assert (tmp_path / "run" / "state").exists()
    execute(recipe(), tmp_path / "run", resume=True)
    assert not (tmp_path / "run" / "state").exists()


def test_a_file_system_without_locks_is_no_obstacle(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    assert execute(recipe(), tmp_path / "run").summary["steps"] == 12


def test_another_teacher_is_not_taken_for_the_one_a_run_was_started_with(
    recipe: Make, stopped: Stopped, tmp_path: Path
) -> None:
    made = recipe("training.save_seconds=0")
    stopped(made, tmp_path / "run")
    components = build_components(made)
    with torch.no_grad():
        components.teachers["teacher"].get_parameter("linear.weight").mul_(1.01)
    with pytest.raises(BadInput, match="the same teacher as when it was started"):
        execute(made, tmp_path / "run", resume=True, components=components, hooks=[StopAt(-1)])


def test_a_layer_that_starts_at_zero_has_no_relative_moves(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a layer that does not start at zero"):
        execute(recipe("training.record_weight_distance=[bn1.bias]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_another_recipe_or_other_data(recipe: Make, stopped: Stopped, tmp_path: Path) -> None:
    made = recipe("training.save_seconds=0")
    stopped(made, tmp_path / "run")
    with pytest.raises(BadInput, match=r"seed is 5, was 0"):
        execute(recipe("seed=5"), tmp_path / "run", resume=True)
    components = build_components(made)
    images = components.data.train.images.clone()
    images[0, 0, 0, 0] += 1
    train = type(components.data.train)(
        images, components.data.train.labels, components.data.train.class_names, "digits"
    )
    other = replace(components, data=replace(components.data, train=train))
    with pytest.raises(BadInput, match="the same data as when it was started"):
        execute(made, tmp_path / "run", resume=True, components=other, hooks=[StopAt(-1)])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiled_is_nearly_the_same_and_its_warm_up_is_reported(recipe: Make, tmp_path: Path) -> None:
    small = ["student={name: mlp, options: {hidden: [8]}}", "training.steps=6", "training.epochs=null"]
    plain = execute(recipe(*small), tmp_path / "plain")
    compiled = execute(recipe(*small, "training.compile=true"), tmp_path / "compiled")
    for left, right in zip(*(read_lines(done.path / "metrics.jsonl") for done in (plain, compiled)), strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-4) if "loss" in left else True
    assert (
        load_file(plain.path / "student.safetensors").keys() == load_file(compiled.path / "student.safetensors").keys()
    )
    (warm_up,) = [line for line in read_lines(compiled.path / "timing.jsonl") if line["event"] == "compile"]
    assert warm_up["step"] == 1
    assert warm_up["seconds"] > 0


def test_a_run_of_two_processes_is_not_gone_on_with_by_one(recipe: Make, stopped: Stopped, tmp_path: Path) -> None:
    stopped(recipe("training.save_seconds=0"), tmp_path / "run")
    path = tmp_path / "run" / "state" / "last.pt"
    state = torch.load(path, weights_only=True)
    state["hashes"]["processes"] = "2"
    torch.save(state, buffer := io.BytesIO())
    write_bytes(path, buffer.getvalue(), checksum=True)
    with pytest.raises(BadInput, match="expected the same processes as when it was started"):
        execute(recipe("training.save_seconds=0"), tmp_path / "run", resume=True, hooks=[StopAt(-1)])


def test_a_line_that_a_kill_cut_short_is_taken_away(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        execute(recipe("cache.enabled=true"), tmp_path / "run", hooks=[StopAt(9)])
    with (tmp_path / "run" / "timing.jsonl").open("a") as log:
        log.write('{"event": "pro')
    execute(recipe("cache.enabled=true"), tmp_path / "run", resume=True, hooks=[StopAt(-1)])
    assert {line["event"] for line in read_lines(tmp_path / "run" / "timing.jsonl")} >= {"cache", "resume", "finish"}


class HeldInTraining(nn.Module):
    """A model whose batch norm stays in training mode, and so takes no batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers.train()(x)
        return logits


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_model_that_takes_no_single_image_is_refused_before_the_training(tmp_path: Path, who: str) -> None:
    data = torch.utils.data.TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 10)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    held = HeldInTraining()
    models = {"teacher": plain, "student": plain, who: held}
    before = copy.deepcopy(held.state_dict())
    with pytest.raises(BadInput, match="a single image in evaluation mode") as error:
        sr.distill(models["teacher"], models["student"], data, data, epochs=1, out=tmp_path / "run", progress=False)
    assert error.value.field == who
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert all(torch.equal(value, before[name]) for name, value in held.state_dict().items())


def test_models_are_timed_for_a_report_once_and_not_by_the_run(
    recipe: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = execute(recipe(), tmp_path / "run").path

    def timed() -> list[str]:
        return [line["who"] for line in read_lines(out / "timing.jsonl") if line["event"] == "latency"]

    assert timed() == []
    before = (out / "summary.json").read_bytes()
    for _ in range(2):
        assert run(["report", str(out)]) == 0
        assert timed() == ["student", "teacher"]
    assert (out / "summary.json").read_bytes() == before


def test_a_run_says_what_its_time_went_to(recipe: Make, once: Once) -> None:
    out = once(recipe()).path
    (phases,) = [line for line in read_lines(out / "timing.jsonl") if line["event"] == "phases"]
    assert {"data", "teacher", "training", "evaluation", "other"} <= set(phases["phases"])
    assert sum(phases["phases"].values()) == pytest.approx(phases["seconds"], abs=0.01)
    assert describe_phases(out).startswith("time: ")
