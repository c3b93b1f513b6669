"""Every distinct remote call of a happy run goes wrong once, in every way, and what then stands is examined.

After each: released, or put back, or an exit code that says a human is needed; the exit code is true; never more nodes out
of rotation than allowed; no client request lost; and the same command again, undisturbed, finishes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.memory import Call, Ending, Fault, Faults, Machine, MemoryFleet, digest_of, ending
from veza_tasks.capabilities import deadman, lock
from veza_tasks.capabilities.install import PROVEN
from veza_tasks.events import Changing
from veza_tasks.recipes import recover
from veza_tasks.recipes.release import canary, roll_peers
from veza_tasks.recipes.rollback import rollback_all, ways
from veza_tasks.recipes.status import status
from veza_tasks.recipes.unlock import held_by, unlock
from veza_tasks.run import Run


@dataclass(frozen=True)
class Scene:
    """A command, the fleet that it meets, and the binary that it brings everywhere."""

    task: str
    recipe: Callable[[Run], object]
    nodes: int
    brings: str
    begins: Callable[[MemoryFleet], None]

    def run(self, fleet: MemoryFleet, faults: Faults | None = None) -> Ending:
        return ending(fleet.run(faults, task=self.task, artifact=fleet.binary("v2.0.0")), self.recipe)


def everybody_rolls_back(run: Run) -> None:
    rollback_all(run, ways(run))


def nothing_yet(fleet: MemoryFleet) -> None:
    pass


def the_canary_has_it(fleet: MemoryFleet) -> None:
    peers = [machine.name for machine in fleet.peers]
    v2 = fleet.binary("v2.0.0")
    alone = fleet.run(artifact=v2, peer_nodes="none", ignored_servers=peers)
    assert ending(alone, canary).code == 0


def all_have_it(fleet: MemoryFleet) -> None:
    assert ending(fleet.run(artifact=fleet.binary("v2.0.0")), canary).code == 0


SCENES = {
    "canary of 2": Scene("canary", canary, 2, "v2.0.0", nothing_yet),
    "canary of 3": Scene("canary", canary, 3, "v2.0.0", nothing_yet),
    "roll-peers of 2": Scene("roll-peers", roll_peers, 2, "v2.0.0", the_canary_has_it),
    "roll-peers of 3": Scene("roll-peers", roll_peers, 3, "v2.0.0", the_canary_has_it),
    "rollback-all of 2": Scene("rollback-all", everybody_rolls_back, 2, "v1.0.0", all_have_it),
    "rollback-all of 3": Scene("rollback-all", everybody_rolls_back, 3, "v1.0.0", all_have_it),
}


@dataclass(frozen=True)
class Stage:
    """A scene, its fleet before the command, and every distinct remote call of the command when nothing goes wrong."""

    scene: Scene
    fleet: MemoryFleet
    calls: Sequence[Call]

    def reset(self) -> MemoryFleet:
        fleet = copy.deepcopy(self.fleet)

        def only_proven(machine: Machine, digest: str) -> None:
            proven = fleet.marks.get(fleet.canary.name, {}).get(PROVEN, "")
            if (
                machine is not fleet.canary
                and machine.installed != digest_of(fleet.v1)
                and digest not in proven
            ):
                fleet.world.wrong.append(f"{machine.name} got an unproven binary")

        fleet.world.check_install = only_proven
        return fleet


@pytest.fixture(scope="module", params=list(SCENES.values()), ids=list(SCENES))
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    scene: Scene = request.param
    begun = MemoryFleet(
        tmp_path_factory.mktemp("fleet"), nodes=scene.nodes, rate=200, sli_window=5, health_settle=0.05
    )
    begun.binary("v2.0.0")
    scene.begins(begun)
    begun.world.failed = begun.world.most_out = 0
    begun.events.clear()
    fleet = copy.deepcopy(begun)
    faults = Faults(fleet.world)
    assert scene.run(fleet, faults).code == 0
    assert fleet.all_run(fleet.binary(scene.brings))
    assert fleet.all_serve()
    assert (fleet.drained, fleet.world.failed, fleet.world.most_out) == ([], 0, 1)
    return Stage(scene, begun, list(faults.seen))


def complaints(stage: Stage, call: Call, fault: Fault, *, absent: bool = False) -> Iterator[str]:
    """What is not as it must be when ``fault`` strikes ``call``, and after the same command again.

    ``absent``: nobody comes back for as long as the canary waits for us.
    """
    scene, fleet = stage.scene, stage.reset()
    v1, v2 = fleet.v1, fleet.binary("v2.0.0")
    machines = fleet.world.machines.values()
    before = {machine.name: (machine.installed, machine.process) for machine in machines}
    faults = Faults(fleet.world, call, fault)
    ended = scene.run(fleet, faults)
    if not faults.struck:
        yield "the fault never struck"
    where = f"exit {ended.code}"
    if fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER) and ended.code != -9:
        yield f"{where} though killed"
    if ended.code == 0 and not (
        fleet.all_run(fleet.binary(scene.brings)) and fleet.all_serve() and not fleet.drained
    ):
        yield f"{where}, but not everything is done"
    as_before = {machine.name: (machine.installed, machine.process) for machine in machines} == before
    if ended.code == 3 and not (as_before and fleet.all_serve() and not fleet.drained):
        yield f"{where}, but not as before"
    if ended.code == 4:
        back = fleet.canary.installed == fleet.canary.running == digest_of(v1) and fleet.all_serve()
        untouched = all(before[peer.name] == (peer.installed, peer.process) for peer in fleet.peers)
        if not (back and untouched and not fleet.drained):
            yield f"{where}, but not rolled back"
    if ended.code not in (0, 3, 4, 5, 6, -9):
        yield f"{where} says nothing about the fleet"
    if ended.code > 0 and not all(ended.text.split("\n", 2)):
        yield f"{where} does not say what, in what state and what next: {ended.text!r}"
    if ended.code in (5, 6) and as_before and fleet.all_serve() and not fleet.drained:
        yield f"{where}, and there is nothing to do for a human"
    # One that cannot be brought back stays out while the others go back, in place if nobody else serves.
    given_up = ended.code == 6 and scene.recipe is everybody_rolls_back
    if any(machine.installed not in (digest_of(v1), digest_of(v2)) for machine in machines):
        yield f"{where}, and something else is installed"
    if fleet.world.most_out > 1 + given_up:
        yield f"{where}, and {fleet.world.most_out} nodes were out"
    if fleet.world.failed and not given_up:
        yield f"{where}, and {fleet.world.failed:.1f} client requests failed"
    yield from fleet.world.wrong

    described = status(fleet.run(artifact=v2))
    for node, machine in zip(described, machines, strict=True):
        truth = (machine.installed, machine.running, fleet.serves(machine))
        if (node.installed, node.running, bool(node.serves)) != truth or node.problems:
            yield f"status is untrue of {machine.name}: {node}"

    if absent:
        yield from wrong_once_nobody_came_back(fleet, where)
    if ended.code == -9:
        break_lock_of_the_dead(fleet)
    if fleet.world.profiles:
        yield f"{where}, and the lock outlived the run"
    if ended.code in (0, 3, 4) and is_guarded(fleet):
        yield f"{where}, and the dead-man's switch is still there"
    fleet.world.most_out, fleet.world.failed = fleet.world.most_out - given_up, 0.0
    again = scene.run(fleet)
    if again.code or not fleet.all_run(fleet.binary(scene.brings)) or not fleet.all_serve() or fleet.drained:
        yield f"{where}, and the same command again does not finish: exit {again.code} {again.text}"
    if fleet.world.most_out > 1 or fleet.world.failed or fleet.world.wrong:
        yield f"{where}, and again: {fleet.world.most_out} out, {fleet.world.failed:.1f} requests failed"
    if is_guarded(fleet) or fleet.world.profiles:
        yield f"{where}, and again, and a switch or the lock is still there"


def wrong_once_nobody_came_back(fleet: MemoryFleet, where: str) -> Iterator[str]:
    run = fleet.run()
    fleet.world.advance(deadman.patience(run.settings) + 5)
    proven = fleet.marks.get(fleet.canary.name, {}).get(PROVEN, "")
    # Killed between the commit and the record of it: the binary has survived its window.
    survived = any(isinstance(e, Changing) and e.command.startswith("disarm") for e in fleet.events)
    if fleet.canary.running != digest_of(fleet.v1) and fleet.canary.running not in proven and not survived:
        yield f"{where}, and nobody came back, and {fleet.canary.running[:12]} still runs unproven"


def is_guarded(fleet: MemoryFleet) -> bool:
    run = fleet.run()
    return any(deadman.look(node).left_over for node in run.fleet.released_to)


def break_lock_of_the_dead(fleet: MemoryFleet) -> None:
    run = fleet.run()
    if found := lock.holder(run.fleet.for_records, lock.lock_name(run.settings)):
        unlock(run, held_by(run, found.run))


def wrong_after_undo(stage: Stage, call: Call, fault: Fault) -> Iterator[str]:
    """What is not as it must be when we are killed and the next person types ``inv recover --undo``."""
    fleet = stage.reset()
    v1, v2 = digest_of(fleet.v1), digest_of(fleet.binary("v2.0.0"))
    ended = stage.scene.run(fleet, Faults(fleet.world, call, fault))
    found = recover.look(fleet.run())
    held = found.holder.run if found.holder else ""
    if held and not any(held in one.cure for one in found.differences):
        yield "it does not say how to take the lock"
    undone = ending(fleet.run(task="recover"), lambda run: recover.undo(run, found.last), breaks=held)
    if ended.code != -9 or undone.code:
        yield f"exit {ended.code}, then {undone.code}: {undone.text}"
    runs = {machine.running for machine in fleet.world.machines.values()}
    if runs - {v1, v2} or (found.last and found.last.digest and v2 in runs):
        yield f"then {runs} run"
    if not fleet.all_serve() or fleet.drained or is_guarded(fleet) or fleet.world.profiles:
        yield f"then something is left: {fleet.drained} {fleet.world.profiles}"
    if left := recover.look(fleet.run()).differences:
        yield f"then there is still: {left}"
    if fleet.world.most_out > 1 or fleet.world.failed:
        yield f"{fleet.world.most_out} out, {fleet.world.failed:.1f} requests failed"


def telling(scene: Scene, call: Call) -> Collection[Fault]:
    """The faults that can bring anything new at this call.

    Before and after a read the fleet is the same: being killed there is being killed next to a change, a lost answer is a
    refused connection. The smaller commands read the same as a canary's release. With a third node there is more to lose
    where a change is not made, is made and nobody knows, or is the last thing we do.
    """
    if scene.nodes > 2:
        grave = (Fault.REFUSED, Fault.LOST_AFTER, Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
        return grave if call.changes else ()
    if call.changes:
        return tuple(Fault)
    if scene.recipe is canary:
        return (Fault.REFUSED, Fault.HANGS, Fault.GARBAGE, Fault.EMPTY, Fault.FAILS)
    return (Fault.REFUSED, Fault.GARBAGE)


def test_whatever_goes_wrong_the_fleet_is_left_well_and_the_same_command_finishes(stage: Stage) -> None:
    found = [
        f"{fault} at {call}: {'; '.join(said)}"
        for call in stage.calls
        for fault in telling(stage.scene, call)
        if (said := list(complaints(stage, call, fault)))
    ] + [
        f"{Fault.KILLED_AFTER} at {call}, and for long: {'; '.join(said)}"
        for call in stage.calls
        if stage.scene.recipe is canary and call.changes
        if (said := list(complaints(stage, call, Fault.KILLED_AFTER, absent=True)))
    ]
    assert not found, "\n".join(found)


def test_whenever_we_are_killed_the_next_person_can_take_it_back(stage: Stage) -> None:
    found = [
        f"{fault} at {call}: {'; '.join(said)}"
        for call in stage.calls
        if call.changes
        for fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
        if (said := list(wrong_after_undo(stage, call, fault)))
    ]
    assert not found, "\n".join(found)
