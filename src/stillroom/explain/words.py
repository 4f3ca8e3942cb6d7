"""Word-wise information: how much of each word of a text a layer keeps, over the training, by itself and by teacher.

Where it is known which words matter, the words that are kept well beyond the others are concepts, as cells of images.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from stillroom.data.images import ImageSet
from stillroom.data.quality import describe_data
from stillroom.data.tokens import Tokenization
from stillroom.errors import BadInput
from stillroom.explain.explanation import THRESHOLD, late_checkpoints, published_selection
from stillroom.explain.hypotheses import judge_hypotheses, student_half_width
from stillroom.explain.metrics import ConceptStatistics, concept_statistics, summarise
from stillroom.explain.runs import RunToExplain, check_seeds, load_runs, load_teacher, matched_runs, read_npy
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.prepared import PreparedModel
from stillroom.models.reader import FEATURES, TapReader
from stillroom.models.weights import load_weights
from stillroom.observer import Observer
from stillroom.run.components import RunObjects
from stillroom.run.fidelity.measure import evenly_spread
from stillroom.schema.base import read_text, six_digits, write
from stillroom.schema.explanation import (
    EXPLANATION_WORDS,
    FEWEST_IMAGES,
    HypothesisTest,
    MeanOverTexts,
    Rationales,
    TextWords,
    WordCheckpoint,
    WordExplanation,
    WordNetwork,
)
from stillroom.train.device import exact_float32, resolve_device, threads

# A word that features do not depend on at all is given this share of the energy of the one they depend on most.
_LEAST = 1e-8
_BLOCK = 16
_FEWEST_WORDS = 3  # of a text whose order of words is compared


def word_information(feature_fn: Callable[[Tensor], Tensor], embeddings: Tensor, words: Tensor) -> Tensor:
    """How many nats more than of the text's mean word a layer keeps of each word.

    Noise x + σ_i ε is added to the embedding of each word i. σ minimises E‖f(x + σε) − f(x)‖² where the mean entropy of
    the noise, H_i = log σ_i + ½ log 2πe, is given: the word-wise form of pixel-wise entropy. For small noise the energy
    of word i is a_i σ_i² with a_i = ‖∂f/∂x_i‖²_F, so that log σ_i = c − ½ log a_i in closed form, exact where f is
    linear, and

    ``I_i = mean_j H_j − H_i = ½ (log a_i − mean_j log a_j)``.

    Positive: the layer keeps more of the word than of the others. The mean over a text is 0, for any network.

    Args:
        feature_fn: the probed layer as a function of embeddings, [B, L, d] → [B, m], of each text by itself.
        embeddings: of each token, [B, L, d].
        words: which tokens have noise, bool [B, L]; not padding and special tokens.

    Returns:
        I, float64 [B, L]; NaN where there is no word.

    Raises:
        BadInput: features that do not depend on the embeddings, or are not finite.

    Paper: Guan et al., Towards A Deep and Unified Understanding of Deep Neural Models in NLP (ICML 2019).

    >>> weights = torch.tensor([3.0, 1.0])
    >>> x = torch.zeros(1, 2, 4)
    >>> found = word_information(lambda e: (weights[:, None] * e).sum(1), x, torch.ones(1, 2, dtype=torch.bool))
    >>> [round(value, 4) for value in found[0].tolist()], round(0.5 * math.log(3), 4)
    ([0.5493, -0.5493], 0.5493)
    """
    x = embeddings.detach().float().requires_grad_()
    with torch.enable_grad():
        features = feature_fn(x).flatten(1)
    if not bool(features.isfinite().all()):
        raise BadInput("feature_fn", "NaN or infinity", "features that are finite")
    energies = torch.zeros(words.shape, dtype=torch.float64, device=x.device)
    for place in range(features.shape[1]) if features.requires_grad else ():
        last = place == features.shape[1] - 1
        (gradient,) = torch.autograd.grad(features[:, place].sum(), x, retain_graph=not last, allow_unused=True)
        if gradient is not None:
            energies += gradient.double().square().sum(2)
    energies = energies.masked_fill(~words, 0.0)
    most = energies.amax(1, keepdim=True)
    if not bool((most[words.any(1)] > 0).all()):
        raise BadInput("feature_fn", "no gradient", "features that depend on the embeddings of each text's words")
    halves = energies.clamp_min(_LEAST * most).log().masked_fill(~words, 0.0) / 2
    found = halves - halves.sum(1, keepdim=True) / words.sum(1, keepdim=True)
    return found.masked_fill(~words, math.nan)


class EmbeddedTexts:
    """A model of texts as a function of its word embeddings.

    Args:
        model: takes token ids.
        vocabulary: number that ids are below.

    Raises:
        BadInput: it has no ``nn.Embedding`` of so many rows.
    """

    def __init__(self, model: nn.Module, vocabulary: int) -> None:
        self.model = model
        named = getattr(model, "get_input_embeddings", None)
        tables = [each for each in model.modules() if isinstance(each, nn.Embedding)]
        table = named() if callable(named) else next((one for one in tables if one.num_embeddings >= vocabulary), None)
        if not isinstance(table, nn.Module):
            expected = f"a model with an nn.Embedding of {vocabulary:,} rows or more, whose output can have noise"
            raise BadInput("run", type(model).__name__, expected)
        self.table = table

    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings of texts, [B, L, d]."""
        held: list[Tensor] = []
        with self._output(held.append), torch.no_grad(), eval_mode(self.model):
            self.model(ids)
        return held[0].detach()

    def features(self, ids: Tensor, tap: str) -> Callable[[Tensor], Tensor]:
        """The features at a tap as a function of the embeddings."""
        reader = TapReader(self.model, [tap], field="student")

        def of(embeddings: Tensor) -> Tensor:
            with eval_mode(self.model), reader, self._output(lambda output: embeddings):
                self.model(ids)
            return reader.take()[tap]

        return of

    @contextmanager
    def _output(self, change: Callable[[Tensor], Any]) -> Iterator[None]:
        handle = self.table.register_forward_hook(lambda module, inputs, output: change(output))
        try:
            yield
        finally:
            handle.remove()


