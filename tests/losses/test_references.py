"""A second float64 computation of each loss without a golden value: from the paper's formula, number by number.

The rows of ``test_losses.py`` hold the modules to plain formulas of their own. What is here was written from the papers
alone, on other inputs, mostly by another route: entropies in place of divergences, moments in place of matrices, single
probabilities in place of arrays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillroom.losses import functional as f
from stillroom.losses.registry import losses

Floats = NDArray[np.float64]
B, K, D = 5, 7, 4
DRAW = np.random.default_rng(20)
Z_S, Z_T = (2.5 * DRAW.normal(size=(B, K)) for _ in range(2))
H_S, H_T = (1.5 * DRAW.normal(size=(B, D)) for _ in range(2))
Y = np.array([6, 0, 3, 3, 1])
# Two stages of maps, shallow to deep; the teacher's second has a larger grid than the student's.
M_S = [DRAW.normal(size=(B, 3, 4, 4)), DRAW.normal(size=(B, 2, 2, 2))]
M_T = [DRAW.normal(size=(B, 3, 4, 4)), DRAW.normal(size=(B, 2, 4, 4))]
RELU_S, RELU_T = ([np.maximum(each, 0) for each in maps] for maps in (M_S, M_T))
YES = (DRAW.random((B, K)) < 0.4).astype(float)
# States of texts of 3, 5, 1, 4 and 2 tokens, two heads.
LENGTHS = (3, 5, 1, 4, 2)
Q_S, K_S, Q_T, K_T = (DRAW.normal(size=(B, 5, 6)) for _ in range(4))
MASK = np.arange(5) < np.array(LENGTHS)[:, None]
# Embeddings of length 1, banks of 11 samples, three negatives each.
E_S, E_T, BANK_S, BANK_T = (
    each / np.linalg.norm(each, axis=1, keepdims=True) for each in (DRAW.normal(size=(n, D)) for n in (B, B, 11, 11))
)
POSITIVES, NEGATIVES = np.array([4, 0, 10, 7, 2]), DRAW.integers(0, 11, (B, 3))
J, W = DRAW.normal(size=(B, K, D)), DRAW.random((B, D))
STONES = [2 * DRAW.normal(size=(B, K)) for _ in range(3)]


def tensors(given: Any) -> Any:
    return [torch.from_numpy(each) for each in given] if isinstance(given, list) else torch.from_numpy(given)


def mean(values: Any) -> float:
    held = list(values)
    return math.fsum(held) / len(held)


def probabilities(z: Floats, tau: float = 1.0) -> list[float]:
    shares = [math.exp((v - max(z)) / tau) for v in z.tolist()]
    return [share / math.fsum(shares) for share in shares]


def entropy(p: Sequence[float]) -> float:
    return -math.fsum(v * math.log(v) for v in p if v)


def cross(p: Sequence[float], q: Sequence[float]) -> float:
    return -math.fsum(a * math.log(b) for a, b in zip(p, q, strict=True))


def divergence(p: Sequence[float], q: Sequence[float]) -> float:
    return cross(p, q) - entropy(p)


def per_sample(compute: Callable[[int], float]) -> float:
    return mean(compute(b) for b in range(B))


def pair(b: int, tau: float = 1.0) -> tuple[list[float], list[float]]:
    """The student's and the teacher's answer."""
    return probabilities(Z_S[b], tau), probabilities(Z_T[b], tau)


def rest(p: Sequence[float], y: int) -> list[float]:
    """The answer over the classes other than y: at one temperature it is the softmax of their logits."""
    others = [v for k, v in enumerate(p) if k != y]
    return [v / math.fsum(others) for v in others]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def bernoulli_cross(p: float, q: float) -> float:
    return -p * math.log(q) - (1 - p) * math.log(1 - q)


def plain_bce_kl(tau: float) -> float:
    def of(b: int) -> float:
        pairs = [(sigmoid(t / tau), sigmoid(s / tau)) for s, t in zip(Z_S[b], Z_T[b], strict=True)]
        return tau**2 * math.fsum(bernoulli_cross(p, q) - bernoulli_cross(p, p) for p, q in pairs)

    return per_sample(of)


def plain_jsd(tau: float) -> float:
    """The entropy of the mean less the mean of the entropies."""

    def of(b: int) -> float:
        q, p = pair(b, tau)
        middle = [(a + c) / 2 for a, c in zip(q, p, strict=True)]
        return tau**2 * (entropy(middle) - (entropy(q) + entropy(p)) / 2)

    return per_sample(of)


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.cov(x, y)[0, 1] / math.sqrt(np.cov(x) * np.cov(y)))


def plain_dist(beta: float, gamma: float, tau: float) -> float:
    both = [pair(b, tau) for b in range(B)]
    rows = mean(pearson(q, p) for q, p in both)
    columns = mean(pearson([q[k] for q, _ in both], [p[k] for _, p in both]) for k in range(K))
    return tau**2 * (beta * (1 - rows) + gamma * (1 - columns))


def plain_mlkd(taus: Sequence[float]) -> float:
    values = []
    for tau in taus:
        both = [pair(b, tau) for b in range(B)]
        instance = tau**2 * mean(divergence(p, q) for q, p in both)
        batch = math.fsum((dot(q, r) - dot(p, s)) ** 2 for (q, p), (r, s) in itertools.product(both, both))
        of_class = math.fsum(
            math.fsum(q[i] * q[j] - p[i] * p[j] for q, p in both) ** 2 for i, j in itertools.product(range(K), range(K))
        )
        values.append(instance + batch / B + of_class / K)
    return mean(values)


def dot(x: Sequence[float], y: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def plain_nkd(gamma: float, tau: float) -> float:
    def of(b: int) -> float:
        (q, p), (soft_q, soft_p), y = pair(b), pair(b, tau), Y[b]
        return -p[y] * math.log(q[y]) + gamma * tau**2 * cross(rest(soft_p, y), rest(soft_q, y))

    return per_sample(of)


def plain_wttm(tau: float) -> float:
    """The power transform p^(1/τ), normalised, is the softmax at τ; its sum is the weight."""

    def of(b: int) -> float:
        powers = [v ** (1 / tau) for v in probabilities(Z_T[b])]
        total = math.fsum(powers)
        return total * divergence([v / total for v in powers], probabilities(Z_S[b]))

    return per_sample(of)


def plain_wsld(tau: float) -> float:
    def of(b: int) -> float:
        (q, p), (soft_q, soft_p) = pair(b), pair(b, tau)
        ratio = -math.log(q[Y[b]]) / (1e-7 - math.log(p[Y[b]]))
        return (1 - math.exp(-ratio)) * tau**2 * divergence(soft_p, soft_q)

    return per_sample(of)


def variance(values: Sequence[float], p: Sequence[float]) -> float:
    first = dot(p, values)
    return dot(p, [(v - first) ** 2 for v in values])


def plain_logit_fisher(tau: float, *, diagonal: bool) -> float:
    def of(b: int) -> float:
        gap, p = (Z_S[b] - Z_T[b]).tolist(), probabilities(Z_T[b], tau)
        if diagonal:
            return 0.5 * math.fsum(a * (1 - a) * (g - mean(gap)) ** 2 for a, g in zip(p, gap, strict=True))
        return 0.5 * variance(gap, p)

    return per_sample(of)


def plain_full_fisher() -> float:
    """½·E over a class drawn from the answer of ((e_i − p)·J·δh)²."""

    def of(b: int) -> float:
        p, moved = probabilities(Z_T[b]), [dot(row, (H_S[b] - H_T[b]).tolist()) for row in J[b].tolist()]
        return 0.5 * math.fsum(p[i] * (moved[i] - dot(p, moved)) ** 2 for i in range(K))

    return per_sample(of)


def plain_block_logit(alpha: float, beta: float, gamma: float, tau: float) -> float:
    together = sum(STONES) / len(STONES)

    def of(b: int) -> float:
        value = 0.0
        for logits, weight in ((Z_S, 1.0), (STONES[0], 0.25), (STONES[1], 0.5), (STONES[2], 1.0)):
            task = -math.log(probabilities(logits[b])[Y[b]])
            soft = probabilities(logits[b], tau)
            taught, common = (tau**2 * divergence(probabilities(z[b], tau), soft) for z in (Z_T, together))
            value += weight * (alpha * task + beta * taught + gamma * common)
        return value

    return per_sample(of)


def places(x: Floats) -> list[tuple[int, int]]:
    return list(itertools.product(range(x.shape[2]), range(x.shape[3])))


def pooled(x: Floats, side: int) -> Floats:
    """Means over blocks of places."""
    step, made = x.shape[2] // side, np.zeros((*x.shape[:2], side, side))
    for i, j in itertools.product(range(side), range(side)):
        made[:, :, i, j] = x[:, :, i * step : (i + 1) * step, j * step : (j + 1) * step].mean((2, 3))
    return made


def alike(s: Floats, t: Floats) -> tuple[Floats, Floats]:
    side = min(s.shape[2], t.shape[2])
    return pooled(s, side), pooled(t, side)


def factor(x: Floats, b: int, power: int) -> list[float]:
    raw = [mean(x[b, c, i, j] ** power for c in range(x.shape[1])) for i, j in places(x)]
    return [v / math.sqrt(dot(raw, raw)) for v in raw]


def plain_factor_transfer(power: int) -> float:
    s, t = alike(M_S[1], M_T[1])
    return per_sample(lambda b: mean(abs(x - y) for x, y in zip(factor(s, b, power), factor(t, b, power), strict=True)))


def plain_selectivity() -> float:
    """Kernels between single channels."""
    total = 0.0
    for s, t in zip(RELU_S, RELU_T, strict=True):
        s, t = alike(s, t)

        def of(b: int, s: Floats = s, t: Floats = t) -> float:
            channels = [
                [channel.ravel() / max(math.sqrt(dot(channel.ravel(), channel.ravel())), 1e-12) for channel in x[b]]
                for x in (s, t)
            ]

            def kernel(one: list[Any], other: list[Any]) -> float:
                return mean(dot(x, y) ** 2 for x in one for y in other)

            return kernel(channels[1], channels[1]) + kernel(channels[0], channels[0]) - 2 * kernel(*channels)

        total += per_sample(of)
    return total


def plain_fsp() -> float:
    def flow(maps: list[Floats], b: int) -> Floats:
        first, second = alike(maps[0], maps[1])
        return np.array([[(x * y).mean() for y in second[b]] for x in first[b]])

    teacher = [alike(s, t)[1] for s, t in zip(M_S, M_T, strict=True)]
    return per_sample(lambda b: float(((flow(M_S, b) - flow(teacher, b)) ** 2).mean()))


def plain_ofd(margins: list[list[float]]) -> float:
    total = 0.0
    for stage, weight in ((0, 0.5), (1, 1.0)):
        s, t = alike(M_S[stage], M_T[stage])
        for place in np.ndindex(s.shape):
            target = max(float(t[place]), margins[stage][place[1]])
            # Where the student is below a target below 0, the activation gives 0 for both.
            if not (s[place] <= target <= 0):
                total += weight * (s[place] - target) ** 2
    return total / 1000 / B


def plain_reviewkd() -> float:
    total = 0.0
    for s, t in zip(M_S, [M_T[0], pooled(M_T[1], 2)], strict=True):
        levels = [(1.0, s, t)]
        for side in (side for side in (4, 2, 1) if side < s.shape[2]):
            levels.append((levels[-1][0] / 2, pooled(s, side), pooled(t, side)))
        total += sum(w * ((x - y) ** 2).mean() for w, x, y in levels) / sum(w for w, *_ in levels)
    return float(total)


def huber(gap: float) -> float:
    return gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5


def plain_relational(far: float, wide: float) -> float:
    """Distances and angles of all pairs and triplets, coinciding ones as 0."""

    def distance(h: Floats, i: int, j: int) -> float:
        return math.dist(h[i], h[j])

    scale = {id(h): mean(distance(h, i, j) for i, j in itertools.permutations(range(B), 2)) for h in (H_S, H_T)}

    def cosine(h: Floats, i: int, j: int, k: int) -> float:
        a, c = h[j] - h[i], h[k] - h[i]
        return 0.0 if i in (j, k) else float(a @ c / np.linalg.norm(a) / np.linalg.norm(c))

    distances = mean(
        huber(distance(H_S, i, j) / scale[id(H_S)] - distance(H_T, i, j) / scale[id(H_T)])
        for i, j in itertools.product(range(B), repeat=2)
    )
    angles = mean(huber(cosine(H_S, *ijk) - cosine(H_T, *ijk)) for ijk in itertools.product(range(B), repeat=3))
    return far * distances + wide * angles


def plain_crd(tau: float) -> float:
    """Of each view the binary cross-entropy of h = s/(s + K/N), for the image's own row and for those drawn."""
    total, samples, drawn = 0.0, len(BANK_S), NEGATIVES.shape[1]
    for embedding, bank in ((E_S, BANK_T), (E_T, BANK_S)):
        raw = [
            [math.exp(dot(embedding[b], bank[row]) / tau) for row in (POSITIVES[b], *NEGATIVES[b])] for b in range(B)
        ]
        scale = samples * mean(itertools.chain(*raw))
        for row in raw:
            chances = [s / scale / (s / scale + drawn / samples) for s in row]
            total -= math.log(chances[0]) + math.fsum(math.log(1 - h) for h in chances[1:])
    return total / B


