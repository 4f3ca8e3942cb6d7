"""Where trials are kept: a database that Optuna writes, SQLite in the study folder or one of the user's."""

from __future__ import annotations

import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from stillroom.errors import BadInput

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import URL

FILE = "tuning.db"
# Also where it is no URL after all, as somebody may have left the beginning out.
_PASSWORD = re.compile(r"((?:://|^(?!.*://))[^:@/]*:)(.*)@")


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
        self.where = without_password(url) if url is not None else str(folder / FILE)
        with quiet(), self.told():
            self.storage = self._open(url if url is not None else _file_in(folder))

    def close(self) -> None:
        """Let go of the database."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    @contextmanager
    def opened(self) -> Iterator[ModuleType]:
        """Optuna at work on it, quietly; what goes wrong is told as bad input.

        Raises:
            BadInput: the database cannot be read or written.
        """
        with quiet() as optuna, self.told():
            yield optuna

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell every way in which a database fails as bad input, in one line and without its password."""
        try:
            yield
        except BadInput:
            raise
        except Exception as error:  # each driver has errors of its own
            raise self.refused(f"a database that can be read and written ({self._reason(error)})") from None

    def refused(self, expected: str) -> BadInput:
        """The error of a database that holds something else than it should."""
        return BadInput("tuning.storage", self.where, expected)

    def _open(self, url: str) -> RDBStorage:
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
    return URL.create("sqlite", database=str(folder.absolute() / FILE)).render_as_string()


def without_password(url: str) -> str:
    """A database's URL as it may be shown.

    >>> without_password("postgresql://ann:s3cret@host/trials?sslpassword=abc&x=1")
    'postgresql://ann:***@host/trials?sslpassword=***&x=1'
    """
    url = _PASSWORD.sub(r"\1***@", url)
    return re.sub(r"(?i)([?&][^=&]*(?:password|passwd|pwd|secret|token)[^=&]*)=[^&]*", r"\1=***", url)


@contextmanager
def quiet() -> Iterator[ModuleType]:
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
