"""Each member's value for each image, at each pair of taps and checkpoint of a finished run.

Features of the student come to the teacher's shape by the linear map that fits best, in closed form: a function of the
two models alone, however the student was trained. A run's own connectors are not kept, and most runs have none.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stillroom.data.images import DataPair, ImageSet
from stillroom.data.loader import Batch
from stillroom.data.quality import describe_data
from stillroom.errors import BadInput, RunFailed, format_error
from stillroom.losses import functional
from stillroom.losses.connectors import MapConnector, TokenConnector, VectorConnector, from_rows, to_rows
from stillroom.losses.registry import losses
from stillroom.losses.setup_context import SetupContext
from stillroom.memory import in_parts, is_out_of_memory
from stillroom.models.cost import multiply_adds
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.prepared import PreparedModel, prepare_model
from stillroom.models.preprocess import Preprocess
from stillroom.models.reader import LOGITS, TapReader
from stillroom.models.taps import Tap
from stillroom.models.weights import load_weights, state_hash
from stillroom.observer import Observer
from stillroom.recipe import Recipe
from stillroom.run.build import setup_context_of
from stillroom.run.components import RunObjects
from stillroom.run.context import RunContext
from stillroom.run.export import load_student
from stillroom.runtime import Processes
from stillroom.schema.base import read_json
from stillroom.schema.fidelity import WEIGHINGS, Weighing
from stillroom.schema.run import RunSummary
from stillroom.teachers.fisher import head_fisher, tail_fisher, uniform_draws
from stillroom.teachers.live import LiveTeacher
from stillroom.teachers.tails import TeacherTail, cut_tails
from stillroom.train.device import resolve_device

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


# --- the run ---

_KEPT = re.compile(r"epoch-(\d+)\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """The student's weights at an epoch."""

    epoch: float
    path: Path


@dataclass(frozen=True)
class FidelityRun:
    """A finished run, loaded again."""

    recipe: Recipe  # as the run's folder has it
    teacher_name: str  # of the teacher, in the recipe
    recipe_hash: str  # the recipe's hash, by the summary
    context: RunContext  # its data, and where models run now: in float32
    teacher: PreparedModel  # the run's, checked to have the same weights
    student: PreparedModel  # a model for the weights of any of ``checkpoints``
    checkpoints: tuple[Checkpoint, ...]  # the student at the epochs that were kept, the end of the training last
    setup_context: SetupContext  # which taps of teacher and student are paired

    @property
    def data(self) -> DataPair:
        """Both splits, as the run had them."""
        return self.context.data


def load_run(
    run: Path, observer: Observer, objects: RunObjects | None = None, teacher_name: str | None = None
) -> FidelityRun:
    """Load what a finished run was made of, and check that it is the same.

    Args:
        run: its folder.
        observer: shows the data and what is missing.
        objects: those of a Python run.
        teacher_name: which of several teachers; left out: the most accurate.
    """
    objects = objects or RunObjects()
    model, recipe, _ = load_student(run, objects)
    summary = read_json(RunSummary, run / "summary.json")
    summary.require_single_label("fidelity ranks images by divergences of answers over classes")
    if summary.data.vocabulary is not None:
        expected = "images: the map's tails are given features alone, and those of texts need the texts' padding, too"
        raise BadInput("data.source", "text", expected)
    if not recipe.all_teachers:
        raise BadInput("teacher", None, "a run with a teacher: the student is compared with it")
    name = teacher_name or summary.reference_of(recipe.model_teachers) or next(iter(recipe.all_teachers))
    if name not in recipe.all_teachers:
        raise BadInput.unknown("--teacher", name, recipe.all_teachers)
    config, field = recipe.all_teachers[name], recipe.teacher_field(name)
    if config.members is not None:
        raise BadInput(f"{field}.members", list(config.members), "a teacher that is one model: name a member")
    if config.changes:
        raise BadInput(field, config.name, "a teacher that stays as it is: this one changes with the student")
    if config.embeddings:
        raise BadInput(f"{field}.embeddings", True, "a teacher with logits")
    if config.logits is not None:
        expected = "a teacher that can be run here: its features are read, and its answers alone do not hold them"
        raise BadInput(f"{field}.logits", config.logits, expected)
    data = objects.load_data(recipe, summary.data.fingerprint)
    describe_data(data, observer.note)
    device = resolve_device("auto")
    context = RunContext(
        recipe=recipe, data=data, device=device, precision="float32", processes=Processes(), observer=observer
    )
    teacher = objects.make_teacher(name, recipe, data.train).to(device)
    prepared = prepare_model(teacher, config, data.train, field)
    if summary.teachers[name].weights_hash != state_hash(teacher):
        raise BadInput(f"{field}.weights", config.weights, "the weights that the run's teacher had")
    student = prepare_model(model.to(device), recipe.student, data.train, "student")
    kept = saved_checkpoints(run, summary.epochs)
    if len(kept) == 1:
        more = "training.checkpoints=[0,1,2,5,10] keeps the student at such epochs"
        observer.note(f"no checkpoints in {run}: the map is of the trained student alone; {more}")
    return FidelityRun(
        recipe,
        name,
        summary.recipe_hash,
        context,
        prepared,
        student,
        kept,
        setup_context_of(context, student, prepared),
    )


