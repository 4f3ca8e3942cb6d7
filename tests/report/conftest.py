"""Made-up runs and studies, written once a session, each when a test first asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.folders import EVIL, Fake, Lazy, write_run
from report.studies import FakeStudy, axis, write_study
from stillroom.report.run.page import write_report
from stillroom.report.study.page import write_run_pages, write_study_report

LABELS_ALONE = Fake(
    name="resnet8, labels alone", teacher=False, skill=3.4, losses=({"name": "cross_entropy", "weight": 1.0},)
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders by what they are; tests read them and write nothing into them."""
    root = tmp_path_factory.mktemp("runs")
    evil_names = tuple(f"{EVIL} {index}" for index in range(10))
    evil_terms = ({"name": EVIL, "weight": 1.0}, {"name": "kl", "weight": 0.9})
    evil = Fake(name=EVIL, classes=evil_names, each=30, losses=evil_terms, examples=6)
    fakes = {
        "taught": Fake(),
        "labels": LABELS_ALONE,
        "seed1": Fake(seed=1, skill=3.7, init="a1" * 32),
        "hundred": Fake(
            name="hundred", classes=tuple(f"class {i}" for i in range(100)), each=50, skill=4.6, examples=8
        ),
        "evil": evil,
        "evil, other data": Fake(name=EVIL, seed=1, classes=evil_names, each=30, fingerprint="00" * 32, examples=6),
    }
    return Lazy(lambda name: write_run(root / name, fakes[name]))


@pytest.fixture(scope="session")
def pages(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages about these runs, by what they are about; tests read them."""
    out = tmp_path_factory.mktemp("pages")
    wanted = {
        "taught": ["taught", "labels", "seed1"],
        "labels": ["labels"],
        "hundred": ["hundred"],
        "evil": ["evil", "evil, other data"],
    }
    return Lazy(lambda name: write_report([runs[key] for key in wanted[name]], out / f"{name}.html"))


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Study folders by what they are, with their pages; tests read them and write nothing into them."""
    root = tmp_path_factory.mktemp("studies")
    long = tuple(f"c{number:02d}-a-long_name=0.5+with-as-many-letters-as-allowed"[:48] for number in range(29))
    widths = axis({"d24": 24, "d8": 8, "d160": 160}, (99, "d = K − 1"))
    evil_widths = axis({"ok": 1, "“ünï”": 2}, (1.5, EVIL), title=EVIL)
    pairs = ("digits", "cifar10", "cifar100", "tiny")
    every = {("cifar100", name, seed): "failed: out of memory" for name in ("labels", "kl", "mse") for seed in range(3)}
    fakes = {
        "usual": FakeStudy(whole_runs=True),
        "four": FakeStudy(name="four", pairs=pairs, one_size=False),
        "many": FakeStudy(name="many", methods=("labels", *long), seeds=(0, 1), gap=0.3, epochs=4),
        "alone": FakeStudy(name="alone", methods=("labels",), seeds=(0,), tuned=False),
        "two": FakeStudy(name="two", seeds=(0, 1)),
        "unequal": FakeStudy(
            unequal=True,
            missing={("cifar100", "mse", 1): "failed: not finite", ("cifar100", "crd", 2): "not run yet"},
        ),
        "failed": FakeStudy(methods=("labels", "kl", "mse"), missing=every),
        "nll": FakeStudy(measure="nll", level=1.4, gap=-0.03, noise=0.01),
        "huge": FakeStudy(measure="nll", level=-3e9, gap=1e8, noise=1e7),
        "sweep": FakeStudy(
            methods=("kl", "mse", "crd"),
            pairs=("d24", "d8", "d160"),
            seeds=(0, 1),
            epochs=2,
            axis=widths,
            missing={("d8", "crd", 0): "failed: not finite", ("d8", "crd", 1): "not run yet"},
        ),
        "evil": FakeStudy(
            name=EVIL,
            question=EVIL,
            methods=("labels", EVIL),
            pairs=("ok", "“ünï”"),
            note=EVIL,
            differing=EVIL,
            axis=evil_widths,
            missing={("ok", EVIL, 2): f"failed: {EVIL}"},
        ),
    }

    def make(name: str) -> Path:
        study = write_study(root / name, fakes[name])
        if fakes[name].whole_runs:
            write_run_pages(study)
        write_study_report(study)
        return study

    return Lazy(make)