def relation(x: Floats, y: Floats, b: int, heads: int, a: int) -> list[list[float]]:
    """Scaled products of one head, of the tokens that one text has."""
    size, tokens = x.shape[2] // heads, range(LENGTHS[b])
    part = slice(a * size, (a + 1) * size)
    return [[dot(x[b, i, part], y[b, j, part]) / math.sqrt(size) for j in tokens] for i in tokens]


def plain_attention_maps(*, normalized: bool) -> float:
    def of(b: int) -> float:
        gaps = []
        for a in range(2):
            for s, t in zip(relation(Q_S, K_S, b, 2, a), relation(Q_T, K_T, b, 2, a), strict=True):
                if normalized:
                    s, t = probabilities(np.array(s)), probabilities(np.array(t))
                gaps += [(x - y) ** 2 for x, y in zip(s, t, strict=True)]
        return mean(gaps)

    return per_sample(of)


def plain_minilm(heads: int) -> float:
    def of(b: int) -> float:
        found = []
        for states in ((Q_S, K_S, Q_T, K_T), (K_S, K_S, K_T, K_T)):
            rows = []
            for a in range(heads):
                both = (relation(*pair_of_states, b, heads, a) for pair_of_states in (states[:2], states[2:]))
                rows += [
                    divergence(*(probabilities(np.array(row)) for row in (t, s))) for s, t in zip(*both, strict=True)
                ]
            found.append(mean(rows))
        return sum(found)

    return per_sample(of)


