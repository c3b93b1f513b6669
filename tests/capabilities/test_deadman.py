"""The dead-man's switch: what it promises, on a fleet in memory; and its program, run by a real shell on real files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import sandbox
from lab.incus.host import wait_until
from tests.memory import INSTALLED, KEPT, File, Machine, MemoryFleet, digest_of
from veza_tasks import settings
from veza_tasks.adapters import deadman as scripts
from veza_tasks.adapters.deadman import seconds_in
from veza_tasks.adapters.node import KEPT as KEPT_NAME
from veza_tasks.adapters.node import Node
from veza_tasks.capabilities import deadman, install
from veza_tasks.capabilities.artifact import Release, read_artifact
from veza_tasks.clock import SystemClock
from veza_tasks.errors import FleetError
from veza_tasks.events import Event, Listeners, Planned, Waiting
from veza_tasks.fleet import Fleet
from veza_tasks.run import Run
from veza_tasks.signals import Signals


@dataclass(frozen=True)
class Guarded:
    """A canary that runs an unproven v2, its switch armed."""

    fleet: MemoryFleet
    run: Run
    good: Release
    new: Release

    @property
    def node(self) -> Node:
        return self.run.fleet.canary

    @property
    def machine(self) -> Machine:
        return self.fleet.canary

    @property
    def patience(self) -> int:
        return deadman.patience(self.run.settings)

    def is_on_old(self) -> bool:
        return self.machine.installed == self.machine.running == self.good.digest

    def another_run(self) -> Run:
        self.fleet.world.advance(0.01)
        return self.fleet.run()


@pytest.fixture
def guarded(fleet: MemoryFleet) -> Guarded:
    run = fleet.run()
    node, good = run.fleet.canary, read_artifact(fleet.v1).release
    artifact = read_artifact(fleet.binary("v2.0.0"))
    install.stage(run, [node], artifact.release, artifact.path)
    deadman.prepare(run, node, good)
    deadman.arm(run, node, good, unproven=artifact.release)
    install.install(run, node, artifact.release, node.look())
    node.restart(timeout=5)
    fleet.world.advance(1)
    assert fleet.canary.running == artifact.release.digest
    return Guarded(fleet, run, good, artifact.release)


def test_without_renewal_the_old_binary_runs_again_and_haproxy_and_the_peers_are_not_touched(
    guarded: Guarded,
) -> None:
    world = guarded.fleet.world
    peer = guarded.fleet.peers[0].process
    admin = [server.admin for server in world.servers.values()]
    world.advance(guarded.patience - 2)
    assert not guarded.is_on_old(), "not before its time"
    world.advance(2)
    assert guarded.is_on_old()
    assert guarded.fleet.peers[0].process is peer
    assert [server.admin for server in world.servers.values()] == admin
    assert guarded.fleet.marks == {}


def test_what_it_replaced_is_kept_with_what_is_known_of_it(guarded: Guarded) -> None:
    guarded.fleet.world.advance(guarded.patience + 1)
    seen = guarded.node.look()
    new = digest_of(guarded.fleet.binary("v2.0.0"))
    assert seen.kept == (new,)
    assert seen.version(new) == "v2.0.0"


def test_a_renewed_switch_never_acts(guarded: Guarded) -> None:
    process = guarded.machine.process
    for _ in range(100):
        guarded.fleet.world.advance(guarded.patience - 2)
        deadman.renew(guarded.run, guarded.node)
    stands = deadman.look(guarded.node)
    assert guarded.machine.process is process
    assert stands.armed is not None
    assert stands.armed.generation == 101
    assert len(stands.timers) == 1
    assert stands.armed.fires_at - stands.now == pytest.approx(guarded.patience, abs=1)


@pytest.mark.parametrize(
    ("every", "renewals"), [(1.0, 10), (0.02, 20)], ids=["at every probe", "at every look of a wait"]
)
def test_a_judging_loop_renews_at_every_probe_and_hardly_more_often(
    every: float, renewals: int, guarded: Guarded
) -> None:
    beat = deadman.heartbeat(guarded.run, guarded.node)
    interval, began = guarded.run.settings.sli_probe_interval, guarded.fleet.world.time
    for turn in range(int(10 / every)):
        guarded.fleet.world.advance(began + (turn + 1) * every * interval - guarded.fleet.world.time)
        beat()
    assert guarded.machine.switch.generation - 1 == pytest.approx(renewals, abs=1)
    assert "renew the dead-man's switch" in guarded.fleet.world.effects


def test_a_renewal_that_waits_is_not_renewed_from_within(guarded: Guarded) -> None:
    beat = deadman.heartbeat(guarded.run, guarded.node)
    told: list[Event] = []

    def hear(event: Event) -> None:
        if isinstance(event, Waiting):
            told.append(event)
            beat()

    [elapses] = guarded.machine.switch.timers.values()
    guarded.fleet.world.advance(elapses + 0.01 - guarded.fleet.world.time)
    assert guarded.machine.switch.busy
    with guarded.run.emit.joined(hear), pytest.raises(deadman.Fired):
        beat()
    assert told, "it was waited for"


def test_a_dead_runs_switch_is_disarmed_by_naming_it(guarded: Guarded) -> None:
    later = guarded.another_run()
    assert deadman.disarm(later, later.fleet.canary, of=guarded.run.id) is None
    assert not deadman.look(guarded.node).left_over


def test_the_commit_of_a_release_that_went_back_is_refused(guarded: Guarded) -> None:
    guarded.fleet.world.advance(guarded.patience + 1)
    with pytest.raises(deadman.Fired) as stopped:
        deadman.commit(guarded.run, guarded.node)
    assert stopped.value.tombstone == deadman.tombstone(guarded.node)


def test_the_commit_of_a_proven_release_disarms(guarded: Guarded) -> None:
    deadman.commit(guarded.run, guarded.node)
    assert not deadman.look(guarded.node).left_over


def test_it_says_in_words_how_it_stands(guarded: Guarded) -> None:
    run = guarded.run.id
    assert f"armed by run {run}: puts {guarded.good.digest[:12]} back in" in deadman.describe(
        deadman.look(guarded.node)
    )
    guarded.fleet.world.advance(guarded.patience + 1)
    assert f"for run {run}, which did not renew it" in deadman.describe(deadman.look(guarded.node))
    deadman.clear(guarded.node)
    assert deadman.describe(deadman.look(guarded.node)) == ""


def test_disarmed_nothing_of_it_is_left_and_twice_is_harmless(guarded: Guarded) -> None:
    process = guarded.machine.process
    for _ in range(2):
        assert deadman.disarm(guarded.run, guarded.node) is None
        assert not deadman.look(guarded.node).left_over
    guarded.fleet.world.advance(10 * guarded.patience)
    assert guarded.machine.process is process


def test_whoever_renews_too_late_is_told_and_finds_a_tombstone(guarded: Guarded) -> None:
    guarded.fleet.world.advance(guarded.patience + 1)
    with pytest.raises(deadman.Fired, match="did not renew it in time") as stopped:
        deadman.renew(guarded.run, guarded.node)
    left = stopped.value.tombstone
    assert left is not None
    assert (left.run, left.digest, left.put_back) == (guarded.run.id, guarded.good.digest, True)
    assert deadman.tombstone(guarded.node) == left
    assert deadman.disarm(guarded.run, guarded.node) == left, "it is no commit"
    deadman.clear(guarded.node)
    assert not deadman.look(guarded.node).left_over


def test_a_revert_under_way_is_waited_for(guarded: Guarded) -> None:
    [elapses] = guarded.machine.switch.timers.values()
    guarded.fleet.world.advance(elapses + 0.01 - guarded.fleet.world.time)
    assert guarded.machine.switch.busy
    left = deadman.disarm(guarded.run, guarded.node)
    assert left is not None
    assert guarded.is_on_old()


def test_a_revert_that_was_broken_off_is_finished_by_who_comes_back(guarded: Guarded) -> None:
    guarded.machine.switch.phase = "reverting"
    guarded.machine.switch.timers.clear()
    with pytest.raises(deadman.Fired) as stopped:
        deadman.renew(guarded.run, guarded.node)
    assert stopped.value.tombstone is not None
    assert guarded.is_on_old()


def test_a_reboot_while_armed_ends_on_the_old_binary(guarded: Guarded) -> None:
    guarded.fleet.world.reboot(guarded.machine)
    assert guarded.is_on_old()
    left = deadman.tombstone(guarded.node)
    assert left is not None
    assert left.put_back


def test_a_reboot_once_disarmed_changes_nothing(guarded: Guarded) -> None:
    deadman.disarm(guarded.run, guarded.node)
    guarded.fleet.world.reboot(guarded.machine)
    assert guarded.machine.running == digest_of(guarded.fleet.binary("v2.0.0"))
    assert not deadman.look(guarded.node).left_over


def test_another_run_takes_over_what_a_dead_one_left_armed(guarded: Guarded) -> None:
    later = guarded.another_run()
    deadman.arm(later, later.fleet.canary, guarded.good, unproven=guarded.new)
    stands = deadman.look(guarded.node)
    assert stands.armed is not None
    assert (stands.armed.run, stands.armed.generation, len(stands.timers)) == (later.id, 1, 1)
    with pytest.raises(deadman.Fired, match=f"run {later.id} took its dead-man's switch over"):
        deadman.renew(guarded.run, guarded.node)
    with pytest.raises(deadman.Fired, match=later.id):
        deadman.disarm(guarded.run, guarded.node)
    assert deadman.look(guarded.node).armed == stands.armed, "who lost it leaves it armed"


def test_an_earlier_runs_tombstone_is_nothing_to_obey(guarded: Guarded) -> None:
    guarded.fleet.world.advance(guarded.patience + 1)
    later = guarded.another_run()
    assert deadman.disarm(later, later.fleet.canary) is None
    deadman.arm(later, later.fleet.canary, guarded.good, unproven=guarded.new)
    assert deadman.tombstone(guarded.node) is None


def test_a_switch_that_somebody_disarmed_stops_the_run(guarded: Guarded) -> None:
    deadman.disarm(guarded.run, guarded.node)
    with pytest.raises(deadman.Fired, match="disarmed by somebody else"):
        deadman.renew(guarded.run, guarded.node)


def test_a_good_binary_that_is_gone_is_told_by_the_tombstone_and_what_runs_is_left_alone(
    guarded: Guarded,
) -> None:
    process = guarded.machine.process
    guarded.machine.files[f"{KEPT}/{guarded.good.digest}"] = File("damaged", 3)
    guarded.fleet.world.advance(guarded.patience + 1)
    left = deadman.tombstone(guarded.node)
    assert left is not None
    assert not left.put_back
    assert guarded.machine.process is process


def test_it_is_not_relied_on_where_the_good_binary_is_not_there(fleet: MemoryFleet) -> None:
    run = fleet.run()
    with pytest.raises(FleetError, match="does not work here: no binary with sha256"):
        deadman.prepare(run, run.fleet.canary, Release("0" * 64, "v0"))


def test_a_node_that_did_not_get_the_release_yet_stays_on_what_it_runs(fleet: MemoryFleet) -> None:
    run = fleet.run()
    node, new = run.fleet.canary, read_artifact(fleet.binary("v2.0.0")).release
    older = read_artifact(fleet.binary("v0.9.0"))
    install.stage(run, [node], older.release, older.path)
    deadman.prepare(run, node, older.release)
    deadman.arm(run, node, older.release, unproven=new)
    process = fleet.canary.process
    fleet.world.advance(deadman.patience(run.settings) + 1)
    left = deadman.tombstone(node)
    assert left is not None
    assert not left.put_back
    assert fleet.canary.process is process


def test_what_a_dead_run_left_unproven_is_as_unproven_for_the_next(guarded: Guarded) -> None:
    later, fleet = guarded.another_run(), guarded.fleet
    newer = read_artifact(fleet.binary("v3.0.0")).release
    deadman.arm(later, later.fleet.canary, guarded.good, unproven=newer)
    fleet.world.advance(guarded.patience + 1)
    assert guarded.is_on_old()


def test_a_binary_that_runs_already_is_not_restarted(fleet: MemoryFleet) -> None:
    run = fleet.run()
    node, good = run.fleet.canary, read_artifact(fleet.v1).release
    deadman.prepare(run, node, good)
    deadman.arm(run, node, good, unproven=good)
    process, file = fleet.canary.process, fleet.canary.files[INSTALLED]
    fleet.world.advance(deadman.patience(run.settings) + 1)
    assert deadman.tombstone(node) is not None
    assert (fleet.canary.process, fleet.canary.files[INSTALLED]) == (process, file)


def test_under_plan_it_is_only_announced(fleet: MemoryFleet) -> None:
    run = fleet.run(plan=True)
    node, good = run.fleet.canary, read_artifact(fleet.v1).release
    deadman.prepare(run, node, good)
    deadman.arm(run, node, good, unproven=good)
    deadman.renew(run, node)
    assert deadman.disarm(run, node) is None
    deadman.clear(node)
    said = [event.command for event in fleet.events if isinstance(event, Planned)]
    assert len(said) == 4, "there is nothing to renew"
    assert all("dead" in text or "tombstone" in text for text in said)
    assert not deadman.look(node).left_over


@pytest.mark.parametrize(
    ("knobs", "seconds"),
    [
        ({"sli_probe_interval": 30}, 3 * 30 + 65),
        ({"sli_probe_interval": 1, "drain_timeout": 600}, 3 + 605),
        ({"sli_probe_interval": 1, "prom_timeout": 100}, 3 + 500),
    ],
)
def test_it_waits_for_three_probes_and_the_longest_step(
    knobs: Mapping[str, Any], seconds: int, fleet: MemoryFleet
) -> None:
    assert deadman.patience(fleet.run(**knobs).settings) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6h 59min 28.134184s", 25168.134184),
        ("155s", 155),
        ("1month 2w 3d 5ms 7us", 2629800 + 17 * 86400 + 0.005007),
    ],
)
def test_systemds_time_spans_are_read(text: str, seconds: float) -> None:
    assert seconds_in(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "infinity", "3", "1h x", "-1s"])
def test_what_is_no_time_span_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError, match="no time span"):
        seconds_in(text)


@pytest.mark.sandbox
def test_on_a_sandbox_it_does_the_same_with_real_files_and_processes(tmp_path: Path) -> None:
    lab = sandbox.up("deadman", repository=tmp_path, say=lambda _: None)
    try:
        old, new = (read_artifact(lab.artifact(version)).release for version in ("v1.0.9", "v1.0.10"))
        knobs = {"health_timeout": "1", "ready_timeout": "1", "lb_timeout": "1", "prom_timeout": "1"}
        more = {"drain_timeout": "1", "command_timeout": "5", "sli_probe_interval": "1"}
        loaded = settings.load(file=lab.fleet_file, environ={}, flags={**knobs, **more}).settings
        emit, clock = Listeners(), SystemClock()
        with contextlib.closing(Fleet(loaded, emit=emit)) as real:
            run = Run(
                id="one",
                who="somebody",
                settings=loaded,
                fleet=real,
                clock=clock,
                emit=emit,
                signals=Signals(emit),
            )
            node = real.canary
            install.stage(run, [node], new, lab.artifact("v1.0.10"))
            deadman.prepare(run, node, old)
            deadman.arm(run, node, old, unproven=new)
            install.install(run, node, new, node.look())
            node.restart(timeout=5)
            assert node.runs(new.digest)
            for _ in range(3):
                deadman.renew(run, node)
            assert len(deadman.look(node).timers) == 1
            wait_until(
                lambda: node.runs(old.digest), "the old binary runs", seconds=deadman.patience(loaded) + 3
            )
            left = deadman.disarm(run, node)
            assert left is not None
            assert left.put_back
            deadman.clear(node)
            assert not deadman.look(node).left_over
    finally:
        sandbox.down("deadman", repository=tmp_path, say=lambda _: None)


# The programs themselves, run by the shell of this machine; only systemd is a stand-in.

SYSTEMCTL = """#!/bin/sh
case "$1 $2" in
  *LoadState) echo LoadState=loaded ;;
  show*MainPID) cat pid 2>/dev/null || echo 0 ;;
  restart*) kill -9 "$(cat pid)"; setsid ../veza-api 60 >/dev/null 2>&1 9>&- & echo $! >pid ;;
  is-active*) false ;;
