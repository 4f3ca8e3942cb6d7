"""Trials that choose a method's options: the space, what to try next, the database, the jobs.

What comes next is a function of the search's seed, the pair's and the method's names and the finished trials: no
generator has a state and no trial is begun in the database, so that a study killed at any instant asks the same
questions again.

A trial is a run of its own whose recipe is the method's with the trial's values set, ``data.holdout`` from
``tuning.holdout``, the run's length × ``tuning.length``, and ``seed`` from ``tuning.seed``, or the study's where each
seed is tuned anew: the test split's images are never looked at. Optuna is imported when it is first needed.

With ``tuning.pruning`` all trials are short, each with a whole learning-rate schedule of its own, as at half of one the
larger rates are behind. The best go on from the weights that they have, with another schedule over what is left.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
import sqlite3
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stillroom.errors import BadInput, RunFailed, shorten
from stillroom.files import canonical_json, digest
from stillroom.losses.registry import loss_class
from stillroom.recipe import Recipe, parse_recipe, set_value
from stillroom.schema.base import read_optional, write
from stillroom.schema.study import TunedFile
from stillroom.study.config import MEASURES, MeasureName, Method, ModelPair, Pruning, Range, Space, Study, Tuning
from stillroom.study.engine.base import Job, Outcome
from stillroom.study.plan import (
    CalibratedSteps,
    ChosenOptions,
    PairAndName,
    RecipeContent,
    StudyFolder,
    reading_own_file,
    recipe_content,
    resolve_path,
    threads_of,
    value_at,
    with_seed,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial
    from sqlalchemy import URL

_DIGITS = 6  # significant, of the numbers that trials try: recipes stay readable
# What the study itself sets in a trial's recipe, or holds equal in all.
_OF_THE_STUDY = ("seed", "data.holdout", "training.epochs", "training.steps", "training.threads")
_WITHIN = (math.sqrt(5) - 1) / 2  # of the way from low to high: no whole number, where a field needs one
_AT_RANDOM = 5  # trials before the search learns from them; Optuna's 10 are most of what a student is worth
_DRAWS = 32  # before a trial that was made already is taken again
# What a stored trial says of itself besides its parameters.
_NUMBER, _VALUES, _CHECKSUM = "number", "values", "checksum"
_PRUNED_AT = 0  # the step that Optuna has the value of a short trial at
_DATABASE = "tuning.db"
_PLENTY = 1_000_000  # steps, where a budget in seconds is not known in steps yet
# Also where it is no URL after all, as somebody may have left the beginning out.
_PASSWORD = re.compile(r"((?:://|^(?!.*://))[^:@/]*:)(.*)@")

Params = dict[str, Any]


# -- what is searched


def points(space: Space) -> float:
    """How many different trials a space has; infinite where numbers are searched that need not be whole.

    >>> points({"a": ("x", "y"), "b": Range(low=1, high=3, whole=True)}), points({"a": Range(low=0, high=1)})
    (6, inf)
    """
    total: float = 1
    for search in space.values():
        if not isinstance(search, Range):
            total *= len(search)
        else:
            total *= int(search.high - search.low) + 1 if search.whole else math.inf
    return total


def readable(number: float, search: Range) -> int | float:
    """A number as a recipe shall have it: whole, or of 6 significant digits, and within its range.

    >>> readable(0.123456789, Range(low=0, high=1)), readable(0.123456789, Range(low=0, high=0.1234561))
    (0.123457, 0.1234561)
    """
    if search.whole:
        return int(number)
    return min(max(float(f"{number:.{_DIGITS}g}"), search.low), search.high)


def own_values(space: Space, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The point of a space that a recipe as it is written stands for; None where it lies outside.

    Args:
        content: the recipe; what it leaves out has its default.

    Raises:
        BadInput: it is no recipe.

    >>> recipe = {"student": {"name": "resnet8"}, "training": {"optimizer": {"lr": 0.05}}}
    >>> own_values({"training.optimizer.lr": Range(low=0.01, high=1), "data.batch_size": (64, 128)}, recipe)
    {'training.optimizer.lr': 0.05, 'data.batch_size': 128}
    >>> own_values({"training.optimizer.lr": (0.1, 0.2)}, recipe) is None
    True
    """
    whole = parse_recipe(dict(content)).model_dump(mode="json")
    values = {}
    for key, search in space.items():
        value = value_at(whole, key)
        if isinstance(search, Range):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return None
            if not search.low <= value <= search.high or (search.whole and value != int(value)):
                return None
            values[key] = int(value) if search.whole else float(value)
        else:
            place = place_of(value, search)
            if place is None:
                return None
            values[key] = search[place]
    return values


