"""No retired name is left in code, recipes, tests or documents.

Words that are plain English too are looked for only where they stand as the name that was meant.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PLACES = ("src", "tests", "benchmarks", "docs", "recipes", "examples", "README.md", "CONTRIBUTING.md", "Makefile")
# They name what things were called; wild.py reads cases whose files are called sick.py.
HISTORY = {"test_names.py", "fixed_set.py", "wild.py", "wild.md"}
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".j2", ".js", ".css", ".html", ".toml", ""}


def as_type(*names: str) -> str:
    """Where a class is defined, called, imported or an annotation."""
    each = "|".join(names)
    return rf"class (?:{each})\b|(?<![\w.])(?:{each})\(|(?:: |-> |\| |\[|import (?:.*, )?)(?:{each})\b(?! [a-z])"


RETIRED = {
    "told": r"(?:\b|_)told(?:\b|_)",
    "Objective": r"\b[Oo]bjectives\b|\bObjective\b|\bObjective(?=[A-Z])|(?<=[a-z])Objective",
    "Tutor": r"[Tt]utor(?!ial)",
    "Remembered, Counted, Whole": as_type("Remembered", "Counted", "Whole"),
    "Dressed, pipe, settled": r"\b[Dd]ress(?:ed)?\b|(?<!\bos)\.pipe\b|\.settled\b",
    "Materials": r"\bMaterials\b|\bmaterials\b|import (?:.*, )?gather\b",
    "Setting, OneRun, go": r"\bsetting\.(?:recipe|data|device|processes|precision|observer)\b|\bOneRun\b|\.go\(\)",
    "Lesson, Knowledge, Reads": r"\bLesson\b|" + as_type("Knowledge(?! [A-Z])", "Reads"),
    "Meeting, Party": r"\bMeeting\b|\bmeeting\b|\bParty\b|\bmeet\(|\bintroduc(?:e|ing)\b",
    "Paper": as_type("Paper"),
    "Tally.taken": r"\bTally\b|\.taken\b",
    "on_test, in_training": r"\.(?:on_test|in_training)\b|def (?:on_test|in_training)\b",
    "known": r"\bknown: int\b|(?:setting|components|context)\.known\b",
    "taught": r"\btaught_logits\b|losses[./]taught\b|\.taught\(",
    "losses/gradients.py": r"(?:objectives|losses)[./]gradients\b",
    "moved, moved_by, Asked, asking.py": r"\.moved\(|\bmoved_by\b|explain[./]asking\b|" + as_type("Asked"),
    "beside.py": r"explain[./]beside\b|\bbeside\(|\bdef beside|test_beside",
    "quietly; own.py, outside.py": r"\bquietly\(|def quietly|models[./](?:quiet|own|outside)\b|test_(?:own|outside)\b",
    "telling, looking, …": r"(?:continual|incremental)[./](?:telling|looking|watching|remembering|growing)\b",
    "Sequence of tasks, Judged, OfAllTasks": r"class Sequence\b|(?<!\w)Sequence\(|\bJudged\b|\bOfAllTasks\b",
    "Feed; Origin, Chosen": r"\.origin\.rows|\.(?:train|test)\.whole\b|" + as_type("Feed", "Origin", "Chosen"),
    "Bystander; share, alone": r"\bBystander\b|processes\.(?:share|alone)\b",
    "contestants, pairs, varies": r"\b[Cc]ontestants?\b|\bvaries:|\.varies\b|[\"']varies[\"']|^pairs:|study\.pairs\b",
    "dishonest, foreseen, traits, Shape": r"\bdishonest\b|\bfores(?:een?|eeing)\b|\btraits\b|"
    + as_type("Shape", "Mark"),
    "Mouth, Child, adopt, joined, end_family": r"\badopt\(|def adopt|\bjoined\(|\bend_family\b|"
    + as_type("Mouth", "Child"),
    "standing": r"\bstanding\(|import (?:.*, )?standing\b",
    "Look, looks, Home, Place": r"\.looks\b(?!\[)|" + as_type("Home", "Place"),
    "sick, suspect, healthy": r"\bsick\w*|[\"'`](?:suspect|healthy)[\"'`]|\bsuspect\b",
    "Case, Mending": r"\bMending\b|\bmending\b|checks[./]\w+[./]case\b",
    "preflight, postmortem": r"[Pp]reflight|[Pp]ostmortem",
    "without.py, ending.py, …": r"checks[./]\w+[./](?:without|ending|answering|softness|worth|kept)\b",
    "questions": r"stillroom questions\b|def questions\b|cli[./]questions\b|run[./]questions\b",
    "--against, --foreground, --offline, --try": r"(?<![\w-])--(?:against|foreground|offline|try)\b",
    "teacher.answers, record_moves, …": r"teacher\.answers\b|\brest_temperature|\brecord_moves|\brecord_rescaling",
    "moves.jsonl, rescaling.jsonl, geometry.json": r"\bmoves\.jsonl|(?<!gradient_)rescaling\.jsonl|\bgeometry\.json",
    "geometry.py": r"stillroom[./]geometry\b",
    "room, house, stranger": r"\brooms\b|(?:every|each|other|another|[Aa]) room\b|\b[Hh]ouses?\b|\b[Ss]trangers?\b"
    r"|\btired engineer",
}


@cache
def texts() -> dict[Path, str]:
    found = {}
    for place in PLACES:
        top = ROOT / place
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if {"wild_cases", "plain_scripts"} & set(path.parts):  # scripts as other people write them
                continue
            if path.is_file() and path.suffix in SUFFIXES and path.name not in HISTORY:
                found[path.relative_to(ROOT)] = path.read_text(encoding="utf-8", errors="replace")
    return found


def literals(parsed: Any) -> set[str]:
    """Texts of which each match of a pattern has one; empty where that cannot be said. Found a hundred times faster."""
    best: set[str] = set()
    run = ""
    for kind, given in [*parsed, (None, None)]:
        if str(kind) == "LITERAL":
            run += chr(given)
            continue
        found = [{run}] if run.split() not in ([], ["class"], ["def"], ["import"]) else []
        run = ""
        if str(kind) == "SUBPATTERN":
            found.append(literals(given[-1]))
        elif str(kind) == "BRANCH":
            each = [literals(branch) for branch in given[1]]
            found.append(set().union(*each) if all(each) else set())
        for one in found:
            if one and (not best or min(map(len, one)) > min(map(len, best))):
                best = one
    return best


def test_a_match_has_one_of_the_literals() -> None:
    parse = re._parser.parse  # type: ignore[attr-defined]
    assert literals(parse(r"\bstranger(?:s?)\b")) == {"stranger"}
    assert literals(parse(as_type("Shape", "Mark"))) == {"Shape", "Mark"}
    assert literals(parse(r"\badopt\(|def adopt|" + as_type("Child"))) == {
        "adopt(",
        "def adopt",
        "class Child",
        "Child(",
        "Child",
    }
    assert literals(parse(r"[Tt]utor(?!ial)|\.go")) == {"utor", ".go"}
    assert literals(parse(r"\w+|told")) == set()


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_name_is_gone(name: str) -> None:
    pattern = re.compile(RETIRED[name], re.MULTILINE)
    needed = literals(re._parser.parse(RETIRED[name]))  # type: ignore[attr-defined]
    found = [
        f"{path}:{number}: {line.strip()[:160]}"
        for path, text in texts().items()
        if (not needed or any(one in text for one in needed)) and pattern.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found[:40])
