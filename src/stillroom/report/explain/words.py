"""What was found in plain words, claiming no more than was measured: nothing of distillation without a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stillroom.report.explain.read import Checkpoint, Explanation, Hypothesis, Measure, Otherwise
from stillroom.report.formats import MINUS, amount, change, counted, join

OUTCOMES = {"supported": "Supported", "refuted": "Refuted", "undecided": "Undecided", None: "Not measured"}
# Of each hypothesis: its name, and what distillation is said to make the student do.
CLAIMS = {
    1: (
        "More concepts on the subject, fewer on the background",
        "learn more concepts on the subject and fewer on the background",
    ),
    2: ("Sooner, and all at once", "learn its concepts sooner and all at once"),
    3: ("Steadier: what was learned stays", "keep more of what it once learned"),
}
# Of each measure: where it is higher, where it is lower, what it is about.
_SHOWN = {
    "n_fg": ("more concepts on the subject", "fewer concepts on the subject", "concepts on the subject"),
    "n_bg": ("more concepts on the background", "fewer concepts on the background", "concepts on the background"),
    "ratio": ("a larger share on the subject", "a smaller share on the subject", "the subject’s share"),
    "d_mean": (
        "most concepts only after more movement of the weights",
        "most concepts after less movement of the weights",
        "how soon",
    ),
    "d_std": ("images differ more in that", "images differ less in that", "how much at once"),
    "rho": ("more of what was learned stayed", "less of what was learned stayed", "how much stayed"),
}
FOREGROUNDS = {
    "masks": "the data’s masks",
    "centre": "a box in the centre",
    "above-zero": "pixels above zero",
    "boxes": "the data’s boxes",
}


@dataclass(frozen=True)
class Claim:
    """One of the three hypotheses at the head of the page."""

    number: int
    title: str
    verdict: str
    word: str
    details: tuple[tuple[str, str], ...]
    held: str


def headline(told: Explanation) -> str:
    """What was found, in a few sentences."""
    if not told.labels:
        return _alone(told)
    by_verdict: dict[str | None, list[str]] = {}
    for one in told.hypotheses:
        by_verdict.setdefault(one.verdict, []).append(CLAIMS[one.number][1])
    sentences = []
    if "supported" in by_verdict:
        sentences.append(f"Distillation made this student {_list(by_verdict['supported'], 'and')}.")
    if "refuted" in by_verdict:
        start = "It did not make it" if sentences else "Distillation did not make this student"
        sentences.append(f"{start} {_list(by_verdict['refuted'], 'or')}: what was shown points the other way.")
    if "undecided" in by_verdict:
        torn = [one for one in told.hypotheses if one.verdict == "undecided" and _is_torn(one)]
        both = len(torn) == len(by_verdict["undecided"])
        start = "Whether it made it" if sentences else "Whether distillation made this student"
        sentences.append(
            f"{start} {_list(by_verdict['undecided'], 'or')} is undecided"
            f"{': what was shown points both ways' if both else ''}."
        )
    if None in by_verdict:
        start = "Whether it made it" if sentences else "Whether distillation made this student"
        sentences.append(f"{start} {_list(by_verdict[None], 'or')} was not measured.")
    return " ".join(sentences)


def _is_torn(hypothesis: Hypothesis) -> bool:
    """Whether one of its measures is shown and another refuted."""
    return {"supported", "refuted"} <= {one.verdict for one in hypothesis.measures}


def _list(parts: Sequence[str], word: str) -> str:
    """Parts that hold an "and" of their own, as a list in a sentence."""
    return f"{', '.join(parts[:-1])}, {word} {parts[-1]}" if len(parts) > 1 else parts[0]


def _alone(told: Explanation) -> str:
    first, last = (_mean([told.runs[place].checkpoints[end] for place in told.distilled]) for end in (0, -1))
    cells = f"{told.grid**2:,}"
    found = (
        f"At the end, {amount(last[0] + last[1], 1)} of an image’s {cells} cells are concepts: "
        f"{amount(last[0], 1)} on the subject and {amount(last[1], 1)} on the background."
    )
    if len(told.epochs) < 2:
        return found
    return (
        f"{found} At the first checkpoint (epoch {told.epochs[0]:g}) they were {amount(first[0], 1)} and "
        f"{amount(first[1], 1)}."
    )


def _mean(checkpoints: Sequence[Checkpoint]) -> tuple[float, float]:
    count = len(checkpoints)
    return sum(one.n_fg for one in checkpoints) / count, sum(one.n_bg for one in checkpoints) / count


def claims(told: Explanation) -> tuple[Claim, ...]:
    """The hypotheses, each with what was shown, what points the other way, and what is open."""
    return tuple(
        Claim(
            one.number,
            CLAIMS[one.number][0],
            one.verdict or "unmeasured",
            OUTCOMES[one.verdict],
            tuple(_details(one)),
            _held(told, one),
        )
        for one in told.hypotheses
    )


def _held(told: Explanation, hypothesis: Hypothesis) -> str:
    """Under how many other choices the verdict is the same; empty where none was tried."""
    verdicts = [one.verdict for each in told.sensitivity for one in each.hypotheses if one.number == hypothesis.number]
    if not verdicts or hypothesis.verdict is None:
        return ""
    return f"The same under {verdicts.count(hypothesis.verdict)} of {counted(len(verdicts), 'other choice')}"


def _details(hypothesis: Hypothesis) -> Iterator[tuple[str, str]]:
    for verdict, start in (
        ("supported", "Shown"),
        ("refuted", "Shown, against the claim"),
        ("undecided", "Not shown either way"),
        (None, "Not measured"),
    ):
        of_this = [one for one in hypothesis.measures if one.verdict == verdict]
        if of_this:
            yield start, join([_in_words(one) for one in of_this])


def _in_words(measure: Measure) -> str:
    higher, lower, about = _SHOWN[measure.name]
    if measure.verdict not in ("supported", "refuted") or measure.difference is None:
        return about
    words = higher if measure.difference > 0 else lower
    return f"{words} ({change(measure.difference, digits([measure.difference]))})"


def digits(values: Sequence[float | None]) -> int:
    """Decimals by which the largest of some values has three digits.

    >>> digits([120.0, None]), digits([12.0]), digits([-1.2]), digits([0.12]), digits([0.012]), digits([None])
    (0, 1, 2, 3, 4, 2)
    """
    largest = max((abs(value) for value in values if value is not None), default=1.0)
    ends = (99.95, 9.995, 0.9995, 0.09995)
    return next((place for place, end in enumerate(ends) if largest >= end), 4)


def caveats(told: Explanation) -> tuple[str, ...]:
    """How far the verdicts carry."""
    if not told.labels:
        return (
            "Nothing is compared here, so this page says what the student has learned and not what distillation "
            "changed: “stillroom explain RUN --baseline RUN”, with the same student from labels, does.",
        )
    seeds = len(told.distilled)
    found = []
    if seeds == 1:
        found.append(
            "One seed: the intervals are over images alone. What another seed would have changed they do not hold."
        )
    else:
        over = f"Intervals are over {counted(len(told.rows), 'image')} and {counted(seeds, 'seed')}"
        found.append(
            f"{over}: with two they are very wide; more seeds would narrow them." if seeds == 2 else f"{over}."
        )
    return tuple(found)


def choice(other: Otherwise) -> str:
    """What was chosen otherwise, in words.

    >>> choice(Otherwise("stop", "-2.6", 50, ())), choice(Otherwise("grid", "8", 50, ()))
    ('a stop at −2.6 nats', 'a grid of 8 × 8')
    """
    value = other.value.replace("-", MINUS, 1)
    return {
        "threshold": f"a threshold b of {value} nats",
        "stop": f"a stop at {value} nats",
        "grid": f"a grid of {value} × {value}",
        "selection": f"the {value} selection of images",
    }.get(other.what, f"{other.what} {value}")
