"""From maps to Markdown: what few passes agree on with the published search, and what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from speed_report import table

from stillroom.explain import centre_box, concepts

MOST = 15_457
# Times fewer passes, and what is asked of them there.
SOONEST, CLOSEST = 50, 20
LEAST_CORRELATION, LEAST_KAPPA, LEAST_TIMES, LEAST_NEAR = 0.97, 0.8, 30, 0.985
_NAMES = {"fast": "fast", "descent": "published, fewer draws"}
METHOD = (
    "Maps are of the last stage before the pooling, 16×16 cells, stopped at −2.8, images evenly spread over the test "
    "split; λ is 6 for ResNets and 7 for the transformer. ResNet-20 and ResNet-56 are the public ones; the transformer "
    "is trained here on 10,000 images, 8 epochs.",
    "A pass is one image forward or one image backward. The published search takes 1 + 96 + 2·96·60 = 11,617 where it "
    "has passed the stop after 60 steps and breaks off, else 15,457. *Fewer* is against what it took, *of 15,457* "
    "against the most.",
    "Correlation is Pearson's over the cells of an image, with the published map; concepts are decided with b = .2 and "
    "the centre box, κ is Cohen's over all cells of all images. Time is of the processor, one thread; each image's "
    "methods run right after one another. *Error reported* is the rms that `fast` says of itself over the rms it makes "
    "against the published map, which has noise of its own.",
    "*Published, fewer draws* is the published search with 1, 2, 3 or 6 draws a step in place of 96.",
)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's over the cells of two maps."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's κ of two sets of decisions."""
    agreed = float((one == other).mean())
    chance = float(one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean()))
    return (agreed - chance) / (1 - chance) if chance < 1 else 1.0


def decided(maps: np.ndarray) -> np.ndarray:
    """The concepts of maps [B, g, g], with the centre box."""
    entropy = torch.from_numpy(maps)
    return concepts(entropy, centre_box(len(entropy), entropy.shape[1])).numpy()


def summarised(images: dict[int, dict[str, Any]], weight: float) -> dict[str, Any]:
    """What is reported of a network: each method with its passes, agreement and time."""
    every = list(images.values())

    def maps(name: str, of: Sequence[dict[str, Any]] = every) -> np.ndarray:
        return np.stack([one["maps"][name] for one in of])

    published = maps("published")
    truth = decided(published)
    ways = []
    for place, first in enumerate(every[0]["rows"]):
        rows = [one["rows"][place] for one in every]
        name = f"{first['method']}-{first['draws']}" if first["method"] != "published" else "published"
        found = maps(name)
        apart = found - published
        way = {
            "method": first["method"],
            "draws": first["draws"],
            "passes": _mean(row["passes"] for row in rows),
            "cpu_seconds": _mean(row["cpu"] for row in rows),
            "wall_seconds": _mean(row["wall"] for row in rows),
            "times_less_cpu": _median(one["rows"][0]["cpu"] / row["cpu"] for one, row in zip(every, rows, strict=True)),
            "times_less_wall": _median(
                one["rows"][0]["wall"] / row["wall"] for one, row in zip(every, rows, strict=True)
            ),
            "correlations": [round(correlation(a, b), 5) for a, b in zip(found, published, strict=True)],
            "kappa": kappa(decided(found), truth),
            "rms": float(np.sqrt(np.square(apart).mean())),
        }
        if first["method"] == "fast":
            way["reported_rms"] = float(np.sqrt(np.square(maps(f"error-{first['draws']}")).mean()))
        ways.append(way)
    took = ways[0]["passes"]
    for way in ways:
        way["times_fewer"] = took / way["passes"]
        way["correlation"] = _mean(way["correlations"])
    again = [one for one in every if "again" in one["maps"]]
    return {
        "weight": weight,
        "images": list(images),
        "concept_share": float(truth.mean()),
        "published_with_itself": [
            round(correlation(one["maps"]["again"], one["maps"]["published"]), 5) for one in again
        ],
        "ways": ways,
    }