def place_of(value: Any, choices: tuple[Any, ...]) -> int | None:
    """Which of the choices a value is; true is not 1.

    >>> place_of(1, (True, 1.0)), place_of("x", (True, 1.0))
    (1, None)
    """
    for place, choice in enumerate(choices):
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return place
    return None


def check_space(study: Study, method: Method, content: Mapping[str, Any]) -> None:
    """Refuse what cannot be searched in a method's recipe, before anything runs.

    Each choice, and of each range both ends and a number between them, is set in the recipe alone; what several of them
    do together is for the trials to find out.

    Args:
        content: its recipe, as its runs have it.

    Raises:
        BadInput: the recipe has no such field or refuses such a value, a choice is there twice, two keys are one field,
            or the field is one that the study sets; by ``methods.NAME.tune.KEY`` or ``tuning.space.KEY``.

    >>> content = {"student": {"name": "resnet8"}}
    >>> tuned = Method(name="kl", tune={"training.optimizer.lr": {"low": -1, "high": 1}})
    >>> study = Study(name="x", recipe=content, methods=(tuned,), tuning={"trials": 8})
    >>> check_space(study, tuned, content)
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: methods.kl.tune.training.optimizer.lr: got -1.0; expected greater than 0
    """
    recipe = parse_recipe(copy.deepcopy(dict(content)))
    searched: dict[tuple[str, ...], str] = {}
    for key, search in study.space_of(method).items():
        own = key in method.tune
        field = f"methods.{method.name}.tune.{key}" if own else f"tuning.space.{key}"
        whose = "" if own else f" (method {method.name!r})"
        for value in _values_to_check(search, field):
            _check_value(content, recipe, key, value, field, whose)
        path = resolve_path(content, key)
        for other, name in searched.items():
            if path[: len(other)] == other or other[: len(path)] == path:
                raise BadInput(field, key, f"a field of its own: {name!r} is searched too{whose}")
        searched[path] = key


def _values_to_check(search: Range | tuple[Any, ...], field: str) -> list[Any]:
    if isinstance(search, Range):
        between = search.low + _WITHIN * (search.high - search.low)
        return [readable(number, search) for number in (search.low, search.high, between)]
    if not search:
        raise BadInput(field, [], "at least 1 choice, or {low, high, log}")
    for place, choice in enumerate(search):
        if place_of(choice, search) != place:
            raise BadInput(field, choice, "each choice once")
    return list(search)


def _check_value(content: Mapping[str, Any], recipe: Recipe, key: str, value: Any, field: str, whose: str) -> None:
    changed = copy.deepcopy(dict(content))
    try:
        set_value(changed, key, copy.deepcopy(value))
        tried = parse_recipe(changed)
    except BadInput as error:
        what = str(error).removeprefix(f"{error.field}: ")
        # The recipe's word for the field may be another: the item's position, or a field that does not fit it.
        elsewhere = "" if error.field.split(".")[-1] == key.split(".")[-1] else f" ({error.field} of the recipe)"
        refused = BadInput(field, value, error.expected)
        refused.args = (f"{field}: {what}{elsewhere}{whose}",)
        raise refused from None
    before, after = (whole.model_dump(mode="json") for whole in (recipe, tried))
    for kept in _OF_THE_STUDY:
        if value_at(before, kept) != value_at(after, kept):
            raise BadInput(field, shorten(value), f"a field that the study leaves alone; it sets {kept} itself{whose}")


def check_spaces(study: Study, folder: StudyFolder) -> None:
    """Check what every method searches on every pair, see :func:`check_space`."""
    for pair, method in pairs_and_methods(study):
        check_space(study, method, recipe_content(study, folder, pair, method))
        if study.tuning is not None and study.tuning.pruning is not None and study.space_of(method):
            first_part(trial_content(study, folder, pair, method, _PLENTY), study.tuning.pruning)


