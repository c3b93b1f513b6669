"""One disposable fleet of real parts: an Incus project of its own with HAProxy and backends, and on the host an
sshd and a Prometheus.

What exists is asked of Incus, never remembered: the project carries the fleet's slot (addresses and ports) and
directory, so that `up` on half a fleet makes only what is missing and `down` finds everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import artifacts
from lab.incus import machine, templates
from lab.incus.machine import Daemon, Image, LabError, Say, incus, wait_until

LOAD_BALANCER = "haproxy"
INSTALLED, PREVIOUS = "v1.0.9", "v1.0.8"
_REPOSITORY = Path(__file__).parents[2]
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_MARKS = "user.veza-tasks."
_SLOT, _DIRECTORY = "user.veza-lab.slot", "user.veza-lab.directory"
_SLOTS = range(14)  # 16 addresses each, the first 16 of the network left to the host
_MOST_NODES = 15

# $1: install directory, $2: unit, $3: health URL, $4 and $5: sha256 of the installed and of the previous binary;
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

_SOCAT = ("socat", "-t", "10", "-", f"UNIX-CONNECT:{templates.ADMIN_SOCKET}")


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
        """Run a program inside an instance, as root."""
        return machine.run(
            "incus",
            "exec",
            "--project",
            self.name,
            instance,
            "--",
            *argv,
            check=check,
            stdin=stdin,
            timeout=timeout,
        )

    def push(self, instance: str, source: Path, target: str) -> None:
        """Install a file (mode 0755, root) by rename, so that a running binary may be replaced."""
        incus(
            "file",
            "push",
            "--project",
            self.name,
            "--quiet",
            "--uid",
            "0",
            "--gid",
            "0",
            "--mode",
            "0755",
            str(source),
            f"{instance}{target}.push",
        )
        self.exec(instance, "mv", "-T", f"{target}.push", target)

    def haproxy(self, command: str) -> str:
        """The answer of HAProxy's runtime API to one command line."""
        return self.exec(LOAD_BALANCER, *_SOCAT, stdin=f"{command}\n").stdout.strip()

    def servers(self) -> dict[str, dict[str, str]]:
        """`show servers state` of the pool: server name to its fields."""
        _, header, *rows = self.haproxy(f"show servers state {templates.POOL_BACKEND}").splitlines()
        fields = header.removeprefix("# ").split()
        return {
            row["srv_name"]: row for row in (dict(zip(fields, line.split(), strict=False)) for line in rows)
        }

    def configure_haproxy(self, *, backend: Sequence[str] = (), server: str = "") -> None:
        """Reload HAProxy with more lines in the pool and more words on each server line; `reset` takes it back.

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
        wait_until(
            lambda: self._haproxy_pid() not in (None, before), "HAProxy's new worker answers", seconds=10
        )

    def query(self, expression: str) -> dict[str, float]:
        """Ask Prometheus now: the `instance` label of each sample to its value."""
        url = f"{self.prom_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            samples = json.load(answer)["data"]["result"]
        return {sample["metric"].get("instance", ""): float(sample["value"][1]) for sample in samples}

    def ssh(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program on the Incus host as the fleet file says: its key, its port, its verified host key."""
        options = [
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "LogLevel=ERROR",
            f"UserKnownHostsFile={self.directory}/known_hosts",
        ]
        return machine.run(
            "ssh",
            "-F",
            "none",
            *[word for option in options for word in ("-o", option)],
            "-i",
            str(self.directory / "id_ed25519"),
            "-p",
            str(self.ssh_port),
            "root@127.0.0.1",
            *argv,
            check=check,
        )

    def start_sshd(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        self.sshd.start()
        wait_until(lambda: _listens("127.0.0.1", self.ssh_port), "sshd listens", seconds=5)

    def stop_sshd(self) -> None:
        """As when the host's sshd dies: no new connections, and the open ones end as in `cut_ssh`."""
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
        configuration = str(self.directory / "sshd_config")
        command = ("sshd", "-D", "-e", "-f", configuration)
        return Daemon(name="sshd", command=command, directory=self.directory, mark=configuration)

    @property
    def prometheus(self) -> Daemon:
        configuration = str(self.directory / "prometheus.yml")
        command = (
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self.directory}/prometheus",
            "--storage.tsdb.retention.time=1d",
            f"--web.listen-address={self.prom_url.removeprefix('http://')}",
            "--log.level=warn",
        )
        return Daemon(name="prometheus", command=command, directory=self.directory, mark=configuration)

    def instances(self) -> dict[str, dict[str, Any]]:
        """What Incus says of each instance, by name."""
        listed = json.loads(incus("list", "--project", self.name, "--format", "json"))
        return {instance["name"]: instance for instance in listed}

    def reset(self) -> None:
        """Back to the start: every instance running, every node on v1.0.9 with v1.0.8 as `veza-api.previous`, ready
        in HAProxy with the lab's own configuration, no kept binaries, no marks; sshd and Prometheus running.

        Looks first, so that it is quick where nothing has changed. It does not undo what was mounted, filtered or
        broken outside these.
        """
        found = self.instances()
        digests = artifacts.sha256(self.artifact(INSTALLED)), artifacts.sha256(self.artifact(PREVIOUS))
        with ThreadPoolExecutor(8) as pool:
            resets = [pool.submit(self._reset_node, node, found[node], digests) for node in self.nodes]
            balancer = pool.submit(_start, self.name, found[LOAD_BALANCER])
            ssh = pool.submit(self.start_sshd)
            for one in (*resets, balancer, ssh):
                one.result()
            prometheus = pool.submit(self.start_prometheus)
            self._reset_haproxy()
            prometheus.result()

    def _reset_node(self, node: str, found: dict[str, Any], digests: tuple[str, str]) -> None:
        _start(self.name, found)
        for key in found["config"]:
            if key.startswith(_MARKS):
                incus("config", "unset", "--project", self.name, node, key)
        health_url = f"http://127.0.0.1:8080{templates.HEALTH_PATH}"
        reset = (
            "sh",
            "-c",
            _RESET_NODE,
            "reset",
            templates.INSTALL_DIR,
            templates.UNIT,
            health_url,
            *digests,
        )
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
            self._write_haproxy_configuration(wanted)
            self.exec(LOAD_BALANCER, "systemctl", "enable", "--quiet", "haproxy")
        elif self._every_server_is_ready():
            return
        self.restart_haproxy()  # servers start as up, with their configured weight: no waiting for `rise`
        wait_until(self._every_server_is_ready, "every server is ready in HAProxy", seconds=15)

    def _haproxy_configuration(self, *, backend: Sequence[str] = (), server: str = "") -> str:
        return templates.haproxy(
            {node: self.address(node) for node in self.nodes}, backend=backend, server=server
        )

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
            scraped = self.query("up == 1")
        except OSError:
            return False
        return set(scraped) == {f"{node}:8080" for node in self.nodes}


