"""One method of ``sources.py``, in a process of its own; it speaks as ``speed_worker.py`` does."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from sources_job import KL, MEMBERS, STONES, SourceJob, Terms
from speed_worker import (
    TAU,
    Baton,
    BatonHook,
    Over,
    StopAtStart,
    augmentation,
    make_components,
    make_data,
    make_model,
    make_recipe,
    prepare,
    requests,
    settle_allocator,
)
from torch import Tensor, nn

from stillroom.data.config import AugmentationConfig
from stillroom.data.loader import BatchLoader
from stillroom.errors import BadInput
from stillroom.losses.feature_base import TapLoss
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.run.components import RunComponents
from stillroom.run.run import execute
from stillroom.teachers.fisher import FisherOf
from stillroom.teachers.live import LiveTeacher
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.tails import TeacherTail, cut_tails
from stillroom.train.device import (
    as_dtype,
    autocast,
    exact_float32,
    forget_peak_memory,
    native_precision,
    peak_memory,
    resolve_device,
)
from stillroom.train.recorders import StepHook, StepInfo

# Steps after which a run's memory is as it stays, and steps whose peak is then taken.
SETTLED, WEIGHED = 2, 10
LONG_ENOUGH = 0.02  # seconds a step, for what is timed alone


def run(job: SourceJob, folder: Path, losses: Terms, hook: StepHook) -> RunComponents:
    """A run of stillroom's own from the kept answers, until the hook ends it; what it was made of."""
    taught = losses[0]["name"] != "cross_entropy" or len(losses) > 1
    recipe = make_recipe(job, cache=taught, taught=taught, losses=losses)
    components = make_components(job, recipe)
    with suppress(Over):
        execute(recipe, folder, components=components, hooks=[hook])
    return components


def keep(job: SourceJob, baton: Baton) -> None:
    """Have the answers kept that the members read; say what they take, and where the stones' tails begin."""
    kept: dict[str, dict[str, float]] = {}
    stones: dict[str, list[str]] = {}
    wanted = {**MEMBERS, **STONES} if job.members else {KL: MEMBERS[KL], **STONES}
    for place, (name, losses) in enumerate(wanted.items()):
        folder = Path(job.folder, str(place))
        met = run(job, folder, losses, StopAtStart()).losses[0]
        if name in STONES:
            assert isinstance(met, TapLoss)
            stones[name] = [teacher.name for teacher, _ in met.pairs]
        log = folder / "timing.jsonl"  # a run from labels alone has none
        for event in map(json.loads, log.read_text().splitlines() if log.exists() else ()):
            if event["event"] == "cache":
                kept[name] = {key: event[key] for key in ("views", "images", "seconds", "bytes")}
    baton.tell(kept=kept, stones=stones)


