"""What several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.memory import MemoryFleet


@pytest.fixture
def fleet(tmp_path: Path) -> MemoryFleet:
    """Two nodes in memory, the canary and one peer, under load."""
    return MemoryFleet(tmp_path)
