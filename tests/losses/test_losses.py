"""One row a loss: all that the tester holds it to, and a plain computation of its formula."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from losses.pairs import shared_context
from losses.tester import (
    DRAWN,
    MAPS,
    MEAN,
    LossInputs,
    LossTester,
    Tensor,
    last_layer,
    map_setup_context,
    output_of,
    random_inputs,
    select,
    small_setup_context,
    text_setup_context,
    with_output,
)
from stillroom.errors import BadInput
from stillroom.losses import functional
from stillroom.losses.activation_boundary import ActivationBoundary
from stillroom.losses.attention_base import STATES
from stillroom.losses.attention_maps import AttentionMaps
from stillroom.losses.attention_transfer import AttentionTransfer
from stillroom.losses.base import Loss
from stillroom.losses.bce_kl import BCEKL
from stillroom.losses.binary_cross_entropy import BinaryCrossEntropy
from stillroom.losses.block_logit import BlockLogit
from stillroom.losses.correlation import Correlation
from stillroom.losses.crd import CRD
from stillroom.losses.cross_entropy import CrossEntropy
from stillroom.losses.ctkd import CTKD
from stillroom.losses.dist import DIST
from stillroom.losses.dkd import DKD
from stillroom.losses.factor_transfer import FactorTransfer
from stillroom.losses.feature_cosine import FeatureCosine
from stillroom.losses.feature_fisher import FeatureFisher
from stillroom.losses.feature_full_fisher import FeatureFullFisher
from stillroom.losses.feature_mse import FeatureMSE
from stillroom.losses.fsp import FSP
from stillroom.losses.input_gradient_attention import InputGradientAttention
from stillroom.losses.jacobian_matching import JacobianMatching
from stillroom.losses.jsd import JSD
from stillroom.losses.kl import KL
from stillroom.losses.label_smoothing import LabelSmoothing
from stillroom.losses.logit_fisher import LogitFisher, one_minus
from stillroom.losses.logit_mse import LogitMSE
from stillroom.losses.minilm import MiniLM
from stillroom.losses.mlkd import MLKD
from stillroom.losses.neuron_selectivity import NeuronSelectivity
from stillroom.losses.nkd import NKD
from stillroom.losses.ofd import OFD
from stillroom.losses.probabilistic import Probabilistic
from stillroom.losses.registry import losses, names_for_task
from stillroom.losses.relational import Relational
from stillroom.losses.reverse_kl import ReverseKL
from stillroom.losses.reviewkd import ReviewKD
from stillroom.losses.setup_context import ModelInfo, SetupContext, TrainingSamples
from stillroom.losses.similarity_preserving import SimilarityPreserving
from stillroom.losses.simkd import SimKD
from stillroom.losses.soft_cross_entropy import SoftCrossEntropy
from stillroom.losses.srrl import SRRL
from stillroom.losses.standardized_kl import StandardizedKL
from stillroom.losses.target_mse import TargetMSE
from stillroom.losses.ttm import TTM
from stillroom.losses.vid import VID
from stillroom.losses.wsld import WSLD
from stillroom.losses.wttm import WTTM
from stillroom.models.config import ReusedHeadConfig
from stillroom.models.reader import FEATURES
from stillroom.models.reused_head import ReusedHead
from stillroom.models.text import TextEncoder
from stillroom.run.build import check_task
from stillroom.tasks import TASKS
from stillroom.teachers.input_gradients import LABEL_LOSS, TOP_LOGIT
from stillroom.teachers.output import ModelOutput

GOLDENS = Path(__file__).parent.parent / "goldens"


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    shares = [math.exp(v - top) for v in row]
    return [s / sum(shares) for s in shares]


def rows(inputs: LossInputs) -> list[tuple[list[float], list[float], int]]:
    return list(
        zip(inputs.student.logits.tolist(), inputs.teacher_logits.tolist(), inputs.labels.tolist(), strict=True)
    )


def plain_label_smoothing(inputs: LossInputs, options: dict[str, Any]) -> float:
    s = options.get("smoothing", 0.1)
    total = 0.0
    for student, _, label in rows(inputs):
        q = softmax(student)
        total += sum(-((1 - s) * (k == label) + s / len(q)) * math.log(q[k]) for k in range(len(q)))
    return total / len(inputs.labels)


def plain_cross_entropy(inputs: LossInputs, options: dict[str, Any]) -> float:
    return plain_label_smoothing(inputs, {"smoothing": 0.0})


def plain_binary_cross_entropy(inputs: LossInputs, options: dict[str, Any]) -> float:
    total = 0.0
    for student, _, label in rows(inputs):
        for k, z in enumerate(student):
            if k >= options.get("first_class", 0):
                total -= math.log(1 / (1 + math.exp(-z)) if k == label else 1 / (1 + math.exp(z)))
    return total / len(inputs.labels)


def plain_bce_kl(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 1.0)
    total = 0.0
    for student, teacher, _ in rows(inputs):
        for z, t in zip(student, teacher, strict=True):
            q, p = 1 / (1 + math.exp(-z / tau)), 1 / (1 + math.exp(-t / tau))
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return tau**2 * total / len(inputs.labels)


def binary_cross_entropy_of_new_classes(student_logits: Tensor, labels: Tensor) -> Tensor:
    loss = BinaryCrossEntropy(first_class=1)
    return loss(LossInputs(ModelOutput(student_logits), None, labels, torch.arange(len(labels)), 0.0))


def plain_kl(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 4.0)
    total = 0.0
    for student, teacher, _ in rows(inputs):
        q, p = softmax([v / tau for v in student]), softmax([v / tau for v in teacher])
        total += tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(inputs.labels)


def plain_logit_mse(inputs: LossInputs, options: dict[str, Any]) -> float:
    total = 0.0
    for student, teacher, _ in rows(inputs):
        gap = [a - b for a, b in zip(student, teacher, strict=True)]
        mean = sum(gap) / len(gap) if options.get("centred") else 0.0
        total += sum((g - mean) ** 2 for g in gap) / len(gap)
    return total / len(inputs.labels)


def plain_logit_fisher(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 1.0)
    total = 0.0
    for student, teacher, _ in rows(inputs):
        gap = np.array(student) - np.array(teacher)
        p = np.array(softmax([v / tau for v in teacher]))
        fisher = np.diag(p) - np.outer(p, p)
        if options.get("diagonal"):
            gap = gap - gap.mean()
            fisher = np.diag(np.diag(fisher))
        total += 0.5 * gap @ fisher @ gap
    return float(total / len(inputs.labels))


def plain_feature_mse(inputs: LossInputs, options: dict[str, Any]) -> float:
    return float(np.mean([np.mean(gap**2) for gap in gaps(inputs)]))


def gaps(inputs: LossInputs) -> list[Any]:
    student, teacher = (
        output_of(output, "features").double().numpy() for output in (inputs.student, inputs.teacher_output)
    )
    return list(student - teacher)


def fisher_in_features(inputs: LossInputs, tau: float) -> list[Any]:
    """Jᵀ F J of each sample, J the teacher's last layer."""
    head = inputs.teacher_output.tails[FEATURES].head
    assert head is not None
    matrices = []
    for _, teacher, _ in rows(inputs):
        p = np.array(softmax([v / tau for v in teacher]))
        matrices.append(head.numpy().T @ (np.diag(p) - np.outer(p, p)) @ head.numpy())
    return matrices


