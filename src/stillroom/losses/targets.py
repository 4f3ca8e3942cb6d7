"""Targets, the part of the teacher's answer to teach (universe, domain, instance), and the gradient rescaling ω.

A target is a distribution ρ over the classes, [B, K]. Those made of the teacher's answer are worked out in logarithms,
where 1 − p_y is the sum of the others: at a gap of 30 between logits float32 would round it to 0.

Paper: Tang et al., Understanding and Improving Knowledge Distillation, arXiv 2002.03532.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Discriminator, Field, Tag
from torch import Tensor

from stillroom.config import Config
from stillroom.errors import nearest
from stillroom.losses.base import LossInputs, Requires
from stillroom.losses.numerics import check_pair, check_temperature, widen
from stillroom.models.reader import FEATURES
from stillroom.teachers.class_means import ClassMeans

__all__ = [
    "class_relations",
    "class_similarity",
    "full",
    "gradient_rescale",
    "mean_confidence",
    "top_k",
    "true_class",
    "true_class_relations",
    "true_class_similarity",
    "uniform",
]


def uniform(labels: Tensor, num_classes: int) -> Tensor:
    """The same for every class: the target of label smoothing, universe knowledge only.

    Formula: ``ρ_i = 1/K``.

    Args:
        labels: y, int64 [B]; only their number and place count.
        num_classes: K.

    Returns:
        ρ, float64 [B, K] (float32 where the device has none): labels have no precision of their own.

    Raises:
        ValueError: the labels are not [B], or K is below 1.

    >>> uniform(torch.tensor([0, 3]), 4).tolist()
    [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes!r}; expected 1 or more")
    _check_labels(labels, labels.shape[:1])
    return torch.full((len(labels), num_classes), 1 / num_classes, dtype=_wide(labels), device=labels.device)


def class_similarity(head_weight: Tensor, labels: Tensor, *, power: float, temperature: float) -> Tensor:
    """How similar the classes are in the teacher's logit layer (KD-sim): domain knowledge only.

    Formula: ``ρ = softmax_i(sign(c_i)·|c_i|^a / b)``, c_i = cos(w_y, w_i). A row of zeros has no direction: it is like
    itself (c = 1) and like no other (c = 0).

    Args:
        head_weight: the rows w_i of the teacher's logit layer, [K, d]; detached.
        labels: y, int64 [B].
        power: a > 0; below 1 it lifts small cosines.
        temperature: b > 0.

    Returns:
        ρ, [B, K], in the type of ``head_weight`` (float32 for half precision).

    Raises:
        ValueError: the shapes do not fit, or a or b is not above 0.

    >>> rho = class_similarity(torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0]),
    ...                        power=1.0, temperature=0.5)
    >>> torch.allclose(rho, torch.softmax(torch.tensor([[2.0, 2.0, 0.0]]), 1))
    True
    """
    return log_class_similarity(head_weight, labels, power=power, temperature=temperature).exp()


def top_k(probabilities: Tensor, k: int) -> Tensor:
    """The teacher's k likeliest classes, the others equal (KD-topk): the reliable part of domain, and instance.

    Formula: ``ρ_i = p_i`` of the k largest (of equals the first), ``(Σ_{others} p_j)/(K − k)`` of the others; k = K is
    the full answer.

    Args:
        probabilities: p, [B, K], rows that sum to 1; detached.
        k: number of classes that are kept, 1 to K.

    Returns:
        ρ, [B, K].

    Raises:
        ValueError: p is not [B, K], or k lies outside 1 … K.

    >>> top_k(torch.tensor([[0.1, 0.6, 0.0, 0.3]]), 1)
    tensor([[0.1333, 0.6000, 0.1333, 0.1333]])
    """
    return log_top_k(_logs(probabilities), k).exp()


