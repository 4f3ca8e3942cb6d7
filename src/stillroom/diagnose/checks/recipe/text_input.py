"""Checks of a teacher of texts: its tokenizer, the case and the length of its texts, layers that nobody trained."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.data.config import TextConfig
from stillroom.data.sources import load
from stillroom.data.text import read_tokenizer
from stillroom.data.tokens import Tokenization, lengths
from stillroom.diagnose.check import CheckResult, Limits, Skip, check, percent
from stillroom.diagnose.checks.recipe.context import CheckContext
from stillroom.diagnose.checks.recipe.input_repair import rewriter, tokenizer_of
from stillroom.diagnose.checks.teacher_changes import GAIN, compare
from stillroom.errors import BadInput
from stillroom.schema.diagnosis import Remedy

OTHER_TOKENS = Limits(
    0.01,
    0.05,
    "share of the texts that the teacher's own tokenizer gives other tokens: letters that one of them cannot read "
    "change a text in a hundred at most",
)
# Longer texts than this are not tried.
_MOST_TOKENS = 4096
# How near the weights of a layer that nobody trained are to the deviation that they were drawn with.
_AS_DRAWN = 0.1


@check(
    threshold=(
        f"Share of the texts to which the tokenizer next to the teacher's weights gives other tokens than the data's: "
        f"warning from {OTHER_TOKENS.warning:.0%}, problem from {OTHER_TOKENS.problem:.0%}."
    ),
    source="An embedding is a table: row i means what token i meant when it was trained.",
    limits=[OTHER_TOKENS],
)
def teacher_tokenizer(context: CheckContext) -> CheckResult:
    """Whether token ids mean the words that they meant when the teacher was trained."""
    tokens, path = _tokens(context), tokenizer_of(context.recipe.teacher)
    if path is None:
        raise Skip("No tokenizer.json lies next to the teacher's weights.")
    ids, its = context.sample.images, read_tokenizer(path)
    # Of pairs, and of letters that it cannot read, a tokenizer does not give again what it was made of.
    ids = ids[(rewriter(tokens, tokens.tokenizer)(ids) == ids).all(1)]
    is_same = _form(its.to_str()) == _form(tokens.json)
    if not len(ids) and not is_same:
        raise Skip(f"{path.name} next to the teacher's weights is another tokenizer; no text can be read by both.")
    share = 0.0 if is_same else float((rewriter(tokens, its)(ids) != ids).any(1).double().mean())
    evidence: dict[str, Any] = {"other_tokens": share, "texts": len(ids), "tokenizer": path.name}
    if share < OTHER_TOKENS.warning:
        return CheckResult("ok", "The tokenizer next to the teacher's weights gives the same tokens.", evidence)
    summary = f"The tokenizer next to the teacher's weights gives {percent(share)} of {len(ids):,} texts other tokens"
    if (change := context.repair.change("tokenizer")) is not None:
        before, after = change.accuracy
        evidence |= {"accuracy": before, "with_its_own": after, "p": change.p}
        summary += f": of {change.images:,} it classifies {percent(before)} correctly as they are, {percent(after)} so"
    remedy = Remedy("Read the texts by the teacher's own tokenizer.", {"data.text.tokenizer": str(path)})
    return CheckResult(OTHER_TOKENS.at_least(share), f"{summary}.", evidence, remedy)


@check(
    threshold=(
        f"Problem: with texts in another case the teacher classifies {percent(GAIN.problem)} more of them correctly; "
        f"warning: {percent(GAIN.warning)}; beyond chance on the same texts."
    ),
    source="A tokenizer that distinguishes case gives Cat and cat other tokens, of which a teacher may know one alone.",
    limits=[GAIN],
)
def teacher_case(context: CheckContext) -> CheckResult:
    """Whether texts have the case that the teacher was trained with."""
    _tokens(context)
    context.require_model()
    change, trials = context.repair.change("case"), context.repair.trials.get("case", ())
    evidence = {trial.name: trial.gain for trial in trials if trial.images}
    if change is None:
        tried = f" by {100 * max(evidence.values()):+.1f} points at best" if evidence else ""
        why = "No other case of the texts makes the teacher more accurate" if evidence else "The case was not in doubt"
        return CheckResult("ok", f"{why}{tried}.", {"gains": evidence})
    before, after = change.accuracy
    summary = (
        f"The teacher classifies {percent(before)} of {change.images:,} texts correctly as they are, and "
        f"{percent(after)} with {change.name}."
    )
    words = f"Give the teacher texts with {change.name}, as it was trained; or one trained on texts like these."
    return CheckResult(GAIN.at_least(change.gain), summary, {"gains": evidence, "p": change.p}, Remedy(words))


@check(
    threshold=(
        f"Problem: with texts that are not cut the teacher classifies {percent(GAIN.problem)} more of them correctly; "
        f"warning: {percent(GAIN.warning)}; beyond chance on the same texts."
    ),
    source="What says the class may stand at the end of a text.",
    limits=[GAIN],
)
def text_length(context: CheckContext) -> CheckResult:
    """Whether the teacher's texts are cut shorter than it needs."""
    tokens, data = _tokens(context), context.run_context.data.train
    ids, labels = context.sample.images, context.sample.labels
    most, config = ids.shape[1], context.recipe.data
    cut = float((lengths(ids) == most).mean())
    evidence: dict[str, Any] = {"cut": cut, "max_length": most}
    limit = config.text.max_length if config.text is not None else 128
    if not cut or most < limit or not tokens.json:
        return CheckResult("ok", f"None of {len(ids):,} texts is cut.", {**evidence, "cut": 0.0})
    summary = f"{percent(cut)} of the texts are cut at {most:,} tokens"
    context.require_model()
    longer = config.model_copy(update={"text": _longer(config.text, limit)})
    try:
        whole = load(longer).train
    except BadInput as error:
        raise Skip(f"{summary}; they could not be read whole: {error}") from None
    rows = torch.from_numpy(context.stored_rows)
    if len(whole.parent) != len(data.parent):
        raise Skip(f"{summary}; they could not be read whole.")
    full = whole.parent.images[rows]
    full = full[:, : max(int(lengths(full).max()), 1)]
    setup, variant = context.repaired_setup, context.repaired_setup.variant

    def is_correct(count: int) -> Tensor:
        logits = context.queries.logits(variant.model, variant.preprocess, full[:count], "texts that are not cut")
        return setup.reorder(logits).argmax(1) == labels[:count]

    try:
        trial = compare(setup.is_correct(labels, len(labels)), is_correct)
    except Exception as error:  # a model with positions for so many tokens refuses more in its own words
        raise Skip(f"{summary}; the teacher does not take longer ones ({type(error).__name__}).") from None
    images, after, before, p = trial
    gain = (after - before) / images
    evidence |= {"accuracy": before / images, "not_cut": after / images, "longest": full.shape[1], "p": p}
    summary += (
        f"; the teacher classifies {percent(before / images)} of {images:,} correctly so, and "
        f"{percent(after / images)} of them whole."
    )
    words = "Let texts be as long as the teacher needs."
    remedy = Remedy(words, {"data.text.max_length": min(-(-full.shape[1] // 8) * 8, _MOST_TOKENS)})
    return CheckResult(GAIN.at_least(gain) if p < 1e-3 else "ok", summary, evidence, remedy)


@check(
    threshold=(
        "Linear layers whose biases are exactly 0, and whose weights have the deviation that the model's config draws "
        f"them with, within {percent(_AS_DRAWN)}, while other layers' biases are not 0: a problem where the teacher's "
        "accuracy is not above twice that of chance, else a warning. Training moves every bias."
    ),
    source="transformers: “Some weights … were not initialized from the model checkpoint … and are newly initialized”.",
)
def untrained_layers(context: CheckContext) -> CheckResult:
    """Whether the teacher has a pooler or a classifier that was never trained."""
    _tokens(context)
    context.require_model()
    model = context.teacher.model
    found, trained = find_untrained(model)
    if not found or not trained:
        return CheckResult("ok", "No layer of the teacher looks as it was made.", {"layers": list(found)})
    counts = torch.bincount(context.sample.labels, minlength=context.num_classes)
    chance = float(counts.max()) / len(context.sample)
    accuracy = context.accuracy
    summary = (
        f"{', '.join(found)} of the teacher {'are' if len(found) > 1 else 'is'} as made, with biases of exactly 0: the "
        f"logits go through weights that nobody trained (accuracy {percent(accuracy)}, chance {percent(chance)})."
    )
    words = (
        "Train the teacher's head on this task before it teaches, or load weights that have it; features before the "
        "pooler are not touched by it."
    )
    evidence = {"layers": list(found), "accuracy": accuracy, "chance": chance}
    return CheckResult("problem" if accuracy < 2 * chance else "warning", summary, evidence, Remedy(words))


CHECKS = (teacher_tokenizer, teacher_case, text_length, untrained_layers)


def find_untrained(model: nn.Module) -> tuple[tuple[str, ...], int]:
    """The linear layers that look as they were made, and the number of other layers that have biases.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    >>> _ = nn.init.normal_(model[1].weight, std=0.02), nn.init.zeros_(model[1].bias)
    >>> find_untrained(model)
    (('1',), 1)
    """
    drawn = getattr(getattr(model, "config", None), "initializer_range", 0.02)
    made, trained = [], 0
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or layer.bias is None:
            continue
        is_made = not bool(layer.bias.any()) and abs(float(layer.weight.detach().float().std()) / drawn - 1) < _AS_DRAWN
        made += [name] if is_made else []
        trained += not is_made
    return tuple(made), trained


def _tokens(context: CheckContext) -> Tokenization:
    tokens = context.run_context.data.train.tokens
    if tokens is None or not tokens.json:
        raise Skip("The data are no texts whose tokenizer is known.")
    return tokens


def _form(tokenizer: str) -> dict[str, Any]:
    """What a tokenizer does to a text that is short enough."""
    return {name: each for name, each in json.loads(tokenizer).items() if name not in ("truncation", "padding")}


def _longer(config: TextConfig | None, limit: int) -> TextConfig:
    return (config or TextConfig()).model_copy(update={"max_length": min(max(16 * limit, 512), _MOST_TOKENS)})
