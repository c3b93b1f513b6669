"""A fleet in memory, on a virtual clock: a stand-in for SSH, Incus, systemd, HAProxy and Prometheus.

It stands beneath the real adapters, understands exactly the argument lists that they send (their constant scripts by
identity) and refuses all else. Time passes only when somebody sleeps or calls; clients send requests all the while, and
every one that fails is counted. All times in seconds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from veza_tasks.adapters import deadman, haproxy
from veza_tasks.adapters import node as scripts
from veza_tasks.adapters.host import Command, Held, Host, Progress, Reply
from veza_tasks.adapters.prometheus import EMPTY, NoData, Prometheus, Row, Sample
from veza_tasks.capabilities.journal import HISTORY
from veza_tasks.capabilities.rotation import DRAINED
from veza_tasks.errors import OutcomeUnknown, ReleaseError, Unreachable
from veza_tasks.events import Event, Listeners
from veza_tasks.fleet import Fleet
from veza_tasks.recipes.operation import endings, operation
from veza_tasks.run import Run
from veza_tasks.settings import Settings
from veza_tasks.signals import Signals

T = TypeVar("T")

EPOCH = 1_900_000_000.0
"""Unix time at which the virtual clock starts."""
FOLDER = "/opt/veza/backend-api"
INSTALLED = f"{FOLDER}/veza-api"
PREVIOUS = f"{FOLDER}/veza-api.previous"
KEPT = f"{FOLDER}/veza-api.kept"
MARK = "user.veza-tasks."
CHECK_EVERY, RISE, FALL = 1.0, 2, 3
"""HAProxy's ``inter 1s rise 2 fall 3``."""
SCRAPE_EVERY = 1.0
REQUEST = 0.03
"""How long a client's request takes."""
STOPPING = 0.1
"""How long the old process takes to end."""
REBOOT = 3.0
"""How long a machine takes from going down to starting its units."""
AUTO_RESTART, START_LIMIT = 0.1, 5
"""systemd's ``RestartSec`` and ``StartLimitBurst``."""


_RUNS = itertools.count(1)


class Killed(BaseException):
    """``kill -9`` of our own process: nothing that we do after it reaches the fleet."""


class NotUnderstood(AssertionError):
    """The adapters sent what this stand-in does not know."""


@dataclass(frozen=True)
class Behaviour:
    """What a binary does. It dies ``lives`` seconds after it was started."""

    boot: float = 0.15
    health: int = 200
    error_rate: float = 0.0
    p95: float = 0.05
    lives: float = math.inf


GOOD = Behaviour()
HEALTH_500 = Behaviour(health=500)
ERRORS_20 = Behaviour(error_rate=0.2)
SLOW_P95 = Behaviour(p95=0.8)
CRASH = Behaviour(lives=0.02)
SLOW_BOOT = Behaviour(boot=3.0)


@dataclass(eq=False)
class File:
    """A file; the object is its inode."""

    digest: str
    size: int = 0
    text: str = ""
    changed: float = 0.0
    inode: int = field(default_factory=itertools.count(1).__next__)

    @property
    def identity(self) -> str:
        return f"1:{self.inode}:{self.size}:{EPOCH:.9f}"


@dataclass(eq=False)
class Process:
    pid: int
    file: File
    started: float
    behaviour: Behaviour


@dataclass(eq=False)
class Switch:
    """A machine's dead-man's switch: what lies on its disk (``phase`` names the file), and what systemd knows of it.

    ``timers`` tells when the timer of a generation elapses, ``restarted_at`` when a revert under way has its process.
    """

    prepared: bool = False
    guarded: bool = False
    phase: str = ""
    run: str = ""
    generation: int = 0
    digest: str = ""
    seconds: int = 0
    unproven: tuple[str, ...] = ()
    since: float = 0.0
    outcome: str = ""
    timers: dict[tuple[str, int], float] = field(default_factory=dict)
    restarted_at: float = math.inf

    @property
    def busy(self) -> bool:
        return self.restarted_at < math.inf

    @property
    def text(self) -> str:
        armed = f"{self.run} {self.generation} veza-backend-api {self.digest} {self.seconds}"
        return f"{armed} {','.join(self.unproven)} boot {self.outcome}"


@dataclass(eq=False)
class Machine:
    """An instance that runs the backend."""

    name: str
    files: dict[str, File] = field(default_factory=dict)
    status: str = "Running"
    architecture: str = "x86_64"
    disk: int = 1 << 30
    skew: float = 0.0
    process: Process | None = None
    load: str = "loaded"
    active: str = "inactive"
    sub: str = "dead"
    since: float | None = None
    restarts: int = 0
    starts_again_at: float = math.inf
    starts: int = 0
    requests: float = 0.0
    errors: float = 0.0
    scraped: list[tuple[float, float, float]] = field(default_factory=list)
    cut_uploads_at: int | None = None
    switch: Switch = field(default_factory=Switch)

    def listens(self, now: float) -> bool:
        process = self.process
        return (
            self.status == "Running"
            and process is not None
            and now >= process.started + process.behaviour.boot
        )

    @property
    def free(self) -> int:
        return self.disk - sum(file.size for file in set(self.files.values()))

    @property
    def installed(self) -> str:
        return self.files[INSTALLED].digest if INSTALLED in self.files else ""

    @property
    def running(self) -> str:
        return self.process.file.digest if self.process else ""


@dataclass(eq=False)
class Backend:
    """A server of the pool as HAProxy sees it."""

    name: str
    machine: Machine
    next_check: float
    admin: int = 0
    up: bool = True
    health: int = RISE + FALL - 1
    weight: int = 1
    warm_at: float = 0.0
    checked: bool = True
    total: float = 0.0
    routed_at: float = -math.inf
    sessions_until: list[float] = field(default_factory=list)
    sticky: bool = False
    """Its clients are bound to it by a cookie and go on coming in ``drain``."""

    @property
    def routed(self) -> bool:
        return self.admin == 0 and self.up and self.weight > 0


