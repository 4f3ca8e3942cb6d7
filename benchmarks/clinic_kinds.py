"""What a kind of set-up is, and which half of the clinic it is in: settled by its name, before any is looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clinic_ward import WORLDS, Ward

Make = Callable[[Ward], Path]
About = Literal["recipe", "run", "study"]
Half = Literal["development", "scored"]
# Seeds decide data orders, models, teachers and what is drawn; those of one half are in no case of the other. The
# scored half was looked at with seeds 2 to 5 (real images: 1 and 3) before the checks were frozen for the last time.
SEEDS: dict[Half, dict[str, tuple[int, ...]]] = {
    "development": {"digits": (0, 1), "real": (0,)},
    "scored": {"digits": (6, 7), "real": (5,)},
}


@dataclass(frozen=True)
class Kind:
    """A kind of set-up.

    Attributes:
        name: what it is, in a few words.
        make: makes a case of it: a recipe's file, a run's folder or a study's.
        about: which of these.
        expects: checks of which one must be sick; none of a healthy kind.
        worlds: where it is tried.
        complaint: the report that it re-enacts, if it does.
        is_fresh: whether it is of the second cohort, by another hand than the checks'.
    """

    name: str
    make: Make
    about: About
    expects: tuple[str, ...] = ()
    worlds: tuple[str, ...] = ("digits",)
    complaint: str = ""
    is_fresh: bool = False

    @property
    def is_sick(self) -> bool:
        return bool(self.expects)


@dataclass(frozen=True)
class CaseOf:
    """A kind in a world, with a seed."""

    kind: Kind
    world: str
    seed: int
    half: Half

    @property
    def key(self) -> str:
        return f"{self.world}/{self.kind.name}/{self.seed}"


class Kinds:
    """A list of kinds that grows by decorating what makes them."""

    def __init__(self, *, fresh: bool = False) -> None:
        self.all: list[Kind] = []
        self.fresh = fresh

    def sick(
        self, name: str, *expects: str, about: About = "recipe", worlds: str = "digits", complaint: str = ""
    ) -> Callable[[Make], Make]:
        """A kind of which one of these checks must say so."""
        assert expects
        return self._added(name, about, expects, worlds, complaint)

    def healthy(self, name: str, *, about: About = "recipe", worlds: str = "digits") -> Callable[[Make], Make]:
        """A kind of which no check must be sick."""
        return self._added(name, about, (), worlds, "")

    def _added(
        self, name: str, about: About, expects: tuple[str, ...], worlds: str, complaint: str
    ) -> Callable[[Make], Make]:
        places = tuple(worlds.split())
        assert set(places) <= set(WORLDS), places

        def add(make: Make) -> Make:
            self.all.append(Kind(name, make, about, expects, places, complaint, self.fresh))
            return make

        return add


def halves(kinds: Iterable[Kind]) -> dict[str, Half]:
    """The half of each kind: of those alike (sick or not; about; cohort) every second by a hash of its name.

    >>> kinds = [Kind(name, Path, "recipe", ("x",)) for name in ("a", "b", "c", "d")]
    >>> sorted(halves(kinds).items())
    [('a', 'scored'), ('b', 'development'), ('c', 'development'), ('d', 'scored')]
    """
    found: dict[str, Half] = {}
    groups: dict[tuple[bool, About, bool], list[str]] = {}
    for kind in kinds:
        groups.setdefault((kind.is_sick, kind.about, kind.is_fresh), []).append(kind.name)
    for names in groups.values():
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        found |= {name: ("development", "scored")[place % 2] for place, name in enumerate(ordered)}
    return found


def cases_of(kinds: Iterable[Kind], *, real: bool, half: Half | None = None) -> list[CaseOf]:
    """All cases: the kinds of each half at the seeds of that half, in the worlds that are there."""
    kinds = list(kinds)
    names = halves(kinds)
    found = []
    for kind in kinds:
        for world in kind.worlds:
            where = "digits" if world == "digits" else "real"
            if where == "real" and not real:
                continue
            mine = names[kind.name]
            found += [CaseOf(kind, world, seed, mine) for seed in SEEDS[mine][where]]
    return [case for case in found if half is None or case.half == half]
