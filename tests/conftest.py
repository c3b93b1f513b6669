"""What several tests share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import incus
from tests.memory import MemoryFleet


@pytest.fixture(scope="session", autouse=True)
def _journals_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the state directory of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def fleet(tmp_path: Path) -> MemoryFleet:
    """Two nodes in memory, the canary and one peer, under load."""
    return MemoryFleet(tmp_path)


@pytest.fixture(scope="session")
def raised() -> Iterator[incus.Fleet]:
    """One real Incus fleet for all tests that want one, taken down at the end.

    LAB_FLEET names another one that stays up, which is quicker while writing tests.
    """
    try:
        incus.check()
    except incus.LabError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the Incus tests: {error}")
        pytest.skip(str(error))
    if given := os.environ.get("LAB_FLEET"):
        yield incus.up(given)
        return
    checkout = hashlib.sha256(str(Path(__file__).resolve()).encode()).hexdigest()[:6]
    name = f"test-{checkout}-{os.getpid()}"
    try:
        yield incus.up(name)
    finally:
        incus.down(name)
