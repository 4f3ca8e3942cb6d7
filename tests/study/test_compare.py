"""A study from its file to its tables: resumed, failing in part, refused; by the command line where that matters."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from processes import Fate, Process, stillroom, until
from stillroom.cli import run
from stillroom.errors import BadInput, RunFailed
from stillroom.study.compare import StudyOutcome, compare
from stillroom.study.config import parse_study
from stillroom.study.engine import jobs
from stillroom.study.engine.base import Outcome
from stillroom.study.engine.in_process import InProcessEngine
from stillroom.study.plan import StudyFolder
from stillroom.study.progress import StudyObserver, StudyProgress
from study.small import small, study_file, tables_of


class Heard(StudyObserver):
    """Remembers the warnings."""

    def __init__(self) -> None:
        self.alarms: list[str] = []

    def alarm(self, text: str) -> None:
        self.alarms.append(text)


def did(out: Path, observer: StudyObserver | None = None, **changes: Any) -> tuple[StudyOutcome, list[str]]:
    """Do the small study in this process; what it came to, and the jobs that were done for it."""
    engine = InProcessEngine()
    found = compare(parse_study(small(**changes)), out, lambda folder, threads: engine, observer)
    return found, engine.done


def costs(out: Path) -> list[dict[str, str]]:
    with (out / "cost.csv").open() as table:
        return list(csv.DictReader(table))


@pytest.fixture(autouse=True)
def short_calibrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen steps are timed, not seventy: no test goes by how long one takes."""
    for name, steps in (("_WARM_UP_STEPS", 2), ("_TIMED_STEPS", 10)):
        monkeypatch.setattr(jobs, name, steps)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, never stopped."""
    out = tmp_path_factory.mktemp("whole") / "s"
    found, _ = did(out)
    assert found.sound
    return out


def test_the_teacher_is_asked_once_for_the_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    did(tmp_path / "s")
    once = 2 * 96 + 40  # two views of each training image, and the test images
    assert json.loads((tmp_path / "s" / "caches.json").read_text())["pairs"]["all"]["answers"] == once
    asked = [int(row["teacher_answers"] or 0) for row in costs(tmp_path / "s") if row["kind"] != "cache"]
    assert sum(asked) == 0


def test_a_finished_study_is_not_done_again(whole: Path) -> None:
    before = tables_of(whole)
    found, jobs = did(whole)
    assert jobs == []
    assert found.sound
    assert tables_of(whole) == before


def test_every_run_has_the_same_start_and_the_same_order(whole: Path) -> None:
    runs = json.loads((whole / "results.json").read_text())["runs"]
    for seed in (0, 1):
        hashes = [one["hashes"] for one in runs if one["seed"] == seed]
        assert len(hashes) == 2
        assert hashes[0] == hashes[1]


def test_where_a_study_lies_is_not_in_its_tables(whole: Path) -> None:
    for name, content in tables_of(whole).items():
        assert str(whole).encode() not in content, name


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"training.epochs": 4}, "budget"),
        ({"seed": 9}, "seed"),
        ({"data.augmentation.flip": True}, "augmentation"),
        ({"training.threads": 2}, "threads"),
    ],
)
def test_an_unequal_study_says_what_differs(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    heard = Heard()
    methods = [{"name": "labels"}, {"name": "smooth", "set": {"losses": [{"name": "label_smoothing"}]}}]
    methods.append({"name": "other", "set": change})
    found, _ = did(tmp_path / "s", heard, methods=methods, seeds=[0])
    assert not found.sound
    shown = [one for one in found.results["inequalities"] if one["what"] == what]
    assert shown
    assert shown[0]["methods"] == ["other"]
    assert any(alarm.startswith(f"unequal as planned: {what}") for alarm in heard.alarms)


def test_the_teachers_last_layer_in_a_student_belongs_to_its_loss(tmp_path: Path) -> None:
    methods = [{"name": "labels"}, {"name": "simkd", "set": {"losses": [{"name": "simkd"}]}}]
    found, _ = did(tmp_path / "s", methods=methods, seeds=[0])
    assert found.sound, found.results["inequalities"]


def test_a_method_that_fails_harms_no_other_and_is_tried_again(tmp_path: Path) -> None:
    methods = [{"name": "labels"}, {"name": "wild", "set": {"training.optimizer.lr": 1e30}}]
    found, _ = did(tmp_path / "s", methods=methods)
    assert not found.sound
    assert [(gap["method"], gap["seed"]) for gap in found.results["missing"]] == [("wild", 0), ("wild", 1)]
    assert "not finite" in found.results["missing"][0]["reason"]
    assert [cell["count"] for cell in found.results["cells"]] == [2, 0]
    _, jobs = did(tmp_path / "s", methods=methods)
    assert [job for job in jobs if job.startswith("run/")] == ["run/all/wild/0", "run/all/wild/1"]


class Dying(InProcessEngine):
    """One whose process dies at some jobs, however often they are begun."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def wait(self, timeout: float) -> list[Outcome]:
        job = self._jobs[0]
        if job.id.startswith(self.at):
            self.done.append(self._jobs.pop(0).id)
            return [Outcome(job.id, "crashed", reason="killed by SIGKILL")]
        return super().wait(timeout)