def saved_checkpoints(run: Path, epochs: float) -> tuple[Checkpoint, ...]:
    """The student's weights that a finished run kept, the trained student's last."""
    found = [
        Checkpoint(float(match[1]), path)
        for path in (run / "checkpoints").glob("epoch-*.safetensors")
        if (match := _KEPT.fullmatch(path.name))
    ]
    # A checkpoint of the last epoch is the trained student.
    before = sorted((kept for kept in found if kept.epoch < epochs), key=lambda kept: kept.epoch)
    return *before, Checkpoint(epochs, run / "student.safetensors")


# --- the members, for each image by itself ---


def _loss_name(weighing: Weighing, at_logits: bool) -> str:
    """The loss that weighs the gap so, and how where that is not its default."""
    name, kind = next(
        (name, kind)
        for name, kind in losses().items()
        if weighing in kind.weighings and (kind.family == "logits") == at_logits
    )
    return name if weighing == kind.weighings[0] else f"{name} ({weighing})"


# The loss of each weighing: at a tap, and at the logits.
AT_TAP, AT_LOGITS = (tuple(_loss_name(weighing, at_logits) for weighing in WEIGHINGS) for at_logits in (False, True))


def at_tap(
    student: Tensor, teacher: Tensor, weight: Tensor, tail: TeacherTail, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """Each member's value of the gap in features.

    Formula: δh = r(h_s) − h_t; ``mean_j δh_j²``, ``½ Σ_j w_j δh_j²``, ``½ Var_p(J δh)``,
    ``τ²·KL(p‖softmax(tail(h_t + δh)/τ))``.

    Args:
        student: r(h_s), [B, …], in the shape of the teacher's features.
        teacher: h_t, [B, …].
        teacher_logits: z_t, [B, K].

    Returns:
        float64 [4, B], in the order of ``WEIGHINGS``.
    """
    p = torch.softmax(teacher_logits.double() / temperature, 1)
    with torch.no_grad():
        moved, through = tail.jvp(teacher, student - teacher), tail(student)
    return torch.stack(
        [
            _per_sample(functional.feature_mse, student, teacher),
            _per_sample(functional.feature_fisher, student, teacher, weight),
            _per_sample(functional.half_variance, moved, p),
            _per_sample(partial(functional.kl, temperature=temperature), through, teacher_logits),
        ]
    )


def at_logits(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Each member's value of the gap in the logits.

    Args:
        student_logits: z_s, [B, K].
        teacher_logits: z_t, [B, K].

    Returns:
        float64 [4, B], in the order of ``WEIGHINGS``.

    >>> values = at_logits(torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2), temperature=1.0)
    >>> [round(value, 4) for value in values[:, 0].tolist()]
    [1.0, 0.25, 0.5, 0.4338]
    """
    fisher = partial(functional.logit_fisher, temperature=temperature)
    members = (
        functional.logit_mse,
        partial(fisher, diagonal=True),
        fisher,
        partial(functional.kl, temperature=temperature),
    )
    return torch.stack([_per_sample(member, student_logits, teacher_logits) for member in members])


def _per_sample(member: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A loss, which is a mean over a batch, of each image as a batch of its own: [B, …] … → [B].

    In float64: near a teacher's answer a divergence is a small difference of large numbers.
    """
    rows = [tensor.detach().double().flatten(1)[:, None] for tensor in tensors]
    with warnings.catch_warnings():
        # Of an operation that has no form for batches; it is done for one image after another, and is a small one.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        values: Tensor = torch.vmap(member)(*rows)
    return values


# --- the map from the student's features to the teacher's ---

# Of the mean variance of a student's channels: enough to make the solution unique, too little to shrink what they say.
RIDGE = 1e-3


@dataclass(frozen=True)
class AffineMap:
    """Rows x [n, a] → x·weight + bias, [n, b]; ``mean`` is the mean y that it was fitted on."""

    weight: Tensor
    bias: Tensor
    mean: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        return rows @ self.weight.to(rows.dtype) + self.bias.to(rows.dtype)


class LeastSquares:
    """Least squares from rows (x, y), by their number, sums and products alone, in float64.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> moments = LeastSquares()
    >>> moments.add(x, 3 * x + 1)
    >>> fitted = moments.solve(ridge=0.0)
    >>> round(fitted.weight.item(), 6), round(fitted.bias.item(), 6)
    (3.0, 1.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows x [n, a] and y [n, b]."""
        x, y = x.detach().double(), y.detach().double()
        new = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
        self._sums = [have + more for have, more in zip(self._sums, new, strict=True)] if self._sums else new
        self.count += len(x)

    def solve(self, ridge: float = RIDGE) -> AffineMap:
        """The map with the least mean squared error, its weights held small.

        Formula: ``W = (Cov(x) + λI)⁻¹ Cov(x, y)``, λ = ridge · mean variance of x; b = mean(y) − mean(x)·W, so that a
        channel's mean is never held small.
        """
        total_x, total_y, products, mixed = self._sums
        x, y = total_x / self.count, total_y / self.count
        covariance = products / self.count - torch.outer(x, x)
        size = covariance.diagonal().mean().clamp_min(0)
        if not size:
            # All channels of the student are constant: the teacher's mean is the best fit.
            return AffineMap(torch.zeros_like(mixed), y, y)
        held = covariance + ridge * size * torch.eye(len(x), dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(held, mixed / self.count - torch.outer(x, y))
        return AffineMap(weight, y - x @ weight, y)


# --- measuring ---


@dataclass(frozen=True)
class TapPairValues:
    """What was measured at a pair of taps."""

    teacher: Tap  # the teacher's
    student: Tap  # the student's
    draws: int  # classes drawn of the teacher's answer for the Fisher diagonal; 0 takes all, without a sample's noise
    values: Doubles  # each member's value, [4, C, I] in the order of ``WEIGHINGS``
    # Share of the variance of the teacher's features that the student's explain, at each checkpoint; none at the
    # logits, which are compared as they are.
    explained: tuple[float, ...]


@dataclass(frozen=True)
class FidelityValues:
    """What was measured."""

    pairs: tuple[TapPairValues, ...]  # the taps, shallow to deep, the logits last
    divergence: Doubles  # of the student from its teacher, τ²·KL(p‖q), [C, I]
    images: int  # how many it was measured on
    fitted: int  # how many the maps between features were fitted on
    skipped: tuple[str, ...]  # pairs of taps that no map connects, and why


@dataclass
class _TapPair:
    """A pair of taps while it is measured."""

    teacher: Tap
    student: Tap
    connector: VectorConnector | MapConnector | TokenConnector
    tail: TeacherTail
    draws: int
    maps: list[AffineMap] = field(default_factory=list)

    def weights(self, features: Tensor, logits: Tensor, rows: Rows, temperature: float) -> Tensor:
        """The Fisher diagonal in the teacher's features, as losses are given it."""
        head = self.tail.head
        if head is not None:
            return head_fisher(head, logits, temperature=temperature)
        draws = uniform_draws(self.draws, rows, 0).to(features.device) if self.draws else None
        return tail_fisher(self.tail, features, temperature=temperature, draws=draws)


def measure(run: FidelityRun, *, images: int, temperature: float) -> FidelityValues:
    """Evaluate teacher and student, at each checkpoint, on the same images."""
    return _Measuring(run, temperature).values_of(images)


def evenly_spread(total: int, count: int) -> Rows:
    """``count`` of ``total`` places, evenly spread; all where there are no more.

    >>> evenly_spread(10, 4).tolist(), evenly_spread(3, 5).tolist()
    ([0, 2, 5, 7], [0, 1, 2])
    """
    count = min(total, count)
    return np.arange(count, dtype=np.int64) * total // count


class _Measuring:
    """The models, and the taps at which they are compared."""

    def __init__(self, run: FidelityRun, temperature: float) -> None:
        self.run, self.temperature = run, temperature
        self.device, self.observer = run.context.device, run.context.observer
        self.train, self.test = run.data.train, run.data.test
        self.student_preprocess = run.student.preprocess().to(self.device)

    def values_of(self, images: int) -> FidelityValues:
        rows = evenly_spread(len(self.test), images)
        places, skipped = self._tap_pairs(len(rows))
        self.places = places
        teacher = self.run.teacher
        self.live = LiveTeacher(
            teacher.model,
            teacher.preprocess(),
            example=self.train.images[:_EXAMPLES],
            device=self.device,
            taps=[place.teacher.name for place in places],
        )
        fitted = evenly_spread(len(self.train), _FITTED_FOR_EACH * len(rows)) if places else rows[:0]
        self._fit(fitted)
        values, divergence, left = self._all_values(rows)
        pairs = [
            TapPairValues(place.teacher, place.student, place.draws, values[n], tuple(left[n]))
            for n, place in enumerate(places)
        ]
        logits = self.run.setup_context.pairs[-1]
        pairs.append(TapPairValues(*logits, 0, values[-1], ()))
        return FidelityValues(tuple(pairs), divergence, len(rows), len(fitted), tuple(skipped))

    def _tap_pairs(self, images: int) -> tuple[list[_TapPair], list[str]]:
        setup_context, teacher = self.run.setup_context, self.run.teacher
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
        inputs = teacher.preprocess()(example).to(device_of(teacher.model))
        cost = images * self.train.num_classes * multiply_adds(teacher.model, inputs)
        places = []
        for at, of, connector in connected:
            afford = self.train.num_classes <= _ALL_OF or cost * (1 - at.depth) <= _AFFORDABLE
            draws = 0 if afford or tails[at.name].head is not None else _DRAWN
            places.append(_TapPair(at, of, connector, tails[at.name], draws))
        return places, skipped

    def _fit(self, rows: Rows) -> None:
        """Fit the map of each pair at each checkpoint."""
        moments = [[LeastSquares() for _ in self.run.checkpoints] for _ in self.places]
        for batch in self._batches(self.train, rows, "fitting connectors"):
            features = self.live(batch).features
            wanted = [to_rows(features[place.teacher.name], place.teacher).flatten(0, 1) for place in self.places]
            for c, (_, seen) in enumerate(self._students(batch.images)):
                for place, target, each in zip(self.places, wanted, moments, strict=True):
                    x = place.connector.linear_input(seen[place.student.name])
                    each[c].add(x.flatten(0, 1), target)
        for place, each in zip(self.places, moments, strict=True):
            place.maps = [one.solve() for one in each] if len(rows) else []

    def _all_values(self, rows: Rows) -> tuple[Doubles, Doubles, list[list[float]]]:
        """Each member's value [taps, 4, C, I], the student's divergence [C, I], the variance explained."""
        parts: list[tuple[Tensor, Tensor]] = []
        for batch in self._batches(self.test, rows, "evaluating teacher and student"):
            try:
                parts += in_parts(partial(self._batch_values, batch), len(batch))
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

    def _batch_values(self, whole: Batch, part: slice) -> list[tuple[Tensor, Tensor]]:
        """Of some images, each member's value [taps, 4, C, B], and their part of the features' variance [taps, B]."""
        batch = whole.subset(part)
        output = self.live(batch)
        features, weights, variance = [], [], []
        for place in self.places:
            h = output.features[place.teacher.name]
            features.append(h)
            weights.append(place.weights(h, output.logits, batch.rows, self.temperature))
            centred = to_rows(h, place.teacher).double() - place.maps[0].mean
            variance.append(centred.square().flatten(1).mean(1))
        found = []
        for c, (logits, seen) in enumerate(self._students(batch.images)):
            of_taps = []
            for place, h, w in zip(self.places, features, weights, strict=True):
                mapped = place.maps[c](place.connector.linear_input(seen[place.student.name]))
                student = from_rows(mapped, place.teacher)
                tau = self.temperature
                of_taps.append(at_tap(student, h, w, place.tail, output.logits, temperature=tau))
            of_taps.append(at_logits(logits, output.logits, temperature=self.temperature))
            found.append(torch.stack(of_taps))
        spent = torch.stack(variance) if variance else torch.zeros(0, len(batch), dtype=torch.float64)
        return [(torch.stack(found, 2).cpu(), spent.cpu())]

    def _students(self, images: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The logits and the features of the student at each checkpoint."""
        model, names = self.run.student.model, [place.student.name for place in self.places]
        for kept in self.run.checkpoints:
            # Read again for each batch: however many there are, one is in memory.
            load_weights(model, kept.path, field="student")
            yield read_features(model, self.student_preprocess, images, names)

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
            at = f"at {names[tap]}, epoch {self.run.checkpoints[checkpoint].epoch:g}"
            raise RunFailed(f"the {WEIGHINGS[weighing]} member is not finite {at}: such weights cannot be compared")


@torch.no_grad()
def read_features(
    model: nn.Module, pipe: Preprocess, images: Tensor, names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A model's logits [B, K] in the data's class order, and its features at taps, all float32."""
    taps = TapReader(model, names, field="student")
    with eval_mode(model), taps:
        logits = pipe.reorder(model(pipe(images)).float())
    return logits, {name: feature.float() for name, feature in taps.take().items()}
