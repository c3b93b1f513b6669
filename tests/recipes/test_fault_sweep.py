"""Every distinct remote call of a happy run goes wrong once, in every way, and what then stands is examined.

After each: released, or put back, or an exit code that says a human is needed; the exit code is true; never more nodes out
of rotation than allowed; no client request lost; and the same command again, undisturbed, finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from memory import Call, Ending, Fault, Faults, Machine, MemoryFleet, digest_of, ending

from veza_tasks.capabilities.install import PROVEN
from veza_tasks.recipes.release import canary, roll_peers
from veza_tasks.recipes.rollback import rollback_all, ways
from veza_tasks.recipes.status import status
from veza_tasks.run import Run


@dataclass(frozen=True)
class Scene:
    """A command, the fleet that it meets, and the binary that it brings everywhere."""

    recipe: Callable[[Run], object]
    nodes: int
    brings: str
    begins: Callable[[MemoryFleet], None]

    def fleet(self, folder: Path) -> MemoryFleet:
        fleet = MemoryFleet(folder, nodes=self.nodes, rate=200, sli_window=5, health_settle=0.05)
        v2 = fleet.binary("v2.0.0")

        def only_proven(machine: Machine, digest: str) -> None:
            proven = fleet.marks.get(fleet.canary.name, {}).get(PROVEN, "")
            if machine is not fleet.canary and digest == digest_of(v2) and digest not in proven:
                fleet.world.wrong.append(f"{machine.name} got an unproven binary")

        fleet.world.check_install = only_proven
        self.begins(fleet)
        fleet.world.failed = fleet.world.most_out = 0
        fleet.events.clear()
        return fleet

    def run(self, fleet: MemoryFleet, faults: Faults | None = None) -> Ending:
        return ending(fleet.run(faults, artifact=fleet.binary("v2.0.0")), self.recipe)


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
    "canary of 2": Scene(canary, 2, "v2.0.0", nothing_yet),
    "canary of 3": Scene(canary, 3, "v2.0.0", nothing_yet),
    "roll-peers of 2": Scene(roll_peers, 2, "v2.0.0", the_canary_has_it),
    "roll-peers of 3": Scene(roll_peers, 3, "v2.0.0", the_canary_has_it),
    "rollback-all of 2": Scene(everybody_rolls_back, 2, "v1.0.0", all_have_it),
    "rollback-all of 3": Scene(everybody_rolls_back, 3, "v1.0.0", all_have_it),
}


def happy_calls(scene: Scene, folder: Path) -> list[Call]:
    fleet = scene.fleet(folder)
    faults = Faults(fleet.world)
    assert scene.run(fleet, faults).code == 0
    assert fleet.all_run(fleet.binary(scene.brings))
    assert fleet.all_serve()
    assert (fleet.drained, fleet.world.failed, fleet.world.most_out) == ([], 0, 1)
    return list(faults.seen)


def complaints(scene: Scene, folder: Path, call: Call, fault: Fault) -> Iterator[str]:
    """What is not as it must be when ``fault`` strikes ``call``, and after the same command again."""
    fleet = scene.fleet(folder)
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
    if any(machine.installed not in (digest_of(v1), digest_of(v2)) for machine in machines):
        yield f"{where}, and something else is installed"
    if fleet.world.most_out > 1:
        yield f"{where}, and {fleet.world.most_out} nodes were out"
    if fleet.world.failed:
        yield f"{where}, and {fleet.world.failed:.1f} client requests failed"
    yield from fleet.world.wrong

    described = status(fleet.run(artifact=v2))
    for node, machine in zip(described, machines, strict=True):
        truth = (machine.installed, machine.running, fleet.serves(machine))
        if (node.installed, node.running, bool(node.serves)) != truth or node.problems:
            yield f"status is untrue of {machine.name}: {node}"

    again = scene.run(fleet)
    if again.code or not fleet.all_run(fleet.binary(scene.brings)) or not fleet.all_serve() or fleet.drained:
        yield f"{where}, and the same command again does not finish: exit {again.code} {again.text}"
    if fleet.world.most_out > 1 or fleet.world.failed or fleet.world.wrong:
        yield f"{where}, and again: {fleet.world.most_out} out, {fleet.world.failed:.1f} requests failed"


def strikes(scene: Scene, call: Call, fault: Fault) -> bool:
    """Whether this fault at this call can bring anything new.

    Before and after a read the fleet is the same, so being killed there is being killed next to a change, and a lost
    answer is a hanging one. With a third node only changes have more than two nodes to go wrong with.
    """
    if call.changes:
        return True
    twice_the_same = (Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
    return scene.nodes == 2 and fault not in twice_the_same


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_whatever_goes_wrong_the_fleet_is_left_well_and_the_same_command_finishes(
    scene: Scene, fault: Fault, tmp_path: Path
) -> None:
    found = {
        call: said
        for call in happy_calls(scene, tmp_path)
        if strikes(scene, call, fault) and (said := list(complaints(scene, tmp_path, call, fault)))
    }
    assert not found, "\n".join(f"{call}: {'; '.join(said)}" for call, said in found.items())
