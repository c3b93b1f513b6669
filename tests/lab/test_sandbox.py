"""The sandbox's promise: the adapters cannot tell it from real Incus, HAProxy, systemd and Prometheus.

The contract runs on the sandbox with the machine's own programs, on one with stand-ins only, and on a real Incus fleet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lab.incus
from lab import artifacts, sandbox
from lab.load import Load
from lab.sandbox import prometheus as prometheus_stand_in
from lab.sandbox import standin
from veza_tasks import settings as settings_module
from veza_tasks.adapters.haproxy import State
from veza_tasks.adapters.node import Node
from veza_tasks.adapters.prometheus import NoData, Prometheus
from veza_tasks.capabilities import gate
from veza_tasks.errors import FleetError
from veza_tasks.fleet import Fleet
from veza_tasks.settings import NodeSettings, Settings

HOSTILE = [
    "",
    " ",
    "a b",
    "it's",
    '"$HOME"',
    "$(id)",
    "`id`",
    ";reboot",
    "--",
    "-rf",
    "*",
    "\\",
    "ü→\U0001f600",
    "a\nb\n",
]
NEW = "v1.0.10"
CRASHING = "v1.0.14"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A lab, and the adapters that speak to it as they would to production."""

    lab: sandbox.Fleet | lab.incus.Fleet
    fleet: Fleet
    settings: Settings

    @property
    def node(self) -> Node:
        return self.fleet.canary

    @property
    def peer(self) -> Node:
        return self.fleet.peers[0]

    @contextlib.contextmanager
    def other(self, **changes: object) -> Iterator[Fleet]:
        """The adapters under other settings."""
        fleet = Fleet(self.settings.model_copy(update=changes), emit=lambda _: None)
        try:
            yield fleet
        finally:
            fleet.close()

    @contextlib.contextmanager
    def missing(self) -> Iterator[Node]:
        """A node whose instance does not exist."""
        nodes = self.settings.nodes
        with self.other(nodes={**nodes, "backend-api-99": nodes[self.node.name]}) as fleet:
            yield fleet.nodes["backend-api-99"]

    def deliver(self, version: str) -> str:
        """Upload, verify and name an artifact on the node; gives its sha256."""
        path = self.lab.artifact(version)
        digest = artifacts.sha256(path)
        with path.open("rb") as file:
            sent = self.node.receive(file, "upload", what=version, timeout=60, progress=lambda _: None)
        assert sent.status == 0, sent.complaint
        adopted = self.node.adopt("upload", digest, version, timeout=30)
        assert adopted.status == 0, adopted.complaint
        return digest

    def install(self, version: str) -> str:
        digest = self.deliver(version)
        reply = self.node.install(digest, replacing=self.node.look().installed, what=version)
        assert reply.status == 0, reply.complaint
        return digest


def raise_lab(kind: str, repository: Path, request: pytest.FixtureRequest) -> sandbox.Fleet | lab.incus.Fleet:
    if kind == "incus":
        real: lab.incus.Fleet = request.getfixturevalue("raised")
        return real
    stand_ins = sandbox.STAND_INS if kind == "stand-ins" else ()
    return sandbox.up(kind, stand_ins=stand_ins, repository=repository, say=lambda _: None)


def remove_sandboxes(repository: Path) -> None:
    for fleet in sandbox.fleets(repository=repository):
        sandbox.down(fleet.name, repository=repository, say=lambda _: None)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("sandbox", marks=pytest.mark.sandbox),
        pytest.param("stand-ins", marks=pytest.mark.sandbox),
        pytest.param("incus", marks=pytest.mark.incus),
    ],
)
def connected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    repository = tmp_path_factory.mktemp("lab")
    try:
        raised = raise_lab(request.param, repository, request)
        settings = settings_module.load(file=raised.fleet_file, environ={}, flags={}).settings
        with contextlib.closing(Fleet(settings, emit=lambda _: None)) as fleet:
            yield Subject(raised, fleet, settings)
        raised.reset()
    finally:
        remove_sandboxes(repository)


