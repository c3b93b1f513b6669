"""One run at a time per pool."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.memory import MARK, Ending, MemoryFleet, digest_of, ending
from veza_tasks.adapters.haproxy import State
from veza_tasks.capabilities import lock
from veza_tasks.capabilities.lock import BEAT, Holder
from veza_tasks.errors import Refused, Unreachable
from veza_tasks.events import Changing, Event, Probed, StepDone, Warned
from veza_tasks.recipes.history import history
from veza_tasks.recipes.release import canary
from veza_tasks.recipes.rollback import rollback_all, ways
from veza_tasks.recipes.unlock import held_by, unlock
from veza_tasks.run import Run

NAME = "veza-tasks.lock.haproxy.api_pool"


def release(fleet: MemoryFleet, **more: Any) -> Ending:
    return ending(fleet.run(artifact=fleet.binary("v2.0.0")), canary, **more)


def held_by_somebody(fleet: MemoryFleet, **said: str) -> Holder:
    """Somebody else's run holds the lock, since a minute ago."""
    when = "2030-03-17T17:46:00Z"
    holder = Holder("run-x", "canary", "ada@desk", "7", "ab" * 32, "sli-window", when, when)
    keys = {**vars(holder), **said}
    fleet.world.profiles[NAME] = {MARK + key: value for key, value in keys.items()}
    return Holder(**keys)


def at(fleet: MemoryFleet, when: Callable[[Event], bool], do: Callable[[], object]) -> None:
    """Something happens once, when an event of this kind comes."""
    once = itertools.count()

    def listener(event: Event) -> None:
        if when(event) and next(once) == 0:
            do()

    fleet.on_event = listener


def test_a_refusal_names_the_holder_since_when_what_and_the_last_heartbeat(fleet: MemoryFleet) -> None:
    held_by_somebody(fleet)
    ended = release(fleet)
    assert (ended.code, fleet.world.effects) == (3, [])
    for said in (
        "ada@desk",
        "pid 7",
        "run-x",
        "since 2030-03-17T17:46:00Z",
        "sli-window",
        "abababababab",
        "s ago",
    ):
        assert said in ended.text
    assert "inv unlock --run run-x" in ended.text
    assert "--wait" in ended.text
    assert fleet.world.profiles[NAME][MARK + "run"] == "run-x"


def test_the_lock_is_held_while_a_run_works_and_says_what_it_does(fleet: MemoryFleet) -> None:
    seen: list[dict[str, str]] = []
    fleet.on_event = lambda event: (
        seen.append(dict(fleet.world.profiles[NAME])) if isinstance(event, Probed) else None
    )
    assert release(fleet).code == 0
    assert fleet.world.profiles == {}
    said = {key.removeprefix(MARK): value for key, value in seen[-1].items()}
    assert said["artifact"] == digest_of(fleet.binary("v2.0.0"))
    assert said["phase"] == "sli-window of backend-api-2"
    assert said["heartbeat"] > said["since"]


def test_a_run_beats_while_it_watches(fleet: MemoryFleet) -> None:
    beats: list[str] = []
    fleet.on_event = lambda event: (
        beats.append(fleet.world.profiles[NAME][MARK + "heartbeat"]) if isinstance(event, Probed) else None
    )
    assert ending(fleet.run(artifact=fleet.binary("v2.0.0"), sli_window=60), canary).code == 0
    assert len(set(beats)) >= 60 / BEAT - 2


def test_one_that_waits_goes_on_when_the_other_has_ended(fleet: MemoryFleet) -> None:
    held_by_somebody(fleet)
    fleet.world.after(20, lambda: fleet.world.profiles.clear())
    assert release(fleet, wait=60).code == 0


def test_waiting_ends(fleet: MemoryFleet) -> None:
    held_by_somebody(fleet)
    began = fleet.world.time
    assert release(fleet, wait=30).code == 3
    assert 30 <= fleet.world.time - began < 32


@pytest.mark.parametrize("new_holder", [True, False], ids=["taken over", "broken"])
@pytest.mark.parametrize(
    ("after", "code"), [("preflight", 3), ("drain", 5), ("ready", 5), ("sli-window", 5), ("a probe", 5)]
)
def test_who_loses_the_lock_stops_and_puts_nothing_back(
    fleet: MemoryFleet, after: str, code: int, new_holder: bool
) -> None:
    def lose() -> None:
        fleet.world.profiles.clear()
        if new_holder:
            held_by_somebody(fleet)
        fleet.world.effects.clear()

    at(
        fleet,
        lambda e: (
            isinstance(e, Probed) if after == "a probe" else isinstance(e, StepDone) and e.step == after
        ),
        lose,
    )
    ended = ending(fleet.run(artifact=fleet.binary("v2.0.0"), sli_window=30, sli_probe_interval=7), canary)
    assert (ended.code, fleet.world.effects) == (code, [])
    assert "lost the fleet's lock" in ended.text
    assert ("ada@desk" in ended.text) is new_holder
    assert list(fleet.world.profiles) == ([NAME] if new_holder else [])
    if after in ("ready", "sli-window", "a probe"):
        assert fleet.canary.running == digest_of(fleet.binary("v2.0.0"))