esac
"""


@dataclass(frozen=True)
class Folder:
    """An install directory with v2 installed, v1 kept, and the switch; ``bin`` stands in for systemd."""

    path: Path

    @property
    def switch(self) -> Path:
        return self.path / scripts.FOLDER

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": f"{self.path}/bin:{os.environ['PATH']}"},
            process_group=0,
        )

    def revert(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start(str(self.switch / "revert"), *arguments)

    def script(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        return self.start("sh", "-c", script, "sh", str(self.path), *arguments)

    def begin(self) -> None:
        """v2 is installed and armed for RUN, generation 1."""
        for name in ("armed", "reverting", "tombstone", "log"):
            (self.switch / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / KEPT_NAME, ignore_errors=True)
        (self.path / KEPT_NAME).mkdir()
        shutil.copy2(self.path / "v1", self.path / KEPT_NAME / self.v1)
        shutil.copy2(self.path / "v2", self.path / "arriving")
        (self.path / "arriving").replace(self.path / "veza-api")
        ended(self.script(scripts.ARM, "veza-api", "RUN", self.v1, "60", self.v2))

    @property
    def v1(self) -> str:
        return digest_of(self.path / "v1")

    @property
    def v2(self) -> str:
        return digest_of(self.path / "v2")

    @property
    def installed(self) -> str:
        return digest_of(self.path / "veza-api")

    @property
    def phases(self) -> list[str]:
        return [name for name in ("armed", "reverting", "tombstone") if (self.switch / name).exists()]

    def runs_old(self) -> bool:
        pid = (self.switch / "pid").read_text().strip()
        return self.installed == self.v1 and os.path.samefile(f"/proc/{pid}/exe", self.path / "veza-api")


def ended(process: subprocess.Popen[str]) -> str:
    out, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    path = tmp_path / "veza"
    folder = Folder(path)
    (path / "bin").mkdir(parents=True)
    folder.switch.mkdir()
    for name, text in {"bin/systemctl": SYSTEMCTL, "bin/systemd-run": "#!/bin/sh\n"}.items():
        (path / name).write_text(text)
    for version in ("v1", "v2"):
        # What follows the last segment of a program is nothing to it.
        (path / version).write_bytes(Path("/bin/sleep").read_bytes() + version.encode())
    (folder.switch / "revert").write_text(scripts.REVERT)
    for file in (*path.glob("bin/*"), path / "v1", path / "v2", folder.switch / "revert"):
        file.chmod(0o755)
    yield folder
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int((folder.switch / "pid").read_text()), signal.SIGKILL)


def race(folder: Folder, number: int, script: str) -> str:
    """Revert and another script at the same moment, each time another one first; what the script said."""
    folder.begin()
    if number % 2:
        revert, other = folder.revert("RUN", "1"), folder.script(script, "RUN")
    else:
        other, revert = folder.script(script, "RUN"), folder.revert("RUN", "1")
    said = ended(other)
    ended(revert)
    return said


def test_commit_and_revert_at_the_same_moment_have_one_outcome(folder: Folder) -> None:
    outcomes: Counter[str] = Counter()
    for number in range(40):
        said = race(folder, number, scripts.DISARM)
        committed = said == "stands=nothing\n"
        outcomes["committed" if committed else "reverted"] += 1
        assert folder.phases == ([] if committed else ["tombstone"])
        assert (folder.installed == folder.v1) is not committed
        if not committed:
            assert folder.runs_old()
            assert said.startswith(("stands=tombstone\n", "stands=busy\n"))
    assert len(outcomes) == 2, f"both were tried: {outcomes}"


def test_renewal_and_revert_at_the_same_moment_have_one_outcome(folder: Folder) -> None:
    for number in range(40):
        renewed = race(folder, number, scripts.RENEW) == "stands=armed\n"
        assert folder.phases == (["armed"] if renewed else ["tombstone"])
        assert (folder.installed == folder.v1) is not renewed


def test_a_revert_that_is_killed_at_any_instant_is_finished_by_the_boot_or_by_who_comes_back(
    folder: Folder,
) -> None:
    chance = random.Random(4)
    phases: Counter[str] = Counter()
    for number in range(40):
        folder.begin()
        revert = folder.revert("RUN", "1")
        with contextlib.suppress(subprocess.TimeoutExpired):
            revert.wait(chance.uniform(0.0, 0.08))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(revert.pid, signal.SIGKILL)
        revert.communicate()
        assert folder.installed in (folder.v1, folder.v2), "whole at any moment"
        phases["".join(folder.phases)] += 1
        if number % 2:
            ended(folder.revert("--boot"))
            assert folder.installed == folder.v1
        elif folder.phases == ["reverting"]:
            assert ended(folder.script(scripts.DISARM, "RUN")).startswith("stands=tombstone\n")
            assert folder.runs_old()
        else:
            ended(folder.revert("RUN", "1"))
            assert folder.runs_old()
        assert folder.phases == ["tombstone"]
    assert phases["reverting"] >= 5, phases


def test_what_is_not_the_release_is_left_alone(folder: Folder) -> None:
    folder.begin()
    by_hand = Path("/bin/sleep").read_bytes() + b"v3"
    (folder.path / "arriving").write_bytes(by_hand)
    (folder.path / "arriving").replace(folder.path / "veza-api")
    ended(folder.revert("RUN", "1"))
    assert (folder.path / "veza-api").read_bytes() == by_hand
    assert (folder.switch / "tombstone").read_text().strip().endswith("what is installed is not the release")


def test_a_run_that_takes_over_names_both_releases_once(folder: Folder) -> None:
    folder.begin()
    for run, new in (("LATER", "3" * 64), ("LATER", "3" * 64), ("LAST", folder.v2)):
        ended(folder.script(scripts.ARM, "veza-api", run, folder.v1, "60", new))
    armed = (folder.switch / "armed").read_text()
    assert armed.startswith(f"LAST 1 veza-api {folder.v1} 60 {'3' * 64},{folder.v2} ")
    ended(folder.revert("LAST", "1"))
    assert folder.runs_old()


def test_who_renews_just_after_a_boot_leaves_the_turn_to_the_guard(folder: Folder) -> None:
    folder.begin()
    armed = folder.switch / "armed"
    before = armed.read_text().rpartition(" ")[0] + " another-boot\n"
    armed.write_text(before)
    assert ended(folder.script(scripts.RENEW, "RUN")) == "stands=busy\n"
    assert armed.read_text() == before
    ended(folder.revert("--boot"))
    assert folder.installed == folder.v1
    assert ended(folder.script(scripts.RENEW, "RUN")).startswith("stands=tombstone\n")


def test_the_guard_does_nothing_but_at_boot(folder: Folder) -> None:
    folder.begin()
    (folder.path / "bin/systemctl").write_text("#!/bin/sh\n")  # the timer is active
    ended(folder.revert("--boot"))
    assert folder.phases == ["armed"]


def test_a_timer_of_an_earlier_generation_or_run_does_nothing(folder: Folder) -> None:
    folder.begin()
    ended(folder.script(scripts.RENEW, "RUN"))
    for run, generation in (("RUN", "1"), ("RUN", "3"), ("ANOTHER", "2")):
        ended(folder.revert(run, generation))
        assert folder.phases == ["armed"]
    ended(folder.revert("RUN", "2"))
    assert folder.phases == ["tombstone"]
    assert folder.runs_old()
    ended(folder.revert("RUN", "2"))
    assert folder.phases == ["tombstone"]
