"""From rows to Markdown: what the clinic found, what it missed, and what remedies brought back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clinic_kinds import Half, Kind, halves
from clinic_score import (
    Row,
    alarms,
    by_check,
    clearly_lost,
    is_found,
    is_suspected,
    recovered,
    sensitivity,
    specificity,
)
from speed_report import table

WANTED, RECOVERED, OF = 0.9, 10, 14
HALVES: tuple[Half, ...] = ("scored", "development")
COMPLAINTS = {
    "a": "a 99% teacher, τ = 1, weight .9, student under 10%",
    "b": "`ce + 300 × distill` drops 68.2 to 67.4",
    "c": "a ResNet teacher that hurts a ShuffleNet",
    "d": "a baseline that got augmentation which the distilled run did not",
}


@dataclass(frozen=True)
class Look:
    """What was found on scored cases with one version of the checks.

    Attributes:
        digest: of the checks.
        rows: what was found.
    """

    digest: str
    rows: Sequence[Row]

    @property
    def told(self) -> str:
        """The seeds, and how it went."""
        seeds: dict[str, set[int]] = {}
        for row in self.rows:
            seeds.setdefault("digits" if row["world"] == "digits" else "real images", set()).add(row["seed"])
        of = ", ".join(f"{' and '.join(map(str, sorted(held)))} on {world}" for world, held in sorted(seeds.items()))
        missed = [row for row in self.rows if row["expects"] and not is_found(row)]
        accused = [row for row in self.rows if not row["expects"] and alarms(row)]
        names = "; ".join(
            [f"missed: {row['kind']} ({row['world']})" for row in missed]
            + [f"accused: {row['kind']} ({row['world']}): {', '.join(alarms(row))}" for row in accused]
        )
        return (
            f"`{self.digest[:12]}`, seeds {of}: sensitivity {sensitivity(self.rows).told}; specificity "
            f"{specificity(self.rows).told}{f' ({names})' if names else ''}"
        )


@dataclass(frozen=True)
class Clinic:
    """All that was found.

    Attributes:
        kinds: all kinds, also those that could not be tried.
        rows: a row a case.
        remedies: a row a trial of a remedy.
        preflight: what ``stillroom diagnose`` took on the CIFAR-10 pair; empty where it was not there.
        digest: of the checks.
        looks: what was ever found on scored cases, by version of the checks, the first first.
        notes: what else the reader must know.
    """

    kinds: Sequence[Kind]
    rows: Sequence[Row]
    remedies: Sequence[Row]
    preflight: Mapping[str, float]
    digest: str
    looks: Sequence[Look]
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
            "looks": [{"digest": look.digest, "told": look.told, "cases": list(look.rows)} for look in self.looks[:-1]],
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
            "preflight": dict(self.preflight),
        }


def page(clinic: Clinic, command: str, provenance: Sequence[str]) -> str:
    """The whole of ``clinic.md``."""
    head = [
        "# The clinic: does `stillroom diagnose` find what is wrong, and leave in peace what is not?",
        "",
        f"Command: `{command}`",
        "",
        *(f"- {line}" for line in provenance),
    ]
    parts = ["\n".join(head), _rules(clinic), _scores(clinic), _misses(clinic), _complaints(clinic)]
    parts += [_checks(clinic), _remedies(clinic), _preflight(clinic), _kinds(clinic)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _rules(clinic: Clinic) -> str:
    sick = [kind for kind in clinic.kinds if kind.is_sick]
    looks = [look.digest for look in clinic.looks]
    looked = f"looked at with {len(looks)} versions of the checks"
    if looks == [clinic.digest]:
        looked = "looked at once, with the checks as they are here"
    elif looks and looks[-1] == clinic.digest:
        looked = "looked at before, see below; the seeds scored here were looked at once, with the checks as they are"
    lines = [
        f"{len(sick)} kinds of sick set-up and {len(clinic.kinds) - len(sick)} of healthy ones. A case is a recipe's "
        "file, a run's folder or a study's, made by a kind and a seed, which draw what exactly is done, and by which "
        "models; it goes through what `stillroom diagnose` does, with no hint of what was done to it.",
        "",
        "- A sick set-up is **found** where a check that its kind declares is `sick`; `suspect` does not count. A "
        "healthy one is **in peace** where no check at all is `sick`.",
        "- Kinds were dealt into halves by a hash of their name (`clinic_kinds.py`), seeds by number, before anything "
        "was looked at. Thresholds were changed for what the development half showed, then frozen. The scored half "
        "shares neither kind nor seed with it; other models teach and learn there, too.",
        "- There are two cohorts of kinds, each dealt into halves by itself. The first is by the checks' own author. "
        "The second (`clinic_fresh*.py`) is by another hand, who had seen neither the checks nor what they say.",
        "- Frozen: SHA-256 of the sources of all checks (`diagnose/checks/recipe`, `diagnose/checks/run`) is "
        f"`{clinic.digest}`. The scored half was {looked}.",
        "- The checks are older than the clinic, and were written with planted sicknesses in view, many of them of "
        "these kinds: it shows how they hold up on models, data and sizes that nobody tuned them on, less how they "
        "do on ails nobody has thought of.",
        *(f"- An earlier look: checks {look.told}." for look in clinic.looks[:-1]),
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
            "first cohort": [row for row in every if not row["fresh"]],
            "second cohort": [row for row in every if row["fresh"]],
        }
        for where, held in groups.items():
            if held:
                suspected = sum(map(is_suspected, held))
                uneasy = sum(not row["expects"] and bool(alarms(row, "suspect")) for row in held)
                rows.append([words, where, sensitivity(held).told, str(suspected), specificity(held).told, str(uneasy)])
    head = ["", "on", "sensitivity", "of the rest, suspected", "specificity", "healthy, yet suspected"]
    held = clinic.chosen("scored")
    found, peace = sensitivity(held), specificity(held)
    met = all(share.of and share.hits / share.of >= WANTED for share in (found, peace))
    told = f"Wanted: both {WANTED:g} or more on the scored half: **{'met' if met else 'not met'}**."
    return f"## How well\n\n{told} With Wilson's 95% intervals.\n\n{table(head, rows)}"


def _misses(clinic: Clinic) -> str:
    lines = []
    for half in HALVES:
        held = clinic.chosen(half)
        missed = [row for row in held if row["expects"] and not is_found(row)]
        accused = [row for row in held if not row["expects"] and alarms(row)]
        lines += [f"The {half} half:", ""]
        for row in missed:
            instead = f"sick: {', '.join(alarms(row))}" if alarms(row) else "nothing was sick"
            hint = "suspected" if is_suspected(row) else "not even suspected"
            lines.append(f"- missed ({hint}): {_told(clinic, row)}; {instead}")
        lines += [f"- accused: {_told(clinic, row)}: {', '.join(alarms(row))}" for row in accused]
        lines += ["- none missed, none accused"] if not missed and not accused else []
        lines.append("")
    return "## What was missed, who was accused\n\n" + "\n".join(lines).rstrip()


def _told(clinic: Clinic, row: Row) -> str:
    return f"{row['kind']} ({row['world']}, seed {row['seed']})"


def _complaints(clinic: Clinic) -> str:
    rows = []
    for letter, words in COMPLAINTS.items():
        for kind in clinic.kinds:
            if kind.complaint == letter:
                held = [row for row in clinic.rows if row["kind"] == kind.name]
                spoke = sorted(
                    {check for row in held for check in row["expects"] if row["verdicts"].get(check) == "sick"}
                )
                told = f"{sum(map(is_found, held))} of {len(held)}"
                rows.append([words, f"{kind.name} ({kind.about})", clinic.of_kinds[kind.name], told, ", ".join(spoke)])
    head = ["what people report", "as a case", "half", "found", "by"]
    return "## The four complaints\n\n" + table(head, rows)


def _checks(clinic: Clinic) -> str:
    counts = by_check(clinic.chosen("scored"))
    rows = [
        [f"`{name}`", *(str(told[key]) for key in ("tp", "fn", "fp", "tn", "skipped", "elsewhere"))]
        for name, told in counts.items()
    ]
    head = ["check", "found", "missed", "false alarms", "in peace", "skipped", "sick beside another"]
    told = (
        "On the scored half. Found and missed: of set-ups that name the check; false alarms and in peace: of healthy "
        "ones; sick beside another: on set-ups whose kind names other checks, where it may well be right."
    )
    return f"## Check by check\n\n{told}\n\n{table(head, rows)}"


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
        means = [f"{sum(row[name]) / len(row[name]):.1f}" for name in ("healthy", "sick", "mended")]
        told = f"{100 * share:.0f}%" if clear and share is not None else "–"
        rows.append([row["name"], *means, f"{lost:+.1f}", told, what])
        if not clear:
            lost_nothing.append(row["name"])
        elif not row.get("by_hand"):
            by_recipe += 1
            half += share is not None and share >= 0.5
            if share is None or share < 0.5:
                short.append(row["name"])
    by_hand = [row for row in clinic.remedies if row.get("by_hand") and clearly_lost(row)]
    mended = sum((recovered(row)[1] or 0) >= 0.5 for row in by_hand)
    verdict = "met" if half >= RECOVERED and by_recipe >= OF else "not met"
    lines = [
        "Digits, 300 training images, the same number of steps for all three set-ups unless it says otherwise, 3 "
        "seeds, top-1 after the last epoch on 500 test images. The remedy is the one that `stillroom diagnose` "
        "proposed for the sick set-up, its overrides applied as they stand; where a remedy is nothing that a recipe "
        "can say, what its words ask for was done by hand. Recovered: (mended − sick) / (healthy − sick), told where "
        "the sick one lost 2 points or more, and lost in every seed.",
        "",
        f"Wanted: at least {RECOVERED} of {OF} recover half. **{verdict}**: of {by_recipe} that lost something and "
        f"have overrides, {half} recovered half or more; of {len(by_hand)} mended by hand, {mended}."
        + (f" Less than half: {', '.join(short)}." if short else ""),
    ]
    if lost_nothing:
        lines += ["", f"On digits these lost nothing that three seeds would show: {', '.join(lost_nothing)}."]
    head = ["what is wrong", "healthy", "sick", "mended", "lost", "recovered", "remedy"]
    return "## What remedies bring back\n\n" + "\n".join(lines) + "\n\n" + table(head, rows)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


def _preflight(clinic: Clinic) -> str:
    told = clinic.preflight
    if not told:
        return ""
    return (
        "## How long a pre-flight takes\n\n"
        f"`stillroom diagnose recipes/cifar10-resnet56-resnet8.yaml --json` on {told['cores']:g} cores, reading 60,000 "
        f"images included: {told['wall']:.1f} s ({told['cpu']:.1f} s of processor time); wanted: under 60 s."
    )


def _kinds(clinic: Clinic) -> str:
    parts = []
    tests: list[tuple[str, bool, Callable[[Row], bool]]] = [
        ("Sick set-ups, and how many were found", True, is_found),
        ("Healthy set-ups, and how many were left in peace", False, lambda row: not alarms(row)),
    ]
    for words, is_sick, is_right in tests:
        rows = []
        for kind in clinic.kinds:
            if kind.is_sick == is_sick:
                held = [row for row in clinic.rows if row["kind"] == kind.name]
                count = f"{sum(map(is_right, held))}/{len(held)}" if held else "–"
                worlds = " ".join(dict.fromkeys(row["world"] for row in held)) or "not tried"
                checks = [", ".join(kind.expects)] if is_sick else []
                rows.append([kind.name, kind.about, clinic.of_kinds[kind.name], *checks, worlds, count])
        head = ["kind", "a", "half", *(["expects one of"] if is_sick else []), "on", "found" if is_sick else "in peace"]
        parts.append(f"## {words}\n\n{table(head, rows)}")
    return "\n\n".join(parts)
