"""Every method against every other: the difference, Holm's p, and how firmly it is decided."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.report.formats import change, p_value
from stillroom.report.study.model import Comparison, Pair, Study
from stillroom.report.study.table import tone

# With more methods the columns carry numbers in place of names, and the cells their p alone.
NAMED = 8


@dataclass(frozen=True)
class Square:
    """The row's method less the column's; ``tone`` and ``strength`` (0 to 3) colour it."""

    text: str
    small: str
    told: str
    tone: str
    strength: int


@dataclass(frozen=True)
class MatrixRow:
    """A method against each; None against itself."""

    number: int
    name: str
    squares: tuple[Square | None, ...]


@dataclass(frozen=True)
class Matrix:
    """All comparisons on a pair."""

    pair: Pair
    count: int
    decided: int
    rows: tuple[MatrixRow, ...]


def matrices(study: Study) -> tuple[Matrix, ...]:
    """The matrices, in the order of the pairs; none where there is nothing to compare."""
    if len(study.methods) < 2:
        return ()
    return tuple(_matrix(study, pair) for pair in study.pairs)


def _matrix(study: Study, pair: Pair) -> Matrix:
    found = study.between.get(pair.name, ())
    by_names = {(each.method, each.against): each for each in found}
    rows = [
        MatrixRow(
            number,
            name,
            tuple(None if name == other else _square(study, name, other, by_names) for other in study.names),
        )
        for number, name in enumerate(study.names, start=1)
    ]
    return Matrix(pair, len(found), sum(each.verdict != "undecided" for each in found), tuple(rows))


def _square(study: Study, name: str, other: str, found: dict[tuple[str, str], Comparison]) -> Square:
    straight, turned = found.get((name, other)), found.get((other, name))
    each = straight or turned
    if each is None or each.mean is None:
        return Square("–", "", f"{name} − {other}: no seed in common", "", 0)
    mean = each.mean if straight is not None else -each.mean
    colour = tone(each, study.measure)
    if straight is None and colour:
        colour = "lost" if colour == "gained" else "gained"
    p = each.holm_p
    small = f"p {p_value(p)}" if p is not None else "no p"
    text = change(mean, study.measure.digits)
    strength = 0 if not colour or p is None else 3 if p <= study.alpha / 50 else 2 if p <= study.alpha / 5 else 1
    return Square(text, small, f"{name} − {other}: {text}{study.measure.points}, Holm {small}", colour, strength)