def explain_words(
    runs: Sequence[Path],
    baselines: Sequence[Path] = (),
    *,
    tap: str | None = None,
    texts: int = 50,
    mask: Path | str | None = None,
    observer: Observer | None = None,
    objects: Mapping[Path, RunObjects] | None = None,
) -> WordExplanation:
    """Find what runs' students keep of each word of test texts, over their checkpoints, and compare with the teacher.

    Where ``mask`` says which words matter, words with an entropy of more than .2 nats below the other words' mean are
    concepts: their numbers, and the three hypotheses about them, are those of images (Cheng et al. 2020).

    Writes ``explain-words.json`` into the first run's folder.

    Args:
        runs: folders of finished runs of texts, one a seed.
        baselines: the same students trained on labels, one for each of ``runs``; none for no comparison.
        tap: where features are read; left out: before the last layer.
        texts: how many of the test split, evenly spread.
        mask: the words that matter: FILE.txt of key words, one a line; FILE.jsonl of a list of words for each test
            text; or FILE.npy, bool [texts, tokens] of the test split.
        observer: shows how it goes.
        objects: of runs made in Python, what their recipes cannot make again.

    Raises:
        BadInput: runs, data or options cannot be used.
    """
    runs, baselines = matched_runs(runs, baselines, texts)
    observer = observer or Observer()
    try:
        with exact_float32():
            loaded = load_runs([*runs, *baselines], tap or FEATURES, objects)
            check_seeds(loaded, len(runs))
            with threads(loaded[0].recipe.training.threads):
                found = _explain(loaded, len(runs), tap, texts, mask, observer)
    finally:
        observer.run_ended()
    write(runs[0] / EXPLANATION_WORDS, found)
    return found


