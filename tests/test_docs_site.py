"""What the site's hooks do to its pages; only where mkdocs is installed (`make docs`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_the_site_fetches_no_script_from_elsewhere() -> None:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = cast("Any", SimpleNamespace(url="guide/diagnose.html"))
    script = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
    written = hooks.on_post_page(script, page, cast("Any", None))
    assert written == '<script src="../javascripts/iframe-worker.js"></script>'
    assert "https://" not in hooks.on_post_template(script, "404.html", cast("Any", None))
    assert (DOCS / "javascripts" / "iframe-worker.js").is_file()