class World:
    """Everything beneath the adapters. ``failed`` counts client requests that got no answer of the backend's own."""

    def __init__(self, names: Sequence[str], *, rate: float = 100.0) -> None:
        self.lock = threading.RLock()
        self.time = 0.0
        self.rate = rate
        self.algorithm = "roundrobin"
        self.slowstart = 0.0
        self.haproxy_answers = True
        self.prometheus: Callable[[str], NoData | None] = lambda query: None
        self.behaviours: dict[str, Behaviour] = {}
        self.machines = {name: Machine(name) for name in names}
        self.servers = {
            name: Backend(name, machine, next_check=0.1 + 0.37 * number % CHECK_EVERY)
            for number, (name, machine) in enumerate(self.machines.items())
        }
        self.config: dict[str, dict[str, str]] = {name: {} for name in [*names, "haproxy"]}
        self.profiles: dict[str, dict[str, str]] = {}
        self.failed = 0.0
        self.most_out = 0
        self.effects: list[str] = []
        self.wrong: list[str] = []
        """What must never happen and did."""
        self.check_install: Callable[[Machine, str], None] = lambda machine, digest: None
        self._next_scrape = 0.5
        self._pids = itertools.count(100)
        self._turn = itertools.count()
        self._scheduled: list[tuple[float, Callable[[], None]]] = []
        self._next = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """For ``copy.deepcopy``: a fleet that was brought somewhere once can be tried many times."""
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.lock = threading.RLock()

    # Time

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime.fromtimestamp(EPOCH + self.time, UTC)

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self._scheduled.append((self.time + seconds, action))
        self._next = 0.0

    def advance(self, seconds: float) -> None:
        with self.lock:
            end = self.time + max(0.0, seconds)
            while self.time < end:
                if self._next <= self.time:
                    self._next = self._next_change()
                at = min(end, self._next)
                self._flow(at)
                self.time = at
                if at == self._next:
                    self._happen()

    def _next_change(self) -> float:
        def times() -> Iterator[float]:
            yield self._next_scrape
            for server in self.servers.values():
                yield server.next_check
            for machine in self.machines.values():
                yield machine.starts_again_at
                yield machine.switch.restarted_at
                yield from machine.switch.timers.values()
                if process := machine.process:
                    yield process.started + process.behaviour.lives
                    yield process.started + process.behaviour.boot
            for at, _ in self._scheduled:
                yield at

        return min((at for at in times() if at > self.time), default=math.inf)

    def _flow(self, until: float) -> None:
        """Clients send their requests, from now on; nothing changes before ``until``."""
        seconds = until - self.time
        if seconds <= 0:
            return
        routed = [server for server in self.servers.values() if server.routed]
        self.most_out = max(self.most_out, len(self.servers) - len(routed))
        if not routed:
            self.failed += self.rate * seconds
        for server in routed:
            share = self.rate * seconds / len(routed)
            server.routed_at = until
            if not server.machine.listens(self.time):
                self.failed += share
                continue
            server.total += share
            server.machine.requests += share
            assert server.machine.process
            server.machine.errors += share * server.machine.process.behaviour.error_rate

    def _happen(self) -> None:
        now = self.time
        for machine in self.machines.values():
            process = machine.process
            if process and now >= process.started + process.behaviour.lives:
                self._die(machine)
            if now >= machine.starts_again_at:
                machine.starts_again_at = math.inf
                machine.restarts += 1
                self._start(machine)
            self._dead_mans_hand(machine)
        for server in self.servers.values():
            while now >= server.next_check:
                server.next_check += CHECK_EVERY
                self._check(server)
        while now >= self._next_scrape:
            self._next_scrape += SCRAPE_EVERY
            for machine in self.machines.values():
                if machine.listens(now):
                    machine.scraped.append((now, machine.requests, machine.errors))
        due = [entry for entry in self._scheduled if entry[0] <= now]
        for entry in due:
            self._scheduled.remove(entry)
            entry[1]()

    # systemd

    def restart(self, machine: Machine) -> bool:
        if machine.process:
            self.failed += self.sessions(self.servers[machine.name])
            machine.process = None
            machine.active, machine.sub = "deactivating", "stop-sigterm"
            self.advance(STOPPING)
        machine.restarts = machine.starts = 0
        machine.starts_again_at = math.inf
        if INSTALLED not in machine.files:
            machine.active, machine.sub = "failed", "failed"
            return False
        self._start(machine)
        return True

    def _start(self, machine: Machine) -> None:
        file = machine.files[INSTALLED]
        machine.process = Process(next(self._pids), file, self.time, self.behaviours.get(file.digest, CRASH))
        machine.active, machine.sub, machine.since = "active", "running", self.time
        machine.requests = machine.errors = 0.0
        machine.starts += 1
        self._next = 0.0

    def _die(self, machine: Machine) -> None:
        machine.process = None
        if machine.starts >= START_LIMIT:
            machine.active, machine.sub = "failed", "failed"
        else:
            machine.active, machine.sub = "activating", "auto-restart"
            machine.starts_again_at = self.time + AUTO_RESTART

    # The dead-man's switch

    def _dead_mans_hand(self, machine: Machine) -> None:
        """Timers that have elapsed put the old binary back, unless a later generation counts."""
        switch = machine.switch
        if machine.status != "Running":
            switch.timers.clear()
        if self.time >= switch.restarted_at:
            switch.restarted_at = math.inf
            machine.restarts = machine.starts = 0
            self._start(machine)
            self._bury(switch)
        for timer, at in list(switch.timers.items()):
            if self.time >= at:
                del switch.timers[timer]
                if switch.phase == "armed" and timer == (switch.run, switch.generation):
                    self.revert(machine)

    def revert(self, machine: Machine, *, restart: bool = True) -> None:
        """What the program on the machine does once it holds the lock; twice is harmless."""
        switch, files = machine.switch, machine.files
        switch.phase, switch.outcome = "reverting", f"{int(EPOCH + self.time)} {switch.digest} is back"
        kept = f"{KEPT}/{switch.digest}"
        if machine.installed != switch.digest:
            if not {machine.installed, machine.running} & {"", *switch.unproven}:
                switch.outcome = (
                    f"{int(EPOCH + self.time)} nothing to put back: what is installed is not the release"
                )
                self._bury(switch)
                return
            if kept not in files or files[kept].digest != switch.digest:
                switch.outcome = f"{int(EPOCH + self.time)} failed: no binary with sha256 {switch.digest}"
                self._bury(switch)
                return
            if INSTALLED in files:
                replaced = files[INSTALLED]
                files[f"{KEPT}/{replaced.digest}"] = replaced
                files.setdefault(f"{KEPT}/{replaced.digest}.version", File("", text="unknown"))
                replaced.changed = self.time
            files[INSTALLED] = files.pop(kept)
            files[INSTALLED].changed = self.time
        if not restart or machine.running == switch.digest:
            self._bury(switch)
            return
        self.failed += self.sessions(self.servers[machine.name])
        machine.process, machine.starts_again_at = None, math.inf
        machine.active, machine.sub = "deactivating", "stop-sigterm"
        switch.restarted_at = self.time + STOPPING
        self._next = 0.0

    def _bury(self, switch: Switch) -> None:
        switch.phase, switch.guarded = "tombstone", False

    def reboot(self, machine: Machine) -> None:
        """Timers do not outlive it; what is armed is reverted before the unit starts."""
        switch = machine.switch
        machine.process, machine.since = None, None
        machine.active, machine.sub, machine.starts_again_at = "inactive", "dead", math.inf
        switch.timers.clear()
        switch.restarted_at = math.inf
        self.advance(REBOOT)
        if switch.guarded and switch.phase in ("armed", "reverting"):
            self.revert(machine, restart=False)
        machine.restarts = machine.starts = 0
        self._start(machine)

    # HAProxy

    def sessions(self, server: Backend) -> int:
        open_ones = sum(until > self.time for until in server.sessions_until)
        flowing = self.rate > 0 and self.time - server.routed_at < REQUEST
        bound = server.sticky and server.admin != 1
        return open_ones + flowing + bound

    def reload_haproxy(self) -> None:
        """A new worker: drains, counters and the health of servers are forgotten."""
        for server in self.servers.values():
            server.admin, server.total, server.up, server.health = 0, 0.0, True, RISE

    def _check(self, server: Backend) -> None:
        if server.admin == 1 or not server.checked:
            return
        process = server.machine.process
        passed = server.machine.listens(self.time) and process is not None and process.behaviour.health == 200
        if passed:
            server.health = min(server.health + 1, RISE + FALL - 1)
            if not server.up and server.health >= RISE:
                server.up, server.health = True, RISE + FALL - 1
                server.warm_at = self.time + self.slowstart
        else:
            server.health -= 1
            if server.up and server.health < RISE:
                server.up = False
            server.health = server.health if server.up else 0

    def prompt(self, command: str) -> str:
        match command.split():
            case ["show", "servers", "state", "api_pool"]:
                return self._servers_state()
            case ["show", "stat", "api_pool", "6", "-1"]:
                return self._stat()
            case ["show", "servers", "state", _]:
                return "Can't find backend.\n"
            case ["show", "stat", _, "6", "-1"]:
                return "# pxname,svname,\n"
            case ["set", "server", target, "state", state]:
                return self._set_state(target.removeprefix("api_pool/"), state)
            case ["shutdown", "sessions", "server", target]:
                self.servers[target.removeprefix("api_pool/")].sessions_until = []
                return "\n"
        raise NotUnderstood(f"HAProxy: {command}")

    def _set_state(self, name: str, state: str) -> str:
        server = self.servers.get(name)
        if server is None:
            return "No such server.\n"
        if state == "ready" and server.admin == 1:
            # Up at once, before any check.
            server.up, server.health = True, RISE
        server.admin = {"ready": 0, "maint": 1, "drain": 8}[state]
        return "\n"

    def _servers_state(self) -> str:
        lines = [
            "1",
            "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight",
        ]
        for number, server in enumerate(self.servers.values(), 1):
            op = 0 if not server.up or server.admin == 1 else 1 if self.time < server.warm_at else 2
            lines.append(
                f"3 api_pool {number} {server.name} 198.18.0.{number} {op} {server.admin} {server.weight} 1"
            )
        return "\n".join(lines) + "\n\n"

    def _stat(self) -> str:
        lines = ["# pxname,svname,qcur,scur,stot,status,weight,check_status,algo,"]
        for s in self.servers.values():
            status = {1: "MAINT", 8: "DRAIN"}.get(s.admin, "UP" if s.up else "DOWN")
            check = "L7OK" if s.checked else ""
            lines.append(
                f"api_pool,{s.name},0,{self.sessions(s)},{int(s.total)},{status},{s.weight},{check},,"
            )
        lines.append(f"api_pool,BACKEND,0,0,0,UP,{len(self.servers)},,{self.algorithm},")
        return "\n".join(lines) + "\n\n"

    def get(self, url: str) -> str:
        """A GET of our own through the load balancer."""
        with self.lock:
            self.advance(0.003)
            routed = [server for server in self.servers.values() if server.routed]
            if not routed:
                return "503"
            server = routed[0 if self.algorithm == "source" else next(self._turn) % len(routed)]
            process = server.machine.process
            if process is None or not server.machine.listens(self.time):
                return "503"
            server.total += 1
            return str(process.behaviour.health)


