"""After a crash: what is told, and the way on or back."""

from __future__ import annotations

import copy
import dataclasses

import pytest

from tests.memory import Killed, MemoryFleet, digest_of, ending
from veza_tasks.capabilities.rotation import DRAINED
from veza_tasks.errors import Refused
from veza_tasks.events import Changing, Event, StepStarted, Warned
from veza_tasks.recipes import recover
from veza_tasks.recipes.release import canary

CANARY, PEER = "backend-api-2", "backend-api-1"


def killed(fleet: MemoryFleet, *, during: str, on: str) -> None:
    """A release that is killed at the first change of a step."""
    run = fleet.run(artifact=fleet.binary("v2.0.0"))
    begun = False

    def listener(event: Event) -> None:
        nonlocal begun
        begun |= isinstance(event, StepStarted) and (event.step, event.node) == (during, on)
        if begun and isinstance(event, Changing):
            fleet.on_event = lambda event: None
            raise Killed

    fleet.on_event = listener
    assert ending(run, canary).code == -9
    fleet.world.advance(120)


def look(fleet: MemoryFleet) -> recover.Found:
    return recover.look(fleet.run())


def undo(fleet: MemoryFleet) -> int:
    found = look(fleet)
    held = found.holder.run if found.holder else ""
    return ending(fleet.run(), lambda run: recover.undo(run, found.last), breaks=held).code


def words(found: recover.Found) -> str:
    return "\n".join(f"{one.where}: {one.what}: {one.cure}" for one in found.differences)


def test_a_fleet_that_nobody_works_on_and_where_all_is_well_has_no_differences(fleet: MemoryFleet) -> None:
    assert look(fleet) == recover.Found(None, None, [])
    assert ending(fleet.run(artifact=fleet.binary("v2.0.0")), canary).code == 0
    found = look(fleet)
    assert found.differences == []
    assert found.last is not None
    assert (found.last.digest, found.last.code) == (digest_of(fleet.binary("v2.0.0")), 0)


@pytest.mark.parametrize(
    ("step", "node", "said"),
    [
        ("stage", "", "locked by canary of"),
        ("push", CANARY, "out of rotation (drain"),
        ("ready", CANARY, "armed by run"),
        ("drain", PEER, f"{CANARY} runs"),
        ("push", PEER, f"{PEER}: out of rotation (drain"),
    ],
)
def test_a_killed_release_is_told_with_the_command_that_resolves_it_and_undone(
    fleet: MemoryFleet, step: str, node: str, said: str
) -> None:
    fleet.knobs["sli_window"] = 3600 if step == "ready" else 10
    killed(fleet, during=step, on=node)
    found = look(fleet)
    assert found.holder is not None
    assert f"inv unlock --run {found.holder.run}" in words(found)
    if step != "ready":  # there the node has gone back by itself meanwhile
        assert said in words(found)
    assert undo(fleet) == 0
    assert (fleet.all_run(fleet.v1), fleet.all_serve(), fleet.drained) == (True, True, [])
    after = look(fleet)
    assert (after.differences, after.holder) == ([], None)


def test_what_somebody_else_took_out_stays_out(fleet: MemoryFleet) -> None:
    killed(fleet, during="drain", on=PEER)
    fleet.world.config[PEER].clear()
    fleet.world.servers[PEER].admin = 8
    assert "and not by us: whoever took it out" in words(look(fleet))
    assert undo(fleet) == 0
    assert fleet.world.servers[PEER].admin == 8
    assert fleet.canary.running == digest_of(fleet.v1)


def test_a_release_is_resumed_with_its_own_binary_only(fleet: MemoryFleet) -> None:
    killed(fleet, during="push", on=PEER)
    found = look(fleet)
    assert found.last is not None
    last = recover.Last(found.last.run, "canary", found.last.digest, None)
    knobs = recover.knobs_of(last, fleet.folder / "journals")
    assert knobs["artifact"] == str(fleet.binary("v2.0.0"))
    assert recover.check_resumable(last, knobs["artifact"]) == digest_of(fleet.binary("v2.0.0"))
    assert recover.knobs_of(last, fleet.folder / "elsewhere") == {}
    with pytest.raises(Refused, match="does not know the binary"):
        recover.check_resumable(last, "")
    for code in (0, 3, 4):
        with pytest.raises(Refused, match="no release that is to be finished"):
            recover.check_resumable(recover.Last(last.run, "canary", last.digest, code), knobs["artifact"])
    resumed = ending(
        fleet.run(artifact=knobs["artifact"]), lambda run: canary(run, sha256=last.digest), breaks=last.run
    )
    assert resumed.code == 0
    assert (fleet.all_run(fleet.binary("v2.0.0")), look(fleet).differences) == (True, [])


def test_a_lock_is_not_taken_from_a_run_that_looks_alive(fleet: MemoryFleet) -> None:
    killed(fleet, during="push", on=PEER)
    found = look(fleet)
    recover.check_dead(fleet.run(), found.holder)
    assert found.holder is not None
    alive = dataclasses.replace(found.holder, heartbeat=f"{fleet.world.now():%Y-%m-%dT%H:%M:%SZ}")
    with pytest.raises(Refused, match="looks alive"):
        recover.check_dead(fleet.run(), alive)


def test_undo_may_be_killed_too(fleet: MemoryFleet) -> None:
    killed(fleet, during="push", on=PEER)
    found = look(fleet)
    held = found.holder.run if found.holder else ""
    effects: list[Event] = []
    probe = copy.deepcopy(fleet)
    probe.on_event = lambda event: effects.append(event) if isinstance(event, Changing) else None
    assert ending(probe.run(), lambda run: recover.undo(run, found.last), breaks=held).code == 0
    for number in range(len(effects)):
        again = copy.deepcopy(fleet)
        left = number

        def listener(event: Event) -> None:
            nonlocal left
            if isinstance(event, Changing):
                left -= 1
                if left < 0:
                    raise Killed

        again.on_event = listener
        assert ending(again.run(), lambda run: recover.undo(run, found.last), breaks=held).code == -9
        again.on_event = lambda event: None
        again.world.advance(120)
        assert undo(again) == 0, effects[number]
        assert (again.all_run(again.v1), again.all_serve(), again.drained) == (True, True, []), effects[
            number
        ]
        assert look(again).differences == []


def test_the_sweep_at_the_end_tells_what_is_left(fleet: MemoryFleet) -> None:
    def somebody_drains(event: Event) -> None:
        if isinstance(event, StepStarted) and (event.step, event.node) == ("lb-check", PEER):
            fleet.world.after(0.001, lambda: setattr(fleet.world.servers[CANARY], "admin", 8))

    fleet.on_event = somebody_drains
    assert ending(fleet.run(artifact=fleet.binary("v2.0.0")), canary).code == 0
    told = [event.text for event in fleet.events if isinstance(event, Warned)]
    assert any(f"{CANARY} does not serve, and not by us" in text and "inv recover" in text for text in told)
    assert DRAINED not in fleet.marks.get(CANARY, {})
