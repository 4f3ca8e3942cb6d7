"""The clinic's own arithmetic: halves that are fixed and do not meet, cases that count as they should."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def clinic() -> Iterator[ModuleType]:
    sys.path.insert(0, BENCHMARKS)
    try:
        yield importlib.import_module("clinic")
    finally:
        sys.path.remove(BENCHMARKS)


def row(*expects: str, **verdicts: str) -> dict[str, Any]:
    return {"expects": list(expects), "verdicts": verdicts, "half": "scored", "world": "digits", "kind": "x", "seed": 2}


def test_halves_do_not_meet_and_hold_kinds_enough(clinic: ModuleType) -> None:
    kinds = clinic.KINDS
    assert len({kind.name for kind in kinds}) == len(kinds)
    halves = sys.modules["clinic_setups"].halves(kinds)
    for half in ("development", "scored"):
        mine = [kind for kind in kinds if halves[kind.name] == half]
        assert sum(kind.is_faulty for kind in mine) >= 14
        assert sum(not kind.is_faulty for kind in mine) >= 14
    cases = sys.modules["clinic_setups"].cases_of(kinds, real=True)
    assert len({case.key for case in cases}) == len(cases)
    for one in ("kind", "seed"):
        seen: dict[str, set[Any]] = {"development": set(), "scored": set()}
        for case in cases:
            place = "digits" if case.world == "digits" else "real"
            seen[case.half].add(case.kind.name if one == "kind" else (place, case.seed))
        assert not seen["development"] & seen["scored"]
    assert {kind.complaint for kind in kinds} - {""} == set("abcd")


def test_a_warning_does_not_count_as_found_and_any_problem_is_a_false_alarm(clinic: ModuleType) -> None:
    score = sys.modules["clinic_report"]
    rows = [
        row("taps", taps="problem", budget="ok"),
        row("taps", "budget", taps="warning", budget="ok"),
        row("taps", taps="ok", budget="problem"),
        row(taps="ok", budget="warning"),
        row(taps="problem", budget="skipped"),
    ]
    assert (score.sensitivity(rows).hits, score.sensitivity(rows).of) == (1, 3)
    assert [score.has_warning(each) for each in rows] == [False, True, False, False, False]
    assert (score.specificity(rows).hits, score.specificity(rows).of) == (1, 2)
    none = dict.fromkeys(("tp", "fn", "fp", "tn", "skipped", "elsewhere"), 0)
    assert score.by_check(rows) == {
        "taps": {**none, "tp": 1, "fn": 2, "fp": 1, "tn": 1},
        "budget": {**none, "fn": 1, "tn": 1, "skipped": 1, "elsewhere": 1},
    }
    assert score.Share(0, 0).text == "–"


def test_what_a_remedy_brought_back(clinic: ModuleType) -> None:
    score = sys.modules["clinic_report"]
    lost = {"correct": [90.0, 92.0], "faulty": [50.0, 52.0], "repaired": [80.0, 82.0]}
    assert score.recovered(lost) == (40.0, 0.75)
    assert score.clearly_lost(lost)
    assert not score.clearly_lost({**lost, "faulty": [89.0, 91.0]})
    assert not score.clearly_lost({**lost, "faulty": [20.0, 93.0]})
    assert score.recovered({**lost, "faulty": [95.0, 95.0]})[1] is None


def test_a_case_is_made_diagnosed_and_reported(clinic: ModuleType, tmp_path: Path) -> None:
    (kind,) = [kind for kind in clinic.KINDS if kind.name == "labels alone, no teacher"]
    case = sys.modules["clinic_setups"].ClinicCase(kind, "digits", 0, "development")
    found = clinic.diagnosed(case, tmp_path, 64)
    assert "error" not in found
    assert found["verdicts"]["budget"] == "ok"
    rows = clinic.Rows(tmp_path / "rows.jsonl")
    rows.add(found)
    with rows.path.open("a") as file:
        file.write('{"key": "cut sh')
    assert clinic.Rows(rows.path).held == {found["key"]: found}
    report = sys.modules["clinic_report"]
    page = report.page(
        report.Clinic(clinic.KINDS, [found], [], {}, "d1gest", [report.ScoredVersion("d1gest", [])]),
        "python clinic.py",
        ["a line"],
    )
    assert "**not met**" in page  # nothing was scored
    assert "| development | digits | – | 0 | 1 of 1, 1 [.21, 1] | 0 |" in page
    assert "| labels alone, no teacher | recipe | development | digits | 1/1 |" in page
    assert "`d1gest`. The scored half was looked at once" in page
