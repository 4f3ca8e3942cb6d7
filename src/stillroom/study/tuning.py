"""Trials that choose a method's options: what to try next, how it is judged, what was best.

What comes next is a function of the search's seed, the pair's and the method's names and the trials told so far:
no generator has a state and no trial is begun in the database, so that a study killed at any instant asks the same
questions again.

A trial is a run of its own whose recipe is the method's with the trial's values set, ``data.holdout`` from
``tuning.holdout``, the run's length × ``tuning.length``, and ``seed`` from ``tuning.seed``: the test split's images are
never looked at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.errors import RunFailed
from stillroom.files import canonical_json, digest
from stillroom.study.config import Measure, Range, Space, Tuning
from stillroom.study.measures import MEASURES, figure_of
from stillroom.study.space import check_space, merged_space, own_values, place_of, points, readable
from stillroom.study.trial_store import TrialStore

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["Proposal", "Told", "TrialStore", "Tuner", "check_space", "merged_space", "score"]

_AT_RANDOM = 5  # trials before the search learns from them; Optuna's 10 are most of what a student is worth
_DRAWS = 32  # before a trial that was made already is taken again
_NUMBER, _VALUES = "number", "values"  # what a stored trial says of itself beside its parameters

Params = dict[str, Any]


@dataclass(frozen=True)
class Proposal:
    """What to try next.

    Attributes:
        number: of trials told before it.
        values: key.path to the value that the trial's recipe has there; none in trial 0, the recipe as written.
    """

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Told:
    """A trial that was made.

    Attributes:
        number: from 0.
        values: as they were proposed.
        value: the measure; None where the trial failed.
    """

    number: int
    values: dict[str, Any]
    value: float | None


class Tuner:
    """The search of one method's options on one pair, by Optuna's tree-structured Parzen estimator.

    Trial 0 is the recipe as written; where it is a point of the space, the search learns from it too. No point is tried
    twice: a space of fewer points than trials is searched whole, and then the tuner is done.

    Args:
        tuning: the study's.
        space: what is searched, see :func:`merged_space`; an empty one is done at once.
        measure: what trials are judged by.
        study: a name that no other study has, such as its hash.
        pair: the pair's name.
        method: the method's.
        store: where trials are kept.
        recipe: the method's recipe, for the point that trial 0 is; left out: outside the space.

    Attributes:
        trials: how many are made in all.

    Raises:
        BadInput: the store cannot be used, or holds trials of another search under this name.

    >>> import pathlib, tempfile
    >>> store = TrialStore(None, pathlib.Path(tempfile.mkdtemp()))
    >>> tuner = Tuner(
    ...     Tuning(trials=3), {"training.optimizer.lr": (0.1, 0.2)}, measure="top1",
    ...     study="x", pair="all", method="kl", store=store)
    >>> for value in (70.0, 71.5, 71.5):
    ...     proposal = tuner.ask()
    ...     tuner.tell(proposal.number, value)
    >>> tuner.done, sorted(str(told.values) for told in tuner.told)
    (True, ["{'training.optimizer.lr': 0.1}", "{'training.optimizer.lr': 0.2}", '{}'])
    >>> tuner.best() == (tuner.told[1].values, 71.5)
    True
    """

    def __init__(
        self,
        tuning: Tuning,
        space: Space,
        *,
        measure: Measure,
        study: str,
        pair: str,
        method: str,
        store: TrialStore,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self._space = space
        self._seed = tuning.seed
        self._pair, self._method = pair, method
        self._store = store
        self._name = f"{study}/{pair}/{method}"
        self._direction = "maximize" if MEASURES[measure].higher_is_better else "minimize"
        written = own_values(space, recipe) if recipe is not None and space else None
        self._written = self._params(written) if written is not None else {}
        self.trials = int(min(tuning.trials, points(space) + (written is None))) if space else 0
        self._told: tuple[Told, ...] = ()
        self._tried: tuple[Params, ...] = ()
        if space:
            with store.opened() as optuna:
                self._kept = optuna.create_study(
                    storage=store.storage, study_name=self._name, direction=self._direction, load_if_exists=True
                )
            self._read()

    @property
    def done(self) -> bool:
        """Whether all trials were made, or there is nothing to search."""
        return len(self._told) >= self.trials

    @property
    def told(self) -> tuple[Told, ...]:
        """The trials that were made, in their order."""
        return self._told

    def ask(self) -> Proposal:
        """What to try next: the same until it is told of.

        Raises:
            RuntimeError: the tuner is done.
        """
        if self.done:
            raise RuntimeError(f"{self._name}: all {self.trials} trials were made")
        number = len(self._told)
        return Proposal(number, self._values(self._proposed()) if number else {})

    def tell(self, number: int, value: float | None) -> None:
        """Keep how a trial ended; one that was told of before stays as it was.

        Args:
            number: its proposal's.
            value: the measure; None, or a number that is not finite: the trial failed, and counts as one.

        Raises:
            BadInput: the database cannot be written.
            ValueError: it is not the trial that was asked for.
        """
        self._read()
        if number < len(self._told):
            return
        if number != len(self._told) or self.done:
            raise ValueError(f"number: got {number}; expected {len(self._told)}, the trial that was asked for")
        params = self._proposed() if number else self._written
        values = self._values(params) if number else {}
        finite = value is not None and math.isfinite(value)
        with self._store.opened() as optuna:
            state = optuna.trial.TrialState.COMPLETE if finite else optuna.trial.TrialState.FAIL
            # One transaction: a kill leaves the whole trial or nothing of it.
            self._kept.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    value=float(value) if value is not None and finite else None,
                    params=params,
                    distributions=self._distributions() if params else {},
                    user_attrs={_NUMBER: number, _VALUES: values},
                )
            )
        self._read()

    def best(self) -> tuple[dict[str, Any], float | None]:
        """The values of the best trial and its measure; of equal ones the earliest.

        Returns:
            No values and None where there is nothing to search.

        Raises:
            RunFailed: no trial has a measure.
        """
        if not self._space:
            return {}, None
        sign = -1 if self._direction == "minimize" else 1
        ended = [told for told in self._told if told.value is not None]
        if not ended:
            raise RunFailed(
                f"method {self._method!r} on pair {self._pair!r}: none of its {len(self._told)} trials gave a "
                "finite measure; try narrower ranges, or a recipe that trains as it is written"
            )
        found = max(ended, key=lambda told: (sign * (told.value or 0.0), -told.number))
        return dict(found.values), found.value

    def _proposed(self) -> Params:
        """Parameters that were not tried yet, from a fresh search that has seen the trials told so far and no other."""
        with self._store.opened() as optuna:
            sampler = optuna.samplers.TPESampler(
                seed=self._seed_of(len(self._told)), n_startup_trials=_AT_RANDOM, multivariate=True, constant_liar=False
            )
            search = optuna.create_study(direction=self._direction, sampler=sampler)
            distributions = self._distributions()
            for value, params in self._seen():
                search.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=distributions))
            drawn: Params = {}
            for _ in range(_DRAWS):
                drawn = self._rounded(search.ask(distributions).params)
                if drawn not in self._tried:
                    return drawn
        return next((params for params in self._all() if params not in self._tried), drawn)

    def _seen(self) -> Iterator[tuple[float, Params]]:
        """What the search learns from: a trial that failed is as bad as the worst, or it would be tried for ever."""
        values = [told.value for told in self._told if told.value is not None]
        if values:
            worst = max(values) if self._direction == "minimize" else min(values)
            for told, params in zip(self._told, self._tried, strict=True):
                if params:
                    yield worst if told.value is None else told.value, params

    def _seed_of(self, number: int) -> int:
        address = canonical_json([self._seed, self._pair, self._method, number])
        return int(digest(address)[:8], 16)

    def _rounded(self, drawn: Mapping[str, Any]) -> Params:
        """As it is tried and stored: a choice by its position, a number as a recipe shall have it."""
        return {
            key: readable(drawn[key], search) if isinstance(search, Range) else int(drawn[key])
            for key, search in self._space.items()
        }

    def _all(self) -> Iterator[Params]:
        """Every point of a space that has an end, in order; none of another."""
        if points(self._space) < math.inf:
            options = [
                range(int(search.low), int(search.high) + 1) if isinstance(search, Range) else range(len(search))
                for search in self._space.values()
            ]
            for point in itertools.product(*options):
                yield dict(zip(self._space, point, strict=True))

    def _values(self, params: Params) -> dict[str, Any]:
        """What a recipe gets: the choices themselves."""
        return {
            key: params[key] if isinstance(search, Range) else search[params[key]]
            for key, search in self._space.items()
        }

    def _params(self, values: Mapping[str, Any]) -> Params:
        """What the search sees of values that are a point of the space."""
        return {
            key: values[key] if isinstance(search, Range) else place_of(values[key], search)
            for key, search in self._space.items()
        }

    def _distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        made: dict[str, BaseDistribution] = {}
        for key, search in self._space.items():
            if not isinstance(search, Range):
                # By position: choices may be lists, mappings and nothing at all.
                made[key] = CategoricalDistribution(tuple(range(len(search))))
            elif search.whole:
                made[key] = IntDistribution(int(search.low), int(search.high), log=search.log)
            else:
                made[key] = FloatDistribution(search.low, search.high, log=search.log)
        return made

    def _read(self) -> None:
        """Take over the trials that the database holds, if they are as this search makes them."""
        with self._store.opened():
            kept = self._kept.get_trials(deepcopy=False)
            direction = self._kept.direction.name.lower()
        told: list[Told] = []
        tried: list[Params] = []
        # Anything else in there is not ours, such as a trial that somebody enqueued.
        for trial in sorted(
            (t for t in kept if _NUMBER in t.user_attrs), key=lambda t: (t.user_attrs[_NUMBER], t.number)
        ):
            number, values = trial.user_attrs[_NUMBER], trial.user_attrs.get(_VALUES)
            if number < len(told):
                continue  # two processes made it at once: the first that told counts
            if number > len(told) or direction != self._direction or not self._is_ours(trial, number, values):
                raise self._store.refused(f"this search's own trials under the name {self._name!r}, not another's")
            proposed = self._values(trial.params) if number else {}
            told.append(Told(number, proposed, trial.value if trial.state.name == "COMPLETE" else None))
            tried.append(dict(trial.params))
        self._told, self._tried = tuple(told), tuple(tried)

    def _is_ours(self, trial: FrozenTrial, number: int, values: Any) -> bool:
        if number == 0:
            return values == {} and trial.params == self._written
        # As JSON, which is how the database has them.
        same = trial.distributions == self._distributions()
        return same and canonical_json(values) == canonical_json(self._values(trial.params))


def score(summary: Mapping[str, Any], measure: Measure) -> float | None:
    """What a trial is judged by: a figure of its run's summary, on the images that were held out.

    Higher is better for top1, top5, agreement and class relations, lower for nll, ece and teacher_kl.

    Args:
        summary: of the run, see ``summary.json``.
        measure: which figure.

    Returns:
        The figure; None where there is none, or none that is finite: the trial failed.

    >>> score({"top1": 71.5}, "top1"), score({"nll": float("nan")}, "nll"), score({}, "agreement")
    (71.5, None, None)
    """
    value = figure_of(summary, measure)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
