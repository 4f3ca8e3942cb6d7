"""A teacher that is the weighted mean of the probabilities of several others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.data.loader import BatchLoader
from stillroom.files import canonical_json, digest
from stillroom.tasks import Task
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.source import Log, Teacher, TeacherSource


def mean_logits(logits: Sequence[Tensor], weights: Sequence[float], *, temperature: float = 1.0) -> Tensor:
    """Logits whose softened answer is the weighted mean of softened answers.

    Formula: ``z = τ·log Σ_m w_m·softmax(z_m/τ)``, w divided by its sum; computed in logarithms, so that no probability
    is lost to rounding.

    Args:
        logits: z_m of each teacher, [B, K].
        weights: w_m, above 0.
        temperature: τ at which probabilities are averaged.

    Returns:
        z, [B, K]; softmax(z/τ) is the mean.

    >>> z = mean_logits([torch.tensor([[0.0, 0.0]]), torch.tensor([[100.0, 0.0]])], [1, 3])
    >>> [round(p, 4) for p in z.softmax(1)[0].tolist()]
    [0.875, 0.125]
    """
    total = sum(weights)
    shares = torch.tensor([weight / total for weight in weights], dtype=logits[0].dtype, device=logits[0].device).log()
    softened = torch.stack([(each / temperature).log_softmax(1) for each in logits])
    return temperature * (softened + shares[:, None, None]).logsumexp(0)


def mean_outputs(
    outputs: Sequence[Tensor], weights: Sequence[float], *, temperature: float = 1.0, task: Task = "single_label"
) -> Tensor:
    """The mean of several teachers' outputs: of probabilities over classes, of each class's own, or of numbers.

    >>> mean_outputs([torch.tensor([[1.0]]), torch.tensor([[4.0]])], [2, 1], task="regression")
    tensor([[2.]])
    >>> yes = mean_outputs([torch.tensor([[0.0]]), torch.tensor([[100.0]])], [1, 3], task="multi_label")
    >>> round(yes.sigmoid().item(), 4)
    0.875
    """
    if task == "single_label":
        return mean_logits(outputs, weights, temperature=temperature)
    shares = torch.tensor([weight / sum(weights) for weight in weights], dtype=outputs[0].dtype)
    stacked, shares = torch.stack(list(outputs)), shares.to(outputs[0].device)[:, None, None]
    if task == "regression":
        return (shares * stacked).sum(0)
    # log(p / (1 − p)) of the mean p, both from logarithms.
    yes, no = ((shares.log() + F.logsigmoid(sign * stacked / temperature)).logsumexp(0) for sign in (1, -1))
    return temperature * (yes - no)


class EnsembleSource(TeacherSource):
    """The weighted mean of the probabilities of other teachers, each with its own preprocess, class order and cache.

    Args:
        members: the teachers by name.
        weights: of each, above 0.
        temperature: at which the losses' probabilities are averaged; test logits are averaged at 1.
        task: what the labels are; of regression data outputs are averaged.
    """

    def __init__(
        self,
        members: Mapping[str, TeacherSource],
        weights: Mapping[str, float],
        temperature: float,
        task: Task = "single_label",
    ) -> None:
        names = [member.name for member in members.values()]
        parts = {name: [member.fingerprint, weights[name]] for name, member in members.items()}
        super().__init__(f"mean of {' + '.join(names)}", digest(canonical_json([parts, temperature])))
        self._members = dict(members)
        self._weights = [weights[name] for name in members]
        self._temperature = temperature
        self._task: Task = task

    def compute_test_logits(self) -> Tensor | None:
        """The mean of the members'; None if one of them has none."""
        found = [member.test_logits() for member in self._members.values()]
        known = [logits for logits in found if logits is not None]
        return mean_outputs(known, self._weights, task=self._task) if len(known) == len(found) else None

    def training_teacher(self, loader: BatchLoader, epochs: int, log: Log | None = None) -> Teacher:
        """The mean of the members' answers; each of them is asked once a batch, whoever else reads it."""
        teachers = [member.shared_teacher(loader, epochs, log) for member in self._members.values()]
        return lambda batch: ModelOutput(
            mean_outputs(
                [teacher(batch).logits for teacher in teachers],
                self._weights,
                temperature=self._temperature,
                task=self._task,
            )
        )
