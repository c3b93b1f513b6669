"""One disposable fleet of real parts: an Incus project of its own with HAProxy and backends, and on the host
an sshd and a Prometheus.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import artifacts
from lab.incus import machine, templates
from lab.incus.host import Daemon, LabError, incus, run, wait_until

LOAD_BALANCER = "haproxy"
INSTALLED, PREVIOUS = "v1.0.9", "v1.0.8"
_MARKS = "user.veza-tasks."
_SOCAT = ("socat", "-t", "10", "-", f"UNIX-CONNECT:{templates.ADMIN_SOCKET}")

# $1: install directory, $2: unit, $3: health URL, $4 and $5: sha256 of the installed and the previous binary;
# stdin: the unit file. Ends with 3 when a binary is not the right one.
_RESET_NODE = """
set -eu
file=/etc/systemd/system/$2.service
cat > /run/unit
if ! cmp -s /run/unit "$file" || [ -e "$file.d" ]; then
    rm -rf "$file.d"
    cp /run/unit "$file"
    systemctl daemon-reload
fi
mkdir -p "$1"
cd "$1"
if [ -e "veza-api.kept/$4" ]; then mv -T "veza-api.kept/$4" veza-api; fi
find . -mindepth 1 -maxdepth 1 ! -name veza-api ! -name veza-api.previous -exec rm -rf {} +
printf '%s  veza-api\\n%s  veza-api.previous\\n' "$4" "$5" | sha256sum --check --status 2>/dev/null || exit 3
chown 0:0 veza-api veza-api.previous
chmod 0755 veza-api veza-api.previous
pid=$(systemctl show --property MainPID --value "$2")
if ! [ "/proc/$pid/exe" -ef veza-api ]; then
    systemctl reset-failed "$2" 2>/dev/null || true
    systemctl enable --quiet "$2"
    systemctl restart "$2"
fi
for _ in $(seq 200); do
    if curl --silent --fail --max-time 2 --output /dev/null "$3"; then exit 0; fi
    sleep 0.05