class MemoryHost:
    """An Incus server with all of the fleet's instances; understands what the adapters send and nothing else."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world

    def run(
        self,
        argv: Command,
        *,
        into: Command = (),
        stdin: BinaryIO | None = None,
        effect: str = "",
        timeout: float,
        progress: Progress | None = None,
    ) -> Reply:
        with self.world.lock:
            self.world.advance(0.005)
            self._note(effect)
            if list(argv[:4]) == ["incus", "query", "--wait", "--request"]:
                return self._query(argv[4], argv[-1], json.loads(argv[6]) if "--data" in argv else {})
            match _client(argv):
                case ["exec", target, *rest] if stdin is not None:
                    content = stdin.read()
                    if progress:
                        progress(len(content))
                    machine = self._machine(target)
                    if machine.cut_uploads_at is not None:
                        content = content[: machine.cut_uploads_at]
                    return self._receive(machine, rest, content)
                case ["exec", target, "--force-noninteractive", "--", "cat", "--", path] if into:
                    file = self._machine(target).files.get(path)
                    if file is None:
                        # The pipe's status is that of its end.
                        return Reply(0, err=f"cat: {path}: No such file or directory")
                    match _client(into):
                        case ["exec", receiver, *rest]:
                            return self._receive(self._machine(receiver), rest, file)
        raise NotUnderstood(f"{list(argv)} into {list(into)}")

    def _query(self, method: str, url: str, body: Mapping[str, Any]) -> Reply:
        path, _, options = url.removeprefix("local:/1.0/").partition("?")
        kind, _, name = path.partition("/")
        if options.removesuffix("&recursion=1") != "project=default":
            raise NotUnderstood(url)
        if kind == "profiles":
            return self._query_profiles(method, name, body)
        match method, name:
            case "GET", "" if options.endswith("&recursion=1"):
                return Reply(0, json.dumps([self._instance(one) for one in self.world.config]))
            case (("GET" | "PATCH"), _) if name not in self.world.config:
                return Reply(1, err=f'Error: Failed to fetch instance "{name}": Instance not found')
            case "GET", _:
                return Reply(0, json.dumps(self._instance(name)))
            case "PATCH", _:
                changed = {**self.world.config[name], **body["config"]}
                self.world.config[name] = {key: value for key, value in changed.items() if value}
                return Reply(0)
        raise NotUnderstood(f"{method} {url}")

    def _query_profiles(self, method: str, name: str, body: Mapping[str, Any]) -> Reply:
        profiles = self.world.profiles
        match method:
            case "POST" if body["name"] in profiles:
                text = f'Error: Error inserting "{body["name"]}" into database: The profile already exists'
                return Reply(1, err=text)
            case "POST":
                profiles[body["name"]] = dict(body["config"])
            case _ if name not in profiles:
                return Reply(1, err="Error: Profile not found")
            case "GET":
                return Reply(0, json.dumps({"name": name, "config": profiles[name], "used_by": []}))
            case "PATCH":
                profiles[name] |= body["config"]
            case "DELETE":
                del profiles[name]
        return Reply(0)

    def shell(self, held: Held, argv: Command, *, effect: str = "", timeout: float) -> Reply:
        with self.world.lock:
            self.world.advance(0.002)
            self._note(effect)
            match list(argv):
                case ["sh", "-c", haproxy.ASK, "sh", command, _]:
                    return self._runtime_api(command)
            machine = self._machine(f"local:{held.where}")
            if machine.status != "Running":
                raise Unreachable(f"{held.where} on {self.name}: Error: Instance is not running")
            match list(argv):
                case ["sh", "-c", script, "sh", *arguments]:
                    return self._script(machine, script, arguments)
                case ["journalctl", "--unit", "veza-backend-api", *_]:
                    return Reply(0, "last words\n")
                case ["rm", "-f", "--", *paths]:
                    for path in paths:
                        machine.files.pop(path, None)
                    return Reply(0)
        raise NotUnderstood(f"{held.where}: {list(argv)}")

    def _runtime_api(self, command: str) -> Reply:
        if not self.world.haproxy_answers:
            return Reply(1, err="socat: No such file or directory")
        return Reply(0, "".join(self.world.prompt(part) for part in command.split(";")))

    def open_ahead(self, programs: Sequence[Held]) -> None:
        pass

    def close(self) -> None:
        pass

    def _note(self, effect: str) -> None:
        # What a run keeps on the fleet about itself changes nothing there.
        if effect and "veza-tasks.lock." not in effect and f"{MARK}{HISTORY}" not in effect:
            self.world.effects.append(effect)

    def _instance(self, name: str) -> dict[str, object]:
        machine = self.world.machines.get(name)
        return {
            "name": name,
            "status": machine.status if machine else "Running",
            "architecture": machine.architecture if machine else "x86_64",
            "config": {"image.os": "Debian", **self.world.config[name]},
        }

    def _machine(self, target: str) -> Machine:
        return self.world.machines[target.removeprefix("local:")]

    def _receive(self, machine: Machine, argv: Sequence[str], content: bytes | File) -> Reply:
        match argv:
            case ["--force-noninteractive", "--", "sh", "-c", scripts.RECEIVE, "sh", folder, name]:
                file = content if isinstance(content, File) else _file(content)
                return self._write(machine, f"{folder}/veza-api.kept/{name}", file)
        raise NotUnderstood(str(argv))

    def _write(self, machine: Machine, path: str, file: File) -> Reply:
        room = machine.free
        if file.size > room:
            machine.files[path] = File("cut" + file.digest[3:], room, changed=self.world.time)
            return Reply(1, err="cat: write error: No space left on device")
        machine.files[path] = File(file.digest, file.size, changed=self.world.time)
        return Reply(0)

    def _script(self, machine: Machine, script: str, arguments: Sequence[str]) -> Reply:
        files, now = machine.files, self.world.time
        match script, arguments:
            case scripts.LOOK, ["veza-backend-api", folder, known]:
                return Reply(0, "\n".join(self._look(machine, folder, known.split())) + "\n")
            case scripts.HEALTH, ["veza-backend-api", _]:
                process = machine.process
                code = process.behaviour.health if process and machine.listens(now) else 0
                return Reply(0, "\n".join([*_unit(machine), f"http={code:03}"]) + "\n")
            case scripts.RUNNING, ["veza-backend-api", folder]:
                if machine.process is None:
                    return Reply(1)
                installed = files.get(f"{folder}/veza-api")
                same = installed is not None and machine.running == installed.digest
                return Reply(0 if same else 1, f"{machine.running}\n")
            case scripts.RESTART, ["veza-backend-api"]:
                if self.world.restart(machine):
                    return Reply(0)
                return Reply(1, err="Job for veza-backend-api.service failed")
            case _, [path] if script == f'{scripts.HASH}\nsha256 <"$1"':
                file = self._at(machine, path)
                return Reply(0, f"{file.digest}  -\n") if file else Reply(1, err=f"{path}: No such file")
            case scripts.COPY, [folder, name, path]:
                file = self._at(machine, path)
                if file is None:
                    return Reply(1, err=f"cp: cannot stat '{path}': No such file or directory")
                return self._write(machine, f"{folder}/veza-api.kept/{name}", file)
            case scripts.CHECK_KEPT, [folder, digest]:
                file = files.get(f"{folder}/veza-api.kept/{digest}")
                return Reply(0 if file and file.digest == digest else 1)
            case scripts.ADOPT, [folder, name, digest, version]:
                kept = f"{folder}/veza-api.kept"
                file = files.get(f"{kept}/{name}")
                if file is None:
                    return Reply(1, err=f"{name}: No such file")
                if file.digest != digest:
                    del files[f"{kept}/{name}"]
                    return Reply(1, err=f"it arrived as sha256 {file.digest}")
                files[f"{kept}/{digest}.version"] = File("", text=version, changed=now)
                files[f"{kept}/{digest}"] = files.pop(f"{kept}/{name}")
                file.changed = now
                return Reply(0, f"{file.identity}\n")
            case scripts.INSTALL, [folder, digest, replacing]:
                return self._install(machine, folder, digest, replacing)
            case _ if script in _SWITCH:
                return Reply(*self._switch(machine, machine.switch, script, arguments))
        raise NotUnderstood(f"{machine.name}: {script} {list(arguments)}")

    def _switch(
        self, machine: Machine, switch: Switch, script: str, arguments: Sequence[str]
    ) -> tuple[int, str, str]:
        """The scripts of the dead-man's switch: exit status and both outputs."""
        if switch.busy and script in (deadman.ARM, deadman.RENEW, deadman.DISARM):
            return 0, "stands=busy\n", ""
        match script, arguments:
            case deadman.PREPARE, [_, "veza-backend-api", digest, _]:
                switch.prepared = switch.guarded = True
                kept = machine.files.get(f"{KEPT}/{digest}")
                there = machine.installed == digest or (kept is not None and kept.digest == digest)
                return (0, "", "") if there else (1, "", f"no binary with sha256 {digest}")
            case deadman.ARM, [*_] if not switch.prepared:
                return 2, "", "cd: can't cd to veza-api.deadman"
            case deadman.ARM | deadman.RENEW, [*_] if switch.phase == "reverting":
                return 0, "stands=reverting\n", ""
            case deadman.ARM, [_, "veza-backend-api", run, digest, seconds, unproven]:
                later = switch.generation if (switch.phase, switch.run) == ("armed", run) else 0
                others = switch.unproven if switch.phase == "armed" else ()
                switch.unproven = others if unproven in others else (unproven, *others)
                switch.phase, switch.run, switch.generation, switch.outcome = "armed", run, later, ""
                switch.digest, switch.seconds = digest, int(seconds)
                return 0, self._arm(switch), ""
            case deadman.RENEW, [_, run] if (switch.phase, switch.run) == ("armed", run):
                return 0, self._arm(switch), ""
            case deadman.DISARM | deadman.RENEW, [_, run] if switch.phase == "armed" and switch.run != run:
                return 0, f"stands=another {switch.run}\n", ""
            case deadman.DISARM, [_, _] if switch.phase == "reverting":
                self.world.revert(machine)
                return 0, "stands=busy\n", ""
            case deadman.DISARM | deadman.RENEW, [_, _]:
                if script == deadman.DISARM:
                    switch.phase = switch.phase.replace("armed", "")
                    switch.guarded = False
                    switch.timers.clear()
                dead = f"stands=tombstone\ntombstone={switch.text}\n"
                return 0, dead if switch.phase == "tombstone" else "stands=nothing\n", ""
            case deadman.CLEAR, [_]:
                switch.phase = switch.phase.replace("tombstone", "")
                return 0, "", ""
            case deadman.LOOK, [_]:
                lines = [
                    f"timers={' '.join(f'{deadman.PREFIX}-{run}-{number}.timer' for run, number in switch.timers)}",
                    f"guard={'enabled' if switch.guarded else ''}",
                    f"now={int(EPOCH + self.world.time + machine.skew)}",
                    *([f"{switch.phase}={int(EPOCH + switch.since)} {switch.text}"] if switch.phase else []),
                ]
                return 0, "\n".join(lines) + "\n", ""
        raise NotUnderstood(f"{machine.name}: {script} {list(arguments)}")

    def _arm(self, switch: Switch) -> str:
        """The next generation of what is armed, as ``ARM`` and ``RENEW`` tell of it."""
        switch.timers.pop((switch.run, switch.generation), None)
        switch.timers = {timer: at for timer, at in switch.timers.items() if timer[0] == switch.run}
        switch.generation += 1
        switch.since = self.world.time
        switch.timers[switch.run, switch.generation] = self.world.time + switch.seconds
        self.world._next = 0.0
        began = self.world.time
        return (
            f"stands=armed\nActiveState=active\nActiveEnterTimestampMonotonic={round(began * 1e6)}\n"
            f"NextElapseUSecMonotonic={began + switch.seconds:.6f}s\n"
        )

    def _install(self, machine: Machine, folder: str, digest: str, replacing: str) -> Reply:
        files, now, kept, binary = (
            machine.files,
            self.world.time,
            f"{folder}/veza-api.kept",
            f"{folder}/veza-api",
        )
        if replacing:
            files.setdefault(f"{kept}/{replacing}.version", File("", text="unknown", changed=now))
            if binary not in files:
                return Reply(1, err=f"ln: failed to access '{binary}': No such file or directory")
            files[f"{kept}/{replacing}"] = files[binary]
            files[binary].changed = now
        if f"{kept}/{digest}" not in files:
            return Reply(1, err=f"mv: cannot stat '{kept}/{digest}': No such file or directory")
        files[binary] = files.pop(f"{kept}/{digest}")
        files[binary].changed = now
        self.world.check_install(machine, files[binary].digest)
        return Reply(0)

    def _look(self, machine: Machine, folder: str, known: Sequence[str]) -> Iterator[str]:
        files = machine.files
        yield from _unit(machine)
        named = {
            "installed": files.get(f"{folder}/veza-api"),
            "running": machine.process.file if machine.process else None,
            "previous": files.get(f"{folder}/veza-api.previous"),
        }
        for name, file in named.items():
            if file:
                yield f"{name}={'' if file.identity in known else file.digest}@{file.identity}"
        kept = f"{folder}/veza-api.kept/"
        names = [path for path in files if path.startswith(kept)]
        for path in sorted(names, key=lambda path: files[path].changed, reverse=True):
            name = path.removeprefix(kept)
            if name.endswith(".version"):
                yield f"version.{name.removesuffix('.version')}={files[path].text}"
            else:
                yield f"kept.{name}="
        yield f"now={int(EPOCH + self.world.time + machine.skew)}"
        yield f"free={machine.free}"

    def _at(self, machine: Machine, path: str) -> File | None:
        if machine.process and path == f"/proc/{machine.process.pid}/exe":
            return machine.process.file
        return machine.files.get(path)


