"""Jobs are begun in order, what died is begun again, and the progress says so."""

from __future__ import annotations

from pathlib import Path

from stillroom.study.engine.base import Job, Outcome
from stillroom.study.progress import Scheduler, StudyObserver, StudyProgress, last_line, read_progress
from study.small import Scripted


def jobs(*names: str) -> list[Job]:
    return [Job(f"run/p/{name}/0", "run", {"training": {"epochs": 4}}, out=f"/nowhere/{name}") for name in names]


def done(
    engine: Scripted, tmp_path: Path, *names: str, retries: int = 1, **options: bool
) -> tuple[list[Outcome], StudyProgress]:
    progress = StudyProgress("s", "top1", engine.slots)
    schedule = Scheduler(engine, retries, progress, tmp_path / "progress.json", StudyObserver())
    return schedule.do("running", jobs(*names), **options), progress


def test_no_more_are_under_way_than_there_are_slots(tmp_path: Path) -> None:
    engine = Scripted(2)
    outcomes, progress = done(engine, tmp_path, "a", "b", "c")
    assert engine.most == 2
    assert [outcome.ending for outcome in outcomes] == ["done"] * 3
    assert progress.complete
    assert read_progress(tmp_path / "progress.json") == progress


def test_alone_means_one_at_a_time(tmp_path: Path) -> None:
    engine = Scripted(2)
    done(engine, tmp_path, "a", "b", alone=True)
    assert engine.most == 1


def test_what_died_is_begun_again_and_harms_no_other(tmp_path: Path) -> None:
    died = Outcome("run/p/a/0", "crashed", reason="killed by SIGKILL")
    engine = Scripted(2, {"run/p/a/0": [died]})
    outcomes, progress = done(engine, tmp_path, "a", "b", "c")
    assert engine.begun.count("run/p/a/0") == 2
    assert {outcome.id for outcome in outcomes if outcome.ending == "done"} == {f"run/p/{n}/0" for n in "abc"}
    assert progress.jobs["run/p/a/0"].attempts == 2


def test_what_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    died = Outcome("run/p/a/0", "crashed", reason="killed by SIGKILL")
    engine = Scripted(1, {"run/p/a/0": [died] * 9})
    outcomes, progress = done(engine, tmp_path, "a", "b", retries=2)
    assert engine.begun.count("run/p/a/0") == 3
    assert progress.jobs["run/p/a/0"].status == "failed"
    assert progress.jobs["run/p/a/0"].reason == "killed by SIGKILL"
    assert outcomes[-1].ending == "done"


def test_what_cannot_go_on_is_not_begun_again(tmp_path: Path) -> None:
    engine = Scripted(1, {"run/p/a/0": [Outcome("run/p/a/0", "failed", reason="kl is not finite")]})
    outcomes, _ = done(engine, tmp_path, "a", "b")
    assert engine.begun == ["run/p/a/0", "run/p/b/0"]
    assert outcomes[0].reason == "kl is not finite"


def test_what_follows_a_job_comes_before_what_waits(tmp_path: Path) -> None:
    engine = Scripted(1)
    progress = StudyProgress("s", "top1", 1)
    schedule = Scheduler(engine, 1, progress, tmp_path / "progress.json", StudyObserver())
    schedule.do("trials", jobs("a", "b"), lambda job, _: jobs("a2") if job.id == "run/p/a/0" else [])
    assert engine.begun == ["run/p/a/0", "run/p/a2/0", "run/p/b/0"]


def test_the_time_left_counts_what_runs_by_what_it_logged(tmp_path: Path) -> None:
    progress = StudyProgress("s", "top1", workers=2)
    first, second, third = jobs("a", "b", "c")
    progress.add([first, second, third])
    assert progress.seconds_left() is None
    progress.job_started(first)
    progress.job_ended(Outcome(first.id, "done", {"top1": 1.0}, seconds=10.0), again=False)
    progress.job_started(second)
    progress.jobs[second.id].out = str(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "epoch": 1.0}\n{"step": 4, "epo')
    # Three quarters of one and all of the other, ten seconds each, two side by side.
    assert progress.seconds_left() == (7.5 + 10) / 2


def test_a_log_without_a_whole_line_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"a": 1')
    assert last_line(tmp_path / "log") == {}
    assert last_line(tmp_path / "gone") == {}