def _explain(
    runs: Sequence[RunToExplain],
    explained: int,
    tap: str | None,
    count: int,
    mask: Path | str | None,
    observer: Observer,
) -> WordExplanation:
    data = runs[0].objects.load_data(runs[0].recipe, runs[0].summary.data.fingerprint)
    describe_data(data, observer.note)
    test = data.test
    if test.tokens is None:
        raise BadInput("run", str(runs[0].path), "a run of texts")
    rows = evenly_spread(len(test), count)
    ids = test.images[torch.from_numpy(rows)]
    words = test.tokens.words(ids)
    glued = [test.tokens.spans(row) for row in ids]
    known = None if mask is None else KnownWords.read(Path(mask), test, rows, glued)
    teacher = load_teacher(runs[0], test)
    of_teacher = None
    if teacher is not None:
        place = tap if tap in dict(teacher.model.named_modules()) else FEATURES
        observer.phase("reading the teacher's words", 0, 1)
        of_teacher = _information(teacher, place or FEATURES, ids, words, test.tokens)
    found: list[list[npt.NDArray[np.float64]]] = []
    total = sum(len(run.checkpoints) for run in runs)
    for run in runs:
        found.append([])
        for checkpoint in run.checkpoints:
            load_weights(run.student.model, checkpoint.path, field="student")
            found[-1].append(_information(run.student, run.tap, ids, words, test.tokens))
            observer.phase("finding what is kept of words", sum(map(len, found)), total)
    networks, finals = [], []
    statistics = None if known is None else [known.statistics(each, run) for run, each in zip(runs, found, strict=True)]
    for number, (run, each) in enumerate(zip(runs, found, strict=True)):
        concepts = None if statistics is None else summarise(statistics[number], run.epochs, run.weight_distance)
        with_teacher = [None if of_teacher is None else _correlations(one, of_teacher) for one in each]
        finals.append(with_teacher[-1])
        checkpoints = [
            WordCheckpoint(
                epoch=checkpoint.epoch,
                with_teacher=None if theirs is None else _mean(theirs),
                with_end=_mean(_correlations(one, each[-1])),
            )
            for checkpoint, one, theirs in zip(run.checkpoints, each, with_teacher, strict=True)
        ]
        networks.append(
            WordNetwork(
                run=run.path.name,
                name=run.summary.name,
                role="explained" if number < explained else "baseline",
                seed=run.recipe.seed,
                tap=run.tap,
                accuracy=six_digits(run.summary.student.top1 / 100),
                checkpoints=tuple(checkpoints),
                concepts=() if concepts is None else concepts[0],
                speed=None if concepts is None else concepts[1],
                stability=None if concepts is None else concepts[2],
            )
        )
    gain = None
    if len(runs) > explained and of_teacher is not None:
        # Of each text the mean over pairs of runs: what the interval is over is the draw of texts.
        pairs = [(one, other) for one, other in zip(finals, finals[explained:], strict=False)]
        gain = _mean(np.mean([one - other for one, other in pairs if one is not None and other is not None], 0))

    def of_words(text: int, values: npt.NDArray[np.float64]) -> tuple[float, ...]:
        return tuple(six_digits(float(np.mean(values[text, list(places)]))) for _, places in glued[text])

    of_concepts: dict[str, Any] = {}
    if known is not None and statistics is not None:
        usable = known.usable(runs, found) if len(runs) > explained else None
        of_concepts = {"rationales": known.facts.model_copy(update={"published": usable})}
        of_concepts["hypotheses"] = known.hypotheses(statistics, explained, usable or 0)
        if of_teacher is not None:
            (counts,), _, _ = summarise(known.statistics([of_teacher]), [None], None)
            of_concepts["teacher_concepts"] = counts
    return WordExplanation(
        teacher=None if teacher is None else teacher.name,
        networks=tuple(networks),
        gain=gain,
        **of_concepts,
        texts=tuple(
            TextWords(
                row=int(row),
                label=test.class_names[int(test.labels[int(row)])],
                words=tuple(word for word, _ in glued[text]),
                rationale=() if known is None else tuple(known.matters[text, 0, : len(glued[text])].tolist()),
                teacher=() if of_teacher is None else of_words(text, of_teacher),
                kept=tuple(tuple(of_words(text, one) for one in each) for each in found),
            )
            for text, row in enumerate(rows.tolist())
        ),
    )


