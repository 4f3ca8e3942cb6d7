"""A folder that cannot be used is reported in one line, with what was expected; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from report.folders import Fake, edit_summary, write_run
from stillroom.errors import BadInput
from stillroom.report.run.data import read_run
from stillroom.report.run.page import write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Fake(each=20, examples=4))


def refused(run: Path, *others: Path) -> str:
    with pytest.raises(BadInput) as caught:
        write_report([run, *others])
    message = str(caught.value)
    assert "\n" not in message
    assert not (run / "report.html").exists()
    return message


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    assert "expected a folder that exists" in refused(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="expected a run folder"):
        write_report([tmp_path / "file"])


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert "expected a run folder, with summary.json" in refused(tmp_path)


def test_an_unfinished_run(run: Path) -> None:
    (run / "summary.json").unlink()
    assert "expected a finished run; the command that began this one" in refused(run)


def test_the_folder_of_a_study_is_no_unfinished_run(run: Path, tmp_path: Path) -> None:
    """A study has no --resume, nor a run that could be continued in its own folder."""
    study = tmp_path / "study"
    (study / "state").mkdir(parents=True)
    (study / "progress.json").write_text("{}")
    message = refused(run, study)
    assert "this is a study's" in message
    assert "--resume" not in message


def test_a_damaged_run_beside_a_good_one(run: Path, tmp_path: Path) -> None:
    assert "finished run" in refused(run, _unfinished(tmp_path))


def _unfinished(tmp_path: Path) -> Path:
    other = write_run(tmp_path / "other", Fake(each=5))
    (other / "summary.json").unlink()
    return other


@pytest.mark.parametrize("name", ["summary.json", "environment.json"])
@pytest.mark.parametrize("text", ["{", "[]", "", "\x00\xff", '{"a": ' * 5000, '{"schema": ' + "9" * 5000 + "}"])
def test_a_damaged_json_file(run: Path, name: str, text: str) -> None:
    (run / name).write_text(text, encoding="latin-1")
    assert name in refused(run)


def test_a_damaged_line_of_metrics_is_named(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "epo')
    count = len((run / "metrics.jsonl").read_text().splitlines())
    assert f"in line {count}" in refused(run)


def test_a_line_of_metrics_without_an_epoch(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 3, "split": "train"}\n')
    assert "line 1: epoch: missing" in refused(run)


def test_half_a_line_of_timing_takes_nothing_from_the_result(run: Path) -> None:
    text = (run / "timing.jsonl").read_text()
    (run / "timing.jsonl").write_text('{"event": "progr' + text.replace("\n", "\n[1, 2]\n", 1))
    assert read_run(run).latency["student"] == {1: 1.21, 64: 22.4}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "schema: got 2; expected 1"),
        ({"top1": "high"}, "top1: got 'high'; expected a number"),
        ({"top1": 101}, "top1: got 101"),
        ({"top1": float("nan")}, "top1: got nan"),
        ({"top1": True}, "top1: got True"),
        ({"correct": 10**9}, "correct: got 1000000000"),
        ({"name": None}, "name: got None; expected text"),
        ({"teachers": []}, "teachers: got []; expected a mapping"),
        ({"teachers": {"teacher": {"model": "x"}}}, "teachers.teacher.weights_hash: missing"),
        ({"data": {"name": "x", "classes": 0, "train": 1, "test": 1}}, "data.classes: got 0"),
        ({"hashes": None}, "hashes: got None"),
        ({"seed": 1.5}, "seed: got 1.5"),
    ],
)
def test_a_wrong_value_in_the_summary_is_named(run: Path, changes: dict[str, object], said: str) -> None:
    edit_summary(run, **changes)
    assert said in refused(run)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _head_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:7])


def _noise(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


def _without(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        tensors = load_file(path)
        tensors.pop(name)
        save_file(tensors, path)

    return change


def _with(**replaced: np.ndarray) -> Callable[[Path], None]:
    return lambda path: save_file({**load_file(path), **replaced}, path)


def _bad_names(path: Path) -> None:
    save_file(load_file(path), path, metadata={"class_names": json.dumps(["one"])})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "a whole safetensors file"),
        (_head_only, "a whole safetensors file"),
        (_noise, "a whole safetensors file"),
        (_without("labels"), "the tensors labels and student_logits"),
        (_without("student_logits"), "the tensors labels and student_logits"),
        (_with(labels=np.zeros(3, dtype=np.int64)), "200 labels, as many as in summary.json, not 3"),
        (_with(labels=np.full(200, 10)), "labels from 0 to 9"),
        (_with(student_logits=np.zeros((200, 9), dtype=np.float32)), "[200, 10], not [200, 9]"),
        (_with(teacher_logits=np.full((200, 10), np.nan, dtype=np.float32)), "teacher_logits that are all finite"),
        (_with(example_indices=np.array([0, 1, 2, 999])), "example_indices from 0 to 199"),
        (_with(example_images=np.zeros((4, 3, 8, 8), dtype=np.float32)), "example_images as uint8"),
        (_with(example_images=np.zeros((3, 3, 8, 8), dtype=np.uint8)), "one of example_indices for each"),
        (_bad_names, "class_names as a JSON list of 10 names"),
    ],
)
def test_damaged_predictions(run: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(run / "predictions.safetensors")
    assert said in refused(run)


def test_no_runs_at_all() -> None:
    with pytest.raises(BadInput, match="at least one run folder"):
        write_report([])


def test_one_run_twice(run: Path) -> None:
    assert "each run folder once" in refused(run, run / ".." / "run")


def test_an_out_that_is_a_folder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a file, not a folder"):
        write_report([run], tmp_path)


def test_an_out_that_cannot_be_written(run: Path) -> None:
    with pytest.raises(BadInput, match="a place that can be written"):
        write_report([run], run / "recipe.yaml" / "report.html")


def test_values_that_are_not_finite_become_gaps(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 601, "epoch": 12.1, "split": "train", "loss": NaN, "lr": 1e999}\n')
    assert set(read_run(run).train[-1]) == {"step", "epoch"}
    assert "NaN" not in write_report([run]).read_text(encoding="utf-8").split('id="plotly"')[0]


def test_texts_that_cannot_be_written_are_replaced(run: Path) -> None:
    edit_summary(run, name="a")
    text = (
        (run / "summary.json")
        .read_text(encoding="utf-8")
        .replace('"name": "a"', '"name": "a\\ud800\\u0000\\u202eb"', 1)
    )
    (run / "summary.json").write_text(text, encoding="utf-8")
    assert read_run(run).name == "a���b"
    assert write_report([run]).exists()
