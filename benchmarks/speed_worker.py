"""One method of ``speed.py``, in a process of its own so that its memory is its own.

It takes one argument, a job in JSON; answers one JSON object a line on what was its standard output; and waits on its
standard input for the baton: a number of steps to make at once. When that closes, it ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from speed_job import (
    ABLATION,
    ALONE,
    BARE_ALONE,
    BARE_CACHED,
    BARE_LIVE,
    CACHED,
    COMPILED,
    FRAMEWORK,
    GRAPHED,
    LIVE,
    PLAIN,
    Job,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stillroom.data.augmentation import augment
from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import BatchSampler
from stillroom.data.sources import load, parse_data_argument
from stillroom.errors import BadInput
from stillroom.losses.registry import build_losses
from stillroom.models.config import ModelConfig
from stillroom.models.fold import fold_batchnorm
from stillroom.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, resolve_preprocess
from stillroom.models.weights import load_weights, save_weights
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.components import RunComponents, build_model
from stillroom.run.records import environment
from stillroom.run.run import execute
from stillroom.run.run import prepare as prepare_run
from stillroom.train.config import TrainingConfig
from stillroom.train.device import autocast, has_native_bfloat16, native_precision, resolve_device
from stillroom.train.recorders import StepHook, StepInfo

TAU = 4.0
# Ours starts its one-cycle at 1/25 of .1 and stays there, for so long a run: all use this from the start.
LR = 0.004
NEVER = 10**7  # steps, epochs and seconds that no benchmark reaches
TEST_IMAGES = 256


class Over(Exception):  # noqa: N818 - nothing is wrong: the driver has seen enough
    """The baton will not come again."""


class Baton:
    """Says how long the steps took that the driver asked for, and waits for it to ask again.

    Attributes:
        device: where the steps are made.
        passes: how often each step is made; its time is one pass's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.passes = 1
        # What libraries print must not get between the answers.
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._left = self._asked = self._faults = 0
        self._began = self._waited = self._spun = 0.0

    def tell(self, **answer: Any) -> None:
        """One line to the driver."""
        self._answers.write(json.dumps(answer) + "\n")

    def ready(self) -> None:
        """Everything is in place; wait for the first steps to be asked for."""
        self.tell(machine=machine(self.device))
        self._wait()

    def stepped(self) -> None:
        """One more step is made; when it was the last of those asked for, answer and wait."""
        self._left -= 1
        if self._left:
            return
        self._synchronise()
        seconds = (time.perf_counter() - self._began) / self.passes
        faults = (page_faults() - self._faults) / self._asked
        # Of one core: a worker that spins while it waits would take its rivals' time.
        idle = self._spun / max(self._waited, 1e-9)
        self.tell(seconds=seconds, idle=idle, faults=faults, **memory(self.device))
        self._wait()

    def _wait(self) -> None:
        before, since = time.process_time(), time.perf_counter()
        line = sys.stdin.readline()
        if not line:
            raise Over
        self._spun += time.process_time() - before
        self._waited += time.perf_counter() - since
        self._left = self._asked = int(line)
        self._faults = page_faults()
        self._synchronise()
        self._began = time.perf_counter()

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def page_faults() -> int:
    """How often this process was given memory anew, in pages."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def settle_allocator() -> None:
    """Bring the C library's allocator to where any training has it from its first evaluation on.

    glibc keeps freed memory up to a limit that grows with the largest block it has seen freed. Before it has seen a
    large one, each step gives its activations back to the system and is given them anew, thousands of pages, which
    takes a tenth of its time and more; whether that is so would depend on what a method happened to do first.
    """
    block = torch.empty(31 * 2**20, dtype=torch.uint8)  # just within what the limit follows; never written to
    del block


def memory(device: torch.device) -> dict[str, float]:
    """Peak of the process, what it holds now, peak on the GPU: MiB."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    found = {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale}
    pages = Path("/proc/self/statm")
    if pages.exists():
        found["held_mb"] = int(pages.read_text().split()[1]) * resource.getpagesize() / 2**20
    if device.type == "cuda":
        found["gpu_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures hold for."""
    native = has_native_bfloat16(device)
    precision = native_precision(device)
    found = environment(device).model_dump(mode="json")
    return {**found, "threads": torch.get_num_threads(), "native_bf16": native, "precision": precision}


class BatonHook(StepHook):
    """Hands the baton to a run of stillroom's own loop."""

    def __init__(self, baton: Baton) -> None:
        self.baton = baton

    def start(self, student: nn.Module) -> None:
        """All is built, and the first step comes next."""
        self.baton.ready()

    def after_step(self, info: StepInfo) -> None:
        """Count it."""
        self.baton.stepped()


class StopAtStart(StepHook):
    """Ends a run just before its first step."""

    def start(self, student: nn.Module) -> None:
        """Leave."""
        raise Over


# What all methods have alike.


def make_data(job: Job) -> DataPair:
    """The user's images, or random ones; uint8 and in memory."""
    if job.data is not None:
        limits = {"train_limit": job.images, "test_limit": TEST_IMAGES, "in_memory": True}
        pair = load(parse_data_argument(job.data).model_copy(update=limits))
        if pair.train.channels != 3:
            raise BadInput("--data", job.data, f"images of 3 channels, not {pair.train.channels}")
        return pair
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> ImageSet:
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        names = tuple(map(str, range(job.classes)))
        return ImageSet(images, torch.arange(count) % job.classes, names, "random images")

    return DataPair(split(job.images), split(TEST_IMAGES))


def make_model(name: str, data: DataPair, field: str, weights: str | None = None) -> nn.Module:
    """A model of the zoo, with weights from a file or drawn from a fixed seed."""
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name, weights=weights), data.train, field)