@pytest.mark.parametrize("at", ["prepare/all/kl", "calibrate/all/kl", "trial/all/kl"])
def test_a_method_whose_process_dies_harms_no_other(tmp_path: Path, at: str) -> None:
    engine = Dying(at)
    tuning = {"trials": 1, "space": {"training.optimizer.lr": [0.02, 0.2]}}
    study = parse_study(small(seeds=[0], budget={"seconds": 0.02}, tuning=tuning))
    found = compare(study, tmp_path / "s", lambda folder, threads: engine)
    assert sum(job.startswith(at) for job in engine.done) == 3
    assert [one["method"] for one in found.results["runs"]] == ["labels"]
    (gap,) = found.results["missing"]
    assert gap["method"] == "kl"
    assert "killed by SIGKILL" in gap["reason"]
    # What died said nothing of its options, and the study goes on where it stopped.
    again = compare(study, tmp_path / "s", lambda folder, threads: InProcessEngine())
    assert again.sound, again.results["inequalities"]


@pytest.mark.parametrize("repeat", ["once", "per_seed"])
def test_trials_made_before_are_not_waited_for(tmp_path: Path, repeat: str) -> None:
    class Watching(StudyObserver):
        seen: list[set[str]]

        def refresh(self, progress: StudyProgress) -> None:
            self.seen.append({state.id for state in progress.of_kind("trial")})

    tuning = {"trials": 3, "repeat": repeat, "space": {"training.optimizer.lr": {"low": 0.01, "high": 0.3}}}
    study = parse_study(small(seeds=[0], tuning=tuning))
    seed = "" if repeat == "once" else "seed-0/"
    compare(study, tmp_path / "s", lambda folder, threads: Dying(f"trial/all/kl/{seed}2"))
    watching = Watching()
    watching.seen = []
    compare(study, tmp_path / "s", lambda folder, threads: InProcessEngine(), watching)
    # The teacher's answers come first, while no search is read yet.
    assert {f"trial/all/kl/{seed}2"} in watching.seen
    assert watching.seen[-1] == {f"trial/all/kl/{seed}2"}