def plain_feature_fisher(inputs: LossInputs, options: dict[str, Any]) -> float:
    weights = [np.diag(matrix) for matrix in fisher_in_features(inputs, options.get("temperature", 4.0))]
    if options.get("samples"):
        weights = list(inputs.teacher_output.fishers[DRAWN].numpy())
    values = [weight @ gap**2 for weight, gap in zip(weights, gaps(inputs), strict=True)]
    if options.get("scale") == "mse":
        return float(np.mean(values) / MEAN / len(weights[0]))
    return float(0.5 * np.mean(values))


def plain_feature_full_fisher(inputs: LossInputs, options: dict[str, Any]) -> float:
    matrices = fisher_in_features(inputs, options.get("temperature", 4.0))
    return float(np.mean([0.5 * g @ m @ g for g, m in zip(gaps(inputs), matrices, strict=True)]))


def plain_block_logit(inputs: LossInputs, options: dict[str, Any]) -> float:
    """Of one stone, which is all the stones' mean."""
    layer = last_layer(len(inputs.student.logits[0]))
    stone = layer(output_of(inputs.student, "features"))
    own = replace(inputs, teacher=replace(inputs.teacher_output, logits=stone))
    total = 0.0
    for logits in (inputs.student.logits, stone):
        of_it = replace(inputs, student=replace(inputs.student, logits=logits))
        total += options.get("alpha", 1.0) * plain_cross_entropy(of_it, {})
        total += options.get("beta", 1.0) * plain_kl(of_it, options)
        total += options.get("gamma", 1.0) * plain_kl(replace(own, student=of_it.student), options)
    return total


def both_softmax(inputs: LossInputs, tau: float) -> tuple[Any, Any]:
    """The student's and the teacher's softened answers, [B, K]."""
    found = []
    for output in (inputs.student, inputs.teacher_output):
        z = output.logits.detach().double().numpy() / tau
        exponentials = np.exp(z - z.max(1, keepdims=True))
        found.append(exponentials / exponentials.sum(1, keepdims=True))
    return found[0], found[1]


def plain_reverse_kl(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 4.0)
    q, p = both_softmax(inputs, tau)
    return float(tau**2 * np.mean((q * np.log(q / p)).sum(1)))


def plain_jsd(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 4.0)
    q, p = both_softmax(inputs, tau)
    m = (p + q) / 2
    return float(tau**2 * np.mean(((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)) / 2))


def plain_soft_cross_entropy(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 4.0)
    q, p = both_softmax(inputs, tau)
    return float(tau**2 * np.mean(-(p * np.log(q)).sum(1)))


def plain_standardized_kl(inputs: LossInputs, options: dict[str, Any]) -> float:
    def standardized(output: Any) -> Tensor:
        z = output.logits.detach().double().numpy()
        return torch.from_numpy((z - z.mean(1, keepdims=True)) / (1e-7 + z.std(1, ddof=1, keepdims=True)))

    student, teacher = (replace(o, logits=standardized(o)) for o in (inputs.student, inputs.teacher_output))
    return plain_kl(replace(inputs, student=student, teacher=teacher), {"temperature": options.get("temperature", 2.0)})


def plain_dkd(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau, total = options.get("temperature", 4.0), 0.0
    for student, teacher, y in rows(inputs):
        q, p = softmax([v / tau for v in student]), softmax([v / tau for v in teacher])
        binary = p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        q, p = softmax([v / tau for v in without(student, y)]), softmax([v / tau for v in without(teacher, y)])
        others = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += tau**2 * (options.get("alpha", 1.0) * binary + options.get("beta", 8.0) * others)
    return total / len(inputs.labels)


def without(row: list[float], place: int) -> list[float]:
    return row[:place] + row[place + 1 :]


def plain_nkd(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau, total = options.get("temperature", 1.0), 0.0
    for student, teacher, y in rows(inputs):
        total -= softmax(teacher)[y] * math.log(softmax(student)[y])
        q, p = softmax([v / tau for v in without(student, y)]), softmax([v / tau for v in without(teacher, y)])
        total -= options.get("gamma", 1.5) * tau**2 * sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return total / len(inputs.labels)


def plain_dist(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 4.0)
    q, p = both_softmax(inputs, tau)
    parts = []
    for a, b in ((q, p), (q.T, p.T)):
        correlations = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)] if a.shape[1] > 1 else [1.0]
        parts.append(1 - np.mean(correlations))
    return float(tau**2 * (options.get("beta", 1.0) * parts[0] + options.get("gamma", 1.0) * parts[1]))


def plain_mlkd(inputs: LossInputs, options: dict[str, Any]) -> float:
    values = []
    for tau in options.get("temperatures", (2.0, 3.0, 4.0, 5.0, 6.0)):
        q, p = both_softmax(inputs, tau)
        samples, classes = q @ q.T - p @ p.T, q.T @ q - p.T @ p
        both = (samples**2).sum() / len(q) + (classes**2).sum() / q.shape[1]
        values.append(plain_kl(inputs, {"temperature": tau}) + both)
    return float(np.mean(values))


def plain_ttm(inputs: LossInputs, options: dict[str, Any]) -> float:
    q, p = both_softmax(inputs, 1.0)[0], both_softmax(inputs, options.get("temperature", 4.0))[1]
    return float(np.mean((p * np.log(p / q)).sum(1)))


def plain_wttm(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau = options.get("temperature", 4.0)
    q, p = both_softmax(inputs, 1.0)
    powered = p ** (1 / tau)
    softness = powered.sum(1)
    target = powered / softness[:, None]
    return float(np.mean(softness * (target * np.log(target / q)).sum(1)))


def plain_ctkd(inputs: LossInputs, options: dict[str, Any]) -> float:
    low, high = options.get("lowest", 1.0), options.get("highest", 21.0)
    return plain_kl(inputs, {"temperature": low + (high - low) / (1 + math.exp(-1))})


def both_of(inputs: LossInputs, answer: Any) -> tuple[Any, Any]:
    """The student's and the teacher's features, or maps."""
    outputs = (inputs.student, inputs.teacher_output)
    student, teacher = (output_of(output, answer).detach().double().numpy() for output in outputs)
    return student, teacher


def unit(x: Any, axis: int = -1) -> Any:
    return x / np.sqrt((x**2).sum(axis, keepdims=True))


def plain_feature_cosine(inputs: LossInputs, options: dict[str, Any]) -> float:
    s, t = both_of(inputs, "features")
    return float(np.mean([1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(s, t, strict=True)]))


def energies(inputs: LossInputs, power: int) -> list[Any]:
    return [unit((x**power).mean(1).reshape(len(x), -1)) for x in both_of(inputs, "map")]


def plain_attention_transfer(inputs: LossInputs, options: dict[str, Any]) -> float:
    s, t = energies(inputs, options.get("power", 2))
    return float(np.mean((s - t) ** 2))


def plain_factor_transfer(inputs: LossInputs, options: dict[str, Any]) -> float:
    s, t = energies(inputs, options.get("power", 2))
    return float(np.mean(np.abs(s - t)))


def plain_neuron_selectivity(inputs: LossInputs, options: dict[str, Any]) -> float:
    def kernel(a: Any, b: Any) -> float:
        return float(np.mean([[(x @ y) ** 2 for y in b] for x in a]))

    values = []
    for s, t in zip(*both_of(inputs, "map"), strict=True):
        s, t = unit(s.reshape(len(s), -1)), unit(t.reshape(len(t), -1))
        values.append(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t))
    return float(np.mean(values))


