"""The Python door: the same runs as the command line's, from objects."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import stillroom as sr

CLASSES = 4
BYTES: dict[str, Any] = {"teacher_preprocess": "half", "student_preprocess": "half"}
AS_GIVEN: dict[str, Any] = dict.fromkeys(BYTES)


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, CLASSES))


def pixels(count: int = 96, seed: int = 0) -> TensorDataset:
    """Images whose class is where they are bright, so that there is something to learn."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)
    for row, label in enumerate(labels.tolist()):
        images[row, :, 2 * label : 2 * label + 2] += 120
    return TensorDataset(images, labels)


def distill(out: Path, **options: Any) -> sr.DistillResult:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "teacher": net(32), "student": net(3), "train": pixels(), "test": pixels(40, 1),
        "epochs": 3, "batch_size": 16, "out": out, "progress": False, **BYTES,
    }  # fmt: skip
    return sr.distill(**{**arguments, **options})


def test_five_lines_of_python_leave_a_run_and_a_report(tmp_path: Path) -> None:
    run = distill(tmp_path / "run", losses=[sr.CrossEntropy(weight=0.1), sr.KL(weight=0.9, temperature=4)])
    assert run.path == tmp_path / "run"
    assert not run.student.training
    assert run.summary == json.loads((run.path / "summary.json").read_text())
    assert run.summary["teachers"]["teacher"]["parameters"] == 64 * 32 + 32 + 32 * CLASSES + CLASSES
    page = run.report()
    assert page == run.path / "report.html"
    assert page.stat().st_size > 10_000
    assert run.summary["name"] == "Sequential ← Sequential"
    text = page.read_text(encoding="utf-8")
    assert "This run was made in Python" in text
    assert "stillroom distill recipe.yaml" not in text