def up(
    name: str = "lab", *, nodes: int | None = None, repository: Path = _REPOSITORY, say: Say | None = None
) -> Fleet:
    """Raise a fleet, or repair one; in seconds when it is up. Raises `LabError`.

    `nodes`: how many backends, at least 2 (default: as it is, else 2). `say` is told what happens, line by line
    (default: print with seconds).
    """
    say = say or _stopwatch()
    if not _NAME.fullmatch(name) or name == "default":
        raise LabError(f"a fleet's name is a lower-case word, not {name!r}")
    if nodes is not None and not 2 <= nodes <= _MOST_NODES:
        raise LabError(f"a fleet has 2 to {_MOST_NODES} nodes, not {nodes}")
    with machine.lock():
        image = machine.provide(say)
        fleet = _claim(name, nodes, repository / ".lab" / name)
    say(f"fleet {name}: {len(fleet.nodes)} nodes, {fleet.address(LOAD_BALANCER)} and up")
    _write_host_files(fleet)
    fleet.start_sshd()
    fleet.prometheus.start()  # already here: it looks at its targets for the first time 5 s after its start
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(_build_artifacts, fleet, image)
        _make_instances(fleet, image, say)
        building.result()
    say("containers run; installing and waiting until everything serves")
    fleet.reset()
    say(f"up: {fleet.lb_url}{templates.HEALTH_PATH}, {fleet.prom_url}, {fleet.fleet_file}")
    return fleet


