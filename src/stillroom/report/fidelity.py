"""``fidelity.json``, read and checked: how well each member of the KL family, at each depth, tells a divergence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stillroom.errors import BadInput
from stillroom.report.fields import Fields

FIDELITY = "fidelity.json"
# From the gap as it is to the divergence itself.
WEIGHINGS = ("identity", "diagonal", "full", "exact")


@dataclass(frozen=True)
class Told:
    """A correlation with its 95% interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Prediction:
    """How a member tells a divergence: over all checkpoints, within one on average, at the last; its size beside it."""

    pooled: Told
    within: Told
    last: float | None
    ratio: float | None


@dataclass(frozen=True)
class MemberFacts:
    """One way to weigh the gap: how exactly, the loss that does so, what it tells of the two divergences."""

    weighing: str
    loss: str
    gap: Prediction
    student: Prediction


@dataclass(frozen=True)
class TapFacts:
    """Two taps opposite each other, with the divergence of the gap at each checkpoint."""

    teacher: str
    student: str
    depth: float
    drawn_classes: int
    explained: tuple[float, ...]
    divergence: tuple[float, ...]
    members: tuple[MemberFacts, ...]


@dataclass(frozen=True)
class Fidelity:
    """What ``fidelity.json`` holds."""

    temperature: float
    images: int
    fitted_on: int
    epochs: tuple[float, ...]
    divergence: tuple[float, ...]
    taps: tuple[TapFacts, ...]


def read_fidelity(path: Path, content: dict[str, object], *, recipe_hash: str) -> Fidelity:
    """Check what a run's ``fidelity.json`` holds.

    Args:
        path: the file, for messages.
        content: its object.
        recipe_hash: the run's, by its summary.

    Raises:
        BadInput: it is damaged, or another run's.
    """
    fields = Fields(path, content)
    fields.one_of("schema", (1,))
    if fields.maybe_text("recipe_hash") != (recipe_hash or None):
        expected = "that of summary.json beside it: it was made of another run; `stillroom fidelity` makes it again"
        raise BadInput(f"{path}: recipe_hash", content.get("recipe_hash"), expected)
    checkpoints = fields.listed("checkpoints")
    taps = fields.listed("taps")
    if not checkpoints or not taps:
        raise BadInput(str(path), f"{len(checkpoints)} checkpoints, {len(taps)} taps", "one or more of each")
    return Fidelity(
        temperature=fields.number("temperature", low=0),
        images=fields.whole("images", low=1),
        fitted_on=fields.whole("fitted_on"),
        epochs=tuple(each.number("epoch", low=0) for each in checkpoints),
        divergence=tuple(each.number("divergence") for each in checkpoints),
        taps=tuple(_tap(each, len(checkpoints)) for each in taps),
    )


def _tap(fields: Fields, checkpoints: int) -> TapFacts:
    members = fields.listed("members")
    if [each.content.get("weighing") for each in members] != list(WEIGHINGS):
        got = [each.content.get("weighing") for each in members]
        raise BadInput(f"{fields.path}: {fields.prefix}members", got, f"one of each weighing: {', '.join(WEIGHINGS)}")
    divergence, explained = fields.numbers("divergence"), fields.numbers("explained")
    for key, numbers, allowed in (
        ("divergence", divergence, {checkpoints}),
        ("explained", explained, {0, checkpoints}),
    ):
        if len(numbers) not in allowed:
            expected = f"one for each of the {checkpoints} checkpoints"
            raise BadInput(f"{fields.path}: {fields.prefix}{key}", f"{len(numbers)} numbers", expected)
    return TapFacts(
        teacher=fields.text("teacher"),
        student=fields.text("student"),
        depth=fields.number("depth", low=0, high=1),
        drawn_classes=fields.whole("drawn_classes"),
        explained=explained,
        divergence=divergence,
        members=tuple(
            MemberFacts(
                weighing=weighing,
                loss=each.text("loss"),
                gap=_prediction(each.inside("gap"), checkpoints),
                student=_prediction(each.inside("student"), checkpoints),
            )
            for weighing, each in zip(WEIGHINGS, members, strict=True)
        ),
    )


def _prediction(fields: Fields, checkpoints: int) -> Prediction:
    pooled, within = (fields.inside(key) for key in ("pooled", "within"))
    each = fields.content.get("by_checkpoint")
    if not isinstance(each, list) or len(each) != checkpoints:
        expected = f"a list of {checkpoints}, one for each checkpoint"
        raise BadInput(f"{fields.path}: {fields.prefix}by_checkpoint", each, expected)
    last = Fields(fields.path, {"last": each[-1]}, f"{fields.prefix}by_checkpoint.").maybe_number("last", -1, 1)
    return Prediction(_told(pooled), _told(within), last, fields.maybe_number("ratio", low=0))


def _told(fields: Fields) -> Told:
    value, low, high = (fields.maybe_number(key, low=-1, high=1) for key in ("value", "low", "high"))
    return Told(value, low, high)
