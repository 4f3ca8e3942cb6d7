"""Reading the runs of a study: what is there, what is not, what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillroom.errors import BadInput
from stillroom.study.collect import collect
from study.finished import Made, edit, made

__all__ = ["made"]


def test_runs_come_in_the_order_of_the_plan_with_what_their_predictions_give(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    found = collect(folder, plan)
    assert [run.planned.id for run in found.runs] == [cell.id for cell in plan.runs]
    assert found.missing == ()
    for run in found.runs:
        summary, answers = run.summary, run.predictions
        assert (answers.correct, answers.count) == (summary.correct, summary.count)
        assert answers.figures["nll"] == pytest.approx(summary.nll, rel=1e-5)
        assert answers.figures["agreement"] == summary.agreement
        assert answers.figures["teacher_kl"] == pytest.approx(summary.teacher_kl, rel=1e-4)
        assert [one.step for one in run.evaluations] == [3, 6]


def test_what_is_not_finished_is_missing_with_the_reason(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    for method, seed in (("kl", 0), ("kl", 1), ("mse", 1)):
        (folder.run("all", method, seed) / "summary.json").unlink()
    (folder.run("all", "kl", 0) / "recipe.yaml").unlink()
    why = f"RunFailed: loss is not finite\n in {folder.path.resolve()}/runs/all/mse\x1b[0m"
    # A failure of an earlier try is no news of a run that is finished by now.
    found = collect(folder, plan, {"run/all/mse/1": why, "run/all/labels/0": "crashed"})
    assert [(gap.planned.id, gap.reason) for gap in found.missing] == [
        ("run/all/kl/0", "not run yet"),
        ("run/all/kl/1", "not finished yet"),
        ("run/all/mse/1", "failed: RunFailed: loss is not finite in runs/all/mse [0m"),
    ]
    assert len(found.runs) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", '{"schema": 1}'),
        ("recipe.yaml", "a: [1"),
        ("recipe.yaml", "student: {name: resnet8}\nsead: 3\n"),
        ("recipe.yaml", None),
        ("metrics.jsonl", '{"step": 1, "split": "test"'),
        ("metrics.jsonl", '{"step": "1", "split": "test"}'),
        ("metrics.jsonl", None),
        ("environment.json", "no"),
        ("environment.json", None),
        ("predictions.safetensors", "no"),
        ("predictions.safetensors", None),
    ],
)
def test_a_damaged_file_is_named(made: Made, tmp_path: Path, name: str, text: str | None) -> None:
    folder, plan = made.study(tmp_path / "s")
    path = folder.run("all", "kl", 1) / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(BadInput) as error:
        collect(folder, plan)
    # A long path is cut in its middle.
    assert str(path)[-60:] in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"), [("top1", "90"), ("top1", 101.0), ("top1", float("nan")), ("correct", None), ("schema", 2)]
)
def test_a_summary_that_holds_no_such_number_is_refused(made: Made, tmp_path: Path, key: str, value: object) -> None:
    folder, plan = made.study(tmp_path / "s")
    path = folder.run("all", "labels", 0) / "summary.json"
    edit(path, lambda found: found.update({key: value}))
    with pytest.raises(BadInput, match=rf"summary.json: {key}"):
        collect(folder, plan)


def test_clocks_are_not_read_for_the_results(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    before = collect(folder, plan)
    for path in folder.path.rglob("timing.jsonl"):
        path.write_text("half a line")
    assert collect(folder, plan) == before
    assert "processor" in json.loads((folder.run("all", "kl", 0) / "environment.json").read_text())