def plain_fsp(inputs: LossInputs, options: dict[str, Any]) -> float:
    last = inputs.student.features[MAPS[1]].detach().double().numpy()
    grams = [np.einsum("bchw,bdhw->bcd", x, last) / 4 for x in both_of(inputs, "map")]
    return float(np.mean((grams[0] - grams[1]) ** 2))


def plain_activation_boundary(inputs: LossInputs, options: dict[str, Any]) -> float:
    m, total = options.get("margin", 1.0), 0.0
    s, t = both_of(inputs, "map")
    for a, b in zip(s.flat, t.flat, strict=True):
        total += (a + m) ** 2 if a > -m and b <= 0 else (a - m) ** 2 if a <= m and b > 0 else 0.0
    return total * 3 / 1000 / len(s)


def plain_similarity_preserving(inputs: LossInputs, options: dict[str, Any]) -> float:
    s, t = (unit(x @ x.T) for x in both_of(inputs, "features"))
    return float(((s - t) ** 2).sum() / len(s) ** 2)


def huber(gap: Any) -> Any:
    return np.where(np.abs(gap) < 1, gap**2 / 2, np.abs(gap) - 0.5)


def plain_relational(inputs: LossInputs, options: dict[str, Any]) -> float:
    distances, angles = [], []
    for x in both_of(inputs, "features"):
        apart = x[None] - x[:, None]
        length = np.sqrt((apart**2).sum(2))
        distances.append(length / length[length > 0].mean() if (length > 0).any() else length)
        pointed = np.divide(apart, length[..., None], out=np.zeros_like(apart), where=length[..., None] > 0)
        angles.append(np.einsum("ijd,ikd->ijk", pointed, pointed))
    far, wide = huber(distances[0] - distances[1]).mean(), huber(angles[0] - angles[1]).mean()
    return float(options.get("distance_weight", 25.0) * far + options.get("angle_weight", 50.0) * wide)


def plain_probabilistic(inputs: LossInputs, options: dict[str, Any]) -> float:
    neighbours = []
    for x in both_of(inputs, "features"):
        rows_of_x = x / (np.sqrt((x**2).sum(1, keepdims=True)) + 1e-7)
        cosines = (rows_of_x @ rows_of_x.T + 1) / 2
        neighbours.append(cosines / cosines.sum(1, keepdims=True))
    s, t = neighbours
    return float(np.mean(t * np.log((t + 1e-7) / (s + 1e-7))))


def plain_correlation(inputs: LossInputs, options: dict[str, Any]) -> float:
    gap = np.abs(np.array(gaps(inputs)))
    products = [a @ b for a, b in itertools.pairwise(gap)]
    return float(np.mean(products)) if products else 0.0


def plain_vid(inputs: LossInputs, options: dict[str, Any]) -> float:
    raw = float(np.float32(math.log(math.expm1(5 - 1e-5))))
    variance = math.log1p(math.exp(raw)) + 1e-5
    return float(np.mean([(gap**2 / variance + math.log(variance)) / 2 for gap in gaps(inputs)]))


def plain_srrl(inputs: LossInputs, options: dict[str, Any]) -> float:
    head = inputs.teacher_output.tails[FEATURES].head
    assert head is not None
    crossed = [gap @ head.numpy().T for gap in gaps(inputs)]
    return plain_feature_mse(inputs, {}) + options.get("beta", 1.0) * float(np.mean([c**2 for c in crossed]))


def plain_crd(inputs: LossInputs, options: dict[str, Any]) -> float:
    """Scores, normaliser and estimation one by one; the weights, the banks and the draws are the module's own."""
    loss = CRD(**options)
    loss.setup(small_setup_context())
    loss.double()
    tau, total = options.get("nce_temperature", 0.07), 0.0
    negatives = loss._draw(inputs.index, inputs.labels, inputs.progress).numpy()
    layers = (loss.student_embedding, loss.teacher_embedding)
    embedded = []
    for layer, x in zip(layers, both_of(inputs, "features"), strict=True):
        embedded.append(unit(x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()))
    samples, count = len(loss.student_bank), negatives.shape[1]
    for e, bank in zip(embedded, (loss.teacher_bank.numpy(), loss.student_bank.numpy()), strict=True):
        scores = [
            [math.exp(e[b] @ bank[row] / tau) for row in (int(inputs.index[b]), *negatives[b])]
            for b in range(len(inputs.labels))
        ]
        z, noise = samples * float(np.mean(scores)), count / samples
        for positive, *others in scores:
            total -= math.log(positive / z / (positive / z + noise))
            total -= sum(math.log(noise / (other / z + noise)) for other in others)
    return total / len(inputs.labels)


def plain_ofd(inputs: LossInputs, options: dict[str, Any]) -> float:
    """Of maps after an activation, whose margins are 0."""
    return partial_distance(*both_of(inputs, "map"), [0.0] * 3)


def partial_distance(s: Any, t: Any, margins: list[float]) -> float:
    total = 0.0
    for channel, margin in enumerate(margins):
        for a, b in zip(s[:, channel].ravel(), t[:, channel].ravel(), strict=True):
            target = max(b, margin)
            if a > target or target > 0:
                total += (a - target) ** 2
    return total / 1000 / len(s)


def pooled(x: Any, level: int) -> Any:
    side = x.shape[2] // level
    return x.reshape(*x.shape[:2], level, side, level, side).mean((3, 5))


def hierarchical(s: Any, t: Any) -> float:
    total, weights = float(np.mean((s - t) ** 2)), 1.0
    for place, level in enumerate(level for level in (4, 2, 1) if level < s.shape[2]):
        weight = 0.5 ** (place + 1)
        total += weight * float(np.mean((pooled(s, level) - pooled(t, level)) ** 2))
        weights += weight
    return total / weights


def convolve(x: Any, weight: Any) -> Any:
    """A convolution that keeps the grid, entry by entry of the kernel."""
    reach = weight.shape[2] // 2
    wide = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    out = np.zeros((len(x), len(weight), *x.shape[2:]))
    for i, j in itertools.product(range(weight.shape[2]), repeat=2):
        out += np.einsum("bchw,oc->bohw", wide[:, :, i : i + x.shape[2], j : j + x.shape[3]], weight[:, :, i, j])
    return out


def plain_reviewkd(inputs: LossInputs, options: dict[str, Any]) -> float:
    """The weights are the module's own; its batch norms are in evaluation mode, as made."""
    loss = ReviewKD(**options)
    loss.setup(map_setup_context())
    weights = {name: value.double().numpy() for name, value in loss.state_dict().items()}
    shrink = 1 / math.sqrt(1 + 1e-5)
    fused, total = None, 0.0
    for place in reversed(range(len(options["taps"]))):
        tap, key = options["taps"][place], f"fusions.{place}"
        s, t = (output.features[tap].double().numpy() for output in (inputs.student, inputs.teacher_output))
        x = convolve(s, weights[f"{key}.reduce.0.weight"]) * shrink
        if fused is not None:
            both = np.concatenate([x, fused], 1)
            scores = convolve(both, weights[f"{key}.attend.weight"]) + weights[f"{key}.attend.bias"][:, None, None]
            shares = 1 / (1 + np.exp(-scores))
            x = x * shares[:, :1] + fused * shares[:, 1:]
        fused = x
        total += hierarchical(convolve(x, weights[f"{key}.expand.0.weight"]) * shrink, t)
    return total