def down(name: str = "lab", *, repository: Path = _REPOSITORY, say: Say | None = None) -> None:
    """Remove a fleet and all it made; with the last one also what the fleets shared. Nothing to remove is fine."""
    say = say or _stopwatch()
    directory = repository / ".lab" / name
    fleet = Fleet(name=name, directory=directory, slot=0, nodes=())
    if directory.exists():
        fleet.stop_sshd()
        fleet.prometheus.stop()
    with machine.lock():
        if directory.exists():
            machine.start_daemon(
                say
            )  # a fleet outlives a daemon that died, and only the daemon can remove it
        claims = _claims() if machine.daemon_answers() else {}
    if name in claims:
        _check_owner(name, claims[name], directory)
        _delete_instances(name, list(fleet.instances()))
        incus("project", "delete", name, "--force", stdin="yes\n")
        say(f"fleet {name}: containers removed")
    if directory.exists():
        shutil.rmtree(directory)
        if not any(directory.parent.iterdir()):
            directory.parent.rmdir()
    with machine.lock():
        if machine.daemon_answers() and not _claims():
            machine.release(say)
    say(f"fleet {name} is down")


def find(name: str = "lab") -> Fleet | None:
    """The fleet of that name as Incus knows it, whole or not; nothing is changed."""
    claim = _claims().get(name) if machine.daemon_answers() else None
    return None if claim is None else _fleet(name, claim)


def fleets() -> list[Fleet]:
    """Every lab fleet of this machine."""
    return [_fleet(name, claim) for name, claim in _claims().items()] if machine.daemon_answers() else []


def status(fleet: Fleet) -> dict[str, str]:
    """Each part of the fleet and the state it is in; `ok` at the start of a state says that it serves."""
    found = fleet.instances()
    states = {
        name: found[name]["status"] if name in found else "missing" for name in (LOAD_BALANCER, *fleet.nodes)
    }
    result = {
        "sshd": f"ok, port {fleet.ssh_port}" if _listens("127.0.0.1", fleet.ssh_port) else "not listening",
        "prometheus": f"ok, {fleet.prom_url}" if fleet._sees_every_node() else "does not see every node",
    }
    servers: dict[str, dict[str, str]] = {}
    if states[LOAD_BALANCER] == "Running" and fleet._haproxy_pid() is not None:
        states[LOAD_BALANCER] = f"ok, {fleet.lb_url}"
        servers = fleet.servers()
    for node in fleet.nodes:
        if states[node] == "Running":
            ready = node in servers and _is_ready(servers[node])
            states[node] = f"{'ok' if ready else 'not in rotation'}, {fleet.address(node)}:8080"
    return states | result


def _claims() -> dict[str, dict[str, str]]:
    return {
        project["name"]: project["config"]
        for project in machine.incus_list("project")
        if _SLOT in project["config"]
    }


def _fleet(name: str, claim: dict[str, str]) -> Fleet:
    listed = json.loads(incus("list", "--project", name, "--format", "json"))
    nodes = sorted(
        (one["name"] for one in listed if one["name"] != LOAD_BALANCER),
        key=lambda node: int(node.rpartition("-")[2]),
    )
    return Fleet(name=name, directory=Path(claim[_DIRECTORY]), slot=int(claim[_SLOT]), nodes=tuple(nodes))


def _claim(name: str, nodes: int | None, directory: Path) -> Fleet:
    claims = _claims()
    if name not in claims:
        taken = {int(claim[_SLOT]) for claim in claims.values()}
        slot = next((slot for slot in _SLOTS if slot not in taken and _ports_are_free(slot)), None)
        if slot is None:
            raise LabError(f"all {len(_SLOTS)} places for fleets are taken: {', '.join(sorted(claims))}")
        settings = {
            _SLOT: str(slot),
            _DIRECTORY: str(directory),
            "features.images": "false",
            "features.networks": "false",
        }
        incus(
            "project",
            "create",
            name,
            *[word for key, value in settings.items() for word in ("-c", f"{key}={value}")],
        )
        claims = _claims()
    _check_owner(name, claims[name], directory)
    present = _fleet(name, claims[name])
    count = nodes if nodes is not None else max(2, len(present.nodes))
    return Fleet(
        name=name,
        directory=directory,
        slot=present.slot,
        nodes=tuple(f"backend-api-{n + 1}" for n in range(count)),
    )


def _check_owner(name: str, claim: dict[str, str], directory: Path) -> None:
    if Path(claim[_DIRECTORY]) != directory:
        raise LabError(f"fleet {name} belongs to {claim[_DIRECTORY]}; take another --name")


def _ports_are_free(slot: int) -> bool:
    return not _listens("127.0.0.1", 2222 + slot) and not _listens(machine.GATEWAY, 9090 + slot)


