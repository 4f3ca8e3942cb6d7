"""What every door of the diagnosis returns: findings that print themselves, stand in a notebook and fail a test."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from stillroom.report.diagnosis import notebook_html, write_diagnosis_page
from stillroom.schema.diagnosis import DiagnosisFile, Remedy, Verdict


class ProblemsFound(AssertionError):  # noqa: N818 - it says what happened, and a test that raises it has failed
    """Raised by :meth:`Diagnosis.raise_for_problems`; the message names each problem and what to do.

    Attributes:
        diagnosis: all findings.
    """

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis
        lines = [f"{diagnosis.target}: {diagnosis.lead}"]
        for finding in diagnosis.problems:
            place = f"{finding.location}: " if finding.location else ""
            lines.append(f"  {finding.check}: {place}{finding.summary}")
            if finding.remedy is not None:
                lines += [f"    → {finding.remedy.words}", *(f"      {line}" for line in _to_paste(finding.remedy))]
        super().__init__("\n".join(lines))


class Diagnosis(DiagnosisFile):
    """All findings on a recipe, a run, a study, a loss function, a set-up or a training loop.

    ``print`` shows it as the commands do, a notebook as a table.

    >>> from stillroom.schema.diagnosis import Finding
    >>> found = Diagnosis.of("losses.py:kd", [Finding("teacher_unused", "problem", "It ignores z_t.")], kind="loss")
    >>> print(found)
    problem  teacher_unused  It ignores z_t.
    1 thing is wrong with this loss.
    >>> found.ok, [finding.check for finding in found.problems]
    (False, ['teacher_unused'])
    """

    @property
    def ok(self) -> bool:
        """Whether no finding is a problem; warnings and skipped checks are allowed."""
        return not self.problems

    def raise_for_problems(self) -> None:
        """Fail where there is a problem, as the last line of a test does.

        Raises:
            ProblemsFound: an ``AssertionError`` that names each problem and what to do.
        """
        if self.problems:
            raise ProblemsFound(self)

    def save(self, folder: str | Path) -> Path:
        """Write ``diagnosis.json`` and ``diagnosis.html`` into a folder; make the folder where needed.

        Returns:
            The page.

        Raises:
            OSError: the folder cannot be written.
        """
        self.write(Path(folder))
        return write_diagnosis_page(Path(folder))

    def lines(self) -> Iterator[tuple[Verdict | None, str]]:
        """What is printed, line by line: the verdict that begins a line (None where none does), and the rest.

        Problems come first, each with its remedy; then what is in order, in words, as names of checks are of faults.
        """
        width = max((len(finding.check) for finding in self.findings), default=0)
        for finding in (each for each in self.findings if each.needs_attention):
            place = f"{finding.location}: " if finding.location else ""
            yield finding.verdict, f"{finding.check:{width}}  {place}{finding.summary}"
            if finding.remedy is not None:
                yield None, f"{'':{width}}  → {finding.remedy.words}"
                for line in _to_paste(finding.remedy):
                    yield None, f"{'':{width}}    {line}"
        for finding in self.findings:
            if finding.verdict == "ok":
                yield "ok", f"{finding.check:{width}}  {finding.summary}"
        skipped: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.verdict == "skipped":
                skipped.setdefault(finding.summary, []).append(finding.check)
        for why, checks in skipped.items():
            if why == self.lead:
                continue  # the headline says so
            yield "skipped", f"{', '.join(checks)}: {why}"

    def attention(self) -> str:
        """What needs attention, as it is printed, and the headline: without what is in order or was skipped."""
        lines = [f"{verdict or '':8} {text}" for verdict, text in self.lines() if verdict not in ("ok", "skipped")]
        return "\n".join([*lines, self.headline])

    def __str__(self) -> str:
        lines = [f"{verdict or '':8} {text}" for verdict, text in self.lines()]
        return "\n".join([*lines, self.headline])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return notebook_html(self)


def _to_paste(remedy: Remedy) -> list[str]:
    code = remedy.code.splitlines() if remedy.code else []
    return [*code, *map(shlex.quote, remedy.arguments())]