def pairs_and_methods(study: Study) -> Iterator[tuple[ModelPair, Method]]:
    """Every pair with every method."""
    return ((pair, method) for pair in study.all_pairs for method in study.methods)


# -- the database of trials


class TrialStore:
    """The database of a study's trials; one for all its tuners.

    Args:
        url: as SQLAlchemy writes it, such as ``postgresql://user:password@host/database``; None is a file of its own.
        folder: the study's, where that file lies.

    Attributes:
        where: the URL without its password.
        storage: Optuna's.

    Raises:
        BadInput: it cannot be opened or written, or holds something else.
    """

    def __init__(self, url: str | None, folder: Path) -> None:
        url = os.path.expandvars(url) if url is not None else None  # so that a password need not be in the study file
        self._url = url or ""
        self.where = without_password(url) if url is not None else str(folder / _DATABASE)
        with silent_optuna(), self._errors():
            self.storage = self._storage(url if url is not None else _file_in(folder))

    def close(self) -> None:
        """Let go of the database."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    @contextmanager
    def open(self) -> Iterator[ModuleType]:
        """Optuna at work on it, without its log; what goes wrong becomes bad input.

        Raises:
            BadInput: the database cannot be read or written.
        """
        with silent_optuna() as optuna, self._errors():
            yield optuna

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Report every way in which a database fails as bad input, in one line and without its password."""
        try:
            yield
        except BadInput:
            raise
        except Exception as error:  # each driver has errors of its own
            raise self.refused(f"a database that can be read and written ({self._reason(error)})") from None

    def refused(self, expected: str) -> BadInput:
        """The error of a database that holds something else than it should."""
        return BadInput("tuning.storage", self.where, expected)

    def _storage(self, url: str) -> RDBStorage:
        from optuna.storages import RDBStorage
        from sqlalchemy import make_url

        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            self._check_sqlite(parsed)
        return RDBStorage(url)

    def _check_sqlite(self, url: URL) -> None:
        if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
            raise self.refused("a database that is still there when a study goes on, not one in memory")
        path = Path(url.database)
        if not path.exists() or not path.stat().st_size:
            return
        # Optuna would quietly add its tables to those of another program.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "studies" not in tables:
            raise self.refused(f"a database of trials, but it is another program's, with {', '.join(sorted(tables))}")

    def _reason(self, error: BaseException) -> str:
        """The deepest cause that says something, one line."""
        while error.__cause__ is not None:
            error = error.__cause__
        text = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        password = _PASSWORD.search(self._url)
        line = text[0].replace(self._url, self.where) if self._url else text[0]
        if password and password[2]:
            line = line.replace(password[2], "***")
        return line[:160]


def _file_in(folder: Path) -> str:
    from sqlalchemy import URL

    folder.mkdir(parents=True, exist_ok=True)
    # Written by SQLAlchemy, as a folder's name may hold what means something in a URL.
    return str(URL.create("sqlite", database=str(folder.absolute() / _DATABASE)).render_as_string())


def without_password(url: str) -> str:
    """A database's URL as it may be shown.

    >>> without_password("postgresql://ann:s3cret@host/trials?sslpassword=abc&x=1")
    'postgresql://ann:***@host/trials?sslpassword=***&x=1'
    """
    url = _PASSWORD.sub(r"\1***@", url)
    return re.sub(r"(?i)([?&][^=&]*(?:password|passwd|pwd|secret|token)[^=&]*)=[^&]*", r"\1=***", url)


@contextmanager
def silent_optuna() -> Iterator[ModuleType]:
    """Optuna, imported when it is first needed, without its log and its warnings; others' use of it keeps them."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)


# -- one search


@dataclass(frozen=True)
class Proposal:
    """What to try next."""

    number: int  # of trials finished before it
    # key.path to the value that the trial's recipe has there; none in trial 0, the recipe as written
    values: dict[str, Any]
    continues: int | None = None  # the short trial whose weights it goes on from


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that was made."""

    number: int  # from 0
    values: dict[str, Any]  # as they were proposed
    value: float | None  # the measure; None where the trial failed
    continues: int | None = None  # the short trial that it went on from