done
echo "not healthy after 10 s" >&2
exit 4
"""


@dataclass(frozen=True)
class Fleet:
    """A fleet that was raised by `up`. Every method may raise `LabError`; `subprocess` results are text."""

    name: str
    directory: Path
    slot: int
    nodes: tuple[str, ...]

    @property
    def fleet_file(self) -> Path:
        return self.directory / "fabfile.yaml"

    @property
    def artifacts(self) -> Path:
        """The directory of `veza-api-v1.0.8` and every later release of `lab.artifacts`."""
        return self.directory / "artifacts"

    @property
    def ssh_port(self) -> int:
        return 2222 + self.slot

    @property
    def lb_url(self) -> str:
        return f"http://{self.address(LOAD_BALANCER)}"

    @property
    def prom_url(self) -> str:
        return f"http://{machine.GATEWAY}:{9090 + self.slot}"

    def artifact(self, version: str) -> Path:
        return self.artifacts / f"veza-api-{version}"

    def address(self, instance: str) -> str:
        number = 0 if instance == LOAD_BALANCER else int(instance.rpartition("-")[2])
        return f"{machine.NETWORK}.{16 * (self.slot + 1) + number}"

    def exec(
        self, instance: str, *argv: str, check: bool = True, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside an instance, as root; `timeout` in seconds."""
        command = ("incus", "exec", f"--project={self.name}", instance, "--", *argv)
        return run(*command, check=check, stdin=stdin, timeout=timeout)

    def push(self, instance: str, source: Path, target: str) -> None:
        """Install a file (mode 0755, root) by rename, so that a running binary may be replaced."""
        modes = ("--quiet", "--uid=0", "--gid=0", "--mode=0755")
        incus("file", "push", f"--project={self.name}", *modes, str(source), f"{instance}{target}.push")
        self.exec(instance, "mv", "-T", f"{target}.push", target)

    def haproxy(self, command: str) -> str:
        """The answer of HAProxy's runtime API to one command line."""
        return self.exec(LOAD_BALANCER, *_SOCAT, stdin=f"{command}\n").stdout.strip()

    def servers(self) -> dict[str, dict[str, str]]:
        """`show servers state` of the pool: server name to its fields."""
        _, header, *rows = self.haproxy(f"show servers state {templates.POOL_BACKEND}").splitlines()
        fields = header.removeprefix("# ").split()
        servers = [dict(zip(fields, row.split(), strict=False)) for row in rows]
        return {server["srv_name"]: server for server in servers}

    def configure_haproxy(self, *, backend: Sequence[str] = (), server: str = "") -> None:
        """Reload HAProxy with more lines in the pool, more words on each server line; `reset` takes it back.

        `{name}` in `server` stands for the server's name. Sticky clients are
        `backend=["cookie node insert indirect"], server="cookie {name}"`.
        """
        self._write_haproxy_configuration(self._haproxy_configuration(backend=backend, server=server))
        self.reload_haproxy()

    def restart_haproxy(self) -> None:
        """Restart it, and wait until it answers."""
        self.exec(LOAD_BALANCER, "systemctl", "reset-failed", "haproxy", check=False)
        self.exec(LOAD_BALANCER, "systemctl", "restart", "haproxy")
        wait_until(lambda: self._haproxy_pid() is not None, "HAProxy answers", seconds=10)

    def reload_haproxy(self) -> None:
        """Reload it, and wait until the new worker answers."""
        before = self._haproxy_pid()
        self.exec(LOAD_BALANCER, "systemctl", "reload", "haproxy")
        wait_until(lambda: self._haproxy_pid() not in (None, before), "a new HAProxy answers", seconds=10)

    def query(self, expression: str) -> dict[str, float]:
        """Ask Prometheus now: the `instance` label of each sample to its value."""
        url = f"{self.prom_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            samples = json.load(answer)["data"]["result"]
        return {sample["metric"].get("instance", ""): float(sample["value"][1]) for sample in samples}

    def ssh(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program on the Incus host as the fleet file says: its key, port and verified host key."""
        options = ("-F", "none", "-oIdentitiesOnly=yes", "-oBatchMode=yes", "-oLogLevel=ERROR")
        verified = ("-oStrictHostKeyChecking=yes", f"-oUserKnownHostsFile={self.directory}/known_hosts")
        to = ("-i", f"{self.directory}/id_ed25519", "-p", str(self.ssh_port), "root@127.0.0.1")
        return run("ssh", *options, *verified, *to, *argv, check=check)

    def start_sshd(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        self.sshd.start()
        wait_until(lambda: listens("127.0.0.1", self.ssh_port), "sshd listens", seconds=5)

    def stop_sshd(self) -> None:
        """No new connections, and the open ones end as in `cut_ssh`."""
        connections = self.sshd.children()
        self.sshd.stop()
        _kill(connections)

    def cut_ssh(self) -> None:
        """End every open SSH connection from the host's side; what was started through them runs on."""
        _kill(self.sshd.children())

    def start_prometheus(self) -> None:
        """Start it unless it runs, and wait until it has scraped every node: 5 s and more after a start."""
        self.prometheus.start()
        wait_until(self._sees_every_node, "Prometheus has scraped every node", seconds=30)

    @property
    def sshd(self) -> Daemon:
        configuration = self.directory / "sshd_config"
        command = ("sshd", "-D", "-e", "-f", str(configuration))
        return Daemon(command, mark=configuration, log=self.directory / "sshd.log")

    @property
    def prometheus(self) -> Daemon:
        configuration = self.directory / "prometheus.yml"
        command = (
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self.directory}/prometheus",
            "--storage.tsdb.retention.time=1d",
            f"--web.listen-address={self.prom_url.removeprefix('http://')}",
            "--log.level=warn",
        )
        return Daemon(command, mark=configuration, log=self.directory / "prometheus.log")

    def instances(self) -> dict[str, dict[str, Any]]:
        """What Incus says of each instance, by name."""
        listed = json.loads(incus("list", f"--project={self.name}", "--format=json"))
        return {instance["name"]: instance for instance in listed}

    def reset(self) -> None:
        """Back to the start: everything runs, every node is on v1.0.9 and ready in HAProxy, v1.0.8 lies there
        as `veza-api.previous`; no kept binaries, no marks, the lab's own HAProxy configuration.

        Looks first, so that it is quick where nothing has changed. It does not undo what was mounted,
        filtered or broken outside these.
        """
        found = self.instances()
        missing = {LOAD_BALANCER, *self.nodes} - set(found)
        if missing:
            raise LabError(f"fleet {self.name} lacks {', '.join(sorted(missing))}; `up` makes it whole")
        digests = artifacts.sha256(self.artifact(INSTALLED)), artifacts.sha256(self.artifact(PREVIOUS))
        with ThreadPoolExecutor(8) as pool:
            resets = [pool.submit(self._reset_node, node, found[node], digests) for node in self.nodes]
            balancer = pool.submit(start, self.name, found[LOAD_BALANCER])
            ssh = pool.submit(self.start_sshd)
            records = pool.submit(self._forget_runs, found[LOAD_BALANCER])
            for one in (*resets, balancer, ssh, records):
                one.result()
            prometheus = pool.submit(self.start_prometheus)
            self._reset_haproxy()
            prometheus.result()

    def _forget_runs(self, balancer: dict[str, Any]) -> None:
        for profile in json.loads(incus("query", f"/1.0/profiles?project={self.name}")):
            if (name := profile.rpartition("/")[2].partition("?")[0]).startswith("veza-tasks."):
                incus("profile", "delete", f"--project={self.name}", name)
        for key in balancer["config"]:
            if key.startswith(_MARKS):
                incus("config", "unset", f"--project={self.name}", LOAD_BALANCER, key)

    def _reset_node(self, node: str, found: dict[str, Any], digests: tuple[str, str]) -> None:
        start(self.name, found)
        for key in found["config"]:
            if key.startswith(_MARKS):
                incus("config", "unset", f"--project={self.name}", node, key)
        health_url = f"http://127.0.0.1:8080{templates.HEALTH_PATH}"
        arguments = (templates.INSTALL_DIR, templates.UNIT, health_url, *digests)
        reset = ("sh", "-c", _RESET_NODE, "reset", *arguments)
        result = self.exec(node, *reset, stdin=templates.unit(), check=False)
        if result.returncode == 3:
            self.push(node, self.artifact(INSTALLED), f"{templates.INSTALL_DIR}/veza-api")
            self.push(node, self.artifact(PREVIOUS), f"{templates.INSTALL_DIR}/veza-api.previous")
            result = self.exec(node, *reset, stdin=templates.unit(), check=False)
        if result.returncode != 0:
            raise LabError(f"{node} is not back on {INSTALLED}: {result.stderr.strip() or result.returncode}")

    def _reset_haproxy(self) -> None:
        wanted = self._haproxy_configuration()
        if self.exec(LOAD_BALANCER, "cat", "/etc/haproxy/haproxy.cfg").stdout != wanted:
            self.exec(LOAD_BALANCER, "systemctl", "enable", "--quiet", "haproxy")
            self._write_haproxy_configuration(wanted)
        elif self._every_server_is_ready():
            return
        self.restart_haproxy()  # servers start as up, with their configured weight: no waiting for `rise`
        wait_until(self._every_server_is_ready, "every server is ready in HAProxy", seconds=15)

    def _haproxy_configuration(self, *, backend: Sequence[str] = (), server: str = "") -> str:
        servers = {node: self.address(node) for node in self.nodes}
        return templates.haproxy(servers, backend=backend, server=server)

    def _write_haproxy_configuration(self, text: str) -> None:
        self.exec(LOAD_BALANCER, "sh", "-c", "cat > /etc/haproxy/haproxy.cfg", stdin=text)

    def _haproxy_pid(self) -> str | None:
        """The process id of the worker that answers, or None when none does."""
        info = self.exec(LOAD_BALANCER, *_SOCAT, stdin="show info\n", check=False).stdout
        return next((line for line in info.splitlines() if line.startswith("Pid:")), None)

    def _every_server_is_ready(self) -> bool:
        if self._haproxy_pid() is None:
            return False
        servers = self.servers()
        return set(servers) == set(self.nodes) and all(map(_is_ready, servers.values()))

    def _sees_every_node(self) -> bool:
        try:
            scraped = self.query("up == 1 and time() - timestamp(up) < 3")
        except OSError:  # it does not listen yet
            return False
        return set(scraped) == {f"{node}:8080" for node in self.nodes}


