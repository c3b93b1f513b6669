"""One sandbox: a fleet of local processes, each instance a directory and a loopback address of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import artifacts
from lab.incus.host import LabError, run, wait_until
from lab.sandbox import standin, templates

LOAD_BALANCER = "haproxy"
UNIT = "veza-backend-api"
INSTALLED, PREVIOUS = "v1.0.9", "v1.0.8"
HOST = "host"
"""What the units of the Incus host itself (sshd, Prometheus) belong to; no instance has this name."""

# Proxies of the environment know nothing of this machine's loopback.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Fleet:
    """A fleet that was raised by `up`. Every method may raise `LabError`; results of programs are text.

    `stand_ins` names the programs that are not the real ones here.
    """

    name: str
    directory: Path
    slot: int
    nodes: tuple[str, ...]
    stand_ins: frozenset[str]

    @property
    def fleet_file(self) -> Path:
        return self.directory / "fabfile.yaml"

    @property
    def artifacts(self) -> Path:
        """The directory of `veza-api-v1.0.8` and every later release of `lab.artifacts`."""
        return self.directory / "artifacts"

    @property
    def admin_socket(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def port(self) -> int:
        """Where everything listens, each on its own address."""
        return 17000 + self.slot

    @property
    def lb_url(self) -> str:
        return f"http://{self.address(LOAD_BALANCER)}:{self.port}"

    @property
    def prom_url(self) -> str:
        return f"http://{self.address('prometheus')}:{self.port}"

    @property
    def incus_command(self) -> tuple[str, ...]:
        """The stand-in, compiled by `up`, without the parts of Python's start that nobody needs."""
        return (
            sys.executable,
            "-I",
            "-S",
            str(self.directory / "bin" / "standin.pyc"),
            "incus",
            str(self.directory),
        )

    def artifact(self, version: str) -> Path:
        return self.artifacts / f"veza-api-{version}"

    def address(self, name: str) -> str:
        """The address of an instance, of `sshd` or of `prometheus`."""
        numbers = {"sshd": 1, LOAD_BALANCER: 2, "prometheus": 3}
        number = numbers[name] if name in numbers else 10 + int(name.rpartition("-")[2])
        return f"127.77.{self.slot}.{number}"

    def home(self, instance: str) -> Path:
        """The directory that holds an instance's world."""
        return self.directory / "instances" / instance

    def install_dir(self, node: str) -> Path:
        return self.home(node) / "veza"

    def exec(
        self, instance: str, *argv: str, check: bool = True, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside an instance."""
        target = (f"local:{instance}", "--force-noninteractive", "--project", self.name)
        return run(
            *self.incus_command, "exec", *target, "--", *argv, check=check, stdin=stdin, timeout=timeout
        )

    def push(self, instance: str, source: Path, target: str) -> None:
        """Install a file (mode 0755) by rename, so that a running binary may be replaced."""
        _install(source, self.home(instance) / "root" / target)

    def haproxy(self, command: str) -> str:
        """The answer of HAProxy's runtime API to one command line."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(10)
            try:
                connection.connect(str(self.admin_socket))
                connection.sendall(f"{command}\n".encode())
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode().strip()
            except OSError as error:
                raise LabError(f"HAProxy did not answer to {command!r}: {error}") from error

    def servers(self) -> dict[str, dict[str, str]]:
        """`show servers state` of the pool: server name to its fields."""
        _, header, *rows = self.haproxy(f"show servers state {templates.POOL_BACKEND}").splitlines()
        fields = header.removeprefix("# ").split()
        return {
            row["srv_name"]: row for row in (dict(zip(fields, line.split(), strict=False)) for line in rows)
        }

    def configure_haproxy(self, *, backend: Sequence[str] = (), server: str = "") -> None:
        """Write HAProxy's configuration with more lines in the pool and more words on each server line, and reload.

        `{name}` in `server` stands for the server's name: sticky clients are
        `backend=["cookie node insert indirect"], server="cookie {name}"`. `reset` takes it back.
        """
        self.haproxy_file.write_text(
            self.haproxy_configuration(backend=backend, server=server), encoding="utf-8"
        )
        self.reload_haproxy()

    def restart_haproxy(self) -> None:
        """Restart it, and wait until it answers."""
        self.order("restart", LOAD_BALANCER, "haproxy")
        wait_until(lambda: self.haproxy_pid() is not None, "HAProxy answers", seconds=10)

    def reload_haproxy(self) -> None:
        """Reload it, and wait until the new worker answers."""
        before = self.haproxy_pid()
        self.order("reload", LOAD_BALANCER, "haproxy")
        wait_until(
            lambda: self.haproxy_pid() not in (None, before), "HAProxy's new worker answers", seconds=10
        )

    def query(self, expression: str) -> dict[str, float]:
        """Ask Prometheus now: the `instance` label of each sample to its value."""
        url = f"{self.prom_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with _direct.open(url, timeout=5) as answer:
            samples = json.load(answer)["data"]["result"]
        return {sample["metric"].get("instance", ""): float(sample["value"][1]) for sample in samples}

    def start_sshd(self) -> None:
        self.order("start", HOST, "sshd")
        wait_until(lambda: listens(self.address("sshd"), self.port), "sshd listens", seconds=10)

    def stop_sshd(self) -> None:
        """Stop it; sessions and what they run end too."""
        self.order("stop", HOST, "sshd")

    def cut_ssh(self) -> None:
        """Break every connection that is open now; the commands on the host run on, and new connections are welcome."""
        main = self.unit(HOST, "sshd")["MainPID"]
        if "sshd" in self.stand_ins:
            self.order("reload", HOST, "sshd")
            return
        for pid in Path(f"/proc/{main}/task/{main}/children").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def start_prometheus(self) -> None:
        self.order("start", HOST, "prometheus")
        wait_until(self.sees_every_node, "Prometheus has scraped every node", seconds=30)

    def stop_prometheus(self) -> None:
        self.order("stop", HOST, "prometheus")

    def instances(self) -> dict[str, dict[str, Any]]:
        """What `incus list` says of each instance, by name."""
        url = f"local:/1.0/instances?project={self.name}&recursion=1"
        listed = run(*self.incus_command, "query", "--wait", "--request", "GET", url).stdout
        return {instance["name"]: instance for instance in json.loads(listed)}

    def unit(self, instance: str, name: str) -> dict[str, str]:
        """What `systemctl show` says of a unit."""
        return dict(line.split("=", 1) for line in self.order("show", instance, name).splitlines())

    def order(self, *words: str) -> str:
        """The answer of the fleet's init."""
        try:
            return standin.request(str(self.directory), *words)
        except (standin.Refusal, OSError) as error:
            raise LabError(f"{' '.join(words)}: {error}") from error

    def reset(self) -> None:
        """Back to the start: every node on v1.0.9 with v1.0.8 as `veza-api.previous`, ready in HAProxy with the lab's
        own configuration, no kept binaries, no keys on instances; sshd and Prometheus running. Looks first, so that it
        is quick where nothing has changed.
        """
        self.order("start", HOST, "prometheus")
        self.start_sshd()
        digests = {version: artifacts.sha256(self.artifact(version)) for version in (INSTALLED, PREVIOUS)}
        for instance in (LOAD_BALANCER, *self.nodes):
            (self.home(instance) / "config.json").write_text("{}", encoding="ascii")
        shutil.rmtree(self.directory / "profiles", ignore_errors=True)
        for node in self.nodes:
            self._reset_node(node, digests)
        for node in self.nodes:
            wait_until(lambda node=node: self.is_healthy(node), f"{node} is healthy", seconds=10)  # type: ignore[misc]
        self._reset_haproxy()
        wait_until(self.sees_every_node, "Prometheus has scraped every node", seconds=30)

    def _reset_node(self, node: str, digests: Mapping[str, str]) -> None:
        directory = self.install_dir(node)
        installed = directory / "veza-api"
        binaries = {installed: INSTALLED, directory / "veza-api.previous": PREVIOUS}
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if path not in binaries:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path, version in binaries.items():
            if not path.is_file() or artifacts.sha256(path) != digests[version]:
                _install(self.artifact(version), path)
            path.chmod(0o755)
        main = self.unit(node, UNIT)["MainPID"]
        if main == "0" or not os.path.samefile(f"/proc/{main}/exe", installed):
            self.order("restart", node, UNIT)

    def _reset_haproxy(self) -> None:
        wanted = self.haproxy_configuration()
        if self.haproxy_file.read_text(encoding="utf-8") != wanted:
            self.haproxy_file.write_text(wanted, encoding="utf-8")
            self.restart_haproxy()
        elif not self.every_server_is_ready():
            self.restart_haproxy()  # servers start as up with their configured weight, without waiting for `rise`
        wait_until(self.every_server_is_ready, "every server is ready in HAProxy", seconds=15)

    @property
    def haproxy_file(self) -> Path:
        return self.home(LOAD_BALANCER) / "haproxy.cfg"

    def haproxy_configuration(self, *, backend: Sequence[str] = (), server: str = "") -> str:
        return templates.haproxy(
            self.admin_socket,
            bind=f"{self.address(LOAD_BALANCER)}:{self.port}",
            servers={node: f"{self.address(node)}:{self.port}" for node in self.nodes},
            backend=backend,
            server=server,
        )

    def haproxy_pid(self) -> str | None:
        """Which worker answers, as `show info` words it; None when none does."""
        try:
            return next(
                (line for line in self.haproxy("show info").splitlines() if line.startswith("Pid:")), None
            )
        except LabError:
            return None

    def every_server_is_ready(self) -> bool:
        if self.haproxy_pid() is None:
            return False
        servers = self.servers()
        return set(servers) == set(self.nodes) and all(map(is_ready, servers.values()))

    def sees_every_node(self) -> bool:
        try:
            return set(self.query("up == 1")) == {f"{node}:{self.port}" for node in self.nodes}
        except OSError:
            return False

    def is_healthy(self, node: str) -> bool:
        url = f"http://{self.address(node)}:{self.port}{templates.HEALTH_PATH}"
        try:
            with _direct.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def status(fleet: Fleet) -> dict[str, str]:
    """Each part of the fleet and the state it is in; `ok` at the start of a state says that it serves."""
    sshd = (
        f"ok, {fleet.address('sshd')}:{fleet.port}"
        if listens(fleet.address("sshd"), fleet.port)
        else "not listening"
    )
    prometheus = f"ok, {fleet.prom_url}" if fleet.sees_every_node() else "does not see every node"
    answers = fleet.haproxy_pid() is not None
    servers = fleet.servers() if answers else {}
    states = {LOAD_BALANCER: f"ok, {fleet.lb_url}" if answers else "does not answer"}
    for node in fleet.nodes:
        state = "ok" if is_ready(servers.get(node, {})) else "not in rotation"
        states[node] = f"{state}, {fleet.address(node)}:{fleet.port}"
    states |= {"sshd": sshd, "prometheus": prometheus}
    return {
        part: f"{state} (a stand-in)" if part in fleet.stand_ins else state for part, state in states.items()
    }


def is_ready(server: Mapping[str, str]) -> bool:
    """Management guide, `show servers state`: operational 2 = running, administrative 0 = ready, check 3 = passed."""
    state = server.get("srv_op_state"), server.get("srv_admin_state"), server.get("srv_check_result")
    return state == ("2", "0", "3") and server["srv_uweight"] == server["srv_iweight"]


def listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def _install(source: Path, target: Path) -> None:
    new = target.with_name(f"{target.name}.push")
    shutil.copyfile(source, new)
    new.chmod(0o755)
    new.replace(target)
