"""The tables of a study: what reads back, what a spreadsheet or LaTeX cannot trip over, what runs cost."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.study.results import write_results
from stillroom.study.tables import cost_of, csv_text, table_csv, table_tex, terminal_table, tex
from study.finished import Made, made, write_lines

__all__ = ["made"]


@pytest.fixture(scope="module")
def results(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two pairs, one method with twice the epochs, one run missing."""
    pairs = [{"name": "p_1"}, {"name": "q", "set": {"data.batch_size": 50}}]
    path = tmp_path_factory.mktemp("tables") / "s"
    question = "Does 50% of {it} & #1_2^3 ~ $matter$ \\ at all?"
    folder, plan = made.planted(path, {"training.epochs": 4}, model_pairs=pairs, question=question)
    (folder.run("q", "mse", 1) / "summary.json").unlink()
    found = write_results(folder, plan, {"run/q/mse/1": '=HYPERLINK("http://x","y"),\nlost'})
    return {**found, "folder": folder}


def read(results: dict[str, Any], name: str) -> list[dict[str, str]]:
    text = (results["folder"].path / name).read_bytes().decode()
    assert "\r" not in text
    assert text.endswith("\n")
    rows = list(csv.DictReader(io.StringIO(text), strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


def test_runs_read_back_as_they_are(results: dict[str, Any]) -> None:
    rows = read(results, "runs.csv")
    assert len(rows) == 12
    there = [row for row in rows if not row["missing"]]
    for row, run in zip(there, results["runs"], strict=True):
        assert float(row["nll"]) == run["nll"]
        assert float(row["top1"]) == run["top1"]
        assert int(row["steps"]) == run["steps"]
        assert row["order_hash"] == run["hashes"]["order"]
    (gap,) = [row for row in rows if row["missing"]]
    assert (gap["pair"], gap["method"], gap["seed"], gap["top1"]) == ("q", "mse", "1", "")
    assert gap["missing"] == 'failed: =HYPERLINK("http://x","y"), lost'


@pytest.mark.parametrize("name", ["runs.csv", "table.csv", "comparisons.csv", "cost.csv"])
def test_no_field_begins_a_formula(results: dict[str, Any], name: str) -> None:
    for row in read(results, name):
        for field in row.values():
            assert not re.match(r"[=@\t]|[+-]\D", field)


def test_the_table_has_a_line_for_each_pair_and_method(results: dict[str, Any]) -> None:
    rows = read(results, "table.csv")
    assert [(row["pair"], row["method"], row["equal"]) for row in rows] == [
        (pair, name, "false" if name == "kl" else "true") for pair in ("p_1", "q") for name in ("labels", "kl", "mse")
    ]
    assert [row["verdict"] for row in rows[:3]] == ["", "no claim: not equal", "undecided"]
    for row, cell in zip(rows, results["cells"], strict=True):
        assert float(row["mean"]) == cell["mean"]
    assert rows[0]["difference"] == rows[0]["verdict"] == ""
    assert rows[5]["note"] == "one seed: no interval"


def test_comparisons_are_of_both_families(results: dict[str, Any]) -> None:
    rows = read(results, "comparisons.csv")
    assert [row["family"] for row in rows] == (["baseline"] * 2 + ["all"] * 3) * 2
    flat = [
        one for family in results["families"] for kind in ("baseline", "all") for one in family[kind]["comparisons"]
    ]
    for row, one in zip(rows, flat, strict=True):
        concerned = "kl" in (one["method"], one["against"])
        assert (row["method"], row["against"], row["equal"]) == (
            one["method"],
            one["against"],
            "false" if concerned else "true",
        )
        assert row["verdict"] == ("no claim: not equal" if concerned else one["verdict"])
        assert float(row["difference"]) == one["difference"]["mean"]
        assert row["holm_p"] == ("" if one["holm_p"] is None else repr(one["holm_p"]))


def test_with_an_unequal_baseline_no_line_of_the_table_is_on_equal_terms(results: dict[str, Any]) -> None:
    cells = [{**cell, "equal": cell["method"] != "labels"} for cell in results["cells"]]
    text = table_csv({**results, "cells": cells})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["equal"] for row in rows} == {"false"}


@given(st.lists(st.one_of(st.floats(allow_nan=False), st.integers(), st.text(), st.none()), min_size=1, max_size=4))
def test_a_csv_reads_back(row: list[Any]) -> None:
    text = csv_text([str(place) for place in range(len(row))], [row])
    (_, found) = csv.reader(io.StringIO(text, newline=""), strict=True)
    for value, field in zip(row, found, strict=True):
        if isinstance(value, int | float):
            assert float(field) == float(value)
        elif value is not None:
            assert field.removeprefix("'") == value.replace("\r", " ").removeprefix("'")


def stripped(text: str) -> str:
    """LaTeX without what is escaped."""
    return re.sub(r"\\[\\{}$&#%_]", "", text)


def test_latex_is_balanced_and_escaped(results: dict[str, Any]) -> None:
    text = table_tex(results)
    assert (results["folder"].path / "table.tex").read_text() == text
    bare = stripped(text)
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    begun = re.findall(r"\\begin\{(\w+)\}", text)
    assert begun == ["table", "tabular"]
    assert re.findall(r"\\end\{(\w+)\}", text) == begun[::-1]
    assert bare.count("$") % 2 == 0
    outside = re.sub(r"\$[^$]*\$", "", bare)
    assert not set("_^#~") & set(re.sub(r"\\label\{[^}]*\}", "", outside))
    # A comment would swallow the rest of its line.
    assert [line for line in bare.splitlines() if "%" in line] == [r"% needs \usepackage{booktabs}"]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows[1:]} == {4}
    assert r"p\_1" in text
    assert "textbf" not in text


