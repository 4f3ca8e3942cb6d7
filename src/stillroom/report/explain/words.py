"""The page of an explanation by words: what a student keeps of each word, as shades over its checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

from stillroom.report.blocks import Values
from stillroom.report.explain.page import CLAIMS, OUTCOMES, PAGE, SYMBOLS
from stillroom.report.formats import DASH, amount, change, decimal, digits_of, signed
from stillroom.report.html import rendered, write_page
from stillroom.report.numbers import PlotNumbers
from stillroom.schema.base import read_json
from stillroom.schema.explanation import (
    EXPLANATION_WORDS,
    FEWEST_IMAGES,
    ConceptCounts,
    HypothesisTest,
    MeanOverTexts,
    TextWords,
    WordExplanation,
    WordNetwork,
)
from stillroom.wording import TEXTS

_SHADES = 5  # of what is kept more than of the mean word, and as many of what is kept less
_FULL = 1.5  # nats at which a shade is full
_MOST_TEXTS = 30


def write_word_explanation(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run's ``explain-words.json``.

    Args:
        folder: of the run.
        out: the file to write; left out: ``explain.html`` in the same folder.

    Raises:
        BadInput: there is no explanation, it is damaged, or the page cannot be written.
    """
    found = read_json(WordExplanation, folder / EXPLANATION_WORDS)
    page = Values(
        title=found.networks[0].name,
        headline=headline(found),
        teacher=found.teacher,
        networks=[_network(each) for each in found.networks],
        concepts=_concepts(found),
        hypotheses=[_hypothesis(each) for each in found.hypotheses],
        seeds=sum(each.role == "explained" for each in found.networks),
        texts=[_text(each, found) for each in found.texts[:_MOST_TEXTS]],
        total=len(found.texts),
        full=_FULL,
    )
    target = out if out is not None else folder / PAGE
    return write_page(target, rendered("explain/words.html.j2", figures={}, unit=TEXTS, page=page))


def headline(found: WordExplanation) -> str:
    """What was found, in a few sentences."""
    return " ".join(filter(None, (_ranking(found), _on_the_words_that_matter(found))))


def _on_the_words_that_matter(found: WordExplanation) -> str:
    """Where the explained students' concepts lie at the end; empty where it is not known which words matter."""
    ends = [each.concepts[-1] for each in found.networks if each.role == "explained" and each.concepts]
    shares = [each.ratio for each in ends if each.ratio is not None]
    if found.rationales is None or not shares:
        return ""
    share, kept = decimal(100 * sum(shares) / len(shares)), found.rationales.published
    said = (
        f"At the end {share}% of its concepts are words that matter, which are "
        f"{decimal(100 * found.rationales.words)}% of all words."
    )
    if kept is None or kept >= FEWEST_IMAGES:
        return said
    return (
        f"{said} The hypotheses are not decided, whatever the intervals: in {kept} of {len(found.texts)} texts do all "
        "networks keep the words that matter more than the others."
    )


def _ranking(found: WordExplanation) -> str:
    last = [each.checkpoints[-1].with_teacher for each in found.networks if each.role == "explained"]
    held = [each.mean for each in last if each is not None]
    if not held:
        return "What the student keeps of each word; no teacher could be read to compare with."
    mean = decimal(sum(held) / len(held), 2)
    first = f"The student ranks the words of a text as its teacher does with a correlation of {mean}."
    gain = found.gain
    if gain is None:
        return first
    span = f"{signed(gain.mean, 2)}, 95% interval over texts {signed(gain.low, 2)} to {signed(gain.high, 2)}"
    if gain.low <= 0 <= gain.high:
        return f"{first} Whether that is more than of the same student from labels is undecided ({span})."
    side = "more" if gain.mean > 0 else "less"
    return f"{first} That is {side} than of the same student from labels ({span})."


def _network(network: WordNetwork) -> Values:
    rows = [(f"{each.epoch:g}", _interval(each.with_teacher), _interval(each.with_end)) for each in network.checkpoints]
    return Values(
        name=network_title(network), accuracy=f"{decimal(100 * network.accuracy)}%", tap=network.tap, rows=rows
    )


