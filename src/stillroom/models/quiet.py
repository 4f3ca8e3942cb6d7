"""Silence while PyTorch's exporter is at work; what goes wrong in it is told by its error alone."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing on the terminal: the exporter prints, warns and logs its steps, and pages of a graph where it gives up.

    >>> with quietly():
    ...     print("a page")
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
