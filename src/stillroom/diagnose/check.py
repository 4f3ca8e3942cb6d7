"""The form of every check: what it measures, where its verdict turns and why, what it says and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, overload

from stillroom.errors import format_error
from stillroom.schema.diagnosis import Finding, Plot, Remedy, Verdict
from stillroom.tasks import TASK_INFO, Task
from stillroom.wording import Unit

ContextT = TypeVar("ContextT")
T = TypeVar("T")


class Skip(Exception):  # noqa: N818 - it is no error: the check cannot be made
    """Raised by a check that cannot be made; its text says why in one line."""


@dataclass(frozen=True)
class Limits:
    """Values of a measured quantity at which a check warns, and at which it reports a problem."""

    warning: float  # the first value that is a warning
    problem: float  # the first value that is a problem
    why: str = ""  # why the verdict turns there

    def at_least(self, value: float) -> Verdict:
        """The verdict on a quantity of which more is worse.

        >>> [Limits(0.02, 0.05).at_least(value) for value in (0.01, 0.02, 0.05)]
        ['ok', 'warning', 'problem']
        """
        return "problem" if value >= self.problem else "warning" if value >= self.warning else "ok"

    def below(self, value: float) -> Verdict:
        """The verdict on a quantity of which less is worse.

        >>> [Limits(0.05, 0.02).below(value) for value in (0.05, 0.02, 0.01)]
        ['ok', 'warning', 'problem']
        """
        return "problem" if value < self.problem else "warning" if value < self.warning else "ok"


@dataclass(frozen=True)
class CheckResult:
    """What a check measured: its verdict, a sentence with the number that decided, the evidence, what to do.

    The remedy is dropped where the verdict is neither a problem nor a warning. The location is a line of the user's
    code.
    """

    verdict: Verdict
    summary: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remedy: Remedy | None = None
    plots: Sequence[Plot] = ()
    location: str | None = None


@dataclass(frozen=True)
class Check(Generic[ContextT]):
    """One question about a recipe, a run or a study."""

    id: str  # its name in findings
    # Answers the question from what is known; raises :class:`Skip` where it cannot.
    measure: Callable[[ContextT], CheckResult]
    threshold: str = ""  # where the verdict turns, in words
    source: str = ""  # the paper or the reason behind it
    limits: tuple[Limits, ...] = ()  # where the verdict turns, as numbers with their reasons
    problem: str = ""  # title of a finding that is a problem; empty for the id in words
    title: str = ""  # title of any other finding
    tasks: tuple[Task, ...] = ("single_label",)  # what the labels may be for it to make sense

    def run(self, context: ContextT) -> Finding:
        """Make the check; sentences are filled in with the context's ``unit`` where it has one."""
        return self._filled(self._made(context), context)

    def _made(self, context: ContextT) -> Finding:
        task: Task = getattr(context, "task", "single_label")
        if task not in self.tasks:
            return self.skipped(
                f"It is made for {' and '.join(TASK_INFO[each].title for each in self.tasks)}, not {task}."
            )
        try:
            return self.finding(self.measure(context))
        except Skip as why:
            return self.skipped(str(why))

    def attempt(self, context: ContextT, raises: tuple[type[Exception], ...] = ()) -> Finding:
        """Make the check, whatever a user's model or loss does; numbers of its evidence have four digits.

        Args:
            context: what is checked.
            raises: errors that are not the check's to report.
        """
        try:
            finding = self.run(context)
        except raises:
            raise
        except Exception as error:  # a user's model or loss can fail in any way; the other checks go on
            finding = self._filled(self.skipped(f"It could not be made: {format_error(error)}"), context)
        return replace(finding, evidence=rounded(finding.evidence))

    @staticmethod
    def _filled(finding: Finding, context: ContextT) -> Finding:
        unit: Unit | None = getattr(context, "unit", None)
        return finding if unit is None else finding.filled(unit)

    def finding(self, result: CheckResult) -> Finding:
        """A result as a finding."""
        needs_attention = result.verdict in ("problem", "warning")
        return Finding(
            check=self.id,
            verdict=result.verdict,
            summary=result.summary,
            evidence=dict(result.evidence),
            threshold=self.threshold,
            remedy=result.remedy if needs_attention else None,
            source=self.source,
            plots=tuple(result.plots),
            location=result.location,
            title=self.problem if needs_attention else self.title,
        )

    def skipped(self, why: str) -> Finding:
        """The finding of a check that could not be made."""
        return self.finding(CheckResult("skipped", why))


def check_all(
    checks: Sequence[Check[ContextT]], context: ContextT, follows: Mapping[str, Sequence[str]]
) -> list[Finding]:
    """One finding a check; a problem that ``follows`` from that of an earlier check is a warning that says so."""
    findings: list[Finding] = []
    for each in checks:
        finding = each.attempt(context)
        problems = [other.check for other in findings if other.verdict == "problem"]
        cause = next((name for name in problems if each.id in follows.get(name, ())), None)
        if finding.verdict == "problem" and cause is not None:
            finding = replace(finding, verdict="warning", summary=f"{finding.summary} This follows from {cause}.")
        findings.append(finding)
    return findings


def check(
    *,
    threshold: str,
    source: str = "",
    limits: Sequence[Limits] = (),
    problem: str = "",
    title: str = "",
    tasks: Sequence[Task] = ("single_label",),
) -> Callable[[Callable[[ContextT], CheckResult]], Check[ContextT]]:
    """Make a check of a function; the function's name is its id."""

    def decorate(measure: Callable[[ContextT], CheckResult]) -> Check[ContextT]:
        shown = title or problem
        return Check(measure.__name__, measure, threshold, source, tuple(limits), problem, shown, tuple(tasks))

    return decorate


class lazy(Generic[T]):  # noqa: N801 - a decorator, as property is
    """A property that is computed once; where that fails, every access raises the same :class:`Skip`.

    Args:
        make: computes it. An exception of a user's model or loss becomes a :class:`Skip` with its text.

    >>> class Context:
    ...     @lazy
    ...     def broken(self) -> int:
    ...         print("computed")
    ...         return 1 // 0
    >>> context = Context()
    >>> for _ in range(2):
    ...     try:
    ...         context.broken
    ...     except Skip as why:
    ...         print(why)
    computed
    ZeroDivisionError: integer division or modulo by zero
    ZeroDivisionError: integer division or modulo by zero
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__
        self._name = make.__name__

    @overload
    def __get__(self, instance: None, owner: type) -> lazy[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> lazy[T] | T:
        if instance is None:
            return self
        values: dict[str, Any] = instance.__dict__.setdefault("_lazy", {})
        if self._name not in values:
            try:
                values[self._name] = self._make(instance)
            except Skip as why:
                values[self._name] = why
            except Exception as error:  # a user's own model or loss can fail in any way
                values[self._name] = Skip(format_error(error))
        value = values[self._name]
        if isinstance(value, Skip):
            raise Skip(str(value))
        found: T = value
        return found


def rounded(value: Any) -> Any:
    """Numbers to four digits, in lists and mappings too; None for what is not finite.

    >>> rounded({"a": 1 / 3, "b": [float("inf"), 2]})
    {'a': 0.3333, 'b': [None, 2]}
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): rounded(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [rounded(each) for each in value]
    return rounded(float(value))


def percent(share: float) -> str:
    """A share in per cent.

    >>> percent(0.5), percent(0.999), percent(1e-6)
    ('50%', '99.9%', 'less than 0.1%')
    """
    if 0 < share < 5e-4:
        return "less than 0.1%"
    return f"{100 * share:.1f}%".replace(".0%", "%")
