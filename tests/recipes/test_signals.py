"""INT, TERM and HUP, as real signals to this process while a fleet in memory is released."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.memory import Ending, MemoryFleet, digest_of, ending
from veza_tasks.errors import Unreachable
from veza_tasks.events import Event, StepStarted, Uploading, Waiting, Warned
from veza_tasks.recipes import single
from veza_tasks.recipes.release import canary, roll_peers
from veza_tasks.recipes.rollback import rollback_all, ways
from veza_tasks.run import Run

CANARY, PEER = "backend-api-2", "backend-api-1"


def send(
    fleet: MemoryFleet, *, during: str, on: str, times: int = 1, number: signal.Signals = signal.SIGINT
) -> None:
    """Signals, the first as the step begins and each other at the next event."""
    left = times
    begun = False

    def listen(event: Event) -> None:
        nonlocal left, begun
        begun |= isinstance(event, StepStarted) and (event.step, event.node) == (during, on)
        if begun and left and isinstance(event, StepStarted | Waiting):
            left -= 1
            signal.raise_signal(number)

    fleet.on_event = listen


def carried_out(fleet: MemoryFleet, recipe: Callable[[Run], object], **more: Any) -> Ending:
    run = fleet.run(**{"artifact": fleet.binary("v2.0.0"), **more})
    before = signal.getsignal(signal.SIGINT)
    with run.signals:
        ended = ending(run, recipe)
    assert signal.getsignal(signal.SIGINT) is before
    return ended


def warnings(fleet: MemoryFleet) -> list[str]:
    return [event.text for event in fleet.events if isinstance(event, Warned)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", ["preflight", "stage"])
def test_before_any_change_it_stops_with_3(fleet: MemoryFleet, step: str, number: signal.Signals) -> None:
    send(fleet, during=step, on="", number=number)
    ended = carried_out(fleet, canary)
    assert (ended.code, fleet.all_run(fleet.v1), fleet.world.most_out, fleet.marks) == (3, True, 0, {})
    assert signal.Signals(number).name in warnings(fleet)[0]


def test_while_draining_it_gives_the_node_back(fleet: MemoryFleet) -> None:
    send(fleet, during="drain", on=CANARY)
    fleet.world.servers[CANARY].sessions_until = [fleet.world.time + 30]
    ended = carried_out(fleet, canary)
    assert (ended.code, fleet.all_run(fleet.v1), fleet.all_serve(), fleet.marks) == (3, True, True, {})
    assert fleet.world.failed == 0


@pytest.mark.parametrize("step", ["push", "health", "ready", "lb-check", "sli-window"])
def test_an_unproven_canary_is_rolled_back_with_4(fleet: MemoryFleet, step: str) -> None:
    send(fleet, during=step, on=CANARY)
    ended = carried_out(fleet, canary)
    assert (ended.code, fleet.all_run(fleet.v1), fleet.all_serve(), fleet.marks) == (4, True, True, {})
    assert fleet.world.failed == 0


def test_a_rollback_is_not_interrupted_by_a_second(fleet: MemoryFleet) -> None:
    send(fleet, during="sli-window", on=CANARY, times=2)
    ended = carried_out(fleet, canary)
    assert (ended.code, fleet.all_run(fleet.v1), fleet.all_serve()) == (4, True, True)
    assert any("once more abandons" in text for text in warnings(fleet))


@pytest.mark.parametrize("step", ["health", "lb-check", "sli-window"])
def test_a_proven_canary_is_not_rolled_back_for_a_signal(fleet: MemoryFleet, step: str) -> None:
    carried_out(fleet, canary)
    v2 = fleet.binary("v2.0.0")
    send(fleet, during=step, on=CANARY)
    ended = carried_out(fleet, canary)
    assert ended.code in (3, 5)
    assert (fleet.all_run(v2), fleet.all_serve()) == (True, True)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("step", ["drain", "push", "health", "ready", "lb-check"])
def test_while_peers_roll_the_node_in_hand_is_finished(fleet: MemoryFleet, step: str, times: int) -> None:
    fleet = MemoryFleet(fleet.folder, nodes=3)
    v2 = fleet.binary("v2.0.0")
    send(fleet, during=step, on=PEER, times=times)
    ended = carried_out(fleet, canary, sli_min_requests=50)
    first, last = fleet.peers
    assert ended.code == 5
    assert (first.running, last.running) == (digest_of(v2), digest_of(fleet.v1))
    assert (fleet.all_serve(), fleet.drained, fleet.world.failed) == (True, [], 0)
    assert any(f"finishing {PEER}" in text for text in warnings(fleet))
    fleet.on_event = lambda event: None
    assert carried_out(fleet, canary, sli_min_requests=50).code == 0
    assert fleet.all_run(v2)


def test_on_the_last_peer_everything_is_finished(fleet: MemoryFleet) -> None:
    send(fleet, during="health", on=PEER)
    assert carried_out(fleet, canary).code == 0


def test_the_third_stops_at_once(fleet: MemoryFleet) -> None:
    send(fleet, during="health", on=CANARY, times=3)
    ended = carried_out(fleet, canary)
    assert ended.code == 5
    assert "for the third time" in ended.text
    assert "inv status" in ended.text
    assert fleet.drained == [CANARY]
    fleet.on_event = lambda event: None
    assert carried_out(fleet, canary).code == 0
    assert (fleet.all_run(fleet.binary("v2.0.0")), fleet.all_serve(), fleet.drained) == (True, True, [])


def test_once_closed_no_thread_that_is_still_at_work_connects_again(fleet: MemoryFleet) -> None:
    """The third signal closes the connections under nodes that are deployed side by side; that ends their threads."""
    run = fleet.run()
    run.fleet.close()
    for look in (run.fleet.canary.look, run.fleet.load_balancer.pool):
        with pytest.raises(Unreachable, match="closed by us"):
            look()


def test_a_push_by_hand_that_has_not_begun_is_not_begun(fleet: MemoryFleet) -> None:
    carried_out(fleet, lambda run: single.drain(run, run.fleet.node(CANARY)))

    def listen(event: Event) -> None:
        if isinstance(event, Uploading):
            signal.raise_signal(signal.SIGTERM)

    fleet.on_event = listen
    run = fleet.run(artifact=fleet.binary("v2.0.0"))
    with run.signals:
        signal.raise_signal(signal.SIGTERM)
        ended = ending(run, lambda run: single.push(run, run.fleet.node(CANARY)))
    assert (ended.code, fleet.all_run(fleet.v1), fleet.drained) == (3, True, [CANARY])


def test_a_roll_of_peers_stops_before_the_first_with_3(fleet: MemoryFleet) -> None:
    send(fleet, during="stage", on="")
    ended = carried_out(fleet, lambda run: roll_peers(run, unproven="a test"))
    assert (ended.code, fleet.all_run(fleet.v1), fleet.drained) == (3, True, [])


def test_a_rollback_of_all_goes_on_to_the_last_node(fleet: MemoryFleet) -> None:
    carried_out(fleet, canary)
    send(fleet, during="rollback", on=CANARY)
    assert carried_out(fleet, lambda run: rollback_all(run, ways(run))).code == 0
    assert (fleet.all_run(fleet.v1), fleet.all_serve()) == (True, True)


def test_a_rollback_of_all_that_has_not_begun_is_not_begun(fleet: MemoryFleet) -> None:
    carried_out(fleet, canary)
    send(fleet, during="stage", on="")
    ended = carried_out(fleet, lambda run: rollback_all(run, ways(run)))
    assert (ended.code, fleet.all_run(fleet.binary("v2.0.0"))) == (3, True)
    assert "proven" in fleet.marks[CANARY]


@pytest.mark.parametrize("policy", ["abort", "close"])
def test_a_drain_by_hand_gives_the_node_back(fleet: MemoryFleet, policy: str) -> None:
    fleet.world.servers[CANARY].sessions_until = [fleet.world.time + 30]
    send(fleet, during="drain", on=CANARY)
    ended = carried_out(fleet, lambda run: single.drain(run, run.fleet.node(CANARY)), drain_policy=policy)
    assert (ended.code, fleet.all_serve(), fleet.marks) == (3, True, {})


def test_a_push_by_hand_that_is_stopped_waits_for_a_human(fleet: MemoryFleet) -> None:
    carried_out(fleet, lambda run: single.drain(run, run.fleet.node(CANARY)))
    send(fleet, during="health", on=CANARY)
    assert carried_out(fleet, lambda run: single.push(run, run.fleet.node(CANARY))).code == 5
    assert fleet.drained == [CANARY]
