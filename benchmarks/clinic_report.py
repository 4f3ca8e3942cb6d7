"""From rows to Markdown: what the clinic found, what it missed, and what remedies brought back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinic_setups import Half, Kind, halves
from scipy.stats import binomtest
from speed_report import table

import stillroom.diagnose

Row = Mapping[str, Any]
ALL = ("recipe", "run", "study")


@dataclass(frozen=True)
class Share:
    """So many of so many, with Wilson's 95% interval.

    >>> Share(9, 10).text
    '9 of 10, .90 [.60, .98]'
    """

    hits: int
    of: int

    @property
    def text(self) -> str:
        if not self.of:
            return "–"
        ends = binomtest(self.hits, self.of).proportion_ci(method="wilson")
        share, low, high = (_share(value) for value in (self.hits / self.of, ends.low, ends.high))
        return f"{self.hits} of {self.of}, {share} [{low}, {high}]"


def _share(value: float) -> str:
    return "1" if value > 0.995 else f"{value:.2f}".removeprefix("0")


def digest_of_checks() -> str:
    """SHA-256 of the checks with all their thresholds: names and content of what is in diagnose/checks/."""
    root = Path(str(stillroom.diagnose.__file__)).parent
    digest = hashlib.sha256()
    for path in sorted((root / "checks").rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_found(row: Row) -> bool:
    """Whether one of the expected checks reports a problem."""
    return any(row["verdicts"].get(check) == "problem" for check in row["expects"])


def has_warning(row: Row) -> bool:
    """Whether none reports a problem, and one of them warns."""
    return not is_found(row) and any(row["verdicts"].get(check) == "warning" for check in row["expects"])


def alarms(row: Row, verdict: str = "problem") -> list[str]:
    """The checks that say so."""
    return [check for check, given in row["verdicts"].items() if given == verdict]


def sensitivity(rows: Iterable[Row]) -> Share:
    """Of the faulty set-ups, those of which an expected check says so."""
    faulty = [row for row in rows if row["expects"]]
    return Share(sum(map(is_found, faulty)), len(faulty))


def specificity(rows: Iterable[Row]) -> Share:
    """Of the correct set-ups, those of which no check reports a problem."""
    well = [row for row in rows if not row["expects"]]
    return Share(sum(not alarms(row) for row in well), len(well))


def by_check(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Each check's counts: hits and misses where it is expected, alarms and silence on correct set-ups."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        # Where one of several is expected and one of them spoke, the others missed nothing.
        spoke = is_found(row)
        for check, verdict in row["verdicts"].items():
            counts = found.setdefault(check, dict.fromkeys(("tp", "fn", "fp", "tn", "skipped", "elsewhere"), 0))
            if check in row["expects"]:
                counts["tp" if verdict == "problem" else "skipped" if verdict == "skipped" else "fn"] += (
                    verdict == "problem" or not spoke
                )
            elif row["expects"]:
                counts["elsewhere"] += verdict == "problem"
            else:
                counts["skipped" if verdict == "skipped" else "fp" if verdict == "problem" else "tn"] += 1
    return dict(sorted(found.items()))


def recovered(row: Row) -> tuple[float, float | None]:
    """What a fault cost in points, and the share of it that the remedy brought back; None where nothing was lost."""
    correct, faulty, repaired = (sum(row[name]) / len(row[name]) for name in ("correct", "faulty", "repaired"))
    lost = correct - faulty
    return lost, (repaired - faulty) / lost if lost > 0 else None


def clearly_lost(row: Row) -> bool:
    """Whether the correct set-up is better by 2 points or more on the mean, and in every seed."""
    pairs = zip(row["correct"], row["faulty"], strict=True)
    return recovered(row)[0] >= 2 and all(correct > faulty for correct, faulty in pairs)


WANTED, RECOVERED, OF = 0.9, 10, 14
HALVES: tuple[Half, ...] = ("scored", "development")
COMPLAINTS = {
    "a": "a 99% teacher, τ = 1, weight .9, student under 10%",
    "b": "`ce + 300 × distill` drops 68.2 to 67.4",
    "c": "a ResNet teacher that hurts a ShuffleNet",
    "d": "a baseline that got augmentation which the distilled run did not",
}


@dataclass(frozen=True)
class ScoredVersion:
    """What was found on scored cases with one version of the checks.

    Attributes:
        digest: of the checks.
        rows: what was found.
    """

    digest: str
    rows: Sequence[Row]

    @property
    def text(self) -> str:
        """The seeds, and how it went."""
        seeds: dict[str, set[int]] = {}
        for row in self.rows:
            seeds.setdefault("digits" if row["world"] == "digits" else "real images", set()).add(row["seed"])
        of = ", ".join(f"{' and '.join(map(str, sorted(held)))} on {world}" for world, held in sorted(seeds.items()))
        missed = [row for row in self.rows if row["expects"] and not is_found(row)]
        alarmed = [row for row in self.rows if not row["expects"] and alarms(row)]
        names = "; ".join(
            [f"missed: {row['kind']} ({row['world']})" for row in missed]
            + [f"false alarm: {row['kind']} ({row['world']}): {', '.join(alarms(row))}" for row in alarmed]
        )
        return (
            f"`{self.digest[:12]}`, seeds {of}: sensitivity {sensitivity(self.rows).text}; specificity "
            f"{specificity(self.rows).text}{f' ({names})' if names else ''}"
        )


@dataclass(frozen=True)
class Clinic:
    """All that was found.

    Attributes:
        kinds: all kinds, also those that could not be tried.
        rows: a row a case.
        remedies: a row a trial of a remedy.
        recipe_checks: what ``stillroom diagnose`` took on the CIFAR-10 pair; empty where it was not there.
        digest: of the checks.
        versions: what was ever found on scored cases, by version of the checks, the first first.
        notes: what else the reader must know.
    """

    kinds: Sequence[Kind]
    rows: Sequence[Row]
    remedies: Sequence[Row]
    recipe_checks: Mapping[str, float]
    digest: str
    versions: Sequence[ScoredVersion]
    notes: Sequence[str] = ()

    @property
    def of_kinds(self) -> dict[str, Half]:
        """The half of each kind."""
        return halves(self.kinds)

    def chosen(self, half: Half, *, real: bool | None = None) -> list[Row]:
        """The rows of one half; on digits, on real images, or on all."""
        return [
            row for row in self.rows if row["half"] == half and (real is None or (row["world"] != "digits") == real)
        ]

    def as_dict(self) -> dict[str, Any]:
        """The raw numbers."""
        return {
            "digest": self.digest,
            "earlier_versions": [
                {"digest": version.digest, "text": version.text, "cases": list(version.rows)}
                for version in self.versions[:-1]
            ],
            "notes": list(self.notes),
            "kinds": [
                {
                    "name": kind.name,
                    "half": self.of_kinds[kind.name],
                    "about": kind.about,
                    "expects": list(kind.expects),
                    "worlds": list(kind.worlds),
                    "complaint": kind.complaint or None,
                }
                for kind in self.kinds
            ],
            "checks": by_check(self.chosen("scored")),
            "cases": list(self.rows),
            "remedies": list(self.remedies),
            "recipe_checks": dict(self.recipe_checks),
        }


def page(clinic: Clinic, command: str, provenance: Sequence[str]) -> str:
    """The whole of ``clinic.md``."""
    head = [
        "# The clinic: does `stillroom diagnose` find what is wrong, without false alarms?",
        "",
        f"Command: `{command}`",
        "",
        *(f"- {line}" for line in provenance),
    ]
    parts = ["\n".join(head), _rules(clinic), _scores(clinic), _misses(clinic), _complaints(clinic)]
    parts += [_checks(clinic), _remedies(clinic), _recipe_checks(clinic), _kinds(clinic)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _rules(clinic: Clinic) -> str:
    faulty = [kind for kind in clinic.kinds if kind.is_faulty]
    versions = [version.digest for version in clinic.versions]
    looked = f"looked at with {len(versions)} versions of the checks"
    if versions == [clinic.digest]:
        looked = "looked at once, with the checks as they are here"
    elif versions and versions[-1] == clinic.digest:
        looked = "looked at before, see below; the seeds scored here were looked at once, with the checks as they are"
    lines = [
        f"{len(faulty)} kinds of faulty set-up and {len(clinic.kinds) - len(faulty)} of correct ones. A case is a "
        "recipe's file, a run's folder or a study's, made by a kind and a seed, which draw what exactly is done, and "
        "by which models; it goes through what `stillroom diagnose` does, with no hint of what was done to it.",
        "",
        "- A faulty set-up is **found** where a check that its kind declares reports a `problem`; a `warning` does not "
        "count. A correct one **passes** where no check at all reports a `problem`.",
        "- Kinds were dealt into halves by a hash of their name (`clinic_setups.py`), seeds by number, before anything "
        "was looked at. Thresholds were changed for what the development half showed, then frozen. The scored half "
        "shares neither kind nor seed with it; other models teach and learn there, too.",
        "- There are three cohorts of kinds, each dealt into halves by itself. The first is by the checks' own author. "
        "The second (`clinic_second_*.py`) is by another hand, who had seen neither the checks nor what they say. "
        "A third (`clinic_third.py`) has few labels and losses of one's own.",
        "- Frozen: SHA-256 of the sources of all checks (`diagnose/checks`) is "
        f"`{clinic.digest}`. The scored half was {looked}.",
        "- The checks are older than the clinic, and were written with planted faults in view, many of them of "
        "these kinds: it shows how they hold up on models, data and sizes that nobody tuned them on, less how they "
        "do on faults nobody has thought of.",
        *(f"- An earlier look: checks {version.text}." for version in clinic.versions[:-1]),
        *(f"- {note}" for note in clinic.notes),
    ]
    return "## The rules\n\n" + "\n".join(lines)


def _scores(clinic: Clinic) -> str:
    rows = []
    for half in HALVES:
        words = f"**{half}**" if half == "scored" else half
        every = clinic.chosen(half)
        groups = {
            "all": every,
            "digits": clinic.chosen(half, real=False),
            "real images": clinic.chosen(half, real=True),
            "first cohort": [row for row in every if row["cohort"] == 1],
            "second cohort": [row for row in every if row["cohort"] == 2],
            "third cohort": [row for row in every if row["cohort"] == 3],
        }
        for where, held in groups.items():
            if held:
                warned = sum(map(has_warning, held))
                uneasy = sum(not row["expects"] and bool(alarms(row, "warning")) for row in held)
                rows.append([words, where, sensitivity(held).text, str(warned), specificity(held).text, str(uneasy)])
    head = ["", "on", "sensitivity", "of the rest, with a warning", "specificity", "correct, with a warning"]
    held = clinic.chosen("scored")
    found, passed = sensitivity(held), specificity(held)
    met = all(share.of and share.hits / share.of >= WANTED for share in (found, passed))
    text = f"Wanted: both {WANTED:g} or more on the scored half: **{'met' if met else 'not met'}**."
    return f"## How well\n\n{text} With Wilson's 95% intervals.\n\n{table(head, rows)}"


def _misses(clinic: Clinic) -> str:
    lines = []
    for half in HALVES:
        held = clinic.chosen(half)
        missed = [row for row in held if row["expects"] and not is_found(row)]
        alarmed = [row for row in held if not row["expects"] and alarms(row)]
        lines += [f"The {half} half:", ""]
        for row in missed:
            instead = f"problems: {', '.join(alarms(row))}" if alarms(row) else "no problem was reported"
            hint = "with a warning" if has_warning(row) else "without a warning"
            lines.append(f"- missed ({hint}): {_describe(clinic, row)}; {instead}")
        lines += [f"- false alarm: {_describe(clinic, row)}: {', '.join(alarms(row))}" for row in alarmed]
        lines += ["- none missed, no false alarm"] if not missed and not alarmed else []
        lines.append("")
    return "## What was missed, and false alarms\n\n" + "\n".join(lines).rstrip()


def _describe(clinic: Clinic, row: Row) -> str:
    return f"{row['kind']} ({row['world']}, seed {row['seed']})"


def _complaints(clinic: Clinic) -> str:
    rows = []
    for letter, words in COMPLAINTS.items():
        for kind in clinic.kinds:
            if kind.complaint == letter:
                held = [row for row in clinic.rows if row["kind"] == kind.name]
                spoke = sorted(
                    {check for row in held for check in row["expects"] if row["verdicts"].get(check) == "problem"}
                )
                count = f"{sum(map(is_found, held))} of {len(held)}"
                rows.append([words, f"{kind.name} ({kind.about})", clinic.of_kinds[kind.name], count, ", ".join(spoke)])
    head = ["what people report", "as a case", "half", "found", "by"]
    return "## The four complaints\n\n" + table(head, rows)


def _checks(clinic: Clinic) -> str:
    counts = by_check(clinic.chosen("scored"))
    rows = [
        [f"`{name}`", *(str(of[key]) for key in ("tp", "fn", "fp", "tn", "skipped", "elsewhere"))]
        for name, of in counts.items()
    ]
    head = ["check", "found", "missed", "false alarms", "passed", "skipped", "with another"]
    text = (
        "On the scored half. Found and missed: of set-ups that name the check; false alarms and passed: of correct "
        "ones; with another: a problem on set-ups whose kind names other checks, where it may well be right."
    )
    return f"## Check by check\n\n{text}\n\n{table(head, rows)}"


def _remedies(clinic: Clinic) -> str:
    if not clinic.remedies:
        return ""
    rows, by_recipe, half, lost_nothing, short = [], 0, 0, [], []
    for row in sorted(clinic.remedies, key=lambda row: row["name"]):
        lost, share = recovered(row)
        clear = clearly_lost(row)
        what = row.get("by_hand") or ", ".join(f"`{key}={_short(value)}`" for key, value in row["overrides"].items())
        what = f"by hand: {what}" if row.get("by_hand") else what or "none that a recipe can say"
        if not row.get("by_hand") and row["longer"] > 1.01:
            what += f" ({row['longer']:.3g} times the steps)"
        means = [f"{sum(row[name]) / len(row[name]):.1f}" for name in ("correct", "faulty", "repaired")]
        back = f"{100 * share:.0f}%" if clear and share is not None else "–"
        rows.append([row["name"], *means, f"{lost:+.1f}", back, what])
        if not clear:
            lost_nothing.append(row["name"])
        elif not row.get("by_hand"):
            by_recipe += 1
            half += share is not None and share >= 0.5
            if share is None or share < 0.5:
                short.append(row["name"])
    by_hand = [row for row in clinic.remedies if row.get("by_hand") and clearly_lost(row)]
    repaired = sum((recovered(row)[1] or 0) >= 0.5 for row in by_hand)
    verdict = "met" if half >= RECOVERED and by_recipe >= OF else "not met"
    lines = [
        "Digits, 300 training images, the same number of steps for all three set-ups unless it says otherwise, 3 "
        "seeds, top-1 after the last epoch on 500 test images. The remedy is the one that `stillroom diagnose` "
        "proposed for the faulty set-up, its overrides applied as they stand; where a remedy is nothing that a recipe "
        "can say, what its words ask for was done by hand. Recovered: (repaired − faulty) / (correct − faulty), given "
        "where the faulty one lost 2 points or more, and lost in every seed.",
        "",
        f"Wanted: at least {RECOVERED} of {OF} recover half. **{verdict}**: of {by_recipe} that lost something and "
        f"have overrides, {half} recovered half or more; of {len(by_hand)} repaired by hand, {repaired}."
        + (f" Less than half: {', '.join(short)}." if short else ""),
    ]
    if lost_nothing:
        lines += ["", f"On digits these lost nothing that three seeds would show: {', '.join(lost_nothing)}."]
    head = ["what is wrong", "correct", "faulty", "repaired", "lost", "recovered", "remedy"]
    return "## What remedies bring back\n\n" + "\n".join(lines) + "\n\n" + table(head, rows)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


def _recipe_checks(clinic: Clinic) -> str:
    took = clinic.recipe_checks
    if not took:
        return ""
    return (
        "## How long the checks of a recipe take\n\n"
        f"`stillroom diagnose recipes/cifar10-resnet56-resnet8.yaml --json` on {took['cores']:g} cores, reading 60,000 "
        f"images included: {took['wall']:.1f} s ({took['cpu']:.1f} s of processor time); wanted: under 60 s."
    )


def _kinds(clinic: Clinic) -> str:
    parts = []
    tests: list[tuple[str, bool, Callable[[Row], bool]]] = [
        ("Faulty set-ups, and how many were found", True, is_found),
        ("Correct set-ups, and how many passed", False, lambda row: not alarms(row)),
    ]
    for words, is_faulty, is_right in tests:
        rows = []
        for kind in clinic.kinds:
            if kind.is_faulty == is_faulty:
                held = [row for row in clinic.rows if row["kind"] == kind.name]
                count = f"{sum(map(is_right, held))}/{len(held)}" if held else "–"
                worlds = " ".join(dict.fromkeys(row["world"] for row in held)) or "not tried"
                checks = [", ".join(kind.expects)] if is_faulty else []
                rows.append([kind.name, kind.about, clinic.of_kinds[kind.name], *checks, worlds, count])
        head = [
            "kind",
            "a",
            "half",
            *(["expects one of"] if is_faulty else []),
            "on",
            "found" if is_faulty else "passed",
        ]
        parts.append(f"## {words}\n\n{table(head, rows)}")
    return "\n\n".join(parts)
