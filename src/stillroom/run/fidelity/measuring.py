"""What each member says of each image, at each tap and checkpoint: a number each, and nothing else is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stillroom.data.images import ImageSet
from stillroom.data.loader import Batch
from stillroom.errors import BadInput, RunFailed, format_error
from stillroom.losses.connectors import MapConnector, TokenConnector, VectorConnector, laid_out, rows_of
from stillroom.memory import in_parts, is_out_of_memory
from stillroom.models.cost import multiply_adds
from stillroom.models.modes import eval_mode
from stillroom.models.preprocess import Preprocess
from stillroom.models.reader import LOGITS, TapReader
from stillroom.models.taps import Tap
from stillroom.models.weights import load_weights
from stillroom.run.fidelity.fitting import Affine, Moments
from stillroom.run.fidelity.loading import Subject
from stillroom.run.fidelity.members import WEIGHINGS, at_logits, at_tap
from stillroom.teachers.fisher import head_fisher, tail_fisher, uniform_draws
from stillroom.teachers.live import LiveTeacher
from stillroom.teachers.tails import TeacherTail, cut_tails

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_BATCH = 64
_EXAMPLES = 8
# Images that the map between features is fitted on, for each one that it is judged on.
_FITTED_FOR_EACH = 2
# As losses do (feature_fisher, samples: auto): all of few classes, of many a few that are drawn …
_ALL_OF, _DRAWN = 16, 4
# … but all where their backward passes through the teacher's tail are no more multiply-adds than this in all.
_AFFORDABLE = 3e12


@dataclass(frozen=True)
class Opposite:
    """Two taps that stand opposite each other.

    Attributes:
        teacher: the teacher's.
        student: the student's.
        draws: classes drawn of the teacher's answer for the Fisher diagonal; 0 takes all, without a sample's noise.
        values: what each member says, [4, C, I] in the order of ``WEIGHINGS``.
        explained: share of the variance of the teacher's features that the student's explain, at each checkpoint;
            none at the logits, which are compared as they are.
    """

    teacher: Tap
    student: Tap
    draws: int
    values: Doubles
    explained: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        opposites: the taps, shallow to deep, the logits last.
        divergence: of the student from its teacher, τ²·KL(p‖q), [C, I].
        images: how many it was measured on.
        fitted: how many the maps between features were fitted on.
        skipped: pairs of taps that no map connects, and why.
    """

    opposites: tuple[Opposite, ...]
    divergence: Doubles
    images: int
    fitted: int
    skipped: tuple[str, ...]


@dataclass
class _Place:
    """A pair of taps while it is measured."""

    teacher: Tap
    student: Tap
    connector: VectorConnector | MapConnector | TokenConnector
    tail: TeacherTail
    draws: int
    maps: list[Affine] = field(default_factory=list)

    def weights(self, features: Tensor, logits: Tensor, rows: Rows, temperature: float) -> Tensor:
        """The Fisher diagonal in the teacher's features, as losses are given it."""
        head = self.tail.head
        if head is not None:
            return head_fisher(head, logits, temperature=temperature)
        draws = uniform_draws(self.draws, rows, 0).to(features.device) if self.draws else None
        return tail_fisher(self.tail, features, temperature=temperature, draws=draws)


def measure(subject: Subject, *, images: int, temperature: float) -> Measured:
    """Ask teacher and student, at each checkpoint, about the same images.

    Args:
        subject: the run.
        images: of the test split, evenly spread; all where it has no more.
        temperature: τ.

    Raises:
        BadInput: weights that were kept are damaged, or teacher and student have no taps in common.
        RunFailed: something in it is not finite, or the teacher's tail has no derivative that is needed.
    """
    return _Measuring(subject, temperature).done(images)


def spread(total: int, count: int) -> Rows:
    """So many places of so many, evenly spread: all where there are no more.

    >>> spread(10, 4).tolist(), spread(3, 5).tolist()
    ([0, 2, 5, 7], [0, 1, 2])
    """
    count = min(total, count)
    return np.arange(count, dtype=np.int64) * total // count


