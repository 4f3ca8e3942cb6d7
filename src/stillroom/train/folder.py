"""The run folder while it is being written: locked, appended to line by line, cut back to the last save on resume."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from stillroom.errors import BadInput, RunFailed
from stillroom.files import remove_partial, write_bytes
from stillroom.schema.run import LOG_MODELS

try:
    import fcntl
except ImportError:  # Windows has no flock; two writers are then not detected.
    fcntl = None  # type: ignore[assignment]

# Every save has their lengths; a resumed run truncates them to these, so that lines are neither lost nor repeated.
LOGS = ("metrics.jsonl", "weight_distance.jsonl", "gradient_rescaling.jsonl", "class_relations.jsonl")


def is_being_written(path: Path) -> bool | None:
    """Whether a process holds a run's folder; None if the system has no locks.

    >>> is_being_written(Path("nowhere")) is None
    True
    """
    if fcntl is None:
        return None
    try:
        with (path / "state" / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return False


class RunFolder:
    """One run's folder, locked by one process at a time; a context manager that holds the lock.

    Args:
        path: the folder; created if missing.

    Raises:
        BadInput: it cannot be created or written, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_path = path / "state" / "last.pt"
        self._lock: IO[bytes] | None = None
        self._fresh = False
        self._readable = False

    def __enter__(self) -> RunFolder:
        self._fresh = not self.path.exists() or not any(self.path.iterdir())
        try:
            (self.path / "state").mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / "state" / "lock").open("wb")
        except OSError as error:
            raise BadInput("--out", str(self.path), f"a folder that can be written ({error.strerror})") from None
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Some file systems do not support locks: a run there continues without one.
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    self._lock.close()
                    raise BadInput("--out", str(self.path), "a folder that no other process is writing") from None
        remove_partial(self.path)
        self._mend("timing.jsonl")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BadInput) and self._fresh and not self.state_path.exists():
            self._withdraw()
        if self._lock is not None:
            self._lock.close()

    def _withdraw(self) -> None:
        """Remove the files of a run refused before its first save, so that the folder is free again."""
        shutil.rmtree(self.path / "state", ignore_errors=True)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        for name in ("recipe.yaml", "environment.json", "timing.jsonl", *LOGS):
            (self.path / name).unlink(missing_ok=True)

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON object to a log; ``json`` refuses numbers that are not finite."""
        model = LOG_MODELS.get(name)
        if model is not None:
            line = model.model_validate(line).as_dict()
        text = json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n"
        with (self.path / name).open("a", encoding="utf-8") as log:
            log.write(text)

    def save(self, state: dict[str, Any]) -> None:
        """Save what a resumed run needs, with the logs' lengths, in one atomic step."""
        lengths = {}
        for name in LOGS:
            log = self.path / name
            if log.exists():
                with log.open("rb+") as handle:
                    os.fsync(handle.fileno())
                lengths[name] = log.stat().st_size
        # Through a buffer, so that a full disk raises OSError rather than torch's own error.
        buffer = io.BytesIO()
        torch.save({"lengths": lengths, **state}, buffer)
        if not self._readable:
            self._check_readable(buffer)
        write_bytes(self.state_path, buffer.getvalue())

    def load(self) -> dict[str, Any] | None:
        """The last save, with the logs truncated to it; None without a save, with the logs emptied.

        Raises:
            BadInput: the save is damaged.
        """
        if not self.state_path.exists():
            self._cut({})
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_path, map_location="cpu", weights_only=True)
            lengths = state["lengths"]
        except Exception as error:
            raise BadInput(
                "--resume",
                str(self.state_path),
                f"a save that can be read ({type(error).__name__}); remove it to start over",
            ) from None
        self._cut(lengths)
        return state

    def finish(self) -> None:
        """Remove what only a resumed run needs."""
        shutil.rmtree(self.path / "state", ignore_errors=True)

    def _check_readable(self, buffer: io.BytesIO) -> None:
        """Check at the first save, not at a resume, that a hook's state can be read back."""
        buffer.seek(0)
        try:
            torch.load(buffer, map_location="cpu", weights_only=True)
        except Exception:
            raise RunFailed(
                "a save could not be read back: a hook's state_dict may hold only tensors, numbers, text, lists, dicts"
            ) from None
        self._readable = True

    def _mend(self, name: str) -> None:
        """Remove a last line that a kill cut short; the next line would be appended to it."""
        log = self.path / name
        if log.exists() and not (content := log.read_bytes()).endswith(b"\n"):
            os.truncate(log, content.rfind(b"\n") + 1)

    def _cut(self, lengths: dict[str, int]) -> None:
        for name in LOGS:
            log = self.path / name
            length = lengths.get(name, 0)
            size = log.stat().st_size if log.exists() else 0
            if size < length:
                raise BadInput("--resume", str(log), f"at least the {length} bytes it had at the last save, not {size}")
            if length == 0:
                log.unlink(missing_ok=True)
            else:
                os.truncate(log, length)


class NullRunFolder(RunFolder):
    """The folder of a process that is not the main one: it reads the last save and writes nothing."""

    def __enter__(self) -> NullRunFolder:
        return self

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Does nothing: the main process writes the logs."""

    def save(self, state: dict[str, Any]) -> None:
        """Does nothing: the main process saves."""

    def finish(self) -> None:
        """Does nothing: the main process cleans up."""

    def _mend(self, name: str) -> None:
        pass

    def _cut(self, lengths: dict[str, int]) -> None:
        pass