def test_latex_marks_what_is_decided_and_what_is_not_equal(results: dict[str, Any]) -> None:
    found = json.loads(json.dumps({key: value for key, value in results.items() if key != "folder"}))
    for family in found["families"]:
        for one in family["baseline"]["comparisons"]:
            one["verdict"], one["better"] = "higher", True
    text = table_tex(found)
    kl, mse = (next(line for line in text.splitlines() if line.startswith(f"    {name} ")) for name in ("kl", "mse"))
    assert kl.count(r"\dagger") == 2
    assert r"\ast" not in kl
    assert mse.count(r"^{\ast}") == 2
    assert "not equal to the others in" in text
    assert "Not complete: 1 run" in text


@given(st.text())
def test_any_text_is_escaped(text: str) -> None:
    bare = stripped(re.sub(r"\\text\w+\{\}", "", tex(text)).replace("{[}", "").replace("{]}", ""))
    assert not set(bare) & set("\\{}$&#%_^~[]")


def test_the_terminals_table_says_what_may_not_be_claimed(results: dict[str, Any]) -> None:
    header, *rows = terminal_table(results)
    assert header == ["pair", "method", "top-1 (%)", "less labels", "Holm p", "verdict"]
    assert all(len(row) == len(header) for row in rows)
    verdicts = {(row[0], row[1]): row[-1] for row in rows}
    assert verdicts["p_1", "labels"] == "baseline"
    assert verdicts["p_1", "kl"] == "no claim: not equal"
    assert verdicts["q", "mse"] == "no claim: one seed"


def test_what_a_run_cost_is_summed_over_its_starts(tmp_path: Path) -> None:
    def progress(step: int, seconds: float, rate: float = 100.0, memory: float = 400.0) -> dict[str, Any]:
        return {
            "event": "progress", "step": step, "seconds": seconds,
            "images_per_second": rate, "peak_memory_mb": memory,
        }  # fmt: skip

    rows = [
        {"event": "cache", "images": 100, "seconds": 2.0},
        progress(1, 1.0), progress(2, 3.0, rate=300.0),
        {"event": "evaluation", "seconds": 0.5},
        # Killed before its first save, it began anew and said nothing of it.
        progress(1, 1.5), progress(2, 2.5, memory=500.0),
        {"event": "resume", "step": 2},
        progress(3, 4.0, rate=200.0),
        {"event": "evaluation", "seconds": 0.25},
        progress(4, 6.0),
    ]  # fmt: skip
    write_lines(tmp_path / "timing.jsonl", rows)
    assert cost_of(tmp_path) == {
        "training_seconds": 3.0 + 2.5 + 5.75,
        "evaluation_seconds": 0.75,
        "teacher_answers": 100,
        "peak_memory_mb": 500.0,
        "images_per_second": 100.0,
        "cache_seconds": 2.0,
    }
    # A run that counts its questions counts those of the cache, too.
    write_lines(
        tmp_path / "timing.jsonl", [*rows, {"event": "teacher", "answers": 160}, {"event": "teacher", "answers": 7}]
    )
    with (tmp_path / "timing.jsonl").open("a") as log:
        log.write('{"event": "teacher", "answ')
    assert cost_of(tmp_path)["teacher_answers"] == 167
    assert cost_of(tmp_path / "nowhere") == {}


def test_costs_of_runs_trials_caches_and_teachers_stand_in_one_table(made: Made, tmp_path: Path) -> None:
    teachers = [{"name": "big", "set": {"student": {"name": "mlp"}}}]
    folder, plan = made.study(tmp_path / "s", teachers=teachers)
    for number in (10, 2):
        path = folder.trial("all", "kl", number)
        path.mkdir(parents=True)
        write_lines(path / "timing.jsonl", [{"event": "progress", "step": 1, "seconds": 1.0}])
    folder.teacher("big").mkdir(parents=True)
    write_lines(folder.teacher("big") / "timing.jsonl", [{"event": "progress", "step": 1, "seconds": 7.0}])
    folder.caches.write_text(json.dumps({"schema": 1, "pairs": {"all": {"answers": 460, "seconds": 1.25}}}))
    write_results(folder, plan)
    rows = list(csv.DictReader(io.StringIO(folder.cost.read_text())))
    assert [row["kind"] for row in rows] == ["run"] * 6 + ["trial"] * 2 + ["cache", "teacher"]
    assert [(row["method"], row["trial"]) for row in rows[6:8]] == [("kl", "2"), ("kl", "10")]
    assert (rows[8]["pair"], rows[8]["teacher_answers"], rows[8]["cache_seconds"]) == ("all", "460", "1.25")
    assert float(rows[9]["training_seconds"]) == 7.0
    assert all(int(row["teacher_answers"]) >= 0 and float(row["training_seconds"]) > 0 for row in rows[:6])
