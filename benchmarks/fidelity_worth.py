"""Does the depth × fidelity map foretell accuracy? The map of students from labels, and what members brought.

    stillroom compare recipes/studies/fidelity-worth.yaml --out studies/fidelity-worth --workers 1
    python benchmarks/fidelity_worth.py studies/fidelity-worth [--out docs/results/fidelity-worth.json]

Methods are called TAP-WEIGHING. The fidelity of each is read from the map of the baseline's run of each seed: the rank
correlation over images, within checkpoints, of the member's value with the student's divergence from the teacher. What
it brought is its top-1 less the baseline's, by seed. Spearman's correlation over the members, of the means over seeds;
its interval draws the seeds again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

from stillroom.run.fidelity.mapping import map_fidelity
from stillroom.schema.base import read_json
from stillroom.schema.fidelity import FIDELITY, read_fidelity
from stillroom.schema.run import SUMMARY, RunSummary
from stillroom.study.statistics import interval

IMAGES, RESAMPLES = 512, 2000


def read_map(run: Path) -> dict[str, float]:
    """The fidelity of each member, by TAP-WEIGHING."""
    found = read_fidelity(run / FIDELITY, read_json(RunSummary, run / SUMMARY).recipe_hash)
    found = found or map_fidelity(run, images=IMAGES)
    return {
        f"{tap.teacher}-{member.weighing}": member.student.within.value
        for tap in found.taps
        for member in tap.members
        if member.student.within.value is not None
    }


def correlation(maps: np.ndarray, gains: np.ndarray) -> float:
    """Spearman's correlation of means over seeds, [S, M] each."""
    return float(stats.spearmanr(maps.mean(0), gains.mean(0)).statistic)


def main() -> None:
    """Read, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results = json.loads((asked.study / "results.json").read_text())
    seeds, baseline = results["seeds"], results["baseline"]
    top1 = {(run["method"], run["seed"]): run["top1"] for run in results["runs"]}
    maps = [read_map(asked.study / "runs" / "all" / baseline / f"seed-{seed}") for seed in seeds]
    names = [one["name"] for one in results["methods"] if all(one["name"] in each for each in maps)]
    fidelity = np.array([[each[name] for name in names] for each in maps])
    gains = np.array([[top1[name, seed] - top1[baseline, seed] for name in names] for seed in seeds])
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(seeds), (RESAMPLES, len(seeds)))

    def shown(keep: list[int]) -> str:
        low, high = np.nanquantile(
            [correlation(fidelity[d][:, keep], gains[d][:, keep]) for d in draws], (0.025, 0.975)
        )
        return f"{correlation(fidelity[:, keep], gains[:, keep]):+.2f} [{low:+.2f}, {high:+.2f}]"

    print("| member | fidelity | top-1 less labels [95%] |\n|---|---|---|")
    for place in np.argsort(-fidelity.mean(0)):
        gain = interval(list(gains[:, place]))
        print(f"| {names[place]} | {fidelity[:, place].mean():.2f} | {gain.describe(2)} |")
    whole = {"all members": list(range(len(names)))}
    for kind, at in (("tap", 0), ("weighing", 2)):
        for each in dict.fromkeys(name.rpartition("-")[at] for name in names):
            whole[f"{kind} {each}"] = [p for p, name in enumerate(names) if name.rpartition("-")[at] == each]
    print("\n| members | count | correlation [95%] |\n|---|---|---|")
    for what, keep in whole.items():
        if len(keep) > 2:
            print(f"| {what} | {len(keep)} | {shown(keep)} |")
    if asked.out is not None:
        content = {"schema": 1, "members": names, "fidelity": fidelity.tolist(), "gains": gains.tolist()}
        asked.out.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
