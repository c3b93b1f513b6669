"""What counts as a binary for the nodes: no bytes whatever make it stumble, and a cut one is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.memory import elf
from veza_tasks.capabilities.artifact import read_artifact, version_of
from veza_tasks.errors import Refused

WHOLE = elf(b"program")
same_folder = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def is_refused(folder: Path, content: bytes) -> bool:
    path = folder / "veza-api-v1"
    path.write_bytes(content)
    try:
        return not read_artifact(path).architecture
    except Refused:
        return True


@same_folder
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x7fELF" + tail))
def test_no_bytes_make_it_stumble(tmp_path: Path, content: bytes) -> None:
    is_refused(tmp_path, content)


@same_folder
@given(st.integers(0, 119), st.binary(min_size=1, max_size=8))
def test_no_damage_to_a_header_makes_it_stumble(tmp_path: Path, at: int, damage: bytes) -> None:
    is_refused(tmp_path, WHOLE[:at] + damage + WHOLE[at + len(damage) :])


def test_no_beginning_of_a_program_passes_for_it(tmp_path: Path) -> None:
    assert not is_refused(tmp_path, WHOLE)
    assert all(is_refused(tmp_path, WHOLE[:size]) for size in range(len(WHOLE)))


def test_a_real_program_passes_and_a_cut_one_does_not(tmp_path: Path) -> None:
    content = Path(sys.executable).resolve().read_bytes()
    assert not is_refused(tmp_path, content)
    for size in range(0, len(content), len(content) // 20):
        assert is_refused(tmp_path, content[:size])


def test_a_library_is_no_program(tmp_path: Path) -> None:
    no_entry = WHOLE[:24] + bytes(8) + WHOLE[32:]
    assert is_refused(tmp_path, no_entry)
    not_executable = WHOLE[:68] + b"\x04" + WHOLE[69:]
    assert is_refused(tmp_path, not_executable)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="directory"):
        read_artifact(tmp_path)


@pytest.mark.parametrize(
    ("name", "version"),
    [("veza-api-v1.0.10", "v1.0.10"), ("veza-api", "unknown"), ("veza-api-", "unknown"), ("x-v1", "unknown")],
)
def test_the_version_is_in_the_file_name(name: str, version: str) -> None:
    assert version_of(name) == version