def test_a_study_may_move_while_it_is_half_done(tmp_path: Path, whole: Path) -> None:
    compare(parse_study(small()), tmp_path / "a", lambda folder, threads: Dying("run/all/kl/1"))
    (tmp_path / "a").rename(tmp_path / "b")
    found, jobs = did(tmp_path / "b")
    assert found.sound
    assert [job for job in jobs if job.startswith("run/")] == ["run/all/kl/1"]
    assert tables_of(tmp_path / "b") == tables_of(whole)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tuned.json", '{"schema": 1, "pairs": {"all": {"kl": {}}}}'),
        ("calibration.json", '{"schema": 1, "seconds": 0.02, "pairs": {"all": {"kl": {}}}}'),
    ],
)
def test_a_damaged_file_of_the_study_is_reported_in_a_line(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "s").mkdir()
    changes: dict[str, Any] = {"seeds": [0]}
    if name == "tuned.json":
        changes["tuning"] = {"trials": 2, "space": {"training.optimizer.lr": [0.1, 0.2]}}
    else:
        changes["budget"] = {"seconds": 0.02}
    compare(parse_study(small(**changes)), tmp_path / "s", lambda folder, threads: Dying("run/"))
    (tmp_path / "s" / name).write_text(content)
    (tmp_path / "s" / "checksums.sha256").unlink()  # so that its form is looked at
    with pytest.raises(BadInput, match=rf"{name}: .*; remove it"):
        did(tmp_path / "s", **changes)


def test_a_password_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path / "s3cret.db"))
    tuning = {"trials": 1, "storage": "sqlite:///$PLACE", "space": {"training.optimizer.lr": [0.1, 0.2]}}
    did(tmp_path / "s", tuning=tuning, seeds=[0])
    assert (tmp_path / "s3cret.db").exists()
    for path in (tmp_path / "s").glob("*.*"):
        assert b"s3cret" not in path.read_bytes(), path
        assert b"PLACE" not in path.read_bytes(), path


def test_each_seed_is_tuned_anew_by_one_methods_pruned_trials(tmp_path: Path) -> None:
    tuning = {
        "trials": 3,
        "by": "kl",
        "repeat": "per_seed",
        "pruning": {"keep": 1, "length": 0.5},
        "space": {"training.optimizer.lr": {"low": 0.01, "high": 0.3}, "losses.kl.temperature": [1.0, 2.0, 8.0]},
    }
    out = tmp_path / "s"
    found, jobs = did(out, tuning=tuning)
    assert found.sound
    trials = [job for job in jobs if job.startswith("trial")]
    assert trials == [f"trial/all/kl/seed-{seed}/{number}" for seed in (0, 1) for number in range(4)]
    # A seed is whole, trials and runs, before the next one begins.
    whole = [job for job in jobs if job.startswith(("trial", "run"))]
    seeds = [job.split("/")[3].removeprefix("seed-") for job in whole]
    assert seeds == ["0"] * 6 + ["1"] * 6
    tuned = json.loads((out / "tuned.json").read_text())["pairs"]["all"]
    assert list(tuned) == ["kl"]
    for seed in (0, 1):
        search = tuned["kl"]["seeds"][str(seed)]
        last = search["all"][-1]
        assert (search["trials"], search["values"]) == (3, last["values"])
        # The one that goes on begins with the weights of its own short trial, at the seed that it tunes.
        trials = out / "trials" / "all" / "kl" / f"seed-{seed}"
        longer = yaml.safe_load((trials / "trial-3" / "recipe.yaml").read_text())
        assert Path(longer["student"]["weights"]).parent.name == f"trial-{last['continues']}"
        assert (longer["seed"], longer["training"]["epochs"]) == (seed, 1)
        # What was chosen is what both methods ran with, as far as they have the option.
        for name in ("kl", "labels"):
            recipe = yaml.safe_load((out / "runs" / "all" / name / f"seed-{seed}" / "recipe.yaml").read_text())
            for key, value in search["values"].items():
                if key != "losses.kl.temperature":
                    assert recipe["training"]["optimizer"]["lr"] == value
                elif name == "kl":
                    assert recipe["losses"][1]["temperature"] == value
    assert any("a method with its tuning" in line for line in found.results["conclusions"])
    assert [row["seed"] for row in costs(out) if row["kind"] == "trial"] == ["0"] * 4 + ["1"] * 4
    shown = {each["key"]: each["value"] for each in found.results["methods"][1]["differs"]}
    assert shown.get("losses") or shown["losses.1.temperature"] == "tuned for each seed"
    again, jobs = did(out, tuning=tuning)
    assert (jobs, again.results) == ([], found.results)


