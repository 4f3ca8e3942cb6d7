"""A run's figures in an experiment tracker: TensorBoard, Weights & Biases, MLflow or trackio."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import BadInput, format_error
from stillroom.files import parse_yaml
from stillroom.observer import Observer
from stillroom.train.device import is_main_process
from stillroom.wording import flat

_PROJECT = "stillroom"
_PLACE = ("step", "epoch", "split")


@dataclass(frozen=True)
class Tracker:
    """A tracker that is open: takes numbers by name at a step, and is closed at the end."""

    log: Callable[[Mapping[str, float], int], Any]
    close: Callable[[], Any]


def _tensorboard(folder: Path, settings: Mapping[str, Any]) -> Tracker:
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
    writer.add_text("recipe", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Tracker(log, writer.close)


def _wandb(folder: Path, settings: Mapping[str, Any]) -> Tracker:
    run = importlib.import_module("wandb").init(
        project=_PROJECT, name=folder.name, dir=str(folder), config=dict(settings)
    )
    return Tracker(lambda values, step: run.log(dict(values), step=step), run.finish)


def _mlflow(folder: Path, settings: Mapping[str, Any]) -> Tracker:
    mlflow = importlib.import_module("mlflow")
    mlflow.set_experiment(_PROJECT)
    mlflow.start_run(run_name=folder.name)
    mlflow.log_params({key: str(value)[:250] for key, value in settings.items()})  # longer ones are refused
    return Tracker(lambda values, step: mlflow.log_metrics(dict(values), step=step), mlflow.end_run)


def _trackio(folder: Path, settings: Mapping[str, Any]) -> Tracker:
    trackio = importlib.import_module("trackio")
    trackio.init(project=_PROJECT, name=folder.name, config=dict(settings))
    return Tracker(lambda values, step: trackio.log(dict(values), step=step), trackio.finish)


# By name, which is that of the package, too. accelerate has the same ones, but they need its state, which is the whole
# process's.
TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


class TrackedRun(Observer):
    """Hands each line of ``metrics.jsonl`` to trackers as ``train/loss``, ``test/top1`` …, and all to an observer.

    They change no result. A tracker that fails is left, and a note says so; the run goes on, as its own files hold
    everything. TensorBoard's files lie in the run folder, below ``tensorboard``; for the others a run that is resumed
    is a further run of the same name, in the project ``stillroom``.

    Args:
        observer: follows the run besides.
        names: the trackers, of :data:`TRACKERS`.
        folder: of the run.
        field: what errors call ``names``.

    Raises:
        BadInput: an unknown name, or a tracker that is not installed.

    >>> TrackedRun(Observer(), ["tensorbord"], Path("run"))
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: track: unknown value 'tensorbord'; did you mean 'tensorboard'? One of: ...
    """

    def __init__(self, observer: Observer, names: Sequence[str], folder: Path, *, field: str = "track") -> None:
        names = [names] if isinstance(names, str) else names
        for name in names:
            if name not in TRACKERS:
                raise BadInput.unknown(field, name, TRACKERS)
            if importlib.util.find_spec(name) is None:
                raise BadInput(field, name, f"it to be installed: pip install {name}")
        self._observer, self._names, self._folder = observer, tuple(dict.fromkeys(names)), folder
        self._open: dict[str, Tracker] = {}
        self.began = observer.began

    def run_started(self, title: str, total_steps: int, done: int) -> None:
        """Open the trackers, and give them the recipe."""
        self._observer.run_started(title, total_steps, done)
        if not is_main_process():
            return
        settings = flat(parse_yaml((self._folder / "recipe.yaml").read_text(encoding="utf-8")))
        for name in self._names:
            try:
                self._open[name] = TRACKERS[name](self._folder, settings)
            except Exception as error:  # whatever its own code raises: no network, no login
                self._leave(name, error)

    def logged(self, line: dict[str, Any]) -> None:
        """Hand the line's numbers over."""
        self._observer.logged(line)
        numbers = {key: value for key, value in line.items() if key not in _PLACE and isinstance(value, int | float)}
        values = {f"{line['split']}/{key}": float(value) for key, value in numbers.items()}
        self._each(lambda tracker: tracker.log(values | {"epoch": float(line["epoch"])}, line["step"]))

    def run_ended(self) -> None:
        """Close the trackers."""
        self._observer.run_ended()
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def stepped(self, step: int) -> None:
        """For the observer."""
        self._observer.stepped(step)

    def phase(self, what: str, done: int, total: int) -> None:
        """For the observer."""
        self._observer.phase(what, done, total)

    def note(self, text: str) -> None:
        """For the observer."""
        self._observer.note(text)

    def _each(self, call: Callable[[Tracker], Any]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                call(tracker)
            except Exception as error:
                self._leave(name, error)

    def _leave(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        self._observer.note(f"tracker {name} stopped: {format_error(error)}; the run goes on without it")
