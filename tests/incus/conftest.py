"""One real Incus fleet for all tests of this folder: raised once, reset before each test, taken down at the end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import artifacts, incus
from lab.incus import Fleet, LabError, machine


@pytest.fixture(scope="session")
def raised() -> Iterator[Fleet]:
    """A fleet of its own, or the one that LAB_FLEET names: that one stays up, which is quicker while writing tests."""
    try:
        incus.check()
    except LabError as error:
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


@pytest.fixture
def fleet(raised: Fleet) -> Fleet:
    """Two nodes on v1.0.9, in rotation, v1.0.8 as `veza-api.previous`; no marks, nothing kept."""
    raised.reset()
    return raised


@pytest.fixture(scope="session")
def small(raised: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every lab release again, in this folder and only as large as the interpreter: quick to upload."""
    with machine.lock():
        image = machine.provide(lambda _: None)
    folder = tmp_path_factory.mktemp("small")
    artifacts.build_all(folder, interpreter=image.interpreter, size=0)
    return folder
