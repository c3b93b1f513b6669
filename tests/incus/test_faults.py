"""What goes wrong on real fleets, one of each kind on real Incus: every run ends, tells the truth, and leaves a
fleet that a second run can finish.

The sweep through every remote call is elsewhere, on a fleet in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import artifacts
from lab.acceptance import CANARY, USERS, Command, NodeState, Outcome, marks, node_state, node_states, serves
from lab.incus import Fleet, up
from lab.incus.host import run, wait_until
from lab.incus.templates import ADMIN_SOCKET, INSTALL_DIR, POOL_BACKEND, UNIT
from lab.load import Load

pytestmark = pytest.mark.incus

PEER = "backend-api-1"
BEFORE, GOOD, SLOW_BOOT, CRASH = "v1.0.8", "v1.0.10", "v1.0.15", "v1.0.14"
QUICK = {"SLI_WINDOW": "0", "HEALTH_SETTLE": "0.3", "SLI_MIN_REQUESTS": "50"}
WATCHED = {"SLI_WINDOW": "6"}


@pytest.fixture(autouse=True)
def users(fleet: Fleet) -> Iterator[Load]:
    """The service is in use: without requests there are no SLIs."""
    with Load(fleet.lb_url + USERS, rate=60) as load:
        yield load


@dataclass(frozen=True)
class Operator:
    """Runs the real command against the fleet."""

    fleet: Fleet
    folder: Path

    def start(self, *arguments: str, **knobs: str) -> Command:
        number = len(list(self.folder.glob("*.log")))
        file = Path(knobs.pop("FLEET", self.fleet.fleet_file))
        return Command(file, arguments, transcript=self.folder / f"{number}.log", knobs={**QUICK, **knobs})

    def inv(self, *arguments: str, **knobs: str) -> Outcome:
        with self.start(*arguments, **knobs) as command:
            return command.end()

    def status(self) -> dict[str, dict[str, Any]]:
        """What `inv status --json` says, by node."""
        return {row["node"]: row for row in json.loads(self.inv("status", "--json").transcript)["nodes"]}

    def unlock(self) -> None:
        """Take the lock from the run that was killed."""
        held = json.loads(self.inv("status", "--json").transcript)["lock"]
        ended(self.inv("unlock", "--run", held["run"], "--yes"), 0)


@pytest.fixture
def operator(fleet: Fleet, tmp_path: Path) -> Operator:
    folder = tmp_path / "transcripts"
    folder.mkdir()
    return Operator(fleet, folder)


@dataclass(frozen=True)
class Picture:
    """All that a run can change on a fleet."""

    nodes: Mapping[str, NodeState]
    marks: Mapping[str, Mapping[str, str]]
    states: Mapping[str, tuple[str, str]]
    files: Mapping[str, str]

    def without_files(self) -> Picture:
        """But for what staging leaves: copies beside the installed binary."""
        return Picture(self.nodes, self.marks, self.states, {})


def picture(fleet: Fleet) -> Picture:
    find = ("find", INSTALL_DIR, "-printf", "%P %s %T@\n")
    return Picture(
        nodes=node_states(fleet),
        marks=marks(fleet),
        states={name: (row["srv_admin_state"], row["srv_uweight"]) for name, row in fleet.servers().items()},
        files={node: fleet.exec(node, *find).stdout for node in fleet.nodes},
    )


def check_released(fleet: Fleet, release: Path) -> None:
    """Every node has and runs it and serves, and nothing is marked as out."""
    check_runs(fleet, dict.fromkeys(fleet.nodes, release))


def check_rolled_back(fleet: Fleet, to: str) -> None:
    """The canary is on this lab release, the peers are on the one that they began with, and all serve."""
    others = {node: fleet.artifact("v1.0.9") for node in fleet.nodes if node != CANARY}
    check_runs(fleet, {CANARY: fleet.artifact(to), **others})


def check_runs(fleet: Fleet, expected: Mapping[str, Path]) -> None:
    found = node_states(fleet)
    runs = {node: (state.installed, state.running) for node, state in found.items()}
    digests = {node: artifacts.sha256(path) for node, path in expected.items()}
    assert runs == {node: (digest, digest) for node, digest in digests.items()}
    assert [name for name, server in fleet.servers().items() if not serves(server)] == []
    assert [node for node, keys in marks(fleet).items() if "drained" in keys] == []


def ended(outcome: Outcome, code: int) -> str:
    """What it said, after a look at its exit code."""
    assert outcome.code == code, outcome.transcript
    return outcome.transcript


@contextlib.contextmanager
def held_request(fleet: Fleet, node: str, *, seconds: float) -> Iterator[None]:
    """A request that this node takes so long to answer; HAProxy's cookie binds it."""
    head = f"GET /api/v1/slow?seconds={seconds} HTTP/1.1\r\nHost: users\r\nCookie: node={node}\r\n\r\n"
    with socket.create_connection((fleet.address("haproxy"), 80), timeout=5) as connection:
        connection.sendall(head.encode())
        yield


