from typing import Any

import pytest


def pytest_generate_tests(metafunc: Any) -> None:
    """Run a loss's tests once a declared variant of its options."""
    if "variant" in metafunc.fixturenames and metafunc.cls is not None:
        variants = metafunc.cls.variants
        metafunc.parametrize("variant", variants, ids=[str(v) or "default" for v in variants])


@pytest.fixture
def variant() -> dict[str, Any]:
    return {}