class MemoryPrometheus(Prometheus):
    """Answers the gate's own kinds of query from what the world's scrapes saw."""

    def __init__(self, world: World) -> None:
        self.world = world

    def query(self, promql: str) -> Sample | NoData:
        with self.world.lock:
            if nothing := self.world.prometheus(promql):
                return nothing
            machine, seconds = self._asked(promql)
            now = self.world.time
            seen = [entry for entry in machine.scraped if now - entry[0] <= seconds]
            if promql.startswith("time() - max(timestamp("):
                return Sample(now - machine.scraped[-1][0]) if machine.scraped else NoData(EMPTY)
            if promql.startswith("max(count_over_time("):
                return Sample(len(seen))
            if promql.startswith("sum(increase("):
                return Sample(_increase([requests for _, requests, _ in seen]))
            if promql.startswith("histogram_quantile(0.95,"):
                return Sample(machine.process.behaviour.p95) if machine.process else NoData("no series")
            if promql.startswith("(sum(rate("):
                requests = _increase([requests for _, requests, _ in seen])
                errors = _increase([errors for _, _, errors in seen])
                return Sample(errors / requests) if requests else NoData("the value is nan")
        raise NotUnderstood(promql)

    def series(self, promql: str) -> list[Row] | NoData:
        with self.world.lock:
            if nothing := self.world.prometheus(promql):
                return nothing
        if promql.startswith("count by (le)"):
            return [({"le": bound}, 1.0) for bound in ("0.1", "0.5", "1", "+Inf")]
        if promql == "ALERTS":
            return []
        if promql == "DRILL":
            return [({"alertname": "GameDay"}, 1.0)]
        raise NotUnderstood(promql)

    def _asked(self, promql: str) -> tuple[Machine, float]:
        named = re.search(r'instance=~"(.+?)\(\[\.:\]\.\*\)\?"', promql)
        over = re.search(r"\[(\d+)s\]", promql)
        if named is None:
            raise NotUnderstood(promql)
        return self.world.machines[named[1]], float(over[1]) if over else math.inf