@pytest.mark.parametrize("repeat", ["once", "per_seed"])
def test_no_run_without_the_options_it_waits_for(tmp_path: Path, repeat: str) -> None:
    methods = [
        {"name": "labels"},
        {"name": "kl", "set": {"losses": [{"name": "cross_entropy"}, {"name": "kl", "weight": 1e38}]}},
    ]
    tuning = {"trials": 2, "by": "kl", "repeat": repeat, "space": {"losses.kl.weight": [1e37, 1e38]}}
    found, jobs = did(tmp_path / "s", tuning=tuning, methods=methods)
    assert not [job for job in jobs if job.startswith("run")]
    assert len(found.failures) == 4
    assert all("trial" in reason for reason in found.failures.values()), found.failures


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        ({"by": "kd"}, "expected a method as tuning.by, not 'kd'"),
        ({"pruning": {"keep": 1, "length": 0.9}}, "tuning.pruning.length: got 0.9; expected a smaller share"),
    ],
)
def test_tuning_that_cannot_be_done_is_refused(tmp_path: Path, tuning: dict[str, Any], expected: str) -> None:
    space = {"training.optimizer.lr": [0.02, 0.2]}
    with pytest.raises(BadInput, match=expected):
        did(tmp_path / "s", tuning={"trials": 2, "space": space, **tuning})


def test_trials_choose_options_and_leave_the_test_split_alone(tmp_path: Path) -> None:
    tuning = {"trials": 2, "holdout": 0.25, "space": {"training.optimizer.lr": [0.02, 0.2]}}
    methods = [{"name": "labels"}, {"name": "kl", "set": {"losses": [{"name": "kl"}]}}]
    out = tmp_path / "s"
    found, jobs = did(out, tuning=tuning, methods=methods, seeds=[0])
    assert found.sound
    assert sum(job.startswith("trial/") for job in jobs) == 4
    tuned = json.loads((out / "tuned.json").read_text())["pairs"]["all"]
    for name in ("labels", "kl"):
        trials = tuned[name]["all"]
        assert tuned[name]["value"] == max(trial["value"] for trial in trials)
        chosen = json.loads((out / "runs" / "all" / name / "seed-0" / "summary.json").read_text())
        assert chosen["data"]["test"] == 40
        judged = json.loads((out / "trials" / "all" / name / "trial-0" / "summary.json").read_text())
        assert judged["count"] == 24
    # The table is made of what was chosen, and a driver that comes later finds it.
    again, jobs = did(out, tuning=tuning, methods=methods, seeds=[0])
    assert jobs == []
    assert again.results == found.results


def test_a_budget_in_seconds_is_turned_into_steps_once(tmp_path: Path) -> None:
    out = tmp_path / "s"
    found, jobs = did(out, budget={"seconds": 0.05}, seeds=[0])
    assert found.sound, found.results["inequalities"]
    assert [job for job in jobs if job.startswith("calibrate/")] == ["calibrate/all/labels", "calibrate/all/kl"]
    shown = json.loads((out / "calibration.json").read_text())["pairs"]["all"]
    for one in found.results["runs"]:
        assert one["steps"] == shown[one["method"]]["steps"]
    assert not list((out / "state").rglob("metrics.jsonl"))


def test_one_seed_gives_no_interval(tmp_path: Path) -> None:
    found, _ = did(tmp_path / "s", seeds=[0])
    assert {(cell["low"], cell["why"]) for cell in found.results["cells"]} == {(None, "one seed: no interval")}
    assert any("one seed" in sentence.lower() for sentence in found.results["conclusions"])


def test_the_same_method_twice_gives_p_of_one(tmp_path: Path) -> None:
    found, _ = did(tmp_path / "s", methods=[{"name": "a"}, {"name": "b"}])
    (one,) = found.results["families"][0]["baseline"]["comparisons"]
    assert one["difference"]["p"] == 1.0


