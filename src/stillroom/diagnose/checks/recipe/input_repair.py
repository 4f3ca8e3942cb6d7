"""Whether another input, class order or batch statistics would make a teacher more accurate.

A wrong normalisation, another order of classes and wrong batch statistics all end in the same low accuracy, and each
change helps a little against the others' causes. So each round tries every single change, takes the one after which the
teacher classifies most images correctly, if that is more than chance, and goes on from there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stillroom.data.images import ImageSet, balanced_rows, has_label, rank_in_class
from stillroom.data.text import read_tokenizer
from stillroom.data.tokens import NO_TOKEN, Tokenization
from stillroom.diagnose.check import Skip
from stillroom.diagnose.checks.teacher_changes import (
    BATCH,
    CLEAR,
    GAIN,
    Trial,
    assign_columns,
    compare,
    correct_in_other_order,
    halves_of,
    has_running_statistics,
    helpful,
    largest_gain,
    paired_p,
    recalibrate,
    statistics_misfit,
)
from stillroom.errors import format_error
from stillroom.files import find_input
from stillroom.models.config import PreprocessConfig
from stillroom.models.cost import multiply_adds
from stillroom.models.fold import fold_batchnorm
from stillroom.models.modes import device_of, freeze, to_channels_last
from stillroom.models.prepared import predict
from stillroom.models.preprocess import Preprocess, explicit_preprocess, resolve_preprocess, select_classes
from stillroom.run.context import RunContext
from stillroom.teachers.config import TeacherConfig
from stillroom.train.device import autocast

OutputForm = Literal["logits", "probabilities", "sigmoids"]
Kind = Literal["normalisation", "channel_order", "resize", "class_order", "batch_norm", "tokenizer", "case"]

# Below this accuracy more than one thing may be wrong.
_LOW_ACCURACY = 0.5
_ROUNDS = 3
# Share of the misfit of running statistics that another normalisation must leave at most, to be what was wrong: the
# right one leaves a quarter or less, one that makes up for statistics that lag leaves half or more.
_FITS = 0.45
# Image sizes that public models are trained at, and multiples of the data's own size.
SIZES = (32, 64, 224)
TIMES = (0.5, 2, 4)
# Multiply-adds that another size may cost in all: some seconds of two cores. The model's declared size gets more.
_COST, _NATIVE_COST = 1e11, 3e11
# Fewer images would prove nothing.
_LEAST = 32
_CASES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "a capital first letter": lambda text: text[:1].upper() + text[1:],
}


@dataclass(frozen=True)
class SplitSample:
    """Some images of a split, spread over its classes: the first few as well as all of them."""

    images: Tensor  # [n, C, H, W] as the data gives them: one of each class, then the second of each, and so on
    labels: Tensor  # int64 [n]
    rows: npt.NDArray[np.int64]  # their positions in the split, int64 [n]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: Tensor) -> SplitSample:
        """Some of them: bool [n]."""
        return SplitSample(self.images[chosen], self.labels[chosen], self.rows[chosen.numpy()])

    @property
    def halves(self) -> Tensor:
        """Which of two halves each image is in, both spread over the classes: bool [n]."""
        return halves_of(self.labels)


def draw_sample(data: ImageSet, count: int) -> SplitSample:
    """A fixed random sample of a split.

    Args:
        data: the split; images without a label are left out.
        count: how many images, or all where there are fewer.

    >>> data = ImageSet(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1]), ("a", "b"), "x")
    >>> draw_sample(data, 4).labels.tolist()
    [0, 1, 0, 1]
    """
    known = np.flatnonzero(has_label(data.labels).cpu().numpy())
    labels = data.strata
    rows = known[balanced_rows(labels[known], min(count, len(known)))]
    rows = rows[np.lexsort((labels[rows], rank_in_class(labels[rows])))]
    index = torch.from_numpy(rows)
    return SplitSample(data.images[index].cpu(), data.labels.cpu()[index], rows)


class TeacherQueries:
    """Computes logits of a teacher's variants for images, as a run would.

    Args:
        run_context: device, precision and data of the run.
        sample: training images.
        num_classes: K of the data.
        form: tells what the teacher's outputs are; probabilities and sigmoids are turned back into logits.
        on_phase: is given what goes on, images done and images in all.
    """

    def __init__(
        self,
        run_context: RunContext,
        sample: SplitSample,
        num_classes: int,
        form: Callable[[], OutputForm],
        on_phase: Callable[[str, int, int], None],
    ) -> None:
        self.run_context = run_context
        self.sample = sample
        self.num_classes = num_classes
        self._form = form
        self._on_phase = on_phase
        # Whether other sizes of the images are tried, which can take seconds.
        self.tries_sizes = True
        # Whether the teacher takes its input in channels-last memory.
        self.channels_last = True

    def logits(self, model: nn.Module, config: PreprocessConfig | None, images: Tensor, what: str) -> Tensor:
        """Logits, float32 [n, columns], in the model's own class order.

        Args:
            model: the teacher.
            config: its preprocess; a class order in it is left out.
            images: as the data gives them.
            what: what progress calls the images; empty for no progress.
        """
        outputs = self.outputs(model, config, images, what)
        return self.as_logits(outputs)

    def as_logits(self, outputs: Tensor) -> Tensor:
        """Logits of outputs: logarithms of probabilities, and what a sigmoid was taken of."""
        form = self._form()
        if form == "sigmoids":
            return outputs.double().logit(1e-7).float()
        return outputs.clamp_min(1e-30).log() if form == "probabilities" else outputs

    def outputs(self, model: nn.Module, config: PreprocessConfig | None, images: Tensor, what: str) -> Tensor:
        """What the model gives, in whatever form, float32 [n, columns]."""
        run_context = self.run_context
        label, total = f"querying the teacher with {what}", len(images)
        if what:
            self._on_phase(label, 0, total)
        try:
            with autocast(run_context.device, run_context.precision):
                return predict(
                    model,
                    self.preprocess(config).to(run_context.device),
                    images,
                    device=run_context.device,
                    batch_size=BATCH,
                    on_batch=(lambda done: self._on_phase(label, done, total)) if what else None,
                )
        finally:
            if what:
                self._on_phase(label, total, total)

    def preprocess(self, config: PreprocessConfig | None) -> Preprocess:
        """The module that makes the teacher's input; it leaves the class order as it is."""
        is_pixels = self.run_context.data.train.is_pixels
        return Preprocess(without_class_order(config), is_pixels=is_pixels, channels_last=self.channels_last)

    def prepare(self, model: nn.Module, config: PreprocessConfig | None) -> nn.Module:
        """A copy as a run uses it: batch norms folded where that is exact, frozen, laid out for speed."""
        images, device = self.sample.images[:8], self.run_context.device
        inputs = self.preprocess(config)(images)
        folded, _ = fold_batchnorm(model, inputs.to(device_of(model)))
        return to_channels_last(freeze(folded).eval().to(device), inputs.to(device))


