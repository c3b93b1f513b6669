"""Every distinct remote call of a happy canary goes wrong once, on real processes, HAProxy, SSH and clocks.

The in-memory sweep strikes every call in every way; here each is struck in one way, and the same is asked: the exit code is
true, the binaries are old or new and the peer's is proven, no more than one node is out of rotation, no client request is
lost, and the same command again finishes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import pytest

from lab import artifacts, sandbox
from lab.acceptance import serves
from lab.incus.host import wait_until
from lab.load import Load
from lab.sandbox.fleet import UNIT
from tests.memory import Call, Ending, Fault, Faults, FaultyHost, JournaledRun, World, _no_answer, ending
from veza_tasks import settings as settings_module
from veza_tasks.adapters.haproxy import get_over_http
from veza_tasks.adapters.host import Host
from veza_tasks.capabilities import lock
from veza_tasks.capabilities.install import PROVEN
from veza_tasks.capabilities.rotation import DRAINED
from veza_tasks.clock import SystemClock
from veza_tasks.events import Listeners
from veza_tasks.fleet import Fleet, connect_with_ssh
from veza_tasks.recipes.release import canary
from veza_tasks.run import new_run_id
from veza_tasks.settings import Settings
from veza_tasks.signals import Signals

OLD, NEW = "v1.0.9", "v1.0.10"
FAULTS = (Fault.FAILS, Fault.LOST_AFTER, Fault.KILLED_AFTER)
"""They take turns over the calls in alphabetical order, where one call on two nodes stands side by side."""
FLEETS = 3
"""A run mostly waits, so several fleets share the calls."""
REQUESTS = "veza_gin_http_request_duration_seconds_count"
NOWHERE = World([])
"""Only a call that hangs would take its time from there."""


@dataclass(frozen=True)
class NodeState:
    """What a node has and runs (sha256), and its main process."""

    installed: str
    running: str
    pid: str


@dataclass
class Seen:
    """What was seen from outside: the most nodes that were out of rotation at once, and how many requests failed."""

    most_out: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Sweep:
    """A sandbox, and the command that is swept on it."""

    lab: sandbox.Fleet
    settings: Settings

    @property
    def canary(self) -> str:
        return self.settings.canary_node

    @property
    def old(self) -> str:
        return artifacts.sha256(self.lab.artifact(OLD))

    @property
    def new(self) -> str:
        return artifacts.sha256(self.lab.artifact(NEW))

    def run(self, faults: Faults) -> Ending:
        # Preflight refuses a node that was never asked since it restarted; the sweep is not about that.
        wait_until(self.is_scraped, "Prometheus has a sample of every process", seconds=30)

        def connect(name: str, settings: Settings) -> Host:
            client = settings.hosts[name].incus_command
            return FaultyHost(connect_with_ssh(name, settings), faults, client=client)

        def get(url: str) -> str:
            return faults.call("client", "GET", lambda: get_over_http(url), odd=_no_answer, timeout=5.0)

        clock = SystemClock()
        emit = Listeners()
        fleet = Fleet(self.settings, emit=emit, connect=connect, get=get)
        with contextlib.closing(fleet):
            run = JournaledRun(
                journals=self.lab.directory / "journals",
                id=new_run_id(clock),
                who="somebody@somewhere",
                settings=self.settings,
                fleet=fleet,
                clock=clock,
                emit=emit,
                signals=Signals(emit),
            )
            faults.phase = lambda: run.doing[-1] if run.doing else ""
            return ending(run, canary)

    def unlock(self) -> None:
        """Take the lock from the run that was killed."""
        with contextlib.closing(Fleet(self.settings, emit=Listeners())) as fleet:
            name = lock.lock_name(self.settings)
            held = lock.holder(fleet.for_records, name)
            assert held
            assert lock.break_lock(fleet.for_records, name, held)

    @contextlib.contextmanager
    def watched(self) -> Iterator[Seen]:
        """Clients send requests and somebody watches HAProxy; what they saw is known at the end."""
        over, seen = threading.Event(), Seen()

        def watch() -> None:
            while not over.wait(0.05):
                out = sum(not serves(server) for server in self.lab.servers().values())
                seen.most_out = max(seen.most_out, out)

        with Load(f"{self.lab.lb_url}/api/v1/tracks", rate=20) as load, ThreadPoolExecutor(1) as watcher:
            watching = watcher.submit(watch)
            try:
                yield seen
            finally:
                over.set()
            watching.result()
            seen.lost = load.stop().failed

    def nodes(self) -> dict[str, NodeState]:
        def one(name: str) -> NodeState:
            pid = self.lab.unit(name, UNIT)["MainPID"]
            return NodeState(
                installed=artifacts.sha256(self.lab.install_dir(name) / "veza-api"),
                running=artifacts.sha256(Path(f"/proc/{pid}/exe")) if pid != "0" else "",
                pid=pid,
            )

        return {name: one(name) for name in self.lab.nodes}

    def marked(self, key: str) -> dict[str, str]:
        """The nodes that have this mark, and its value."""
        configs = {name: instance["config"] for name, instance in self.lab.instances().items()}
        return {
            name: config[f"user.veza-tasks.{key}"]
            for name, config in configs.items()
            if f"user.veza-tasks.{key}" in config
        }

    def is_scraped(self) -> bool:
        """Whether there are samples of every node's requests, and the next scrape will find some again."""
        healthy = all(self.lab.is_healthy(name) for name in self.lab.nodes)
        return healthy and len(self.lab.query(REQUESTS)) == len(self.lab.nodes)

    def all_serve(self) -> bool:
        """Every node answers, is in rotation, and has no mark that says otherwise."""
        healthy = all(self.lab.is_healthy(name) for name in self.lab.nodes)
        return healthy and all(map(serves, self.lab.servers().values())) and not self.marked(DRAINED)

    def is_done(self) -> bool:
        shipped = all(node.installed == node.running == self.new for node in self.nodes().values())
        return shipped and self.all_serve()

    def unproven(self) -> list[str]:
        """The peers that have a binary which the canary has not proven."""
        proven = json.loads(self.marked(PROVEN).get(self.canary, "{}")).get("digest")
        return [
            name
            for name, node in self.nodes().items()
            if name != self.canary and node.installed not in (self.old, proven)
        ]

    def complaints(self, call: Call, fault: Fault) -> Iterator[str]:
        """What is not as it must be when ``fault`` strikes ``call``, and after the same command again."""
        self.lab.reset()
        before = self.nodes()
        faults = Faults(NOWHERE, call, fault)
        with self.watched() as seen:
            ended = self.run(faults)
            where = f"exit {ended.code} ({ended.text})"
            if not faults.struck:
                yield f"{where}, and the fault never struck"
            yield from (f"{where}, {what}" for what in self.untrue(ended, fault, before))
            if (self.lab.directory / "profiles").exists() and os.listdir(self.lab.directory / "profiles"):
                if ended.code != -9:
                    yield f"{where}, and the lock outlived the run"
                self.unlock()
            again = self.run(Faults(NOWHERE))
        if again.code or not self.is_done() or self.unproven():
            yield f"{where}, and the same command again does not finish: exit {again.code} ({again.text})"
        if seen.most_out > 1 or seen.lost:
            yield f"{where}, and then again: {seen}"

    def untrue(self, ended: Ending, fault: Fault, before: Mapping[str, NodeState]) -> Iterator[str]:
        """What the fleet is not although a run ended like this."""
        after = self.nodes()
        if fault is Fault.KILLED_AFTER and ended.code != -9:
            yield "though killed"
        if ended.code == 0 and not self.is_done():
            yield "but not everything is done"
        if ended.code == 3 and not (after == before and self.all_serve()):
            yield "but not as before"
        if ended.code == 4:
            back = after[self.canary].installed == after[self.canary].running == self.old
            untouched = all(after[name] == before[name] for name in after if name != self.canary)
            if not (back and untouched and self.all_serve()):
                yield "but not rolled back"
        if ended.code in (5, 6) and after == before and self.all_serve():
            yield "and there is nothing to do for a human"
        if ended.code not in (0, 3, 4, 5, 6, -9):
            yield "which says nothing about the fleet"
        if any(node.installed not in (self.old, self.new) for node in after.values()):
            yield "and something else is installed"
        if unproven := self.unproven():
            yield f"and {', '.join(unproven)} got an unproven binary"


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Sweep]]:
    repository = tmp_path_factory.mktemp("lab")
    names = [f"sweep-{number}" for number in range(1, FLEETS + 1)]

    def up(name: str) -> Sweep:
        return begun(sandbox.up(name, repository=repository, say=lambda _: None))

    with ThreadPoolExecutor(FLEETS) as workers:
        try:
            yield list(workers.map(up, names))
        finally:
            for name in names:
                sandbox.down(name, repository=repository, say=lambda _: None)