def test_a_fleet_out_of_reach_is_preflights_to_tell(fleet: MemoryFleet) -> None:
    run = fleet.run(artifact=fleet.binary("v2.0.0"))

    def unreachable(*_: object, **__: object) -> None:
        raise Unreachable("incus-1: no route to host")

    for host in run.fleet._bare.values():
        host.run = host.shell = unreachable  # type: ignore[method-assign, assignment]
    ended = ending(run, canary)
    assert (ended.code, "preflight is red: hosts" in ended.text) == (3, True)


def test_unlock_wants_the_run_that_holds_it(fleet: MemoryFleet) -> None:
    with pytest.raises(Refused, match="nobody holds"):
        held_by(fleet.run(), "run-x")
    held_by_somebody(fleet)
    with pytest.raises(Refused, match=r"run-y does not hold the lock: canary .* by ada@desk"):
        held_by(fleet.run(), "run-y")
    assert NAME in fleet.world.profiles


def test_unlock_breaks_the_lock_of_the_dead_and_puts_it_on_record(fleet: MemoryFleet) -> None:
    held_by_somebody(fleet)
    run = fleet.run()
    unlock(run, held_by(run, "run-x"))
    assert fleet.world.profiles == {}
    [told] = [one for one in history(run, fleet.folder / "none") if one["run"] == "run-x"]
    assert (told["code"], told["task"]) == (None, "canary")
    assert told["said"] == "ended without a word in sli-window; unlocked by somebody@somewhere"
    assert release(fleet).code == 0


def test_unlock_warns_of_a_holder_that_looks_alive(fleet: MemoryFleet) -> None:
    held_by_somebody(fleet)
    run = fleet.run()
    held_by(run, "run-x")
    assert "looks alive" in fleet.texts()
    fleet.events.clear()
    fleet.world.advance(120)
    held_by(run, "run-x")
    assert "looks alive" not in fleet.texts()


def test_a_lock_that_changed_hands_is_not_broken(fleet: MemoryFleet) -> None:
    held_by_somebody(fleet)
    run = fleet.run()
    held = held_by(run, "run-x")
    held_by_somebody(fleet, run="run-y")
    with pytest.raises(Refused, match="any more"):
        unlock(run, held)
    assert fleet.world.profiles[NAME][MARK + "run"] == "run-y"


def test_an_emergency_breaks_the_lock_loudly(fleet: MemoryFleet) -> None:
    assert release(fleet).code == 0
    held_by_somebody(fleet)

    def everybody(run: Run) -> None:
        rollback_all(run, ways(run))

    assert ending(fleet.run(), everybody).code == 3
    assert ending(fleet.run(), everybody, breaks="*").code == 0
    assert fleet.all_run(fleet.v1)
    assert any(
        "BROKE THE LOCK of canary" in event.text for event in fleet.events if isinstance(event, Warned)
    )


def test_a_plan_takes_no_lock_and_is_not_stopped_by_one(fleet: MemoryFleet) -> None:
    held_by_somebody(fleet)
    assert ending(fleet.run(artifact=fleet.binary("v2.0.0"), plan=True), canary).code == 0
    assert fleet.world.profiles[NAME][MARK + "run"] == "run-x"
    assert not (fleet.folder / "journals").exists()


def test_every_change_is_made_under_the_lock(fleet: MemoryFleet) -> None:
    without: list[Event] = []
    fleet.on_event = lambda event: (
        without.append(event) if isinstance(event, Changing) and NAME not in fleet.world.profiles else None
    )
    assert release(fleet).code == 0
    assert without == []


def test_pools_of_one_project_have_locks_of_their_own(fleet: MemoryFleet) -> None:
    run = fleet.run(load_balancer={"host": "incus-1", "instance": "other"}, pool_backend="Pool_2")
    assert lock.lock_name(run.settings) == "veza-tasks.lock.other.Pool_2"


def test_a_holder_that_makes_no_sense_is_still_told(fleet: MemoryFleet) -> None:
    fleet.world.profiles[NAME] = {MARK + "run": "run-x", MARK + "heartbeat": "soon", "user.other": "1"}
    ended = release(fleet)
    assert ended.code == 3
    assert re.search(r"unknown by unknown .*run-x.*last heartbeat soon", ended.text)


def test_marks_and_states_are_not_touched_by_the_lock(fleet: MemoryFleet) -> None:
    before = json.dumps(fleet.world.config)
    held_by_somebody(fleet)
    release(fleet)
    assert json.dumps(fleet.world.config) == before
    assert fleet.run().fleet.load_balancer.server("backend-api-2").state is State.READY