def _information(
    prepared: PreparedModel, tap: str, ids: Tensor, words: Tensor, tokens: Tokenization
) -> npt.NDArray[np.float64]:
    device = resolve_device("auto")
    prepared.model.to(device)
    embedded, pipe = EmbeddedTexts(prepared.model, tokens.vocabulary), prepared.preprocess().to(device)
    parts = []
    for start in range(0, len(ids), _BLOCK):
        part = pipe(ids[start : start + _BLOCK].to(device_of(prepared.model)))
        mask = words[start : start + _BLOCK].to(device)
        parts.append(word_information(embedded.features(part, tap), embedded.embed(part), mask).cpu().numpy())
    return np.concatenate(parts)


def _correlations(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation over the words of each text; NaN where they are too few, or all alike."""
    found = []
    for a, b in zip(one, other, strict=True):
        there = np.isfinite(a)
        a, b = a[there], b[there]
        varies = len(a) >= _FEWEST_WORDS and np.ptp(a) > 0 and np.ptp(b) > 0
        found.append(float(spearmanr(a, b).statistic) if varies else math.nan)
    return np.array(found)


def _mean(values: npt.NDArray[np.float64]) -> MeanOverTexts | None:
    """The mean over texts with Student's 95% interval."""
    held = values[np.isfinite(values)]
    if len(held) < 2:
        return None
    margin, mean = student_half_width(held, 0.95), float(held.mean())
    return MeanOverTexts(
        mean=six_digits(mean), low=six_digits(mean - margin), high=six_digits(mean + margin), texts=len(held)
    )


@dataclass(frozen=True)
class KnownWords:
    """Which words of texts matter: the foreground that their concepts lie on."""

    file: str
    spans: Sequence[Sequence[tuple[str, tuple[int, ...]]]]  # of each text its words, with the places of their tokens
    cells: Tensor  # which words there are, bool [texts, 1, words]
    matters: Tensor  # which of them matter, bool [texts, 1, words]

    @classmethod
    def read(
        cls,
        path: Path,
        test: ImageSet,
        rows: npt.NDArray[np.int64],
        spans: Sequence[Sequence[tuple[str, tuple[int, ...]]]],
    ) -> KnownWords:
        """Read the words that matter in some texts of a test split.

        Args:
            path: see :func:`explain_words`.
            test: the split.
            rows: which of its texts, int64 [texts].
            spans: their words.

        Raises:
            BadInput: no such file, another number of texts, or words of which no other is left to compare with.
        """
        if path.suffix not in (".txt", ".jsonl", ".npy"):
            expected = "FILE.txt of key words, FILE.jsonl of a list of words for each test text, or FILE.npy"
            raise BadInput("--mask", str(path), f"{expected}: bool [texts, tokens]")
        tokens = test.tokens
        assert tokens is not None
        if path.suffix == ".npy":
            by_token = _token_masks(path, tuple(test.images.shape))[rows]
            chosen = [
                [bool(mask[list(places)].any()) for _, places in words]
                for words, mask in zip(spans, by_token, strict=True)
            ]
        elif not tokens.json:
            raise BadInput("--mask", str(path), "FILE.npy, bool [texts, tokens]: these texts have no tokenizer")
        else:
            lines = read_text(path).splitlines()
            if path.suffix == ".txt":
                key = _normal_words(lines, tokens)
                keys = [key] * len(rows)
            else:
                lists = [_words_of_line(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
                if len(lists) != len(test):
                    expected = f"a list of words for each of the {len(test):,} test texts"
                    raise BadInput("--mask", f"{len(lists):,} lines of {path.name}", expected)
                keys = [_normal_words(lists[row], tokens) for row in rows]
            chosen = [[_normal(word) in key for word, _ in words] for words, key in zip(spans, keys, strict=True)]
        most = max(map(len, chosen), default=0)
        cells, matters = (torch.zeros(len(rows), 1, most, dtype=torch.bool) for _ in range(2))
        for text, each in enumerate(chosen):
            cells[text, 0, : len(each)], matters[text, 0, : len(each)] = True, torch.tensor(each)
        if not bool(matters.any()) or bool((matters == cells).all()):
            got = "none of the texts' words" if not bool(matters.any()) else "all of the texts' words"
            raise BadInput("--mask", f"{got} in {path.name}", "some words that matter, and others to compare with")
        return cls(path.name, spans, cells, matters)

    @property
    def facts(self) -> Rationales:
        """What ``explain-words.json`` says of them."""
        share = float(self.matters.sum() / self.cells.sum())
        without = int((~self.matters.flatten(1).any(1)).sum())
        return Rationales(file=self.file, threshold=THRESHOLD, words=six_digits(share), without=without)

    def entropy(self, kept: Sequence[npt.NDArray[np.float64]]) -> Tensor:
        """H of each word but for a constant, [M, texts, 1, words], of what is kept of tokens, [texts, tokens] each."""
        found = torch.zeros(len(kept), *self.cells.shape, dtype=torch.float64)
        for place, values in enumerate(kept):
            for text, words in enumerate(self.spans):
                for word, (_, places) in enumerate(words):
                    found[place, text, 0, word] = -float(np.mean(values[text, list(places)]))
        return found

    def statistics(self, kept: Sequence[npt.NDArray[np.float64]], run: RunToExplain | None = None) -> ConceptStatistics:
        """The concepts of a network at its checkpoints."""
        distance = None if run is None or run.weight_distance is None else run.weight_distance[1]
        return concept_statistics(self.entropy(kept), self.matters, distance, threshold=THRESHOLD, cells=self.cells)

    def usable(self, runs: Sequence[RunToExplain], kept: Sequence[Sequence[npt.NDArray[np.float64]]]) -> int:
        """In how many texts all networks keep the words that matter more than the others, late in the training."""
        late = late_checkpoints([run.epochs for run in runs], [self.entropy(each) for each in kept])
        return int(published_selection(late, self.matters, self.cells).sum())

    def hypotheses(
        self, statistics: Sequence[ConceptStatistics], explained: int, usable: int
    ) -> tuple[HypothesisTest, ...]:
        """The three hypotheses by each explained run against its baseline; none without baselines.

        No verdict of fewer than ``FEWEST_IMAGES`` usable texts.
        """
        pairs = list(zip(statistics[:explained], statistics[explained:], strict=False))
        if not pairs:
            return ()
        found = judge_hypotheses(pairs, 0, decided=usable >= FEWEST_IMAGES)
        words = ("of the subject and fewer of the background", "among the words that matter and fewer among the others")
        return tuple(each.model_copy(update={"claim": each.claim.replace(*words)}) for each in found)


def _normal(word: str) -> str:
    return word.casefold().strip(string.punctuation)


def _normal_words(texts: Sequence[str], tokens: Tokenization) -> set[str]:
    """The words of texts as the tokenizer splits them, punctuation left out."""
    return {_normal(word) for text in texts for word, _ in tokens.spans(tokens.encode(text))} - {""}


def _words_of_line(line: str, number: int, path: Path) -> list[str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise BadInput("--mask", line, f'a list of words such as ["cold", "soup"] in line {number} of {path.name}')
    return found


def _token_masks(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    held = read_npy(path)
    if held.shape != shape or not bool(np.isin(held, (0, 1)).all()):
        expected = f"0 and 1 {list(shape)}, one for each token of the test split"
        raise BadInput("--mask", f"{held.dtype} {list(held.shape)}", expected)
    return np.asarray(held, np.bool_)
