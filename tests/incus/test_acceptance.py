"""The runbook's acceptance bar on a real fleet under load; the drill itself is `lab.acceptance`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.acceptance import BAD, NORMAL, SLOW_BOOT, Exercise, perform, write
from lab.incus import Fleet

pytestmark = pytest.mark.incus


def test_two_normal_canaries_lose_no_client_request(fleet: Fleet, tmp_path: Path) -> None:
    evidence = [perform(fleet, exercise, tmp_path) for exercise in NORMAL]
    assert [one.problems for one in evidence] == [(), ()]
    assert all(one.load.sent > 1000 for one in evidence)
    write(evidence, tmp_path)
    assert [row["load"]["failed"] for row in json.loads((tmp_path / "acceptance.json").read_text())] == [0, 0]
    assert "all 2 runs passed" in (tmp_path / "acceptance.md").read_text()


def test_a_release_that_boots_in_three_seconds_loses_no_client_request(fleet: Fleet, tmp_path: Path) -> None:
    evidence = perform(fleet, SLOW_BOOT, tmp_path)
    assert evidence.problems == ()
    assert all(seconds > 3 for seconds in evidence.out_of_rotation.values()), "it was sampled from HAProxy"


@pytest.mark.parametrize("exercise", BAD, ids=lambda exercise: exercise.name)
def test_a_bad_release_is_rolled_back_and_no_peer_is_touched(
    exercise: Exercise, fleet: Fleet, tmp_path: Path
) -> None:
    evidence = perform(fleet, exercise, tmp_path)
    assert evidence.problems == ()
    assert bool(evidence.load.failed) == exercise.may_fail
    assert bool(evidence.exposed) == (exercise.name in ("errors-20", "slow-p95")), (
        "the others never get to users"
    )