def true_class(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The teacher's probability of the true class, the others equal (KD-pt): the sample's difficulty only.

    Formula: ``ρ_y = p_y``, ``ρ_i = (1 − p_y)/(K − 1)`` of the others.

    Args:
        probabilities: p, [B, K], rows that sum to 1; detached.
        labels: y, int64 [B].

    Returns:
        ρ, [B, K].

    Raises:
        ValueError: the shapes do not fit.

    >>> true_class(torch.tensor([[0.1, 0.6, 0.3]]), torch.tensor([1]))
    tensor([[0.2000, 0.6000, 0.2000]])
    """
    return log_true_class(_logs(probabilities), labels).exp()


def true_class_similarity(
    probabilities: Tensor, head_weight: Tensor, labels: Tensor, *, power: float, temperature: float
) -> Tensor:
    """The teacher's probability of the true class, the others by their similarity to it (pt+sim): instance and domain.

    Formula: ``ρ_y = p_y``, ``ρ_i = (1 − p_y)·S_i / Σ_{j≠y} S_j`` of the others, S = :func:`class_similarity`.

    Args:
        probabilities: p, [B, K], rows that sum to 1; detached.
        head_weight: the rows of the teacher's logit layer, [K, d]; detached.
        labels: y, int64 [B].
        power: a > 0 of S.
        temperature: b > 0 of S.

    Returns:
        ρ, [B, K].

    Raises:
        ValueError: the shapes do not fit, or a or b is not above 0.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> true_class_similarity(torch.tensor([[0.6, 0.1, 0.3]]), rows, torch.tensor([0]), power=1.0, temperature=1.0)
    tensor([[0.6000, 0.2000, 0.2000]])
    """
    logs = _logs(probabilities)
    return log_true_class_similarity(logs, head_weight, labels, power=power, temperature=temperature).exp()


def mean_confidence(labels: Tensor, means: ClassMeans) -> Tensor:
    """The teacher's mean probability of the true class, the others equal: smoothed labels, as sure as the teacher.

    Formula: ``ρ_y = c``, ``ρ_i = (1 − c)/(K − 1)`` of the others, c the mean of p_y over the training images.

    Args:
        labels: y, int64 [B].
        means: the teacher's mean answers, at the temperature of the loss.

    Returns:
        ρ, float64 [B, K].

    >>> table = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.8, 0.0], [0.0, 0.0, 0.0]])
    >>> means = ClassMeans(table, torch.tensor([1.0, 1.0, 0.0]))
    >>> [round(each, 3) for each in mean_confidence(torch.tensor([1]), means)[0].tolist()]
    [0.15, 0.7, 0.15]
    """
    return log_mean_confidence(labels, means).exp()


def class_relations(labels: Tensor, means: ClassMeans) -> Tensor:
    """As :func:`mean_confidence`, the others by the teacher's mean answer to their class: which classes are alike.

    Formula: ``ρ_y = c``, ``ρ_i = (1 − c)·m_yi / Σ_{j≠y} m_yj``, m_y the mean of p over the training images of class y.

    Args:
        labels: y, int64 [B].
        means: the teacher's mean answers, at the temperature of the loss.

    Returns:
        ρ, float64 [B, K].
    """
    return log_class_relations(labels, means).exp()


def true_class_relations(probabilities: Tensor, labels: Tensor, means: ClassMeans) -> Tensor:
    """The teacher's probability of the true class, the others by its mean answer to their class.

    Formula: ``ρ_y = p_y``, ``ρ_i = (1 − p_y)·m_yi / Σ_{j≠y} m_yj``, as in :func:`class_relations`.

    Args:
        probabilities: p, [B, K], rows that sum to 1; detached.
        labels: y, int64 [B].
        means: the teacher's mean answers, at the temperature of the loss.

    Returns:
        ρ, [B, K].

    Raises:
        ValueError: the shapes do not fit.
    """
    return log_true_class_relations(_logs(probabilities), labels, means).exp()


def full(probabilities: Tensor) -> Tensor:
    """The teacher's whole answer (KD): all three levels.

    Formula: ``ρ = p``.

    Args:
        probabilities: p, [B, K]; detached.

    Returns:
        ρ, [B, K].

    Raises:
        ValueError: p is not [B, K].

    >>> full(torch.tensor([[0.25, 0.75]]))
    tensor([[0.2500, 0.7500]])
    """
    _check_rows(probabilities)
    return widen(probabilities.detach())


def gradient_rescale(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, weight: float
) -> Tensor:
    """How a teacher rescales each sample's gradient: the loss's in the true class's logit, over cross-entropy's.

    Formula: ``ω = (∂L/∂z_y)/(∂CE/∂z_y) = (1 − λ) + (λ/τ)·(p_y − q_{τ,y})/(1 − q_y)`` for L = (1 − λ)·CE + λ·H(p, q_τ),
    p = softmax(z_t/τ), q_τ = softmax(z_s/τ), q = softmax(z_s). The sum of the gradients in the other logits has the
    same ratio.

    Args:
        student_logits: z_s, [B, K]; detached.
        teacher_logits: z_t, [B, K]; detached.
        labels: y, int64 [B].
        temperature: τ > 0.
        weight: λ in [0, 1], of the teacher's part.

    Returns:
        ω, [B]. It has no bound below: cross-entropy's gradient vanishes where the student is surer than the teacher.

    Raises:
        ValueError: the shapes do not fit, τ is not above 0, or λ lies outside [0, 1].

    >>> logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    >>> gradient_rescale(logits, logits, labels, temperature=1.0, weight=0.5)   # the student is as sure as the teacher
    tensor([0.5000])
    >>> gradient_rescale(logits, 99 * logits, labels, temperature=1.0, weight=0.5)   # a saturated teacher
    tensor([1.])
    """
    student, teacher = check_pair(student_logits.detach(), teacher_logits)
    _check_rows(student, labels)
    check_temperature(temperature)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: got {weight!r}; expected a number in [0, 1]")
    if not weight:
        # The ratio may be beyond all numbers, and 0 times that is none.
        return torch.ones_like(student[:, 0])
    target, softened, plain = (margin(z, labels) for z in (teacher / temperature, student / temperature, student))
    return (1 - weight) + weight / temperature * rescaling(target, softened, plain)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the true class stands above all others together.

    Formula: ``m = z_y − log Σ_{j≠y} e^{z_j}``, so that p_y = σ(m) and 1 − p_y = σ(−m), neither of which rounds to 0.

    Args:
        logits: z, [..., B, K].
        labels: y, int64 [B].

    Returns:
        m, [..., B].

    >>> margin(torch.tensor([[30.0, 0.0]]), torch.tensor([0]))
    tensor([30.])
    """
    place = labels.unsqueeze(-1).expand(*logits.shape[:-1], 1)
    others = logits.scatter(-1, place, -math.inf).logsumexp(-1)
    return logits.gather(-1, place).squeeze(-1) - others


