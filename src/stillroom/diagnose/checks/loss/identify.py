"""Which loss is it: a gradient on random logits is fitted with the known terms, their temperatures and coefficients.

The model is a sum of terms, linear in the coefficients and not in the temperatures: variable projection in float64, a
grid of temperatures first, then a refinement. It needs tensors only, so that a loss met in a training loop is
identified as a function is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from torch import Tensor

Array = npt.NDArray[np.float64]

# The terms of the known family, as findings name them.
NAMES = (
    "cross_entropy", "label_smoothing", "kl", "reverse_kl", "jsd", "soft_cross_entropy", "logit_mse",
    "centred_logit_mse", "cosine",
)  # fmt: skip
# A gradient is explained where no more than this share of it is left: a float64 loss leaves 1e-9, one with an epsilon
# within its logarithm some 1e-6; the nearest losses outside the family leave 1e-2.
EXPLAINED = 1e-4
# Nor more than this share of its smallest term, which would not be identified then.
OF_A_TERM = 3e-3
_GRID = np.geomspace(0.25, 64, 49)
_BOUNDS = (math.log(0.05), math.log(1000.0))
# Beyond this two softmaxes in a row are a squared difference of probabilities, which is a loss of its own.
_MOST_TWICE = 30.0
# Candidates of a grid, and of all grids of a stage, that are refined.
_BEST, _REFINED = 2, 20
# A true model leaves no more than this on the grid, whose steps are 12% (of two temperatures 26%).
_NEAR = 0.2
# Entries of the gradient that are fitted: enough for ten unknowns, and quick.
MOST_ENTRIES = 6000


@dataclass(frozen=True)
class GradientSample:
    """A batch that a loss has seen, and its gradient."""

    student: Array  # z_s, [N, K] float64; [B, L, K] is flattened to rows first
    teacher: Array | None  # z_t, [N, K]; None where there is none
    labels: npt.NDArray[np.int64] | None  # y, [N]; None where there are none, negative for rows that are ignored
    gradient: Array  # ∂loss/∂z_s, [N, K]
    value: float  # the loss
    batch: int  # what the textbook's mean divides by, N for rows

    @classmethod
    def of(
        cls, student: Tensor, teacher: Tensor | None, labels: Tensor | None, gradient: Tensor, value: float
    ) -> GradientSample:
        """From tensors as a loop has them, in any floating-point type, rows or sequences."""
        classes = student.shape[-1]

        def rows(x: Tensor) -> Array:
            return np.asarray(x.detach().double().cpu().reshape(-1, classes).numpy(), dtype=np.float64)

        flat = rows(student)
        return cls(
            flat,
            rows(teacher) if teacher is not None else None,
            labels.detach().cpu().reshape(-1).numpy() if labels is not None else None,
            rows(gradient),
            float(value),
            len(flat),
        )


@dataclass(frozen=True)
class FittedTerm:
    """A term that was found in a loss: what it is, its temperatures, and the factor before the textbook's term.

    ``kind`` is a name of :data:`NAMES`, or of a faulty form such as ``probabilities_as_log_input``.
    """

    kind: str
    temperatures: tuple[float, ...]
    coefficient: float
    smoothing: float | None = None

    @property
    def temperature(self) -> float | None:
        """The (student's) temperature."""
        return self.temperatures[0] if self.temperatures else None


@dataclass(frozen=True)
class LossFit:
    """How a loss was explained."""

    terms: tuple[FittedTerm, ...]  # the terms, those of the labels first; empty where nothing explains it
    residual: float  # share of the gradient that is not explained, by norm
    columns: tuple[tuple[str, tuple[float, ...]], ...] = field(default=(), repr=False)

    @property
    def is_known(self) -> bool:
        """Whether it is explained."""
        return bool(self.terms) and self.residual <= EXPLAINED

    def term(self, *kinds: str) -> FittedTerm | None:
        """The first term of one of these kinds."""
        return next((term for term in self.terms if term.kind in kinds), None)


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _log_softmax(z: Array) -> Array:
    shifted = z - z.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _through_softmax(q: Array, upstream: Array) -> Array:
    """Jᵀu of a softmax with the answer q."""
    return np.asarray(q * (upstream - (q * upstream).sum(-1, keepdims=True)))


@dataclass(frozen=True)
class _Rows:
    """All rows that are fitted."""

    s: Array
    t: Array
    hot: Array

    @property
    def classes(self) -> int:
        return int(self.s.shape[1])


# Gradient in z_s of one row of each term. Where a term has a temperature, it is textbook without τ², but for ``kl``.


def _kl(x: _Rows, tau: float) -> Array:
    return tau * (_softmax(x.s / tau) - _softmax(x.t / tau))


def _reverse_kl(x: _Rows, tau: float) -> Array:
    q = _softmax(x.s / tau)
    return _through_softmax(q, _log_softmax(x.s / tau) - _log_softmax(x.t / tau)) / tau


def _jsd(x: _Rows, tau: float) -> Array:
    q, p = _softmax(x.s / tau), _softmax(x.t / tau)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(q > 0, 0.5 * (_log_softmax(x.s / tau) - np.log((p + q) / 2)), 0.0)
    return _through_softmax(q, gap) / tau


def _mse(x: _Rows) -> Array:
    return 2 * (x.s - x.t)


def _centred_mse(x: _Rows) -> Array:
    gap = x.s - x.t
    return np.asarray(2 * (gap - gap.mean(-1, keepdims=True)))


def _cosine(x: _Rows) -> Array:
    s_norm, t_norm = (np.linalg.norm(z, axis=-1, keepdims=True) for z in (x.s, x.t))
    cosine = (x.s * x.t).sum(-1, keepdims=True) / (s_norm * t_norm)
    return np.asarray(cosine * x.s / s_norm**2 - x.t / (s_norm * t_norm))


def _ce(x: _Rows) -> Array:
    return _softmax(x.s) - x.hot


def _uniform(x: _Rows) -> Array:
    rows = (x.hot.sum(-1, keepdims=True) > 0).astype(np.float64)
    return np.asarray(rows * (_softmax(x.s) - 1 / x.classes))


# Faulty forms.


def _softened_ce(x: _Rows, tau: float) -> Array:
    return (_softmax(x.s / tau) - x.hot) / tau


def _ce_of_probabilities(x: _Rows) -> Array:
    q = _softmax(x.s)
    return _through_softmax(q, _softmax(q) - x.hot)


def _ce_on_softmax_as_log(x: _Rows) -> Array:
    return _through_softmax(_softmax(x.s), -x.hot)


def _one_sided(x: _Rows, student_tau: float, teacher_tau: float) -> Array:
    return (_softmax(x.s / student_tau) - _softmax(x.t / teacher_tau)) / student_tau


def _probabilities_as_log_input(x: _Rows, tau: float) -> Array:
    return _through_softmax(_softmax(x.s / tau), -_softmax(x.t / tau)) / tau


def _logits_as_log_input(x: _Rows, tau: float) -> Array:
    return -_softmax(x.t / tau) / tau


def _logits_as_target(x: _Rows, tau: float) -> Array:
    target = x.t / tau
    return np.asarray((_softmax(x.s / tau) * target.sum(-1, keepdims=True) - target) / tau)


def _raw_logits_as_target(x: _Rows, tau: float) -> Array:
    return np.asarray((_softmax(x.s / tau) * x.t.sum(-1, keepdims=True) - x.t) / tau)


def _log_probabilities_as_target(x: _Rows, tau: float) -> Array:
    target = _log_softmax(x.t / tau)
    return np.asarray((_softmax(x.s / tau) * target.sum(-1, keepdims=True) - target) / tau)


def _softmax_twice(x: _Rows, tau: float) -> Array:
    return (_softmax(x.s / tau) - _softmax(_softmax(x.t) / tau)) / tau


def _softmax_twice_softened(x: _Rows, tau: float) -> Array:
    return (_softmax(x.s / tau) - _softmax(_softmax(x.t / tau))) / tau


def _softmax_twice_both(x: _Rows, tau: float) -> Array:
    q = _softmax(x.s)
    return _through_softmax(q, _softmax(q / tau) - _softmax(_softmax(x.t) / tau)) / tau


def _softmax_twice_student(x: _Rows, tau: float) -> Array:
    q = _softmax(x.s)
    return _through_softmax(q, _softmax(q / tau) - _softmax(x.t / tau)) / tau


def _swapped_cross_entropy(x: _Rows, tau: float) -> Array:
    return _through_softmax(_softmax(x.s / tau), -_log_softmax(x.t / tau)) / tau


def _pseudo_labels(x: _Rows) -> Array:
    return np.asarray(_softmax(x.s) - (x.t == x.t.max(-1, keepdims=True)))


_Term = Callable[..., Array]
# Number of temperatures, and the gradient.
_TEACHER: Mapping[str, tuple[int, _Term]] = {
    "kl": (1, _kl),
    "reverse_kl": (1, _reverse_kl),
    "jsd": (1, _jsd),
    "logit_mse": (0, _mse),
    "centred_logit_mse": (0, _centred_mse),
    "cosine": (0, _cosine),
    "pseudo_labels": (0, _pseudo_labels),
}
_FAULTY: Mapping[str, tuple[int, _Term]] = {
    "probabilities_as_log_input": (1, _probabilities_as_log_input),
    "logits_as_log_input": (1, _logits_as_log_input),
    "logits_as_target": (1, _logits_as_target),
    "raw_logits_as_target": (1, _raw_logits_as_target),
    "log_probabilities_as_target": (1, _log_probabilities_as_target),
    "softmax_twice": (1, _softmax_twice),
    "softmax_twice_softened": (1, _softmax_twice_softened),
    "softmax_twice_both": (1, _softmax_twice_both),
    "softmax_twice_student": (1, _softmax_twice_student),
    "swapped_cross_entropy": (1, _swapped_cross_entropy),
    "one_sided": (2, _one_sided),
}
_LABELS: Mapping[str, tuple[int, _Term]] = {
    "cross_entropy": (0, _ce),
    "uniform": (0, _uniform),
    "softened_cross_entropy": (1, _softened_ce),
    "cross_entropy_of_probabilities": (0, _ce_of_probabilities),
    "probabilities_for_log_probabilities": (0, _ce_on_softmax_as_log),
}
_ALL = {**_TEACHER, **_FAULTY, **_LABELS}
_PLAIN_LABELS = ("cross_entropy", "uniform")
_FAULTY_LABELS = ("softened_cross_entropy", "cross_entropy_of_probabilities", "probabilities_for_log_probabilities")

_Column = tuple[str, tuple[float, ...]]


class _Fitter:
    """The least-squares problem of some samples; columns are kept by name and temperatures."""

    def __init__(self, samples: Sequence[GradientSample]) -> None:
        classes = samples[0].student.shape[1]
        keep = max(4, MOST_ENTRIES // classes)
        s = np.concatenate([each.student for each in samples])
        target = np.concatenate([each.gradient * each.batch for each in samples])
        step = max(1, len(s) // keep)
        self.has_teacher = samples[0].teacher is not None
        self.has_labels = samples[0].labels is not None
        t = np.concatenate([each.teacher for each in samples]) if self.has_teacher else np.zeros_like(s)
        hot = np.zeros_like(s)
        if self.has_labels:
            labels = np.concatenate([each.labels for each in samples])
            real = labels >= 0
            hot[np.flatnonzero(real), labels[real]] = 1.0
        self.rows = _Rows(s[::step], t[::step], hot[::step])
        self.target = target[::step].ravel()
        self.norm = float(np.linalg.norm(self.target))
        self._columns: dict[_Column, Array] = {}

    def column(self, column: _Column) -> Array:
        if column not in self._columns:
            name, temperatures = column
            made = _ALL[name][1](self.rows, *temperatures).ravel()
            self._columns[column] = np.where(np.isfinite(made), made, 0.0)
        return self._columns[column]

    def solve(self, columns: Sequence[_Column], keep: bool = True) -> tuple[Array, float]:
        """Coefficients and the share of the gradient that is left."""
        if not columns:
            return np.zeros(0), 1.0
        matrix = np.stack([self.column(each) if keep else self._made(each) for each in columns], axis=1)
        scale = np.linalg.norm(matrix, axis=0)
        scale[scale == 0] = 1.0
        coefficients, *_ = np.linalg.lstsq(matrix / scale, self.target, rcond=1e-12)
        left = self.target - (matrix / scale) @ coefficients
        return coefficients / scale, float(np.linalg.norm(left)) / self.norm

    def _made(self, column: _Column) -> Array:
        name, temperatures = column
        made = _ALL[name][1](self.rows, *temperatures).ravel()
        return np.where(np.isfinite(made), made, 0.0)

    def refine(self, columns: Sequence[_Column]) -> tuple[tuple[_Column, ...], float]:
        """The columns at the temperatures that leave least."""
        start = np.log([tau for _, temperatures in columns for tau in temperatures])

        def at(logs: Array) -> list[_Column]:
            rest = iter(np.exp(np.clip(logs, *_BOUNDS)).tolist())
            return [(name, tuple(next(rest) for _ in temperatures)) for name, temperatures in columns]

        if not len(start):
            return tuple(columns), self.solve(columns)[1]

        def left(logs: Array) -> Array:
            matrix = np.stack([self._made(each) for each in at(logs)], axis=1)
            scale = np.linalg.norm(matrix, axis=0)
            scale[scale == 0] = 1.0
            coefficients, *_ = np.linalg.lstsq(matrix / scale, self.target, rcond=1e-12)
            return np.asarray((self.target - (matrix / scale) @ coefficients) / self.norm)

        logs = np.clip(start, *_BOUNDS)
        # A wrong model is left after a few steps.
        for steps, enough in ((8, 0.03), (60, 0.0)):
            found = least_squares(left, logs, bounds=_BOUNDS, xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=steps)
            logs = found.x
            if math.sqrt(2 * found.cost) > enough:
                break
        best = tuple(at(logs))
        return best, self.solve(best, keep=False)[1]

    def grid(self, label_part: Sequence[str], kinds: Sequence[str]) -> list[tuple[float, tuple[_Column, ...]]]:
        """The share left by each combination of these terms on the grid of temperatures, best first."""
        fixed: list[_Column] = []
        free: list[list[_Column]] = []
        for name in (*label_part, *kinds):
            count = _ALL[name][0]
            if count == 0:
                fixed.append((name, ()))
            elif count == 1:
                free.append([(name, (float(tau),)) for tau in _GRID])
            else:
                coarse = _GRID[::2]
                free.append([(name, (float(a), float(b))) for a in coarse for b in coarse])
        if not free:
            return [(self.solve(fixed)[1], tuple(fixed))]
        columns = [*fixed, *(each for group in free for each in group)]
        matrix = np.stack([self.column(each) for each in columns], axis=1)
        norms = np.linalg.norm(matrix, axis=0)
        matrix = matrix / np.where(norms == 0, 1.0, norms)
        gram = matrix.T @ matrix
        moment = matrix.T @ self.target / self.norm
        base = list(range(len(fixed)))
        offsets = np.cumsum([len(fixed), *(len(group) for group in free)])
        if len(free) == 1:
            picks = np.array([[*base, place] for place in range(offsets[0], offsets[1])])
        else:
            first, second = np.meshgrid(
                np.arange(offsets[0], offsets[1]), np.arange(offsets[1], offsets[2]), indexing="ij"
            )
            pairs = np.stack([first.ravel(), second.ravel()], axis=1)
            same = {name for name, *_ in (group[0] for group in free)}
            if len(same) == 1:  # two of one kind: in either order the same
                pairs = pairs[pairs[:, 1] - offsets[1] > pairs[:, 0] - offsets[0]]
            picks = np.concatenate([np.broadcast_to(base, (len(pairs), len(base))), pairs], axis=1).astype(int)
        small = gram[picks[:, :, None], picks[:, None, :]] + 1e-12 * np.eye(picks.shape[1])
        right = moment[picks]
        solved = np.linalg.solve(small, right[..., None])[..., 0]
        left = np.sqrt(np.clip(1 - (solved * right).sum(-1), 0, None))
        best = np.argsort(left)[:_BEST]
        return [(float(left[place]), tuple(columns[each] for each in picks[place])) for place in best]


def fit_terms(samples: Sequence[GradientSample]) -> LossFit:
    """Explain gradients by the terms of the known family, else by a faulty form of one of them.

    Args:
        samples: batches that the loss has seen, of one number of classes; logits of several scales tell most.

    Returns:
        The terms with the smallest number that explains the gradient; with none, the residual of the best attempt.

    >>> import torch
    >>> s, t = torch.randn(2, 40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> gradient = 0.3 * 4 * (torch.softmax(s / 4, 1) - torch.softmax(t / 4, 1)) / 40
    >>> fit = fit_terms([GradientSample.of(s, t, None, gradient, 0.0)])
    >>> fit.terms[0].kind, round(fit.terms[0].temperatures[0], 6), round(fit.terms[0].coefficient, 6)
    ('kl', 4.0, 0.3)
    """
    fitter = _Fitter(samples)
    if not np.isfinite(fitter.norm) or fitter.norm == 0:
        return LossFit((), 1.0)
    best = 1.0
    # What explains it to rounding ends the search; what leaves more may be a part of it.
    known: LossFit | None = None
    for stage in _stages(fitter):
        # The best of each model, then the second ones.
        grids = [(rank, *each) for model in stage for rank, each in enumerate(fitter.grid(*model))]
        found: list[tuple[float, tuple[_Column, ...]]] = []
        for _, left, columns in sorted(grids, key=lambda each: each[:2])[: _REFINED if len(stage) > 1 else 1]:
            best = min(best, left)
            if left > _NEAR:
                continue
            refined, residual = fitter.refine(columns)
            if any(name.startswith("softmax_twice") and taus[0] > _MOST_TWICE for name, taus in refined):
                continue
            found.append((residual, refined))
            if residual < 1e-9:
                break
        if found:
            residual, columns = min(found, key=lambda each: each[0])
            best = min(best, residual)
            terms, least = _terms(fitter, columns, samples)
            if terms and residual <= min(EXPLAINED, OF_A_TERM * least):
                if known is None or residual < known.residual / 100:
                    known = LossFit(terms, residual, columns)
                if residual < 1e-9:
                    break
    return known if known is not None else LossFit((), best)


def refit(fit: LossFit, samples: Sequence[GradientSample], *, temperatures: bool = False) -> LossFit:
    """The same terms on other samples: of another size of batch, number of classes, or hyper-parameters.

    Args:
        fit: what was found.
        samples: the other samples.
        temperatures: find the temperatures anew, too.
    """
    fitter = _Fitter(samples)
    if not np.isfinite(fitter.norm) or fitter.norm == 0 or not fit.columns:
        return LossFit((), 1.0)
    columns = fit.columns
    residual = fitter.solve(columns)[1]
    if temperatures and residual > 1e-9 and any(taus for _, taus in columns):
        tries = [
            tuple((name, tuple(tau * factor for tau in taus)) for name, taus in columns)
            for factor in (1.0, 2.0, 4.0, 8.0, 0.5, 0.25)
        ]
        residual, columns = min(
            ((left, refined) for refined, left in map(fitter.refine, tries)), key=lambda each: each[0]
        )
    return LossFit(_terms(fitter, columns, samples)[0], residual, columns)


_Model = tuple[tuple[str, ...], tuple[str, ...]]


def _stages(fitter: _Fitter) -> Iterator[list[_Model]]:
    """Label parts and teacher parts to try: the simplest and the healthiest first."""
    plain = _PLAIN_LABELS if fitter.has_labels else ()
    faulty_labels = _FAULTY_LABELS if fitter.has_labels else ()
    if plain:
        yield [(plain, ())]
    if not fitter.has_teacher:
        yield [((faulty,), ()) for faulty in faulty_labels]
        return
    yield [(plain, (name,)) for name in _TEACHER]
    yield [
        *(((faulty,), ()) for faulty in faulty_labels),
        *((plain, (name,)) for name in _FAULTY),
        *(((faulty,), (name,)) for faulty in faulty_labels for name in _TEACHER),
    ]
    known = [name for name in _TEACHER if name != "pseudo_labels"]
    twice = [(plain, (name, name)) for name in ("kl", "reverse_kl", "jsd")]
    yield [*((plain, pair) for pair in combinations(known, 2)), *twice]


def _terms(
    fitter: _Fitter, columns: Sequence[_Column], samples: Sequence[GradientSample]
) -> tuple[tuple[FittedTerm, ...], float]:
    """The terms that count, and the share of the gradient of the smallest."""
    coefficients, _ = fitter.solve(columns, keep=False)
    shares = [
        abs(coefficient) * float(np.linalg.norm(fitter._made(column))) / fitter.norm
        for coefficient, column in zip(coefficients, columns, strict=True)
    ]
    found = {
        (name, taus): float(coefficient)
        for (name, taus), coefficient, share in zip(columns, coefficients, shares, strict=True)
        if share > 1e-7
    }
    least = min((share for share in shares if share > 1e-7), default=0.0)
    terms: list[FittedTerm] = []
    hard, uniform = found.pop(("cross_entropy", ()), 0.0), found.pop(("uniform", ()), 0.0)
    total = hard + uniform
    if abs(uniform) > 1e-6 * abs(total) and abs(total) > 0:
        terms.append(FittedTerm("label_smoothing", (), total, uniform / total))
    elif hard:
        terms.append(FittedTerm("cross_entropy", (), hard))
    terms += [FittedTerm(name, taus, coefficient) for (name, taus), coefficient in found.items()]
    return _soft(terms, samples), least


def _soft(terms: Sequence[FittedTerm], samples: Sequence[GradientSample]) -> tuple[FittedTerm, ...]:
    """Soft cross-entropy and KL have one gradient; their values differ by the entropy of the teacher's answer."""
    kl = [term for term in terms if term.kind == "kl"]
    others = [term for term in terms if term.kind != "kl"]
    if not kl or any(sample.teacher is None for sample in samples):
        return tuple(terms)
    gaps, entropies = [], []
    for sample in samples:
        rest = sum(term.coefficient * value_of(term, sample) for term in [*others, *kl])
        gaps.append(sample.value - rest)
        entropies.append([term.coefficient * term.temperatures[0] ** 2 * _entropy(sample, term) for term in kl])
    for position, term in enumerate(kl):
        expected = np.array([row[position] for row in entropies])
        scale = float(np.abs(expected).max())
        if not scale > 0:
            continue
        # The share of it that is soft cross-entropy: all, or a part next to a KL.
        share = float(np.dot(gaps, expected) / np.dot(expected, expected))
        if share > 0.01 and float(np.abs(np.array(gaps) - share * expected).max()) < 0.02 * share * scale:
            # More than all would leave a KL of the other sign: an epsilon in the loss has changed its value, too.
            share = 1.0 if share > 1 - 1e-3 else share
            whole, tau = term.coefficient, term.temperatures[0]
            soft = FittedTerm("soft_cross_entropy", term.temperatures, share * whole * tau**2)
            parts = [soft] if share == 1.0 else [FittedTerm("kl", term.temperatures, (1 - share) * whole), soft]
            return tuple(part for each in terms for part in (parts if each is term else [each]))
    return tuple(terms)


def _entropy(sample: GradientSample, term: FittedTerm) -> float:
    assert sample.teacher is not None
    log_p = _log_softmax(sample.teacher / term.temperatures[0])
    return float(-(np.exp(log_p) * log_p).sum(-1).mean())


def value_of(term: FittedTerm, sample: GradientSample) -> float:
    """The textbook's value of a term on a batch; 0 for a faulty form, whose value tells nothing."""
    s, t, y = sample.student, sample.teacher, sample.labels
    log_q = _log_softmax(s)
    if term.kind in ("cross_entropy", "label_smoothing"):
        assert y is not None
        real = y >= 0
        hard = -log_q[np.flatnonzero(real), y[real]].mean()
        smoothing = term.smoothing or 0.0
        return float((1 - smoothing) * hard + smoothing * -log_q[real].mean(-1).mean())
    if t is None:
        return 0.0
    if term.kind in ("logit_mse", "centred_logit_mse"):
        gap = s - t
        gap = gap - gap.mean(-1, keepdims=True) if term.kind.startswith("centred") else gap
        return float((gap**2).sum(-1).mean())
    if term.kind == "cosine":
        return float((1 - (s * t).sum(-1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1)).mean())
    if term.kind not in ("kl", "reverse_kl", "jsd"):
        return 0.0
    tau = term.temperatures[0]
    log_q, log_p = _log_softmax(s / tau), _log_softmax(t / tau)
    q, p = np.exp(log_q), np.exp(log_p)
    if term.kind == "kl":
        return float(tau**2 * (p * (log_p - log_q)).sum(-1).mean())
    if term.kind == "reverse_kl":
        return float((q * (log_q - log_p)).sum(-1).mean())
    log_m = np.log((p + q) / 2)
    return float(0.5 * ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)).mean())


@dataclass(frozen=True)
class NamedTerm:
    """A term with what is recognised in its coefficient."""

    name: str  # of the known family
    temperature: float | None  # τ; None where the term has none
    # What multiplies the textbook's term: mean over the batch, sum over classes, τ² for ``kl`` alone.
    coefficient: float
    usual: float  # the coefficient without the faults
    factor: float | None  # what faults have put on it; None where none is recognised
    reasons: tuple[str, ...] = ()  # the parts of the factor, in words
    smoothing: float | None = None  # share of a smoothed label that is spread over the classes

    def evidence(self) -> dict[str, Any]:
        """As the finding holds it."""
        found = {
            "name": self.name,
            "temperature": self.temperature,
            "coefficient": self.coefficient,
            "usual": self.usual,
            "factor": self.factor,
        }
        return found if self.smoothing is None else {**found, "smoothing": self.smoothing}


@dataclass(frozen=True)
class Scaling:
    """How a term's coefficient goes with sizes and with the temperature: exponents; None where it was not varied."""

    batch: int | None = None
    length: int | None = None
    classes: int | None = None
    temperature: int | None = None


def exponent(ratio: float, base: float) -> int | None:
    """The whole power of ``base`` that a ratio is; None where it is none.

    >>> exponent(1 / 9, 3), exponent(1.0, 2), exponent(1.3, 2)
    (-2, 0, None)
    """
    if not ratio > 0 or base in (0, 1):
        return None
    power = math.log(ratio) / math.log(base)
    return round(power) if abs(power - round(power)) < 0.02 else None


def name_terms(
    fit: LossFit,
    sizes: Mapping[str, int],
    scalings: Sequence[Scaling] | None = None,
) -> tuple[NamedTerm, ...]:
    """Say which part of each coefficient is a fault, and which a weight.

    Args:
        fit: the terms.
        sizes: ``batch``, ``classes`` and, of sequences, ``length`` of the samples that were fitted.
        scalings: of each term, what varying the sizes showed; left out (a loop whose sizes are fixed), powers are
            guessed: those that leave weights that are round, or that sum to 1.

    >>> fit = LossFit((FittedTerm("cross_entropy", (), 0.1), FittedTerm("kl", (4.0,), 0.9 / 160)), 0.0)
    >>> kl = name_terms(fit, {"batch": 6, "classes": 10})[1]
    >>> round(kl.usual, 4), round(1 / kl.factor), kl.reasons[0]
    (0.9, 160, "averaged over K = 10 classes (`reduction='mean'`)")
    """
    sizes = {"batch": 1, "length": 1, "classes": 1, **sizes}
    found: list[NamedTerm] = []
    terms = list(fit.terms)
    for position, term in enumerate(terms):
        scaling = scalings[position] if scalings is not None else None
        found.append(_named(term, scaling, sizes, [each.usual for each in found], len(terms)))
    return tuple(found)


def _named(
    term: FittedTerm, scaling: Scaling | None, sizes: Mapping[str, int], others: Sequence[float], count: int
) -> NamedTerm:
    tau = term.temperature
    # The squared temperature belongs to the textbook's kl; to other softened terms it is put by the loss.
    textbook_power = {"kl": 0}.get(term.kind, 2)
    has_mean = term.kind in ("logit_mse", "centred_logit_mse")
    powers: list[Scaling]
    if scaling is None:
        powers = [Scaling(b, n, k, e) for b in (0, 1) for n in (0, 1) for k in (0, -1) for e in (0, -2, -1, 1, 2)]
        if sizes["length"] == 1:
            powers = [each for each in powers if not each.length]
        powers = [
            Scaling(each.batch, each.length, each.classes, (each.temperature or 0) + textbook_power) for each in powers
        ]
    elif scaling.temperature is not None or tau is None:
        powers = [scaling]
    else:
        powers = [
            Scaling(scaling.batch, scaling.length, scaling.classes, e + textbook_power) for e in (0, -2, -1, 1, 2)
        ]
    if scaling is not None and scaling.classes is None:
        powers = [Scaling(each.batch, each.length, k, each.temperature) for k in (0, -1) for each in powers]

    def factor_of(each: Scaling) -> float:
        factor = float(sizes["batch"]) ** (each.batch or 0) * float(sizes["length"]) ** (each.length or 0)
        if not has_mean:
            factor *= float(sizes["classes"]) ** (each.classes or 0)
        if tau is not None and each.temperature is not None:
            factor *= tau ** (each.temperature - textbook_power)
        return factor

    def merit(each: Scaling) -> tuple[int, int]:
        """0 where weights sum to 1, 1 where the weight is round, 2 for any other; then the number of faults."""
        # The weight as it is written: what is left without the sizes and the powers of τ.
        weight = term.coefficient / factor_of(each)
        if tau is not None and each.temperature is not None:
            weight /= tau**textbook_power
        faults = sum(bool(power) for power in (each.batch, each.length, each.classes)) + (
            each.temperature is not None and tau is not None and each.temperature != textbook_power
        )
        if others and abs(sum(others) + weight - 1) < 1e-4:
            return 0, faults
        if has_mean and abs(weight * sizes["classes"] - _round2(weight * sizes["classes"])) < 1e-5 * abs(weight):
            return 1, faults
        return (1, faults) if abs(weight - _round2(weight)) < 1e-5 * abs(weight) else (2, faults)

    best = min(powers, key=merit)
    plain = powers[0]
    if merit(best)[0] == 2:
        best = min(powers, key=lambda each: merit(each)[1]) if scaling is None else plain
    elif merit(plain)[0] == merit(best)[0]:
        best = plain
    factor = factor_of(best)
    reasons = []
    if best.classes and not has_mean:
        how = "averaged over" if best.classes < 0 else "multiplied by"
        reasons.append(f"{how} K = {sizes['classes']} classes" + (" (`reduction='mean'`)" if best.classes < 0 else ""))
    if best.batch:
        size = sizes["batch"]
        reasons.append(
            f"summed over the batch (× {size} for {size} rows)"
            if best.batch > 0
            else f"divided by the batch size once too often (÷ {size} for {size} rows)"
        )
    if best.length:
        size = sizes["length"]
        reasons.append(
            f"summed over the L = {size} positions of a sequence"
            if best.length > 0
            else f"divided by the L = {size} positions once too often"
        )
    if tau is not None and best.temperature is not None and best.temperature != textbook_power:
        reasons.append(_power_in_words(best.temperature - textbook_power, tau))
    is_fault = bool(reasons) and abs(math.log(abs(factor))) > 1e-3
    return NamedTerm(
        term.kind,
        tau,
        term.coefficient,
        term.coefficient / factor if is_fault else term.coefficient,
        factor if is_fault else None,
        tuple(reasons) if is_fault else (),
        term.smoothing,
    )


def _power_in_words(power: int, tau: float) -> str:
    symbol = {1: "τ", 2: "τ²", 3: "τ³", 4: "τ⁴"}.get(abs(power), f"τ^{abs(power)}")
    value = f"{symbol} = {tau ** abs(power):.4g}"
    if power == -1:
        return f"multiplied by τ = {tau:.4g} in place of τ²"
    return f"{value} is missing" if power < 0 else f"{value} is too many"


def _round2(value: float) -> float:
    return float(f"{value:.2g}")
