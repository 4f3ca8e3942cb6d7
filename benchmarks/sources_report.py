"""From seconds to Markdown: what each member of the KL family costs, and the bars that two of them are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sources_job import ANSWER, CLOSED, DEEPER, DRAWN, EVERY, KL, MEMBERS, SOME, STONES, WEIGHTS, tail_name
from speed_job import Pair
from speed_race import Race
from speed_report import Spread, described, table

STONE_MOST, FISHER_MOST = 1.1, 1.15
FISHER_BARS = {"features": "", DEEPER: f", {DEEPER}", "all": ", all"}
_ON_CPU = (
    "*Tensors of a step* is exact: the most that torch's allocator has handed out at once within one step, by its "
    "profiler; it leaves out numpy's arrays and what convolutions need while they run. *Peak resident* is the largest "
    "resident set of the member's own process over ten steps: with the models and tails, the libraries that finding "
    "taps and cutting tails load (tens of MiB, once), and the pages of the cache that these steps read, which the "
    "system may take back. "
)


@dataclass(frozen=True)
class Findings:
    """What was measured of one pair.

    Attributes:
        pair: teacher and student.
        batch: images a step.
        steps: steps of a round.
        images: training images.
        stones: ``kl``, the stepping stones, and their tails alone.
        begins: of each way to set stones, the taps that its tails begin at.
        members: all other members, where they were asked for.
        answers: the live teacher, with Fisher weights and without; a round is one batch.
        kept: of each member that reads an answer, its views, answers, seconds and bytes in the cache that the first
            to read it built.
        weighed: of each member, MiB of its process and of one step's tensors.
    """

    pair: Pair
    batch: int
    steps: int
    images: int
    stones: Race
    begins: dict[str, list[str]]
    members: Race
    answers: Race
    kept: dict[str, dict[str, float]]
    weighed: dict[str, dict[str, float]]

    @property
    def machine(self) -> dict[str, Any]:
        """What the figures hold for."""
        return self.stones.machine

    def race_of(self, name: str) -> Race:
        """Where a member ran: the stones have a race of their own, with a ``kl`` of their own."""
        return self.stones if name in STONES or not self.members.seconds else self.members

    def times(self, name: str) -> Spread:
        """Milliseconds a step."""
        return self._milliseconds(self.race_of(name).seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        """How many times as long as another of the same race, round by round."""
        seconds = self.race_of(name).seconds
        return Spread.of([ours / theirs for ours, theirs in zip(seconds[name], seconds[base], strict=True)])

    def parts(self, name: str) -> list[str]:
        """What a step with stones must do: the student's step, and the tails."""
        return [KL, *map(tail_name, self.begins[name])]

    def stone_ratio(self, name: str) -> Spread:
        """The step with stones over the sum of its parts, round by round."""
        seconds = self.stones.seconds
        sums = self._sums(name)
        return Spread.of([whole / parts for whole, parts in zip(seconds[name], sums, strict=True)])

    def stone_rest(self, name: str) -> Spread:
        """Milliseconds of a step with stones beyond its parts."""
        pairs = zip(self.stones.seconds[name], self._sums(name), strict=True)
        return self._milliseconds([whole - parts for whole, parts in pairs])

    def part_times(self, part: str) -> Spread:
        """Milliseconds a step of one part of a step with stones."""
        return self._milliseconds(self.stones.seconds[part])

    def _sums(self, name: str) -> list[float]:
        return [sum(each) for each in zip(*(self.stones.seconds[part] for part in self.parts(name)), strict=True)]

    def _milliseconds(self, seconds: Sequence[float]) -> Spread:
        return Spread.of([1000 * second / self.steps for second in seconds])

    def as_dict(self) -> dict[str, Any]:
        """The raw numbers."""

        def rounded(race: Race) -> dict[str, list[float]]:
            return {name: [round(second, 5) for second in seconds] for name, seconds in race.seconds.items()}

        def faults(race: Race) -> dict[str, float]:
            return {name: round(said["faults"], 1) for name, said in race.last.items()}

        races = {"stones": self.stones, "members": self.members, "answers": self.answers}
        return {
            "pair": self.pair.name,
            "batch": self.batch,
            "steps": self.steps,
            "images": self.images,
            "classes": self.pair.classes,
            "begins": self.begins,
            "seconds": {name: rounded(race) for name, race in races.items()},
            "page_faults_a_step": {name: faults(race) for name, race in races.items()},
            "kept": self.kept,
            "weighed": {name: {key: round(value, 2) for key, value in of.items()} for name, of in self.weighed.items()},
            "machine": self.machine,
        }


def page(findings: Sequence[Findings], command: str, provenance: Sequence[str], method: Sequence[str]) -> str:
    """The whole of ``sources-cost.md``."""
    lines = ["# What each member of the KL family costs", "", f"Command: `{command}`", ""]
    lines += [*described(findings[0].machine), *(f"- {line}" for line in provenance)]
    lines += ["", "How it was measured:", "", *(f"- {line}" for line in method)]
    parts = ["\n".join(lines), "## Against the bars\n\n" + _bars(findings)]
    for found in findings:
        parts.append(f"## {found.pair}, {found.pair.classes} classes, batch {found.batch}")
        parts += [_stones(found), _members(found), _weights(found)]
    return "\n\n".join(filter(None, parts)) + "\n"


