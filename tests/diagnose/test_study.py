"""Checks of a study: none fires on a correct one, each finds its own fault, and runs are judged over their seeds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from diagnose.run_faults import ALONE, FAULTS
from diagnose.run_folders import FakeRun, falling, write_run
from report.studies import FakeStudy, edit_results, write_study
from stillroom.diagnose.study import diagnose_study
from stillroom.errors import BadInput
from stillroom.schema.diagnosis import Finding

LABELS = FakeRun(losses=ALONE, loss_curves={"cross_entropy": falling(2.4, 0.25)}, distilled=False)
CORRECT = FakeStudy(methods=("labels", "kl", "mse"), gap=2.0, noise=0.1, epochs=2)
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders, written once and copied into studies."""
    home = tmp_path_factory.mktemp("runs")
    faults = {name: FAULTS[name][0] for name in ("blew up", "too short", "underconfident")}
    return {
        name: write_run(home / name, fake) for name, fake in {"labels": LABELS, "well": FakeRun(), **faults}.items()
    }


@pytest.fixture
def make(tmp_path: Path, folders: dict[str, Path]) -> Make:
    def made(fake: FakeStudy = CORRECT, runs: dict[tuple[str, int], str] | None = None, **results: Any) -> Path:
        """A study's folder; its runs by fault, by method and seed."""
        study = write_study(tmp_path / "study", fake)
        edit_results(study, **results)
        for run in json.loads((study / "results.json").read_text())["runs"]:
            name = (runs or {}).get((run["method"], run["seed"]))
            usual = "labels" if run["method"] == "labels" else "well"
            shutil.copytree(folders[name or usual], study / run["run"], dirs_exist_ok=True)
        return study

    return made


def found(study: Path, check: str) -> list[Finding]:
    return [one for one in diagnose_study(study) if one.check == check]


def attention(findings: Sequence[Finding]) -> dict[str, str]:
    return {one.check: one.summary for one in findings if one.needs_attention}


def test_no_check_fires_on_a_correct_study(make: Make) -> None:
    findings = diagnose_study(make())
    assert attention(findings) == {}
    better = next(one for one in findings if one.check == "better_without")
    assert better.verdict == "ok"
    assert "kl and mse" in better.summary


def test_a_student_that_is_better_off_without_is_a_problem(make: Make) -> None:
    worse = FakeStudy(methods=("labels", "kl"), gap=-3.0, noise=0.1, epochs=2)
    (finding,) = found(make(worse), "better_without")
    assert finding.verdict == "problem"
    assert finding.summary.startswith("This student is better without distillation: kl: top-1 ")
    assert finding.evidence["difference"] == pytest.approx(-3, abs=0.6)
    assert finding.evidence["holm_p"] < 0.05
    assert finding.remedy is not None
    assert finding.remedy.overrides == {"losses": [{"name": "cross_entropy"}]}
    assert finding.plots[0].x == ("seed 0", "seed 1", "seed 2")
    assert max(finding.plots[0].y) < 0


def test_where_less_is_better_worse_is_more(make: Make) -> None:
    lossy = FakeStudy(methods=("labels", "kl"), measure="nll", level=1.4, gap=0.3, noise=0.01, epochs=2)
    (finding,) = found(make(lossy), "better_without")
    assert finding.verdict == "problem"


def test_the_baseline_need_not_be_the_one_from_labels(make: Make) -> None:
    turned = FakeStudy(methods=("kl", "labels"), gap=3.0, noise=0.1, epochs=2)
    (finding,) = found(make(turned), "better_without")
    assert finding.verdict == "problem"
    assert finding.evidence["difference"] == pytest.approx(-3, abs=0.6)


@pytest.mark.parametrize(("seeds", "text"), [((0, 1, 2), "would settle it"), ((0,), "is not known")])
def test_what_is_undecided_is_a_warning_and_says_how_many_seeds(make: Make, seeds: tuple[int, ...], text: str) -> None:
    level = FakeStudy(methods=("labels", "kl"), gap=-0.3, noise=1.0, epochs=2, seeds=seeds)
    (finding,) = found(make(level), "better_without")
    assert finding.verdict == "warning"
    assert "the mean is" in finding.summary
    assert text in finding.summary


def test_unequal_runs_are_a_problem_and_not_compared(make: Make) -> None:
    study = make(FakeStudy(methods=("labels", "kl"), unequal=True, epochs=2))
    (unequal,) = found(study, "unequal")
    assert unequal.verdict == "problem"
    assert "budget: kl has 5,616 steps" in unequal.summary
    assert unequal.remedy is not None
    assert "`allowed_differences`" in unequal.remedy.words
    (compared,) = found(study, "better_without")
    assert compared.verdict == "skipped"
    assert "equal terms" in compared.summary


