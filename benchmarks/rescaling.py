"""What recording ω costs a run: steps with and without it, in turns within one process, and its figures once an epoch.

    python benchmarks/rescaling.py                      # ResNet-8, batch 64, cached answers, 60 pairs of 16 steps

Steps are of a run as `stillroom distill` makes it with `training.record_gradient_rescaling`; in every other block of
16 the recording looks away. What an epoch's end takes is timed by itself, and shared out among the steps whose
samples it is about.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from speed_job import BARE_CACHED, PAIRS, Job
from speed_worker import make_components, make_data, make_model, make_recipe

from stillroom.data.reading import num_cores
from stillroom.losses.base import LossInputs
from stillroom.models.weights import save_weights
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute
from stillroom.train.gradient_rescaling import RecordGradientRescaling
from stillroom.train.recorders import StepHook, StepInfo

BLOCK = 16
IMAGES = 4096


class Over(Exception):  # noqa: N818 - it is no error
    """Enough pairs are made."""


class Turns(StepHook):
    """Has the recording look away in every other block, and times both; with it first in one pair, last in the next."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs
        self.looking = True
        self.times: dict[bool, list[float]] = {True: [], False: []}
        self.ends: list[tuple[float, int]] = []
        self._since = 0.0
        self._paused = 0.0

    def after_step(self, info: StepInfo) -> None:
        """After each block the next begins."""
        if info.step % BLOCK:
            return
        now, block = time.perf_counter(), info.step // BLOCK
        # The first pair warms up.
        if block > 2:
            self.times[self.looking].append((now - self._since - self._paused) / BLOCK)
        if len(self.times[False]) == len(self.times[True]) == self.pairs:
            raise Over
        pair, place = divmod(block, 2)
        self.looking = (pair + place) % 2 == 0
        self._paused, self._since = 0.0, time.perf_counter()

    def end_of_epoch(self, record: RecordGradientRescaling, figures: Any) -> Any:
        """Time the figures of an epoch, apart from its steps."""
        began = time.perf_counter()
        line = figures(record)
        took = time.perf_counter() - began
        self._paused += took
        if line is not None:
            self.ends.append((took, line["count"]))
        return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help=f"pairs of {BLOCK} steps (60)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (64)")
    parser.add_argument("--threads", type=int, default=num_cores(), help=f"CPU threads (all cores: {num_cores()})")
    chosen = parser.parse_args()
    turns = Turns(chosen.pairs)
    see, figures = RecordGradientRescaling.see, RecordGradientRescaling.epoch_line

    def looks(record: RecordGradientRescaling, inputs: LossInputs) -> None:
        if turns.looking:
            see(record, inputs)

    with tempfile.TemporaryDirectory(prefix="stillroom-rescaling-") as name:
        folder = Path(name)
        os.environ["STILLROOM_CACHE"] = str(folder / "cache")
        torch.set_num_threads(chosen.threads)
        job = Job(
            do=BARE_CACHED,
            # Whose answers they are is of no account to the speed of a cached run.
            teacher="mlp",
            student="resnet8",
            classes=PAIRS["resnet56-resnet8"].classes,
            weights=str(folder / "teacher.safetensors"),
            given=None,
            data=None,
            images=IMAGES,
            batch=chosen.batch,
            views=2,
            threads=chosen.threads,
            device="cpu",
            folder=str(folder / "bare"),
        )
        save_weights(make_model("mlp", make_data(job), "teacher"), job.weights)
        plain = make_recipe(job, cache=True)
        content = plain.model_dump(mode="json")
        content["training"]["record_gradient_rescaling"] = True
        recipe = parse_recipe(content)
        with (
            patch.object(RecordGradientRescaling, "see", looks),
            patch.object(RecordGradientRescaling, "epoch_line", lambda record: turns.end_of_epoch(record, figures)),
            contextlib.suppress(Over),
        ):
            execute(recipe, folder / "run", components=make_components(job, recipe), hooks=[turns])
    tell(turns, chosen.batch)


def tell(turns: Turns, batch: int) -> None:
    """Print the medians, and what they come to."""
    without = statistics.median(turns.times[False])
    more = sorted(a - b for a, b in zip(turns.times[True], turns.times[False], strict=True))
    reach = 1.96 * len(more) ** 0.5 / 2
    low, high = (more[min(max(int(len(more) / 2 + sign * reach), 0), len(more) - 1)] for sign in (-1, 1))
    # An epoch's figures are of the samples that were looked at, half of those of a run as people make it.
    end = batch * statistics.median(took / count for took, count in turns.ends)
    print(f"a step without {1000 * without:.2f} ms; {len(more)} pairs of {BLOCK} steps of each")
    print(f"recording: {1e6 * statistics.median(more):+.0f} µs a step [{1e6 * low:+.0f}, {1e6 * high:+.0f}]")
    print(f"an epoch's figures: {1e6 * end:.0f} µs for each step of {batch} samples")
    share, least, most = (100 * (each + end) / without for each in (statistics.median(more), low, high))
    print(f"together {share:.2f}% of a step [{least:.2f}%, {most:.2f}%]")


if __name__ == "__main__":
    main()