def _is_ready(server: Mapping[str, str]) -> bool:
    # Management guide, `show servers state`: operational 2 = running, administrative 0 = ready, check 3 = passed.
    states = (server["srv_op_state"], server["srv_admin_state"], server["srv_check_result"])
    return states == ("2", "0", "3") and server["srv_uweight"] == server["srv_iweight"]


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it may end by itself first
            os.kill(pid, signal.SIGKILL)


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def _make_instances(fleet: Fleet, image: Image, say: Say) -> None:
    wanted = (LOAD_BALANCER, *fleet.nodes)
    found = fleet.instances()
    _delete_instances(fleet.name, [name for name in found if name not in wanted])
    missing = [name for name in wanted if name not in found]
    if missing:
        say(f"making {', '.join(missing)}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _make_instance(fleet, image, name), missing))
        found = fleet.instances()
        list(pool.map(lambda name: _start(fleet.name, found[name]), wanted))


def _make_instance(fleet: Fleet, image: Image, name: str) -> None:
    settings = {
        # LXC sets the address before the first process runs: no DHCP and nothing to wait for.
        "raw.lxc": f"lxc.net.0.ipv4.address = {fleet.address(name)}/24",
        # Own user ids: the kernel's limits on inotify instances and keys count per user, for all containers.
        "security.idmap.isolated": "true",
    }
    incus(
        "init",
        image.alias,
        name,
        "--project",
        fleet.name,
        "--storage",
        machine.POOL,
        "--network",
        machine.BRIDGE,
        "--quiet",
        *[word for key, value in settings.items() for word in ("-c", f"{key}={value}")],
    )


def _start(project: str, instance: dict[str, Any]) -> None:
    name, status = instance["name"], instance["status"]
    if status == "Running":
        return
    incus("start", "--project", project, name)  # also thaws a frozen one

    def booted() -> bool:
        state = machine.run(
            "incus", "exec", "--project", project, name, "--", "systemctl", "is-system-running", check=False
        )
        return state.stdout.strip() in ("running", "degraded")

    wait_until(booted, f"{name} has booted", seconds=30, poll=0.1)


def _delete_instances(project: str, names: Sequence[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: incus("delete", "--force", "--project", project, name), names))


def _build_artifacts(fleet: Fleet, image: Image) -> None:
    sources = b"".join(
        Path(source).read_bytes()
        for source in (artifacts.__file__, Path(artifacts.__file__).with_name("backend.py"))
    )
    stamp = fleet.artifacts / ".made-of"
    made_of = hashlib.sha256(sources + image.interpreter.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == made_of:
        return
    artifacts.build_all(fleet.artifacts, interpreter=image.interpreter)
    stamp.write_text(made_of, encoding="ascii")


def _write_host_files(fleet: Fleet) -> None:
    directory = fleet.directory
    directory.mkdir(parents=True, exist_ok=True)
    for key in ("host_key", "id_ed25519"):
        if not (directory / key).exists():
            machine.run(
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                f"veza-lab {fleet.name}",
                "-f",
                str(directory / key),
            )
    kind, public = (directory / "host_key.pub").read_text(encoding="ascii").split()[:2]
    root_is_locked = Path("/etc/shadow").read_text(encoding="utf-8").startswith("root:!")
    servers = {node: fleet.address(node) for node in fleet.nodes}
    files = {
        "known_hosts": f"[127.0.0.1]:{fleet.ssh_port} {kind} {public}\n",
        "sshd_config": templates.sshd(directory, port=fleet.ssh_port, root_is_locked=root_is_locked),
        "prometheus.yml": templates.prometheus(servers),
        "fabfile.yaml": templates.fleet_file(
            directory,
            name=fleet.name,
            port=fleet.ssh_port,
            nodes=fleet.nodes,
            lb_url=fleet.lb_url,
            prom_url=fleet.prom_url,
        ),
    }
    for name, daemon in {"sshd_config": fleet.sshd, "prometheus.yml": fleet.prometheus}.items():
        if (directory / name).exists() and (directory / name).read_text(encoding="utf-8") != files[name]:
            daemon.stop()
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


def _stopwatch() -> Callable[[str], None]:
    started = time.monotonic()
    return lambda text: print(f"{time.monotonic() - started:5.1f} s  {text}", flush=True)