class _Measuring:
    """The models, ready to be asked."""

    def __init__(self, subject: Subject, temperature: float) -> None:
        self.subject, self.temperature = subject, temperature
        self.device, self.observer = subject.setting.device, subject.setting.observer
        self.train, self.test = subject.data.train, subject.data.test
        self.pipe = subject.student.preprocess().to(self.device)

    def done(self, images: int) -> Measured:
        rows = spread(len(self.test), images)
        places, skipped = self._places(len(rows))
        self.places = places
        teacher = self.subject.teacher
        self.live = LiveTeacher(
            teacher.model,
            teacher.preprocess(),
            example=self.train.images[:_EXAMPLES],
            device=self.device,
            taps=[place.teacher.name for place in places],
        )
        fitted = spread(len(self.train), _FITTED_FOR_EACH * len(rows)) if places else rows[:0]
        self._fit(fitted)
        values, divergence, left = self._values(rows)
        opposites = [
            Opposite(place.teacher, place.student, place.draws, values[n], tuple(left[n]))
            for n, place in enumerate(places)
        ]
        logits = self.subject.setup_context.pairs[-1]
        opposites.append(Opposite(*logits, 0, values[-1], ()))
        return Measured(tuple(opposites), divergence, len(rows), len(fitted), tuple(skipped))

    def _places(self, images: int) -> tuple[list[_Place], list[str]]:
        setup_context, teacher = self.subject.setup_context, self.subject.teacher
        pairs = setup_context.pairs
        if not pairs or pairs[-1][0].name != LOGITS:
            raise BadInput("teacher", teacher.name, "a teacher and a student whose logits can be read")
        connected, skipped = [], []
        for at, of in pairs[:-1]:
            try:
                connector = setup_context.connector(of, at)
            except BadInput as error:
                skipped.append(f"{of.name} → {at.name}: expected {error.expected}")
                continue
            assert isinstance(connector, VectorConnector | MapConnector | TokenConnector)
            connected.append((at, of, connector.to(self.device)))
        example = self.train.images[:_EXAMPLES]
        names = [at.name for at, _, _ in connected]
        tails = cut_tails(teacher.model, teacher.preprocess(), names, example=example, device=self.device)
        inputs = teacher.preprocess().to(self.device)(example)
        cost = images * self.train.num_classes * multiply_adds(teacher.model, inputs)
        places = []
        for at, of, connector in connected:
            afford = self.train.num_classes <= _ALL_OF or cost * (1 - at.depth) <= _AFFORDABLE
            draws = 0 if afford or tails[at.name].head is not None else _DRAWN
            places.append(_Place(at, of, connector, tails[at.name], draws))
        return places, skipped

    def _fit(self, rows: Rows) -> None:
        """Fit the map of each pair at each checkpoint."""
        moments = [[Moments() for _ in self.subject.kept] for _ in self.places]
        for batch in self._batches(self.train, rows, "fitting connectors"):
            features = self.live(batch).features
            wanted = [rows_of(features[place.teacher.name], place.teacher).flatten(0, 1) for place in self.places]
            for c, (_, seen) in enumerate(self._students(batch.images)):
                for place, target, each in zip(self.places, wanted, moments, strict=True):
                    x = place.connector.gathered(seen[place.student.name])
                    each[c].add(x.flatten(0, 1), target)
        for place, each in zip(self.places, moments, strict=True):
            place.maps = [one.fitted() for one in each] if len(rows) else []

    def _values(self, rows: Rows) -> tuple[Doubles, Doubles, list[list[float]]]:
        """What each member says [taps, 4, C, I], the student's divergence [C, I], the variance explained."""
        parts: list[tuple[Tensor, Tensor]] = []
        for batch in self._batches(self.test, rows, "asking teacher and student"):
            try:
                parts += in_parts(partial(self._asked, batch), len(batch))
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error) or isinstance(error, RunFailed):
                    raise
                raise RunFailed(
                    f"the teacher's features could not be followed to its logits: {format_error(error)}"
                ) from None
        values = torch.cat([part[0] for part in parts], -1).numpy()
        variance = torch.cat([part[1] for part in parts], -1).sum(-1)
        self._check(values)
        left = values[:-1, 0].sum(-1)
        # A channel that is constant has no variance, and is explained by its mean.
        explained = 1 - left / np.where(variance.numpy() > 0, variance.numpy(), np.inf)[:, None]
        return values, values[-1, -1], explained.tolist()

    def _asked(self, whole: Batch, part: slice) -> list[tuple[Tensor, Tensor]]:
        """Of some images, what each member says [taps, 4, C, B], and their part of the features' variance [taps, B]."""
        batch = whole.subset(part)
        said = self.live(batch)
        features, weights, variance = [], [], []
        for place in self.places:
            h = said.features[place.teacher.name]
            features.append(h)
            weights.append(place.weights(h, said.logits, batch.rows, self.temperature))
            centred = rows_of(h, place.teacher).double() - place.maps[0].mean
            variance.append(centred.square().flatten(1).mean(1))
        found = []
        for c, (logits, seen) in enumerate(self._students(batch.images)):
            of_taps = []
            for place, h, w in zip(self.places, features, weights, strict=True):
                mapped = place.maps[c](place.connector.gathered(seen[place.student.name]))
                student = laid_out(mapped, place.teacher)
                tau = self.temperature
                of_taps.append(at_tap(student, h, w, place.tail, said.logits, temperature=tau))
            of_taps.append(at_logits(logits, said.logits, temperature=self.temperature))
            found.append(torch.stack(of_taps))
        spent = torch.stack(variance) if variance else torch.zeros(0, len(batch), dtype=torch.float64)
        return [(torch.stack(found, 2).cpu(), spent.cpu())]

    def _students(self, images: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The logits and the features of the student at each checkpoint."""
        model, names = self.subject.student.model, [place.student.name for place in self.places]
        for kept in self.subject.kept:
            # Read again for each batch: however many there are, one is in memory.
            load_weights(model, kept.path, field="student")
            yield answer(model, self.pipe, images, names)

    def _batches(self, data: ImageSet, rows: Rows, what: str) -> Iterator[Batch]:
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH]
            index = torch.from_numpy(chosen)
            images = data.images[index].to(self.device)
            yield Batch(images, data.labels[index].to(self.device), index.to(self.device), chosen, 0)
            self.observer.phase(what, min(start + _BATCH, len(rows)), len(rows))

    def _check(self, values: Doubles) -> None:
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            tap, weighing, checkpoint, _ = wrong[0]
            names = [*(place.teacher.name for place in self.places), LOGITS]
            at = f"at {names[tap]}, epoch {self.subject.kept[checkpoint].epoch:g}"
            raise RunFailed(f"the {WEIGHINGS[weighing]} member is not finite {at}: such weights cannot be compared")


@torch.no_grad()
def answer(
    model: nn.Module, pipe: Preprocess, images: Tensor, names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A model's logits [B, K] in the data's class order, and its features at taps, all float32."""
    taps = TapReader(model, names, field="student")
    with eval_mode(model), taps:
        logits = pipe.reorder(model(pipe(images)).float())
    return logits, {name: feature.float() for name, feature in taps.take().items()}