class Fault(StrEnum):
    """What can go wrong with one remote call."""

    REFUSED = "refused"
    LOST_BEFORE = "lost before it ran"
    LOST_AFTER = "lost after it ran"
    HANGS = "hangs past its deadline"
    GARBAGE = "garbage comes back"
    EMPTY = "nothing comes back"
    FAILS = "fails"
    KILLED_BEFORE = "we are killed before it"
    KILLED_AFTER = "we are killed after it"


@dataclass(frozen=True)
class Call:
    """One kind of remote call: in which step, where and what. ``changes`` tells changes from reads."""

    step: str
    where: str
    what: str
    changes: bool

    def __str__(self) -> str:
        return f"{self.what!r} on {self.where} in {self.step or 'between steps'}"


class Faults:
    """Numbers the remote calls of a run by kind and lets one thing go wrong at the first call of one kind."""

    def __init__(
        self, world: World, at: Call | None = None, fault: Fault | None = None, *, nth: int = 1
    ) -> None:
        self.world = world
        self.at = at
        self.fault = fault
        self.nth = nth
        self.seen: Counter[Call] = Counter()
        self.struck = False
        self.dead = False
        self.phase: Callable[[], str] = lambda: ""
        self._lock = threading.Lock()

    def call(
        self,
        where: str,
        what: str,
        make: Callable[[], T],
        *,
        changes: bool = False,
        odd: Callable[[str, int], T],
        timeout: float,
    ) -> T:
        """Make the call, or let it go wrong; ``odd`` makes an answer of a text and an exit status."""
        call = Call(self.phase(), where, what, changes)
        with self._lock:
            if self.dead:
                raise Killed
            self.seen[call] += 1
            strikes = call == self.at and self.seen[call] == self.nth
            self.struck |= strikes
            if strikes and self.fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
                self.dead = True
        if not strikes:
            return make()
        match self.fault:
            case Fault.REFUSED:
                raise Unreachable(f"{where}: connection refused")
            case Fault.LOST_BEFORE:
                raise OutcomeUnknown(f"{where}: it is not known whether {what!r} ran")
            case Fault.LOST_AFTER:
                make()
                raise OutcomeUnknown(f"{where}: it is not known whether {what!r} ran")
            case Fault.HANGS:
                make()
                self.world.advance(timeout)
                raise OutcomeUnknown(f"{where}: {what!r} did not answer within {timeout:g} s")
            case Fault.GARBAGE:
                make()
                return odd("<html>502 Bad Gateway</html>\nx=y,z\n", 0)
            case Fault.EMPTY:
                make()
                return odd("", 0)
            case Fault.FAILS:
                return odd("Permission denied\n", 1)
            case Fault.KILLED_AFTER:
                make()
        raise Killed