def both_gradients(inputs: LossInputs, name: str) -> tuple[Any, Any]:
    teacher = inputs.teacher_features[name].detach().double().numpy()
    return inputs.student.features["gradient"].detach().double().numpy(), teacher


def plain_jacobian_matching(inputs: LossInputs, options: dict[str, Any]) -> float:
    s, t = both_gradients(inputs, TOP_LOGIT)
    return float(np.mean([((unit(a) - unit(b)) ** 2).sum() for a, b in zip(s, t, strict=True)]))


def plain_input_gradient_attention(inputs: LossInputs, options: dict[str, Any]) -> float:
    s, t = both_gradients(inputs, LABEL_LOSS)
    return float(np.mean([0.5 * ((a - b) ** 2).sum() for a, b in zip(s, t, strict=True)]))


NOT_THE_TEACHERS = {"minimum": "it reads the labels, not the teacher"}


class TestCrossEntropy(LossTester):
    loss = CrossEntropy
    reference = plain_cross_entropy
    not_held = {**NOT_THE_TEACHERS, "citation": "older than papers on it"}


class TestBinaryCrossEntropy(LossTester):
    loss = BinaryCrossEntropy
    reference = plain_binary_cross_entropy
    not_held = {**NOT_THE_TEACHERS, "citation": "older than papers on it"}


class TestBinaryCrossEntropyOfNewClasses(LossTester):
    """An image of an old class is none of the new ones."""

    loss = BinaryCrossEntropy
    variants = [{"first_class": 1}]
    checked = staticmethod(binary_cross_entropy_of_new_classes)
    reference = plain_binary_cross_entropy
    not_held = {**NOT_THE_TEACHERS, "citation": "older than papers on it"}


def several_classes(inputs: LossInputs, classes: int) -> LossInputs:
    """Each image's class and the next two, as a multi-hot vector."""
    yes = sum(one_hot((inputs.labels + step) % classes, classes) for step in range(3))
    return replace(inputs, labels=(torch.as_tensor(yes) > 0).to(inputs.student.logits.dtype))


def plain_of_several_classes(inputs: LossInputs, options: dict[str, Any]) -> float:
    total = 0.0
    for student, yes in zip(inputs.student.logits.tolist(), inputs.labels.tolist(), strict=True):
        total -= sum(math.log(1 / (1 + math.exp(-z if y else z))) for z, y in zip(student, yes, strict=True))
    return total / len(inputs.labels)


class TestBinaryCrossEntropyOfSeveralClasses(LossTester):
    loss = BinaryCrossEntropy
    reference = plain_of_several_classes
    not_held = {**NOT_THE_TEACHERS, "citation": "older than papers on it"}

    def labelled(self, inputs: LossInputs, classes: int) -> LossInputs:
        return several_classes(inputs, classes)


def plain_target_mse(inputs: LossInputs, options: dict[str, Any]) -> float:
    pairs = zip(inputs.student.logits.flatten().tolist(), inputs.labels.flatten().tolist(), strict=True)
    return sum((z - y) ** 2 for z, y in pairs) / inputs.labels.numel()


class TestTargetMSE(LossTester):
    loss = TargetMSE
    reference = plain_target_mse
    checked = staticmethod(lambda student_logits, labels: functional.target_mse(student_logits, one_hot(labels, 5)))
    not_held = {**NOT_THE_TEACHERS, "citation": "older than papers on it"}

    def labelled(self, inputs: LossInputs, classes: int) -> LossInputs:
        return replace(inputs, labels=one_hot(inputs.labels, classes).to(inputs.student.logits.dtype) - 0.25)


@pytest.mark.parametrize("kind", losses().values(), ids=list(losses()))
def test_a_loss_of_labels_takes_those_of_its_tasks_and_no_others(kind: type[Loss[Any]]) -> None:
    made = [kind()]
    for task in TASKS:
        if task in kind.tasks:
            check_task(made, task)
        else:
            with pytest.raises(BadInput, match=names_for_task(task)[0]):
                check_task(made, task)


class TestBCEKL(LossTester):
    loss = BCEKL
    variants = [{}, {"temperature": 4.0}]
    reference = plain_bce_kl


class TestLabelSmoothing(LossTester):
    loss = LabelSmoothing
    variants = [{}, {"smoothing": 0.0}, {"smoothing": 0.5}, {"smoothing": 1.0}]
    reference = plain_label_smoothing
    not_held = NOT_THE_TEACHERS


class TestKL(LossTester):
    loss = KL
    variants = [{}, {"temperature": 1.0}, {"temperature": 20.0}]
    reference = plain_kl


class TestLogitMSE(LossTester):
    loss = LogitMSE
    variants = [{}, {"centred": True}]
    reference = plain_logit_mse


class TestLogitFisher(LossTester):
    loss = LogitFisher
    variants = [{}, {"temperature": 4.0}, {"diagonal": True}, {"diagonal": True, "temperature": 4.0}]
    reference = plain_logit_fisher


class TestFeatureMSE(LossTester):
    loss = FeatureMSE
    answer = "features"
    # A connector that learns is worked by hand in test_features.py.
    variants = [{"connector": "identity"}, {"connector": "identity", "taps": ["features"]}]
    reference = plain_feature_mse


ALIKE = {"connector": "identity"}


class TestFeatureFisher(LossTester):
    loss = FeatureFisher
    answer = "features"
    variants = [ALIKE, {**ALIKE, "temperature": 1.0}, {**ALIKE, "scale": "mse"}, {**ALIKE, "samples": 2}]
    reference = plain_feature_fisher
    # Its weights, which no argument of a usual loss is like, are fixed.
    checked = staticmethod(
        lambda feat_s, feat_t: functional.feature_fisher(feat_s, feat_t, torch.ones_like(feat_t) / 9)
    )


def full_fisher_of_a_fixed_tail(feat_s: Tensor, feat_t: Tensor) -> Tensor:
    size = feat_t[0].numel()
    jacobian = torch.linspace(-1, 1, 3 * size, dtype=feat_t.dtype).reshape(3, size).sin().expand(len(feat_t), 3, size)
    probabilities = torch.tensor([0.5, 0.3, 0.2], dtype=feat_t.dtype).expand(len(feat_t), 3)
    return functional.feature_full_fisher(feat_s, feat_t, jacobian, probabilities)


class TestFeatureFullFisher(LossTester):
    loss = FeatureFullFisher
    answer = "features"
    variants = [ALIKE, {**ALIKE, "temperature": 1.0}]
    reference = plain_feature_full_fisher
    checked = staticmethod(full_fisher_of_a_fixed_tail)