def without_class_order(config: PreprocessConfig | None) -> PreprocessConfig | None:
    """The same input without a class order."""
    return config.model_copy(update={"class_order": None}) if config is not None else None


class TeacherVariant:
    """A teacher with one way to make its input; its logits for the sample are kept.

    Args:
        queries: computes the logits.
        model: the model, prepared.
        preprocess: how its input is made, without a class order.
        logits: for the whole sample, where they were stored and there is no model to run.
        rewrite: gives texts other tokens first, from ids to ids.
    """

    def __init__(
        self,
        queries: TeacherQueries,
        model: nn.Module,
        preprocess: PreprocessConfig | None,
        logits: Tensor | None = None,
        rewrite: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> None:
        self.model = model
        self.preprocess = preprocess
        self.rewrite = rewrite
        self._queries = queries
        self._logits = logits
        self.is_stored = logits is not None

    def logits(self, count: int) -> Tensor:
        """Logits of the sample's first images, in the model's own class order: float32 [count, columns]."""
        have = 0 if self._logits is None else len(self._logits)
        if have < count:
            images = self.rewrite(self._queries.sample.images[have:count])
            more = self._queries.logits(self.model, self.preprocess, images, "training images")
            self._logits = more if self._logits is None else torch.cat([self._logits, more])
        assert self._logits is not None
        return self._logits[:count]


@dataclass(frozen=True)
class TeacherSetup:
    """A teacher, its input and its class order."""

    variant: TeacherVariant  # the model with its input
    # For each class of the data, a column of the logits; None where they agree, empty where unknown.
    class_order: Tensor | None
    model: nn.Module  # the model as a run would be given it

    def reorder(self, columns: Tensor) -> Tensor:
        """Columns of the model's logits in the order of the data's classes."""
        is_unknown = self.class_order is not None and not len(self.class_order)
        return columns[:, :0] if is_unknown else select_classes(columns, self.class_order)

    def is_correct(self, labels: Tensor, count: int) -> Tensor:
        """Which of the sample's first images are classified correctly, bool [count]; none without a class order."""
        logits = self.reorder(self.variant.logits(count))
        if not logits.shape[1]:
            return torch.zeros(count, dtype=torch.bool)
        return logits.argmax(1) == labels[:count]


@dataclass(frozen=True)
class Candidate:
    """A change to try."""

    name: str  # what messages call it
    make: Callable[[], TeacherVariant]  # makes the changed teacher
    images: int  # how many images it may be tried on
    model: nn.Module | None = None  # the changed model, where it is the model that changes
    why_not: str | None = None  # why it cannot be tried, if so


@dataclass(frozen=True)
class RepairTrial(Trial):
    """One change, tried on the sample's first images."""

    kind: Kind
    setup: TeacherSetup | None = None  # the teacher after the change
    why_not: str | None = None  # why it could not be tried, if so


@dataclass(frozen=True)
class InputRepair:
    """The changes that make a teacher more accurate."""

    accuracy: float  # the teacher's accuracy on the sample as the recipe sets it up
    repaired: TeacherSetup  # the teacher after all changes
    changes: tuple[RepairTrial, ...]  # the changes that were taken, in order
    trials: dict[Kind, tuple[RepairTrial, ...]]  # all changes of a kind that were tried when it was last in question
    images: int  # size of the sample

    def change(self, kind: Kind) -> RepairTrial | None:
        """The change of a kind that was taken."""
        return next((trial for trial in self.changes if trial.kind == kind), None)


def repair_input(queries: TeacherQueries, original: TeacherSetup) -> InputRepair:
    """Try what could be wrong with a teacher's input and class order; take what helps most until nothing does."""
    labels, count = queries.sample.labels, len(queries.sample)
    setup = original
    accuracy = float(setup.is_correct(labels, count).double().mean())
    changes: list[RepairTrial] = []
    trials: dict[Kind, tuple[RepairTrial, ...]] = {}
    for _ in range(_ROUNDS):
        correct = setup.is_correct(labels, count)
        has_order = setup.class_order is None or len(setup.class_order)
        if 1 - float(correct.double().mean()) < GAIN.warning and has_order:
            break  # nothing can gain enough to matter
        tried = [*_try_all(queries, setup, correct, {change.kind for change in changes})]
        for kind in {trial.kind for trial in tried}:
            trials[kind] = tuple(trial for trial in tried if trial.kind == kind)
        helps = helpful([trial for trial in tried if trial.setup is not None], len(tried))
        best = [_likeliest(queries, setup, helps)] if helps else _two_at_once(queries, correct, tried)
        if not best:
            break
        changes += best
        assert best[-1].setup is not None
        setup = best[-1].setup
    return InputRepair(accuracy, setup, tuple(changes), trials, count)


def _likeliest(queries: TeacherQueries, setup: TeacherSetup, helps: Sequence[RepairTrial]) -> RepairTrial:
    """The change that helps most; batch statistics only where no other change comes near, or where they still misfit.

    A teacher so young that its running statistics lag behind gains by another normalisation as well; but under that
    one they fit little better, while under the right input those of a trained teacher fit.
    """
    best = largest_gain(helps)
    statistics = next((trial for trial in helps if trial.kind == "batch_norm"), None)
    if best.kind == "normalisation" and best.setup is not None and statistics is not None:
        before, after = (_misfit(queries, each) for each in (setup, best.setup))
        if after > _FITS * before:
            return statistics
    return best


def _misfit(queries: TeacherQueries, setup: TeacherSetup) -> float:
    """How far a teacher's running statistics are from those of its input."""
    device = queries.run_context.device
    preprocess = queries.preprocess(setup.variant.preprocess).to(device)
    return statistics_misfit(setup.model.to(device), preprocess(queries.sample.images[:BATCH].to(device)))


def _try_all(
    queries: TeacherQueries, setup: TeacherSetup, correct: Tensor, changed: set[Kind]
) -> Iterator[RepairTrial]:
    if "class_order" not in changed:
        yield from _try_class_order(queries, setup, correct)
    if setup.class_order is not None and not len(setup.class_order):
        return  # an input is judged by the classes that it leads to
    if setup.variant.is_stored:
        return
    kinds: Sequence[tuple[Kind, Iterator[Candidate]]] = (
        ("tokenizer", _tokenizers(queries, setup)),
        ("case", _cases(queries, setup)),
        ("normalisation", _normalisations(queries, setup)),
        ("channel_order", _channel_orders(queries, setup)),
        ("resize", _sizes(queries, setup)),
        ("batch_norm", _batch_statistics(queries, setup)),
    )
    for kind, candidates in kinds:
        if kind not in changed:
            yield from (_try(queries, setup, correct, kind, candidate) for candidate in candidates)


def _two_at_once(queries: TeacherQueries, correct: Tensor, tried: Sequence[RepairTrial]) -> list[RepairTrial]:
    """Another input and another class order, where neither helps without the other; empty if nothing helps."""
    if float(correct.double().mean()) >= _LOW_ACCURACY:
        return []
    best: list[RepairTrial] = []
    for trial in tried:
        if trial.setup is None or trial.kind in ("class_order", "resize"):
            continue
        for order in _try_class_order(queries, trial.setup, correct):
            better = not best or order.gain > best[1].gain
            if order.setup is not None and better and helpful([order], len(tried)):
                both = replace(trial, images=order.images, correct=order.correct, before=order.before, p=order.p)
                best = [both, order]
    return best


def _try(
    queries: TeacherQueries, setup: TeacherSetup, correct: Tensor, kind: Kind, candidate: Candidate
) -> RepairTrial:
    """Compare a change of the input or the model with the teacher before it, on the same images."""
    if candidate.why_not is not None:
        return RepairTrial(kind, candidate.name, why_not=candidate.why_not)
    labels, most = queries.sample.labels, min(candidate.images, len(queries.sample))
    try:
        changed = TeacherSetup(candidate.make(), setup.class_order, candidate.model or setup.model)
        counts = compare(correct[:most], lambda count: changed.is_correct(labels, count))
    except Skip as why:
        return RepairTrial(kind, candidate.name, why_not=str(why))
    except Exception as error:  # a model for one size refuses others in its own words
        return RepairTrial(kind, candidate.name, why_not=format_error(error))
    return RepairTrial(kind, candidate.name, *counts, setup=changed)


def _try_class_order(queries: TeacherQueries, setup: TeacherSetup, correct: Tensor) -> Iterator[RepairTrial]:
    """Another class order: fitted on one half of the images, judged on the other, and the other way round."""
    labels, count, num_classes = queries.sample.labels, len(queries.sample), queries.num_classes
    columns = setup.variant.logits(count)
    num_logits = columns.shape[1]
    if num_logits < num_classes:
        why = f"the teacher has {num_logits:,} logits for {num_classes:,} classes"
        yield RepairTrial("class_order", "assignment", why_not=why)
        return
    if setup.class_order is not None and setup.class_order.dim() > 1:
        yield RepairTrial("class_order", "assignment", why_not="several logits mean one class")
        return
    guess = columns.argmax(1)
    now = correct_in_other_order(guess, labels, num_classes, num_logits, setup.class_order)
    order = assign_columns(guess, labels, num_classes, num_logits, setup.class_order)
    before = setup.class_order if setup.class_order is not None else torch.arange(num_classes)
    moved = order != before if len(before) else torch.ones(num_classes, dtype=torch.bool)
    of_moved = moved[labels]
    is_clear = bool(of_moved.any()) and float(now[of_moved].double().mean()) >= CLEAR
    p = paired_p(now, correct) if is_clear else 1.0
    is_same = order.tolist() == list(range(num_logits))
    changed = replace(setup, class_order=None if is_same else order)
    yield RepairTrial("class_order", "assignment", count, int(now.sum()), int(correct.sum()), p, setup=changed)


def _explicit_now(queries: TeacherQueries, setup: TeacherSetup) -> PreprocessConfig:
    data = queries.run_context.data.train
    return explicit_preprocess(setup.variant.preprocess, data.channels, is_pixels=data.is_pixels)


def _candidate(queries: TeacherQueries, setup: TeacherSetup, name: str, config: PreprocessConfig) -> Candidate:
    model = setup.variant.model
    return Candidate(name, lambda: TeacherVariant(queries, model, config), len(queries.sample))


def _normalisations(queries: TeacherQueries, setup: TeacherSetup) -> Iterator[Candidate]:
    """The other normalisations; size and channel order stay."""
    data = queries.run_context.data.train
    if data.images.ndim != 4:
        return
    now = _explicit_now(queries, setup)
    # Those that have a name first: of several that are as good, the first is reported.
    for name, config in _named_normalisations(queries).items():
        mean, std = (tuple(reversed(n)) if now.channel_order == "bgr" else n for n in (config.mean, config.std))
        if not (_is_near(mean, now.mean) and _is_near(std, now.std)):
            yield _candidate(queries, setup, name, now.model_copy(update={"mean": mean, "std": std}))
    # Powers mean something where the deviations are those of pixels/255.
    if all(1e-3 < each < 1 for each in now.std):
        # Variances were written for deviations, or their roots were taken twice.
        for name, power in (("by the roots of its deviations", 0.5), ("by the squares of its deviations", 2.0)):
            std = tuple(float(f"{each**power:.4g}") for each in now.std)
            if not _is_near(std, now.std):
                yield _candidate(queries, setup, name, now.model_copy(update={"std": std}))
    low, high = (0.0, 1.0) if data.is_pixels else (float(each) for each in torch.aminmax(queries.sample.images.float()))
    inverted = {"mean": tuple(round(low + high - m, 6) for m in now.mean), "std": tuple(-s for s in now.std)}
    yield _candidate(queries, setup, "inverted", now.model_copy(update=inverted))


def _named_normalisations(queries: TeacherQueries) -> dict[str, PreprocessConfig]:
    """The usual normalisations, and that of the data themselves."""
    data = queries.run_context.data.train
    channels, is_pixels = data.channels, data.is_pixels
    # Floats between 0 and 1 are pixels/255 that a normalisation may still be due to.
    low, high = (float(each) for each in torch.aminmax(queries.sample.images.float()))
    names: list[Any] = ["imagenet"] if channels == 3 else []
    names += ["half", "unit"] if is_pixels else ["half"] if low >= 0 and high <= 1 else []
    names.append("none")
    found = {
        str(name): explicit_preprocess(
            resolve_preprocess(name, channels=channels, is_pixels=is_pixels), channels, is_pixels=is_pixels
        )
        for name in names
    }
    # Mean and deviation of each channel, in the units of a preprocess.
    x = queries.sample.images.double() / (255 if is_pixels else 1)
    over = [axis for axis in range(x.dim()) if axis != 1]
    mean, std = (tuple(round(v, 4) for v in values.tolist()) for values in (x.mean(over), x.std(over).clamp_min(1e-3)))
    if not is_pixels and low < 0 and channels in (1, 3, 4):
        # Normalised already, for a model that takes x/255.
        for name in ("half", *(["imagenet"] if channels == 3 else [])):
            done = found[name] if name in found else resolve_preprocess("half", channels=channels, is_pixels=False)
            assert done is not None
            mean, std = tuple(-m / s for m, s in zip(done.mean, done.std, strict=True)), tuple(1 / s for s in done.std)
            found[f"{name} undone"] = PreprocessConfig(mean=mean, std=std)
    if not is_pixels and high > 2 and low >= 0:
        found["1/255"] = PreprocessConfig(mean=(0.0,) * channels, std=(255.0,) * channels)
    found["the data's own"] = PreprocessConfig(mean=mean, std=std)
    return found


def _channel_orders(queries: TeacherQueries, setup: TeacherSetup) -> Iterator[Candidate]:
    """The other order of the colours: the numbers of each colour moved with it, or left where they are."""
    if queries.run_context.data.train.channels != 3:
        return
    now = _explicit_now(queries, setup)
    other = "rgb" if now.channel_order == "bgr" else "bgr"
    turned = now.model_copy(update={"channel_order": other})
    with_numbers = turned.model_copy(update={"mean": now.mean[::-1], "std": now.std[::-1]})
    yield _candidate(queries, setup, other, with_numbers)
    if with_numbers != turned:
        yield _candidate(queries, setup, f"{other}, mean and std as they are", turned)


def _sizes(queries: TeacherQueries, setup: TeacherSetup) -> Iterator[Candidate]:
    """Other sizes: the images' own, multiples of it, the usual ones, the model's own; where cheap enough."""
    side = queries.run_context.data.train.image_size
    if side is None or not queries.tries_sizes:
        return
    now = _explicit_now(queries, setup)
    native = native_size(setup.model)
    multiples = {int(side * times) for times in TIMES if side * times >= 4}
    for other in sorted({side, *multiples, *SIZES, *([native] if native else [])} - {now.size or side}):
        config = now.model_copy(update={"size": None if other == side else other})
        candidate = _candidate(queries, setup, f"{other} pixels", config)
        if not _is_convolutional(setup.model):
            yield replace(candidate, images=0, why_not="the model's input has a fixed size")
            continue
        try:
            example = queries.preprocess(config)(queries.sample.images[:1]).to(queries.run_context.device)
            cost = multiply_adds(setup.model, example)
        except Exception as error:  # in whatever words a model refuses another size
            why = f"the model does not take it ({type(error).__name__})"
            yield replace(candidate, images=0, why_not=why)
            continue
        images = int((_NATIVE_COST if other == native else _COST) / max(cost, 1))
        yield replace(candidate, images=images, why_not="too expensive to try here" if images < _LEAST else None)


def _batch_statistics(queries: TeacherQueries, setup: TeacherSetup) -> Iterator[Candidate]:
    """The same model with running statistics recomputed from images as it gets them."""
    if not has_running_statistics(setup.model):
        return
    config = setup.variant.preprocess
    device = queries.run_context.device
    fresh = copy.deepcopy(setup.model)
    preprocess = queries.preprocess(config).to(device)
    recalibrate(fresh, preprocess(queries.sample.images[:BATCH].to(device)))
    make = lambda: TeacherVariant(queries, queries.prepare(fresh, config), config)  # noqa: E731
    yield Candidate("batch statistics", make, len(queries.sample), fresh)


def _tokenizers(queries: TeacherQueries, setup: TeacherSetup) -> Iterator[Candidate]:
    """The same texts by the tokenizer that lies next to the teacher's weights."""
    tokens, path = queries.run_context.data.train.tokens, tokenizer_of(queries.run_context.recipe.teacher)
    if tokens is not None and tokens.json and path is not None:
        yield from _rewritten(queries, setup, path.name, rewriter(tokens, read_tokenizer(path)))


def _cases(queries: TeacherQueries, setup: TeacherSetup) -> Iterator[Candidate]:
    """The same texts in another case, where the tokenizer distinguishes it."""
    tokens = queries.run_context.data.train.tokens
    if tokens is not None and tokens.json and not torch.equal(tokens.encode("A"), tokens.encode("a")):
        for name, change in _CASES.items():
            yield from _rewritten(queries, setup, name, rewriter(tokens, tokens.tokenizer, change))


def _rewritten(
    queries: TeacherQueries, setup: TeacherSetup, name: str, rewrite: Callable[[Tensor], Tensor]
) -> Iterator[Candidate]:
    variant, ids = setup.variant, queries.sample.images
    if not torch.equal(rewrite(ids), ids):
        make = lambda: TeacherVariant(queries, variant.model, variant.preprocess, rewrite=rewrite)  # noqa: E731
        yield Candidate(name, make, len(queries.sample))


def rewriter(
    tokens: Tokenization, tokenizer: Any, change: Callable[[str], str] = lambda text: text
) -> Callable[[Tensor], Tensor]:
    """A function of ids, int32 [n, L], that gives those of the same texts after a change, by a tokenizer."""

    def rewrite(ids: Tensor) -> Tensor:
        coded = tokenizer.encode_batch([change(tokens.decode(row)) for row in ids])
        found = np.full(ids.shape, NO_TOKEN, np.int32)
        for row, each in enumerate(coded):
            own = each.ids[: ids.shape[1]]
            found[row, : len(own)] = own
        return torch.from_numpy(found)

    return rewrite


def tokenizer_of(teacher: TeacherConfig | None) -> Path | None:
    """The tokenizer.json that lies next to a teacher's weights, or in its folder of transformers."""
    named = [] if teacher is None or teacher.weights is None else [find_input(teacher.weights).parent]
    if teacher is not None and teacher.name.startswith("transformers:"):
        named.append(find_input(teacher.name.partition(":")[2]))
    files = (folder / "tokenizer.json" for folder in named)
    return next((file for file in files if file.is_file()), None)


def native_size(model: nn.Module) -> int | None:
    """The image size that a model declares, as timm's do."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        given = config.get("input_size") if isinstance(config, Mapping) else None
        if isinstance(given, tuple | list) and len(given) == 3:
            return int(given[-1])
    return None


def _is_convolutional(model: nn.Module) -> bool:
    """Whether its first layer is a convolution, so that it may take other sizes."""
    layers = (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return isinstance(next(layers, None), nn.Conv2d)


def _is_near(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= 0.01 * max(abs(a), abs(b), 0.01) for a, b in zip(one, other, strict=True))