def network_title(network: WordNetwork) -> str:
    """What a network is called: its run and seed, and whether it learned from labels."""
    return f"{network.run}{'' if network.role == 'explained' else ', from labels'}, seed {network.seed}"


def _interval(mean: MeanOverTexts | None) -> str:
    return DASH if mean is None else f"{decimal(mean.mean, 2)} ({decimal(mean.low, 2)} to {decimal(mean.high, 2)})"


def _concepts(found: WordExplanation) -> Values | None:
    if found.rationales is None:
        return None
    of_teacher = found.teacher_concepts
    return Values(
        file=found.rationales.file,
        words=f"{decimal(100 * found.rationales.words)}%",
        without=found.rationales.without,
        threshold=f"{found.rationales.threshold:g}",
        teacher=None if of_teacher is None else _counts(of_teacher),
        networks=[
            Values(
                name=network_title(each),
                rows=[(f"{one.epoch:g}", *_counts(one)) for one in each.concepts],
                speed=None
                if each.speed is None
                else (each.speed.layer, amount(each.speed.d_mean, 3), amount(each.speed.d_std, 3)),
                rho=DASH if each.stability is None else amount(each.stability.rho, 2),
            )
            for each in found.networks
        ],
    )


def _counts(one: ConceptCounts) -> tuple[str, str, str]:
    return amount(one.n_fg, 2), amount(one.n_bg, 2), amount(one.ratio, 2)


def _hypothesis(one: HypothesisTest) -> Values:
    rows = []
    for each in one.measures:
        letter, below, plain, _ = SYMBOLS[each.measure]
        places = digits_of([each.distilled, each.labels, each.difference, each.low, each.high])
        held = each.difference is not None and each.low is not None and each.high is not None
        span = f"{change(each.low, places)} to {change(each.high, places)}" if held else DASH
        rows.append(
            Values(
                symbol=f"{letter}_{below}" if below else letter,
                plain=plain.replace("subject", "words that matter").replace("background", "other words"),
                expected=each.expected,
                distilled=amount(each.distilled, places),
                labels=amount(each.labels, places),
                difference=DASH if each.difference is None else change(each.difference, places),
                span=span,
                word=OUTCOMES[each.verdict],
            )
        )
    title = CLAIMS[one.hypothesis][0].replace("the subject", "words that matter").replace("the background", "others")
    return Values(number=one.hypothesis, title=title, word=OUTCOMES[one.verdict], rows=rows)


def _text(text: TextWords, found: WordExplanation) -> Values:
    rows = [("teacher", _words(text, text.teacher))] if text.teacher else []
    for network, of_network in zip(found.networks, text.kept, strict=True):
        for checkpoint, kept in zip(network.checkpoints, of_network, strict=True):
            rows.append((f"{network_title(network)}, epoch {checkpoint.epoch:g}", _words(text, kept)))
    heads = ["word", *(who for who, _ in rows)]
    numbers = [[word, *(words[place].what for _, words in rows)] for place, word in enumerate(text.words)]
    return Values(row=text.row, label=text.label, rows=rows, numbers=PlotNumbers(heads, numbers))


def _words(text: TextWords, kept: tuple[float, ...]) -> list[Values]:
    matters = text.rationale or (False,) * len(text.words)
    return [
        Values(text=word, shade=" ".join(filter(None, (_shade(value), "key" * key))), what=f"{signed(value, 2)} nats")
        for word, value, key in zip(text.words, kept, matters, strict=True)
    ]


def _shade(value: float) -> str:
    """The class of a word's background: ``more3`` of ``more5``.

    >>> _shade(0.0), _shade(0.4), _shade(-9.0)
    ('', 'more1', 'less5')
    """
    level = min(math.floor(abs(value) / _FULL * _SHADES), _SHADES)
    return f"{'more' if value > 0 else 'less'}{level}" if level else ""
