"""What a person gives is what the modules see: teacher and student are as right as in a plain PyTorch loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import stillroom as sr

CLASSES = 5
COUNT = 60
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Viewing(nn.Module):
    """The net of PyTorch's tutorial, small: it calls ``view`` on a feature map, which fails on channels-last memory."""

    def __init__(self, channels: int, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(channels, width, 3)
            self.pool = nn.MaxPool2d(2)
            self.fc = nn.Linear(width * 9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv(x)))
        # Steep: what is right for one input is wrong for a shifted or scaled one.
        return 30 * self.fc(x.view(x.size(0), -1)).sin()  # type: ignore[no-any-return]


class Pairs(list[Any]):
    """A dataset that names its classes."""

    classes = tuple("abcde")


def given(kind: str, channels: int, count: int = COUNT) -> tuple[Any, Tensor, Any]:
    """Images as a person holds them, as a plain loop feeds them to a module, and the preprocess to state."""
    draw = torch.Generator().manual_seed(channels)
    pixels = torch.randint(0, 256, (count, channels, 8, 8), generator=draw, dtype=torch.uint8)
    mean, std = [0.4, 0.5, 0.6, 0.3][:channels], [0.2, 0.3, 0.25, 0.5][:channels]
    columns = [torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std)]
    x = pixels.float() / 255
    if kind == "floats":
        return list(x), x, None
    if kind == "almost k/255":
        return list(x * 0.9999), x * 0.9999, None
    if kind == "own normalisation":
        normalised = (x - columns[0]) / columns[1]
        return list(normalised), normalised, None
    if kind == "stated normalisation of floats":
        return list(x), (x - columns[0]) / columns[1], {"mean": mean, "std": std}
    if kind == "bytes":
        return list(pixels), (x - columns[0]) / columns[1], {"mean": mean, "std": std}
    arrays = [each.permute(1, 2, 0).numpy() for each in pixels]
    return [Image.fromarray(each.squeeze(), MODES[channels]) for each in arrays], x, "unit"


KINDS = ["floats", "almost k/255", "own normalisation", "stated normalisation of floats", "bytes", "pil"]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_teacher_and_student_are_as_right_as_in_a_plain_loop(tmp_path: Path, kind: str, channels: int) -> None:
    images, x, preprocess = given(kind, channels)
    teacher, student = Viewing(channels, 6, seed=1), Viewing(channels, 3, seed=2)
    # The teacher is right where the input is the one it needs, but for every third image.
    with torch.no_grad():
        labels = teacher(x).argmax(1)
    labels[::3] = (labels[::3] + 1) % CLASSES
    data = Pairs(zip(images, labels.tolist(), strict=True))
    run = sr.distill(
        teacher, student, data, data, steps=2, batch_size=30, out=tmp_path / "run", progress=False,
        teacher_preprocess=preprocess, student_preprocess=preprocess, training={"device": "cpu"},
    )  # fmt: skip
    assert run.summary["teachers"]["teacher"]["correct"] == 2 * COUNT // 3
    with torch.no_grad():
        logits = run.student(x)
    assert run.summary["correct"] == int((logits.argmax(1) == labels).sum())
    assert torch.allclose(load_file(run.path / "predictions.safetensors")["student_logits"], logits, atol=1e-4)
    assert torch.allclose(run.predict(images), logits, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_floats_of_another_type_stay_what_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    seen: set[torch.dtype] = set()

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(x.dtype)
            return super().forward(x.to(self.weight.dtype))

    data = TensorDataset(torch.rand(24, 5).to(dtype), torch.arange(24) % CLASSES)
    run = sr.distill(
        Watching(5, CLASSES), Watching(5, CLASSES), data, data, steps=2, batch_size=8, out=tmp_path, progress=False
    )
    assert {each for each in seen if isinstance(each, torch.dtype)} == {dtype}  # tracing shows proxies, too
    assert run.summary["data"]["dtype"] == str(dtype).removeprefix("torch.")


def test_a_module_of_another_type_than_the_data_is_refused(tmp_path: Path) -> None:
    data = TensorDataset(torch.rand(24, 5).double(), torch.arange(24) % CLASSES)
    net = nn.Linear(5, CLASSES)
    with pytest.raises(sr.BadInput, match=r"student: .*images of 5, float64; it raised RuntimeError"):
        sr.distill(net, net, data, data, steps=1, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["bytes", "pil"])
@pytest.mark.parametrize("missing", ["teacher", "student"])
def test_bytes_without_a_stated_preprocess_are_an_error_that_offers_the_choices(
    tmp_path: Path, kind: str, missing: str
) -> None:
    images = given(kind, 3, 8)[0]
    data = [(image, place % CLASSES) for place, image in enumerate(images)]
    stated: dict[str, Any] = {"teacher_preprocess": "half", "student_preprocess": "half", f"{missing}_preprocess": None}
    with pytest.raises(sr.BadInput) as caught:
        sr.distill(
            Viewing(3, 3, 0), Viewing(3, 3, 1), data, data, steps=1, out=tmp_path / "run", progress=False, **stated
        )
    assert caught.value.field == f"{missing}_preprocess"
    for choice in ("'unit'", "'half'", "'imagenet'", "'none'", "'mean'"):
        assert choice in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_of_several_teachers_each_states_its_own(tmp_path: Path) -> None:
    images = given("bytes", 1, 8)[0]
    data = [(image, place % CLASSES) for place, image in enumerate(images)]
    with pytest.raises(sr.BadInput) as caught:
        sr.distill(
            {"a": Viewing(1, 3, 0), "b": Viewing(1, 3, 1)}, Viewing(1, 3, 2), data, data,
            [sr.KL(teacher="a", weight=0.5), sr.KL(teacher="b", weight=0.5)], steps=1, out=tmp_path / "run",
            progress=False, teacher_preprocess={"a": "unit"}, student_preprocess="unit",
        )  # fmt: skip
    assert caught.value.field == "teacher_preprocess['b']"


def test_floats_are_cached_as_they_are(tmp_path: Path) -> None:
    images = given("own normalisation", 3)[0]
    data = [(image, place % CLASSES) for place, image in enumerate(images)]
    runs = [
        sr.distill(
            Viewing(3, 6, 1), Viewing(3, 3, 2), data, data, epochs=3, batch_size=20, out=tmp_path / str(cached),
            progress=False, cache={"enabled": cached, "dtype": "float32"},
            training={"precision": "float32", "optimizer": {"lr": 1e-6}},
            augmentation={"flip": True, "pad_crop": 1, "views": 2},
        )
        for cached in (False, True)
    ]  # fmt: skip
    one, other = (load_file(run.path / "student.safetensors") for run in runs)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    pictures = load_file(runs[0].path / "predictions.safetensors")["example_images"]
    assert pictures.dtype == torch.uint8
    assert runs[0].report().exists()


def test_predict_refuses_another_form_than_the_run_was_trained_on(tmp_path: Path) -> None:
    data = TensorDataset(torch.rand(24, 5), torch.arange(24) % CLASSES)
    net = nn.Linear(5, CLASSES)
    run = sr.distill(None, net, data, data, steps=1, out=tmp_path, progress=False)
    assert torch.equal(run.predict(torch.rand(3, 5).fill_(0.5)), run.student(torch.full((3, 5), 0.5)))
    with pytest.raises(sr.BadInput, match=r"images: got 'torch\.uint8'; expected floats"):
        run.predict(torch.zeros(3, 1, 5, 5, dtype=torch.uint8))
