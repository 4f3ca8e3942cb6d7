"""The form that every check made before a run has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from stillroom.diagnose.checks.recipe.case import Case
from stillroom.diagnose.checks.recipe.parts import Skip
from stillroom.diagnose.finding import Finding, Plot, Remedy, Verdict


class Check(ABC):
    """One question about a recipe, answered from its :class:`Case`.

    Attributes:
        name: what findings call it.
        threshold: where its verdict turns, and why there.
        source: the paper or the reason behind it.
    """

    name: ClassVar[str]
    threshold: ClassVar[str]
    source: ClassVar[str] = ""

    @abstractmethod
    def examine(self, case: Case) -> Finding:
        """Look at the case.

        Raises:
            Skip: it cannot be told.
        """

    def found(
        self,
        verdict: Verdict,
        summary: str,
        evidence: Mapping[str, Any] | None = None,
        remedy: Remedy | None = None,
        plots: Sequence[Plot] = (),
    ) -> Finding:
        """A finding of this check, its numbers to four digits."""
        return Finding(
            self.name,
            verdict,
            summary,
            {name: rounded(value) for name, value in (evidence or {}).items()},
            self.threshold,
            remedy if verdict in ("problem", "warning") else None,
            self.source,
            tuple(plots),
        )


def require_teaching(case: Case) -> None:
    """Go on only where somebody listens to the teacher.

    Raises:
        Skip: nobody does.
    """
    if case.recipe.teacher is None:
        raise Skip("The recipe has no teacher.")
    if not case.teaching:
        raise Skip("No term of the loss reads a teacher.")


def rounded(value: Any) -> Any:
    """Numbers to four digits, all through lists and mappings; what is not finite becomes None.

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
    """A share as a person says it.

    >>> percent(0.5), percent(0.999), percent(1e-6)
    ('50%', '99.9%', 'less than 0.1%')
    """
    if 0 < share < 5e-4:
        return "less than 0.1%"
    return f"{100 * share:.1f}%".replace(".0%", "%")
