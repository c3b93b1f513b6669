"""The manual full rollback: every node back to its last known good binary."""

from __future__ import annotations

from typing import Any

import pytest

from tests.memory import FOLDER, HEALTH_500, INSTALLED, PREVIOUS, Ending, File, MemoryFleet, digest_of, ending
from veza_tasks.events import Planned
from veza_tasks.recipes.release import canary
from veza_tasks.recipes.rollback import Way, rollback_all, ways


@pytest.fixture
def released(fleet: MemoryFleet) -> MemoryFleet:
    """v2 is on both nodes; v1 is their ``veza-api.previous``."""
    assert ending(fleet.run(artifact=fleet.binary("v2.0.0")), canary).code == 0
    fleet.world.effects.clear()
    fleet.world.failed = fleet.world.most_out = 0
    return fleet


def back(fleet: MemoryFleet, *, at_once: bool = False, **more: Any) -> Ending:
    fleet.events.clear()
    return ending(fleet.run(**more), lambda run: rollback_all(run, ways(run), at_once=at_once))


def seen(fleet: MemoryFleet, **more: Any) -> list[Way]:
    return ways(fleet.run(**more))


def test_every_node_goes_back_and_no_request_is_lost(released: MemoryFleet) -> None:
    assert back(released).code == 0
    assert (released.all_run(released.v1), released.all_serve()) == (True, True)
    assert (released.world.failed, released.world.most_out) == (0, 1)


def test_the_green_record_is_cleared(released: MemoryFleet) -> None:
    assert "proven" in released.marks["backend-api-2"]
    back(released)
    assert released.marks == {}


def test_the_green_record_is_cleared_though_the_canary_is_back_already(released: MemoryFleet) -> None:
    released.canary.files[INSTALLED] = File(digest_of(released.v1), 126)
    released.world.restart(released.canary)
    released.world.advance(10)
    assert back(released).code == 0
    assert released.marks == {}


def test_what_it_would_do_is_told_before(released: MemoryFleet) -> None:
    v2, v1 = digest_of(released.binary("v2.0.0"))[:12], digest_of(released.v1)[:12]
    assert [(way.runs, way.action) for way in seen(released)] == [
        (f"v2.0.0 ({v2})", f"back to unknown ({v1})")
    ] * 2


def test_twice_is_harmless(released: MemoryFleet) -> None:
    back(released)
    processes = [machine.process for machine in released.world.machines.values()]
    released.world.effects.clear()
    assert back(released).code == 0
    assert released.world.effects == []
    assert [machine.process for machine in released.world.machines.values()] == processes
    assert all(
        machine.files[PREVIOUS].digest == digest_of(released.v1)
        for machine in released.world.machines.values()
    )


def test_a_node_that_is_there_already_is_left_alone(released: MemoryFleet) -> None:
    peer = released.peers[0]
    peer.files[INSTALLED] = File(digest_of(released.v1), 126)
    released.world.restart(peer)
    released.world.advance(10)
    process = peer.process
    assert [way.is_there for way in seen(released)] == [False, True]
    assert back(released).code == 0
    assert peer.process is process


def test_a_failing_node_does_not_stop_the_others(released: MemoryFleet) -> None:
    bad = released.binary("v0.9.0", HEALTH_500)
    released.canary.files[PREVIOUS] = File(digest_of(bad), 126)
    ended = back(released)
    assert (ended.code, "backend-api-2" in ended.text) == (6, True)
    assert released.peers[0].running == digest_of(released.v1)
    assert released.serves(released.peers[0])
    assert released.drained == ["backend-api-2"]


def test_a_node_without_a_way_back_is_told_and_the_others_go(released: MemoryFleet) -> None:
    del released.canary.files[PREVIOUS]
    assert seen(released)[0].action.startswith("cannot: backend-api-2 has no")
    assert back(released).code == 6
    assert released.peers[0].running == digest_of(released.v1)
    assert released.canary.running == digest_of(released.binary("v2.0.0"))


def test_a_node_that_cannot_be_reached_does_not_stop_the_others(released: MemoryFleet) -> None:
    released.canary.status = "Stopped"
    ended = back(released)
    assert (ended.code, "not running" in ended.text) == (6, True)
    assert released.peers[0].running == digest_of(released.v1)


@pytest.mark.parametrize("where", ["local", "on the nodes"])
def test_the_target_may_be_named(released: MemoryFleet, where: str) -> None:
    good = released.binary("v0.9.0")
    for machine in released.world.machines.values():
        machine.files[f"{FOLDER}/veza-api.good"] = File(digest_of(good), 126)
    named = str(good) if where == "local" else f"{FOLDER}/veza-api.good"
    assert back(released, rollback_binary=named).code == 0
    assert released.all_run(good)


def test_what_runs_now_is_no_way_back(released: MemoryFleet) -> None:
    ended = ending(released.run(rollback_binary="running"), ways)
    assert (ended.code, "nothing to go back to" in ended.text) == (3, True)


def test_in_an_emergency_all_go_back_in_parallel_and_in_place(released: MemoryFleet) -> None:
    began = released.world.time
    assert back(released, at_once=True).code == 0
    assert (released.all_run(released.v1), released.all_serve()) == (True, True)
    assert not [effect for effect in released.world.effects if "drain" in effect.split()]
    assert released.world.time - began < 5


def test_at_once_brings_back_what_an_earlier_run_left_out(released: MemoryFleet) -> None:
    released.world.servers["backend-api-1"].admin = 8
    released.world.config["backend-api-1"]["user.veza-tasks.drained"] = "{}"
    assert back(released, at_once=True).code == 0
    assert (released.all_serve(), released.drained) == (True, [])


def test_somebody_elses_drain_is_respected(released: MemoryFleet) -> None:
    released.world.servers["backend-api-2"].admin = 8
    ended = back(released)
    assert (ended.code, "somebody else took it out" in ended.text) == (5, True)
    assert (released.all_run(released.v1), released.world.servers["backend-api-2"].admin) == (True, 8)
    assert back(released).code == 0, "there is nothing left that we may do"


def test_the_last_serving_node_goes_back_in_place(released: MemoryFleet) -> None:
    released.peers[0].status = "Stopped"
    released.world.advance(5)
    ended = back(released)
    assert ended.code == 6
    assert (released.canary.running, released.serves(released.canary)) == (digest_of(released.v1), True)
    assert not [effect for effect in released.world.effects if effect.endswith("state drain")]


def test_a_plan_reads_all_and_changes_nothing(released: MemoryFleet) -> None:
    assert back(released, plan=True).code == 0
    assert released.world.effects == []
    planned = " ".join(event.command for event in released.events if isinstance(event, Planned))
    for word in ("state drain", "install", "systemctl restart", "state ready", "proven"):
        assert word in planned


def test_a_load_balancer_out_of_reach_for_a_while_does_not_end_a_rollback(released: MemoryFleet) -> None:
    """Every step looks before it does, so a rollback tries again while the fleet is out of reach."""
    run = released.run()
    plan = ways(run)
    released.world.haproxy_answers = False
    released.world.after(20, lambda: setattr(released.world, "haproxy_answers", True))
    assert ending(run, lambda run: rollback_all(run, plan)).code == 0
    assert released.all_run(released.v1)
