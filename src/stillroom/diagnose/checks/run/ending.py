"""Whether the run was trained to its end, and if not, whether anybody goes on with it."""

from __future__ import annotations

from stillroom.diagnose.checks.run.reading import Case
from stillroom.diagnose.finding import Finding, Remedy
from stillroom.train.folder import is_being_written


def unfinished(case: Case) -> Finding:
    """Whether the run was trained to its end."""
    check, planned = "unfinished", case.planned
    of = f" of {planned:,}" if planned else ""
    events = [str(event.get("event")) for event in case.events]
    evidence = {"steps": case.steps, "planned": planned, "resumed": events.count("resume")}
    if case.finished:
        return Finding(check, "ok", f"The run was trained to its end: {case.steps:,}{of} steps.", evidence)
    if not case.train and not case.test:
        told = "The run logged no step: it was only begun, or its loss was not finite from the first steps on."
    else:
        told = f"The run did not end: {case.steps:,}{of} steps were logged, and only what they show is judged."
    threshold = (
        "A run is finished when summary.json is there. Sick: it is not, and no process holds the folder; suspect: one "
        "does, or nobody can tell."
    )
    if is_being_written(case.path) is False:
        words = "Go on with the run (`--resume`); if it stops again, its error line says why."
        return Finding(check, "problem", told, evidence, threshold, Remedy(words))
    return Finding(check, "warning", told, evidence, threshold, Remedy("Wait until the run has ended."))
