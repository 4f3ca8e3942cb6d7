"""Checks of a run: none fires on a correct one, each finds its own fault, damage is one line of error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from diagnose.run_faults import ALONE, FAULTS, following
from diagnose.run_folders import KL, LABELS, FakeRun, falling, guesses, spike, write_run
from stillroom.diagnose.checks.run.predictions import best_temperature
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.diagnose.run import CHECKS, diagnose_run
from stillroom.errors import BadInput
from stillroom.recipe import load_recipe
from stillroom.schema.diagnosis import Finding
from stillroom.train.folder import RunFolder

# The same student from labels alone, at 93%; verdicts that need it to judge a distilled run.
LABELS_ALONE = FakeRun(losses=ALONE, loss_curves={"cross_entropy": falling(2.4, 0.25)}, student=guesses(0.93, seed=9))
NEED_LABELS = ("under_training", "over_fitting", "worse_classes", "teacher_errors_copied")
Faulty = Callable[[str], tuple[Path, dict[str, Finding]]]


def judged(path: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose_run(path)}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """The folder of a run with a fault and what is found in it; tests read them."""

    @cache
    def made(fault: str) -> tuple[Path, dict[str, Finding]]:
        folder = tmp_path_factory.mktemp("faulty")
        run = write_run(folder / "run", FAULTS[fault][0])
        if FAULTS[fault][1] in NEED_LABELS:
            write_run(folder / "labels", replace(LABELS_ALONE, epochs=FAULTS[fault][0].epochs))
        return run, judged(run)

    return made


def problems(found: dict[str, Finding]) -> list[str]:
    return [check for check, finding in found.items() if finding.verdict == "problem"]


def test_no_check_fires_on_a_correct_run(tmp_path: Path) -> None:
    found = judged(write_run(tmp_path / "run", FakeRun(rescaling=(0.01, 0.0))))
    assert {check: one.summary for check, one in found.items() if one.verdict != "ok"} == {}
    assert len(found) == len(CHECKS)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_own_check(faulty: Faulty, fault: str) -> None:
    _, check, key, value = FAULTS[fault]
    _, found = faulty(fault)
    assert check in problems(found), found[check].summary
    finding = found[check]
    assert finding.summary.endswith(".")
    assert finding.threshold.startswith(("Problem:", "Strong:"))
    assert finding.source
    assert finding.remedy is not None
    json.dumps(finding.evidence, allow_nan=False)
    if key is None:
        assert finding.remedy.overrides == {}
    else:
        assert finding.remedy.overrides[key] == value


def test_following_a_good_teacher_into_its_few_errors_is_no_problem(tmp_path: Path) -> None:
    teacher = guesses(0.92, seed=2, after=5)
    found = judged(write_run(tmp_path / "run", FakeRun(teacher=teacher, student=following(teacher, 0.95))))
    assert found["teacher_errors_copied"].evidence["share"] > 0.9
    assert found["teacher_errors_copied"].verdict in ("warning", "ok")
    poor = guesses(0.8, seed=2, after=5)
    found = judged(write_run(tmp_path / "poor", FakeRun(teacher=poor, student=following(poor, 0.95), confidence=0.8)))
    assert found["teacher_errors_copied"].verdict == "problem"


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_remedy_says_is_a_recipe(faulty: Faulty, fault: str) -> None:
    run, found = faulty(fault)
    for finding in found.values():
        if finding.remedy is not None and finding.needs_attention:
            load_recipe(run / "recipe.yaml", finding.remedy.arguments())


@pytest.mark.parametrize(
    ("fault", "others"),
    [
        # What follows from a student that learned nothing is no problem of its own.
        ("blew up", []),
        ("never left chance", []),
        ("held at chance by weight decay", []),
        ("at chance with a rate of three", []),
        ("average longer than the run", []),
        ("short and decayed", []),
        ("heavy cutout, disguised", []),
        ("too short", []),
        ("overfitted", []),
        ("tiny teacher weight", []),
        ("too confident a teacher", []),
        ("one class lost", []),
        ("copies a poor teacher", ["teacher_errors_copied"]),
    ],
)
def test_no_other_check_reports_a_problem_for_it(faulty: Faulty, fault: str, others: list[str]) -> None:
    assert set(problems(faulty(fault)[1])) == {FAULTS[fault][1], *others}


def test_a_student_held_at_chance_is_not_called_diverged(faulty: Faulty) -> None:
    _, found = faulty("held at chance by weight decay")
    assert found["diverged"].verdict == "warning"
    assert "over_regularising" in found["diverged"].summary
    assert found["diverged"].remedy is None


def test_a_student_that_is_level_needs_no_more_steps(tmp_path: Path) -> None:
    fake = replace(FAULTS["too short"][0], student=guesses(0.935, seed=3), confidence=0.93)
    assert judged(write_run(tmp_path / "run", fake))["under_training"].verdict == "ok"


def test_heavy_regularisation_that_costs_nothing_is_ok(tmp_path: Path) -> None:
    fake = replace(FakeRun(), training={"optimizer": {"lr": 0.1, "weight_decay": 0.5}}, student=guesses(0.935, seed=3))
    found = judged(write_run(tmp_path / "run", fake))["over_regularising"]
    assert found.verdict == "ok"
    assert "weight decay 0.5" in found.summary


def test_a_small_gap_makes_a_short_run_a_warning(tmp_path: Path) -> None:
    fake = replace(FAULTS["too short"][0], student=guesses(0.92, seed=3), confidence=0.92)
    write_run(tmp_path / "labels", LABELS_ALONE)
    assert judged(write_run(tmp_path / "run", fake))["under_training"].verdict == "warning"


@pytest.mark.parametrize("fault", ["too short", "overfitted", "test loss rose", "one class lost"])
def test_without_labels_alone_beside_it_a_distilled_run_is_not_accused(tmp_path: Path, fault: str) -> None:
    """A student of few images is far below its teacher, overfitted and still learns, and gains from it all the same."""
    fake, check, *_ = FAULTS[fault]
    run = write_run(tmp_path / "run", fake)
    found = judged(run)
    assert found[check].verdict == "skipped"
    assert "stillroom train" in found[check].summary
    headline = Diagnosis.of(str(run), found.values(), kind="run").headline
    assert f"{check} cannot tell without a run from labels alone" in headline
    assert problems(found) == []
    # Beside the same student from labels, which is no better, it is not accused either.
    lost = fake.student if check == "worse_classes" else guesses(0.6, seed=9)
    level = replace(LABELS_ALONE, student=lost, epochs=fake.epochs)
    write_run(tmp_path / "run-labels", level)
    found = judged(run)
    assert found[check].verdict in ("ok", "warning"), found[check].summary
    assert problems(found) == []
    if check != "worse_classes":
        assert found[check].evidence["below_labels_alone"] < 0
    # Another student, or other images, are no baseline.
    summary = tmp_path / "run-labels" / "summary.json"
    summary.write_text(summary.read_text().replace("f1f1", "f2f2"))
    assert judged(run)[check].verdict == "skipped"


def test_several_runs_from_labels_tell_their_noise(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FAULTS["too short"][0])
    for seed, share in enumerate((0.93, 0.6, 0.78)):
        write_run(tmp_path / f"labels-{seed}", replace(LABELS_ALONE, student=guesses(share, seed=20 + seed)))
    found = judged(run)["under_training"]
    assert found.evidence["baselines"] == 3
    assert found.evidence["below_labels_margin"] > 50
    assert found.verdict == "warning"


def test_stopping_earlier_is_a_remedy_only_where_the_run_was_better_earlier(tmp_path: Path) -> None:
    labels = replace(LABELS_ALONE, student=guesses(0.8, seed=3), confidence=0.8, augmentation={"pad_crop": 4})
    labels = replace(labels, loss_curves={"cross_entropy": falling(2.4, 0.002)})
    found = judged(write_run(tmp_path / "run", labels))["over_fitting"]
    assert found.verdict == "problem"
    assert found.remedy is not None
    assert found.remedy.overrides == {}
    early = replace(labels, test={"top1": lambda part: 95.0 if 0.3 < part < 0.5 else 80.0})
    found = judged(write_run(tmp_path / "early", early))["over_fitting"]
    assert found.remedy is not None
    assert found.remedy.overrides == {"training.epochs": 10}


@pytest.mark.parametrize(("lacks", "verdict"), [({}, "warning"), ({"pad_crop": 0}, "problem")])
def test_few_images_learned_by_heart_are_no_fault_of_a_recipe_that_lacks_nothing(
    tmp_path: Path, lacks: dict[str, int], verdict: str
) -> None:
    alone = replace(LABELS_ALONE, teacher=None, student=guesses(0.8, seed=3), confidence=0.8)
    alone = replace(alone, loss_curves={"cross_entropy": falling(2.4, 0.002)}, augmentation={"pad_crop": 4} | lacks)
    found = judged(write_run(tmp_path / "run", alone))["over_fitting"]
    assert found.verdict == verdict
    assert found.remedy is not None
    assert bool(found.remedy.overrides) == bool(lacks)


def test_a_weight_that_is_scheduled_to_nothing_is_no_loss_that_blew_up(tmp_path: Path) -> None:
    fading = {"name": "kl", "weight": {"start": 0.9, "end": 0}, "temperature": 4.0}
    curves = {"cross_entropy": falling(2.4, 0.25), "kl": lambda part: 2.0 + 60 * part}
    found = judged(write_run(tmp_path / "run", FakeRun(losses=(KL[0], fading), loss_curves=curves)))
    assert found["diverged"].verdict == "ok", found["diverged"].summary


def test_a_spike_that_was_overcome_is_a_warning(tmp_path: Path) -> None:
    fake = FakeRun(loss_curves={"cross_entropy": spike(2.4, 9.0, 0.3), "kl": spike(12, 60, 0.6)})
    assert judged(write_run(tmp_path / "run", fake))["diverged"].verdict == "warning"


def test_classes_that_the_teacher_does_not_know_are_its_fault(tmp_path: Path) -> None:
    teacher = guesses(0.94, seed=2, after=5)
    rows = np.flatnonzero(LABELS == 4)
    teacher[rows[:150]] = 7
    student = guesses(0.92, seed=1)
    student[rows[:150]] = 7
    finding = judged(write_run(tmp_path / "run", FakeRun(teacher=teacher, student=student)))["worse_classes"]
    assert finding.verdict == "warning"
    assert finding.summary.startswith("The teacher's fault: its accuracy on class c4 is only 24%")


def test_labels_alone_are_not_asked_about_a_teacher(tmp_path: Path) -> None:
    fake = FakeRun(losses=ALONE, loss_curves={"cross_entropy": falling(2.4, 0.25)}, teacher=None)
    found = judged(write_run(tmp_path / "run", fake))
    taught = ("kd_ignored", "labels_drowned", "rescaling_gone", "student_at_teacher", "teacher_errors_copied")
    assert {found[check].verdict for check in taught} == {"skipped"}
    assert problems(found) == []


def test_how_much_of_a_loss_of_both_the_labels_are_is_not_invented(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FakeRun(losses=({"name": "dkd"},), loss_curves={"dkd": falling(12.0, 0.6)}))
    summary = json.loads((run / "summary.json").read_text())
    summary["losses"] = [{"name": "dkd", "reads_teacher": True, "reads_labels": True}]
    (run / "summary.json").write_text(json.dumps(summary))
    found = judged(run)["labels_drowned"]
    assert found.summary.startswith("dkd reads teacher and labels, so how much of the loss the labels are is not known")
    assert found.evidence["labels_share_of_loss"] is None


def test_a_run_that_did_not_end_says_so_and_is_judged_by_what_it_shows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FakeRun(done=0.5, finished=False))
    # What killed it cut the last line.
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 9999, "ep')
    found = judged(run)
    assert found["unfinished"].verdict == "warning"
    assert "300 of 600 steps" in found["unfinished"].summary
    assert found["diverged"].verdict == "ok"
    assert found["under_training"].verdict == "skipped"
    assert problems(found) == []


def test_a_run_that_no_process_continues_is_a_problem(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FakeRun(done=0.5, finished=False))
    with RunFolder(run):
        assert judged(run)["unfinished"].verdict == "warning"
    found = judged(run)
    assert found["unfinished"].verdict == "problem"
    assert problems(found) == ["unfinished"]


def test_a_run_that_was_only_begun_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FakeRun(done=0.0, finished=False))
    found = judged(run)
    assert found["unfinished"].verdict == "warning"
    assert "logged no step" in found["unfinished"].summary
    assert {one.verdict for check, one in found.items() if check != "unfinished"} == {"skipped"}


def _cut(name: str) -> Callable[[Path], object]:
    def damage(run: Path) -> object:
        content = (run / name).read_bytes()
        return (run / name).write_bytes(content[: len(content) * 2 // 3])

    return damage


def _written(name: str, text: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda run: (run / "recipe.yaml").unlink(), "a run folder, with recipe.yaml"),
        (_cut("summary.json"), "a JSON object"),
        (_cut("metrics.jsonl"), "a JSON object in line"),
        (_cut("predictions.safetensors"), "a whole safetensors file"),
        (_written("recipe.yaml", "student: ["), "readable recipe.yaml"),
        (_written("recipe.yaml", "student: {name: nosuch}\ntraining: {epohs: 3}"), "did you mean 'epochs'"),
        (_written("summary.json", "[]"), "a JSON object"),
        (_written("summary.json", '{"schema": 2}'), "expected 1"),
        (_written("metrics.jsonl", '{"split": "train"}\n'), "line 1: step"),
        (_written("gradient_rescaling.jsonl", "nonsense\n"), "a JSON object in line 1"),
        (lambda run: (run / "metrics.jsonl").unlink(), "the metrics of a finished run"),
    ],
)
def test_damage_is_one_line_of_error(tmp_path: Path, damage: Callable[[Path], object], text: str) -> None:
    run = write_run(tmp_path / "run", FakeRun())
    damage(run)
    with pytest.raises(BadInput) as error:
        diagnose_run(run)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="folder"):
        diagnose_run(tmp_path / place)


def test_temperature_scaling_finds_what_was_done_to_the_logits() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 5))
    shares = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=share) for share in shares])
    assert best_temperature(true * 3, labels) == pytest.approx(3, rel=0.06)
