"""Every file that a study writes beside its results has a model, which its writer and its readers share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillroom.errors import BadInput
from stillroom.schema.base import read_json
from stillroom.schema.cache import CacheFile
from stillroom.schema.study import CachesFile, CalibrationFile, PlanFile, ProgressFile, TunedFile
from stillroom.study.config import parse_study
from stillroom.study.engine.base import Job
from stillroom.study.plan import StudyFolder, plan_of
from stillroom.study.progress import StudyProgress, read_progress
from stillroom.study.tables import cost_table
from stillroom.teachers.cache_format import CacheSpec
from stillroom.teachers.fisher import FisherOf


def test_progress_is_read_as_it_was_written(tmp_path: Path) -> None:
    progress = StudyProgress("name", "top1", workers=2)
    progress.add([Job("run/all/kl/0", "run", {"training": {"epochs": 3}}, "out", threads=1)])
    progress.write(tmp_path / "progress.json")
    assert read_progress(tmp_path / "progress.json") == progress
    assert read_json(ProgressFile, tmp_path / "progress.json").jobs["run/all/kl/0"].length == {"epochs": 3}


def test_a_file_of_another_form_is_refused_by_its_field(tmp_path: Path) -> None:
    for model, name, content, field in (
        (PlanFile, "plan.json", {"study_hash": "a", "runs": [{"pair": "all"}]}, "runs.0.method"),
        (CachesFile, "caches.json", {"pairs": {"all": {"answers": -1, "seconds": 0}}}, "pairs.all.answers"),
        (TunedFile, "tuned.json", {"pairs": {"all": {"kl": {}}}}, "pairs.all.kl.trials"),
        (CalibrationFile, "calibration.json", {"seconds": 2, "pairs": {"all": {"kl": {"steps": "x"}}}}, "steps"),
    ):
        (tmp_path / name).write_text(json.dumps({"schema": 1, **content}))
        with pytest.raises(BadInput, match=rf"{name}: .*{field}"):
            read_json(model, tmp_path / name)


def test_damaged_costs_of_caches_do_not_become_empty_ones(tmp_path: Path) -> None:
    study = parse_study({"name": "x", "recipe": {"student": {"name": "mlp"}}, "methods": [{"name": "labels"}]})
    (tmp_path / "caches.json").write_text('{"schema": 1, "pairs": {"all": 3}}')
    with pytest.raises(BadInput, match=r"caches\.json: pairs\.all"):
        cost_table(StudyFolder(tmp_path), plan_of(study, StudyFolder(tmp_path)))


def test_the_identity_of_a_cache_keeps_what_it_depends_on() -> None:
    parts = {"teacher": {"name": "resnet56", "weights": "1f"}, "data": {"fingerprint": "2e"}}
    spec = CacheSpec(parts, count=5, classes=3, taps=("layer1",), fishers=(FisherOf("layer1", 4.0, 0),))
    held = CacheFile.model_validate({"format": 1, "identity": spec.identity}).identity
    assert held.parts == parts
    assert held.as_dict() == spec.identity
    assert held.kept.taps == ("layer1",)
    assert [of.tap for of in held.kept.fishers or ()] == ["layer1"]
