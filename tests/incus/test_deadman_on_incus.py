"""The dead-man's switch on real Incus and real systemd: what the node does when nobody is there any more."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import artifacts
from lab.acceptance import CANARY, USERS, Command, marks, node_state, node_states
from lab.incus import Fleet
from lab.incus.host import incus, wait_until, which
from lab.incus.templates import HEALTH_PATH, INSTALL_DIR, UNIT
from lab.load import Load
from veza_tasks import settings
from veza_tasks.adapters import deadman as scripts
from veza_tasks.adapters.deadman import Switch
from veza_tasks.adapters.node import Node
from veza_tasks.capabilities import deadman, health, install
from veza_tasks.capabilities.artifact import Release, read_artifact
from veza_tasks.clock import SystemClock
from veza_tasks.errors import FleetError
from veza_tasks.events import Listeners
from veza_tasks.fleet import Fleet as Remote
from veza_tasks.run import Run, new_run_id
from veza_tasks.signals import Signals

pytestmark = pytest.mark.incus

OLD, NEW = "v1.0.9", "v1.0.10"
SHORT = {
    "sli_probe_interval": 1,
    "drain_timeout": 1,
    "health_timeout": 5,
    "ready_timeout": 5,
    "lb_timeout": 5,
    "command_timeout": 5,
    "prom_timeout": 1,
}
LATE = 3.0
"""Seconds: a timer may be 1 s late (``AccuracySec``), then the binary is hashed twice, the unit restarted, and it boots."""


@dataclass(frozen=True)
class Held:
    """A run that releases the new binary to the canary alone and then judges it until it is stopped."""

    run: Run
    good: Release
    new: Release

    @property
    def node(self) -> Node:
        return self.run.fleet.canary

    @property
    def switch(self) -> Switch:
        return Switch(self.node)

    def begin(self, artifact: Path) -> None:
        install.stage(self.run, [self.node], self.new, artifact)
        deadman.prepare(self.run, self.node, self.good)
        deadman.arm(self.run, self.node, self.good, unproven=self.new)
        self.release()

    def release(self) -> None:
        install.install(self.run, self.node, self.new, self.node.look())
        health.restart(self.run, self.node, self.node.health().unit)


@contextlib.contextmanager
def held(fleet_file: Path, artifact: Path) -> Iterator[Held]:
    """Step by step, for what the command does not let happen."""
    loaded = settings.load(file=fleet_file, environ={}, flags=SHORT).settings
    emit, clock = Listeners(), SystemClock()
    with contextlib.closing(Remote(loaded, emit=emit)) as remote:
        run = Run(
            id=new_run_id(clock),
            who="somebody@somewhere",
            settings=loaded,
            fleet=remote,
            clock=clock,
            emit=emit,
            signals=Signals(emit),
        )
        seen = remote.canary.look()
        assert seen.installed
        yield Held(run, Release(seen.installed, OLD), read_artifact(artifact).release)


@contextlib.contextmanager
def in_the_window(fleet: Fleet, artifact: Path, transcript: Path) -> Iterator[Command]:
    """The real command, which has judged the canary green once and is to judge it for ten minutes."""
    knobs = {name.upper(): str(value) for name, value in SHORT.items()}
    more = {"SLI_WINDOW": "600", "SLI_MIN_REQUESTS": "50", "ROLLBACK_BINARY": "running"}
    arguments = ("canary", "--artifact", str(artifact))
    with Command(fleet.fleet_file, arguments, transcript=transcript, knobs=knobs | more) as command:
        command.until_it_says(f"probe {CANARY}: green")
        assert not serves_old(fleet)
        yield command


@pytest.fixture
def users(fleet: Fleet) -> Iterator[Load]:
    with Load(fleet.lb_url + USERS, rate=60) as load:
        yield load


@pytest.fixture
def one(fleet: Fleet, small: Path) -> Iterator[Held]:
    with held(fleet.fleet_file, small / f"veza-api-{NEW}") as prepared:
        yield prepared
        with contextlib.suppress(deadman.Fired):
            deadman.disarm(prepared.run, prepared.node)


_RUNS = f"""
cd {INSTALL_DIR}
pid=$(systemctl show --property MainPID --value {UNIT})
[ "/proc/$pid/exe" -ef veza-api ] && sha256sum <veza-api
curl --silent --output /dev/null --max-time 1 --write-out '%{{http_code}}' http://127.0.0.1:8080{HEALTH_PATH}
"""


def serves(fleet: Fleet, digest: str) -> bool:
    """Whether the canary has, runs and answers with this binary; it may be down."""
    said = fleet.exec(CANARY, "sh", "-c", _RUNS, check=False).stdout
    return said.startswith(digest) and said.endswith("200")


def serves_old(fleet: Fleet) -> bool:
    return serves(fleet, artifacts.sha256(fleet.artifact(OLD)))


def seconds_until_old_serves(fleet: Fleet, promised: float) -> float:
    began = time.monotonic()
    wait_until(lambda: serves_old(fleet), "the old binary serves", seconds=promised + LATE)
    return time.monotonic() - began


def rotation(fleet: Fleet) -> dict[str, tuple[str, str]]:
    return {name: (row["srv_admin_state"], row["srv_uweight"]) for name, row in fleet.servers().items()}


def peers(fleet: Fleet) -> dict[str, object]:
    return {node: state for node, state in node_states(fleet).items() if node != CANARY}


def starts_since_boot(fleet: Fleet) -> int:
    log = fleet.exec(CANARY, "journalctl", "--boot", "--unit", UNIT, "--output", "cat").stdout
    return sum(line.startswith("Started ") for line in log.splitlines())


def left_over(fleet: Fleet) -> list[str]:
    """Timers, units and files of it, but for the program, its lock and its log, which stay."""
    find = ("find", "/etc/systemd/system", "-name", f"{scripts.PREFIX}*")
    units = ("systemctl", "list-units", "--plain", "--no-legend", f"{scripts.PREFIX}*")
    files = ("ls", "-A", f"{INSTALL_DIR}/{scripts.FOLDER}")
    found = [line for argv in (find, units, files) for line in fleet.exec(CANARY, *argv).stdout.splitlines()]
    return [line for line in found if line not in ("lock", "log", "revert", scripts.GUARD)]


def promised(fleet: Fleet) -> int:
    return deadman.patience(settings.load(file=fleet.fleet_file, environ={}, flags=SHORT).settings)


def test_after_kill_9_in_the_window_the_node_goes_back_by_itself_in_the_promised_time(
    fleet: Fleet, small: Path, users: Load, tmp_path: Path
) -> None:
    before = peers(fleet), rotation(fleet), marks(fleet)
    with in_the_window(fleet, small / f"veza-api-{NEW}", tmp_path / "log") as command:
        command.send(signal.SIGKILL)
        took = seconds_until_old_serves(fleet, promised(fleet))
        assert command.end().code == -signal.SIGKILL
    assert took > promised(fleet) - 2, "not before its time"
    assert (peers(fleet), rotation(fleet), marks(fleet)) == before
    assert users.stop().failed == 0


def test_with_the_network_cut_the_node_goes_back_by_itself_and_the_run_obeys_when_it_is_back(
    fleet: Fleet, small: Path, users: Load, tmp_path: Path
) -> None:
    before = peers(fleet), rotation(fleet), marks(fleet)
    with in_the_window(fleet, small / f"veza-api-{NEW}", tmp_path / "log") as command:
        fleet.stop_sshd()
        try:
            seconds_until_old_serves(fleet, promised(fleet))
        finally:
            fleet.start_sshd()
        process = node_state(fleet, CANARY).pid
        outcome = command.end()
    assert outcome.code == 4, outcome.transcript
    assert serves_old(fleet)
    assert node_state(fleet, CANARY).pid == process, "it was not restarted once more"
    assert (peers(fleet), rotation(fleet), marks(fleet)) == before
    assert left_over(fleet) == []
    assert users.stop().failed == 0


def test_a_reboot_in_the_window_ends_on_the_old_binary_and_the_run_obeys(
    fleet: Fleet, small: Path, users: Load, tmp_path: Path
) -> None:
    before = peers(fleet), rotation(fleet), marks(fleet)
    with in_the_window(fleet, small / f"veza-api-{NEW}", tmp_path / "log") as command:
        incus("restart", f"--project={fleet.name}", CANARY, "--force")
        outcome = command.end()
    assert outcome.code == 4, outcome.transcript
    assert serves_old(fleet)
    assert starts_since_boot(fleet) == 1, "the new one was never started"
    assert (peers(fleet), rotation(fleet), marks(fleet)) == before
    assert left_over(fleet) == []


def test_a_proven_release_leaves_nothing_of_it(
    fleet: Fleet, small: Path, users: Load, tmp_path: Path
) -> None:
    artifact = small / f"veza-api-{NEW}"
    knobs = {"SLI_WINDOW": "6", "SLI_MIN_REQUESTS": "50"}
    arguments = ("canary", "--artifact", str(artifact))
    with Command(fleet.fleet_file, arguments, transcript=tmp_path / "log", knobs=knobs) as command:
        outcome = command.end()
    assert outcome.code == 0, outcome.transcript
    assert serves(fleet, artifacts.sha256(artifact))
    assert left_over(fleet) == []


@pytest.mark.parametrize("how", [("--force",), ()], ids=["power cut", "orderly"])
def test_a_reboot_in_the_window_ends_on_the_old_binary_before_the_backend_starts(
    how: tuple[str, ...], fleet: Fleet, small: Path, one: Held
) -> None:
    one.begin(small / f"veza-api-{NEW}")
    incus("restart", f"--project={fleet.name}", CANARY, *how)
    wait_until(lambda: serves_old(fleet), "the old binary serves", seconds=30)
    assert fleet.exec(CANARY, "systemctl", "show", "--property=NRestarts", "--value", UNIT).stdout == "0\n"
    assert starts_since_boot(fleet) == 1, "the new one was never started"
    with pytest.raises(deadman.Fired) as fired:
        deadman.renew(one.run, one.node)
    assert fired.value.tombstone
    assert fired.value.tombstone.put_back
    deadman.clear(one.node)
    assert not deadman.look(one.node).left_over


def test_a_reboot_after_the_commit_stays_on_the_new_binary(fleet: Fleet, small: Path, one: Held) -> None:
    one.begin(small / f"veza-api-{NEW}")
    assert deadman.disarm(one.run, one.node) is None
    incus("restart", f"--project={fleet.name}", CANARY, "--force")
    wait_until(lambda: serves(fleet, one.new.digest), "the new one runs", seconds=30)
    assert not deadman.look(one.node).left_over


def test_a_switch_that_is_renewed_never_acts(fleet: Fleet, small: Path, one: Held) -> None:
    one.begin(small / f"veza-api-{NEW}")
    process = node_state(fleet, CANARY).pid
    assert one.switch.arm(one.run.id, one.good.digest, 2, unproven=one.new.digest).stands == "armed"
    for _ in range(24):
        time.sleep(0.4)
        deadman.renew(one.run, one.node)
        assert len(deadman.look(one.node).timers) == 1
    assert node_state(fleet, CANARY).pid == process
    assert deadman.disarm(one.run, one.node) is None
    time.sleep(3)
    assert node_state(fleet, CANARY).pid == process


def test_commit_and_revert_at_the_same_moment_have_exactly_one_outcome(
    fleet: Fleet, small: Path, one: Held
) -> None:
    one.begin(small / f"veza-api-{NEW}")
    chance = random.Random(4)
    outcomes: Counter[str] = Counter()
    for _ in range(20):
        stands = deadman.look(one.node)
        assert stands.armed
        node = (which("incus"), "exec", f"--project={fleet.name}", CANARY, "--")
        revert = (f"{INSTALL_DIR}/{scripts.FOLDER}/revert", one.run.id, str(stands.armed.generation))
        with subprocess.Popen([*node, *revert]) as reverting:
            time.sleep(chance.uniform(0.0, 0.25))
            left = deadman.disarm(one.run, one.node)
            assert reverting.wait(30) == 0
        seen = one.node.look()
        outcomes["reverted" if left else "committed"] += 1
        wanted = one.good.digest if left else one.new.digest
        assert seen.installed == seen.running == wanted
        assert (left is not None) == (deadman.tombstone(one.node) is not None)
        deadman.clear(one.node)
        assert not deadman.look(one.node).left_over
        deadman.prepare(one.run, one.node, one.good)
        deadman.arm(one.run, one.node, one.good, unproven=one.new)
        if left:
            one.release()
    assert len(outcomes) == 2


def test_a_full_disk_does_not_keep_the_old_binary_away(fleet: Fleet, small: Path, one: Held) -> None:
    folder = f"{INSTALL_DIR}/{scripts.FOLDER}"
    fleet.exec(CANARY, "mkdir", folder)
    fleet.exec(CANARY, "mount", "-t", "tmpfs", "-o", "size=64k", "full", folder)
    try:
        one.begin(small / f"veza-api-{NEW}")
        one.switch.arm(one.run.id, one.good.digest, 3, unproven=one.new.digest)
        fleet.exec(CANARY, "dd", "if=/dev/zero", f"of={folder}/filled", "bs=4k", check=False)
        with pytest.raises(FleetError, match=r"No space left|I/O error"):
            deadman.renew(one.run, one.node)
        seconds_until_old_serves(fleet, 3)
        left = deadman.disarm(one.run, one.node)
        assert left
        assert left.digest == one.good.digest
    finally:
        fleet.exec(CANARY, "umount", folder)


def test_what_a_repeated_call_finds_half_done_it_takes_up(fleet: Fleet, small: Path, one: Held) -> None:
    """A call that was cut off between the start of its timer and its record of it."""
    one.begin(small / f"veza-api-{NEW}")
    unit = f"{scripts.PREFIX}-{one.run.id}-2"
    fleet.exec(CANARY, "systemd-run", "--collect", f"--unit={unit}", "--on-active=1000", "/bin/true")
    deadman.renew(one.run, one.node)
    stands = deadman.look(one.node)
    assert stands.armed
    assert (stands.armed.generation, stands.timers) == (2, (f"{unit}.timer",))


@pytest.mark.parametrize(
    ("call", "limit"),
    [
        (lambda one: deadman.arm(one.run, one.node, one.good, unproven=one.new), 0.12),
        (lambda one: deadman.renew(one.run, one.node), 0.12),
    ],
    ids=["arm", "renew"],
)
def test_it_costs_a_release_next_to_nothing(
    call: Callable[[Held], object], limit: float, fleet: Fleet, small: Path, one: Held
) -> None:
    one.begin(small / f"veza-api-{NEW}")

    def seconds() -> float:
        began = time.perf_counter()
        call(one)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(10)) < limit