# -- what is refused


def test_two_drivers_do_not_work_on_one_folder(whole: Path) -> None:
    before = tables_of(whole)
    with FileLock(StudyFolder(whole).lock), pytest.raises(BadInput, match="no other process works on"):
        did(whole)
    assert tables_of(whole) == before


def test_a_folder_takes_no_other_study(whole: Path) -> None:
    with pytest.raises(BadInput, match=r"seeds.1 is 2, was 1"):
        did(whole, seeds=[0, 2])


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="this one holds other files"):
        did(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_teacher_without_its_weights_stops_the_study_before_any_run(tmp_path: Path) -> None:
    recipe = {**small()["recipe"], "teacher": {"name": "mlp", "weights": "gone.pt"}}
    with pytest.raises(BadInput, match=r"methods.labels: teacher.weights: got 'gone.pt'"):
        did(tmp_path / "s", recipe=recipe)
    assert not (tmp_path / "s" / "runs").exists()


def test_a_teacher_that_cannot_be_trained_stops_the_study(tmp_path: Path) -> None:
    wild = [{"name": "big", "set": {"student": {"name": "mlp"}, "training.optimizer.lr": 1e30}}]
    with pytest.raises(RunFailed, match=r"teachers.big: .*not finite"):
        did(tmp_path / "s", teachers=wild)


# -- through the command line


def test_killed_and_begun_again_it_gives_the_same_tables(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    line = ["compare", str(study_file(tmp_path)), "--out", str(out), "--workers"]
    environment = {"STILLROOM_CACHE": str(tmp_path / "cache")}
    process = Process(*line, "1", environment=environment)
    until(lambda: list(out.glob("runs/*/*/*/metrics.jsonl")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "results.json").exists()
    done = stillroom(*line, "2", "--json", environment=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sound"] is True
    assert tables_of(out) == tables_of(whole)
    assert (out / "report.html").exists()
    assert "Traceback" not in done.stderr
    assert run(["watch", str(out), "--once"]) == 0
    assert "2/2" in capsys.readouterr().out


def test_a_full_disk_loses_nothing(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "s"
    line = ["compare", str(study_file(tmp_path)), "--out", str(out), "--workers", "1"]
    full = stillroom(*line, environment={"STILLROOM_CACHE": str(tmp_path / "cache")}, fate=Fate(file_bytes=25_000))
    assert full.returncode in (1, 2)
    assert "File too large" in full.stderr
    assert "Traceback" not in full.stderr
    found, _ = did(out)
    assert found.sound
    assert tables_of(out) == tables_of(whole)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--engine", "ray", "--address", "127.0.0.1:1"], "--address: got '127.0.0.1:1'"),
        (["--address", "127.0.0.1:1"], "expected --engine ray"),
        (["methods=[]"], "methods: got []; expected at least 1 item"),
        (["methods=[{name: a}, {name: a}]"], "each method once, but 'a' is there 2 times"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_a_refusal_is_one_line(
    tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = [one for one in more if one.startswith("methods")]
    options = [one for one in more if one not in overrides]
    code = run(["compare", str(study_file(tmp_path)), *overrides, "--out", str(tmp_path / "s"), *options])
    assert code == 2
    shown = capsys.readouterr().err
    assert words in " ".join(shown.split())
    assert "Traceback" not in shown


def test_an_unequal_study_is_reported_in_red_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillroom.study.engine.engine_maker", lambda *_: lambda folder, threads: InProcessEngine())
    methods = [{"name": "a"}, {"name": "b"}, {"name": "long", "set": {"training.epochs": 4}}]
    path = study_file(tmp_path, methods=methods, seeds=[0])
    assert run(["compare", str(path), "--out", str(tmp_path / "s"), "--workers", "1"]) == 1
    assert "unequal: budget: long has 12 steps, a and b 6" in capsys.readouterr().out


def test_watching_what_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", str(tmp_path)]) == 2
    assert "a study that `stillroom compare` has started" in capsys.readouterr().err
