"""The trials of a study: each method's own search, one trial after another, the methods side by side."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from stillroom.errors import BadInput, RunFailed
from stillroom.files import write_json
from stillroom.recipe import parse_recipe, set_value
from stillroom.study.config import Method, Pair, Study
from stillroom.study.engine.base import Job, Outcome
from stillroom.study.folder import StudyFolder, wholly
from stillroom.study.plan import Content, Steps, recipe_content, threads_of, with_seed
from stillroom.study.space import points
from stillroom.study.tuning import Proposal, TrialStore, Tuner, check_space, merged_space, score

Where = tuple[str, str]  # names of a pair and a method


def check_spaces(study: Study, folder: StudyFolder) -> None:
    """Refuse what cannot be searched, before anything runs.

    Raises:
        BadInput: naming the method's or the study's key.
    """
    if study.tuning is not None:
        for pair, method in entries(study):
            check_space(study.tuning, method, recipe_content(study, folder, pair, method))


def entries(study: Study) -> Iterator[tuple[Pair, Method]]:
    """Every pair with every method."""
    return ((pair, method) for pair in study.all_pairs for method in study.methods)


def trial_content(study: Study, folder: StudyFolder, pair: Pair, method: Method, steps: int | None = None) -> Content:
    """The recipe of a trial with nothing searched set: shorter, and judged on held-out training images.

    Args:
        study: one with ``tuning``.
        folder: where it lies.
        pair: the pair.
        method: the method.
        steps: what a budget in seconds came to.
    """
    assert study.tuning is not None
    tuning = study.tuning
    content = with_seed(recipe_content(study, folder, pair, method, steps), method, tuning.seed)
    content["data"] = {**content.get("data", {}), "holdout": tuning.holdout}
    training = dict(content.get("training", {}))
    unit = "steps" if training.get("steps") else "epochs"
    # What is kept for explaining a run is of no use in a trial.
    content["training"] = {
        **training,
        unit: max(round((training.get(unit) or 10) * tuning.length), 1),
        "checkpoints": [],
        "record_weight_distance": [],
        "record_gradient_rescaling": False,
    }
    return content


def expected_trials(study: Study, folder: StudyFolder) -> list[Job]:
    """The trials that are to come, as far as can be told before the searches: a small space may need fewer."""
    assert study.tuning is not None
    kept = read_tuned(folder)
    return [
        Job(f"trial/{pair.name}/{method.name}/{number}", "trial", trial_content(study, folder, pair, method), "")
        for pair, method in entries(study)
        if method.name not in kept.get(pair.name, {})
        for number in range(int(min(study.tuning.trials, points(merged_space(study.tuning, method)) + 1)))
        if merged_space(study.tuning, method)
    ]


def is_out_of_memory(reason: str) -> bool:
    """Whether a run failed for want of memory, which other options would not have cured on a machine that was free."""
    return reason.startswith("out of memory")


class Trials:
    """The searches of a study.

    Args:
        study: one with ``tuning``.
        folder: where it lies.
        steps: what a budget in seconds came to.
        leave_out: methods that cannot be run on a pair.

    Raises:
        BadInput: the database of trials cannot be used.
    """

    def __init__(self, study: Study, folder: StudyFolder, steps: Steps, leave_out: Collection[Where] = ()) -> None:
        assert study.tuning is not None
        self._study, self._folder = study, folder
        self._measure = study.tuning.measure or study.measure
        self._kept: dict[str, dict[str, Any]] = read_tuned(folder)
        self._store = TrialStore(study.tuning.storage, folder.path)
        self._contents: dict[Where, Content] = {}
        self._tuners: dict[Where, Tuner] = {}
        self._asked: dict[str, tuple[Where, Proposal]] = {}
        self.failed: dict[Where, str] = {}
        for pair, method in entries(study):
            where = (pair.name, method.name)
            if method.name in self._kept.get(pair.name, {}) or where in leave_out:
                continue
            self._contents[where] = trial_content(study, folder, pair, method, steps.get(where))
            self._tuners[where] = Tuner(
                study.tuning,
                merged_space(study.tuning, method),
                measure=self._measure,
                study=study.hash(),
                pair=pair.name,
                method=method.name,
                store=self._store,
                recipe=self._contents[where],
            )

    def first(self) -> list[Job]:
        """The trial that comes next in each search."""
        return [job for where in self._tuners for job in self._next(where)]

    def then(self, job: Job, outcome: Outcome) -> list[Job]:
        """Tell a search how its trial ended; returns the next one.

        A trial that cannot go on, such as one whose loss is not finite, counts as one without a value. One whose
        process died again and again, or that did not find its data, says nothing of its options: the search waits for
        the study to be taken up again.
        """
        where, proposal = self._asked.pop(job.id)
        if outcome.ending in ("crashed", "bad_input") or is_out_of_memory(outcome.reason):
            self.failed[where] = f"a trial of it failed: {outcome.reason}"
            return []
        value = score(outcome.result, self._measure) if outcome.ending == "done" else None
        self._tuners[where].tell(proposal.number, value)
        return self._next(where)

    def chosen(self) -> dict[Where, dict[str, Any]]:
        """What the searches that are done chose; kept in ``tuned.json`` for good."""
        for where, tuner in self._tuners.items():
            if not tuner.done:
                continue
            try:
                values, value = tuner.best()
            except RunFailed as error:
                self.failed[where] = str(error)
                continue
            pair, method = where
            self._kept.setdefault(pair, {})[method] = {
                "trials": tuner.trials,
                "values": values,
                "value": value,
                "measure": self._measure,
                "all": [{"number": t.number, "values": t.values, "value": t.value} for t in tuner.told],
            }
        # In the study's order, whichever search ended first.
        ordered: dict[str, dict[str, Any]] = {}
        for pair_, method_ in entries(self._study):
            if method_.name in self._kept.get(pair_.name, {}):
                ordered.setdefault(pair_.name, {})[method_.name] = self._kept[pair_.name][method_.name]
        write_json(self._folder.tuned, ordered)
        return {(pair, name): told["values"] for pair, mine in ordered.items() for name, told in mine.items()}

    def close(self) -> None:
        """Let go of the database."""
        self._store.close()

    def _next(self, where: Where) -> list[Job]:
        tuner = self._tuners[where]
        while not tuner.done:
            proposal = tuner.ask()
            content = copy.deepcopy(self._contents[where])
            for key, value in proposal.values.items():
                set_value(content, key, value)
            try:
                parse_recipe(content)
            except BadInput:
                # Values that are fine one by one may not be so together.
                tuner.tell(proposal.number, None)
                continue
            return [self._job(where, proposal, content)]
        return []

    def _job(self, where: Where, proposal: Proposal, content: Content) -> Job:
        pair, method = where
        job = Job(
            id=f"trial/{pair}/{method}/{proposal.number}",
            kind="trial",
            recipe=content,
            out=str(self._folder.trial(pair, method, proposal.number).resolve()),
            threads=threads_of(content),
        )
        self._asked[job.id] = (where, proposal)
        return job


def read_tuned(folder: StudyFolder) -> dict[str, dict[str, Any]]:
    """What trials chose before; empty where none did.

    Raises:
        BadInput: the file is damaged.
    """
    with wholly(folder.tuned, "remove it to read the trials again"):
        found = json.loads(folder.tuned.read_text(encoding="utf-8")) if folder.tuned.exists() else {}
        for mine in found.values():
            for told in mine.values():
                dict(told["values"])
        return dict(found)


def chosen_of(tuned: Mapping[str, Mapping[str, Any]]) -> dict[Where, dict[str, Any]]:
    """The chosen values by pair and method, from ``tuned.json``."""
    return {(pair, name): told["values"] for pair, mine in tuned.items() for name, told in mine.items()}