def begun(lab: sandbox.Fleet) -> Sweep:
    knobs: dict[str, object] = {
        "artifact": str(lab.artifact(NEW)),
        "rollback_binary": settings_module.RUNNING,
        "sli_window": 0,
        "health_settle": 0.05,
    }
    return Sweep(lab, settings_module.load(file=lab.fleet_file, environ={}, flags=knobs).settings)


@pytest.mark.sandbox
@pytest.mark.timeout(600)
def test_whatever_goes_wrong_with_a_real_call_the_fleet_is_left_well_and_the_same_command_finishes(
    sweeps: Sequence[Sweep],
) -> None:
    happy = Faults(NOWHERE)
    sweeps[0].lab.reset()
    with sweeps[0].watched() as seen:
        ended = sweeps[0].run(happy)
    assert (ended.code, seen) == (0, Seen(most_out=1, lost=0)), ended.text
    assert sweeps[0].is_done()
    free: SimpleQueue[Sweep] = SimpleQueue()
    for sweep in sweeps:
        free.put(sweep)

    def tried(call: Call, fault: Fault) -> str:
        sweep = free.get()
        try:
            return "; ".join(sweep.complaints(call, fault))
        finally:
            free.put(sweep)

    cases = list(zip(sorted(happy.seen, key=str), itertools.cycle(FAULTS), strict=False))
    with ThreadPoolExecutor(FLEETS) as workers:
        said = list(workers.map(lambda case: tried(*case), cases))
    found = [f"{fault} at {call}: {what}" for (call, fault), what in zip(cases, said, strict=True) if what]
    assert not found, "\n".join(found)
