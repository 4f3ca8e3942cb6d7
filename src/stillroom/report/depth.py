"""The depth × fidelity map: how well the gap at each tap, weighed ever more exactly, predicts a divergence."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from stillroom.report.blocks import Values
from stillroom.report.formats import DASH, MINUS, decimal, three_digits, whole
from stillroom.schema.fidelity import Fidelity, FidelityMember, FidelityTap, MemberPrediction, RankCorrelation
from stillroom.wording import listed

LOGITS = "logits"
# Beyond so many taps the two maps stand one below the other.
SIDE_BY_SIDE = 6
_NAMES = {
    "identity": ("Identity", "as it is"),
    "diagonal": ("Diagonal", "Fisher, each alone"),
    "full": ("Full", "Fisher, all together"),
    "exact": ("Exact", "KL through the tail"),
}
# Below this a rank correlation is next to nothing, and above it orders images much as the divergence does.
_FAINT, _CLOSE = 0.3, 0.9
_DEEPEST_SHADE = 52


def depth_map(fidelity: Fidelity) -> Values:
    """Lay out the map."""
    several = len(fidelity.epochs) > 1
    return Values(
        sentences=_sentences(fidelity),
        heads=tuple(_head(tap) for tap in fidelity.taps),
        maps=(
            _heat("gap", "The gap’s own divergence", _GAP, fidelity.taps, several),
            _heat("student", "The student’s divergence", _STUDENT, fidelity.taps, several),
        ),
        side_by_side=len(fidelity.taps) <= SIDE_BY_SIDE,
        has_small=several,
        legend=tuple((_two(value), *_shade(value)) for value in (-0.5, 0.0, 0.5, 0.8, 0.9, 1.0)),
        notes=_notes(fidelity),
        epochs=tuple(f"{epoch:g}" for epoch in fidelity.epochs),
        numbers=tuple(_number(tap, member) for tap in fidelity.taps for member in tap.members),
        gaps=tuple(_gap(tap) for tap in fidelity.taps),
    )


_GAP = (
    "Compared with the divergence that this gap alone causes: the student’s features replace the teacher’s and are "
    "propagated to the logits. The exact member is that divergence, so it is 1 at every tap, by construction."
)
_STUDENT = (
    "Compared with the student’s actual divergence. No weighting recovers what a tap does not contain; at the "
    "logits the exact member is the divergence itself."
)


def _heat(key: str, title: str, caption: str, taps: Sequence[FidelityTap], several: bool) -> Values:
    lines = []
    for place, (name, what) in enumerate(_NAMES.values()):
        members = [tap.members[place] for tap in taps]
        squares = [_square(tap, m, attrgetter(key)(m), several) for tap, m in zip(taps, members, strict=True)]
        lines.append((name, what, tuple(squares)))
    return Values(key=key, title=title, caption=caption, lines=tuple(lines))


def _square(tap: FidelityTap, member: FidelityMember, found: MemberPrediction, several: bool) -> Values:
    value = found.pooled.value
    parts = [f"{member.loss} at {tap.teacher}: {_two(value)}{_interval(found.pooled, ', 95% ')}"]
    if several:
        parts.append(f"within a checkpoint {_two(found.within.value)}{_interval(found.within, ', 95% ')}")
    if found.ratio is not None:
        parts.append(f"usually {_factor(found.ratio)} of the divergence")
    shade, is_reversed = _shade(value)
    small = _two(found.within.value) if several else ""
    return Values(text=_two(value), small=small, label="; ".join(parts), shade=shade, is_reversed=is_reversed)


def _shade(value: float | None) -> tuple[int, bool]:
    """How deep a cell's colour is, in per cent, and whether it is that of the wrong way round."""
    if value is None:
        return 0, False
    # By the share of the ranks' variance that is explained, so that .9 and 1 look different.
    return round(_DEEPEST_SHADE * value * value), value < 0


def _head(tap: FidelityTap) -> tuple[str, str, str]:
    opposite = tap.teacher if tap.teacher == tap.student else f"teacher’s {tap.teacher}, student’s {tap.student}"
    return (tap.teacher, opposite, f"{decimal(100 * tap.depth, 0)}%")


def _number(tap: FidelityTap, member: FidelityMember) -> tuple[str, str, list[tuple[str, str]], bool]:
    cells = []
    for found in (member.gap, member.student):
        cells += [(_two(each.value), _interval(each)) for each in (found.pooled, found.within)]
        cells.append((_factor(found.ratio), ""))
    return tap.teacher, member.loss, cells, member is tap.members[0]


def _gap(tap: FidelityTap) -> tuple[str, list[tuple[str, str]]]:
    explained = [f"{decimal(100 * share, 0)}% explained" for share in tap.explained] or [""] * len(tap.divergence)
    return tap.teacher, list(zip(map(_amount, tap.divergence), explained, strict=True))


