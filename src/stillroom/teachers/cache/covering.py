"""A cache that holds the answers another asks for, and more: what is kept beside the logits need not be the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillroom.teachers.cache.identity import CacheSpec
from stillroom.teachers.cache.store import IDENTITY, cache_keys
from stillroom.teachers.fisher import FisherOf


def covering_specs(spec: CacheSpec, root: Path) -> list[CacheSpec]:
    """The other caches of the same answers that keep all that this one keeps, those that keep least first.

    Logits do not depend on what is read beside them, so a run that asks for logits alone, or for fewer taps, finds
    them in any of these. Only what they say of themselves is looked at here.

    Args:
        spec: what is wanted.
        root: where caches lie.
    """
    found = []
    for key in cache_keys(root):
        other = _read(root / key / IDENTITY, spec) if key != spec.key else None
        # Made from the same parts it has the same key: then nothing else differs.
        if other is not None and other.key == key and _covers(other, spec):
            found.append(other)
    return sorted(found, key=lambda other: (len(other.taps) + len(other.fishers), other.key))


def arrays_in(spec: CacheSpec, other: CacheSpec) -> dict[str, str]:
    """Of each array of a cache, its name in one that covers it.

    >>> small, large = CacheSpec({}, 1, 2, taps=("b",)), CacheSpec({}, 1, 2, taps=("a", "b"))
    >>> arrays_in(small, large)
    {'logits': 'logits', 'feature-0': 'feature-1'}
    """
    logits = ["logits"] if spec.top_k is None else ["values", "classes", "rest"]
    names = {name: name for name in logits}
    names |= {f"feature-{place}": f"feature-{other.taps.index(tap)}" for place, tap in enumerate(spec.taps)}
    return names | {f"fisher-{place}": f"fisher-{other.fishers.index(of)}" for place, of in enumerate(spec.fishers)}


def _covers(other: CacheSpec, spec: CacheSpec) -> bool:
    return set(spec.taps) <= set(other.taps) and set(spec.fishers) <= set(other.fishers)


def _read(path: Path, spec: CacheSpec) -> CacheSpec | None:
    """The spec of another cache, if it is this one but for its taps and weights."""
    try:
        kept: Any = json.loads(path.read_text(encoding="utf-8"))["identity"]["kept"]
        fishers = tuple(FisherOf(**of) for of in kept.get("fishers", ()))
        return replace(spec, taps=tuple(map(str, kept["taps"])), fishers=fishers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged, or another version's: its own runs will tell
