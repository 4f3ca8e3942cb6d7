"""False verdicts of ``explain`` on networks that do not differ, and its power on those that do, by simulation.

    python benchmarks/hypotheses.py --out hypotheses.jsonl  # the tables of docs/results/hypotheses.md; 15 minutes
    python benchmarks/hypotheses.py --bounds                # hypothesis 3 alone, many draws; a minute
    python benchmarks/hypotheses.py --repeats 50             # too few to quote

With ``--out`` a second call goes on where the first stopped.

A network's figure of an image is the sum of what is common to all networks in this image, what is the network's own,
and what is both's; N are rounded to whole cells, ρ lies in [0, 1], D takes the values of a few checkpoints. Two
networks of a pair are exchangeable: the second way of training is the first one again. How much of the variance is the
network's own is varied, as are the tails of its distribution.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from stillroom.explain.hypotheses import judge_hypotheses
from stillroom.explain.metrics import ConceptStatistics

PAIRS = (3, 4, 5, 6, 8, 10)  # with fewer there is no verdict
IMAGES = 30
RESAMPLES = 200
# Standard deviation between networks over that between images; and what their own part is drawn from.
WORLDS = {
    "networks hardly differ": (0.05, "normal"),
    "as much as images": (1.0, "normal"),
    "three times as much": (3.0, "normal"),
    "six times as much": (6.0, "normal"),
    "as much, heavy tails": (1.0, "t3"),
    "as much, skewed": (1.0, "exponential"),
}
EFFECTS = (0.5, 1.0, 1.5, 2.0, 3.0)


def draws(rng: np.random.Generator, kind: str, size: int) -> np.ndarray:
    """Numbers of mean 0 and variance 1."""
    if kind == "t3":
        return np.asarray(rng.standard_t(3, size) / 3**0.5)
    return np.asarray(rng.exponential(size=size) - 1 if kind == "exponential" else rng.normal(size=size))


def network(rng: np.random.Generator, common: np.ndarray, world: tuple[float, str], shift: float) -> ConceptStatistics:
    """A network's statistics.

    Args:
        common: of each image for the four quantities (N_fg, N_bg, D, ρ), [4, I].
        world: see :data:`WORLDS`.
        shift: of its own part towards what distillation is claimed to do, in SDs between networks.
    """
    share, kind = world
    own = share * (draws(rng, kind, 4) + shift * np.array([1, -1, -1, 1]))
    latent = common + own[:, None] + 0.7 * rng.normal(size=common.shape)
    n_fg, n_bg = np.maximum(np.round(np.array([[40.0], [12.0]]) + np.array([[6.0], [4.0]]) * latent[:2]), 0)
    total = n_fg + n_bg
    ratio = np.where(total > 0, n_fg / np.maximum(total, 1), np.nan)
    reached = np.array([0.2, 0.5, 1.0, 1.8, 3.0, 4.5])
    distance = reached[np.clip(np.round(2.5 + 1.2 * latent[2]), 0, 5).astype(int)]
    kept = np.clip(0.5 + 0.15 * latent[3], 0, 1)
    return ConceptStatistics(torch.zeros(0), n_fg[None], n_bg[None], ratio[None], distance, kept, np.zeros(1))


def verdicts(rng: np.random.Generator, pairs: int, world: tuple[float, str], effect: float = 0.0) -> dict[str, str]:
    """The verdicts on one simulated comparison, by hypothesis and by measure.

    Args:
        effect: in SDs of the difference between two networks of one way of training.
    """
    common = rng.normal(size=(4, IMAGES))
    # A difference of two networks has √2 times the SD of one.
    made = [(network(rng, common, world, effect * 2**0.5), network(rng, common, world, 0.0)) for _ in range(pairs)]
    found = judge_hypotheses(made, int(rng.integers(1 << 31)), resamples=RESAMPLES)
    whole = {str(one.hypothesis): str(one.verdict) for one in found}
    return whole | {each.measure: str(each.verdict) for one in found for each in one.measures}


def rates(pairs: int, world: tuple[float, str], repeats: int, effect: float = 0.0, seed: int = 0) -> dict[str, float]:
    """The share of comparisons with a verdict, by hypothesis and measure; with an effect, of ``supported`` alone."""
    rng = np.random.default_rng([seed, pairs, int(100 * effect), int(100 * world[0]), len(world[1])])
    counts: dict[str, int] = {}
    for _ in range(repeats):
        for name, verdict in verdicts(rng, pairs, world, effect).items():
            counts[name] = counts.get(name, 0) + (verdict == "supported" or (not effect and verdict == "refuted"))
    return {name: count / repeats for name, count in counts.items()}


def bounded_rates(share: float, pairs: int, repeats: int, levels: tuple[float, ...], seed: int = 0) -> list[float]:
    """The share of comparisons of hypothesis 3 with a verdict, where Student's part has each of these levels.

    ρ as :func:`network` draws it, all comparisons at once; the part of images is 1.96 standard errors.

    Args:
        share: standard deviation between networks over that between images.
    """
    rng, wrong = np.random.default_rng([seed, pairs, int(10 * share)]), np.zeros(len(levels))
    for _ in range(repeats // 1000):
        latent = rng.normal(size=(1000, 1, 1, IMAGES)) + share * rng.normal(size=(1000, pairs, 2, 1))
        kept = np.clip(0.5 + 0.15 * (latent + 0.7 * rng.normal(size=(1000, pairs, 2, IMAGES))), 0, 1)
        apart = kept[:, :, 0] - kept[:, :, 1]
        of_images = 1.96 * apart.mean(1).std(1) / IMAGES**0.5
        of_seeds = apart.mean(2).std(1, ddof=1) / pairs**0.5
        for place, level in enumerate(levels):
            wide = np.hypot(of_images, stats.t.ppf((1 + level) / 2, pairs - 1) * of_seeds)
            wrong[place] += float((np.abs(apart.mean((1, 2))) > wide).mean())
    return [float(each) for each in wrong / (repeats // 1000)]


def print_bounds(repeats: int = 40_000) -> None:
    """The table of hypothesis 3: columns are pairs."""
    shown = (2, *PAIRS)
    print(f"| networks over images | level | {' | '.join(map(str, shown))} |\n|{'---|' * (len(shown) + 2)}")
    for share in (1.0, 2.0, 3.0, 4.0, 6.0, 10.0):
        found = np.array([bounded_rates(share, pairs, repeats, (0.95, 0.96)) for pairs in shown])
        for place, level in enumerate((".95", ".96")):
            print(
                f"| {share:g} | {level} | {' | '.join(f'{100 * each:.2f}' for each in found[:, place])} |", flush=True
            )


COLUMNS = ("1", "2", "3", "n_fg", "n_bg", "ratio", "d_mean", "d_std", "rho")


def main() -> None:
    """Simulate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=4000, help="comparisons a row; a quarter of it for power")
    parser.add_argument("--out", type=Path, help="a line of JSON for each row")
    parser.add_argument("--bounds", action="store_true", help="hypothesis 3 where its measure is at its bounds")
    asked = parser.parse_args()
    if asked.bounds:
        print_bounds()
        return
    lines = asked.out.read_text().splitlines() if asked.out is not None and asked.out.exists() else []
    done = {(one["row"], one["pairs"]): one["rates"] for one in map(json.loads, lines)}
    rows = [(name, world, 0.0, asked.repeats) for name, world in WORLDS.items()]
    rows += [(f"{each:g}", WORLDS["as much as images"], each, max(asked.repeats // 4, 20)) for each in EFFECTS]
    for name, world, effect, repeats in rows:
        if name in (rows[0][0], f"{EFFECTS[0]:g}"):
            head = "effect" if effect else "networks"
            print(f"\n| {head} | pairs | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
        for pairs in PAIRS:
            found = done.get((name, pairs))
            if found is None:
                found = rates(pairs, world, repeats, effect)
                if asked.out is not None:
                    with asked.out.open("a") as file:
                        file.write(json.dumps({"row": name, "pairs": pairs, "repeats": repeats, "rates": found}) + "\n")
            shown = " | ".join(f"{100 * found[each]:.{0 if effect else 1}f}" for each in COLUMNS)
            print(f"| {name} | {pairs} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