def block_logit_without_stones(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    return functional.block_logit(student_logits, teacher_logits, [], labels, temperature=4.0, gamma=0.0)


class TestBlockLogit(LossTester):
    loss = BlockLogit
    checked = staticmethod(block_logit_without_stones)
    answer = "features"
    variants = [ALIKE, {**ALIKE, "alpha": 0.1, "beta": 0.0, "temperature": 1.0}]
    reference = plain_block_logit
    not_held = {
        "minimum": "a stone learns from the labels, too",
        "gradient": "the stones' mean is taken as it is: none flows to it",
    }


class TestBlockLogitWithoutTheStonesMean(LossTester):
    loss = BlockLogit
    checked = staticmethod(block_logit_without_stones)
    answer = "features"
    variants = [{**ALIKE, "gamma": 0.0}]
    reference = plain_block_logit
    not_held = {"minimum": "a stone learns from the labels, too"}


class TestBlockLogitOfTheStudentsOwnAnswer(LossTester):
    loss = BlockLogit
    checked = staticmethod(block_logit_without_stones)
    variants = [ALIKE]
    reference = plain_block_logit
    not_held = {"minimum": "the student learns from the labels and the stones, too"}


class TestBlockLogitOfTheTeacherAlone(LossTester):
    """The student's own answer is the teacher's, so that its features are all that is left to learn."""

    loss = BlockLogit
    checked = staticmethod(block_logit_without_stones)
    answer = "features"
    variants = [{**ALIKE, "alpha": 0.0, "gamma": 0.0}]
    reference = plain_block_logit

    def with_student(self, inputs: LossInputs, value: Tensor) -> LossInputs:
        other = with_output(inputs.student, "features", value)
        return replace(inputs, student=replace(other, logits=inputs.teacher_output.logits.detach()))


class TestReverseKL(LossTester):
    loss = ReverseKL
    variants = [{}, {"temperature": 1.0}]
    reference = plain_reverse_kl


class TestJSD(LossTester):
    loss = JSD
    variants = [{}, {"temperature": 1.0}]
    reference = plain_jsd


class TestSoftCrossEntropy(LossTester):
    loss = SoftCrossEntropy
    variants = [{}, {"temperature": 1.0}]
    reference = plain_soft_cross_entropy
    not_held = {"zero": "at equality it is the entropy of the teacher's answer"}


class TestStandardizedKL(LossTester):
    loss = StandardizedKL
    variants = [{}, {"temperature": 1.0}]
    reference = plain_standardized_kl


class TestDKD(LossTester):
    loss = DKD
    variants = [{}, {"alpha": 2.0, "beta": 0.5, "temperature": 1.0}]
    reference = plain_dkd


class TestNKD(LossTester):
    loss = NKD
    variants = [{}, {"gamma": 0.5, "temperature": 2.0}]
    reference = plain_nkd
    not_held = {"minimum": "the true class's cross-entropy goes on beyond the teacher's confidence"}


class TestDIST(LossTester):
    loss = DIST
    variants = [{}, {"beta": 2.0, "gamma": 0.5, "temperature": 1.0}]
    reference = plain_dist


class TestMLKD(LossTester):
    loss = MLKD
    variants = [{}, {"temperatures": (1.0, 2.0)}]
    reference = plain_mlkd


def ttm_unsoftened(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """It is published to soften the teacher alone, which check_loss rightly reports."""
    return functional.ttm(student_logits, teacher_logits, temperature=1.0)


class TestTTM(LossTester):
    loss = TTM
    variants = [{}, {"temperature": 2.0}]
    reference = plain_ttm
    checked = ttm_unsoftened
    not_held = {"minimum": "the student is to give the softened answer, not the teacher's logits"}


class TestWTTM(LossTester):
    loss = WTTM
    variants = [{}, {"temperature": 2.0}]
    reference = plain_wttm
    not_held = {"minimum": "the student is to give the softened answer, not the teacher's logits"}


def plain_wsld(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau, total = options.get("temperature", 2.0), 0.0
    for student, teacher, y in rows(inputs):
        weight = 1 - math.exp(-math.log(softmax(student)[y]) / (math.log(softmax(teacher)[y]) - 1e-7))
        q, p = softmax([v / tau for v in student]), softmax([v / tau for v in teacher])
        total += weight * tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(inputs.labels)


class TestWSLD(LossTester):
    loss = WSLD
    variants = [{}, {"temperature": 4.0}]
    reference = plain_wsld
    not_held = {"gradient": "each sample's weight is taken as it is: none flows to it"}


class TestCTKD(LossTester):
    loss = CTKD
    variants = [{}, {"lowest": 2.0, "highest": 6.0}]
    reference = plain_ctkd
    checked = partial(functional.ctkd, temperature=torch.tensor(4.0))


class TestFeatureCosine(LossTester):
    loss = FeatureCosine
    answer = "features"
    variants = [ALIKE]
    reference = plain_feature_cosine


MAP = {"taps": [MAPS[0]]}


class TestAttentionTransfer(LossTester):
    loss = AttentionTransfer
    answer = "map"
    variants = [MAP, {**MAP, "power": 4}]
    reference = plain_attention_transfer


class TestFactorTransfer(LossTester):
    loss = FactorTransfer
    answer = "map"
    variants = [MAP, {**MAP, "power": 4}]
    reference = plain_factor_transfer


class TestNeuronSelectivity(LossTester):
    loss = NeuronSelectivity
    answer = "map"
    variants = [MAP]
    reference = plain_neuron_selectivity


def fsp_of_one_map(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    return functional.fsp([student_features, student_features], [teacher_features, teacher_features])


class TestFSP(LossTester):
    loss = FSP
    answer = "map"
    variants = [{**ALIKE, "taps": list(MAPS)}]
    reference = plain_fsp
    checked = fsp_of_one_map


class TestActivationBoundary(LossTester):
    loss = ActivationBoundary
    answer = "map"
    variants = [{**MAP, **ALIKE}, {**MAP, **ALIKE, "margin": 0.5}]
    reference = plain_activation_boundary
    not_held = {"minimum": "it learns signs with a margin, which the teacher's own numbers need not keep"}


class TestSimilarityPreserving(LossTester):
    loss = SimilarityPreserving
    answer = "features"
    reference = plain_similarity_preserving


class TestRelational(LossTester):
    loss = Relational
    answer = "features"
    variants = [{}, {"distance_weight": 1.0, "angle_weight": 0.0}]
    reference = plain_relational


class TestProbabilistic(LossTester):
    loss = Probabilistic
    answer = "features"
    reference = plain_probabilistic
    precision = 1e-6


class TestCorrelation(LossTester):
    loss = Correlation
    answer = "features"
    variants = [ALIKE]
    reference = plain_correlation
    not_held = {"order": "it multiplies the gaps of consecutive images"}


class TestVID(LossTester):
    loss = VID
    answer = "features"
    variants = [ALIKE]
    reference = plain_vid
    checked = partial(functional.vid, variance=torch.tensor(5.0))
    not_held = {
        "zero": "at equality the logarithm of the variance is left",
        "two classes": "it has a variance for each channel of the features that it was set up with, not for classes",
    }


class TestSRRL(LossTester):
    loss = SRRL
    answer = "features"
    variants = [ALIKE, {**ALIKE, "beta": 0.5}]
    reference = plain_srrl


def crd_of_fixed_banks(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    rows = torch.arange(len(student_features))
    s, t = (torch.nn.functional.normalize(x.flatten(1), dim=1) for x in (student_features, teacher_features))
    return functional.crd(s, t.detach(), t, t, rows, torch.stack([rows.roll(1), rows.roll(2)], 1), nce_temperature=1.0)


class TestCRD(LossTester):
    loss = CRD
    answer = "features"
    variants = [{"negatives": 50}, {"negatives": 7, "dimension": 3, "nce_temperature": 0.5, "contrast": "other_images"}]
    reference = plain_crd
    checked = crd_of_fixed_banks
    eval_mode = True
    not_held = {
        "minimum": "it compares embeddings that are learned on either side, and pushes other images away",
        "order": "negatives are drawn by the place in the batch",
        "gradient": "the first batch's normaliser is taken as it is: none flows to it",
        "two classes": "its embeddings are as wide as the features that it was set up with, not for classes",
    }


class TestOFD(LossTester):
    loss = OFD
    answer = "map"
    variants = [{**MAP, **ALIKE}]
    reference = plain_ofd
    checked = staticmethod(lambda feat_s, feat_t: functional.ofd([feat_s], [feat_t], [-torch.ones(feat_t.shape[1])]))


class TestReviewKD(LossTester):
    loss = ReviewKD
    answer = "map"
    variants = [MAP, {"taps": list(MAPS), "max_channels": 2}]
    reference = plain_reviewkd
    checked = staticmethod(lambda feat_s, feat_t: functional.reviewkd([feat_s], [feat_t]))
    eval_mode = True
    not_held = {"minimum": "the student's maps go through convolutions that learn, also where shapes are equal"}

    def test_wrong_shapes_are_refused(self, make: Loss[Any]) -> None:
        """Maps of two stages cannot even be fused."""
        inputs = self.inputs()
        maps = {tap: inputs.student.features[tap][:4] for tap in MAPS}
        with pytest.raises(ValueError, match="expected"):
            make(replace(inputs, student=replace(inputs.student, features=maps)))


class InputGradientTester(LossTester):
    """Of losses on gradients in the images: the student's logits are made so that it has the gradient under test."""

    gradient: ClassVar[str]

    def inputs(self, batch: int = 6, classes: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> LossInputs:
        made = random_inputs(batch, classes, seed, dtype)
        teacher = made.teacher_output
        teacher = replace(teacher, features={**teacher.features, self.gradient: made.teacher_logits.clone()})
        return self.with_student(replace(made, teacher=teacher), made.student.logits)

    def student_of(self, inputs: LossInputs) -> Tensor:
        return inputs.student.features["gradient"]

    def teacher_of(self, inputs: LossInputs) -> Tensor:
        return inputs.teacher_features[self.gradient]

    def with_student(self, inputs: LossInputs, value: Tensor) -> LossInputs:
        images = torch.zeros_like(value).requires_grad_()
        rise, classes = (value * images).sum(1, keepdim=True), value.shape[1]
        if self.gradient == LABEL_LOSS:
            # At 0 all classes are alike: the cross-entropy falls with the true one's logit by 1 − 1/K.
            true = torch.nn.functional.one_hot(inputs.labels[: len(value)], classes).to(value.dtype)
            rise = -rise * true * classes / (classes - 1)
        logits = rise.expand(-1, classes)
        return replace(inputs, student=ModelOutput(logits, {"gradient": value}), images=images)

    def select(self, inputs: LossInputs, rows: Tensor) -> LossInputs:
        part = select(inputs, rows)
        return self.with_student(part, part.student.features["gradient"])


class TestJacobianMatching(InputGradientTester):
    loss = JacobianMatching
    gradient = TOP_LOGIT
    reference = plain_jacobian_matching
    checked = staticmethod(lambda feat_s, feat_t: functional.jacobian_matching(feat_s, feat_t))


class TestInputGradientAttention(InputGradientTester):
    loss = InputGradientAttention
    gradient = LABEL_LOSS
    reference = plain_input_gradient_attention
    checked = staticmethod(lambda feat_s, feat_t: functional.input_gradient_attention(feat_s, feat_t))


class AttentionTester(LossTester):
    """Of losses on attention: queries, keys and values of texts of 1 to 4 tokens, side by side, [B, 4, 12]."""

    @pytest.fixture
    def make(self, variant: dict[str, Any]) -> Loss[Any]:
        loss = self.loss(**variant)
        loss.setup(text_setup_context())
        return loss

    def inputs(self, batch: int = 6, classes: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> LossInputs:
        draw = torch.Generator().manual_seed(seed)
        made = random_inputs(batch, classes, seed, dtype)
        student, teacher = (torch.randn(batch, 4, 12, generator=draw, dtype=torch.float64).to(dtype) for _ in range(2))
        mask = torch.arange(4) <= torch.arange(batch)[:, None] % 4
        made = replace(made, teacher=ModelOutput(made.teacher_logits, self.features(teacher)), mask=mask)
        return self.with_student(made, student)

    def features(self, states: Tensor) -> dict[str, Tensor]:
        return {f"blocks.0.attention.{name}": part for name, part in zip(STATES, states.split(4, 2), strict=True)}

    def student_of(self, inputs: LossInputs) -> Tensor:
        return torch.cat(list(inputs.student.features.values()), 2)

    def teacher_of(self, inputs: LossInputs) -> Tensor:
        return torch.cat(list(inputs.teacher_features.values()), 2)

    def with_student(self, inputs: LossInputs, value: Tensor) -> LossInputs:
        return replace(inputs, student=replace(inputs.student, features=self.features(value)))

    def select(self, inputs: LossInputs, rows: Tensor) -> LossInputs:
        assert inputs.mask is not None
        return replace(select(inputs, rows), mask=inputs.mask[rows])

    def test_no_gradient_reaches_the_teacher(self, make: Loss[Any]) -> None:
        """The states are parts of one tensor here."""
        inputs = self.inputs()
        teacher = self.teacher_of(inputs).requires_grad_()
        student = self.student_of(inputs).requires_grad_()
        answer = replace(inputs.teacher_output, features=self.features(teacher))
        make(self.with_student(replace(inputs, teacher=answer), student)).backward()
        assert teacher.grad is None
        assert student.grad is not None
        assert student.grad.abs().max() > 0

    @pytest.mark.skip(reason="its logits are not what it reads")
    def test_saturated_logits_give_no_nan(self) -> None: ...

    def test_what_stands_for_padding_counts_nothing(self, make: Loss[Any]) -> None:
        inputs = self.inputs()
        assert inputs.mask is not None
        student = self.student_of(inputs).masked_fill(~inputs.mask[..., None], 100.0)
        assert make(self.with_student(inputs, student)).item() == pytest.approx(make(inputs).item(), rel=1e-12)


def attention_scores(x: list[list[float]], y: list[list[float]], heads: int, tokens: int) -> list[list[list[float]]]:
    """[heads][tokens][tokens] of one text's rows."""
    size = len(x[0]) // heads
    return [
        [
            [sum(x[i][n] * y[j][n] for n in range(a * size, (a + 1) * size)) / math.sqrt(size) for j in range(tokens)]
            for i in range(tokens)
        ]
        for a in range(heads)
    ]


def texts(inputs: LossInputs) -> Iterator[tuple[list[dict[str, list[list[float]]]], int]]:
    """Of each text the student's and the teacher's states, and the number of its tokens."""
    assert inputs.mask is not None
    for row, mask in enumerate(inputs.mask.tolist()):
        outputs = (inputs.student.features, inputs.teacher_features)
        yield [{name.split(".")[-1]: x[row].tolist() for name, x in each.items()} for each in outputs], sum(mask)


def plain_attention_maps(inputs: LossInputs, options: dict[str, Any]) -> float:
    total = 0.0
    for both, tokens in texts(inputs):
        student, teacher = (attention_scores(each["query"], each["key"], 2, tokens) for each in both)
        if options.get("normalized"):
            student, teacher = ([[softmax(row) for row in head] for head in each] for each in (student, teacher))
        gaps = [
            (student[a][i][j] - teacher[a][i][j]) ** 2 for a in range(2) for i in range(tokens) for j in range(tokens)
        ]
        total += sum(gaps) / len(gaps)
    return total / len(inputs.labels)


def plain_minilm(inputs: LossInputs, options: dict[str, Any]) -> float:
    heads, total = options.get("relation_heads", 2), 0.0
    for both, tokens in texts(inputs):
        for relation in options.get("relations", STATES):
            x, y = ("query", "key") if relation == "attention" else (relation, relation)
            student, teacher = (attention_scores(each[x], each[y], heads, tokens) for each in both)
            for a in range(heads):
                for i in range(tokens):
                    q, p = softmax(student[a][i]), softmax(teacher[a][i])
                    total += sum(p[j] * math.log(p[j] / q[j]) for j in range(tokens)) / (heads * tokens)
    return total / len(inputs.labels)


class TestAttentionMaps(AttentionTester):
    loss = AttentionMaps
    variants = [{}, {"normalized": True}, {"taps": [{"teacher": "blocks.0", "student": "blocks.0.attention"}]}]
    reference = plain_attention_maps
    precision = 1e-10
    checked = staticmethod(
        lambda feat_s, feat_t: functional.attention_maps(
            *(x.flatten(2) for x in (feat_s, feat_s, feat_t, feat_t)), heads=1
        )
    )


class TestMiniLM(AttentionTester):
    loss = MiniLM
    variants = [{}, {"relations": ["value"], "relation_heads": 4}, {"relations": ["attention", "value"], "taps": "all"}]
    reference = plain_minilm
    precision = 1e-10
    checked = staticmethod(
        lambda feat_s, feat_t: functional.minilm(
            [(feat_s.flatten(2), feat_s.flatten(2))], [(feat_t.flatten(2), feat_t.flatten(2))], relation_heads=1
        )
    )


def test_attention_maps_of_other_numbers_of_heads_are_refused() -> None:
    ids = torch.tensor([[2, 7, 3, -1], [2, 8, 9, 3]], dtype=torch.int32)
    student = ModelInfo(TextEncoder(10, 4, 5, dim=4, depth=1, heads=1), lambda: ids, "student")
    context = SetupContext(student, text_setup_context().teacher, num_classes=5, seed=0)
    with pytest.raises(BadInput, match="as many heads in both models"):
        AttentionMaps().setup(context)
    with pytest.raises(BadInput, match="a divisor of both widths"):
        MiniLM(relation_heads=3).setup(context)
    MiniLM().setup(context)
    with pytest.raises(BadInput, match="Sequential, has none"):
        MiniLM().setup(small_setup_context())


@pytest.mark.parametrize("kind", [MiniLM, AttentionMaps])
def test_attention_of_our_vision_transformer_is_found(kind: type[Loss[Any]]) -> None:
    loss = kind(taps="all")
    loss.setup(shared_context("vit", "vit"))
    assert [student.name for _, student in loss.pairs] == ["blocks.0.attention", "blocks.1.attention"]
    assert loss.requires.student_features[0].startswith("blocks.0.attention.query")


class TestSimKD(LossTester):
    loss = SimKD
    answer = "features"
    reference = plain_feature_mse

    @pytest.fixture
    def make(self, variant: dict[str, Any]) -> Loss[Any]:
        context = small_setup_context()
        config = ReusedHeadConfig(teacher_tap=FEATURES, tap=FEATURES, channels=5)
        student = ReusedHead(context.student.model, config, context.student.example(), 5)
        loss = SimKD()
        info = replace(context.student, model=student)
        loss.setup(SetupContext(info, replace(context.teacher), num_classes=5, seed=0))
        ((teacher, projected),) = loss.pairs
        assert projected.name == "projector"
        # The inputs below hold the features of both under one name.
        loss.pairs = ((teacher, teacher),)
        return loss.double()


def rows_below(kind: type[LossTester]) -> set[type[LossTester]]:
    return {kind} | {row for below in kind.__subclasses__() for row in rows_below(below)}


def test_every_built_in_loss_has_a_row() -> None:
    tested = {row.loss for row in rows_below(LossTester) if hasattr(row, "loss")}
    assert tested == set(losses().values())


def golden_pair() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(GOLDENS / "losses.npz", allow_pickle=False) as inputs:
        return torch.from_numpy(inputs["student_logits"]), torch.from_numpy(inputs["teacher_logits"])


@pytest.mark.parametrize(("name", "temperature"), [("kl_t1", 1.0), ("kl_t4", 4.0), ("kl_t20", 20.0)])
def test_kl_equals_its_golden_value(name: str, temperature: float) -> None:
    expected = json.loads((GOLDENS / "losses.json").read_text())[name]
    assert functional.kl(*golden_pair(), temperature=temperature).item() == pytest.approx(expected, rel=1e-6)


def golden(name: str) -> Tensor:
    with np.load(GOLDENS / "losses.npz", allow_pickle=False) as inputs:
        return torch.from_numpy(inputs[name])


def golden_stages(kind: str) -> list[Tensor]:
    return [golden(f"{kind}_{stage}") for stage in range(3)]


@pytest.mark.parametrize(
    ("name", "compute"),
    [
        ("logit_standardized_kl_t2", lambda: functional.standardized_kl(*golden_pair(), temperature=2.0)),
        (
            "dkd_a1_b8_t4",
            lambda: functional.dkd(*golden_pair(), golden("labels"), alpha=1.0, beta=8.0, temperature=4.0),
        ),
        (
            "attention_p2",
            lambda: functional.attention_transfer(golden_stages("student_feature"), golden_stages("teacher_feature")),
        ),
        (
            "similarity_preserving_last",
            lambda: functional.similarity_preserving(golden("student_feature_2"), golden("teacher_feature_2")),
        ),
        ("pkt", lambda: functional.probabilistic(golden("student_pooled"), golden("teacher_pooled"))),
        (
            "ab_m1",
            lambda: functional.activation_boundary(
                golden_stages("student_feature"), golden_stages("teacher_feature_same"), margin=1.0
            ),
        ),
    ],
)
def test_a_loss_equals_its_golden_value(name: str, compute: Callable[[], Tensor]) -> None:
    expected = json.loads((GOLDENS / "losses.json").read_text())[name]
    assert compute().item() == pytest.approx(expected, rel=1e-9)


def test_maps_of_several_stages_and_grids_are_summed_and_pooled() -> None:
    torch.manual_seed(0)
    one, other = torch.rand(4, 3, 4, 4).double(), torch.rand(4, 5, 2, 2).double()
    single = functional.attention_transfer([one], [other])
    pooled = functional.attention_transfer([torch.nn.functional.avg_pool2d(one, 2)], [other])
    assert single.item() == pytest.approx(pooled.item(), rel=1e-12)
    assert functional.attention_transfer([one, one], [other, other]).item() == pytest.approx(2 * single.item())


def test_neuron_selectivity_is_the_same_by_places_and_by_channels() -> None:
    torch.manual_seed(0)
    few, many = torch.rand(4, 3, 4, 4).double(), torch.rand(4, 20, 4, 4).double()
    by_channels = functional.neuron_selectivity([few], [few.flip(3)])
    twenty = functional.neuron_selectivity([few.repeat(1, 7, 1, 1)[:, :18]], [few.flip(3).repeat(1, 7, 1, 1)[:, :18]])
    assert twenty.item() == pytest.approx(by_channels.item(), rel=1e-9)
    assert functional.neuron_selectivity([many], [few]).item() > 0


def test_ofd_reads_before_the_activation_and_measures_its_margins_there() -> None:
    loss, context = OFD(connector="identity"), map_setup_context()
    loss.setup(context)
    assert [teacher.name for teacher, _ in loss.pairs] == ["1:pre", "4:pre"]
    net = context.teacher
    torch.manual_seed(0)
    images = torch.randn(2, 1, 4, 4)
    fixed = OFD(connector="identity")
    fixed.setup(SetupContext(replace(context.student), replace(net, example=lambda: images), num_classes=5, seed=0))
    with torch.no_grad():
        before = net.model[:1](images).double().numpy()
    negative = [[v for v in before[:, channel].ravel() if v < 0] for channel in range(3)]
    margins = [float(np.mean(values)) if values else 0.0 for values in negative]
    assert fixed.get_buffer("margin_0").tolist() == pytest.approx(margins, rel=1e-6)
    student, teacher = 3 * torch.randn(2, 2, 3, 4, 4).double()
    value = functional.ofd([student], [teacher], [torch.tensor(margins)]).item()
    assert value == pytest.approx(partial_distance(student.numpy(), teacher.numpy(), margins), rel=1e-7)
    deep = [2 * student.mean((2, 3), keepdim=True), student]
    both = functional.ofd(deep, [deep[0] + 1, teacher], [torch.full((3,), -0.5), torch.tensor(margins)]).item()
    first = functional.ofd([deep[0]], [deep[0] + 1], [torch.full((3,), -0.5)]).item()
    assert both == pytest.approx(value + first / 2, rel=1e-9)


def test_crd_gathers_the_rows_of_a_large_bank_and_scores_a_small_one_whole() -> None:
    torch.manual_seed(0)
    s, t, bank_s, bank_t = (
        torch.nn.functional.normalize(torch.randn(n, 4, dtype=torch.float64), dim=1) for n in (6, 6, 200, 200)
    )
    positives = torch.arange(6)
    whole = torch.randint(200, (6, 40))
    few = whole[:, :2]
    for negatives in (whole, few):
        value = functional.crd(s, t, bank_s, bank_t, positives, negatives, nce_temperature=0.5).item()
        total, noise = 0.0, negatives.shape[1] / 200
        for e, bank in ((s, bank_t), (t, bank_s)):
            drawn = torch.cat([positives[:, None], negatives], 1)
            scores = (e[:, None] * bank[drawn] / 0.5).sum(2).exp()
            scores = scores / (200 * scores.mean())
            total -= (scores[:, 0] / (scores[:, 0] + noise)).log().mean().item()
            total -= (noise / (scores[:, 1:] + noise)).log().sum(1).mean().item()
        assert value == pytest.approx(total, rel=1e-9)


def test_crd_draws_negatives_of_other_classes_alike_each_time() -> None:
    loss = CRD(negatives=400)
    loss.setup(small_setup_context())
    labels = torch.arange(6) % 5
    drawn = loss._draw(torch.arange(6), labels, 0.25)
    assert torch.equal(drawn, loss._draw(torch.arange(6), labels, 0.25))
    assert not torch.equal(drawn, loss._draw(torch.arange(6), labels, 0.5))
    assert all(
        set((row % 5).tolist()) == set(range(5)) - {int(label)} for row, label in zip(drawn, labels, strict=True)
    )
    other = CRD(negatives=400, contrast="other_images")
    other.setup(small_setup_context())
    drawn = other._draw(torch.arange(6), labels, 0.25)
    assert all(set(row.tolist()) == set(range(40)) - {place} for place, row in enumerate(drawn))


def test_crd_remembers_a_batch_once_the_step_is_done() -> None:
    loss = CRD(negatives=20)
    loss.setup(small_setup_context())
    inputs = random_inputs(dtype=torch.float32)
    before = loss.student_bank.clone()
    first = loss(inputs)
    assert torch.equal(loss.student_bank, before)
    first.backward()
    loss.after_step()
    assert not loss.log_normalizers.isnan().any()
    with torch.no_grad():
        embedded = unit((loss.student_embedding(inputs.student.features[FEATURES])).numpy())
    expected = unit(0.5 * before[:6].numpy() + 0.5 * embedded)
    assert loss.student_bank[:6].numpy() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(loss.student_bank[6:], before[6:])
    state, again = loss.state_dict(), CRD(negatives=20)
    again.setup(small_setup_context())
    again.load_state_dict(state)
    assert again(inputs).item() == loss(inputs).item()
    kept = loss.student_bank.clone()
    loss.eval()(inputs)
    loss.after_step()
    loss.after_step()
    assert not torch.equal(loss.student_bank, kept)  # the batch in training mode before it
    kept = loss.student_bank.clone()
    loss(inputs)
    loss.after_step()
    assert torch.equal(loss.student_bank, kept)


def test_crd_refuses_images_of_one_class_or_of_none() -> None:
    context = small_setup_context()
    alone = TrainingSamples(4, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(BadInput, match=r"losses\.crd.*at least two classes"):
        CRD().setup(SetupContext(context.student, context.teacher, num_classes=5, seed=0, samples=alone))
    some = TrainingSamples(4, torch.arange(4), torch.tensor([0, -100, 1, -100]))
    with pytest.raises(BadInput, match=r"losses\.crd\.contrast.*other_images.*2 images have no label"):
        CRD().setup(SetupContext(context.student, context.teacher, num_classes=5, seed=0, samples=some))
    for samples in (alone, some):
        CRD(contrast="other_images").setup(
            SetupContext(context.student, context.teacher, num_classes=5, seed=0, samples=samples)
        )


def test_the_learned_temperature_grows_the_loss(tmp_path: Path) -> None:
    loss = CTKD()
    inputs = replace(random_inputs(dtype=torch.float32), progress=0.5)
    before = loss(inputs)
    before.backward()
    with torch.no_grad():
        loss.raw_temperature -= 0.1 * loss.raw_temperature.grad.sign()
    assert loss(inputs) > before


def test_fisher_diagonal_of_a_confident_teacher_keeps_its_small_weights_in_float32() -> None:
    teacher = torch.tensor([[30.0, 0.0, 0.0]])
    student = torch.tensor([[0.0, 30.0, 0.0]])
    low = functional.logit_fisher(student, teacher, diagonal=True).item()
    exact = functional.logit_fisher(student.double(), teacher.double(), diagonal=True).item()
    assert low == pytest.approx(exact, rel=1e-5)
    assert one_minus(torch.softmax(teacher, 1))[0, 0].item() == pytest.approx(2 * math.exp(-30), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_does_not_soften_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        functional.kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)
