"""Random operators, faults and commands on a fleet in memory, one after the other and into each other.

After each: never more nodes out of rotation by us than allowed, nothing unproven on a peer, no lock of a run that ended, an
exit code that tells the truth, somebody else's drain as it was. At the end one person recovers, and a release succeeds.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests import memory
from tests.memory import Call, Ending, Fault, Faults, Machine, digest_of, ending
from veza_tasks.capabilities import deadman, lock
from veza_tasks.capabilities.install import PROVEN
from veza_tasks.capabilities.lock import DEAD_AFTER, LOOK_LASTS
from veza_tasks.errors import LockHeld, Refused, ReleaseError
from veza_tasks.events import Changing, Event, Probed, StepDone, StepStarted, Waiting
from veza_tasks.recipes import recover, single
from veza_tasks.recipes.release import canary, roll_peers
from veza_tasks.recipes.rollback import rollback_all, ways
from veza_tasks.recipes.status import status
from veza_tasks.recipes.unlock import held_by, unlock
from veza_tasks.run import Run

T = TypeVar("T")
R = TypeVar("R")
Recipe = Callable[[Run], object]
Done = Callable[[], bool]

OLD = "v1.0.0"
GOOD = (OLD, "v2", "v3")
BAD = {name: getattr(memory, name) for name in ("HEALTH_500", "ERRORS_20", "SLOW_P95", "CRASH")}
LAST = "v9"
"""Released at the end, when all else is over."""
SETTLES, FORGOTTEN = 5.0, 300.0
"""Seconds until HAProxy has seen what happened, and until the SLIs of now know nothing of it any more."""
KILLS = (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
BREAKING = ("an emergency", "an unlock by mistake")
OURS = ("a signal", "three signals", "a second operator", *BREAKING)
THEIRS = ("a reload", "a process dies", "a reboot", "somebody drains", "somebody readies")
NODES = st.sampled_from(["backend-api-1", "backend-api-2", "backend-api-3"])
"""In a fleet of two the third is the first."""


@dataclass(frozen=True)
class Trouble:
    """In the middle of a command: killed at its nth change, a fault at its nth call, else something at its nth step or look."""

    what: str
    nth: int
    on: str


TROUBLE = st.one_of(
    st.none(),
    st.builds(Trouble, st.sampled_from(KILLS), st.integers(1, 25), NODES),
    st.builds(Trouble, st.sampled_from(sorted({*Fault} - {*KILLS})), st.integers(1, 100), NODES),
    st.builds(Trouble, st.sampled_from([*OURS, *THEIRS]), st.integers(1, 60), NODES),
)


class AtNth(Faults):
    """Lets something go wrong at the nth call of a run, whatever it is; we are killed at its nth change."""

    def __init__(self, world: memory.World, fault: Fault, nth: int) -> None:
        super().__init__(world, fault=fault)
        self._left = nth

    def call(self, where: str, what: str, make: Callable[[], T], *, changes: bool = False, **more: Any) -> T:
        self._left -= changes or self.fault not in KILLS
        if self._left == 0 and self.at is None:
            self.at = Call(self.phase(), where, what, changes)
            self.nth = self.seen[self.at] + 1
        made: T = super().call(where, what, make, changes=changes, **more)
        return made


class InOrder(memory.JournaledRun):
    """A run that does one thing after the other, so that an example is the same when it is run again."""

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        return [work(item) for item in items]


class Operators(RuleBasedStateMachine):
    """A fleet, and everything that people and machines do to it."""

    @initialize(nodes=st.sampled_from([2, 3, 3]))
    def begin(self, nodes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="operators-"))
        fleet = memory.MemoryFleet(self.folder, nodes=nodes, rate=300, sli_window=5, health_settle=0.05)
        self.fleet, self.world = fleet, fleet.world
        binaries = {**dict.fromkeys([*GOOD, LAST], memory.GOOD), **BAD}
        self.digests = {name: digest_of(fleet.binary(name, how)) for name, how in binaries.items()}
        self.world.check_install = self.check_install
        self.theirs: set[str] = set()
        """Nodes that somebody else took out."""
        self.vouched = False
        """A person answers for what is put on a peer now."""

    # What operators do

    @rule(version=st.sampled_from([*GOOD, *BAD]), unlocks=st.booleans(), trouble=TROUBLE)
    def canary(self, version: str, unlocks: bool, trouble: Trouble | None) -> None:
        if unlocks:
            self.unlock()
        self.operate("canary", canary, lambda: self.all_have(version), trouble, version)

    @rule(version=st.sampled_from(GOOD[1:]), unlocks=st.booleans(), unproven=st.booleans(), trouble=TROUBLE)
    def roll_peers(self, version: str, unlocks: bool, unproven: bool, trouble: Trouble | None) -> None:
        if unlocks:
            self.unlock()
        version = next((name for name in GOOD if self.digests[name] in self.proven), version)
        self.vouched = unproven
        recipe: Recipe = lambda run: roll_peers(run, unproven="drill" * unproven)  # noqa: E731
        self.operate("roll-peers", recipe, lambda: self.all_have(version, self.fleet.peers), trouble, version)
        self.vouched = False

    @rule(force=st.booleans(), trouble=TROUBLE)
    def rollback_all(self, force: bool, trouble: Trouble | None) -> None:
        recipe: Recipe = lambda run: rollback_all(run, ways(run))  # noqa: E731
        self.operate("rollback-all", recipe, lambda: self.all_have(OLD), trouble, breaks="*" * force)

    @rule(step=st.sampled_from(["drain", "ready", "push"]), on=NODES, trouble=TROUBLE)
    def by_hand(self, step: str, on: str, trouble: Trouble | None) -> None:
        machine, recipe = self.machine(on), getattr(single, step)

        def done() -> bool:
            out = (self.world.servers[machine.name].admin != 0, machine.name in self.fleet.drained)
            if step == "push":
                return machine.installed == machine.running == self.digests["v2"]
            return all(out) if step == "drain" else not any(out) and self.fleet.serves(machine)

        self.vouched = step == "push"
        self.operate(step, lambda run: recipe(run, run.fleet.node(machine.name)), done, trouble, "v2")
        self.vouched = False

    @rule(trouble=TROUBLE)
    def undo(self, trouble: Trouble | None) -> None:
        found, dead = self.look_once_it_is_dead()
        if found.differences:
            recipe: Recipe = lambda run: recover.undo(run, found.last)  # noqa: E731
            self.undone = self.operate("recover", recipe, self.is_well, trouble, breaks=dead)

    @rule(trouble=TROUBLE)
    def resume(self, trouble: Trouble | None) -> None:
        found, dead = self.look_once_it_is_dead()
        artifact = recover.knobs_of(found.last, self.folder / "journals").get("artifact", "")
        try:
            sha256 = recover.check_resumable(found.last, artifact)
        except Refused:
            return
        version = next(name for name, digest in self.digests.items() if digest == sha256)
        again: Recipe = lambda run: canary(run, sha256=sha256)  # noqa: E731
        self.operate("canary", again, lambda: self.all_have(version), trouble, version, dead)

    @rule()
    def unlock(self) -> None:
        run = self.run()
        if found := lock.holder(run.fleet.for_records, lock.lock_name(run.settings)):
            unlock(run, held_by(run, found.run))

    # What befalls them

    @rule(what=st.sampled_from(THEIRS), on=NODES)
    def in_peace(self, what: str, on: str) -> None:
        self.befalls(what, self.machine(on))
        self.world.advance(SETTLES)

    @rule(seconds=st.sampled_from([1, 20, 150]))
    def time_passes(self, seconds: int) -> None:
        self.world.advance(seconds)

    def befalls(self, what: str, machine: Machine, run: Run | None = None) -> None:
        """What machines and other people do; ``run`` is the one that is at work."""
        match what:
            case "a reload":
                self.world.reload_haproxy()
                self.theirs.clear()
            case "a process dies" if machine.process:
                machine.process.behaviour = replace(machine.process.behaviour, lives=0.0)
                self.world.after(0.01, lambda: None)
            case "a reboot":
                self.world.reboot(machine)
            case "somebody drains" if machine.name not in self.fleet.drained:
                # What bears our mark already cannot be told from what we took out.
                self.world.servers[machine.name].admin = 8
                self.theirs.add(machine.name)
            case "somebody readies":
                self.world.servers[machine.name].admin = 0
                self.theirs.discard(machine.name)
            case "a signal" | "three signals":
                for _ in range(1 if what == "a signal" else 3):
                    signal.raise_signal(signal.SIGTERM)
            case "a second operator":
                effects = list(self.world.effects)
                second = self.operate("canary", canary, lambda: False, None, "v3")
                kept_out = isinstance(second.error, LockHeld) and self.world.effects == effects
                self.claim(kept_out, f"a second one was not kept out: {second}")
            case "an emergency" | "an unlock by mistake" if run:
                if what == "an emergency":
                    self.rollback_all(force=True, trouble=None)
                else:
                    unlock(self.run(), held_by(self.run(), run.id))
                # For so long a look at the lock is relied on.
                self.world.advance(LOOK_LASTS + 1)
                self.fleet.on_event = lambda event: self.claim(
                    not isinstance(event, Changing), f"without the lock: {event}"
                )

    # What must be true

    def operate(
        self, task: str, do: Recipe, done: Done, trouble: Trouble | None, version: str = "", breaks: str = ""
    ) -> Ending:
        """One command by one operator; ``done`` is what exit code 0 promises."""
        world, fleet = self.world, self.fleet
        what = trouble.what if trouble else ""
        faults = AtNth(world, what, trouble.nth) if trouble and isinstance(what, Fault) else None
        knobs = {"artifact": self.folder / f"veza-api-{version}"} if version else {}
        run = self.run(faults, task=task, **knobs)
        before, fired = self.seen(), self.fired()
        out = sum(not fleet.serves(machine) for machine in world.machines.values())
        most_out, world.most_out = world.most_out, 0
        left = trouble.nth if trouble and not faults else 0

        def listen(event: Event) -> None:
            nonlocal left
            left -= isinstance(event, StepStarted | StepDone | Waiting | Probed)
            if trouble and left == 0:
                fleet.on_event = lambda event: None
                self.befalls(what, self.machine(trouble.on), run)

        fleet.on_event = listen if left else lambda event: None
        with run.signals:
            ended = ending(run, do, breaks=breaks)
        fleet.on_event = lambda event: None

        code, error, now = ended.code, ended.error, self.seen()
        quiet = what not in (*BREAKING, *THEIRS) and fired == self.fired()
        told = not isinstance(error, ReleaseError) or all((error.message, error.state, error.next_command))
        locked_by = [keys.get(f"{memory.MARK}run") for keys in world.profiles.values()]
        elsewhere = [name for name in now if name != fleet.canary.name and now[name] != before[name]]
        # A single step that could not look, and a full rollback that found nothing to do elsewhere, cannot know.
        knows = now == before and task in ("canary", "roll-peers", "recover")
        ours = (quiet or what == "a reload") and not self.theirs
        # One that cannot be brought back stays out while the others go back; by hand one may take out more.
        allowed = max(1, out + (task == "drain")) + (code == 6 and task in ("rollback-all", "recover"))
        wrong = {
            "that says nothing about the fleet": code not in (0, 3, 4, 5, 6, -9),
            "it does not say what, in what state and what next": not told,
            "its lock is still there": code != -9 and run.id in locked_by,
            "not everything is done": quiet and code == 0 and not self.theirs and not done(),
            f"not as before: {before}, now {now}": quiet and code == 3 and now != before,
            "the canary is not back": quiet and code == 4 and not self.all_have(OLD, [fleet.canary]),
            "a peer was touched": quiet and code == 4 and bool(elsewhere),
            "there is nothing to do for a human": quiet and code in (5, 6) and knows and self.is_well(),
            f"{world.most_out} were out": ours and world.most_out > allowed,
        }
        for said, is_so in wrong.items():
            self.claim(not is_so, f"{task} with {trouble} ends with {code}: {ended.text}\n... {said}")
        if what in THEIRS:
            world.advance(SETTLES)
        world.most_out = max(most_out, world.most_out)
        return ended

    @invariant()
    def nothing_is_wrong(self) -> None:
        whole = {one.installed for one in self.world.machines.values()} <= {*self.digests.values()}
        self.claim(whole, "a binary that is not whole")
        undone = [name for name in sorted(self.theirs) if self.world.servers[name].admin == 0]
        self.claim(not undone, f"somebody else's drain of {undone} was undone")
        self.claim(not any(self.digests[version] in self.proven for version in BAD), "a bad one is proven")
        assert not self.world.wrong, "\n".join(self.world.wrong)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.all_ends_well()
        finally:
            shutil.rmtree(self.folder)

    def all_ends_well(self) -> None:
        """The next person recovers, looks, and releases."""
        fleet, world = self.fleet, self.world
        world.advance(deadman.patience(self.run().settings) + SETTLES)
        self.undone = Ending(0)
        self.undo(trouble=None)
        assert self.undone.code == 0 or (self.undone.code == 5 and self.theirs), self.undone
        left = recover.look(self.run()).differences
        assert [one for one in left if one.where not in self.theirs] == []
        for node, machine in zip(status(self.run()), world.machines.values(), strict=True):
            truth = (machine.installed, machine.running, fleet.serves(machine))
            assert (node.installed, node.running, node.serves, node.problems) == (*truth, ())
        world.advance(FORGOTTEN)
        if self.theirs:
            ended = self.operate("canary", canary, lambda: False, None, LAST)
            assert ended.code == 3, ended
            for name in sorted(self.theirs):
                self.befalls("somebody readies", self.machine(name))
            world.advance(FORGOTTEN)
        ended = self.operate("canary", canary, lambda: self.all_have(LAST), None, LAST)
        assert ended.code == 0, ended
        assert {(name, *marks) for name, marks in fleet.marks.items()} == {(fleet.canary.name, PROVEN)}
        assert recover.look(self.run()).differences == []
        self.nothing_is_wrong()

    # What they look at

    def is_well(self) -> bool:
        return self.fleet.all_serve() and not recover.look(self.run()).differences

    def run(self, faults: Faults | None = None, **more: Any) -> Run:
        run = self.fleet.run(faults, **more)
        assert isinstance(run, memory.JournaledRun)
        return InOrder(**{one.name: getattr(run, one.name) for one in fields(run)})

    def look_once_it_is_dead(self) -> tuple[recover.Found, str]:
        """What there is to recover from, and the dead run that holds the lock."""
        if self.world.profiles:
            self.world.advance(DEAD_AFTER + 1)
        found = recover.look(self.run())
        recover.check_dead(self.run(), found.holder)
        return found, found.holder.run if found.holder else ""

    def claim(self, true: bool, otherwise: str) -> None:
        """Told later: a run would take a failing test for a failing step."""
        if not true:
            self.world.wrong.append(otherwise)

    def check_install(self, machine: Machine, digest: str) -> None:
        fit = digest == self.digests[OLD] or digest in self.proven or self.vouched
        self.claim(machine is self.fleet.canary or fit, f"{machine.name} got an unproven binary")

    @property
    def proven(self) -> str:
        return self.fleet.marks.get(self.fleet.canary.name, {}).get(PROVEN, "")

    def machine(self, name: str) -> Machine:
        return self.world.machines.get(name) or self.world.machines["backend-api-1"]

    def all_have(self, version: str, machines: Sequence[Machine] = ()) -> bool:
        """Whether they run it and serve, and no drain of ours is left; without any named, all of them."""
        wanted, drained = self.digests[version], self.fleet.drained
        return all(
            one.installed == one.running == wanted and self.fleet.serves(one) and one.name not in drained
            for one in machines or self.world.machines.values()
        )

    def seen(self) -> dict[str, object]:
        """The fleet as a run that changes nothing leaves it; what crashes by itself goes on doing so."""
        crash, drained, servers = self.digests["CRASH"], self.fleet.drained, self.world.servers
        return {
            name: (one.installed, one.installed == crash or one.running, servers[name].admin, name in drained)
            for name, one in self.world.machines.items()
        }

    def fired(self) -> list[str]:
        """What switches have done by themselves."""
        return [one.switch.outcome for one in self.world.machines.values() if one.switch.phase == "tombstone"]


Operators.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    print_blob=True,
    # To shrink takes longer than a test may; with Phase.shrink a failing example becomes a short one.
    phases=(Phase.explicit, Phase.generate),
)
TestOperators = Operators.TestCase