_SWITCH = {deadman.PREPARE, deadman.ARM, deadman.RENEW, deadman.DISARM, deadman.CLEAR, deadman.LOOK}
_SCRIPTS = {
    **{value: f"deadman.{name}" for name, value in vars(deadman).items() if isinstance(value, str)},
    **{value: name for name, value in vars(scripts).items() if isinstance(value, str)},
}


class FaultyHost:
    """A host whose calls go through ``Faults``, named alike whatever the Incus ``client`` and the project are called."""

    def __init__(self, host: Host, faults: Faults, *, client: Sequence[str] = ("incus",)) -> None:
        self.name = host.name
        self._client = client
        self._host = host
        self._faults = faults

    def run(
        self,
        argv: Command,
        *,
        into: Command = (),
        stdin: BinaryIO | None = None,
        effect: str = "",
        timeout: float,
        progress: Progress | None = None,
    ) -> Reply:
        def make() -> Reply:
            return self._host.run(
                argv, into=into, stdin=stdin, effect=effect, timeout=timeout, progress=progress
            )

        words = argv[len(self._client) :]
        if words[0] == "query":
            keys = json.loads(words[words.index("--data") + 1]).get("config", {}) if "--data" in words else {}
            words = [words[3], words[-1].partition("/1.0/")[2].partition("?")[0], *sorted(keys)[:1]]
        what = " ".join(words[:2] if words[0] == "exec" else words[:4]).partition("=")[0]
        return self._faults.call(self.name, what, make, changes=bool(effect), odd=_odd, timeout=timeout)

    def shell(self, held: Held, argv: Command, *, effect: str = "", timeout: float) -> Reply:
        def make() -> Reply:
            return self._host.shell(held, argv, effect=effect, timeout=timeout)

        what = _SCRIPTS.get(argv[2], argv[4]) if argv[0] == "sh" else " ".join(argv[:2])
        return self._faults.call(held.where, what, make, changes=bool(effect), odd=_odd, timeout=timeout)

    def open_ahead(self, programs: Sequence[Held]) -> None:
        pass

    def close(self) -> None:
        self._host.close()


