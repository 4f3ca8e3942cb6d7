"""The search of options: the same questions whatever was killed, the best of the answers, and databases that fail."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processes import Process, in_child
from stillroom.errors import BadInput, RunFailed
from stillroom.recipe import parse_recipe, set_value
from stillroom.study.config import Method, Range, Space, Study, Tuning
from stillroom.study.tuning import FinishedTrial, TrialStore, Tuner, check_space, score

SPACE: Space = {
    "training.optimizer.lr": Range(low=0.001, high=1, log=True),
    "losses.kl.temperature": Range(low=1, high=16),
    "training.accumulate": Range(low=1, high=4, whole=True),
    "training.schedule.milestones": ([0.5], [0.25, 0.5], None),
}
RECIPE: dict[str, Any] = {
    "student": {"name": "resnet8"},
    "teacher": {"name": "resnet56"},
    "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "temperature": 4}],
    "training": {"optimizer": {"lr": 0.123456789}, "schedule": {"milestones": [0.5]}},
}


TRIALS = 8  # the last of them are not drawn at random any more


def make(folder: Path, space: Space = SPACE, **options: Any) -> Tuner:
    named = ("trials", "seed", "pruning")
    tuning = Tuning(**{"trials": TRIALS, **{key: options.pop(key) for key in named if key in options}})
    whose = {"measure": "top1", "study": "abc", "pair": "all", "method": "kl", **options}
    store = whose.pop("store", None) or TrialStore(None, folder)
    return Tuner(tuning, space, store=store, **whose)


def study_with(method: Method, space: Space | None = None) -> Study:
    return Study(name="x", recipe={}, methods=(method,), tuning=Tuning(trials=12, space=space or {}))


def judged(values: dict[str, Any]) -> float | None:
    """A measure with one peak, and trials that fail."""
    rate = values.get("training.optimizer.lr", 0.1)
    if rate > 0.6:
        return None
    return 70 - math.log(rate / 0.05) ** 2 - abs(values.get("losses.kl.temperature", 4) - 3) / 4


def search(tuner: Tuner) -> list[tuple[dict[str, Any], float | None]]:
    made = []
    while not tuner.done:
        proposal = tuner.ask()
        assert proposal.number == len(made)
        made.append((proposal.values, judged(proposal.values)))
        tuner.tell(*((proposal.number, made[-1][1])))
    return made


def test_the_first_trial_is_the_recipe_as_written_and_the_others_lie_in_the_space(tmp_path: Path) -> None:
    made = [values for values, _ in search(make(tmp_path, recipe=RECIPE))]
    assert made[0] == {}
    assert len(made) == TRIALS
    for values in made[1:]:
        assert list(values) == list(SPACE)
        assert 0.001 <= values["training.optimizer.lr"] <= 1
        assert type(values["training.accumulate"]) is int
        assert values["training.schedule.milestones"] in SPACE["training.schedule.milestones"]  # type: ignore[operator]
        for number in (values["training.optimizer.lr"], values["losses.kl.temperature"]):
            assert type(number) is float
            assert number == float(f"{number:.6g}")
        assert json.loads(json.dumps(values)) == values
    assert len({str(values) for values in made}) == TRIALS


def test_it_searches_where_it_was_good(tmp_path: Path) -> None:
    space: Space = {"training.optimizer.lr": Range(low=1e-5, high=10, log=True)}
    made = search(make(tmp_path, space, trials=30))
    rates = [values["training.optimizer.lr"] for values, _ in made[6:]]
    assert sum(abs(math.log(rate / 0.05)) < 1.5 for rate in rates) >= 10  # at random 5 of 24 lie there
    # Trials that failed count as the worst in the search, which would else never leave them.
    assert sum(rate > 0.6 for rate in rates) <= 5


@pytest.mark.parametrize("between", ["ask", "tell"])
def test_a_search_that_is_killed_anywhere_goes_on_as_if_it_never_was(tmp_path: Path, between: str) -> None:
    whole = make(tmp_path / "whole")
    expected = search(whole)
    made = []
    for number in range(TRIALS):
        tuner = make(tmp_path / "killed")  # a new process each time
        proposal = tuner.ask()
        if between == "ask":
            assert make(tmp_path / "killed").ask() == proposal
            tuner = make(tmp_path / "killed")
        tuner.tell(number, judged(proposal.values))
        made.append((proposal.values, judged(proposal.values)))
    assert made == expected
    again = make(tmp_path / "killed")
    assert again.done
    assert again.finished == whole.finished
    assert again.best() == whole.best()


PRUNING = {"keep": 3, "length": 0.25}


def test_the_best_of_short_trials_go_on_and_the_others_are_pruned(tmp_path: Path) -> None:
    import optuna

    store = TrialStore(None, tmp_path)
    tuner = make(tmp_path, pruning=PRUNING, store=store)
    search(tuner)
    short, whole = tuner.finished[:TRIALS], tuner.finished[TRIALS:]
    assert [trial.continues for trial in short] == [None] * TRIALS
    best = sorted((t for t in short if t.value is not None), key=lambda t: (-(t.value or 0), t.number))[:3]
    assert [(trial.continues, trial.values) for trial in whole] == [(trial.number, trial.values) for trial in best]
    # Whoever opens the database with Optuna sees them for what they are.
    states = [trial.state for trial in optuna.load_study(study_name="abc/all/kl", storage=store.storage).trials]
    assert states.count(optuna.trial.TrialState.COMPLETE) == 3
    assert states.count(optuna.trial.TrialState.PRUNED) == sum(trial.value is not None for trial in short)
    # The short trials are proposed as without pruning: what goes on does not change what is tried.
    assert [trial.values for trial in short] == [trial.values for trial in search_of(make(tmp_path / "plain"))]


def search_of(tuner: Tuner) -> tuple[FinishedTrial, ...]:
    search(tuner)
    return tuner.finished


def test_the_whole_trials_alone_decide_and_a_kill_changes_nothing(tmp_path: Path) -> None:
    def made(folder: Path, *, killed: bool) -> Tuner:
        tuner = make(folder, pruning=PRUNING, trials=4)
        while not tuner.done:
            proposal = tuner.ask()
            # Longer, all are worse, and the third of them the least so.
            value = judged(proposal.values) if proposal.continues is None else float(proposal.number - 40)
            if killed:
                tuner = make(folder, pruning=PRUNING, trials=4)
                assert tuner.ask() == proposal
            tuner.tell(proposal.number, value)
        return tuner

    whole, killed = made(tmp_path / "whole", killed=False), made(tmp_path / "killed", killed=True)
    assert whole.finished == killed.finished
    assert whole.best() == (whole.finished[-1].values, whole.finished[-1].value)
    with pytest.raises(BadInput, match="not another's"):
        make(tmp_path / "whole", pruning={"keep": 1, "length": 0.25}, trials=3)


@pytest.mark.parametrize(("keep", "trials", "made"), [(5, 3, 6), (1, 1, 2)])
def test_no_more_go_on_than_there_are(tmp_path: Path, keep: int, trials: int, made: int) -> None:
    assert len(search_of(make(tmp_path, pruning={"keep": keep, "length": 0.5}, trials=trials))) == made


def test_each_seed_has_a_search_of_its_own(tmp_path: Path) -> None:
    store = TrialStore(None, tmp_path)
    found = [search(make(tmp_path, store=store, run_seed=seed)) for seed in (None, 0, 1)]
    assert all(one != other for one, other in itertools.combinations(found, 2))
    assert len(store.storage.get_all_studies()) == 3


def test_a_kill_while_a_trial_is_kept_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    from sqlalchemy import event

    expected = search(make(tmp_path / "whole", trials=4))
    folder = tmp_path / "killed"

    def step(statements: int) -> None:
        """One trial, in a process that dies at this statement of the database."""
        tuner, left = make(folder, trials=4), statements

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)

        event.listen(tuner._store.storage.engine, "before_cursor_execute", count)
        event.listen(tuner._store.storage.engine, "commit", count)
        proposal = tuner.ask()
        tuner.tell(proposal.number, judged(proposal.values))

    make(folder, trials=4)
    ends = []
    # In a transaction, where it ends and after it, of the first trial and then of the second.
    for statement in (6, 14, 15, 16, 10, 27, 28):
        ends.append(in_child(lambda statement=statement: step(statement)))
        there = make(folder, trials=4).finished
        assert [(trial.values, trial.value) for trial in there] == expected[: len(there)]
    assert set(ends) <= {0, 9}
    assert ends.count(9) >= 5
    assert 0 < len(there) < 4
    assert search_rest(make(folder, trials=4)) == expected


def search_rest(tuner: Tuner) -> list[tuple[dict[str, Any], float | None]]:
    while not tuner.done:
        proposal = tuner.ask()
        tuner.tell(proposal.number, judged(proposal.values))
    return [(trial.values, trial.value) for trial in tuner.finished]


@pytest.mark.parametrize("other", [{"seed": 1}, {"pair": "cifar10"}, {"method": "dkd"}])
def test_the_questions_depend_on_seed_pair_and_method_alone(tmp_path: Path, other: dict[str, Any]) -> None:
    first, second = make(tmp_path / "a", study="one"), make(tmp_path / "b", study="two", trials=20)
    different = make(tmp_path / "c", **other)
    for tuner in (first, second, different):
        tuner.tell(0, 50.0)
    assert first.ask() == second.ask()
    assert first.ask().values != different.ask().values


def test_methods_share_a_database_without_disturbing_each_other(tmp_path: Path) -> None:
    alone = search(make(tmp_path / "alone"))
    store = TrialStore(None, tmp_path / "shared")
    tuners = [make(tmp_path, store=store, method=name) for name in ("kl", "dkd")]
    made: list[list[Any]] = [[], []]
    while not all(tuner.done for tuner in tuners):
        for tuner, answers in zip(tuners, made, strict=True):
            proposal = tuner.ask()
            answers.append((proposal.values, judged(proposal.values)))
            tuner.tell(proposal.number, answers[-1][1])
    store.close()
    assert made[0] == alone
    assert made[1] != alone


def test_ties_go_to_the_earlier_trial_and_the_measure_tells_what_is_better(tmp_path: Path) -> None:
    space: Space = {"x": (1, 2, 3, 4)}
    for measure, values, expected in (
        ("top1", [50.0, None, 60.0, 60.0, 55.0], 2),
        ("nll", [1.5, 1.1, None, 1.1, math.nan], 1),
        ("agreement", [0.0, None, None, None, 0.0], 0),
    ):
        tuner = make(tmp_path / measure, space, trials=5, measure=measure)
        for number, value in enumerate(values):
            tuner.tell(number, value)
        assert tuner.done
        assert tuner.best() == (tuner.finished[expected].values, values[expected])
        assert [trial.value for trial in tuner.finished] == [None if v is None or v != v else v for v in values]


def test_trials_that_all_failed_name_the_method(tmp_path: Path) -> None:
    tuner = make(tmp_path, trials=2)
    tuner.tell(0, None)
    tuner.tell(1, math.inf)
    with pytest.raises(RunFailed, match=r"method 'kl' on pair 'all': none of its 2 trials"):
        make(tmp_path, trials=2).best()


def test_nothing_to_search_is_done_at_once_and_touches_no_database(tmp_path: Path) -> None:
    tuner = make(tmp_path, {}, recipe=RECIPE)
    assert (tuner.trials, tuner.done, tuner.best(), tuner.finished) == (0, True, ({}, None), ())


def test_a_small_space_is_searched_whole_and_no_point_twice(tmp_path: Path) -> None:
    space: Space = {"losses.kl.temperature": (1, 2, 4), "training.accumulate": Range(low=1, high=2, whole=True)}
    made = [values for values, _ in search(make(tmp_path / "inside", space, trials=99, recipe=RECIPE))]
    assert made[0] == {}  # temperature 4 and accumulate 1, which is not tried again
    points = {tuple(values.values()) for values in made[1:]}
    assert len(made) == 6
    assert points == {(1, 1), (1, 2), (2, 1), (2, 2), (4, 2)}
    outside = {**RECIPE, "losses": [{"name": "kl", "temperature": 3}]}
    assert len(search(make(tmp_path / "outside", space, trials=99, recipe=outside))) == 7


def test_a_trial_is_recorded_in_turn_and_once(tmp_path: Path) -> None:
    tuner = make(tmp_path)
    with pytest.raises(ValueError, match="number: got 1; expected 0"):
        tuner.tell(1, 50.0)
    tuner.tell(0, 50.0)
    tuner.tell(0, 60.0)
    assert [trial.value for trial in tuner.finished] == [50.0]
    other = make(tmp_path)  # a second process, which comes first
    other.tell(1, 51.0)
    tuner.tell(1, 52.0)
    assert [trial.value for trial in tuner.finished] == [50.0, 51.0]


def test_trials_of_another_search_under_the_same_name_are_refused(tmp_path: Path) -> None:
    search(make(tmp_path))
    for changed in (
        {"space": {**SPACE, "losses.kl.temperature": Range(low=1, high=8)}},
        {"space": {"training.optimizer.lr": Range(low=0.001, high=1)}},
        {"measure": "nll"},
        {"recipe": RECIPE},
    ):
        with pytest.raises(BadInput, match="this search's own trials under the name 'abc/all/kl'"):
            make(tmp_path, **changed)


def test_what_somebody_else_put_into_the_search_is_passed_over(tmp_path: Path) -> None:
    import optuna

    expected = search(make(tmp_path / "alone"))
    tuner = make(tmp_path / "mixed")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="abc/all/kl", storage=f"sqlite:///{tmp_path / 'mixed' / 'tuning.db'}")
    study.enqueue_trial({"training.optimizer.lr": 0.5})
    study.ask()
    study.tell(study.ask(), 99.0)
    assert search_rest(tuner) == expected


@pytest.mark.parametrize("name", ["plain", "a?b #1 100%", "é@x:y"])
def test_the_default_file_lies_in_the_study_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    search(make(tmp_path / name, trials=2))
    assert (tmp_path / name / "tuning.db").is_file()
    assert make(tmp_path / name, trials=2).done


def test_any_url_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = TrialStore("sqlite:///mine.sqlite", tmp_path / "study")
    search(make(tmp_path, store=store, trials=2))
    assert (tmp_path / "mine.sqlite").is_file()
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nonsense", "Could not parse"),
        ("oracle9://ann:s3cret@host/x", "Can't load plugin"),
        ("postgresql+nodriver://ann:s3cret@host/x", "Can't load plugin"),
        ("mysql+pymysql://ann:s3cret@host:1/x?password=s3cret", "No module named"),
        ("ann:s3cret@host", ""),
        ("redis://:s3cret@host:6379/0", "Can't load plugin"),
        ("sqlite:////nowhere/at/all/x.db", "unable to open database file"),
        ("sqlite://", "not one in memory"),
        ("sqlite:///:memory:", "not one in memory"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_its_password(
    tmp_path: Path, url: str, expected: str
) -> None:
    with pytest.raises(BadInput) as refused:
        TrialStore(url, tmp_path)
    message = str(refused.value)
    assert message.startswith("tuning.storage: got ")
    assert expected in message
    assert "s3cret" not in message
    assert "\n" not in message
    assert refused.value.__cause__ is None


def another_programs(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    database.close()


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)


def a_folder(path: Path) -> None:
    path.mkdir()


def of_other_columns(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE studies (title TEXT)")
    database.close()


@pytest.mark.parametrize("harm", [another_programs, no_database, a_folder, of_other_columns])
def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = tmp_path / "tuning.db"
    harm(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BadInput, match=r"tuning\.storage: got '.*tuning\.db'") as refused:
        make(tmp_path)
    assert "\n" not in str(refused.value)
    if harm is not of_other_columns:
        assert (path.read_bytes() if path.is_file() else None) == before


def test_a_database_that_goes_away_is_reported_when_it_is_written(tmp_path: Path) -> None:
    tuner = make(tmp_path)
    path = tmp_path / "tuning.db"
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE trials")
    database.close()
    with pytest.raises(BadInput, match=r"tuning\.storage: .*no such table"):
        tuner.tell(0, 50.0)


def test_the_search_says_nothing_and_leaves_others_their_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search(make(tmp_path))
    assert capfd.readouterr() == ("", "")
    # Objects of earlier tests may be freed, and warn, at any time.
    assert not [one for one in recwarn if "optuna" in f"{one.category.__module__} {one.filename} {one.message}"]
    assert optuna.logging.get_verbosity() == logging.WARNING


def test_the_module_comes_without_optuna() -> None:
    heavy = "('optuna', 'sqlalchemy')"
    code = f"import sys, stillroom.study.tuning; print([m for m in {heavy} if m in sys.modules])"
    assert Process(script=code).communicate() == ("[]\n", "")


def test_a_methods_own_space_wins() -> None:
    method = Method(name="x", tune={"a": (9,)})
    assert study_with(method, {"a": (1, 2), "b": (3,)}).space_of(method) == {"a": (9,), "b": (3,)}


@pytest.mark.parametrize(
    ("key", "searched", "expected"),
    [
        ("losses.kl.temprature", (1, 2), "unknown field 'temprature'; did you mean 'temperature'?"),
        ("losses.kl.temperature", {"low": -1, "high": 4}, "got -1.0; expected greater than 0"),
        ("losses.kl.temperature", (1, -2), "got -2; expected greater than 0"),
        ("losses.kl.temperature", (1, "hot"), "got 'hot'; expected"),
        ("losses.dkd.beta", (1, 2), "an item of the list by name or position: cross_entropy, kl"),
        ("training.accumulate", {"low": 1, "high": 4}, "got 2.85"),
        ("training.optimizer.lr.x", (1, 2), "training.optimizer.lr is 0.12"),
        ("data.augmentation.flip", (False, "alternate"), "(data.augmentation of the recipe)"),
        ("seed", (1, 2), "it sets seed itself"),
        ("training", ({"epochs": 3}, {"epochs": 9}), "it sets training.epochs itself"),
        ("data.holdout", (0.1, 0.2), "it sets data.holdout itself"),
        ("losses.kl.temperature", (), "at least 1 choice"),
        ("losses.kl.temperature", (2, 4, 2.0), "each choice once"),
        ("losses.1.temperature", (2, 4), "'losses.kl.weight'"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_its_name(key: str, searched: Any, expected: str) -> None:
    recipe = json.loads(json.dumps(RECIPE))
    if "flip" in key:
        set_value(recipe, "data.augmentation.views", 3)
    tune: Any = {key: searched}
    if key == "losses.1.temperature":
        tune, expected = {"losses.kl.temperature": (1, 2), key: searched}, "'losses.kl.temperature' is searched too"
    method = Method(name="kl", tune=tune)
    before = json.dumps(recipe)
    with pytest.raises(BadInput) as refused:
        check_space(study_with(method), method, recipe)
    assert str(refused.value).startswith(f"methods.kl.tune.{key}: ")
    assert expected in str(refused.value)
    assert refused.value.field == f"methods.kl.tune.{key}"
    assert json.dumps(recipe) == before


def test_a_space_of_all_names_the_method_that_it_does_not_fit() -> None:
    study = study_with(Method(name="kl"), {"losses.kl.temperature": (1, 2)})
    labels = {"student": {"name": "resnet8"}, "losses": [{"name": "cross_entropy"}]}
    check_space(study, Method(name="kl"), RECIPE)
    with pytest.raises(BadInput, match=r"^tuning\.space\.losses\.kl\.temperature: .*\(method 'labels'\)$"):
        check_space(study, Method(name="labels"), labels)


def test_every_proposal_of_a_space_that_was_checked_makes_a_recipe(tmp_path: Path) -> None:
    space = {key: searched for key, searched in SPACE.items() if key != "training.schedule.milestones"}
    space["training.schedule.milestones"] = ([0.5], [0.25, 0.5])
    check_space(study_with(Method(name="kl"), space), Method(name="kl"), RECIPE)
    for values, _ in search(make(tmp_path, space, recipe=RECIPE)):
        content = json.loads(json.dumps(RECIPE))
        for key, value in values.items():
            set_value(content, key, value)
        parse_recipe(content)


@pytest.mark.parametrize(("value", "expected"), [(71, 71.0), (0.5, 0.5), (None, None), (math.inf, None), (True, None)])
def test_a_figure_that_is_not_there_or_not_finite_is_none(value: Any, expected: float | None) -> None:
    assert score({"top1": value}, "top1") == expected