@pytest.fixture
def subject(connected: Subject) -> Subject:
    connected.lab.reset()
    return connected


def eventually(condition: Callable[[], Any], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain for {seconds:g} s: {what}"
        time.sleep(0.05)


class TestIncus:
    def test_lists_every_instance_as_running_on_this_architecture_without_marks(
        self, subject: Subject
    ) -> None:
        found = subject.node.incus.instances()
        assert set(found) == {"haproxy", *subject.settings.nodes}
        assert {(i.status, i.architecture) for i in found.values()} == {("Running", platform.machine())}
        assert [i.marks for i in found.values() if i.marks] == []

    @pytest.mark.parametrize(
        "value", ['{"run": "r1", "why": "it\'s $HOME; =x"}', "two\nlines", " spaced ", "a=b"]
    )
    def test_a_mark_is_kept_exactly_until_it_is_removed(self, subject: Subject, value: str) -> None:
        incus = subject.node.incus
        incus.mark(subject.node.name, "drained", value)
        assert incus.read_mark(subject.node.name, "drained") == value
        assert incus.read_mark(subject.peer.name, "drained") == ""
        assert incus.instances()[subject.node.name].marks == {"drained": value}
        incus.unmark(subject.node.name, "drained")
        assert incus.instances()[subject.node.name].marks == {}

    def test_removing_a_mark_that_is_not_there_is_fine(self, subject: Subject) -> None:
        subject.node.incus.unmark(subject.node.name, "drained")

    def test_an_instance_that_does_not_exist_is_named_in_every_error(self, subject: Subject) -> None:
        incus = subject.node.incus
        with subject.missing() as missing:
            calls: list[Callable[[], object]] = [
                lambda: incus.mark(missing.name, "drained", "x"),
                lambda: incus.unmark(missing.name, "drained"),
                lambda: incus.read_mark(missing.name, "drained"),
                lambda: incus.execute(missing.name, ["true"]),
                lambda: incus.execute(missing.name, ["true"], effect="nothing"),
                missing.look,
                missing.health,
            ]
            for call in calls:
                with pytest.raises(FleetError, match="Instance not found"):
                    call()

    def test_streaming_into_an_instance_that_does_not_exist_fails(self, subject: Subject) -> None:
        with subject.lab.artifact(NEW).open("rb") as file, subject.missing() as missing:
            reply = missing.receive(file, "upload", what=NEW, timeout=30, progress=lambda _: None)
        assert reply.status == 1
        assert "Instance not found" in reply.complaint

    def test_arguments_arrive_byte_for_byte(self, subject: Subject) -> None:
        reply = subject.node.incus.execute(subject.node.name, ["printf", "%s\\0", *HOSTILE])
        assert reply.out.split("\0")[:-1] == HOSTILE

    @pytest.mark.parametrize(
        ("script", "status"), [("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143), ("nonesuch", 127)]
    )
    def test_exit_statuses_come_through_the_held_shell(
        self, subject: Subject, script: str, status: int
    ) -> None:
        reply = subject.node.incus.execute(
            subject.node.name, ["sh", "-c", f"echo out; echo err >&2; {script}"]
        )
        assert (reply.status, reply.out) == (status, "out\n")
        assert reply.err.startswith("err\n")

    @pytest.mark.parametrize(
        ("argv", "status"),
        [
            (["sh", "-c", "cat >/dev/null; exit 3"], 3),
            (["sh", "-c", "cat >/dev/null; kill -9 $$"], 137),
            (["nonesuch"], 127),
            (["/etc/passwd"], 126),
        ],
    )
    def test_exit_statuses_come_through_a_stream(
        self, subject: Subject, argv: list[str], status: int
    ) -> None:
        with Path(os.devnull).open("rb") as nothing:
            reply = subject.node.incus.send(
                subject.node.name, argv, nothing, effect="nothing", timeout=10, progress=lambda _: None
            )
        assert reply.status == status

    def test_a_command_that_takes_too_long_is_ended_and_the_shell_still_answers(
        self, subject: Subject
    ) -> None:
        incus, name = subject.node.incus, subject.node.name
        assert incus.execute(name, ["sleep", "30"], timeout=0.5).status == 124
        assert incus.execute(name, ["echo", "still here"]).out == "still here\n"


class TestNode:
    def test_a_look_shows_what_is_installed_running_and_previous(self, subject: Subject) -> None:
        seen = subject.node.look()
        assert seen.installed == seen.running == artifacts.sha256(subject.lab.artifact("v1.0.9"))
        assert seen.previous == artifacts.sha256(subject.lab.artifact("v1.0.8"))
        assert (seen.kept, seen.unit.load, seen.unit.is_up) == ((), "loaded", True)
        assert abs(seen.now - time.time()) < 5
        assert seen.uptime is not None
        assert 0 <= seen.uptime < 7 * 86400
        assert seen.free > 2**20

    def test_a_healthy_node_answers_200_from_inside(self, subject: Subject) -> None:
        health = subject.node.health()
        assert (health.http, health.unit.is_up) == (200, True)

    def test_nothing_listening_is_http_0(self, subject: Subject) -> None:
        nodes = self.without_health_urls(subject.settings)
        with subject.other(nodes=nodes, health_url="http://127.0.0.1:9") as fleet:
            assert fleet.canary.health().http == 0

    @staticmethod
    def without_health_urls(settings: Settings) -> dict[str, NodeSettings]:
        return {name: own.model_copy(update={"health_url": None}) for name, own in settings.nodes.items()}

    def test_a_unit_that_does_not_exist_is_not_found_and_cannot_be_restarted(self, subject: Subject) -> None:
        with subject.other(unit="nonesuch") as fleet:
            unit = fleet.canary.look().unit
            state = (unit.load, unit.active, unit.sub, unit.main_pid, unit.since)
            assert state == ("not-found", "inactive", "dead", 0, None)
            reply = fleet.canary.restart(timeout=10)
            assert reply.status == 5
            assert reply.complaint == "Failed to restart nonesuch.service: Unit nonesuch.service not found."
            assert fleet.canary.log_tail().startswith("(no log lines")

    def test_a_release_is_delivered_installed_and_running_only_after_the_restart(
        self, subject: Subject
    ) -> None:
        old = artifacts.sha256(subject.lab.artifact("v1.0.9"))
        new = subject.deliver(NEW)
        assert subject.node.has_kept(new)
        seen = subject.node.look()
        assert (seen.installed, seen.kept, seen.version(new)) == (old, (new,), NEW)
        assert subject.node.install(new, replacing=old, what=NEW).status == 0
        seen = subject.node.look()
        assert (seen.installed, seen.running, seen.kept) == (new, old, (old,))
        assert subject.node.restart(timeout=30).status == 0
        eventually(lambda: subject.node.health().http == 200, "healthy")
        seen = subject.node.look()
        assert (seen.installed, seen.running, seen.unit.restarts) == (new, new, 0)
        assert seen.previous == artifacts.sha256(subject.lab.artifact("v1.0.8"))
        assert NEW in subject.node.log_tail()
        assert subject.node.forget([old, f"{old}.version", f"{new}.version"]).status == 0
        assert subject.node.look().kept == ()

    def test_a_binary_that_arrived_wrong_is_refused_and_removed(self, subject: Subject) -> None:
        right = artifacts.sha256(subject.lab.artifact(NEW))
        with subject.lab.artifact(NEW).open("rb") as file:
            file.seek(1)
            subject.node.receive(file, "upload", what=NEW, timeout=60, progress=lambda _: None)
        reply = subject.node.adopt("upload", right, NEW, timeout=30)
        assert reply.status == 1
        assert "it arrived as sha256" in reply.complaint
        assert not subject.node.has_kept(right)
        assert subject.node.look().kept == ()

    def test_a_kept_binary_is_handed_over_to_another_node(self, subject: Subject) -> None:
        digest = subject.deliver(NEW)
        assert subject.peer.fetch_from(subject.node, digest, what=NEW, timeout=60).status == 0
        assert subject.peer.has_kept(digest)

    def test_handing_over_what_is_not_kept_never_verifies(self, subject: Subject) -> None:
        digest = artifacts.sha256(subject.lab.artifact(NEW))
        subject.peer.fetch_from(subject.node, digest, what=NEW, timeout=60)
        assert not subject.peer.has_kept(digest)

    def test_a_file_of_the_node_can_be_kept(self, subject: Subject) -> None:
        previous = subject.node.look().previous
        assert previous is not None
        assert (
            subject.node.copy(
                str(subject.node.directory / "veza-api.previous"), "copy", what="it", timeout=30
            ).status
            == 0
        )
        assert subject.node.adopt("copy", previous, "v1.0.8", timeout=30).status == 0
        assert subject.node.has_kept(previous)
        assert subject.node.digest(str(subject.node.directory / "veza-api.previous")) == previous
        assert subject.node.digest(str(subject.node.directory / "nonesuch")) is None

    def test_the_running_binary_cannot_be_written_over(self, subject: Subject) -> None:
        directory = subject.node.directory
        reply = subject.node.incus.execute(
            subject.node.name, ["cp", str(directory / "veza-api.previous"), str(directory / "veza-api")]
        )
        assert reply.status == 1
        assert "Text file busy" in reply.complaint

    def test_restarting_a_binary_that_dies_at_once_answers_well_and_the_unit_keeps_trying(
        self, subject: Subject
    ) -> None:
        subject.install(CRASHING)
        reply = subject.node.restart(timeout=30)
        assert (reply.status, reply.out, reply.err) == (0, "", "")
        eventually(lambda: subject.node.look().unit.restarts >= 3, "it restarts again and again")
        unit = subject.node.look().unit
        assert unit.restarts >= 3
        eventually(
            lambda: str(subject.node.health().unit) == "activating (auto-restart)",
            "it is seen between two starts",
        )
        assert subject.node.health().http == 0
        log = subject.node.log_tail()
        assert f"deliberate crash at start, version {CRASHING}" in log
        assert len(log.splitlines()) <= 20

    def test_a_killed_process_comes_back_and_is_counted_until_the_next_restart(
        self, subject: Subject
    ) -> None:
        before = subject.node.look().unit
        subject.node.restart(timeout=30)
        killed = subject.node.look().unit.main_pid
        assert before.main_pid != killed
        subject.node.incus.execute(subject.node.name, ["kill", "-9", str(killed)])
        eventually(lambda: subject.node.health().unit.is_up, "it is back")
        after = subject.node.look().unit
        assert (after.restarts, after.main_pid != killed) == (1, True)
        subject.node.restart(timeout=30)
        assert subject.node.look().unit.restarts == 0

    def test_a_stopped_unit_is_inactive_and_went_gracefully(self, subject: Subject) -> None:
        execute, name, unit = subject.node.incus.execute, subject.node.name, subject.node.unit
        assert execute(name, ["systemctl", "is-active", unit]).out == "active\n"
        assert execute(name, ["systemctl", "stop", unit]).status == 0
        reply = execute(name, ["systemctl", "is-active", unit])
        assert (reply.status, reply.out) == (3, "inactive\n")
        seen = subject.node.look()
        assert (seen.running, seen.unit.main_pid, str(seen.unit)) == (None, 0, "inactive (dead)")
        assert "stopped, version v1.0.9" in subject.node.log_tail()
        assert execute(name, ["systemctl", "start", unit]).status == 0
        eventually(lambda: subject.node.health().http == 200, "healthy")


class TestLoadBalancer:
    def test_every_server_is_seen_serving_with_checks(self, subject: Subject) -> None:
        pool = subject.fleet.load_balancer.pool()
        assert (pool.algorithm, set(pool.servers)) == ("roundrobin", set(subject.settings.nodes))
        assert all(s.serves and s.checked and s.status.startswith("UP") for s in pool.servers.values())

    @pytest.mark.parametrize("state", [State.DRAIN, State.MAINT])
    def test_a_server_leaves_and_returns(self, subject: Subject, state: State) -> None:
        balancer, name = subject.fleet.load_balancer, subject.node.server
        balancer.set_state(name, state)
        balancer.set_state(name, state)
        out = balancer.pool().servers[name]
        assert (out.state, out.serves) == (state, False)
        before = out.total
        assert [balancer.get("/api/v1/tracks") for _ in range(4)] == ["200"] * 4
        assert balancer.pool().servers[name].total == before
        balancer.set_state(name, State.READY)
        eventually(lambda: balancer.pool().servers[name].serves, "back")
        for _ in range(4):
            balancer.get("/api/v1/tracks")
        assert balancer.pool().servers[name].total > before

    def test_a_request_in_flight_is_a_session_that_can_be_cut(self, subject: Subject) -> None:
        balancer, name = subject.fleet.load_balancer, subject.node.server
        balancer.set_state(subject.peer.server, State.DRAIN)
        with subprocess.Popen(
            [sys.executable, "-c", SLOW_REQUEST, f"{balancer.url}/api/v1/slow?seconds=8"],
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            eventually(lambda: balancer.pool().servers[name].sessions == 1, "the request is there")
            balancer.set_state(name, State.DRAIN)
            assert not balancer.pool().servers[name].idle
            balancer.close_sessions(name)
            eventually(lambda: balancer.pool().servers[name].idle, "the request is gone")
            assert client.communicate(timeout=10)[0].strip() != "200"

    def test_unknown_servers_and_pools_are_errors(self, subject: Subject) -> None:
        balancer = subject.fleet.load_balancer
        with pytest.raises(FleetError):
            balancer.set_state("nonesuch", State.DRAIN)
        with pytest.raises(FleetError, match="No such server"):
            balancer.close_sessions("nonesuch")
        with subject.other(pool_backend="nonesuch") as fleet, pytest.raises(FleetError, match="nonesuch"):
            fleet.load_balancer.pool()

    def test_a_socket_that_is_not_there_is_an_error_that_says_so(self, subject: Subject) -> None:
        own = subject.settings.load_balancer.model_copy(update={"socket": "/nonesuch.sock"})
        with (
            subject.other(load_balancer=own) as fleet,
            pytest.raises(FleetError, match="No such file or directory"),
        ):
            fleet.load_balancer.pool()

    def test_a_reload_forgets_drains(self, subject: Subject) -> None:
        balancer, name = subject.fleet.load_balancer, subject.node.server
        balancer.set_state(name, State.DRAIN)
        subject.lab.reload_haproxy()
        eventually(lambda: balancer.pool().servers[name].state is State.READY, "the drain is forgotten")

    def test_what_a_client_gets_is_told(self, subject: Subject) -> None:
        balancer = subject.fleet.load_balancer
        assert balancer.get("/api/v1/health") == "200"
        assert balancer.get("/nonesuch") == "404"


class TestPrometheus:
    def test_the_gate_finds_a_good_release_green_under_load(self, subject: Subject) -> None:
        prometheus, settings = subject.fleet.prometheus, subject.settings
        with Load(f"{subject.lab.lb_url}/api/v1/tracks", rate=100, max_seconds=60):
            began = time.monotonic()
            while True:
                found = gate.probe(
                    prometheus, settings, subject.node.name, came_back=time.monotonic() - began
                )
                if found.verdict is gate.Verdict.GREEN or time.monotonic() - began > 20:
                    break
                assert found.verdict in (gate.Verdict.WAITING, gate.Verdict.NO_DATA), found
                time.sleep(0.5)
        assert found.verdict is gate.Verdict.GREEN, found
        assert found.number("p95") == pytest.approx(0.00475, abs=0.02)
        assert found.number("error_rate") == 0
        assert gate.resolution(prometheus, settings, subject.node.name) == ()

    def test_no_series_wrong_queries_and_alerts(self, subject: Subject) -> None:
        prometheus = subject.fleet.prometheus
        assert prometheus.series("nonesuch") == []
        assert isinstance(prometheus.query("sum(rate(nonesuch[1m]))"), NoData)
        wrong = prometheus.query("sum(")
        assert isinstance(wrong, NoData)
        assert "bad_data" in wrong.reason
        up = prometheus.series("up == 1")
        assert not isinstance(up, NoData)
        # A node that the fleet had a moment ago is still within Prometheus's look back.
        assert {labels["instance"].partition(":")[0] for labels, _ in up} >= set(subject.settings.nodes)


SLOW_REQUEST = """
import sys, urllib.request
try:
    print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=20).status)
except OSError as error:
    print(error)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    remove_sandboxes(tmp_path)


def raised(name: str, repository: Path, **more: Any) -> sandbox.Fleet:
    return sandbox.up(name, stand_ins=["prometheus"], repository=repository, say=lambda _: None, **more)


def processes_of(fleet: sandbox.Fleet) -> dict[int, str]:
    """Pid and command line of each process whose command line names the fleet's directory."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # processes end while we look
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(fleet.directory) in line:
                found[int(entry.parent.name)] = line
    return found


def main_processes(fleet: sandbox.Fleet) -> list[str]:
    units = [
        ("host", "sshd"),
        ("host", "prometheus"),
        ("haproxy", "haproxy"),
        (fleet.nodes[0], "veza-backend-api"),
    ]
    return [fleet.unit(*unit)["MainPID"] for unit in units]


def assert_serves(fleet: sandbox.Fleet) -> None:
    """Every part is well within seconds: on a busy machine one health check or one scrape may come too late."""
    eventually(
        lambda: all(state.startswith("ok") for state in sandbox.status(fleet).values()),
        f"every part of {fleet.name} serves",
    )


def patch(instance: str, project: str, key: str, value: str = "1") -> list[str]:
    """The client's arguments that set a key of an instance."""
    body = json.dumps({"config": {key: value}})
    url = f"local:/1.0/instances/{instance}?project={project}"
    return ["query", "--wait", "--request", "PATCH", "--data", body, url]


@pytest.mark.sandbox
class TestFleets:
    def test_up_twice_changes_nothing_and_down_twice_leaves_nothing(self, repository: Path) -> None:
        fleet = raised("one", repository)
        before = main_processes(fleet)
        assert raised("one", repository) == fleet
        assert main_processes(fleet) == before
        assert_serves(fleet)
        assert sandbox.status(fleet)["prometheus"].endswith("(a stand-in)")
        for _ in range(2):
            sandbox.down("one", repository=repository, say=lambda _: None)
        assert processes_of(fleet) == {}
        assert list(repository.iterdir()) == []

    def test_two_fleets_live_side_by_side(self, repository: Path) -> None:
        one, two = raised("one", repository), raised("two", repository, nodes=3)
        assert {one.lb_url, one.prom_url, one.address("sshd")}.isdisjoint(
            {two.lb_url, two.prom_url, two.address("sshd")}
        )
        sandbox.down("one", repository=repository, say=lambda _: None)
        assert_serves(two)
        assert len(two.servers()) == 3

    def test_a_fleet_grows_and_shrinks(self, repository: Path) -> None:
        raised("one", repository)
        assert set(raised("one", repository, nodes=3).servers()) == {
            "backend-api-1",
            "backend-api-2",
            "backend-api-3",
        }
        smaller = raised("one", repository, nodes=2)
        assert (
            set(smaller.servers())
            == set(smaller.instances()) - {"haproxy"}
            == {"backend-api-1", "backend-api-2"}
        )

    def test_stand_ins_take_over_when_asked_for(self, repository: Path) -> None:
        fleet = raised("one", repository)
        before = fleet.unit("host", "sshd")["MainPID"]
        again = sandbox.up("one", stand_ins=["sshd"], repository=repository, say=lambda _: None)
        assert again.stand_ins >= {"sshd", "prometheus"}
        assert again.unit("host", "sshd")["MainPID"] != before
        assert sandbox.status(again)["sshd"].endswith("(a stand-in)")

    def test_a_directory_of_another_kind_of_fleet_is_left_alone(self, repository: Path) -> None:
        (repository / ".lab" / "other").mkdir(parents=True)
        (repository / ".lab" / "other" / "something").touch()
        for call in (sandbox.up, sandbox.down):
            with pytest.raises(sandbox.LabError, match="of another kind"):
                call("other", repository=repository, say=lambda _: None)

    def test_a_fleet_whose_directory_vanishes_ends_by_itself(self, repository: Path) -> None:
        fleet = raised("one", repository)
        shutil.rmtree(fleet.directory)
        eventually(lambda: not processes_of(fleet), "every process ends")

    def test_a_fleet_whose_init_is_killed_dies_with_it_and_is_raised_again(self, repository: Path) -> None:
        fleet = raised("one", repository)
        [init] = [pid for pid, line in processes_of(fleet).items() if "/init.py " in line]
        os.kill(init, signal.SIGKILL)
        eventually(lambda: not processes_of(fleet), "every process ends")
        again = raised("one", repository)
        assert_serves(again)

    def test_reset_takes_back_whatever_a_test_did(self, repository: Path) -> None:
        fleet = raised("one", repository)
        node = fleet.nodes[1]
        (fleet.install_dir(node) / "veza-api.kept").mkdir()
        fleet.push(node, fleet.artifact(CRASHING), str(fleet.install_dir(node) / "veza-api"))
        fleet.exec(node, "systemctl", "restart", "veza-backend-api")
        fleet.configure_haproxy(backend=["cookie node insert indirect"], server="cookie {name}")
        fleet.haproxy(f"set server api_pool/{node} state maint")
        fleet.stop_sshd()
        fleet.reset()
        assert_serves(fleet)
        assert sorted(p.name for p in fleet.install_dir(node).iterdir()) == ["veza-api", "veza-api.previous"]
        assert fleet.exec(node, "sha256sum", str(fleet.install_dir(node) / "veza-api")).stdout.split()[
            0
        ] == artifacts.sha256(fleet.artifact("v1.0.9"))

    def test_the_stand_in_for_incus_refuses_what_the_adapters_never_send(self, repository: Path) -> None:
        fleet = raised("one", repository)
        for arguments in (
            ["delete", "backend-api-1"],
            ["list"],
            ["exec", "local:backend-api-1", "--project", "one", "--", "true"],
            ["exec", "local:backend-api-1", "--force-noninteractive", "--project", "other", "--", "true"],
            ["exec", "other:backend-api-1", "--force-noninteractive", "--project", "one", "--", "true"],
            [
                "exec",
                "local:../instances/haproxy",
                "--force-noninteractive",
                "--project",
                "one",
                "--",
                "true",
            ],
            patch("backend-api-1", "one", "limits.cpu"),
            patch("backend-api-1", "other", "user.x"),
            patch("backend-api-99", "one", "user.x"),
            patch("../haproxy", "one", "user.x"),
        ):
            done = subprocess.run(
                [*fleet.incus_command, *arguments], capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout) == (1, ""), arguments
            assert done.stderr.startswith("Error: "), arguments

    def test_marks_set_at_once_are_all_kept(self, repository: Path) -> None:
        fleet = raised("one", repository)
        writers = [
            subprocess.Popen([*fleet.incus_command, *patch("haproxy", "one", f"user.k{n}", f"{n}")])
            for n in range(8)
        ]
        assert [writer.wait() for writer in writers] == [0] * 8
        assert fleet.instances()["haproxy"]["config"] == {f"user.k{n}": f"{n}" for n in range(8)}

    def test_a_cut_ssh_connection_leaves_the_command_running(self, repository: Path, tmp_path: Path) -> None:
        fleet = raised("one", repository)
        settings = settings_module.load(file=fleet.fleet_file, environ={}, flags={}).settings
        adapters = Fleet(settings, emit=lambda _: None)
        witness = tmp_path / "witness"
        node = adapters.canary
        assert node.incus.execute(node.name, ["true"]).status == 0
        adapters.hosts["incus-1"].run(
            ["sh", "-c", '(sleep 1; echo done >"$1") >/dev/null 2>&1 &', "sh", str(witness)], timeout=5
        )
        fleet.cut_ssh()
        assert node.incus.execute(node.name, ["echo", "again"]).out == "again\n"
        eventually(witness.exists, "the command ran to its end")
        adapters.close()


@pytest.mark.sandbox
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no real Prometheus to compare with")
def test_the_stand_in_for_prometheus_gives_the_numbers_of_the_real_one(repository: Path) -> None:
    fleet = sandbox.up("one", repository=repository, say=lambda _: None)
    assert "prometheus" not in fleet.stand_ins
    settings = settings_module.load(file=fleet.fleet_file, environ={}, flags={}).settings
    other = f"{fleet.address('prometheus')}:{fleet.port + 1}"
    command = [sys.executable, prometheus_stand_in.__file__, str(fleet.directory / "prometheus.yml"), other]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as stand_in:
        fleet.push(
            fleet.nodes[1], fleet.artifact("v1.0.12"), str(fleet.install_dir(fleet.nodes[1]) / "veza-api")
        )
        fleet.exec(fleet.nodes[1], "systemctl", "restart", "veza-backend-api")
        with Load(f"{fleet.lb_url}/api/v1/tracks", rate=100, max_seconds=60):
            time.sleep(8)
            real, own = Prometheus(fleet.prom_url, timeout=5), Prometheus(f"http://{other}", timeout=5)
            ask = gate.queries(settings, fleet.nodes[1], came_back=6)
            bucket = 'veza_gin_http_request_duration_seconds_bucket{instance=~"backend-api-2.*"}'
            for query in (
                ask.scrapes,
                ask.requests,
                ask.p95,
                ask.error_rate,
                f"count(count by (le) ({bucket}))",
                'sum(up{job!="x"}) * 2 - -1 / 4',
                "max(veza_build_info) > 0",
                "min(rate(veza_gin_http_request_duration_seconds_count[5s])) or vector(-1)",
            ):
                expected, got = real.query(query), own.query(query)
                assert not isinstance(expected, NoData), (query, expected)
                assert not isinstance(got, NoData), (query, got)
                assert got.value == pytest.approx(expected.value, rel=0.25, abs=0.02), query
        stand_in.terminate()
    real.close()
    own.close()


def test_the_stand_in_for_prometheus_extrapolates_resets_and_interpolates_like_promql() -> None:
    store = prometheus_stand_in.Store()
    counts = [0.0, 10, 20, 5, 15]  # a reset after the third
    for at, value in enumerate(counts):
        store.add(100.0 + at, {frozenset({"__name__": "c", "i": "1"}.items()): value})
    one, inf = ({"__name__": "h", "le": bound} for bound in ("1", "+Inf"))
    store.add(104.0, {frozenset(one.items()): 50.0, frozenset(inf.items()): 100.0})

    def ask(query: str) -> Any:
        return prometheus_stand_in.Query(store, query, 104.0).value()

    assert ask("increase(c[10s])") == [
        (frozenset({("i", "1")}), pytest.approx(35.0))
    ]  # not below zero, so not before 100
    assert ask("sum(increase(c[4s]))") == [(frozenset(), pytest.approx(25.0 * 4 / 3))]
    assert ask("histogram_quantile(0.25, h)") == [(frozenset(), 0.5)]
    assert ask("histogram_quantile(0.95, h)") == [(frozenset(), 1.0)]
    assert ask("time() - max(timestamp(c))") == [(frozenset(), 0.0)]
    assert ask('c{i=~"1|2",i!="2"} > 14 or vector(3)') == [
        (frozenset({("__name__", "c"), ("i", "1")}), 15.0),
        (frozenset(), 3.0),
    ]
    for beyond in ("topk(1, c)", "c offset 5m", "c{i=1}", "sum(c", "rate(c)", "c[5s]", "c and c", "1 == 1"):
        with pytest.raises(prometheus_stand_in.Unanswerable):
            ask(beyond)


def test_the_stand_in_for_incus_stays_small() -> None:
    assert len(Path(standin.__file__).read_text(encoding="utf-8").splitlines()) < 400
