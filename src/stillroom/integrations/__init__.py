"""Audits of trainings that a framework runs: the Trainer of transformers, Lightning, loops with accelerate.

Each finds what ``stillroom audit`` finds, prints it once the first steps have been watched, and changes nothing of the
training. A framework is imported by its own module alone, and only where it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from stillroom.diagnose.audit.session import Audit
    from stillroom.diagnose.diagnosis import Diagnosis


class FrameworkAudit:
    """What the callbacks of all frameworks share: an audit that begins and ends with a training.

    Args:
        teacher: the module or modules that teach; None: found.
        student: the module or modules that learn; None: found.
        steps: how many steps are watched, the first and some later ones.
        out: a folder for ``diagnosis.json`` and ``diagnosis.html``; None writes none.
        name: what the diagnosis calls the training.
    """

    def __init__(
        self,
        *,
        teacher: nn.Module | Sequence[nn.Module] | None = None,
        student: nn.Module | Sequence[nn.Module] | None = None,
        steps: int = 30,
        out: str | Path | None = None,
        name: str = "training loop",
    ) -> None:
        self._options: dict[str, Any] = {"teacher": teacher, "student": student, "steps": steps, "name": name}
        self._out = out
        self._audit: Audit | None = None
        self._printed: list[tuple[str, str | None]] | None = None
        self._diagnosis: Diagnosis | None = None

    @property
    def diagnosis(self) -> Diagnosis:
        """What is wrong with the training that ended last, or with its first steps while it runs.

        Raises:
            RuntimeError: no step of a training was watched yet.
        """
        if self._diagnosis is None:
            raise RuntimeError("a diagnosis is there when the first steps of a training have been watched")
        return self._diagnosis

    def begin(self, *, is_main: bool = True) -> None:
        """Watch the training that begins; one that an exception ended before is left.

        Args:
            is_main: whether this process prints and writes.
        """
        from stillroom.diagnose.audit.session import audit

        self.end(finished=False)
        self._is_main, self._printed = is_main, None
        self._audit = audit(**self._options, watched=self._report)
        self._audit.__enter__()

    def end(self, *, finished: bool = True) -> None:
        """Watch no more; does nothing where no training is watched."""
        if self._audit is not None:
            running, self._audit = self._audit, None
            running.close(finished=finished)
            self._report(running.diagnosis, last=True)

    def _report(self, diagnosis: Diagnosis, last: bool = False) -> None:
        self._diagnosis = diagnosis
        problems = [(each.check, each.location) for each in diagnosis.problems]
        if not self._is_main:
            return
        if problems != self._printed and (problems or last):
            print(diagnosis.attention())
            self._printed = problems
        if last and self._out is not None:
            diagnosis.save(self._out)


class CallbackAudit:
    """Arguments and diagnosis of a callback, as the classes for each Trainer document them; a base before its own."""

    _watches: str  # what the diagnosis calls the training
    _framework: str  # the framework's name, and that of the extra that installs it
    _callback: type | None  # its class of callbacks; None where it is not installed

    def __init__(
        self,
        *,
        teacher: nn.Module | Sequence[nn.Module] | None = None,
        student: nn.Module | Sequence[nn.Module] | None = None,
        steps: int = 30,
        out: str | Path | None = None,
    ) -> None:
        if self._callback is None:
            name = self._framework
            expected = f"it to be installed: pip install 'stillroom[{name}]'"
            raise BadInput(type(self).__name__, f"no {name}", expected)
        super().__init__()
        self._audit = FrameworkAudit(teacher=teacher, student=student, steps=steps, out=out, name=self._watches)

    @property
    def diagnosis(self) -> Diagnosis:
        """The :class:`~stillroom.Diagnosis` of the last training."""
        return self._audit.diagnosis
