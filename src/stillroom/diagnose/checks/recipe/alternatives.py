"""Other ways in which a teacher may have been meant to be asked: normalisation, channel order, size, statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stillroom.diagnose.checks.recipe.reading import Reading, ready
from stillroom.models.config import PreprocessConfig
from stillroom.models.cost import multiply_adds
from stillroom.models.modes import eval_mode
from stillroom.models.preprocess import resolve_preprocess

if TYPE_CHECKING:
    from stillroom.diagnose.checks.recipe.case import Case
    from stillroom.diagnose.checks.recipe.mending import State

# Sides that public models are trained at; and how many times as large as the images another may be.
SIZES = (32, 64, 224)
TIMES = (0.5, 2, 4)
# Multiply-adds that another size may cost in all: some seconds of two cores. A native size that is known gets more.
_COST, _NATIVE_COST = 1e11, 3e11
# Fewer images would prove nothing.
_LEAST = 32
# Images that batch statistics are taken over.
_STATISTICS = 256
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Candidate:
    """One change.

    Attributes:
        name: what messages call it.
        make: makes the reading.
        images: how many images it may be tried on.
        whole: the changed model, where it is the model that changes.
        why_not: why it is not tried, if so.
    """

    name: str
    make: Callable[[], Reading]
    images: int
    whole: nn.Module | None = None
    why_not: str | None = None


def explicit(config: PreprocessConfig | None, channels: int, *, is_pixels: bool) -> PreprocessConfig:
    """A preprocess by numbers, also where pixels go in as they are.

    >>> explicit(None, 1, is_pixels=False).std
    (1.0,)
    """
    if config is not None:
        return config
    # x/255 divided by 1/255 is x again.
    return PreprocessConfig(mean=(0.0,) * channels, std=((1 / 255) if is_pixels else 1.0,) * channels)


def named_normalisations(case: Case) -> dict[str, PreprocessConfig]:
    """The usual normalisations, and that of the data themselves, each by its name."""
    data = case.setting.data.train
    channels, is_pixels = data.channels, data.is_pixels
    names: list[Any] = [*(["imagenet"] if channels == 3 else []), *(["half", "unit"] if is_pixels else []), "none"]
    found = {
        str(name): explicit(
            resolve_preprocess(name, channels=channels, is_pixels=is_pixels), channels, is_pixels=is_pixels
        )
        for name in names
    }
    mean, std = _statistics(case.sample.images, is_pixels=is_pixels)
    found["the data's own"] = PreprocessConfig(mean=mean, std=std)
    return found


def normalisations(case: Case, state: State) -> Iterator[Candidate]:
    """The other normalisations; size and channel order stay."""
    data = case.setting.data.train
    if data.images.ndim != 4:
        return
    now = explicit(state.reading.preprocess, data.channels, is_pixels=data.is_pixels)
    if is_of_unit_scale(now):
        # Variances were written where deviations belong, or their roots were taken twice.
        for name, power in (("by the roots of its deviations", 0.5), ("by the squares of its deviations", 2.0)):
            std = tuple(float(f"{each**power:.4g}") for each in now.std)
            if not _near(std, now.std):
                yield Candidate(name, _asked(case, state, now.model_copy(update={"std": std})), len(case.sample))
    for name, config in named_normalisations(case).items():
        mean, std = (tuple(reversed(n)) if now.channel_order == "bgr" else n for n in (config.mean, config.std))
        if not (_near(mean, now.mean) and _near(std, now.std)):
            yield Candidate(
                name, _asked(case, state, now.model_copy(update={"mean": mean, "std": std})), len(case.sample)
            )


def is_of_unit_scale(config: PreprocessConfig) -> bool:
    """Whether its deviations are those of pixels/255, so that powers of them mean something."""
    return all(1e-3 < each < 1 for each in config.std)


def channel_orders(case: Case, state: State) -> Iterator[Candidate]:
    """The channels the other way round: the numbers of each colour with it, or where they are."""
    data = case.setting.data.train
    if data.channels != 3:
        return
    now = explicit(state.reading.preprocess, 3, is_pixels=data.is_pixels)
    other = "rgb" if now.channel_order == "bgr" else "bgr"
    turned = now.model_copy(update={"channel_order": other})
    with_numbers = turned.model_copy(update={"mean": now.mean[::-1], "std": now.std[::-1]})
    yield Candidate(other, _asked(case, state, with_numbers), len(case.sample))
    if with_numbers != turned:
        yield Candidate(f"{other}, mean and std as they are", _asked(case, state, turned), len(case.sample))


def sizes(case: Case, state: State) -> Iterator[Candidate]:
    """Other sides: as the images are, some times that, the usual ones, the model's own; if cheap enough."""
    data = case.setting.data.train
    side = data.image_size
    if side is None:
        return
    now = explicit(state.reading.preprocess, data.channels, is_pixels=data.is_pixels)
    native = native_size(state.whole)
    others = {int(side * times) for times in TIMES if side * times >= 4}
    sides = sorted({side, *others, *SIZES, *([native] if native else [])} - {now.size or side})
    for other in sides:
        config = now.model_copy(update={"size": None if other == side else other})
        make = _asked(case, state, config)
        if not _takes_images(state.whole):
            yield Candidate(f"{other} pixels", make, 0, why_not="the model's input has a fixed size")
            continue
        try:
            cost = multiply_adds(state.whole, case.pipe(config)(case.sample.images[:1]).to(case.setting.device))
        except Exception as error:  # in whatever words a model refuses another size
            yield Candidate(f"{other} pixels", make, 0, why_not=f"the model does not take it ({type(error).__name__})")
            continue
        images = int((_NATIVE_COST if other == native else _COST) / max(cost, 1))
        dear = "too dear to be tried here" if images < _LEAST else None
        yield Candidate(f"{other} pixels", make, images, why_not=dear)