def rescaling(target: Tensor, softened: Tensor, plain: Tensor) -> Tensor:
    """The teacher's part of ω, before its weight.

    Formula: ``(p_y − q_{τ,y})/(1 − q_y)``, by σ(a) − σ(b) = σ(a)·σ(−b)·(1 − e^{b−a}), which loses no digits.

    Args:
        target: margin of the target at τ, [B].
        softened: of the student's answer at τ.
        plain: of the student's answer at 1.

    Returns:
        [B]; 0 where the student's probability at τ is the target's.

    >>> rescaling(torch.tensor([0.0]), torch.tensor([-40.0]), torch.tensor([-40.0]))
    tensor([0.5000])
    """
    high, low = torch.maximum(target, softened), torch.minimum(target, softened)
    size = F.logsigmoid(high) + F.logsigmoid(-low) + (-torch.expm1(low - high)).log() - F.logsigmoid(-plain)
    return torch.sign(target - softened) * size.exp()


def log_class_similarity(head_weight: Tensor, labels: Tensor, *, power: float, temperature: float) -> Tensor:
    """log ρ of :func:`class_similarity`."""
    if head_weight.dim() != 2:
        raise ValueError(f"head_weight: got shape {tuple(head_weight.shape)}; expected [classes, features]")
    _check_labels(labels, labels.shape[:1])
    if not power > 0:
        raise ValueError(f"power: got {power!r}; expected a number above 0")
    check_temperature(temperature)
    # A small power makes much of rounding errors near a cosine of 0.
    rows = head_weight.detach().to(_wide(head_weight))
    length = rows.norm(dim=1, keepdim=True)
    rows = torch.where(length > 0, rows / length, 0.0)
    with torch.autocast(rows.device.type, enabled=False):
        cosine = (rows[labels] @ rows.T).clamp(-1, 1).scatter(1, labels[:, None], 1.0)
    logits = cosine.sign() * cosine.abs() ** power / temperature
    return F.log_softmax(logits, dim=1).to(widen(head_weight).dtype)