class Scales(StepHook):
    """Weighs what a run's steps take, and then what the tensors of one step take, and ends the run."""

    def __init__(self, device: torch.device, baton: Baton, trace: Path) -> None:
        self._device, self._baton, self._trace = device, baton, trace
        self._profile: torch.profiler.profile | None = None
        self._peak = 0

    def after_step(self, info: StepInfo) -> None:
        """Between two steps."""
        if info.step == SETTLED:
            # The start has asked the teacher, and the first step looked for silent terms.
            forget_peak_memory(self._device)
        if info.step == SETTLED + WEIGHED:
            self._peak = peak_memory(self._device)
            if self._device.type != "cpu":
                self._end(None)
            cpu = torch.profiler.ProfilerActivity.CPU
            self._profile = torch.profiler.profile(activities=[cpu], profile_memory=True)
            self._profile.start()
        elif self._profile is not None:
            self._profile.stop()
            self._profile.export_chrome_trace(str(self._trace))
            said = [e["args"] for e in json.loads(self._trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
            self._end(max(args["Total Allocated"] for args in said))

    def _end(self, tensors: int | None) -> None:
        reported = {} if tensors is None else {"tensors_mb": tensors / 2**20}
        self._baton.tell(peak_mb=self._peak / 2**20, **reported)
        raise Over


@contextmanager
def overheard(found: dict[str, tuple[TeacherTail, Tensor]]) -> Iterator[None]:
    """Note the teacher's tails that are run in the block, by their taps, and the features that each was given last."""

    def note(module: nn.Module, given: Any, gave: Any) -> None:
        if isinstance(module, TeacherTail):
            found[module.tap] = module, given[0].detach()

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


class StopAfterFirst(StepHook):
    """Ends a run after its first step."""

    def after_step(self, info: StepInfo) -> None:
        """Leave."""
        raise Over


def tail_alone(job: SourceJob, baton: Baton) -> None:
    """A stone's tail, on the features that a run gave it: forward to the logits, and from their gradient back.

    So it is the run's own tail, and the features have its shape, its layout and its precision.
    """
    found: dict[str, tuple[TeacherTail, Tensor]] = {}
    with overheard(found):
        run(job, Path(job.folder), job.losses, StopAfterFirst())
    tail, features = found[job.tap]
    precision = native_precision(baton.device)

    def forward() -> tuple[Tensor, Tensor]:
        given = features.detach().requires_grad_()
        with autocast(baton.device, precision):
            return given, tail(given)

    with exact_float32():
        # As small as a mean over the batch makes it.
        gradient = torch.randn_like(forward()[1]) / job.batch

        def once() -> None:
            given, logits = forward()
            torch.autograd.grad(logits, given, gradient)

        again_and_again(once, baton)


def again_and_again(once: Callable[[], object], baton: Baton) -> None:
    """Steps of one pass, or of so many that a step takes about as long as a student's.

    What takes a fraction of a millisecond would else be timed while the process is still waking up.
    """
    took = []
    for _ in range(4):
        began = time.perf_counter()
        once()
        took.append(time.perf_counter() - began)
    baton.passes = max(1, round(LONG_ENOUGH / min(took)))
    baton.ready()
    while True:
        for _ in range(baton.passes):
            once()
        baton.stepped()


def answer(job: SourceJob, baton: Baton) -> None:
    """The live teacher's answers, as a cache that is being built asks for them; in closed form the weights alone."""
    data, device = make_data(job), baton.device
    teacher = make_model(job.teacher, data, "teacher", job.weights)
    pipe = Preprocess(resolve_preprocess("imagenet", channels=3, is_pixels=True))
    example = data.train.images[:4]
    tails = cut_tails(teacher, pipe, [job.tap], example=example, device=device)
    closed = tails[job.tap].head is not None
    of = [] if job.samples is None else [FisherOf(job.tap, TAU, job.samples)]
    with exact_float32():
        live = LiveTeacher(
            teacher,
            pipe,
            example=example,
            device=device,
            precision=as_dtype(native_precision(device)),
            taps=[job.tap],
            fishers=[] if closed else of,
            tails=tails,
        )
        batches = BatchLoader(data.train, AugmentationConfig.model_validate(augmentation(job)), device).batches(
            requests(job, data)
        )
        if closed:
            # They follow from the logits, which a cache holds.
            said = ModelOutput(live(next(batches)).logits, tails=tails)
            again_and_again(lambda: said.fisher(of[0]), baton)
        baton.ready()
        for batch in batches:
            live(batch)
            baton.stepped()


def work(job: SourceJob, baton: Baton) -> None:
    """Do what the job says."""
    folder = Path(job.folder)
    if job.task == "prepare":
        prepare(job, baton)
    elif job.task == "keep":
        keep(job, baton)
    elif job.task == "steps":
        run(job, folder, job.losses, BatonHook(baton))
    elif job.task == "weigh":
        run(job, folder, job.losses, Scales(baton.device, baton, folder.with_suffix(".trace")))
    elif job.task == "tail":
        tail_alone(job, baton)
    else:
        answer(job, baton)


def main() -> None:
    """Take the job, run until the driver has seen enough."""
    job = SourceJob.from_json(sys.argv[1])
    torch.set_num_threads(job.threads)
    settle_allocator()
    baton = Baton(torch.device("cpu"))
    try:
        baton.device = resolve_device(job.device)
        work(job, baton)
    except Over:
        pass
    except BadInput as error:
        baton.tell(error=str(error))


if __name__ == "__main__":
    main()
