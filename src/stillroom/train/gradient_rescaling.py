"""How the teacher rescales each sample's gradient during a run: ω, recorded per epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.errors import BadInput, RunFailed
from stillroom.losses.base import Loss, LossInputs
from stillroom.losses.targets import margin, rescaling
from stillroom.runtime import Processes
from stillroom.train.recorders import StepHook, StepInfo

Numbers = npt.NDArray[np.float64]

# An ω this close to that of a teacher with probability 1 counts as saturated.
_NEAR = 0.05
_GROUPS = 10
_QUANTILES = (5, 25, 50, 75, 95)
# Float32 margins do not resolve ω more finely; closer values count as equal in rank.
_DECIMALS = 6
# Far beyond any useful value, and its square is still finite.
_LARGEST = 1e100


class RecordGradientRescaling(StepHook):
    """Records ω = a + b·τ·(p_y − q_{τ,y})/(1 − q_y) of each sample, a and b the weights of CE and of ``kl`` then.

    A step stores three or four margins of each sample on the device; everything else is computed from these once an
    epoch. Processes exchange theirs whenever lines are logged, so that the one that saves has all of them.

    Args:
        losses: the loss terms: one ``kl``, and optionally cross-entropy.
        processes: that share the batch.
        known: the true margin of each training sample's label, float32 [N], by sample index; None for real data.

    Raises:
        BadInput: there is no ``kl``, or its target needs no teacher.

    Paper: Tang et al., Understanding and Improving Knowledge Distillation, arXiv 2002.03532.
    """

    def __init__(
        self,
        losses: Sequence[Loss[Any]],
        processes: Processes | None = None,
        known: Tensor | None = None,
    ) -> None:
        teaching = [term for term in losses if term.rescaling_part == "teacher"]
        if len(teaching) != 1:
            expected = f"false, or one loss kl, not {len(teaching)}: ω is defined for its teacher's target"
            raise BadInput("training.record_gradient_rescaling", True, expected)
        if not teaching[0].requires.teacher:
            expected = "false, or a kl target that uses the teacher: ω is compared with the teacher's outputs"
            raise BadInput("training.record_gradient_rescaling", True, expected)
        self._kl = teaching[0]
        self._labels = [term for term in losses if term.rescaling_part == "labels"]
        self._processes = processes or Processes()
        self._known = known
        # Margins with a and b: of this step; of this process since they were last exchanged.
        self._seen: list[tuple[Tensor, float, float]] = []
        self._mine: list[tuple[Tensor, float, float]] = []
        # Of all processes in this epoch: margins, and a and b of so many samples, in the same order.
        self._all: list[Tensor] = []
        self._weights: list[tuple[float, float, int]] = []

    def before_step(self) -> None:
        """Discard the batch of an attempt that ran out of memory."""
        self._seen.clear()

    @property
    def loss_name(self) -> str:
        """The name of the loss whose inputs :meth:`see` receives."""
        return self._kl.name

    @torch.no_grad()
    def see(self, inputs: LossInputs) -> None:
        """Store the margins of a batch, or of a part of it, without waiting for the device."""
        temperature = self._kl.config.temperature
        student, teacher = inputs.student.logits.detach().float(), inputs.teacher_logits.detach().float()
        answers = [teacher / temperature, student / temperature, student]
        if getattr(self._kl.config, "target", None) is not None:
            answers.append(self._kl.target_logits(inputs).float() / temperature)
        a = sum((term.config.weight_at(inputs.progress) for term in self._labels), 0.0)
        b = self._kl.config.weight_at(inputs.progress)
        margins = margin(torch.stack(answers), inputs.labels)
        if self._known is not None:
            # Moved once, by the first batch, to the device of the batches.
            self._known = self._known.to(margins.device)
            margins = torch.cat([margins, self._known[inputs.index][None]])
        self._seen.append((margins, a, b))

    def after_step(self, info: StepInfo) -> None:
        """Accept the margins of the finished step."""
        self._mine += self._seen
        self._seen.clear()

    def line(self) -> None:
        """Nothing for ``weight_distance.jsonl``; but processes exchange margins here, and so before each save."""
        self._exchange()

    def epoch_line(self) -> dict[str, Any] | None:
        """The metrics of the epoch; resets the record; RunFailed where the student's logits were not finite."""
        self._exchange()
        if not self._all:
            return None
        margins = torch.cat(self._all, 1).cpu().double()
        pairs, counts = [each[:2] for each in self._weights], [each[2] for each in self._weights]
        weights = np.repeat(np.array(pairs), counts, axis=0)
        self._all.clear()
        self._weights.clear()
        if not bool(torch.isfinite(margins).all()):
            raise RunFailed("the logits of an epoch were not all finite; try a lower training.optimizer.lr")
        known = None
        if self._known is not None:
            margins, known = margins[:-1], margins[-1].numpy()
        temperature, target = self._kl.config.temperature, getattr(self._kl.config, "target", None)
        recorded = {"loss": self._kl.name, "temperature": temperature, "target": target and target.name}
        return {**recorded, **figures(margins, weights, temperature=temperature, known=known)}

    def state_dict(self) -> dict[str, Any]:
        """The epoch so far."""
        self._exchange()
        margins = torch.cat(self._all, 1) if self._all else torch.zeros(0)
        return {"margins": margins, "weights": [list(each) for each in self._weights]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved ``state_dict``."""
        self._all = [state["margins"]] if state["weights"] else []
        self._weights = [(a, b, count) for a, b, count in state["weights"]]

    def _exchange(self) -> None:
        """Give every process all margins since the last exchange."""
        if not self._mine:
            return
        mine = torch.cat([margins for margins, _, _ in self._mine], 1)
        # Loaded state is on the CPU.
        self._all = [*(kept.to(mine.device) for kept in self._all), self._processes.gather(mine.T).T]
        # The other processes' parts have the same size and weights.
        for margins, a, b in self._mine * self._processes.count:
            before = 0
            if self._weights and self._weights[-1][:2] == (a, b):
                before = self._weights.pop()[2]
            self._weights.append((a, b, before + margins.shape[1]))
        self._mine.clear()


def figures(margins: Tensor, weights: Numbers, *, temperature: float, known: Numbers | None = None) -> dict[str, Any]:
    """Statistics of ω over the samples of an epoch, a line of ``gradient_rescaling.jsonl``.

    Args:
        margins: of the teacher at τ, of the student at τ and at 1, and of the target at τ if it is not the teacher's
            output, float64 [3 or 4, N]; see :func:`stillroom.targets.margin`.
        weights: a and b of each sample, [N, 2].
        temperature: τ > 0 of ``kl``.
        known: the true margin of each sample's label, [N], in the unit of the data's scores; None if unknown.

    Returns:
        JSON: numbers, and None for an undefined rank correlation.

    >>> found = figures(torch.tensor([[50.0, 50.0, -1.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], dtype=torch.float64),
    ...                np.array([[0.5, 0.5]] * 3), temperature=1.0)
    >>> round(found["saturated"], 3), round(found["quantiles"]["50"], 3), round(found["spearman"], 3)
    (0.667, 1.0, 1.0)
    """
    teacher, softened, plain = margins[:3]
    taught = margins[-1] if len(margins) > 3 else teacher
    part = rescaling(taught, softened, plain).clamp(-_LARGEST, _LARGEST).numpy()
    a, b = weights.T
    omega = a + b * temperature * part
    # The teacher's uncertainty is so small relative to the student's that its target equals the label.
    sure = F.logsigmoid(-taught) - F.logsigmoid(-softened) < math.log(_NEAR)
    at = np.asarray(teacher.numpy())
    # Sorted, so that the result does not depend on the order of the samples.
    order = np.lexsort((omega, at) if known is None else (known, omega, at))
    at, omega = at[order], omega[order]
    if known is not None:
        known = known[order]
    return {
        "count": len(omega),
        "mean": float(omega.mean()),
        "spearman": spearman(at, omega.round(_DECIMALS)),
        "saturated": float(sure.double().mean()),
        "quantiles": {str(q): float(np.quantile(omega, q / 100)) for q in _QUANTILES},
        "deciles": [_group(at[rows], omega[rows]) for rows in _tenths(len(omega))],
        "known_spearman": None if known is None else spearman(known, omega.round(_DECIMALS)),
        "known_deciles": None if known is None else _known_groups(known, at, omega),
    }


def _tenths(count: int) -> list[npt.NDArray[np.int64]]:
    """Indices in groups of nearly equal size."""
    return np.array_split(np.arange(count), min(_GROUPS, count))


def _group(at: Numbers, omega: Numbers) -> dict[str, Any]:
    p = _probability(at)
    return {"p_low": float(p[0]), "p_high": float(p[-1]), "p_mean": float(p.mean()), **_spread(omega)}


def _known_groups(known: Numbers, at: Numbers, omega: Numbers) -> list[dict[str, Any]]:
    """The same groups by the known difficulty, the hardest first."""
    order = np.argsort(known, kind="stable")
    groups = [order[rows] for rows in _tenths(len(order))]
    return [
        {
            "margin_low": float(known[rows[0]]),
            "margin_high": float(known[rows[-1]]),
            "margin_mean": float(known[rows].mean()),
            "p_mean": float(_probability(at[rows]).mean()),
            **_spread(omega[rows]),
        }
        for rows in groups
    ]


def _spread(omega: Numbers) -> dict[str, Any]:
    low, median, high = (float(np.quantile(omega, q)) for q in (0.25, 0.5, 0.75))
    return {
        "omega_mean": float(omega.mean()),
        "omega_median": median,
        "omega_low": low,
        "omega_high": high,
        "omega_std": float(omega.std()),
        "count": len(omega),
    }


def _probability(margins: Numbers) -> Numbers:
    return np.asarray(torch.sigmoid(torch.from_numpy(margins)).numpy())


def spearman(x: Numbers, y: Numbers) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None if all values of one are equal.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([0.0, 5.0, 5.0]))
    0.866...
    >>> spearman(np.array([1.0, 2.0]), np.array([3.0, 3.0])) is None
    True
    """
    mine, theirs = _ranks(x), _ranks(y)
    if not mine.std() or not theirs.std():
        return None
    return float(np.corrcoef(mine, theirs)[0, 1])


def _ranks(values: Numbers) -> Numbers:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Numbers = (last - (counts - 1) / 2)[place]
    return ranks
