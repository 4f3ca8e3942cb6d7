"""What a study comes to: the numbers, the same bytes for the same runs, and sentences that claim no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from stillroom.schema.base import parse
from stillroom.schema.study import StudyResults
from stillroom.study.collect import CollectedRuns, FinishedRun, UnfinishedRun, collect
from stillroom.study.equality import Inequality
from stillroom.study.plan import StudyFolder, StudyPlan, plan_of
from stillroom.study.results import results_of, write_results
from stillroom.study.statistics import PLANNING_CAUTION
from study.finished import KL, SAME_TABLES, Made, edit, lines_of, made, study_of, write_lines

__all__ = ["made"]

Numbers = Mapping[str, Mapping[int, float]]


@pytest.fixture(scope="module")
def a_run(made: Made, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder, plan = made.study(tmp_path_factory.mktemp("results") / "s", seeds=[0])
    return collect(folder, plan).runs[0]


def pretend(
    a_run: FinishedRun, numbers: Numbers, measure: str = "top1", unequal: tuple[Inequality, ...] = (), **changes: Any
) -> dict[str, Any]:
    """The results of runs that came to these numbers; runs without one are missing."""
    changes = {"seeds": [0, 1, 2, 3], "measure": measure, **changes}
    plan = plan_of(study_of(**changes), StudyFolder(Path()))
    runs, missing = [], []
    for cell in plan.runs:
        value = numbers[cell.method].get(cell.seed)
        if value is None:
            missing.append(UnfinishedRun(cell, "failed: it broke", "failed"))
        else:
            runs.append(replace(a_run, planned=cell, summary=a_run.summary.model_copy(update={measure: value})))
    return results_of(StudyFolder(Path()), plan, CollectedRuns(tuple(runs), tuple(missing)), unequal)


FOUND: Numbers = {
    "labels": {0: 33.6, 1: 34.1, 2: 33.0, 3: 33.9},
    "kl": {0: 40.2, 1: 39.1, 2: 39.4, 3: 40.0},
    "mse": {0: 34.0, 1: 33.9, 2: 33.8, 3: 34.2},
}


def test_results_hold_what_the_contract_says(made: Made, tmp_path: Path) -> None:
    pairs = [{"name": "p", "note": "first"}, {"name": "q", "set": {"data.batch_size": 50}}]
    folder, plan = made.study(tmp_path / "s", model_pairs=pairs)
    results = write_results(folder, plan)
    assert results == json.loads(folder.results.read_text())
    assert (results["schema"], results["name"], results["baseline"]) == (1, "tiny_study", "labels")
    assert (results["seeds"], results["budget"], results["alpha"], results["level"]) == (
        [0, 1],
        {"epochs": 2},
        0.05,
        0.95,
    )
    assert results["measure"] == {
        "name": "top1", "title": "top-1", "unit": "%", "digits": 2, "higher_is_better": True,
    }  # fmt: skip
    first = results["model_pairs"][0]
    assert (first["name"], first["note"], first["student"], first["teacher"]) == ("p", "first", "mlp", "mlp")
    assert (first["data"], first["classes"], first["train"], first["test"]) == ("digits", 10, 100, 60)
    assert (first["steps"], first["epochs"], first["precision"], first["threads"]) == (6, 2.0, "float32", 1)
    assert (results["equal"], results["inequalities"], results["missing"]) == (True, [], [])
    assert [(run["pair"], run["method"], run["seed"]) for run in results["runs"]] == [
        (cell.pair, cell.method, cell.seed) for cell in plan.runs
    ]
    for run in results["runs"]:
        summary = json.loads((folder.path / run["run"] / "summary.json").read_text())
        assert {key: run[key] for key in ("top1", "nll", "agreement", "steps", "bytes", "hashes")} == {
            key: summary[key] for key in ("top1", "nll", "agreement", "steps", "bytes", "hashes")
        }
    assert [(cell["pair"], cell["method"], cell["count"]) for cell in results["cells"]] == [
        (pair, name, 2) for pair in ("p", "q") for name in ("labels", "kl", "mse")
    ]
    assert [len(family[kind]["comparisons"]) for family in results["families"] for kind in ("baseline", "all")] == [
        2, 3, 2, 3,
    ]  # fmt: skip
    assert results["ranks"]["pairs"] == ["p", "q"]
    assert "text" in results["ranks"]
    assert {path.name for path in folder.path.iterdir()} >= {*SAME_TABLES, "cost.csv"}


def test_the_schema_describes_every_field_of_the_results(made: Made, a_run: FinishedRun, tmp_path: Path) -> None:
    whole = write_results(*made.study(tmp_path / "s"))
    gaps = json.loads(json.dumps(pretend(a_run, FOUND)))
    for results in (whole, gaps):
        assert json.dumps(parse(StudyResults, results, "results.json").as_dict()) == json.dumps(results)


def test_numbers_are_those_of_the_statistics(a_run: FinishedRun) -> None:
    results = pretend(a_run, FOUND)
    cell = results["cells"][1]
    assert cell["mean"] == pytest.approx(39.675)
    low, high = stats.t.interval(0.95, 3, loc=39.675, scale=stats.sem([40.2, 39.1, 39.4, 40.0]))
    assert (cell["low"], cell["high"]) == pytest.approx((low, high))
    assert (cell["why"], cell["seeds"]) == (None, {"0": 40.2, "1": 39.1, "2": 39.4, "3": 40.0})
    one, other = results["families"][0]["baseline"]["comparisons"]
    p = stats.ttest_rel(list(FOUND["kl"].values()), list(FOUND["labels"].values())).pvalue
    assert one["holm_p"] == pytest.approx(2 * p)
    assert (one["verdict"], one["better"], other["verdict"], other["better"]) == ("higher", True, "undecided", None)
    assert one["text"].startswith("kl − labels: +6.03 [")


def test_the_same_runs_give_the_same_bytes_wherever_they_lie_and_whoever_was_first(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    write_results(folder, plan, {"run/all/kl/0": "failed before, finished since"})
    other = StudyFolder(tmp_path / "elsewhere" / "t")
    # Finished in another order, at other speeds, with the study's folder another.
    for cell in reversed(plan.runs):
        shutil.copytree(folder.run(cell.pair, cell.method, cell.seed), other.run(cell.pair, cell.method, cell.seed))
    for path in other.path.rglob("timing.jsonl"):
        write_lines(path, [{**line, "seconds": 99.0} for line in lines_of(path)])
    write_results(other, plan_of(plan.study, other))
    for name in SAME_TABLES:
        assert (folder.path / name).read_bytes() == (other.path / name).read_bytes()
        assert str(tmp_path) not in (folder.path / name).read_text()
    assert folder.cost.read_bytes() != other.cost.read_bytes()


def test_written_again_nothing_changes_and_nothing_is_left_behind(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    write_results(folder, plan)
    before = {path: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}
    write_results(folder, plan)
    assert {path: path.read_bytes() for path in folder.path.iterdir() if path.is_file()} == before


def test_an_unequal_study_is_reported_first_and_claims_nothing_of_who_is_concerned(made: Made, tmp_path: Path) -> None:
    folder, plan = made.planted(tmp_path / "s", {"training.epochs": 4})
    results = write_results(folder, plan)
    assert results["equal"] is False
    assert results["inequalities"][0]["text"] == "budget: kl has 12 steps, labels and mse 6 (seeds 0, 1)"
    assert len(results["runs"]) == 6
    assert [cell["equal"] for cell in results["cells"]] == [True, False, True]
    first, kl, mse = results["conclusions"][:3]
    assert first.startswith("This table is not to be believed as it stands: its runs are not equal in budget (kl)")
    assert kl == "kl and labels are not compared on equal terms (budget): no claim."
    assert "not compared on equal terms" not in mse


def test_what_is_missing_is_reported_and_the_rest_is_paired(a_run: FinishedRun) -> None:
    gaps = {**FOUND, "kl": {0: 40.2, 2: 39.4, 3: 40.0}}
    results = pretend(a_run, gaps)
    assert results["missing"] == [
        {"pair": "all", "method": "kl", "seed": 1, "reason": "failed: it broke", "status": "failed"}
    ]
    assert results["conclusions"][0] == (
        "This table is not complete: 1 of 12 runs is missing (kl, seed 1: failed: it broke)."
    )
    one = results["families"][0]["baseline"]["comparisons"][0]
    assert (one["seeds"], one["lacking"]) == ((0, 2, 3), (1,))
    assert "(kl lacks seed 1)" in results["conclusions"][1]
    assert (results["ranks"]["pairs"], results["ranks"]["left_out"]) == ((), ("all",))


def test_before_any_run_there_is_a_table_without_numbers(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    results = write_results(folder, plan_of(study_of(), folder))
    assert {cell["text"] for cell in results["cells"]} == {"–"}
    assert results["conclusions"][0].startswith("This table is not complete: 6 of 6 runs are missing")
    assert "no seed in common" in results["conclusions"][1]
    assert results["model_pairs"][0]["teacher"] == "mlp"


def test_sentences_follow_holms_verdict_and_say_null_results(a_run: FinishedRun) -> None:
    kl, mse, caution = pretend(a_run, FOUND)["conclusions"]
    assert kl.startswith("kl is better than labels: top-1 higher, +6.03 points [+4.89, +7.16], Holm p = 0.000904")
    assert mse.startswith("No difference is shown between mse and labels: top-1 +0.32 points [")
    assert "seeds in all" in mse
    assert caution == PLANNING_CAUTION


def test_a_loss_is_better_where_it_is_lower(a_run: FinishedRun) -> None:
    results = pretend(a_run, FOUND, "nll")
    assert results["conclusions"][0].startswith("kl is worse than labels: negative log-likelihood higher, +6.0250 nats")
    one = results["families"][0]["baseline"]["comparisons"][0]
    assert (one["verdict"], one["better"]) == ("higher", False)
    lower = {**FOUND, "kl": {seed: 1.0 + seed / 50 for seed in range(4)}}
    assert pretend(a_run, lower, "teacher_kl")["conclusions"][0].startswith("kl is better than labels: divergence")
    several = [{"name": "p"}, {"name": "q"}]
    assert pretend(a_run, lower, "ece", model_pairs=several)["ranks"]["names"][0] == "kl"


def test_one_seed_claims_nothing(a_run: FinishedRun) -> None:
    results = pretend(a_run, {name: {0: row[0]} for name, row in FOUND.items()}, seeds=[0])
    assert results["conclusions"] == [
        "One seed: no interval, so no claim; there kl is 6.60 points higher than labels in top-1.",
        "One seed: no interval, so no claim; there mse is 0.40 points higher than labels in top-1.",
    ]
    assert results["cells"][0]["why"] == "one seed: no interval"


def test_runs_that_are_copies_of_one_another_claim_nothing(a_run: FinishedRun) -> None:
    same = {
        "labels": dict.fromkeys(range(4), 33.0),
        "kl": dict.fromkeys(range(4), 40.0),
        "mse": dict.fromkeys(range(4), 33.0),
    }
    kl, mse = pretend(a_run, same)["conclusions"]
    assert (
        kl == "kl is 7.00 points higher than labels in top-1 in each of the 4 seeds: no spread, as if they were one, "
        "so no claim."
    )
    assert mse == "No difference is shown between mse and labels: top-1 is the same in every seed."


def test_a_measure_that_a_run_has_not_leaves_it_without_a_number(made: Made, tmp_path: Path) -> None:
    study = made.content(measure="agreement")
    study["methods"][0]["set"] = {"teacher": None}
    folder, plan = made.study(tmp_path / "s", **study)
    results = write_results(folder, plan)
    assert results["cells"][0]["why"] == "no run with agreement with the teacher"
    assert results["conclusions"][0] == "There is no agreement with the teacher in 2 of 6 finished runs (labels)."
    assert "kl and labels have no seed in common" in results["conclusions"][1]
    assert results["equal"] is True


def test_one_method_is_compared_with_nothing(a_run: FinishedRun) -> None:
    results = pretend(a_run, FOUND, methods=[{"name": "labels"}])
    assert results["conclusions"] == ["There is one method: nothing is compared."]


def test_a_comparison_of_the_concerned_alone_is_not_claimed(a_run: FinishedRun) -> None:
    unequal = (Inequality("threads", ("mse",), (("all", 0),), "threads: mse has 2, labels and kl 1"),)
    found = pretend(a_run, FOUND, unequal=unequal)["conclusions"]
    assert found[1].startswith("kl is better than labels")
    assert found[2] == "mse and labels are not compared on equal terms (threads): no claim."
    assert PLANNING_CAUTION not in found


def test_unequal_runs_have_numbers_and_no_verdict_in_either_family(a_run: FinishedRun) -> None:
    unequal = (Inequality("threads", ("kl",), (("all", 0),), "threads: kl has 2, labels and mse 1"),)
    (family,) = pretend(a_run, FOUND, unequal=unequal)["families"]
    for kind in ("baseline", "all"):
        for one in family[kind]["comparisons"]:
            concerned = "kl" in (one["method"], one["against"])
            assert one["equal"] is not concerned
            assert one["holm_p"] is not None
            if concerned:
                assert (one["verdict"], one["better"], one["plan"]) == ("undecided", None, None)
                assert one["text"].endswith("4 seeds: no claim: not equal")
                assert one["text"] in family[kind]["text"]


def test_pairs_with_unequal_runs_are_not_ranked_and_named(a_run: FinishedRun) -> None:
    pairs = [{"name": name} for name in "pqr"]
    unequal = (Inequality("threads", ("kl",), (("q", 0),), "threads: kl has 2, labels and mse 1"),)
    found = pretend(a_run, FOUND, unequal=unequal, model_pairs=pairs)
    assert (found["ranks"]["pairs"], found["ranks"]["left_out"]) == (("p", "r"), ("q",))
    assert found["ranks"]["text"].startswith("Average ranks over 2 pairs: kl 1.00")
    assert found["ranks"]["text"].endswith("; left out for runs that are not equal: q")
    assert f"{found['ranks']['text']}." in found["conclusions"]
    everywhere = (Inequality("threads", ("kl",), tuple((name, 0) for name in "pqr"), "threads: kl has 2"),)
    found = pretend(a_run, FOUND, unequal=everywhere, model_pairs=pairs)
    assert (found["ranks"]["pairs"], found["ranks"]["left_out"]) == ((), ("p", "q", "r"))
    assert "no test: no pair that all methods have and whose runs are all equal" in found["ranks"]["text"]
    assert not any("ranks" in line for line in found["conclusions"])


def test_ranks_over_pairs_are_reported(a_run: FinishedRun) -> None:
    pairs = [{"name": name} for name in "pqr"]
    assert any(
        line.startswith("Average ranks over 3 pairs: kl 1.00")
        for line in pretend(a_run, FOUND, model_pairs=pairs)["conclusions"]
    )


def differs(plan: StudyPlan, results: Mapping[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    return {
        one["name"]: [(found["key"], found["value"], found["baseline"]) for found in one["differs"]]
        for one in results["methods"]
    }


def test_what_a_method_is_stands_beside_what_the_baseline_is(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    study = study_of(
        model_pairs=[{"name": "p"}, {"name": "q"}],
        methods=[
            {"name": "labels"},
            {"name": "kl", "set": {"losses": KL}},
            {"name": "adam", "set": {"training.optimizer": {"name": "adamw", "lr": 0.01}}},
        ],
        tuning={"trials": 1, "space": {"training.optimizer.lr": [0.1, 0.2]}},
    )
    chosen = {("p", "kl"): {"training.optimizer.lr": 0.2}, ("q", "kl"): {"training.optimizer.lr": 0.3}}
    plan = plan_of(study, folder, {**chosen, ("q", "labels"): {"training.optimizer.lr": 0.3}})
    found = differs(plan, write_results(folder, plan))
    assert found["labels"] == []
    assert found["kl"] == [
        ("losses", "0.5 cross_entropy + 0.5 kl (temperature 4)", "cross_entropy"),
        ("training.optimizer.lr", "0.2 (on p)", "0.1 (on p)"),
    ]
    assert found["adam"] == [
        ("training.optimizer.name", "adamw", "sgd"),
        ("training.optimizer.lr", "0.01", "0.1 (on p); 0.3 (on q)"),
    ]


def test_losses_that_differ_in_an_option_are_reported_by_it_and_timed_lengths_are_not(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    study = study_of(
        budget={"seconds": 5},
        methods=[
            {"name": "kl-4", "set": {"losses": KL}},
            {"name": "kl-1", "set": {"losses": [KL[0], {**KL[1], "temperature": 1}]}},
            {"name": "own", "set": {"losses": KL, "training.steps": 3}},
        ],
    )
    plan = plan_of(study, folder, steps={("all", "kl-4"): 20, ("all", "kl-1"): 30})
    folder.calibration.write_text(
        json.dumps({"schema": 1, "seconds": 5.0, "pairs": {"all": {"kl-4": {"steps": 20, "seconds_per_step": 0.25}}}})
    )
    results = write_results(folder, plan)
    assert differs(plan, results) == {
        "kl-4": [],
        "kl-1": [("losses.kl.temperature", "1", "4")],
        "own": [("training.steps", "3", "20")],
    }
    assert results["calibration"] == {"seconds": 5.0, "pairs": {"all": {"kl-4": {"steps": 20}}}}


def test_trials_are_given_on(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    tuned = {"all": {"kl": {"trials": 1, "values": {}, "value": None, "measure": "top1", "all": []}}}
    folder.tuned.write_text(json.dumps({"schema": 1, "pairs": tuned}))
    assert write_results(folder, plan)["tuned"] == tuned


def test_results_of_tampered_runs_name_the_reporting(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s")
    run = folder.run("all", "labels", 0)
    first = next(line for line in lines_of(run / "metrics.jsonl") if line["split"] == "test")
    edit(run / "summary.json", lambda found: found.update({key: first[key] for key in ("nll", "ece", "top1", "top5")}))
    results = write_results(folder, plan)
    assert "best-on-test reporting: labels reports the figures after step 3" in results["inequalities"][0]["text"]
    # The baseline is in every comparison.
    assert all("no claim" in line for line in results["conclusions"][1:3])


def test_class_relations_are_compared_like_any_measure(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s", measure="relation_teacher")
    results = write_results(folder, plan)
    for cell in results["cells"]:
        runs = [folder.run("all", cell["method"], seed) / "summary.json" for seed in (0, 1)]
        shown = [json.loads(path.read_text())["relations"]["teacher"] for path in runs]
        assert cell["mean"] == pytest.approx(sum(shown) / 2)
    one = results["families"][0]["baseline"]["comparisons"][0]
    assert one["difference"]["count"] == 2
    assert (
        results["runs"][0]["relation_teacher"]
        == json.loads((folder.run("all", "labels", 0) / "summary.json").read_text())["relations"]["teacher"]
    )
    assert ",relation_teacher," in folder.table("runs.csv").read_text().splitlines()[0]
    assert not any("There is no" in sentence for sentence in results["conclusions"])


def test_a_measure_that_no_run_has_is_said_and_compares_nothing(made: Made, tmp_path: Path) -> None:
    folder, plan = made.study(tmp_path / "s", measure="relation_truth")
    # One of them does not even end in a linear layer.
    edit(folder.run("all", "kl", 0) / "summary.json", lambda summary: summary.update(relations=None))
    results = write_results(folder, plan)
    title = "There is no agreement with the true class relations in"
    assert results["conclusions"] == [
        f"{title} 5 of 6 finished runs (labels, kl and mse): the true relations of these data are not known.",
        f"{title} 1 of 6 finished runs (kl): the student does not end in a linear layer, or has too many classes.",
    ]
    assert {cell["mean"] for cell in results["cells"]} == {None}
    assert "the true relations of these data are not known" in results["cells"][0]["why"]
    assert "relation_truth" not in folder.table("runs.csv").read_text()