def bars(found: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """Each bar: of which network, in words, what was measured, and what it shall be at least."""
    held = []
    for name, network in found.items():
        soon, near = (_slowest(network, times) for times in (SOONEST, CLOSEST))
        at = f"{soon['times_fewer']:.0f}× fewer passes"
        held += [
            (name, f"correlation at {at}", soon["correlation"], LEAST_CORRELATION),
            (name, f"κ of concepts at {at}", soon["kappa"], LEAST_KAPPA),
            (name, f"times less processor time at {at}", soon["times_less_cpu"], LEAST_TIMES),
            (name, f"correlation at {near['times_fewer']:.0f}× fewer passes", near["correlation"], LEAST_NEAR),
        ]
    return held


def page(found: dict[str, Any], command: str, provenance: Sequence[str]) -> str:
    """The whole of ``pixel-entropy.md``."""
    lines = ["# Pixel-wise entropy: speed against fidelity", "", f"Command: `{command}`", ""]
    lines += [*(f"- {line}" for line in provenance), "", "How it was measured:", ""]
    lines += [f"- {line}" for line in METHOD]
    held = [
        [name, words, f"{value:.3f}" if least < 1 else f"{value:.0f}", f"{least:g}", _verdict(value, least)]
        for name, words, value, least in bars(found)
    ]
    parts = ["\n".join(lines), "## Against the bars"]
    parts.append(table(["network", "what", "measured", "at least", "verdict"], held))
    for name, network in found.items():
        parts += [f"## {name}, {len(network['images'])} images, λ = {network['weight']:g}", _curve(network)]
        parts.append(_reported(network))
    return "\n\n".join(parts) + "\n"


def _curve(network: dict[str, Any]) -> str:
    rows = []
    for way in network["ways"][1:]:
        reported = f"{way['reported_rms'] / way['rms']:.2f}" if "reported_rms" in way else "–"
        rows.append(
            [
                _NAMES[way["method"]],
                f"{way['passes']:,.0f}",
                f"{way['times_fewer']:.0f}×",
                f"{MOST / way['passes']:.0f}×",
                f"{way['correlation']:.4f}",
                f"{min(way['correlations']):.3f}",
                f"{way['kappa']:.3f}",
                f"{way['times_less_cpu']:.0f}×",
                f"{way['cpu_seconds']:.2f}",
                reported,
            ]
        )
    heads = ["method", "passes", "fewer", "of 15,457", "correlation", "least of an image", "κ", "less time", "seconds"]
    return table([*heads, "error reported"], rows)


def _reported(network: dict[str, Any]) -> str:
    fast = [way for way in network["ways"] if way["method"] == "fast"]
    good = [way for way in fast if way["correlation"] >= LEAST_CORRELATION and way["kappa"] >= LEAST_KAPPA]
    bad = [way for way in fast if way not in good]
    took = network["ways"][0]
    text = (
        f"The published search took {took['passes']:,.0f} passes and {took['cpu_seconds']:.1f} s an image; "
        f"{100 * network['concept_share']:.0f} % of the cells are concepts"
    )
    if network["published_with_itself"]:
        mean = _mean(network["published_with_itself"])
        text += f"; with other noise its maps correlate with themselves at {mean:.4f}"
    text += ". "
    if good and bad:
        first, last = max(bad, key=lambda way: way["passes"]), min(good, key=lambda way: way["passes"])
        text += (
            f"It breaks between {last['times_fewer']:.0f}× and {first['times_fewer']:.0f}× fewer passes: there the "
            f"correlation goes from {last['correlation']:.3f} to {first['correlation']:.3f}, κ from "
            f"{last['kappa']:.2f} to {first['kappa']:.2f}."
        )
    return text


def _slowest(network: dict[str, Any], times: float) -> dict[str, Any]:
    """The most passes of the fast method that are so many times fewer."""
    fast = [way for way in network["ways"] if way["method"] == "fast" and way["times_fewer"] >= times]
    return max(fast, key=lambda way: way["passes"])


def _verdict(value: float, least: float) -> str:
    return "**met**" if value >= least else "**not met**"


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _median(values: Any) -> float:
    return float(np.median(list(values)))
