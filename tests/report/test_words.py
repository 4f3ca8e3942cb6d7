"""The verdict says what the numbers say, in each case, and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillroom.report.run.charts import Member
from stillroom.report.run.data import RunData, read_run
from stillroom.report.run.page import compare, notices
from stillroom.report.run.words import (
    against,
    caveat,
    differences,
    headline,
    labels_run,
    missing_labels,
    reasons,
    run_names,
)
from stillroom.schema.run import RunHashes


@pytest.fixture(scope="module")
def run(runs: dict[str, Path]) -> RunData:
    """A run without predictions, so that its numbers can be chosen."""
    found = read_run(runs["taught"])
    return with_top1(replace(found, predictions=None), 84.3, 87.7)


def changed(run: RunData, **changes: Any) -> RunData:
    """The same run with other fields in its summary."""
    return replace(run, summary=run.summary.model_copy(update=changes))


def with_top1(run: RunData, student: float, teacher: float | None = None, count: int = 10_000) -> RunData:
    """The same run with other accuracies."""

    def measured(top1: float) -> dict[str, Any]:
        return {"top1": top1, "correct": round(top1 * count / 100), "count": count}

    found = run.summary.teacher
    if found is not None and teacher is not None:
        found = found.model_copy(update=measured(teacher))
    return changed(run, **measured(student), teachers={} if found is None else {"teacher": found})


def alone(run: RunData) -> RunData:
    """The same student from labels alone."""
    labels = changed(run, name="labels", teachers={}, distilled=False)
    return replace(labels, path=run.path.parent / "labels", latency={"student": run.latency["student"]})


def test_a_student_below_its_teacher(run: RunData) -> None:
    assert headline(run) == (
        "The student keeps 96.1% of the top-1 of its teacher (84.3% against 87.7%: 3.4 points lost), with 11× fewer "
        "parameters, 10× fewer multiply-adds and 4.2× lower latency at batch 1."
    )


def test_a_student_above_its_teacher(run: RunData) -> None:
    text = headline(with_top1(run, 89.9, 87.7))
    assert text.startswith("The student beats its teacher on top-1 (89.9% against 87.7%: 2.2 points gained), with 11×")


@pytest.mark.parametrize(("student", "side"), [(87.9, "0.2 points above"), (87.5, "0.2 points below")])
def test_a_difference_that_the_test_images_cannot_tell(run: RunData, student: float, side: str) -> None:
    text = headline(with_top1(run, student, 87.7))
    assert f"not significantly {side.split()[-1]} that of its teacher" in text
    assert f"{side.rsplit(' ', 1)[0]} on 10,000 test $images" in text


def test_equal_accuracies(run: RunData) -> None:
    assert headline(with_top1(run, 87.7, 87.7)).startswith("The student matches the top-1 of its teacher (87.7%)")


def test_one_image_of_difference_is_not_called_zero_points(run: RunData) -> None:
    assert "0.01 points on" in headline(with_top1(run, 87.69, 87.70))


def test_a_teacher_that_is_always_wrong_divides_nothing_by_zero(run: RunData) -> None:
    assert headline(with_top1(run, 10.0, 0.0)).startswith("The student beats its teacher")


def test_a_student_that_costs_more_is_stated(run: RunData) -> None:
    dear = changed(run, parameters=2 * 853_018)
    text = headline(replace(dear, latency=run.latency | {"student": {1: 10.14}}))
    assert "2.0× more parameters" in text
    assert "2.0× higher latency at batch 1" in text


def test_costs_that_were_not_measured_are_left_out(run: RunData) -> None:
    assert run.teacher is not None
    bare = changed(run, parameters=0, multiply_adds=0)
    assert headline(replace(bare, latency={})).endswith("3.4 points lost).")


def test_without_a_teacher(run: RunData) -> None:
    assert headline(alone(run)) == (
        "The student reaches 84.3% top-1 (8,430 of 10,000 test $images) with 78.0 k parameters and 12.5 M "
        "multiply-adds $an_image; it had no teacher to compare with."
    )


def test_of_several_teachers_the_most_accurate_is_compared_with(run: RunData) -> None:
    assert run.summary.teacher is not None
    one = run.summary.teacher.model_copy(update={"top1": 98.2, "agreement": 91.0})
    several = changed(run, agreement=None, teachers={"deep": one.model_copy(update={"top1": 93.8}), "wide": one})
    assert "of its best teacher “wide” (84.3% against 98.2%" in headline(several)
    table = compare([Member("run", "student", several)])
    titles = [column.title for column in table.columns]
    assert titles == ["Teacher deep", "Teacher wide", "Student", "Student against wide"]
    rows = {row.metric: [cell.text for cell in row.cells] for row in table.rows}
    assert rows["Top-1"] == ["93.80%", "98.20%", "84.30%", "−13.90 points"]
    assert rows["Agreement"] == ["91.00%", "91.00%", "–", "–"]


def test_the_headline_credits_distilling_with_what_it_brought_over_labels(run: RunData) -> None:
    assert headline(run, with_top1(alone(run), 82.2)) == (
        "Distilling gained 2.1 points of top-1: 84.3% against 82.2% of the same student from labels alone. The teacher "
        "has 87.7%; the student has 11× fewer parameters, 10× fewer multiply-adds and 4.2× lower latency at batch 1."
    )
    assert headline(run, with_top1(alone(run), 86.3)).startswith("Distilling cost 2.0 points of top-1: 84.3%")
    assert headline(run, with_top1(alone(run), 84.5)).startswith(
        "Distilling made no difference to top-1 that 10,000 test $images can show: 84.3% against 84.5%"
    )
    assert headline(run, with_top1(alone(run), 84.3)).startswith("Distilling changed nothing in top-1")


def test_the_run_from_labels_is_of_the_same_student_on_the_same_data(run: RunData) -> None:
    labels = alone(run)
    seed = changed(labels, hashes=run.summary.hashes.model_copy(update={"init": "1"}))
    other_data = changed(labels, data=run.summary.data.model_copy(update={"fingerprint": "0"}))
    assert labels_run(run, [run, other_data, changed(labels, parameters=1)]) is None
    assert labels_run(run, [seed, labels]) is labels
    assert labels_run(labels, [run]) is None
    assert "from labels alone" in missing_labels(run, None)
    assert missing_labels(run, labels) == missing_labels(labels, None) == ""
    in_python = replace(run, recipe={**run.recipe, "data": {"source": "python"}})
    assert "`run.report(labels)`" in missing_labels(in_python, None)


def test_what_got_worse_is_marked_against_the_teacher_and_against_labels(run: RunData) -> None:
    assert run.teacher is not None
    labels = changed(alone(run), nll=2 * run.student.nll, ece=run.student.ece / 2)
    table = compare([Member("run", "student", run), Member("labels", "other-1", labels)], labels)
    titles = [column.title for column in table.columns]
    assert titles == ["Teacher", "Student", "Student against teacher", "labels", "Student against labels"]
    rows = {row.metric: row.cells[-1] for row in table.rows}
    assert (rows["NLL"].text, rows["NLL"].kind) == ("2.0× lower", "")
    assert (rows["ECE"].text, rows["ECE"].kind) == ("2.0× higher: worse", "lost")
    # Latencies of one model differ by the machine alone.
    assert rows["Latency, batch 1"].text == "–"


def test_above_the_same_student_from_labels_alone(run: RunData) -> None:
    assert against(run, "labels", with_top1(alone(run), 82.2)) == (
        "2.1 points above the same student trained on labels alone (“labels”), 82.2% (one seed each: no interval)."
    )


def test_a_teacher_that_was_only_compared_with_did_not_teach(run: RunData) -> None:
    labels = changed(with_top1(run, 86.3), distilled=False)
    text = against(run, "labels", labels)
    assert text.startswith("Worse than the same student trained on labels alone (“labels”): 2.0 points below its 86.3%")
    assert text.endswith("distillation reduced accuracy.")


def test_below_the_same_student_from_labels_alone_is_said_plainly(run: RunData) -> None:
    text = against(run, "labels", with_top1(alone(run), 86.3))
    assert text.startswith("Worse than the same student trained on labels alone (“labels”): 2.0 points below its 86.3%")
    assert "one seed each: no interval" in text
    assert text.endswith("distillation reduced accuracy.")


def test_a_small_difference_between_runs_is_not_called_worse(run: RunData) -> None:
    text = against(run, "labels", with_top1(alone(run), 84.5))
    assert text.startswith("Below the same student")
    assert "not significant with this many test $images" in text


def test_a_labels_run_beside_a_taught_one(run: RunData) -> None:
    text = against(with_top1(alone(run), 82.2), "taught", run)
    assert text.startswith("Worse than the same student with a teacher (“taught”): 2.1 points below its 84.3%")


def test_another_seed_of_the_same_recipe_is_a_spread_and_not_a_rival(run: RunData) -> None:
    hashes = run.summary.hashes.model_copy(update={"init": "1", "order": "2"})
    other = with_top1(replace(changed(run, seed=1, hashes=hashes), recipe={**run.recipe, "seed": 1}), 84.9)
    assert against(run, "seed 1", other) == (
        "The same recipe with seed 1 reaches 84.9%, 0.6 points more: a first estimate of the spread between seeds, no "
        "interval."
    )
    (notice,) = notices(run, [("seed 1", other)])
    assert notice.by_design
    assert notice.differ == "initial weights, order of $images"


def test_the_caveat_always_speaks_of_the_seed(run: RunData) -> None:
    assert "one seed" in caveat(run, with_others=False)
    assert "one seed" in caveat(run, with_others=True)


def test_what_makes_a_comparison_unequal_is_named(run: RunData) -> None:
    other = changed(
        run,
        data=run.summary.data.model_copy(update={"fingerprint": "other"}),
        hashes=RunHashes(init="1", order="2", views="3", budget="4", threads="2"),
        precision="float32",
        steps=1200,
        seed=3,
    )
    assert differences(run, run) == []
    text = ", ".join(differences(run, other))
    for word in (
        "data",
        "budget",
        "initial weights",
        "order of $images",
        "augmentation views",
        "CPU threads",
        "precision",
    ):
        assert word in text
    assert any("1,200" in reason for reason in reasons(run, other))
    (notice,) = notices(run, [("other", other)])
    assert not notice.by_design
    assert against(run, "other", other).count("not an equal comparison") == 1


def test_runs_of_one_name_differ(run: RunData) -> None:
    again = replace(changed(run, seed=1), path=Path("a"))
    assert run_names([run, again]) == ["resnet8 ← resnet56, seed 0", "resnet8 ← resnet56, seed 1"]
    folders = [replace(changed(run, name="kd"), path=Path(path)) for path in ("a/kd", "b/kd", "b/kd-2")]
    assert run_names(folders[1:]) == ["kd, folder kd", "kd, folder kd-2"]
    assert run_names(folders) == ["kd, folder a/kd", "kd, folder b/kd", "kd, folder b/kd-2"]
    assert len(set(run_names([run, again, replace(again, path=Path("c"))]))) == 3


def test_the_table_has_a_dash_where_nothing_was_measured(run: RunData) -> None:
    table = compare([Member("run", "student", replace(run, latency={})), Member("labels", "other-1", alone(run))])
    rows = {row.metric: [cell.text for cell in row.cells] for row in table.rows}
    assert rows["Latency, batch 1"] == ["–", "–", "–", "1.21 ms"]
    assert rows["Top-1"][2] == "−3.40 points"
    assert rows["Parameters"][2] == "11× fewer"
    assert rows["Agreement"][0] == "–"