def test_a_best_epoch_on_test_images_is_a_problem(make: Make) -> None:
    text = "reported epoch: kl tells of step 40 in place of the last, 60"
    one = {"what": "reported epoch", "pair": "cifar100", "seed": 0, "methods": ["kl"], "text": text}
    study = make(equal=False, inequalities=[one])
    (finding,) = found(study, "unequal")
    assert finding.remedy is not None
    assert "last epoch" in finding.remedy.words


@pytest.mark.parametrize(("reason", "verdict"), [("failed: not finite", "problem"), ("not run yet", "warning")])
def test_missing_runs_are_found(make: Make, reason: str, verdict: str) -> None:
    gap = FakeStudy(methods=("labels", "kl"), epochs=2, missing={("cifar100", "kl", 1): reason})
    (finding,) = found(make(gap), "failed_runs")
    assert finding.verdict == verdict
    assert f"1 of 6 runs is missing: kl, seed 1: {reason}." == finding.summary


@pytest.mark.parametrize(
    ("seeds", "gap", "verdict"),
    [((0,), 2.0, "problem"), ((0, 1), 2.0, "warning"), ((0, 1, 2), 2.0, "ok"), ((0, 1, 2, 3), 0.05, "warning")],
)
def test_seeds_are_counted(make: Make, seeds: tuple[int, ...], gap: float, verdict: str) -> None:
    noise = 0.1 if gap == 2.0 else 0.3
    fake = FakeStudy(methods=("labels", "kl"), seeds=seeds, gap=gap, noise=noise, epochs=2)
    assert [one.verdict for one in found(make(fake), "too_few_seeds")] == [verdict]


def _trials(**counts: int) -> dict[str, Any]:
    return {
        "cifar100": {
            name: {"trials": count, "values": {}, "value": 50.0, "measure": "top1"} for name, count in counts.items()
        }
    }


@pytest.mark.parametrize(
    ("tuned", "verdict", "text"),
    [
        (_trials(labels=4, kl=4, mse=4), "ok", "the same 4 trials"),
        (_trials(kl=4, mse=4), "problem", "labels had 0 trials, kl 4"),
        (_trials(labels=1, kl=4, mse=4), "problem", "labels had 1 trial, kl 4"),
        (None, "warning", "kl has its own training.optimizer.lr"),
    ],
)
def test_trials_are_counted(make: Make, tuned: dict[str, Any] | None, verdict: str, text: str) -> None:
    study = make(tuned=tuned)
    (study / "tuned.json").unlink()
    (finding,) = found(study, "baseline_not_tuned")
    assert finding.verdict == verdict
    assert text in finding.summary


@pytest.mark.parametrize(("seeds", "verdict"), [((0, 1, 2), "problem"), ((0, 1), "problem"), ((0,), "warning")])
def test_a_method_has_a_problem_where_most_runs_have_it(make: Make, seeds: tuple[int, ...], verdict: str) -> None:
    (finding,) = found(make(runs={("kl", seed): "blew up" for seed in seeds}), "diverged")
    assert finding.verdict == verdict
    assert finding.summary.startswith("kl: the student is no better than chance")
    assert f"{len(seeds)} of 3 seeds" in finding.summary
    assert finding.evidence["problem_seeds"] == list(seeds)
    assert finding.evidence["run"] == f"runs/cifar100/kl/seed-{seeds[0]}"
    assert finding.remedy is not None
    assert finding.remedy.overrides["training.optimizer.lr"] == 0.1


def test_methods_with_the_same_problem_share_a_finding(make: Make) -> None:
    runs = {(name, seed): "too short" for name in ("kl", "mse") for seed in range(3)}
    (finding,) = found(make(runs=runs), "under_training")
    assert finding.verdict == "problem"
    assert finding.summary.endswith("mse likewise.")
    assert set(finding.evidence["alike"]) == {"kl", "mse"}


def test_the_pair_is_named_where_there_are_several(make: Make) -> None:
    two = FakeStudy(methods=("labels", "kl"), pairs=("digits", "cifar10"), gap=2.0, noise=0.1, epochs=2)
    runs = {("kl", seed): "underconfident" for seed in range(3)}
    (finding,) = found(make(two, runs), "miscalibrated")
    assert finding.summary.startswith("kl on digits: ")


def test_runs_that_were_moved_away_are_left_out(make: Make) -> None:
    study = make()
    shutil.rmtree(study / "runs" / "cifar100" / "kl")
    findings = diagnose_study(study)
    assert attention(findings) == {}
    assert next(one for one in findings if one.check == "diverged").summary == "No problem in any of 2 methods."


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda study: (study / "results.json").unlink(), "a study with results"),
        (lambda study: (study / "results.json").write_text("{"), "a JSON object"),
        (lambda study: (study / "runs/cifar100/kl/seed-1/metrics.jsonl").write_text("{"), "a JSON object in line 1"),
    ],
)
def test_damage_is_one_line_of_error(make: Make, damage: Callable[[Path], object], text: str) -> None:
    study = make()
    damage(study)
    with pytest.raises(BadInput) as error:
        diagnose_study(study)
    assert text in str(error.value)
    assert "\n" not in str(error.value)
