"""What the loop costs around a step: stillroom's cached run and the bare step, in turns within one process.

    python benchmarks/overhead.py                       # ResNet-8, batch 64, all cores, 60 rounds of 20 steps

`make bench` compares processes, and where a process's memory happens to lie moves its speed by some per cent, for as
long as it lives. Here both are in one process: after every 20 steps of the run, a hook makes 20 bare steps.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from speed_job import BARE_CACHED, PAIRS, Job
from speed_worker import BY_HAND, make_components, make_data, make_model, make_recipe, steps_by_hand

from stillroom.data.reading import num_cores
from stillroom.models.weights import save_weights
from stillroom.run.run import execute
from stillroom.train.recorders import StepHook, StepInfo

STEPS = 20


class Over(Exception):  # noqa: N818 - it is no error
    """Enough rounds are made."""


class Duel(StepHook):
    """Times both, in turns."""

    def __init__(self, job: Job, rounds: int) -> None:
        self.bare_steps = steps_by_hand(job, torch.device("cpu"), BY_HAND[BARE_CACHED])
        for _ in range(1 + STEPS):
            next(self.bare_steps)
        self.rounds = rounds
        self.ours: list[float] = []
        self.bare: list[float] = []
        self._since = 0.0

    def after_step(self, info: StepInfo) -> None:
        """After each 20th step, so that the log line it brings falls into the next 20."""
        if info.step % STEPS:
            return
        now = time.perf_counter()
        # The first round of each warms up.
        if info.step > STEPS:
            self.ours.append(now - self._since)
        began = time.perf_counter()
        for _ in range(STEPS):
            next(self.bare_steps)
        if info.step > STEPS:
            self.bare.append(time.perf_counter() - began)
        if len(self.ours) == self.rounds:
            raise Over
        self._since = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="rounds of 20 steps of each (60)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (64)")
    parser.add_argument("--threads", type=int, default=num_cores(), help=f"CPU threads (all cores: {num_cores()})")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillroom-overhead-") as name:
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
            images=2000,
            batch=chosen.batch,
            views=4,
            threads=chosen.threads,
            device="cpu",
            folder=str(folder / "bare"),
        )
        save_weights(make_model("mlp", make_data(job), "teacher"), job.weights)
        recipe = make_recipe(job, cache=True)
        duel = Duel(job, chosen.rounds)
        with contextlib.suppress(Over):
            execute(recipe, folder / "run", components=make_components(job, recipe), hooks=[duel])
    ratios = sorted(1 - bare / ours for bare, ours in zip(duel.bare, duel.ours, strict=True))
    reach = 1.96 * len(ratios) ** 0.5 / 2
    low, high = (ratios[min(max(int(len(ratios) / 2 + sign * reach), 0), len(ratios) - 1)] for sign in (-1, 1))
    ours, bare = (1000 * statistics.median(times) / STEPS for times in (duel.ours, duel.bare))
    print(f"the run {ours:.2f} ms a step, the bare step {bare:.2f} ms; {len(ratios)} rounds of {STEPS} steps of each")
    middle = 100 * statistics.median(ratios)
    print(f"overhead {middle:.1f}%, the median's 95% interval [{100 * low:.1f}%, {100 * high:.1f}%]")


if __name__ == "__main__":
    main()
