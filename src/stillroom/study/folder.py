"""Where everything of a study lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillroom.errors import BadInput


@dataclass(frozen=True)
class StudyFolder:
    """The paths of a study's folder; nothing is made or read by asking for one.

    Attributes:
        path: the folder.

    >>> StudyFolder(Path("s")).run("cifar10", "kl", 0).as_posix()
    's/runs/cifar10/kl/seed-0'
    """

    path: Path

    @property
    def study(self) -> Path:
        """The resolved study, as YAML."""
        return self.path / "study.yaml"

    @property
    def plan(self) -> Path:
        """The runs that it comes to."""
        return self.path / "plan.json"

    @property
    def tuned(self) -> Path:
        """What the trials chose."""
        return self.path / "tuned.json"

    @property
    def calibration(self) -> Path:
        """Steps that a budget in seconds came to."""
        return self.path / "calibration.json"

    @property
    def caches(self) -> Path:
        """What building the teachers' caches asked and took."""
        return self.path / "caches.json"

    def preparing(self, pair: str, method: str) -> Path:
        """What comes before a method's runs on a pair."""
        return self.path / "state" / "preparing" / pair / method

    @property
    def progress(self) -> Path:
        """What is being done, for whoever watches."""
        return self.path / "progress.json"

    @property
    def results(self) -> Path:
        """Every result, without clocks."""
        return self.path / "results.json"

    @property
    def cost(self) -> Path:
        """Clocks, teacher passes, memory."""
        return self.path / "cost.csv"

    @property
    def lock(self) -> Path:
        """Held by the driver."""
        return self.path / "state" / "lock"

    @property
    def logs(self) -> Path:
        """What the workers print."""
        return self.path / "state" / "logs"

    def table(self, name: str) -> Path:
        """``runs.csv``, ``table.csv``, ``comparisons.csv`` or ``table.tex``."""
        return self.path / name

    def run(self, pair: str, method: str, seed: int) -> Path:
        """The folder of a run."""
        return self.path / "runs" / pair / method / f"seed-{seed}"

    def teacher(self, name: str) -> Path:
        """The folder of the run that trains a teacher."""
        return self.path / "teachers" / name

    def trial(self, pair: str, method: str, number: int) -> Path:
        """The folder of a trial's run."""
        return self.path / "trials" / pair / method / f"trial-{number}"


@contextmanager
def wholly(path: Path, remedy: str) -> Iterator[None]:
    """Read a file that the study wrote; one that is damaged or of another shape is told in a line.

    Args:
        path: the file.
        remedy: what to do then.

    Raises:
        BadInput: in place of whatever reading raised.
    """
    try:
        yield
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput("study", str(path), f"a file as the study wrote it ({type(error).__name__}); {remedy}") from None
