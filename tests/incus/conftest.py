"""The real Incus fleet, reset before each test of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import artifacts
from lab.incus import Fleet, machine


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