def make_recipe(
    job: Job,
    *,
    cache: bool = False,
    compiled: bool = False,
    taught: bool = True,
    losses: Sequence[Mapping[str, Any]] | None = None,
) -> Recipe:
    """The recipe of one of our variants; its terms are the labels' and ``kl``'s where no others are given."""
    training: dict[str, Any] = {
        "steps": NEVER,
        "evaluate_every": NEVER,
        "save_seconds": NEVER,
        "threads": job.threads,
        "device": job.device,
    }
    if compiled:
        training["compile"] = True
    if losses is None:
        kl = [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": TAU}]
        losses = kl if taught else [{"name": "cross_entropy"}]
    return parse_recipe(
        {
            "data": {"source": "python", "batch_size": job.batch, "augmentation": augmentation(job)},
            "teacher": {"name": job.teacher, "weights": job.weights} if taught else None,
            "student": {"name": job.student},
            "losses": losses,
            "training": training,
            "cache": {"enabled": cache, "max_gb": 1000},
        }
    )


def make_components(job: Job, recipe: Recipe) -> RunComponents:
    """What the recipe names, as objects."""
    data = make_data(job)
    teacher = make_model(job.teacher, data, "teacher", job.weights) if recipe.teacher is not None else None
    student = make_model(job.student, data, "student")
    return RunComponents(data, student, build_losses(recipe.losses), {"teacher": teacher})


def augmentation(job: Job) -> dict[str, Any]:
    """What is done to the images, by all alike."""
    return {"pad_crop": 4, "flip": True, "views": job.views}


def on_device(data: DataPair, device: torch.device) -> tuple[Tensor, Tensor]:
    """The training images and their labels, where the steps are made."""
    assert isinstance(data.train.images, Tensor)
    return data.train.images.to(device), data.train.labels.to(device)


def sgd(student: nn.Module, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum; None leaves it to torch how."""
    return torch.optim.SGD(student.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=fused)


def requests(job: Job, data: DataPair) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Samples and view of one step after another, for ever."""
    batches = BatchSampler(len(data.train), job.batch, seed=0)
    epoch = 0
    while True:
        for step in range(batches.steps_per_epoch):
            yield batches.indices(epoch, step), epoch % job.views
        epoch += 1


# The methods.


def ours(job: Job, baton: Baton, **how: bool) -> None:
    """A run of stillroom's own, through its recipe."""
    recipe = make_recipe(job, **how)
    execute(recipe, Path(job.folder), components=make_components(job, recipe), hooks=[BatonHook(baton)])


def plain(job: Job, baton: Baton) -> None:
    """The loop everybody writes; that it does not read its loss back each step makes it a fast one of its kind."""
    data, device = make_data(job), baton.device
    images, labels = on_device(data, device)
    augmentation = make_recipe(job).data.augmentation
    step = PlainStep(job, data, device)

    baton.ready()
    for rows, view in requests(job, data):
        x = augment(images, rows, augmentation, view).float() / 255
        step(x, labels[torch.from_numpy(rows).to(device)])
        baton.stepped()


class PlainStep:
    """A distillation step as one writes it."""

    def __init__(self, job: Job, data: DataPair, device: torch.device) -> None:
        self.teacher = make_model(job.teacher, data, "teacher", job.weights).to(device).eval()
        self.student = make_model(job.student, data, "student").to(device).train()
        self.mean = torch.tensor(IMAGENET_MEAN, device=device).view(-1, 1, 1)
        self.std = torch.tensor(IMAGENET_STD, device=device).view(-1, 1, 1)
        self.optimizer = sgd(self.student)

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits of images from 0 to 1."""
        x = (x - self.mean) / self.std
        with torch.no_grad():
            answer = self.teacher(x)
        logits = self.student(x)
        hard = F.cross_entropy(logits, y)
        soft = F.kl_div(F.log_softmax(logits / TAU, 1), F.softmax(answer / TAU, 1), reduction="batchmean") * TAU**2
        loss = 0.1 * hard + 0.9 * soft
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss, logits


class CroppedImages(Dataset[tuple[Tensor, int]]):
    """Images one by one, each cropped and mirrored at random, as torchvision's transforms do."""

    def __init__(self, data: DataPair) -> None:
        assert isinstance(data.train.images, Tensor)
        self.images, self.labels = data.train.images, data.train.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = F.pad(self.images[index], (4, 4, 4, 4))
        top, left, mirrored = (int(torch.randint(high, ())) for high in (9, 9, 2))
        image = image[:, top : top + 32, left : left + 32]
        return (image.flip(-1) if mirrored else image).float() / 255, self.labels[index]


def framework(job: Job, baton: Baton) -> None:
    """The plain step behind a DataLoader, with meters that read each step's loss, top-1 and top-5 back."""
    data, device = make_data(job), baton.device
    pinned = device.type == "cuda"
    loader = DataLoader(CroppedImages(data), job.batch, shuffle=True, drop_last=True, num_workers=2, pin_memory=pinned)
    step = PlainStep(job, data, device)
    sums = np.zeros(3)

    baton.ready()
    while True:
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            loss, logits = step(x, y)
            right = logits.topk(5).indices == y[:, None]
            sums += [loss.item(), right[:, 0].float().mean().item(), right.any(1).float().mean().item()]
            baton.stepped()


@dataclass(frozen=True)
class Pieces:
    """Which pieces of the hot path a step by hand has."""

    teacher: Literal["none", "live", "kept"]
    low_precision: bool = True
    channels_last: bool = True
    folded: bool = True
    fused: bool = True
    graphed: bool = False


BY_HAND = {
    BARE_CACHED: Pieces("kept"),
    GRAPHED: Pieces("kept", graphed=True),
    BARE_ALONE: Pieces("none"),
    BARE_LIVE: Pieces("live"),
    f"{BARE_LIVE}, float32": Pieces("live", low_precision=False),
    f"{BARE_LIVE}, contiguous": Pieces("live", channels_last=False),
    f"{BARE_LIVE}, unfolded": Pieces("live", folded=False),
    f"{BARE_LIVE}, SGD not fused": Pieces("live", fused=False),
}
assert ABLATION.keys() <= BY_HAND.keys()


class Teaching:
    """Where a step by hand gets the teacher's answer from."""

    def __init__(self, job: Job, pieces: Pieces, data: DataPair, device: torch.device, pipe: Preprocess) -> None:
        self.pieces = pieces
        if pieces.teacher == "kept":
            # Their values are of no account to speed; their place and size are those of a cache.
            size = (job.views, len(data.train), data.train.num_classes)
            generator = torch.Generator().manual_seed(1)
            self.kept = torch.randn(size, generator=generator).half().to(device)
        if pieces.teacher == "live":
            model = make_model(job.teacher, data, "teacher", job.weights).to(device).eval()
            if pieces.folded:
                model, _ = fold_batchnorm(model, pipe(data.train.images[:8].to(device)))
            self.model = laid_out(model.requires_grad_(False), pieces)

    def __call__(self, x: Tensor, index: Tensor, view: int) -> Tensor | None:
        if self.pieces.teacher == "kept":
            return self.kept[view].index_select(0, index).float()
        if self.pieces.teacher == "live":
            with torch.no_grad():
                answer: Tensor = self.model(x)
            return answer.float()
        return None


def laid_out(model: nn.Module, pieces: Pieces) -> nn.Module:
    """The model in the layout asked for."""
    return model.to(memory_format=torch.channels_last) if pieces.channels_last else model  # type: ignore[call-overload]


def by_hand(job: Job, baton: Baton, pieces: Pieces) -> None:
    """Steps by hand, counted by the baton."""
    steps = steps_by_hand(job, baton.device, pieces)
    next(steps)
    baton.ready()
    for _ in steps:
        baton.stepped()


def steps_by_hand(job: Job, device: torch.device, pieces: Pieces) -> Iterator[None]:
    """What a step must do, written down once, with no loop, meter, hook or log around it; yields when all is ready."""
    data = make_data(job)
    numbers = resolve_preprocess("imagenet", channels=3, is_pixels=True)
    pipe = Preprocess(numbers).to(device)
    teaching = Teaching(job, pieces, data, device, pipe)
    student = laid_out(make_model(job.student, data, "student").to(device).train(), pieces)
    images, labels = on_device(data, device)
    optimizer = sgd(student, fused=True if pieces.fused else None)
    forward = torch.compile(student, mode="reduce-overhead", dynamic=False) if pieces.graphed else student
    augmentation = make_recipe(job).data.augmentation

    def precision() -> AbstractContextManager[object]:
        return autocast(device, native_precision(device) if pieces.low_precision else "float32")

    yield
    for rows, view in requests(job, data):
        index = torch.from_numpy(rows).to(device, non_blocking=True)
        x = pipe(augment(images, rows, augmentation, view))
        if not pieces.channels_last:
            x = x.contiguous()
        with precision():
            answer = teaching(x, index, view)
            logits = forward(x).float()
        loss = F.cross_entropy(logits, labels[index])
        if answer is not None:
            log_p, log_q = F.log_softmax(answer / TAU, 1), F.log_softmax(logits / TAU, 1)
            loss = 0.1 * loss + 0.9 * TAU**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


# What is not a contest.


def prepare(job: Job, baton: Baton) -> None:
    """Write the teacher's weights: the user's own, or random ones whose batch norms have seen the data.

    Without that, the activations of a deep net of random weights grow beyond what float16 holds.
    """
    data = make_data(job)
    teacher = make_model(job.teacher, data, "teacher").to(baton.device)
    if job.given is not None:
        load_weights(teacher, job.given, field="teacher")
    else:
        for module in teacher.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain mean over the batches seen
        pipe = Preprocess(resolve_preprocess("imagenet", channels=3, is_pixels=True)).to(baton.device)
        with torch.no_grad():
            for part in torch.split(on_device(data, baton.device)[0][:512], 128):
                teacher.train()(pipe(part))
    save_weights(teacher, job.weights)
    baton.tell(machine=machine(baton.device), images=len(data.train), classes=data.train.num_classes)


def build(job: Job, baton: Baton) -> None:
    """Fill a cache, and say what that took; nothing where none was filled."""
    # The first run goes without, so that what any first run must load or choose does not fall on the building.
    recipe = make_recipe(job)
    with suppress(Over):
        execute(recipe, Path(job.folder, "uncached"), components=make_components(job, recipe), hooks=[StopAtStart()])
    recipe = make_recipe(job, cache=True)
    made = prepare_run(recipe, components=make_components(job, recipe))
    size = sum(file.stat().st_size for file in Path(os.environ["STILLROOM_CACHE"]).rglob("*") if file.is_file())
    baton.tell(**({"images": made.answers, "seconds": made.seconds, "bytes": size} if made.answers else {}))


def missing(job: Job, device: torch.device) -> str | None:
    """Why this variant cannot run here, if it cannot."""
    if job.do == GRAPHED and device.type != "cuda":
        return "CUDA graphs need a GPU"
    if job.do not in (COMPILED, GRAPHED):
        return None
    if "compile" not in TrainingConfig.model_fields:
        return "this version of stillroom has no `training.compile`"
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "torch.compile needs triton on a GPU"
    compilers = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return None if any(map(shutil.which, filter(None, compilers))) else "torch.compile needs a C++ compiler on a CPU"


def work(job: Job, baton: Baton) -> None:
    """Do what the job says."""
    if reason := missing(job, baton.device):
        baton.tell(skip=reason)
    elif job.do == "prepare":
        prepare(job, baton)
    elif job.do == "build":
        build(job, baton)
    elif job.do == PLAIN:
        plain(job, baton)
    elif job.do == FRAMEWORK:
        framework(job, baton)
    elif job.do == LIVE:
        ours(job, baton)
    elif job.do == CACHED:
        ours(job, baton, cache=True)
    elif job.do == COMPILED:
        ours(job, baton, cache=True, compiled=True)
    elif job.do == ALONE:
        ours(job, baton, taught=False)
    else:
        by_hand(job, baton, BY_HAND[job.do])


def main() -> None:
    """Take the job, run until the driver has seen enough."""
    job = Job.from_json(sys.argv[1])
    torch.set_num_threads(job.threads)
    settle_allocator()
    baton = Baton(torch.device("cpu"))
    try:
        baton.device = resolve_device(job.device)
        work(job, baton)
    except Over:
        pass
    except BadInput as error:
        # That a student cannot be compiled here is a result of its own; the others go on.
        baton.tell(**{"skip" if job.do == COMPILED else "error": str(error)})


if __name__ == "__main__":
    main()