def batch_statistics(case: Case, state: State) -> Iterator[Candidate]:
    """The same model with running statistics taken anew, from images as it gets them."""
    if not has_running_statistics(state.whole):
        return
    device = case.setting.device
    fresh = copy.deepcopy(state.whole)
    pipe = case.pipe(state.reading.preprocess).to(device)
    recalibrate(fresh, pipe(case.sample.images[:_STATISTICS].to(device)))

    def make() -> Reading:
        model = ready(fresh, case.pipe(state.reading.preprocess), case.sample.images[:8], device)
        return Reading(model, state.reading.preprocess, case.ask, case.sample.images)

    yield Candidate("batch statistics", make, len(case.sample), fresh)


def has_running_statistics(model: nn.Module) -> bool:
    """Whether a model normalises by statistics that it remembers.

    >>> has_running_statistics(nn.BatchNorm2d(3)), has_running_statistics(nn.LayerNorm(3))
    (True, False)
    """
    return any(isinstance(m, _NORMS) and m.running_mean is not None for m in model.modules())


@torch.no_grad()
def recalibrate(model: nn.Module, inputs: Tensor) -> None:
    """Take a model's running statistics anew, from one batch of its input; nothing else of it changes.

    >>> norm = nn.BatchNorm1d(1)
    >>> recalibrate(norm, torch.tensor([[1.0], [3.0]]))
    >>> norm.running_mean.item(), norm.running_var.item()
    (2.0, 2.0)
    """
    with eval_mode(model):
        norms = [m for m in model.modules() if isinstance(m, _NORMS) and m.running_mean is not None]
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            # Of one batch, that batch's statistics.
            norm.momentum = 1.0
            norm.train()
        try:
            model(inputs)
        finally:
            for norm, momentum in zip(norms, before, strict=True):
                norm.momentum = momentum


def native_size(model: nn.Module) -> int | None:
    """The side that a model says it was made for, as timm's do."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        given = config.get("input_size") if isinstance(config, Mapping) else None
        if isinstance(given, tuple | list) and len(given) == 3:
            return int(given[-1])
    return None


def _asked(case: Case, state: State, config: PreprocessConfig) -> Callable[[], Reading]:
    return lambda: Reading(state.reading.model, config, case.ask, case.sample.images)


def _takes_images(model: nn.Module) -> bool:
    """Whether its first layer is a convolution, so that other sizes may mean something to it."""
    layers = (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return isinstance(next(layers, None), nn.Conv2d)


def _statistics(images: Tensor, *, is_pixels: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in the units of a preprocess, to four digits."""
    x = images.double() / (255 if is_pixels else 1)
    over = [axis for axis in range(x.dim()) if axis != 1]
    mean, std = x.mean(over), x.std(over).clamp_min(1e-3)
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def _near(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= 0.01 * max(abs(a), abs(b), 0.01) for a, b in zip(one, other, strict=True))