def squared(x: Floats, y: Floats) -> float:
    return float(np.mean([(a - b) ** 2 for a, b in zip(x.ravel(), y.ravel(), strict=True)]))


def labelled(smoothing: float) -> float:
    uniform = [1 / K] * K
    return per_sample(lambda b: (1 - smoothing) * -math.log(pair(b)[0][Y[b]]) + smoothing * cross(uniform, pair(b)[0]))


def direction(h: Floats) -> Floats:
    return np.stack([row / math.sqrt(dot(row, row)) for row in h])


MARGINS = [[-0.5, -0.2, -1.0], [-0.3, -0.7]]
z_s, z_t, h_s, h_t, y = map(tensors, (Z_S, Z_T, H_S, H_T, Y))
m_s, m_t, relu_s, relu_t = map(tensors, (M_S, M_T, RELU_S, RELU_T))
q_s, k_s, q_t, k_t, mask = map(tensors, (Q_S, K_S, Q_T, K_T, MASK))

# (loss, options in words, ours, the reference)
CASES: list[tuple[str, str, Callable[[], Tensor], Callable[[], float]]] = [
    ("cross_entropy", "", lambda: f.cross_entropy(z_s, y), lambda: labelled(0.0)),
    ("label_smoothing", "s=.3", lambda: f.label_smoothing(z_s, y, smoothing=0.3), lambda: labelled(0.3)),
    (
        "binary_cross_entropy",
        "several classes",
        lambda: f.binary_cross_entropy(z_s, tensors(YES)),
        lambda: per_sample(
            lambda b: math.fsum(bernoulli_cross(c, sigmoid(v)) for c, v in zip(YES[b], Z_S[b], strict=True))
        ),
    ),
    ("target_mse", "", lambda: f.target_mse(z_s, z_t), lambda: squared(Z_S, Z_T)),
    ("bce_kl", "τ=3", lambda: f.bce_kl(z_s, z_t, temperature=3.0), lambda: plain_bce_kl(3.0)),
    (
        "ctkd",
        "τ=2.5",
        lambda: f.ctkd(z_s, z_t, torch.tensor(2.5)),
        lambda: 2.5**2 * per_sample(lambda b: divergence(*pair(b, 2.5)[::-1])),
    ),
    (
        "dist",
        "β=2, γ=.5, τ=3",
        lambda: f.dist(z_s, z_t, beta=2.0, gamma=0.5, temperature=3.0),
        lambda: plain_dist(2.0, 0.5, 3.0),
    ),
    ("jsd", "τ=2", lambda: f.jsd(z_s, z_t, temperature=2.0), lambda: plain_jsd(2.0)),
    ("mlkd", "τ=1, 3", lambda: f.mlkd(z_s, z_t, temperatures=(1.0, 3.0)), lambda: plain_mlkd((1.0, 3.0))),
    ("nkd", "γ=2, τ=3", lambda: f.nkd(z_s, z_t, y, gamma=2.0, temperature=3.0), lambda: plain_nkd(2.0, 3.0)),
    (
        "reverse_kl",
        "τ=3",
        lambda: f.reverse_kl(z_s, z_t, temperature=3.0),
        lambda: 9 * per_sample(lambda b: divergence(*pair(b, 3.0))),
    ),
    (
        "soft_cross_entropy",
        "τ=3",
        lambda: f.soft_cross_entropy(z_s, z_t, temperature=3.0),
        lambda: 9 * per_sample(lambda b: cross(*pair(b, 3.0)[::-1])),
    ),
    (
        "ttm",
        "τ=3",
        lambda: f.ttm(z_s, z_t, temperature=3.0),
        lambda: per_sample(lambda b: divergence(probabilities(Z_T[b], 3.0), probabilities(Z_S[b]))),
    ),
    ("wttm", "τ=3", lambda: f.wttm(z_s, z_t, temperature=3.0), lambda: plain_wttm(3.0)),
    ("wsld", "τ=3", lambda: f.wsld(z_s, z_t, y, temperature=3.0), lambda: plain_wsld(3.0)),
    ("logit_mse", "", lambda: f.logit_mse(z_s, z_t), lambda: squared(Z_S, Z_T)),
    (
        "logit_mse",
        "centred",
        lambda: f.logit_mse(z_s, z_t, centred=True),
        lambda: per_sample(lambda b: variance((Z_S[b] - Z_T[b]).tolist(), [1 / K] * K)),
    ),
    (
        "logit_fisher",
        "τ=2",
        lambda: f.logit_fisher(z_s, z_t, temperature=2.0),
        lambda: plain_logit_fisher(2.0, diagonal=False),
    ),
    (
        "logit_fisher",
        "τ=2, diagonal",
        lambda: f.logit_fisher(z_s, z_t, temperature=2.0, diagonal=True),
        lambda: plain_logit_fisher(2.0, diagonal=True),
    ),
    (
        "block_logit",
        "three stones",
        lambda: f.block_logit(z_s, z_t, tensors(STONES), y, temperature=3.0, alpha=0.5, beta=2.0, gamma=0.7),
        lambda: plain_block_logit(0.5, 2.0, 0.7, 3.0),
    ),
    ("feature_mse", "", lambda: f.feature_mse(h_s, h_t), lambda: squared(H_S, H_T)),
    (
        "feature_cosine",
        "",
        lambda: f.feature_cosine(h_s, h_t),
        # Half the squared distance of the two directions.
        lambda: per_sample(lambda b: 0.5 * math.dist(direction(H_S)[b], direction(H_T)[b]) ** 2),
    ),
    (
        "feature_fisher",
        "",
        lambda: f.feature_fisher(h_s, h_t, tensors(W)),
        lambda: per_sample(lambda b: 0.5 * dot(W[b], (H_S[b] - H_T[b]) ** 2)),
    ),
    (
        "feature_full_fisher",
        "",
        lambda: f.feature_full_fisher(h_s, h_t, tensors(J), torch.softmax(z_t, 1)),
        plain_full_fisher,
    ),
    (
        "vid",
        "",
        lambda: f.vid(h_s, h_t, torch.tensor([0.5, 1.0, 2.0, 3.0]).double()),
        # −log N(h_t; h_s, v), without the constant ½·log 2π.
        lambda: mean(
            -math.log(math.exp(-((t - s) ** 2) / (2 * v)) / math.sqrt(v))
            for row in zip(H_S, H_T, strict=True)
            for s, t, v in zip(*row, (0.5, 1.0, 2.0, 3.0), strict=True)
        ),
    ),
    (
        "srrl",
        "β=.5",
        lambda: f.srrl(h_s, h_t, z_s, z_t, beta=0.5),
        lambda: squared(H_S, H_T) + 0.5 * squared(Z_S, Z_T),
    ),
    (
        "simkd",
        "maps",
        lambda: f.simkd(m_s[1], m_t[1]),
        lambda: squared(*alike(M_S[1], M_T[1])),
    ),
    ("fsp", "", lambda: f.fsp(m_s, m_t), plain_fsp),
    ("neuron_selectivity", "", lambda: f.neuron_selectivity(relu_s, relu_t), plain_selectivity),
    (
        "factor_transfer",
        "power 4",
        lambda: f.factor_transfer(m_s[1], m_t[1], power=4),
        lambda: plain_factor_transfer(4),
    ),
    (
        "ofd",
        "",
        lambda: f.ofd(m_s, [m_t[0], tensors(pooled(M_T[1], 2))], [torch.tensor(m).double() for m in MARGINS]),
        lambda: plain_ofd(MARGINS),
    ),
    ("reviewkd", "", lambda: f.reviewkd(m_s, [m_t[0], tensors(pooled(M_T[1], 2))]), plain_reviewkd),
    (
        "relational",
        "weights 3 and 2",
        lambda: f.relational(h_s, h_t, distance_weight=3.0, angle_weight=2.0),
        lambda: plain_relational(3.0, 2.0),
    ),
    (
        "correlation",
        "",
        lambda: f.correlation(h_s, h_t),
        lambda: mean(dot(*(abs(H_S[b + i] - H_T[b + i]) for i in (0, 1))) for b in range(B - 1)),
    ),
    (
        "crd",
        "",
        lambda: f.crd(*map(tensors, (E_S, E_T, BANK_S, BANK_T, POSITIVES, NEGATIVES)), nce_temperature=0.3),
        lambda: plain_crd(0.3),
    ),
    (
        "jacobian_matching",
        "",
        lambda: f.jacobian_matching(m_s[0], m_t[0]),
        lambda: per_sample(
            lambda b: math.dist(*(direction(x.reshape(B, -1))[b] for x in (M_S[0], M_T[0]))) ** 2,
        ),
    ),
    (
        "input_gradient_attention",
        "",
        lambda: f.input_gradient_attention(m_s[0], m_t[0]),
        lambda: per_sample(lambda b: 0.5 * math.dist(M_S[0][b].ravel(), M_T[0][b].ravel()) ** 2),
    ),
    (
        "attention_maps",
        "",
        lambda: f.attention_maps(q_s, k_s, q_t, k_t, heads=2, mask=mask),
        lambda: plain_attention_maps(normalized=False),
    ),
    (
        "attention_maps",
        "normalized",
        lambda: f.attention_maps(q_s, k_s, q_t, k_t, heads=2, mask=mask, normalized=True),
        lambda: plain_attention_maps(normalized=True),
    ),
    (
        "minilm",
        "three heads",
        lambda: f.minilm([(q_s, k_s), (k_s, k_s)], [(q_t, k_t), (k_t, k_t)], relation_heads=3, mask=mask),
        lambda: plain_minilm(3),
    ),
]
# Those of the golden values.
GOLDEN = {"kl", "standardized_kl", "dkd", "attention_transfer", "similarity_preserving", "probabilistic"} | {
    "activation_boundary"
}


@pytest.mark.parametrize(("ours", "reference"), [case[2:] for case in CASES], ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_a_loss_equals_a_second_computation_from_its_formula(
    ours: Callable[[], Tensor], reference: Callable[[], float]
) -> None:
    assert ours().item() == pytest.approx(reference(), rel=1e-9)


def test_each_loss_has_a_golden_value_or_a_second_computation() -> None:
    assert {name for name, *_ in CASES} | GOLDEN == set(losses())
    assert not {name for name, *_ in CASES} & GOLDEN
