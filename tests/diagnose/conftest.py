"""Teachers of digits that several files of tests diagnose."""

from __future__ import annotations

import pytest

from diagnose.setups import BASE, Setup, digits, load_teacher
from stillroom.diagnose.checks.recipe import input_repair


@pytest.fixture(scope="session")
def correct() -> Setup:
    """A recipe without a fault, with a teacher of an accuracy of about 97%."""
    return Setup(BASE, load_teacher(0.0), digits())


@pytest.fixture(scope="session")
def smoothed(correct: Setup) -> Setup:
    """The same with a teacher that was trained with label smoothing."""
    return Setup(BASE, load_teacher(0.2), correct.data)


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits of 8 pixels are not tried at 64 and 224, which takes most of the time and finds nothing."""
    monkeypatch.setattr(input_repair, "SIZES", (32,))
