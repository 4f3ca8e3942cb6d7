"""Made-up runs, written once a session, and a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.folders import EVIL, Fake, write_run
from stillroom.report.page import write_report

LABELS_ALONE = Fake(
    name="resnet8, labels alone", teacher=False, skill=3.4, objectives=({"name": "cross_entropy", "weight": 1.0},)
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders by what they are; tests read them and write nothing into them."""
    root = tmp_path_factory.mktemp("runs")
    evil_names = tuple(f"{EVIL} {index}" for index in range(10))
    evil_terms = ({"name": EVIL, "weight": 1.0}, {"name": "kl", "weight": 0.9})
    evil = Fake(name=EVIL, classes=evil_names, each=30, objectives=evil_terms, examples=6)
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
    return {name: write_run(root / name, fake) for name, fake in fakes.items()}


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
    return {name: write_report([runs[key] for key in keys], out / f"{name}.html") for name, keys in wanted.items()}
