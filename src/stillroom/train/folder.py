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
from stillroom.files import CHECKSUMS, Log, compact_checksums, read_bytes, remove_partial, write_bytes
from stillroom.schema.run import LOG_MODELS, METRICS, RELATION_EPOCHS, RESCALING, TIMING, WEIGHT_DISTANCE

try:
    import fcntl
except ImportError:  # Windows has no flock; two writers are then not detected.
    fcntl = None  # type: ignore[assignment]

# Every save has their lengths; a resumed run truncates them to these, so that lines are neither lost nor repeated.
LOGS = (METRICS, WEIGHT_DISTANCE, RESCALING, RELATION_EPOCHS)


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
        self._logs = {name: Log(path / name) for name in (TIMING, *LOGS)}
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
        self._mend_timing()
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
        for name in ("recipe.yaml", "environment.json", CHECKSUMS, TIMING, *LOGS):
            (self.path / name).unlink(missing_ok=True)

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON object to a log; ``json`` refuses numbers that are not finite."""
        model = LOG_MODELS.get(name)
        if model is not None:
            line = model.model_validate(line).as_dict()
        self._logs[name].append(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")

    def log_lengths(self) -> dict[str, int]:
        """The length of each log that is cut back on resume, in bytes."""
        return {name: (self.path / name).stat().st_size for name in LOGS if (self.path / name).exists()}

    def save(self, state: dict[str, Any], lengths: dict[str, int] | None = None) -> None:
        """Save what a resumed run needs, with the logs' lengths, in one atomic step.

        Args:
            lengths: those that the logs had in this state; default: those they have.
        """
        lengths = self.log_lengths() if lengths is None else lengths
        for name in (CHECKSUMS, *lengths):
            if (self.path / name).exists():
                with (self.path / name).open("rb+") as handle:
                    os.fsync(handle.fileno())
        # Through a buffer, so that a full disk raises OSError rather than torch's own error.
        buffer = io.BytesIO()
        torch.save({"lengths": lengths, **state}, buffer)
        if not self._readable:
            self._check_readable(buffer)
        write_bytes(self.state_path, buffer.getvalue(), checksum=True)

    def load(self) -> dict[str, Any] | None:
        """The last save, with the logs truncated to it; None without a save, with the logs emptied.

        Raises:
            BadInput: the save or a log is damaged.
        """
        if not self.state_path.exists():
            self._cut({})
            return None
        try:
            content = io.BytesIO(read_bytes(self.state_path, required=True))
            state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
            lengths = state["lengths"]
        except Exception as error:
            raise BadInput(
                "--resume",
                str(self.state_path),
                f"a save that can be read ({_reason(error)}); remove {self.state_path.parent} to start over",
            ) from None
        self._cut(lengths)
        return state

    def finish(self) -> None:
        """Remove what only a resumed run needs."""
        shutil.rmtree(self.path / "state", ignore_errors=True)
        for folder in (self.path, self.path / "checkpoints"):
            compact_checksums(folder)

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

    def _mend_timing(self) -> None:
        """Remove a last line that a kill cut short; the next line would be appended to it."""
        log = self.path / TIMING
        if log.exists():
            os.truncate(log, len(read_bytes(log)))

    def _cut(self, lengths: dict[str, int]) -> None:
        for name in LOGS:
            self._logs[name].cut(lengths.get(name, 0))
        compact_checksums(self.path)


class NullRunFolder(RunFolder):
    """The folder of a process that is not the main one: it reads the last save and writes nothing."""

    def __enter__(self) -> NullRunFolder:
        return self

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Does nothing: the main process writes the logs."""

    def save(self, state: dict[str, Any], lengths: dict[str, int] | None = None) -> None:
        """Does nothing: the main process saves."""

    def finish(self) -> None:
        """Does nothing: the main process cleans up."""

    def _cut(self, lengths: dict[str, int]) -> None:
        pass


def _reason(error: Exception) -> str:
    return "its checksum is another" if isinstance(error, BadInput) else type(error).__name__