@dataclass(frozen=True)
class Ending:
    """How a run ended: our exit code, and why."""

    code: int
    error: BaseException | None = None

    @property
    def text(self) -> str:
        error = self.error
        return (
            f"{error.message}\n{error.state}\n{error.next_command}" if isinstance(error, ReleaseError) else ""
        )


@dataclass(kw_only=True)
class JournaledRun(Run):
    """A run, and the folder where its journal goes."""

    journals: Path


class MemoryFleet:
    """A fleet in memory that runs ``v1``, has it as ``veza-api.previous`` too, and serves 100 requests a second."""

    def __init__(self, folder: Path, *, nodes: int = 2, rate: float = 100.0, **knobs: Any) -> None:
        names = [f"backend-api-{number}" for number in range(1, nodes + 1)]
        self.folder = folder
        self.world = World(names, rate=rate)
        self.canary = self.world.machines["backend-api-2"]
        self.peers = [machine for machine in self.world.machines.values() if machine is not self.canary]
        self.knobs: dict[str, Any] = {
            "hosts": {"incus-1": {}},
            "nodes": {name: {"host": "incus-1"} for name in names},
            "load_balancer": {"host": "incus-1"},
            "canary_node": "backend-api-2",
            "peer_nodes": [machine.name for machine in self.peers],
            "migrations_dir": "none",
            "sli_window": 10,
            "sli_window_floor": 0,
            "sli_probe_interval": 5,
            "health_settle": 0.2,
            **knobs,
        }
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self.v1 = self.binary("v1.0.0")
        for machine in self.world.machines.values():
            machine.files[INSTALLED] = _file(self.v1.read_bytes())
            machine.files[PREVIOUS] = _file(self.v1.read_bytes())
            self.world.restart(machine)
        self.world.advance(12.0)
        self.world.failed = 0.0
        self.world.most_out = 0

    def binary(self, version: str, behaviour: Behaviour = GOOD, *, architecture: int = 62) -> Path:
        """A local binary; the fleet knows how it behaves."""
        path = self.folder / f"veza-api-{version}"
        content = elf(version.encode(), architecture=architecture)
        if not path.exists():
            path.write_bytes(content)
        self.world.behaviours[digest_of(path)] = behaviour
        return path

    def run(
        self, faults: Faults | None = None, *, plan: bool = False, task: str = "canary", **more: Any
    ) -> Run:
        """A run on this fleet; ``accepted`` is what ``--accept`` gives. All but ``prometheus`` and these are knobs."""
        accepted: Mapping[str, str] = more.pop("accepted", {})
        prometheus = more.pop("prometheus", lambda _: MemoryPrometheus(self.world))
        settings = Settings.model_validate({**self.knobs, **more})

        emit = Listeners(self._emit)

        def connect(name: str, _: Settings) -> Host:
            host = MemoryHost(name, self.world)
            return FaultyHost(host, faults) if faults else host

        def get(url: str) -> str:
            if faults is None:
                return self.world.get(url)
            return faults.call("client", "GET", lambda: self.world.get(url), odd=_no_answer, timeout=5.0)

        fleet = Fleet(
            settings,
            emit=emit,
            plan=plan,
            connect=connect,
            get=get,
            prometheus=prometheus,
        )
        made = JournaledRun(
            journals=self.folder / "journals",
            task=task,
            id=f"run-{next(_RUNS)}",
            who="somebody@somewhere",
            settings=settings,
            fleet=fleet,
            clock=self.world,
            emit=emit,
            signals=Signals(emit),
            plan=plan,
            accepted=accepted,
        )
        if faults:
            faults.phase = lambda: made.doing[-1] if made.doing else ""
        return made

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)

    @property
    def marks(self) -> dict[str, dict[str, str]]:
        """Our marks by instance, where there are any, but for the history of runs."""
        found = {
            name: {
                key.removeprefix(MARK): value
                for key, value in config.items()
                if key.startswith(MARK) and key != MARK + HISTORY
            }
            for name, config in self.world.config.items()
        }
        return {name: marks for name, marks in found.items() if marks}

    @property
    def drained(self) -> list[str]:
        return [name for name, marks in self.marks.items() if DRAINED in marks]

    def serves(self, machine: Machine) -> bool:
        return self.world.servers[machine.name].routed and machine.listens(self.world.time)

    def all_serve(self) -> bool:
        return all(self.serves(machine) for machine in self.world.machines.values())

    def all_run(self, path: Path) -> bool:
        wanted = digest_of(path)
        return all(machine.installed == machine.running == wanted for machine in self.world.machines.values())

    def texts(self) -> str:
        return "\n".join(str(event) for event in self.events)