_LEAD = (
    "The gap between student and teacher can be measured at any depth and weighted more or less exactly. A cell shows "
    "how well one weighting orders test $images by their true divergence, τ²·KL: 1 is the same order, 0 no correlation."
)


def _sentences(fidelity: Fidelity) -> list[str]:
    before = [tap for tap in fidelity.taps if tap.teacher != LOGITS]
    if not before:
        return ["These two models have no taps in common but the logits, so depths cannot be compared."]
    return [_LEAD, *_of_gap(before, several=len(fidelity.epochs) > 1), *_of_student(before)]


def _of_gap(taps: Sequence[FidelityTap], *, several: bool) -> list[str]:
    """What weighing more exactly is worth, and where a second order is not enough."""
    last = taps[-1]
    identity, diagonal, full, _ = (member.gap.pooled.value for member in last.members)
    ends = ", ".join(_two(member.gap.by_checkpoint[-1]) for member in last.members[:3])
    sentences = [
        f"For the gap’s own divergence at {last.teacher}, the deepest tap before the logits, the plain distance "
        f"reaches {_two(identity)}, weighed by the Fisher diagonal {_two(diagonal)}, by the full Fisher {_two(full)}"
        + (f"; of the trained student alone {ends}." if several else ".")
    ]
    held = [(tap, tap.members[2].gap.pooled.value) for tap in taps]
    lost = [(tap, value) for tap, value in held if value is not None and value < _FAINT]
    close = [tap for tap, value in held if value is not None and value >= _CLOSE]
    if len(close) == len(taps) > 1:
        sentences.append(
            "At every tap the full Fisher predicts nearly all of it: the gap is small enough for a second order."
        )
    elif lost:
        names = listed(f"{tap.teacher} ({_two(value)})" for tap, value in lost)
        sentences.append(
            f"At {names} the full Fisher predicts almost nothing of it: the gap is too large there for a second-"
            "order expansion, and only the teacher’s own tail predicts it."
        )
    return sentences


def _of_student(taps: Sequence[FidelityTap]) -> list[str]:
    """At which tap, and by which member, the student's own divergence is predicted best and worst."""
    found = [
        (value, tap, member)
        for tap in taps
        for member in tap.members
        if (value := member.student.pooled.value) is not None
    ]
    if not found:
        return []
    best, worst = max(found, key=lambda one: one[0]), min(found, key=lambda one: one[0])
    sentence = (
        f"Before the logits, the student’s divergence from its teacher is predicted best by "
        f"{best[2].loss} at {best[1].teacher} ({_two(best[0])})"
    )
    if worst[1:] != best[1:]:
        sentence += f", worst by {worst[2].loss} at {worst[1].teacher} ({_two(worst[0])})"
    return [f"{sentence}."]


def _notes(fidelity: Fidelity) -> list[str]:
    epochs = listed(f"{epoch:g}" for epoch in fidelity.epochs)
    when = f"the student after epochs {epochs}" if len(fidelity.epochs) > 1 else "the trained student alone"
    named = "" if fidelity.teacher == "teacher" else f"The teacher is {fidelity.teacher}. "
    notes = [
        f"{named}{whole(fidelity.images)} test $images, evenly spread, without augmentation; {when}; τ = "
        f"{fidelity.temperature:g}. Numbers are Spearman’s rank correlation; intervals are over the draw of $images, "
        "not over seeds."
    ]
    if fidelity.fitted_on:
        notes.append(
            "The student’s features are mapped to the teacher’s shape by the best linear map (ridge least squares, "
            f"one for each tap and checkpoint, on {whole(fidelity.fitted_on)} training $images), the logits unchanged."
        )
    notes.append(
        "From the identity to the exact member the losses are feature_mse, feature_fisher, feature_full_fisher and "
        "block_logit; at the logits logit_mse, logit_fisher (diagonal), logit_fisher and kl. Depth is the share of the "
        "teacher’s multiply-adds up to that tap."
    )
    drawn = [tap for tap in fidelity.taps if tap.drawn_classes]
    if drawn:
        counts = sorted({tap.drawn_classes for tap in drawn})
        notes.append(
            f"At {listed(tap.teacher for tap in drawn)} the Fisher diagonal is of {listed(counts)} drawn "
            "classes $an_image, as feature_fisher takes it there: its noise lowers the number."
        )
    return notes


def _two(value: float | None) -> str:
    return decimal(value, 2)


def _interval(found: RankCorrelation, before: str = "") -> str:
    return "" if found.low is None or found.high is None else f"{before}{_two(found.low)} to {_two(found.high)}"


def _factor(ratio: float | None) -> str:
    if ratio is None:
        return DASH
    return f"{_amount(ratio)}×"


def _amount(value: float) -> str:
    text = three_digits(abs(value)) if 1e-3 <= abs(value) < 1e6 else f"{abs(value):.1e}" if value else "0"
    return MINUS + text if value < 0 else text
