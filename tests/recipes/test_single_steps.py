"""drain, push and ready by hand, and what ``status`` says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.memory import CRASH, HEALTH_500, INSTALLED, Ending, MemoryFleet, digest_of, ending
from veza_tasks.adapters.node import Node
from veza_tasks.events import Planned
from veza_tasks.recipes import single
from veza_tasks.recipes.status import status
from veza_tasks.run import Run

CANARY, PEER = "backend-api-2", "backend-api-1"


def by_hand(fleet: MemoryFleet, step: Callable[[Run, Node], None], node: str = CANARY, **more: Any) -> Ending:
    fleet.events.clear()
    return ending(fleet.run(**more), lambda run: step(run, run.fleet.node(node)))


def push(fleet: MemoryFleet, node: str = CANARY, **more: Any) -> Ending:
    return by_hand(fleet, single.push, node, **{"artifact": fleet.binary("v2.0.0"), **more})


def test_drain_push_ready_is_a_release_by_hand(fleet: MemoryFleet) -> None:
    assert by_hand(fleet, single.drain).code == 0
    assert (fleet.world.servers[CANARY].admin, fleet.drained) == (8, [CANARY])
    assert push(fleet).code == 0
    assert by_hand(fleet, single.ready).code == 0
    assert (fleet.canary.running, fleet.all_serve()) == (digest_of(fleet.binary("v2.0.0")), True)
    assert (fleet.drained, fleet.world.failed) == ([], 0)


def test_drained_twice_is_drained_once(fleet: MemoryFleet) -> None:
    by_hand(fleet, single.drain)
    mark = fleet.marks
    fleet.world.effects.clear()
    assert by_hand(fleet, single.drain).code == 0
    assert (fleet.world.effects, fleet.marks) == ([], mark)


def test_the_last_serving_node_is_not_drained(fleet: MemoryFleet) -> None:
    by_hand(fleet, single.drain)
    ended = by_hand(fleet, single.drain, PEER)
    assert (ended.code, "last server" in ended.text) == (3, True)
    assert (fleet.serves(fleet.peers[0]), fleet.drained, fleet.world.failed) == (True, [CANARY], 0)


def test_a_drain_that_does_not_empty_is_undone(fleet: MemoryFleet) -> None:
    fleet.world.servers[CANARY].sticky = True
    ended = by_hand(fleet, single.drain, drain_timeout=5)
    assert (ended.code, fleet.all_serve(), fleet.marks) == (3, True, {})
    assert "--drain-policy close" in ended.text


def test_or_its_sessions_are_closed(fleet: MemoryFleet) -> None:
    fleet.world.servers[CANARY].sticky = True
    assert by_hand(fleet, single.drain, drain_timeout=5, drain_policy="close").code == 0
    assert (fleet.world.servers[CANARY].admin, fleet.drained) == (1, [CANARY])
    assert by_hand(fleet, single.ready).code == 0
    assert fleet.all_serve()


def test_a_request_in_hand_is_waited_for(fleet: MemoryFleet) -> None:
    fleet.world.servers[CANARY].sessions_until = [fleet.world.time + 4]
    began = fleet.world.time
    assert by_hand(fleet, single.drain).code == 0
    assert fleet.world.time - began >= 4


@pytest.mark.parametrize("step", [single.drain, single.ready])
def test_somebody_elses_drain_is_left_alone(fleet: MemoryFleet, step: Callable[[Run, Node], None]) -> None:
    fleet.world.servers[CANARY].admin = 8
    ended = by_hand(fleet, step)
    assert (ended.code, "not by us" in ended.text) == (3, True)
    assert (fleet.world.servers[CANARY].admin, fleet.world.effects) == (8, [])


def test_a_node_in_rotation_is_not_pushed_to(fleet: MemoryFleet) -> None:
    ended = push(fleet)
    assert (ended.code, "inv drain backend-api-2" in ended.text) == (3, True)
    assert (fleet.world.effects, fleet.all_run(fleet.v1)) == ([], True)


def test_the_same_binary_is_not_pushed_twice(fleet: MemoryFleet) -> None:
    by_hand(fleet, single.drain)
    push(fleet)
    file, process = fleet.canary.files[INSTALLED], fleet.canary.process
    assert push(fleet).code == 0
    assert (fleet.canary.files[INSTALLED], fleet.canary.process) == (file, process)


def test_a_binary_that_dies_waits_for_a_human_with_its_last_words(fleet: MemoryFleet) -> None:
    by_hand(fleet, single.drain)
    bad = fleet.binary("v3.0.0", CRASH)
    ended = push(fleet, artifact=bad)
    assert (ended.code, "last words" in ended.text) == (5, True)
    assert fleet.drained == [CANARY]


def test_an_unhealthy_node_is_not_put_back(fleet: MemoryFleet) -> None:
    by_hand(fleet, single.drain)
    push(fleet, artifact=fleet.binary("v3.0.0", HEALTH_500), health_timeout=2)
    assert by_hand(fleet, single.ready, health_timeout=2).code == 5
    assert (fleet.world.servers[CANARY].admin, fleet.drained) == (8, [CANARY])


def test_a_node_whose_unit_is_stopped_is_told_at_once(fleet: MemoryFleet) -> None:
    by_hand(fleet, single.drain)
    fleet.canary.process, fleet.canary.active, fleet.canary.sub = None, "inactive", "dead"
    began = fleet.world.time
    assert by_hand(fleet, single.ready).code == 5
    assert fleet.world.time - began < 2


def test_an_artifact_that_does_not_arrive_whole_changes_nothing(fleet: MemoryFleet) -> None:
    by_hand(fleet, single.drain)
    fleet.canary.cut_uploads_at = 70
    assert push(fleet).code == 3
    assert fleet.all_run(fleet.v1)


def test_no_artifact_is_refused(fleet: MemoryFleet) -> None:
    assert push(fleet, artifact=None).code == 3


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (single.drain, ["drained", "state drain"]),
        (single.ready, ["state ready", "drained"]),
        (single.push, ["upload", "verify", "install", "systemctl restart"]),
    ],
)
def test_a_plan_reads_all_and_changes_nothing(
    fleet: MemoryFleet, step: Callable[[Run, Node], None], words: list[str]
) -> None:
    ended = by_hand(fleet, step, plan=True, artifact=fleet.binary("v2.0.0"))
    assert (ended.code, fleet.world.effects, fleet.marks, fleet.world.most_out) == (0, [], {}, 0)
    planned = [event.command for event in fleet.events if isinstance(event, Planned)]
    for word in words:
        assert any(word in command for command in planned), (word, planned)


def test_status_says_what_is(fleet: MemoryFleet) -> None:
    by_hand(fleet, single.drain)
    push(fleet)
    first, second = status(fleet.run())
    assert (first.node, first.role, second.node, second.role) == (PEER, "peer", CANARY, "canary")
    assert (second.installed, second.version) == (digest_of(fleet.binary("v2.0.0")), "v2.0.0")
    assert (second.haproxy, second.serves, second.health, second.unit) == (
        "drain",
        False,
        200,
        "active (running)",
    )
    assert second.last_known_good == digest_of(fleet.v1)
    assert list(second.marks or {}) == ["drained"]
    assert (first.haproxy, first.serves, first.marks) == ("ready", True, {})
    assert (first.problems, second.problems) == ((), ())


def test_status_tells_of_what_does_not_answer(fleet: MemoryFleet) -> None:
    fleet.canary.status = "Stopped"
    fleet.world.haproxy_answers = False
    first, second = status(fleet.run())
    assert (first.running, first.haproxy) == (digest_of(fleet.v1), None)
    assert any("No such file" in problem for problem in first.problems)
    assert any("not running" in problem for problem in second.problems)