# HAProxy


def test_a_reload_of_haproxy_in_the_window_loses_nothing(
    fleet: Fleet, operator: Operator, small: Path, users: Load
) -> None:
    release = small / f"veza-api-{GOOD}"
    with operator.start("canary", "--artifact", str(release), **WATCHED) as command:
        command.until_it_says(f"step sli-window {CANARY}: started")
        fleet.reload_haproxy()
        ended(command.end(), 0)
    assert users.stop().failed == 0
    check_released(fleet, release)


def test_a_reload_of_haproxy_while_the_node_boots_is_noticed_and_the_node_stays_out(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    release = small / f"veza-api-{SLOW_BOOT}"
    with operator.start("canary", "--artifact", str(release)) as command:
        command.until_it_says(f"step health {CANARY}: started")
        fleet.reload_haproxy()
        command.until_it_says("taking it out again")
        assert fleet.servers()[CANARY]["srv_admin_state"] != "0"
        ended(command.end(), 0)
    check_released(fleet, release)


def test_without_its_socket_nothing_is_changed(fleet: Fleet, operator: Operator, small: Path) -> None:
    before = node_states(fleet), marks(fleet)
    fleet.exec("haproxy", "rm", ADMIN_SOCKET)
    said = ended(operator.inv("canary", "--artifact", str(small / f"veza-api-{GOOD}")), 3)
    assert "check haproxy: red" in said
    assert (node_states(fleet), marks(fleet)) == before


def test_somebody_elses_drain_is_refused_and_never_undone(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    fleet.haproxy(f"set server {POOL_BACKEND}/{CANARY} state drain")
    before = picture(fleet)
    for task in (
        ["canary", "--artifact", str(small / f"veza-api-{GOOD}")],
        ["ready", CANARY],
        ["drain", CANARY],
    ):
        assert "somebody else's decision" in ended(operator.inv(*task), 3)
    assert picture(fleet) == before


def test_the_last_node_that_serves_is_not_drained(fleet: Fleet, operator: Operator, small: Path) -> None:
    fleet.haproxy(f"set server {POOL_BACKEND}/{PEER} state maint")
    before = picture(fleet)
    assert "check capacity: red" in ended(
        operator.inv("canary", "--artifact", str(small / f"veza-api-{GOOD}")), 3
    )
    assert "is the last server" in ended(operator.inv("drain", CANARY), 3)
    assert picture(fleet) == before


def test_a_drain_that_never_empties_is_undone_or_its_sessions_are_closed(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    release = small / f"veza-api-{GOOD}"
    fleet.configure_haproxy(backend=["cookie node insert indirect"], server="cookie {name}")
    before = picture(fleet)
    canary = ("canary", "--artifact", str(release))
    with operator.start(*canary, DRAIN_TIMEOUT="1") as command:
        command.until_it_says("step stage: started")
        with held_request(fleet, CANARY, seconds=15):
            said = ended(command.end(), 3)
            assert "still serves" in said
            assert picture(fleet).without_files() == before.without_files()
            said = ended(operator.inv(*canary, DRAIN_TIMEOUT="1", DRAIN_POLICY="close"), 0)
            assert "sessions closed" in said
    check_released(fleet, release)


def test_clients_bound_to_a_node_by_a_cookie_are_moved_by_the_close_policy(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    release = small / f"veza-api-{GOOD}"
    fleet.configure_haproxy(backend=["cookie node insert indirect"], server="cookie {name}")
    before = picture(fleet)
    bound = {"node": CANARY}
    # Ten requests in hand at any time: in `drain` the node never empties.
    with Load(f"{fleet.lb_url}/api/v1/slow?seconds=0.4", rate=25, cookies=bound) as load:
        said = ended(operator.inv("canary", "--artifact", str(release), DRAIN_TIMEOUT="2"), 3)
        assert "still serves" in said
        assert picture(fleet).without_files() == before.without_files()
        knobs = {"DRAIN_TIMEOUT": "2", "DRAIN_POLICY": "close"}
        said = ended(operator.inv("canary", "--artifact", str(release), **knobs), 0)
        assert "sessions closed" in said
        summary = load.stop()
    check_released(fleet, release)
    in_hand = 10
    assert summary.failed <= 2 * 2 * in_hand, "no more than what each node had in hand as its sessions closed"


def test_a_server_that_warms_up_is_back(fleet: Fleet, operator: Operator, small: Path) -> None:
    release = small / f"veza-api-{SLOW_BOOT}"
    fleet.configure_haproxy(server="weight 100 slowstart 60s")
    ended(operator.inv("canary", "--artifact", str(release)), 0)
    assert fleet.servers()[PEER]["srv_op_state"] == "1", "it was not waited for"
    check_released(fleet, release)


def test_with_a_hash_haproxys_word_is_the_proof(fleet: Fleet, operator: Operator, small: Path) -> None:
    release = small / f"veza-api-{GOOD}"
    fleet.configure_haproxy(backend=["balance source"])
    # All our users are one client, who only ever meets one node: the SLIs of both nodes together, then.
    said = ended(operator.inv("canary", "--artifact", str(release), SLI_SCOPE="service"), 0)
    assert "HAProxy's state is the proof" in said
    check_released(fleet, release)


# Prometheus, and the canary in the window


@contextlib.contextmanager
def prometheus_is_down(fleet: Fleet) -> Iterator[None]:
    fleet.prometheus.stop()
    yield  # `reset` starts it


@contextlib.contextmanager
def prometheus_is_frozen(fleet: Fleet) -> Iterator[None]:
    pid = fleet.prometheus.pid()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def prometheus_scrapes_no_more(fleet: Fleet) -> Iterator[None]:
    """It answers, from samples that grow old."""
    file = fleet.directory / "prometheus.yml"
    text, pid = file.read_text(), fleet.prometheus.pid()
    assert pid
    file.write_text(text.replace("scrape_interval: 1s", "scrape_interval: 1h"))
    os.kill(pid, signal.SIGHUP)
    try:
        yield
    finally:
        file.write_text(text)
        os.kill(pid, signal.SIGHUP)


@pytest.mark.parametrize(
    ("fault", "knobs"),
    [
        (prometheus_scrapes_no_more, {"PROM_MAX_AGE": "3"}),
        (prometheus_is_frozen, {"PROM_TIMEOUT": "1"}),
        (prometheus_is_down, {}),
    ],
)
def test_no_data_in_the_window_is_never_green(
    fault: Callable[[Fleet], contextlib.AbstractContextManager[None]],
    knobs: Mapping[str, str],
    fleet: Fleet,
    operator: Operator,
    small: Path,
    users: Load,
) -> None:
    arguments = ("canary", "--artifact", str(small / f"veza-api-{GOOD}"))
    with operator.start(*arguments, **knobs, SLI_WINDOW="120") as command:
        command.until_it_says(f"probe {CANARY}: green")
        with fault(fleet):
            assert "no data" in ended(command.end(), 4)
    assert users.stop().failed == 0
    check_rolled_back(fleet, BEFORE)


def test_a_canary_whose_process_dies_in_the_window_is_rolled_back(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    peer = node_state(fleet, PEER)
    with operator.start("canary", "--artifact", str(small / f"veza-api-{GOOD}"), **WATCHED) as command:
        command.until_it_says(f"step sli-window {CANARY}: started")
        fleet.exec(CANARY, "kill", "-KILL", str(node_state(fleet, CANARY).pid))
        said = ended(command.end(), 4)
    assert "died in the window" in said
    check_rolled_back(fleet, BEFORE)
    assert node_state(fleet, PEER) == peer


# Signals and kills


def test_an_interrupt_in_the_window_rolls_the_canary_back(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    with operator.start("canary", "--artifact", str(small / f"veza-api-{GOOD}"), **WATCHED) as command:
        command.until_it_says(f"step sli-window {CANARY}: started")
        command.send(signal.SIGINT)
        ended(command.end(), 4)
    check_rolled_back(fleet, BEFORE)


def test_a_term_before_the_drain_changes_nothing(fleet: Fleet, operator: Operator, small: Path) -> None:
    before = picture(fleet)
    with operator.start("canary", "--artifact", str(small / f"veza-api-{GOOD}")) as command:
        command.until_it_says("step preflight: started")
        command.send(signal.SIGTERM)
        ended(command.end(), 3)
    assert picture(fleet).without_files() == before.without_files()


@pytest.mark.parametrize(
    ("version", "moment", "node_that_is_out"),
    [
        (SLOW_BOOT, f"step health {CANARY}: started", CANARY),
        (GOOD, f"step sli-window {CANARY}: started", None),
        (SLOW_BOOT, f"step health {PEER}: started", PEER),
    ],
    ids=["while the canary is drained", "in the window", "while the peer is drained"],
)
def test_a_killed_run_is_told_truthfully_and_finished_by_the_same_command(
    version: str,
    moment: str,
    node_that_is_out: str | None,
    fleet: Fleet,
    operator: Operator,
    small: Path,
    users: Load,
) -> None:
    release = small / f"veza-api-{version}"
    arguments = ("canary", "--artifact", str(release))
    knobs = WATCHED if node_that_is_out is None else {}
    with operator.start(*arguments, **knobs) as command:
        command.until_it_says(moment)
        command.send(signal.SIGKILL)
        ended(command.end(), -signal.SIGKILL)
    told, found = operator.status(), node_states(fleet)
    for node in fleet.nodes:
        out = node == node_that_is_out
        assert told[node]["installed"] == found[node].installed
        assert told[node]["running"] == found[node].running
        assert told[node]["haproxy"] == ("drain" if out else "ready")
        assert ("drained" in told[node]["marks"]) == out
    refused = operator.inv(*arguments, **knobs)
    ended(refused, 3)
    assert "inv unlock --run" in refused.transcript
    operator.unlock()
    ended(operator.inv(*arguments, **knobs), 0)
    assert users.stop().failed == 0
    check_released(fleet, release)


# SSH


def check_truthful(outcome: Outcome, fleet: Fleet, release: Path, before: Picture) -> None:
    """Released, rolled back or as before: what the exit code says is what is."""
    if outcome.code == 0:
        check_released(fleet, release)
    elif outcome.code == 3:
        assert picture(fleet).without_files() == before.without_files()
    else:
        ended(outcome, 4)
        check_rolled_back(fleet, BEFORE)


@pytest.mark.parametrize("step", ["drain", "push", "health"])
def test_a_connection_that_is_cut_ends_in_a_truthful_exit_code(
    step: str, fleet: Fleet, operator: Operator, small: Path
) -> None:
    before = picture(fleet)
    release = small / f"veza-api-{SLOW_BOOT if step == 'health' else GOOD}"
    with operator.start("canary", "--artifact", str(release)) as command:
        command.until_it_says(f"step {step} {CANARY}: started")
        fleet.cut_ssh()
        check_truthful(command.end(), fleet, release, before)


def test_an_upload_that_is_cut_off_changes_nothing_and_a_rerun_finishes(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    before = picture(fleet)
    release = fleet.artifact(GOOD)
    arriving = ("sh", "-c", f"ls {INSTALL_DIR}/veza-api.kept/.arriving-*")
    with operator.start("canary", "--artifact", str(release)) as command:
        wait_until(
            lambda: any(fleet.exec(node, *arriving, check=False).returncode == 0 for node in fleet.nodes),
            "the upload has begun",
            seconds=60,
        )
        fleet.cut_ssh()
        ended(command.end(), 3)
    assert picture(fleet).without_files() == before.without_files()
    ended(operator.inv("canary", "--artifact", str(release)), 0)
    check_released(fleet, release)


def test_a_frozen_ssh_server_is_noticed_in_bounded_time(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    before = picture(fleet)
    release = small / f"veza-api-{SLOW_BOOT}"
    knobs = {"COMMAND_TIMEOUT": "3", "CONNECT_TIMEOUT": "5"}
    with operator.start("canary", "--artifact", str(release), **knobs) as command:
        command.until_it_says(f"step health {CANARY}: started")
        for pid in fleet.sshd.children():
            os.kill(pid, signal.SIGSTOP)
        try:
            outcome = command.end(seconds=60)
        finally:
            fleet.cut_ssh()
    check_truthful(outcome, fleet, release, before)


@pytest.mark.parametrize("known", ["another key", "none"])
def test_a_host_key_that_is_not_the_known_one_is_refused(
    known: str, fleet: Fleet, operator: Operator, small: Path, tmp_path: Path
) -> None:
    other = tmp_path / "known_hosts"
    other.touch()
    if known == "another key":
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key"))
        public = (tmp_path / "key.pub").read_text().split()
        other.write_text(f"[127.0.0.1]:{fleet.ssh_port} {public[0]} {public[1]}\n")
    fleet_file = tmp_path / "fabfile.yaml"
    text = fleet.fleet_file.read_text().replace(f"{fleet.directory}/known_hosts", str(other))
    fleet_file.write_text(text)
    before = picture(fleet)
    release = small / f"veza-api-{GOOD}"
    said = ended(operator.inv("canary", "--artifact", str(release), FLEET=str(fleet_file)), 3)
    assert "check hosts: red" in said
    assert ("HAS CHANGED" if known == "another key" else "is unknown") in said
    assert picture(fleet) == before


# Artifacts, disks and nodes


def test_an_artifact_for_another_architecture_is_refused(
    fleet: Fleet, operator: Operator, small: Path, tmp_path: Path
) -> None:
    before = picture(fleet)
    other = artifacts.with_machine(
        small / f"veza-api-{GOOD}", artifacts.AARCH64, tmp_path / f"veza-api-{GOOD}"
    )
    said = ended(operator.inv("canary", "--artifact", str(other)), 3)
    assert "aarch64" in said
    assert picture(fleet) == before


def test_a_truncated_artifact_is_refused(fleet: Fleet, operator: Operator, tmp_path: Path) -> None:
    before = picture(fleet)
    whole = fleet.artifact(GOOD)
    content = whole.read_bytes()
    cut = tmp_path / whole.name
    cut.write_bytes(content[: 4 << 20])
    assert "cut short" in ended(operator.inv("canary", "--artifact", str(cut)), 3)
    cut.write_bytes(content[:-1])  # still a program by its headers
    pinned = ("--sha256", artifacts.sha256(whole))
    assert "signed off was" in ended(operator.inv("canary", "--artifact", str(cut), *pinned), 3)
    assert picture(fleet) == before


def test_a_full_disk_stops_the_staging_with_nothing_drained_and_a_rerun_finishes(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    release = small / f"veza-api-{GOOD}"
    before = picture(fleet)
    kept = f"{INSTALL_DIR}/veza-api.kept"
    fleet.exec(PEER, "mkdir", kept)
    fleet.exec(PEER, "mount", "-t", "tmpfs", "-o", "size=3m", "full", kept)
    try:
        said = ended(operator.inv("canary", "--artifact", str(release)), 3)
        assert "No space left on device" in said
        assert picture(fleet).without_files() == before.without_files()
        assert fleet.exec(PEER, "ls", "-A", kept).stdout == "", "no half a copy is left"
    finally:
        fleet.exec(PEER, "umount", kept)
    ended(operator.inv("canary", "--artifact", str(release)), 0)
    check_released(fleet, release)


def test_a_peer_that_fails_stays_out_and_a_rerun_finishes_what_is_missing(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    release = small / f"veza-api-{GOOD}"
    arguments = ("canary", "--artifact", str(release))
    override = f"/etc/systemd/system/{UNIT}.service.d/broken.conf"
    script = 'mkdir -p "${1%/*}" && printf "[Service]\\nExecStartPre=/bin/false\\n" >"$1" && systemctl daemon-reload'
    fleet.exec(PEER, "sh", "-c", script, "sh", override)
    said = ended(operator.inv(*arguments), 5)
    assert "the same command again" in said
    told = operator.status()[PEER]
    assert (told["haproxy"], "drained" in told["marks"]) == ("drain", True)
    canary = node_state(fleet, CANARY)
    assert canary.running == artifacts.sha256(release), "it is not rolled back"
    ended(operator.inv(*arguments), 5)  # nothing was put right
    fleet.exec(PEER, "sh", "-c", 'rm "$1" && systemctl daemon-reload', "sh", override)
    assert "skipped" in ended(operator.inv(*arguments), 0)
    check_released(fleet, release)
    assert node_state(fleet, CANARY) == canary, "the canary was left alone"


# Going back


def test_a_full_rollback_is_not_noticed_by_users_and_twice_is_harmless(
    fleet: Fleet, operator: Operator, small: Path, users: Load
) -> None:
    release = small / f"veza-api-{GOOD}"
    ended(operator.inv("canary", "--artifact", str(release)), 0)
    ended(operator.inv("rollback-all", "--yes"), 0)
    check_released(fleet, fleet.artifact(BEFORE))
    before = picture(fleet)
    assert "it is there" in ended(operator.inv("rollback-all", "--yes"), 0)
    assert picture(fleet) == before
    assert users.stop().failed == 0
    said = ended(operator.inv("roll-peers", "--artifact", str(release)), 3)
    assert "no green record" in said
    assert picture(fleet) == before


def test_a_full_rollback_at_once_brings_every_node_back(fleet: Fleet, operator: Operator) -> None:
    ended(operator.inv("rollback-all", "--at-once", "--yes"), 0)
    check_released(fleet, fleet.artifact(BEFORE))


@pytest.mark.parametrize(
    ("rollback_binary", "version"), [(f"{INSTALL_DIR}/veza-api.previous", BEFORE), ("running", "v1.0.9")]
)
def test_a_canary_goes_back_to_the_rollback_binary(
    rollback_binary: str, version: str, fleet: Fleet, operator: Operator, small: Path
) -> None:
    # A local file is what the acceptance drill goes back to.
    arguments = ("canary", "--artifact", str(small / f"veza-api-{CRASH}"))
    assert "the process died" in ended(operator.inv(*arguments, ROLLBACK_BINARY=rollback_binary), 4)
    check_rolled_back(fleet, version)


# Looking, re-running, and names


def test_the_same_release_again_skips_the_window_and_touches_nothing(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    release = small / f"veza-api-{GOOD}"
    ended(operator.inv("canary", "--artifact", str(release)), 0)
    before = picture(fleet)
    assert "skipped" in ended(operator.inv("canary", "--artifact", str(release)), 0)
    assert picture(fleet) == before


def test_a_plan_changes_nothing(fleet: Fleet, operator: Operator, small: Path) -> None:
    before = picture(fleet)
    tasks = (["canary", "--artifact", str(small / f"veza-api-{GOOD}")], ["drain", CANARY], ["rollback-all"])
    for task in tasks:
        assert "would: " in ended(operator.inv(*task, "--plan"), 0)
    assert picture(fleet) == before


def test_a_mistyped_peer_is_refused_by_name_before_any_connection(operator: Operator, small: Path) -> None:
    arguments = ("canary", "--artifact", str(small / f"veza-api-{GOOD}"))
    said = ended(operator.inv(*arguments, PEER_NODES="backendapi-1"), 2)
    assert f"did you mean {PEER}?" in said
    assert "step preflight" not in said


def test_shell_metacharacters_in_paths_are_only_characters(
    fleet: Fleet, operator: Operator, small: Path, tmp_path: Path
) -> None:
    name = 'it\'s; $(touch ${HOME}pwned) `touch pwned` & "x"'
    folder = tmp_path / name
    folder.mkdir()
    artifact = folder / f"veza-api-{GOOD}"
    artifact.write_bytes((small / artifact.name).read_bytes())
    link = f"/opt/{name}"
    try:
        for node in fleet.nodes:
            fleet.exec(node, "ln", "-sfn", INSTALL_DIR, link)
        ended(operator.inv("canary", "--artifact", str(artifact), INSTALL_DIR=link), 0)
        for node in fleet.nodes:
            search = "find / -xdev -name '*pwned*' -not -path '/opt/it*' -not -path '/proc/*'"
            assert fleet.exec(node, "sh", "-c", search).stdout == ""
    finally:
        for node in fleet.nodes:
            fleet.exec(node, "rm", "-f", link)
    assert not list(Path.cwd().glob("*pwned*"))
    assert not list(Path.home().glob("*pwned*"))
    check_released(fleet, artifact)


# Three nodes


@pytest.fixture
def three(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet with a second peer."""
    yield up(fleet.name, nodes=3)
    up(fleet.name, nodes=2)


def test_peers_that_roll_are_finished_one_by_one_when_a_run_is_stopped_or_killed(
    three: Fleet, operator: Operator, small: Path
) -> None:
    release = small / f"veza-api-{GOOD}"
    last = "backend-api-3"
    arguments = ("canary", "--artifact", str(release))
    with operator.start(*arguments) as command:
        command.until_it_says(f"step drain {PEER}: started")
        command.send(signal.SIGINT)
        ended(command.end(), 5)
    check_runs(three, {CANARY: release, PEER: release, last: three.artifact("v1.0.9")})
    with operator.start(*arguments) as command:
        command.until_it_says(f"step drain {last}: started")
        command.send(signal.SIGKILL)
        ended(command.end(), -signal.SIGKILL)
    untouched = node_state(three, CANARY), node_state(three, PEER)
    operator.unlock()
    ended(operator.inv(*arguments), 0)
    check_released(three, release)
    assert (node_state(three, CANARY), node_state(three, PEER)) == untouched