def status(fleet: Fleet) -> dict[str, str]:
    """Each part of the fleet and the state it is in; `ok` at the start of a state says that it serves."""
    found = fleet.instances()
    names = (LOAD_BALANCER, *fleet.nodes)
    states = {name: str(found[name]["status"]) if name in found else "missing" for name in names}
    servers: dict[str, dict[str, str]] = {}
    if states[LOAD_BALANCER] == "Running" and fleet._haproxy_pid() is not None:
        states[LOAD_BALANCER] = f"ok, {fleet.lb_url}"
        servers = fleet.servers()
    for node in fleet.nodes:
        if states[node] == "Running":
            ready = node in servers and _is_ready(servers[node])
            states[node] = f"{'ok' if ready else 'not in rotation'}, {fleet.address(node)}:8080"
    states["sshd"] = f"ok, port {fleet.ssh_port}" if fleet.sshd.pid() else "not running"
    states["prometheus"] = f"ok, {fleet.prom_url}" if fleet._sees_every_node() else "sees not every node"
    return states


def start(project: str, instance: Mapping[str, Any]) -> None:
    """Start or thaw an instance of `Fleet.instances` unless it runs, and wait until it has booted."""
    if instance["status"] == "Running":
        return
    name = instance["name"]
    incus("start", f"--project={project}", name)
    state = ("incus", "exec", f"--project={project}", name, "--", "systemctl", "is-system-running")
    booted = ("running\n", "degraded\n")
    wait_until(lambda: run(*state, check=False).stdout in booted, f"{name} has booted", seconds=30)


def _is_ready(server: Mapping[str, str]) -> bool:
    # HAProxy management guide, 9.3: operational 2 = running, administrative 0 = ready, check 3 = passed.
    states = (server["srv_op_state"], server["srv_admin_state"], server["srv_check_result"])
    return states == ("2", "0", "3") and server["srv_uweight"] == server["srv_iweight"]


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it may end by itself first
            os.kill(pid, signal.SIGKILL)


def listens(address: str, port: int) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True