def test_two_precisions_in_one_process(tmp_path: Path) -> None:
    low = distill(tmp_path / "low", training={"precision": "bfloat16"})
    full = distill(tmp_path / "full", training={"precision": "float32"})
    again = distill(tmp_path / "again", training={"precision": "bfloat16"})
    assert (low.summary["precision"], full.summary["precision"]) == ("bfloat16", "float32")
    weights = [torch.cat([p.flatten() for p in run.student.parameters()]) for run in (low, full, again)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert torch.allclose(weights[0], weights[1], atol=0.1)


def test_what_is_given_is_left_as_it_was(tmp_path: Path) -> None:
    teacher, student = net(32), net(3)
    teacher.train()
    before = [p.clone() for model in (teacher, student) for p in model.parameters()]
    random = torch.get_rng_state()
    threads = torch.get_num_threads()
    loss = sr.KL(weight=1)
    distill(tmp_path / "run", teacher=teacher, student=student, losses=[loss])
    after = [p for model in (teacher, student) for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.requires_grad and p.grad is None for p in after)
    assert teacher.training
    assert student.training
    # net() drew from the generator before; distill itself must not.
    torch.manual_seed(0)
    net(32), net(3)
    assert torch.get_num_threads() == threads
    torch.set_rng_state(random)


def test_the_users_random_generator_is_not_moved(tmp_path: Path) -> None:
    teacher, student = net(32), net(3)
    before = torch.get_rng_state()
    sr.distill(teacher, student, pixels(), pixels(), epochs=1, out=tmp_path / "run", progress=False, **BYTES)
    assert torch.equal(torch.get_rng_state(), before)


class Pictures(Dataset[tuple[Any, int]]):
    """Items as torchvision gives them: PIL images, or arrays."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.data = pixels()
        self.classes = ["north", "east", "south", "west"]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.data[index]
        if self.kind == "pil":
            return Image.fromarray(image[0].numpy()), int(label)
        return image.permute(1, 2, 0).numpy(), int(label)


@pytest.mark.parametrize("kind", ["pil", "array"])
def test_any_dataset_gives_the_same_run(tmp_path: Path, kind: str) -> None:
    plain = distill(tmp_path / "plain", augmentation={"pad_crop": 1, "flip": True})
    other = distill(
        tmp_path / "other", train=Pictures(kind), test=Pictures(kind), augmentation={"pad_crop": 1, "flip": True}
    )
    assert torch.equal(plain.student[1].weight, other.student[1].weight)  # type: ignore[index]


def test_floats_train_as_they_are_augmented_too(tmp_path: Path) -> None:
    floats = TensorDataset(torch.randn(64, 1, 8, 8), torch.arange(64) % CLASSES)
    run = distill(tmp_path / "run", train=floats, test=floats, augmentation={"flip": True, "pad_crop": 1}, **AS_GIVEN)
    assert run.summary["count"] == 64
    assert run.report().exists()
    rows = TensorDataset(torch.randn(64, 64), torch.arange(64) % CLASSES)
    with pytest.raises(sr.BadInput, match=r"data\.augmentation.*not an image"):
        distill(tmp_path / "rows", train=rows, test=rows, augmentation={"flip": True}, **AS_GIVEN)


def test_rows_of_a_table_are_distilled_too(tmp_path: Path) -> None:
    rows = torch.randn(80, 5)
    table = TensorDataset(rows, (rows[:, 0] > 0).long() + 2 * (rows[:, 1] > 0).long())
    teacher, student = nn.Linear(5, CLASSES), nn.Linear(5, CLASSES)
    run = distill(tmp_path / "run", teacher=teacher, student=student, train=table, test=table, epochs=20, **AS_GIVEN)
    assert run.summary["data"]["shape"] == [5]
    assert run.summary["multiply_adds"] == 5 * CLASSES
    assert run.report().exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "resnet8"}, "student: got 'resnet8'; expected an nn.Module"),
        ({"student": nn.Flatten()}, "expected 4 logits, one a class of train, not 64"),
        ({"teacher": nn.Linear(3, 4)}, "teacher"),
        ({"teacher": None, "losses": [sr.KL()]}, "teacher: got None; expected a model: loss 'kl' reads"),
        ({"epochs": 0}, "training.epochs: got 0"),
        ({"steps": 3}, "expected either epochs or steps, not both"),
        ({"epochs": 2, "training": {"epochs": 3}}, "training.epochs: got 3; expected one value"),
        ({"training": {"lr": 3}}, "training.lr: unknown field 'lr'"),
        ({"losses": []}, "losses: got []"),
        ({"train": TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0))}, "expected"),
        ({"train": [1, 2, 3]}, "expected"),
        ({"test": TensorDataset(torch.zeros(8, 1, 9, 9, dtype=torch.uint8), torch.arange(8) % CLASSES)}, "expected"),
        ({"teacher_preprocess": "imagenet"}, "preprocess"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "-".join(value),
)
def test_bad_input_is_reported_and_writes_nothing(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.BadInput) as caught:
        distill(tmp_path / "run", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


class Empty(nn.Sequential):
    """A module that Python takes for false."""

    def __len__(self) -> int:
        return 0


def test_a_teacher_that_python_takes_for_false_teaches(tmp_path: Path) -> None:
    assert distill(tmp_path / "run", teacher=Empty(*net(8))).summary["distilled"]


class InPlace(nn.Module):
    """Works in place on what it is given, and keeps a tensor from an earlier call."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, CLASSES)
        self.kept: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(1.0).flatten(1)
        if len(x) not in self.kept:
            self.kept[len(x)] = torch.ones(len(x), CLASSES)
        return self.head(x) * self.kept[len(x)]  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(64,), (1, 8, 8)])
def test_the_users_data_and_teacher_are_not_changed_by_what_they_do(tmp_path: Path, shape: tuple[int, ...]) -> None:
    floats = torch.randn(80, *shape)
    before = floats.clone()
    data = TensorDataset(floats, torch.arange(80) % CLASSES)
    teacher = InPlace()
    distill(tmp_path / "run", teacher=teacher, student=InPlace(), train=data, test=data, **AS_GIVEN)
    assert torch.equal(floats, before)
    assert teacher.kept == {}
    teacher(torch.randn(1, 64)).sum().backward()


