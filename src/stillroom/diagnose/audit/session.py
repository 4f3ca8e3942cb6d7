"""``with sr.audit(): …`` around a training loop, and ``stillroom audit SCRIPT.py``: watch, then say what is wrong."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from stillroom.diagnose.audit.script import find_module, read_script, run_script
from stillroom.diagnose.audit.watch import Watch, current
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.diagnose.loop import diagnose_loop
from stillroom.errors import BadInput

STEPS = 30


class Audit:
    """A training loop under audit; ``diagnosis`` says what was found.

    Use it through :func:`audit`.
    """

    def __init__(self, watch: Watch, target: str, *, is_own: bool = True) -> None:
        self._watch, self._target, self._is_own = watch, target, is_own
        self._diagnosis: Diagnosis | None = None

    def __enter__(self) -> Self:
        if self._is_own:
            self._watch.start(deep=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    def close(self, *, finished: bool = True) -> None:
        """Watch no more, and judge what was watched: for a loop that no ``with`` block can be put around.

        Args:
            finished: whether the loop came to its end.
        """
        if self._is_own:
            self._watch.finish(ended=finished)
        self._diagnosis = diagnose_watch(self._watch, self._target)

    @property
    def diagnosis(self) -> Diagnosis:
        """What is wrong with the loop, as far as it was watched.

        Raises:
            RuntimeError: inside the ``with`` block.
        """
        if self._diagnosis is None:
            raise RuntimeError("audit.diagnosis is there when the with block has ended")
        return self._diagnosis


def audit(
    *,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    student: nn.Module | Sequence[nn.Module] | None = None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    steps: int = STEPS,
    name: str = "training loop",
    watched: Callable[[Diagnosis], None] | None = None,
) -> Audit:
    """Watch a training loop of your own, unchanged; it computes what it would compute without.

    Who learns and who teaches is found: parameters of an optimizer that steps learn; a network, or stored logits, whose
    answers reach the loss and that no optimizer holds, teaches. In a script that ``stillroom audit`` runs, the
    command's audit goes on alone, and the block's diagnosis is what that one has seen so far.

    Args:
        teacher: the module or modules that teach; None: found.
        student: the module or modules that learn; None: found.
        optimizer: the optimizers that were made before the block; None: found when they step.
        steps: how many steps are watched, the first and some later ones.
        name: what the diagnosis calls the loop.
        watched: is given the diagnosis as it is when the first steps, and when all steps have been watched.

    Returns:
        A context manager; ``diagnosis`` after the block.

    Raises:
        BadInput: an argument is of another type.

    Example:
        >>> import torch
        >>> teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> with audit(teacher=teacher, student=student) as watched:
        ...     for _ in range(3):
        ...         x = torch.ones(8, 4)
        ...         loss = (student(x) - teacher(x)).square().mean()
        ...         loss.backward()
        ...         optimizer.step()
        >>> [finding.check for finding in watched.diagnosis.findings if finding.verdict == "warning"]
        ['teacher_gradient']
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BadInput("steps", steps, "a whole number of 1 or more")
    running = current()
    if running is not None and not running.whole_script:
        raise BadInput("audit", "a second one", "one audit at a time; leave the first with block before")
    watch = Watch(
        steps,
        watched=(lambda: watched(diagnose_watch(watch, name))) if watched is not None else None,
        teacher=_several("teacher", teacher, nn.Module),
        student=_several("student", student, nn.Module),
        optimizers=_several("optimizer", optimizer, torch.optim.Optimizer),
    )
    return Audit(running or watch, name, is_own=running is None)


def _several(name: str, given: Any, kind: type) -> list[Any]:
    if given is None:
        return []
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, kind) else [given]
    for each in found:
        if not isinstance(each, kind):
            raise BadInput(name, type(each).__name__, f"a torch {kind.__name__}, or a list of them")
    return found


def diagnose_watch(watch: Watch, target: str) -> Diagnosis:
    """The diagnosis of what was watched; the state of torch's generators stays as it is."""
    nothing = ""
    if watch.errors:
        nothing = f"The audit failed inside itself ({watch.errors[0]}); the script was not touched."
    elif watch.failure and not watch.phases:
        nothing = f"The script ended with {watch.failure}, before a training was seen."
    elif not watch.seen_optimizer and not watch.seen_backward:
        nothing = (
            "No optimizer was made in this process: nothing is trained in its main thread. Other processes and threads "
            "are not seen; of a training that is launched, audit what is launched: torchrun … -m stillroom audit "
            "train.py, or python -m stillroom audit in place of python."
        )
    elif not watch.phases and watch.seen_backward:
        nothing = (
            f"{watch.seen_backward} backward() were seen, and no optimizer of torch.optim made a step: who learns is "
            "not known."
        )
    elif not watch.phases:
        nothing = "An optimizer was made, and no loss went backward and no step was made in this process."
    state = torch.get_rng_state()
    try:
        # What torch has to say of the user's loss it said in the user's loop.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            findings = diagnose_loop(
                watch.phases,
                watch.asked,
                watch.schedules,
                nothing=nothing,
                whole_script=watch.whole_script,
                idle=watch.idle,
            )
    finally:
        torch.set_rng_state(state)
    return Diagnosis.of(target, findings, kind="loop", note=_end_of(watch))


def _end_of(watch: Watch) -> str:
    """How a script ended that did not come to its end."""
    made = sum(phase.made for phase in watch.phases)
    if watch.failure and made:
        return f"The script ended with {watch.failure}, after {made} steps of its optimizers."
    if watch.stopped:
        return f"It was stopped after {made} steps of its optimizers (`--stop`): what comes later was not seen."
    return ""


def audit_script(
    script: str | Path,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    steps: int = STEPS,
    stop: bool = False,
    known: Callable[[Diagnosis, bool], None],
) -> int:
    """Run a training script under audit.

    Args:
        script: the script.
        arguments: its arguments.
        module: whether ``script`` is a module's name, as after ``python -m``.
        steps: how many steps of each training are watched, the first and some later ones.
        stop: stop the script when they are.
        known: is given the diagnosis: first when the first steps have been watched, and last, with ``True``, when the
            script has ended or leaves by ``os._exit``.

    Returns:
        The script's own exit code.

    Raises:
        BadInput: the script is not there, or it is no Python.
    """
    if module and (not sys.path or sys.path[0] != os.getcwd()):
        sys.path[:1] = [os.getcwd()]
    path, spec = find_module(str(script)) if module else (Path(script), None)
    source = read_script(path)
    if current() is not None:
        raise BadInput("audit", "a second one", "one audit at a time")
    watch = Watch(steps, stop=stop, watched=lambda: known(diagnose_watch(watch, str(script)), False))
    watch.start()

    def end(ended: bool) -> None:
        watch.finish(ended=ended)
        known(diagnose_watch(watch, str(script)), True)

    with contextlib.ExitStack() as stack:
        stack.callback(watch.finish, ended=False)
        return run_script(path, arguments, source, end, spec=spec, failed=watch.note_failure)