class AtOnce(Executor):
    """What would be done in a thread is done at once, so that a test's calls come in one order."""

    def submit(self, work: Callable[..., T], /, *args: Any, **keywords: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work(*args, **keywords))
        except BaseException as error:  # noqa: BLE001 - as an executor's thread does
            future.set_exception(error)
        return future


def ending(run: Run, recipe: Callable[[Run], object], *, looks: bool = False, **more: Any) -> Ending:
    """Let a recipe run, and say how it ended as the tasks do; a killed run ends with -9. ``more`` goes to ``operation``.

    One that only ``looks`` takes no lock.
    """
    assert isinstance(run, JournaledRun)
    try:
        with endings(run) if looks else operation(run, journals=run.journals, ahead=AtOnce(), **more):
            recipe(run)
    except ReleaseError as error:
        return Ending(error.exit_code, error)
    except Killed as killed:
        return Ending(-9, killed)
    return Ending(0)


def elf(content: bytes, *, architecture: int = 62) -> bytes:
    """A small ELF program for 64-bit little-endian machines: a header, one segment of code, and the content."""
    size = 64 + 56 + len(content)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, architecture, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 0x1000)
    return ident + header + segment + content


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _file(content: bytes) -> File:
    return File(hashlib.sha256(content).hexdigest(), len(content))


def _client(argv: Command) -> list[str]:
    """The arguments of the Incus client, which must name the project."""
    words = list(argv)
    before, _, command = (
        (words, "", [])
        if "--" not in words
        else (words[: words.index("--")], "--", words[words.index("--") :])
    )
    if before[:1] != ["incus"] or before[-2:] != ["--project", "default"]:
        raise NotUnderstood(str(words))
    return [*before[1:-2], *command]


def _unit(machine: Machine) -> Iterator[str]:
    yield f"LoadState={machine.load}"
    yield f"ActiveState={machine.active}"
    yield f"SubState={machine.sub}"
    yield f"MainPID={machine.process.pid if machine.process else 0}"
    yield f"NRestarts={machine.restarts}"
    yield f"ActiveEnterTimestamp={'' if machine.since is None else f'@{int(EPOCH + machine.since)}'}"


def _increase(values: Sequence[float]) -> float:
    """As PromQL's, but for the extrapolation: a counter that falls began anew."""
    return sum(after - before if after >= before else after for before, after in itertools.pairwise(values))


def _odd(text: str, status: int) -> Reply:
    return Reply(status, "" if status else text, text if status else "")


def _no_answer(text: str, status: int) -> str:
    return "no answer (ConnectionError)" if status else text