def bars(findings: Sequence[Findings]) -> list[tuple[str, Pair, Spread, float]]:
    """Each bar: in words, of which pair, the ratio, and what it may be at most."""
    held = []
    for found in findings:
        for name in sorted(STONES):
            words = f"`{name}` / (`kl` + its tails)"
            held.append((words, found.pair, found.stone_ratio(name), STONE_MOST))
        if found.members.seconds:
            for where, suffix in FISHER_BARS.items():
                ratio = found.ratio(f"feature_fisher{suffix}", f"feature_mse{suffix}")
                held.append((f"cached `feature_fisher` / `feature_mse`, {where}", found.pair, ratio, FISHER_MOST))
    return held


def _bars(findings: Sequence[Findings]) -> str:
    rows = [
        [words, str(pair), ratio.format(3), f"{most:g}", "**met**" if ratio.median <= most else "**not met**"]
        for words, pair, ratio, most in bars(findings)
    ]
    return table(["step / step", "pair", "ratio", "at most", "by the median"], rows)


def _stones(found: Findings) -> str:
    names = sorted(STONES)
    parts = max((found.parts(name) for name in names), key=len)
    rows = []
    for part in parts:
        reported = found.part_times(part).format(2)
        rows.append([part, *(reported if part in found.parts(name) else "–" for name in names)])
    rows.append(["the step with stones", *(found.times(name).format(2) for name in names)])
    rows.append(["of it, beyond these parts", *(found.stone_rest(name).format(2) for name in names)])
    head = (
        "A step with stepping stones and its parts, in ms: what is beyond them is connectors, losses, the stones' mean "
        "answer, and adding up the gradients at the taps."
    )
    return head + "\n\n" + table(["", *names], rows)


def _members(found: Findings) -> str:
    on_gpu = found.machine["device"] != "cpu"
    names = [name for name in (*MEMBERS, *sorted(STONES)) if name in found.race_of(name).seconds]
    memory = "peak on the GPU" if on_gpu else "peak resident"
    head = ["", "ms a step", "× kl"]
    head += [] if on_gpu else ["tensors of a step, MiB", "above kl, MiB"]
    head += [f"{memory}, MiB", "above kl, MiB", "cache, bytes an image and view"]
    rows = []
    for name in names:
        row = [name, found.times(name).format(2), "–" if name == KL else found.ratio(name, KL).format(2)]
        for key in ("peak_mb",) if on_gpu else ("tensors_mb", "peak_mb"):
            weighed = found.weighed[name][key]
            row += [f"{weighed:,.1f}", "–" if name == KL else _more(weighed - found.weighed[KL][key])]
        rows.append([*row, _bytes(found, name)])
    reported = (
        "Each member's step, its memory and its cache. "
        + ("The peak is `torch.cuda.max_memory_allocated`. " if on_gpu else _ON_CPU)
        + "The cache holds the logits, too."
    )
    return reported + "\n\n" + table(head, rows)


def _more(difference: float) -> str:
    return f"{round(difference, 1) + 0.0:+,.1f}"  # adding 0 takes the sign from a zero


def _bytes(found: Findings, name: str) -> str:
    kept = found.kept.get(name)
    return "–" if kept is None else f"{kept['bytes'] / kept['views'] / found.images:,.0f}"


def _weights(found: Findings) -> str:
    seconds = found.answers.seconds
    if not seconds:
        return ""
    scale = 1000 / found.batch
    rows = []
    for name, (tap, samples) in WEIGHTS.items():
        took = Spread.of([scale * second for second in seconds[name]])
        if name == ANSWER:
            rows.append([f"{name}, with the features", tap, took.format(2), "–"])
            continue
        extra = took
        if name != CLOSED:
            extra = Spread.of([scale * (a - b) for a, b in zip(seconds[name], seconds[ANSWER], strict=True)])
        classes = found.pair.classes
        shown = f"{name} ({classes} backward passes)" if samples == 0 and name == EVERY else name
        rows.append([shown, tap, "–" if name == CLOSED else took.format(2), extra.format(4 if name == CLOSED else 2)])
    head = (
        "What working out Fisher weights costs, in seconds for 1,000 images: once for each view, as the cache is "
        "built. The closed form needs no backward pass and nothing in the cache, but a linear layer after the tap; "
        f"{SOME} ({DRAWN} backward passes of the tail) and all are in float32 through the tail."
    )
    return head + "\n\n" + table(["", "tap", "answer and weights", "the weights alone"], rows)


def slowest_wait(findings: Sequence[Findings]) -> str:
    """How still those were that waited, in a line."""
    said = [(race.last[name]["idle"], name) for f in findings for race in (f.stones, f.members) for name in race.last]
    idle, name = max(said)
    return f"while it waited, no process used more than {100 * idle:.1f}% of a core ({name})"
