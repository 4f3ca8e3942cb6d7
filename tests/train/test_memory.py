"""Running out of memory: the batch is split further, said aloud, and nothing of the failed attempt remains."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stillroom as sr
from stillroom.errors import RunFailed
from stillroom.memory import in_parts, is_out_of_memory
from stillroom.models.prepared import predict
from stillroom.models.preprocess import Preprocess


class Hungry(nn.Module):
    """A model that runs out of memory in its last layer when it is given more than ``most`` images."""

    def __init__(self, most: int, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.most = most
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16) if norm else nn.Identity())
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        logits: Tensor = self.last(hidden.relu())
        return logits


def data() -> torch.utils.data.TensorDataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 8, 8, generator=draw)
    return torch.utils.data.TensorDataset(images, torch.arange(64) % 4)


def learn(student: nn.Module, out: Path, *losses: sr.Loss[Any], accumulate: int = 1, **more: Any) -> sr.DistillResult:
    return sr.distill(
        None,
        student,
        data(),
        data(),
        list(losses) or None,
        epochs=3,
        batch_size=16,
        training={"precision": "float32", "device": "cpu", "log_every": 1, "accumulate": accumulate},
        out=out,
        progress=False,
        **more,
    )


def weights(run: sr.DistillResult) -> list[Tensor]:
    return [value for value in run.student.state_dict().values() if value.is_floating_point()]


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
def test_the_batch_is_split_until_it_fits_as_if_it_had_been_asked_for(tmp_path: Path, norm: bool) -> None:
    # The first attempts leave no trace, not even in batch norm's running statistics.
    short = learn(Hungry(most=5, norm=norm), tmp_path / "short")
    asked = learn(Hungry(most=100, norm=norm), tmp_path / "asked", accumulate=4)
    for left, right in zip(weights(short), weights(asked), strict=True):
        assert torch.equal(left, right)
    lines = (tmp_path / "short" / "timing.jsonl").read_text().splitlines()
    events = [line for line in map(json.loads, lines) if line["event"] == "out_of_memory"]
    assert [(event["step"], event["parts"]) for event in events] == [(1, 2), (1, 4)]
    assert short.summary["hashes"]["budget"] == asked.summary["hashes"]["budget"]


def test_it_is_said_aloud(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sr.distill(None, Hungry(most=8), data(), data(), steps=1, batch_size=16, out=tmp_path / "run")
    message = " ".join(capfd.readouterr().err.split())
    assert "out of memory at step 1: from here on each batch of 16 goes through in 2 parts" in message


def test_a_single_image_that_is_too_much_ends_the_run_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match="out of memory at step 1: a single image does not fit, so try a smaller student"
    ):
        learn(Hungry(most=0), tmp_path / "run")


def test_a_term_that_compares_samples_is_not_split(tmp_path: Path) -> None:
    class Spread(sr.Loss[sr.LossConfig]):
        per_sample = False

        def forward(self, inputs: sr.LossInputs) -> Tensor:
            return inputs.student.logits.var(0).mean()

    with pytest.raises(RunFailed, match="loss 'spread' compares the samples of a whole batch"):
        learn(Hungry(most=8), tmp_path / "run", sr.CrossEntropy(), Spread(name="spread"))


def test_what_a_loss_counts_is_put_back_too(tmp_path: Path) -> None:
    class Counts(sr.Loss[sr.LossConfig]):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.seen: Tensor
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, inputs: sr.LossInputs) -> Tensor:
            self.seen += len(inputs.labels)
            if len(inputs.labels) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return inputs.student.logits.square().mean()

    seen: list[float] = []

    class CountSteps(sr.StepHook):
        def __init__(self, counts: nn.Module) -> None:
            self.counts = counts

        def after_step(self, info: sr.StepInfo) -> None:
            seen.append(float(self.counts.seen))  # type: ignore[arg-type]

    class Kept(Counts):
        def __deepcopy__(self, memo: Any) -> Kept:
            return self

    counts = Kept(name="counts")
    learn(Hungry(most=100), tmp_path / "run", counts, hooks=[CountSteps(counts)])
    assert seen[0] == 16


def test_out_of_memory_elsewhere_ends_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(RunFailed, match=r"out of memory .*; try a smaller data\.batch_size"):
        learn(Hungry(most=100), tmp_path / "run")


def test_evaluation_goes_on_by_halves() -> None:
    class Small(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 3:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return x.flatten(1)

    images = torch.arange(20.0).reshape(10, 2, 1, 1)
    logits = predict(Small(), Preprocess(None), images, device=torch.device("cpu"))
    assert torch.equal(logits, images.flatten(1))


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(KeyError):
        in_parts(lambda rows: [{}[rows.start]], 4)


# Blocks of 64 MiB, taken and freed in turn: how many pages the system had to give for the last five. A freed block is
# a little too small for the next one, which is aligned, until some lie side by side.
_TURNS = """
import resource, sys, torch
from stillroom.train.device import reuse_memory
torch.set_num_threads(1)
if sys.argv[1] == "reuse":
    reuse_memory()
for _ in range(15):
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in their own way")
def test_freed_memory_is_used_again() -> None:
    def pages(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", _TURNS, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert pages("as it comes") > 10 * pages("reuse")