class Tuner:
    """The search of one method's options on one pair, by Optuna's tree-structured Parzen estimator.

    Trial 0 is the recipe as written; where it is a point of the space, the search learns from it too. No point is tried
    twice: a space of fewer points than trials is searched whole, and then the tuner is done. With pruning these trials
    are short, and the best of them are proposed once more, to go on.

    Args:
        space: what is searched; with an empty one the tuner is done at once.
        study: a name that no other study has, such as its hash.
        recipe: the method's recipe, for the point that trial 0 is; left out: outside the space.
        run_seed: the study's seed, where each is tuned anew.

    Attributes:
        trials: how many points are tried.

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
    >>> tuner.done, sorted(str(trial.values) for trial in tuner.finished)
    (True, ["{'training.optimizer.lr': 0.1}", "{'training.optimizer.lr': 0.2}", '{}'])
    >>> tuner.best() == (tuner.finished[1].values, 71.5)
    True
    """

    def __init__(
        self,
        tuning: Tuning,
        space: Space,
        *,
        measure: MeasureName,
        study: str,
        pair: str,
        method: str,
        store: TrialStore,
        recipe: Mapping[str, Any] | None = None,
        run_seed: int | None = None,
    ) -> None:
        self._space = space
        self._pair, self._method = pair, method
        self._store = store
        own_seed = () if run_seed is None else (run_seed,)
        self._address = (tuning.seed, pair, method, *own_seed)
        self._name = "/".join([study, pair, method, *(f"seed-{each}" for each in own_seed)])
        self._keep = 0 if tuning.pruning is None else tuning.pruning.keep
        self._direction = "maximize" if MEASURES[measure].higher_is_better else "minimize"
        written = own_values(space, recipe) if recipe is not None and space else None
        self._written = self._params(written) if written is not None else {}
        self.trials = int(min(tuning.trials, points(space) + (written is None))) if space else 0
        self._finished: tuple[FinishedTrial, ...] = ()
        self._tried: tuple[Params, ...] = ()
        if space:
            with store.open() as optuna:
                self._kept = optuna.create_study(
                    storage=store.storage, study_name=self._name, direction=self._direction, load_if_exists=True
                )
            self._read()

    @property
    def done(self) -> bool:
        """Whether all trials were made, or there is nothing to search."""
        made = len(self._finished)
        return made >= self.trials and made >= self.trials + len(self._continued(self._finished))

    @property
    def finished(self) -> tuple[FinishedTrial, ...]:
        """The trials that were made, in their order."""
        return self._finished

    def ask(self) -> Proposal:
        """What to try next: the same until its result is given to :meth:`tell`.

        Raises:
            RuntimeError: the tuner is done.
        """
        if self.done:
            raise RuntimeError(f"{self._name}: all {self.trials} trials were made")
        number = len(self._finished)
        params, continues = self._proposed()
        if continues is not None:
            return Proposal(number, dict(self._finished[continues].values), continues)
        return Proposal(number, self._values(params) if number else {})

    def tell(self, number: int, value: float | None) -> None:
        """Keep how a trial ended; one that was kept before stays as it was.

        Args:
            value: the measure; None, or a number that is not finite: the trial failed, and counts as one.

        Raises:
            BadInput: the database cannot be written.
            ValueError: it is not the trial that was asked for.
        """
        self._read()
        if number < len(self._finished):
            return
        if number != len(self._finished) or self.done:
            raise ValueError(f"number: got {number}; expected {len(self._finished)}, the trial that was asked for")
        params, continues = self._proposed()
        origin = number if continues is None else continues
        values = self._values(params) if origin else {}
        finite = value is not None and math.isfinite(value)
        kept = float(value) if value is not None and finite else None
        short = kept is not None and continues is None and self._keep > 0
        with self._store.open() as optuna:
            states = optuna.trial.TrialState
            state = states.FAIL if kept is None else states.PRUNED if short else states.COMPLETE
            # One transaction: a kill leaves the whole trial or nothing of it.
            self._kept.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    value=None if short else kept,
                    intermediate_values={_PRUNED_AT: kept} if short else None,
                    params=params,
                    distributions=self._distributions() if params else {},
                    user_attrs={
                        _NUMBER: number,
                        _VALUES: values,
                        _CHECKSUM: self._checksum(number, values, params, kept),
                    },
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
        last = self._finished[self.trials :] if self._keep else self._finished
        ended = [trial for trial in last if trial.value is not None]
        if not ended:
            raise RunFailed(
                f"method {self._method!r} on pair {self._pair!r}: none of its {len(self._finished)} trials gave a "
                "finite measure; try narrower ranges, or a recipe that trains as it is written"
            )
        found = min(ended, key=self._order)
        return dict(found.values), found.value

    def _order(self, trial: FinishedTrial) -> tuple[float, int]:
        """The best first; of equal ones the earliest."""
        sign = 1 if self._direction == "minimize" else -1
        return sign * (trial.value or 0.0), trial.number

    def _continued(self, finished: Sequence[FinishedTrial]) -> list[int]:
        """The numbers of the short trials that go on, the best first; none before all were made."""
        short = finished[: self.trials]
        if not self._keep or len(short) < self.trials:
            return []
        return [one.number for one in sorted((t for t in short if t.value is not None), key=self._order)][: self._keep]

    def _proposed(self) -> tuple[Params, int | None]:
        """The next parameters, and the short trial that they are to go on from, where they are one's."""
        number = len(self._finished)
        if number >= self.trials:
            continues = self._continued(self._finished)[number - self.trials]
            return self._tried[continues], continues
        return (self._drawn() if number else self._written), None

    def _drawn(self) -> Params:
        """Parameters that were not tried yet, from a fresh search that has seen the finished trials and no other."""
        with self._store.open() as optuna:
            sampler = optuna.samplers.TPESampler(
                seed=self._seed_of(len(self._finished)),
                n_startup_trials=_AT_RANDOM,
                multivariate=True,
                constant_liar=False,
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
        values = [trial.value for trial in self._finished if trial.value is not None]
        if values:
            worst = max(values) if self._direction == "minimize" else min(values)
            for trial, params in zip(self._finished, self._tried, strict=True):
                if params:
                    yield worst if trial.value is None else trial.value, params

    def _seed_of(self, number: int) -> int:
        address = canonical_json([*self._address, number])
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
        with self._store.open():
            kept = self._kept.get_trials(deepcopy=False)
            direction = self._kept.direction.name.lower()
            finished: list[FinishedTrial] = []
            tried: list[Params] = []
            # Anything else in there is not ours, such as a trial that somebody enqueued.
            for trial in sorted(
                (t for t in kept if _NUMBER in t.user_attrs), key=lambda t: (t.user_attrs[_NUMBER], t.number)
            ):
                number, values = trial.user_attrs[_NUMBER], trial.user_attrs.get(_VALUES)
                value = trial.value if trial.state.name == "COMPLETE" else trial.intermediate_values.get(_PRUNED_AT)
                if trial.user_attrs.get(_CHECKSUM) != self._checksum(number, values, trial.params, value):
                    raise self._store.refused(
                        f"trial {number} of {self._name!r} as it was written, but it is damaged; restore the database "
                        "from a copy, or remove it: the trials are made again from their runs"
                    )
                if number < len(finished):
                    continue  # two processes made it at once: the first counts
                follows, continues = self._continued(finished), None
                if self.trials <= number < self.trials + len(follows):
                    continues = follows[number - self.trials]
                origin = number if continues is None else continues
                fits = continues is None or tried[continues] == trial.params
                ours = number == len(finished) and fits and self._is_ours(trial, origin, values)
                if not ours or direction != self._direction:
                    raise self._store.refused(f"this search's own trials under the name {self._name!r}, not another's")
                proposed = self._values(trial.params) if origin else {}
                finished.append(FinishedTrial(number, proposed, value, continues))
                tried.append(dict(trial.params))
            self._finished, self._tried = tuple(finished), tuple(tried)

    def _checksum(self, number: int, values: Any, params: Params, value: float | None) -> str:
        """Of all that the database holds of a trial: it has none of its own."""
        return digest(canonical_json([self._name, number, values, params, None if value is None else float(value)]))

    def _is_ours(self, trial: FrozenTrial, number: int, values: Any) -> bool:
        if number == 0:
            return values == {} and trial.params == self._written
        # As JSON, which is how the database has them.
        same = trial.distributions == self._distributions()
        return same and canonical_json(values) == canonical_json(self._values(trial.params))


def score(summary: Mapping[str, Any], measure: MeasureName) -> float | None:
    """What a trial is judged by: a figure of its run's summary, on the images that were held out.

    Higher is better for top1, top5, agreement and class relations, lower for nll, ece and teacher_kl.

    Returns:
        The figure; None where there is none, or none that is finite: the trial failed.

    >>> score({"top1": 71.5}, "top1"), score({"nll": float("nan")}, "nll"), score({}, "agreement")
    (71.5, None, None)
    """
    value = MEASURES[measure].value_in(summary)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


# -- the searches of a study


@dataclass(frozen=True, eq=False)
class Search:
    """A method's search on a pair, of one seed where each is tuned anew."""

    pair: ModelPair
    method: Method
    seed: int | None

    @property
    def where(self) -> PairAndName:
        """Pair and method."""
        return self.pair.name, self.method.name

    @property
    def id(self) -> str:
        """What the jobs of its trials begin with."""
        return "/".join(["trial", *self.where, *([] if self.seed is None else [f"seed-{self.seed}"])])


def searches(study: Study) -> list[Search]:
    """Every search of a study, seed by seed: of each method but those that another's trials choose for."""
    assert study.tuning is not None
    seeds = study.seeds if study.tuning.repeat == "per_seed" else (None,)
    own = [(pair, method) for pair, method in pairs_and_methods(study) if study.tuned_by(method) is method]
    return [Search(pair, method, seed) for seed in seeds for pair, method in own]


def trial_content(
    study: Study,
    folder: StudyFolder,
    pair: ModelPair,
    method: Method,
    steps: int | None = None,
    seed: int | None = None,
) -> RecipeContent:
    """The recipe of a trial with nothing searched set: shorter, and judged on held-out training images.

    Args:
        steps: what a budget in seconds came to.
        seed: the study's, where each is tuned anew.
    """
    assert study.tuning is not None
    tuning = study.tuning
    content = with_seed(
        recipe_content(study, folder, pair, method, steps), method, tuning.seed if seed is None else seed
    )
    content["data"] = {**content.get("data", {}), "holdout": tuning.holdout}
    training = dict(content.get("training", {}))
    unit = _unit(content)
    # What is kept for explaining a run is of no use in a trial.
    content["training"] = {
        **training,
        unit: max(round((training.get(unit) or 10) * tuning.length), 1),
        "checkpoints": [],
        "record_weight_distance": [],
        "record_gradient_rescaling": False,
    }
    return content


def _unit(content: RecipeContent) -> str:
    return "steps" if content.get("training", {}).get("steps") else "epochs"


def first_part(content: RecipeContent, pruning: Pruning) -> int:
    """The length of a trial's first part, in the recipe's unit.

    Raises:
        BadInput: nothing would be left to go on with, or its classes come in tasks.
    """
    unit = _unit(content)
    whole = int(content["training"][unit])
    first = max(round(whole * pruning.length), 1)
    if content.get("incremental") is not None:
        raise BadInput("tuning.pruning", pruning.model_dump(), "none with tasks: a trial cannot go on from its weights")
    if first >= whole:
        expected = (
            f"a smaller share: a whole trial has {whole} {unit}, its first part {first}; or a larger tuning.length"
        )
        raise BadInput("tuning.pruning.length", pruning.length, expected)
    return first


def part_of_trial(content: RecipeContent, pruning: Pruning, continues: Path | None) -> RecipeContent:
    """A trial's recipe, of its first part, or of the rest from the weights in a folder.

    A student that ends in its teacher's last layer is trained anew, for the whole length: it cannot take its weights.
    """
    unit, first = _unit(content), first_part(content, pruning)
    whole = int(content["training"][unit])
    content = copy.deepcopy(content)
    if continues is None:
        content["training"][unit] = first
    elif not any(loss_class(term).reuses_head for term in parse_recipe(copy.deepcopy(content)).losses):
        content["training"][unit] = whole - first
        set_value(content, "student.weights", str(continues / "student.safetensors"))
    return content


def expected_trials(study: Study, folder: StudyFolder) -> list[Job]:
    """The trials that are to come, as far as is known before the searches: a small space may need fewer."""
    assert study.tuning is not None
    kept, pruning = read_tuned(folder), study.tuning.pruning
    jobs = []
    for search in searches(study):
        space = study.space_of(search.method)
        if not space or _entry(kept, search) is not None:
            continue
        content = trial_content(study, folder, search.pair, search.method)
        count = int(min(study.tuning.trials, points(space) + 1))
        for number in range(count + (0 if pruning is None else min(pruning.keep, count))):
            part = content if pruning is None else part_of_trial(content, pruning, None if number < count else Path())
            jobs.append(Job(f"{search.id}/{number}", "trial", part, ""))
    return jobs


class Trials:
    """The searches of a study.

    Args:
        steps: what a budget in seconds came to.
        leave_out: methods that cannot be run on a pair.

    Raises:
        BadInput: the database of trials cannot be used.
    """

    def __init__(
        self, study: Study, folder: StudyFolder, steps: CalibratedSteps, leave_out: Collection[PairAndName] = ()
    ) -> None:
        assert study.tuning is not None
        self._study, self._folder, self._tuning = study, folder, study.tuning
        self._measure = study.tuning.measure or study.measure
        self._kept: dict[str, dict[str, Any]] = read_tuned(folder)
        self._store = TrialStore(study.tuning.storage, folder.path)
        self._contents: dict[Search, RecipeContent] = {}
        self._tuners: dict[Search, Tuner] = {}
        self._asked: dict[str, tuple[Search, Proposal]] = {}
        self._failed: dict[tuple[str, str, int | None], str] = {}
        for search in searches(study):
            if _entry(self._kept, search) is not None or search.where in leave_out:
                continue
            pair, method = search.pair, search.method
            content = trial_content(study, folder, pair, method, steps.get(search.where), search.seed)
            self._contents[search] = content
            self._tuners[search] = Tuner(
                study.tuning,
                study.space_of(method),
                measure=self._measure,
                study=study.hash(),
                pair=pair.name,
                method=method.name,
                store=self._store,
                recipe=content,
                run_seed=search.seed,
            )

    def made(self) -> list[str]:
        """The jobs of trials that were made before, by another driver."""
        return [f"{search.id}/{trial.number}" for search, tuner in self._tuners.items() for trial in tuner.finished]

    def first(self, seed: int | None = None) -> list[Job]:
        """The trial that comes next in each search; of a seed, where each is tuned anew."""
        return [job for search in self._of(seed) for job in self._next(search)]

    def over(self, seed: int | None = None) -> bool:
        """Whether no trial is to come; of a seed, where each is tuned anew."""
        return all(self._tuners[search].done or self._key(search) in self._failed for search in self._of(seed))

    def seed_of(self, job: Job) -> int:
        """The seed of a trial under way, where each seed is tuned anew."""
        seed = self._asked[job.id][0].seed
        assert seed is not None
        return seed

    def failure(self, pair: str, tuned_by: str, seed: int) -> str | None:
        """Why a run has no options to run with; None where it has.

        Args:
            tuned_by: the method whose trials choose for it.
        """
        return self._failed.get((pair, tuned_by, seed)) or self._failed.get((pair, tuned_by, None))

    def _of(self, seed: int | None) -> list[Search]:
        return [search for search in self._tuners if search.seed == seed]

    @staticmethod
    def _key(search: Search) -> tuple[str, str, int | None]:
        return (*search.where, search.seed)

    def next_jobs(self, job: Job, outcome: Outcome) -> list[Job]:
        """Record how a trial of a search ended; returns the next one.

        A trial that cannot go on, such as one whose loss is not finite, counts as one without a value. One whose
        process died again and again, that ran out of memory or that did not find its data says nothing of its
        options: the search waits for the study to be taken up again.
        """
        search, proposal = self._asked.pop(job.id)
        if outcome.ending in ("crashed", "bad_input", "out_of_memory"):
            self._failed[self._key(search)] = f"a trial of it failed: {outcome.reason}"
            return []
        value = score(outcome.result, self._measure) if outcome.ending == "done" else None
        self._tuners[search].tell(proposal.number, value)
        return self._next(search)

    def chosen(self) -> ChosenOptions:
        """What the searches that are done chose; kept in ``tuned.json`` for good."""
        for search, tuner in self._tuners.items():
            if not tuner.done:
                continue
            try:
                values, value = tuner.best()
            except RunFailed as error:
                self._failed[self._key(search)] = str(error)
                continue
            found = {
                "trials": tuner.trials,
                "values": values,
                "value": value,
                "measure": self._measure,
                "all": [_trial(trial) for trial in tuner.finished],
            }
            mine = self._kept.setdefault(search.pair.name, {})
            if search.seed is None:
                mine[search.method.name] = found
            else:
                del found["measure"]
                whole = {"trials": tuner.trials, "values": {}, "value": None, "measure": self._measure, "all": []}
                mine.setdefault(search.method.name, {**whole, "seeds": {}})["seeds"][str(search.seed)] = found
        # In the study's order, whichever search ended first.
        ordered: dict[str, dict[str, Any]] = {}
        for search in searches(self._study):
            entry = self._kept.get(search.pair.name, {}).get(search.method.name)
            if entry is not None:
                if "seeds" in entry:
                    entry["seeds"] = {s: entry["seeds"][s] for s in map(str, self._study.seeds) if s in entry["seeds"]}
                ordered.setdefault(search.pair.name, {})[search.method.name] = entry
        write(self._folder.tuned, TunedFile.model_validate({"pairs": ordered}))
        return chosen_of(ordered)

    def close(self) -> None:
        """Let go of the database."""
        self._store.close()

    def _next(self, search: Search) -> list[Job]:
        tuner = self._tuners[search]
        while not tuner.done:
            proposal = tuner.ask()
            content = copy.deepcopy(self._contents[search])
            for key, value in proposal.values.items():
                set_value(content, key, value)
            try:
                parse_recipe(copy.deepcopy(content))
            except BadInput:
                # Values that are fine one by one may not be so together.
                tuner.tell(proposal.number, None)
                continue
            return [self._job(search, proposal, content)]
        return []

    def _job(self, search: Search, proposal: Proposal, content: RecipeContent) -> Job:
        def folder_of(number: int) -> Path:
            return self._folder.trial(*search.where, number, search.seed).resolve()

        if self._tuning.pruning is not None:
            continues = None if proposal.continues is None else folder_of(proposal.continues)
            content = part_of_trial(content, self._tuning.pruning, continues)
        job = Job(
            id=f"{search.id}/{proposal.number}",
            kind="trial",
            recipe=content,
            out=str(folder_of(proposal.number)),
            threads=threads_of(content),
        )
        self._asked[job.id] = (search, proposal)
        return job


def _trial(trial: FinishedTrial) -> dict[str, Any]:
    found = asdict(trial)
    if trial.continues is None:
        del found["continues"]
    return found


def _entry(tuned: Mapping[str, Mapping[str, Any]], search: Search) -> Mapping[str, Any] | None:
    """What a search chose before; None where it has not ended."""
    found = tuned.get(search.pair.name, {}).get(search.method.name)
    if found is None or search.seed is None:
        return found
    entry: Mapping[str, Any] | None = found.get("seeds", {}).get(str(search.seed))
    return entry


def read_tuned(folder: StudyFolder) -> dict[str, dict[str, Any]]:
    """What trials chose before; empty where none did; BadInput where the file is damaged."""
    with reading_own_file(folder.tuned, "remove it to read the trials again"):
        found = read_optional(TunedFile, folder.tuned)
        return {} if found is None else found.as_dict()["pairs"]


def chosen_of(tuned: Mapping[str, Mapping[str, Any]]) -> ChosenOptions:
    """The chosen values by pair and method, from ``tuned.json``; by seed, too, where each was tuned anew."""
    found: dict[PairAndName | tuple[str, str, int], Mapping[str, Any]] = {}
    for pair, mine in tuned.items():
        for name, entry in mine.items():
            if seeds := entry.get("seeds"):
                found |= {(pair, name, int(seed)): each["values"] for seed, each in seeds.items()}
            else:
                found[pair, name] = entry["values"]
    return found