def log_top_k(log_probabilities: Tensor, k: int) -> Tensor:
    """log ρ of :func:`top_k`, from log p."""
    _check_rows(log_probabilities)
    classes = log_probabilities.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"k: got {k!r}; expected 1 … {classes}, the number of classes")
    logs = widen(log_probabilities.detach())
    if k == classes:
        return logs
    # Stable, so that every device keeps the same ones of equals.
    rest = logs.argsort(dim=1, descending=True, stable=True)[:, k:]
    even = logs.gather(1, rest).logsumexp(1, keepdim=True) - math.log(classes - k)
    return logs.scatter(1, rest, even.expand(-1, classes - k))


def log_true_class(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """log ρ of :func:`true_class`, from log p."""
    logs, place, others = _split(log_probabilities, labels)
    even = others - math.log(logs.shape[1] - 1)
    return even.expand_as(logs).scatter(1, place, logs.gather(1, place))


def log_true_class_similarity(
    log_probabilities: Tensor, head_weight: Tensor, labels: Tensor, *, power: float, temperature: float
) -> Tensor:
    """log ρ of :func:`true_class_similarity`, from log p."""
    logs, place, others = _split(log_probabilities, labels)
    alike = log_class_similarity(head_weight, labels, power=power, temperature=temperature).to(logs.dtype)
    if alike.shape != logs.shape:
        raise ValueError(
            f"head_weight: got {alike.shape[1]} rows; expected one for each of the {logs.shape[1]} classes"
        )
    alike = alike.scatter(1, place, -math.inf)
    shared = alike - alike.logsumexp(1, keepdim=True) + others
    return shared.scatter(1, place, logs.gather(1, place))


def log_mean_confidence(labels: Tensor, means: ClassMeans) -> Tensor:
    """log ρ of :func:`mean_confidence`."""
    even = means.log_doubt - math.log(len(means.counts) - 1)
    return _at_labels(even.expand(len(labels), len(means.counts)), labels, means)


def log_class_relations(labels: Tensor, means: ClassMeans) -> Tensor:
    """log ρ of :func:`class_relations`."""
    return _at_labels(means.log_relations[labels] + means.log_doubt, labels, means)


def log_true_class_relations(log_probabilities: Tensor, labels: Tensor, means: ClassMeans) -> Tensor:
    """log ρ of :func:`true_class_relations`, from log p."""
    logs, place, others = _split(log_probabilities, labels)
    shared = means.log_relations[labels].to(logs.dtype) + others
    return shared.scatter(1, place, logs.gather(1, place))


def _at_labels(others: Tensor, labels: Tensor, means: ClassMeans) -> Tensor:
    """Log probabilities of the other classes, with the mean confidence in place of the true one's."""
    _check_labels(labels, labels.shape[:1])
    return others.scatter(1, labels[:, None], means.log_confidence.expand(len(labels), 1))


def _split(log_probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p, where in it the true classes stand, and log(1 − p_y) as the sum of the others, [B, 1]."""
    _check_rows(log_probabilities, labels)
    logs, place = widen(log_probabilities.detach()), labels[:, None]
    return logs, place, logs.scatter(1, place, -math.inf).logsumexp(1, keepdim=True)


def _logs(probabilities: Tensor) -> Tensor:
    return widen(probabilities.detach()).log()


def _wide(x: Tensor) -> torch.dtype:
    """The widest type that the tensor's device has."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _check_rows(rows: Tensor, labels: Tensor | None = None) -> None:
    if rows.dim() != 2 or rows.shape[1] < 2:
        raise ValueError(f"shape: got {tuple(rows.shape)}; expected [batch, classes], 2 classes or more")
    if labels is not None:
        _check_labels(labels, rows.shape[:1])


def _check_labels(labels: Tensor, shape: torch.Size) -> None:
    if labels.dim() != 1 or labels.shape != shape:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}; expected [batch], here {tuple(shape)}")


# The teacher's whole answer, the default.
FULL = "full"


class TargetConfig(Config):
    """The options of a target: a name, and what :func:`target_logits` needs of it."""

    requires: ClassVar[Requires]
    # Whether the target derives from p at τ; one that does not is used at temperature 1.
    is_softened: ClassVar[bool] = True

    name: str

    def requires_at(self, temperature: float) -> Requires:
        """What a loss at τ requires."""
        return self.requires

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        """log ρ, [B, K]."""
        raise NotImplementedError


class UniformConfig(TargetConfig):
    """The same for every class, as label smoothing: universe knowledge only. The teacher is not run."""

    requires = Requires(labels=True)
    is_softened = False

    name: Literal["uniform"] = "uniform"

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        logits = inputs.student.logits
        return uniform(inputs.labels, logits.shape[1]).log().to(torch.promote_types(logits.dtype, torch.float32))


class _Similarity(TargetConfig):
    requires = Requires(teacher=True, labels=True, tails=(FEATURES,), heads=(FEATURES,))

    power: float = Field(
        0.3, gt=0, description="a of softmax(sign(c)·|c|^a / b), c the cosines of rows of the teacher's last layer."
    )
    temperature: float = Field(
        0.3, gt=0, description="b of it. The paper's range for both is .1 to .5, and its values are not certain: sweep."
    )


class ClassSimilarityConfig(_Similarity):
    """How similar the classes are in the teacher's last layer: domain knowledge only."""

    is_softened = False

    name: Literal["class_similarity"] = "class_similarity"

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        return log_class_similarity(_head(inputs), inputs.labels, power=self.power, temperature=self.temperature)


class TopKConfig(TargetConfig):
    """The teacher's likeliest classes, the others equal: the reliable part of domain, and instance."""

    requires = Requires(teacher=True)

    name: Literal["top_k"] = "top_k"
    k: int = Field(5, ge=1, description="Classes whose probability is kept, up to all of them.")

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        return log_top_k(_log_softened(inputs, temperature), self.k)


class TrueClassConfig(TargetConfig):
    """The teacher's probability of the true class, the others equal: instance knowledge only."""

    requires = Requires(teacher=True, labels=True)

    name: Literal["true_class"] = "true_class"

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        return log_true_class(_log_softened(inputs, temperature), inputs.labels)


class TrueClassSimilarityConfig(_Similarity):
    """The teacher's probability of the true class, the others by their similarity to it: domain and instance."""

    name: Literal["true_class_similarity"] = "true_class_similarity"

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        logs, options = _log_softened(inputs, temperature), {"power": self.power, "temperature": self.temperature}
        return log_true_class_similarity(logs, _head(inputs), inputs.labels, **options)


class _OfClassMeans(TargetConfig):
    requires = Requires(teacher=True, labels=True)

    def requires_at(self, temperature: float) -> Requires:
        return Requires(teacher=True, labels=True, class_means=(temperature,))


class MeanConfidenceConfig(_OfClassMeans):
    """The teacher's mean probability of the true class, the same for all images, the others equal: universe."""

    name: Literal["mean_confidence"] = "mean_confidence"

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        return _as_logits(log_mean_confidence(inputs.labels, _means(inputs, temperature)), inputs)


class ClassRelationsConfig(_OfClassMeans):
    """As mean_confidence, the others by the teacher's mean answer to their class: domain."""

    name: Literal["class_relations"] = "class_relations"

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        return _as_logits(log_class_relations(inputs.labels, _means(inputs, temperature)), inputs)


class TrueClassRelationsConfig(_OfClassMeans):
    """The teacher's probability of the true class, the others by its mean answer to their class: both."""

    name: Literal["true_class_relations"] = "true_class_relations"

    def log_target(self, inputs: LossInputs, temperature: float) -> Tensor:
        logs = _log_softened(inputs, temperature)
        return log_true_class_relations(logs, inputs.labels, _means(inputs, temperature))


def _means(inputs: LossInputs, temperature: float) -> ClassMeans:
    means = inputs.teacher_output.class_means.get(temperature)
    if means is None:
        raise RuntimeError("nothing declares the teacher's mean answers: Requires(teacher=True, class_means=(τ,))")
    return means


def _as_logits(target: Tensor, inputs: LossInputs) -> Tensor:
    return target.to(torch.promote_types(inputs.teacher_logits.dtype, torch.float32))


def target_logits(inputs: LossInputs, target: TargetConfig, *, temperature: float) -> Tensor:
    """The logits of a target, [B, K]: ``z = τ·log ρ``, so that softmax(z/τ) = ρ.

    >>> from stillroom.teachers.output import ModelOutput
    >>> output = ModelOutput(torch.tensor([[0.0, 2.0, 0.0]]).log1p())
    >>> inputs = LossInputs(output, output, torch.tensor([1]), torch.tensor([0]), 0.0)
    >>> torch.softmax(target_logits(inputs, TopKConfig(k=1), temperature=1.0), 1)
    tensor([[0.2000, 0.6000, 0.2000]])
    """
    return temperature * target.log_target(inputs, temperature)


def _log_softened(inputs: LossInputs, temperature: float) -> Tensor:
    """log p of the teacher at τ, softened before half precision, which has three digits, loses anything."""
    return F.log_softmax(widen(inputs.teacher_logits.detach()) / temperature, dim=1)


def _head(inputs: LossInputs) -> Tensor:
    head = inputs.teacher_output.tail(FEATURES).head
    if head is None:
        raise RuntimeError("the teacher does not end in a linear layer")
    return head


_TARGETS: dict[str, type[TargetConfig]] = {
    str(config.model_fields["name"].default): config
    for config in (
        UniformConfig,
        ClassSimilarityConfig,
        TopKConfig,
        TrueClassConfig,
        TrueClassSimilarityConfig,
        MeanConfidenceConfig,
        ClassRelationsConfig,
        TrueClassRelationsConfig,
    )
}
NAMES: tuple[str, ...] = (*_TARGETS, FULL)


def name_of(target: Any) -> str | None:
    """The name of a target, however it is written: a word, a mapping or its config.

    >>> name_of("top_k"), name_of({"name": "top_k", "k": 3}), name_of(TopKConfig(k=3)), name_of(5)
    ('top_k', 'top_k', 'top_k', None)
    """
    found = target.get("name") if isinstance(target, dict) else getattr(target, "name", target)
    return found if isinstance(found, str) else None


def is_unsoftened(target: Any) -> bool:
    """Whether a target, however it is written, does not derive from the softened answer."""
    config = _TARGETS.get(name_of(target) or "")
    return config is not None and not config.is_softened


def _named(value: Any) -> Any:
    if value is None:
        return None
    name = name_of(value)
    if name is None:
        raise ValueError(f"a name or a mapping with a name, {nearest('', NAMES)}")
    if name not in NAMES:
        raise ValueError(f"a target that exists ({nearest(name, NAMES)})")
    if name == FULL:
        if isinstance(value, dict) and len(value) > 1:
            raise ValueError(f"{FULL} without options")
        return None
    return {"name": name} if isinstance(value, str) else value


def name_in_schema(schema: dict[str, Any]) -> None:
    """Let a JSON schema accept the name without options."""
    schema["anyOf"].insert(0, {"enum": list(NAMES), "type": "string"})


Target = Annotated[
    Annotated[
        Annotated[UniformConfig, Tag("tag:uniform")]
        | Annotated[ClassSimilarityConfig, Tag("tag:class_similarity")]
        | Annotated[TopKConfig, Tag("tag:top_k")]
        | Annotated[TrueClassConfig, Tag("tag:true_class")]
        | Annotated[TrueClassSimilarityConfig, Tag("tag:true_class_similarity")]
        | Annotated[MeanConfidenceConfig, Tag("tag:mean_confidence")]
        | Annotated[ClassRelationsConfig, Tag("tag:class_relations")]
        | Annotated[TrueClassRelationsConfig, Tag("tag:true_class_relations")],
        Discriminator(lambda value: f"tag:{name_of(value)}"),
    ]
    | None,
    BeforeValidator(_named),
]
