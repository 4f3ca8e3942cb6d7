"""Jobs of a study, how they end, and what an engine is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Literal

JobKind = Literal["calibrate", "cache", "trial", "run"]
# bad_input, failed and out_of_memory come from the job itself; crashed: its process died, or an unexpected error.
JobEnding = Literal["done", "bad_input", "failed", "out_of_memory", "crashed"]


@dataclass(frozen=True)
class Job:
    """One thing to do in a process of its own, as plain objects so that any process can do it."""

    id: str  # such as `run/cifar10/kl/0`; no two jobs of a study have the same
    kind: JobKind  # what is done
    recipe: dict[str, Any]  # the recipe's content, see :func:`stillroom.recipe.parse_recipe`
    out: str  # folder that the job writes to, absolute
    threads: int = 1  # CPU threads that it takes
    options: dict[str, Any] = field(default_factory=dict)  # further options of the kind

    def as_dict(self) -> dict[str, Any]:
        """The job for JSON; ``Job(**…)`` makes it again."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    id: str  # the job's
    ending: JobEnding  # done, or why not
    result: dict[str, Any] = field(default_factory=dict)  # what it gave, plain objects; empty unless it is done
    reason: str = ""  # one line about what went wrong; empty where it is done
    seconds: float = 0.0  # from its start in the process to its end, without waiting for a free one


class Engine(ABC):
    """Does jobs in processes of their own: one that dies harms no other. A context manager: leaving it ends all."""

    slots: int  # how many jobs go side by side
    name: str  # ``local`` or ``ray``

    def warm(self, jobs: int) -> None:
        """Make ready for so many jobs to come, where that takes time that others can use; nothing by default."""
        return

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Begin a job; called only while fewer than ``slots`` are under way."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Outcome]:
        """The jobs that ended since, in the order in which they did; none after so many seconds without an end.

        A process that died gives ``crashed`` for its job; the next job gets a new process.

        Raises:
            BadInput: no further job can be done at all, such as a cluster that is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """End all processes, whatever they do; what they saved goes on when their job is begun again."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