class Fixed(nn.Module):
    """A teacher without a parameter."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.register_buffer("answers", answers)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :CLASSES] + self.answers  # type: ignore[operator, no-any-return]


def test_a_teacher_of_buffers_alone_teaches(tmp_path: Path) -> None:
    run = distill(tmp_path / "run", teacher=Fixed(torch.arange(4.0)))
    assert run.summary["teachers"]["teacher"]["parameters"] == 0


def test_a_teacher_whose_answers_are_not_finite_is_reported(tmp_path: Path) -> None:
    masked = torch.tensor([0.0, 0.0, 0.0, float("-inf")])
    with pytest.raises(sr.BadInput, match="expected finite logits: those of image 0 in view 0 are not"):
        distill(tmp_path / "run", teacher=Fixed(masked), losses=[sr.CrossEntropy()])


def test_two_terms_of_one_name_are_reported(tmp_path: Path) -> None:
    class Mine(sr.KL):
        """Another kl."""

    with pytest.raises(sr.BadInput, match="losses: got 'kl'; expected a name of its own"):
        distill(tmp_path / "run", losses=[sr.KL(), Mine(temperature=1)])


def test_a_student_that_cannot_train_on_the_smallest_batch_is_reported(
    tmp_path: Path,
) -> None:
    normed = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    for options in ({"batch_size": 1}, {"training": {"accumulate": 16}}):
        with pytest.raises(sr.BadInput, match="a model that can train on 1 images at once; it raised ValueError"):
            distill(tmp_path / "run", student=normed, **options)
    assert not (tmp_path / "run").exists()


def test_whole_numbers_are_copied_into_the_moving_average(tmp_path: Path) -> None:
    class Indexed(nn.Module):
        """Holds an index, as windowed attention does."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("index", torch.arange(64).flip(0))
            self.head = nn.Linear(64, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1)[:, self.index])  # type: ignore[no-any-return, index]

    run = distill(tmp_path / "run", student=Indexed(), training={"ema": 0.9})
    assert torch.equal(run.student.index, torch.arange(64).flip(0))  # type: ignore[arg-type]


def test_resuming_needs_the_folder_and_the_same_things(tmp_path: Path) -> None:
    with pytest.raises(sr.BadInput, match="the run's folder by out="):
        distill(None, resume=True)  # type: ignore[arg-type]
    distill(tmp_path / "run")
    assert distill(tmp_path / "run", resume=True).summary["steps"] == 18
    others = {
        "teacher": {"teacher": net(32)},
        "init": {"student": net(3)},
        "data": {"train": pixels(96, 9), "test": pixels(40, 9)},
    }
    for what, options in others.items():
        with pytest.raises(sr.BadInput, match=f"the same {what} as the finished run there"):
            distill(tmp_path / "run", resume=True, **options)


def test_options_of_a_loss_are_checked_when_it_is_made() -> None:
    with pytest.raises(sr.BadInput, match=r"KL.temperature: got 0; expected greater than 0"):
        sr.KL(temperature=0)
    with pytest.raises(sr.BadInput, match=r"KL.temprature: unknown field"):
        sr.KL(temprature=1)


def test_a_loss_of_ones_own_with_options(tmp_path: Path) -> None:
    class MarginConfig(sr.LossConfig):
        name: str = "margin"
        margin: float = 1.0

    class Margin(sr.Loss[MarginConfig]):
        """Logits may lie within a margin of the teacher's at no cost."""

        requires = sr.Requires(teacher=True)

        def forward(self, inputs: sr.LossInputs) -> Tensor:
            gap = (inputs.student.logits - inputs.teacher_logits).abs() - self.config.margin
            return gap.clamp(min=0).mean()

    run = distill(tmp_path / "run", losses=[sr.CrossEntropy(), Margin(margin=0.1, weight=2)])
    first = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(first["loss/cross_entropy"] + 2 * first["loss/margin"], rel=1e-5)


def test_a_run_stopped_in_python_goes_on(tmp_path: Path) -> None:
    class Stop(sr.StepHook):
        def __init__(self, step: int) -> None:
            self.step = step

        def after_step(self, info: sr.StepInfo) -> None:
            if info.step == self.step:
                raise KeyboardInterrupt

    whole = distill(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        distill(tmp_path / "stopped", hooks=[Stop(13)])
    resumed = distill(tmp_path / "stopped", resume=True, hooks=[Stop(0)])
    for name in ("student.safetensors", "metrics.jsonl", "summary.json"):
        assert (whole.path / name).read_bytes() == (resumed.path / name).read_bytes()


def test_importing_stillroom_is_cheap_and_everything_named_is_there() -> None:
    assert set(sr.__all__) <= set(dir(sr))
    assert all(getattr(sr, name) is not None for name in sr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        sr.distil  # noqa: B018


def test_it_runs_outside_the_main_thread(tmp_path: Path) -> None:
    done: list[sr.DistillResult] = []
    thread = threading.Thread(target=lambda: done.append(distill(tmp_path / "run", epochs=1)))
    thread.start()
    thread.join(600)
    assert len(done) == 1
    assert np.isfinite(done[0].summary["nll"])
