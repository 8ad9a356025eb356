"""Fixtures for the whole suite, and the one place that decides what a missing part means."""

import os

import pytest

REQUIRE_ALL = os.environ.get("SKDVL_REQUIRE_ALL") == "1"


def missing_part(reason: str) -> None:
    """Skip the test because a real part is missing; fail instead where all parts are required."""
    if REQUIRE_ALL:
        pytest.fail(f"SKDVL_REQUIRE_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def skip_missing_part():
    """Call with a reason where a program or a library is not installed."""
    return missing_part
