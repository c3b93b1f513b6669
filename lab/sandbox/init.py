"""A stand-in for systemd: one process that runs every program of one sandbox and answers for it.

    python init.py DIRECTORY SLOT

It keeps the slot (addresses and port of a fleet) by listening on the abstract Unix socket of that name, returns when
it does (exit 3: somebody else has it), and goes on in the background. It ends, with every process below it, when it is
asked to or when DIRECTORY vanishes. DIRECTORY/units.json holds the units. A request is NUL-separated words and a
newline; the answer an exit status, a newline, and text.

Semantics (systemd.service(5)): Type=simple, Restart=always after 100 ms without a limit, KillMode=mixed. Transient
timers (systemd-run(1)) start a program once and are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fnmatch
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
RESTART_DELAY = 0.1  # seconds, RestartSec=
STOP_LIMIT = 90.0  # seconds, TimeoutStopSec=
END_LIMIT = 3.0  # seconds for each unit when the whole fleet goes
LIBC = ctypes.CDLL(None)

Exits = dict[int, "asyncio.Future[int]"]


class Unit:
    """One service. `settings`: argv, environment, cwd, log, restart (whether), reload (a signal's name)."""

    def __init__(self, name: str, settings: dict[str, Any], exits: Exits) -> None:
        self.name = name
        self.settings = settings
        self.main = 0  # pid of the main process, 0 when none runs
        self._exits = exits
        self._state = "inactive", "dead"
        self._restarts = 0
        self._since = ""
        self._ended: asyncio.Future[int] | None = None
        self._life: asyncio.Task[None] | None = None
        self._orders = asyncio.Lock()

    def show(self) -> str:
        return (
            f"MainPID={self.main}\nNRestarts={self._restarts}\nLoadState=loaded\nActiveState={self._state[0]}\n"
            f"SubState={self._state[1]}\nActiveEnterTimestamp={self._since}\n"
        )

    async def start(self) -> None:
        async with self._orders:
            self._start()

    async def restart(self) -> None:
        async with self._orders:
            await self._stop(STOP_LIMIT)
            self._start()

    async def stop(self, limit: float = STOP_LIMIT) -> None:
        async with self._orders:
            await self._stop(limit)

    def kill(self, name: str) -> None:
        send(self.main, signal.Signals[f"SIG{name}"])

    def _start(self) -> None:
        if self._life is None or self._life.done():
            self._restarts = 0
            self._life = asyncio.create_task(self._live(self._spawn()))

    async def _stop(self, limit: float) -> None:
        if self._life is None or self._life.done():
            return
        self._life.cancel()
        self._life = None
        if not self.main or self._ended is None:  # between two starts
            self._state = "inactive", "dead"
            return
        self._state = "deactivating", "stop-sigterm"
        remains = descendants(self.main)
        send(self.main, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._ended), limit)
        for pid in (*remains, *descendants(self.main), self.main):
            send(pid, signal.SIGKILL)
        status = await self._ended
        self.main = 0
        self._state = ("inactive", "dead") if status in (0, -signal.SIGTERM) else ("failed", "failed")
        self._note(f"Stopped {self.name}.service.")

    async def _live(self, ended: asyncio.Future[int]) -> None:
        while True:
            status = await asyncio.shield(ended)
            self.main = 0
            how = "killed" if status < 0 else "exited"
            self._note(f"{self.name}.service: Main process exited, code={how}, status={abs(status)}")
            if not self.settings["restart"]:
                self._state = ("failed", "failed") if status else ("inactive", "dead")
                return
            self._state = "activating", "auto-restart"
            await asyncio.sleep(RESTART_DELAY)
            self._restarts += 1
            self._note(f"{self.name}.service: Scheduled restart job, restart counter is at {self._restarts}.")
            ended = self._spawn()

    def _spawn(self) -> asyncio.Future[int]:
        self._note(f"Started {self.name}.service.")
        parent = os.getpid()

        def bind_to_parent() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives this init, however it dies
            if os.getppid() != parent:
                os._exit(203)

        with open(self.settings["log"], "ab") as log:
            # Not asyncio's own: that would start a thread for each process, and fork with threads around.
            process = subprocess.Popen(
                # As in systemd a program that is not there is a process that fails, not a failed start.
                ["/bin/sh", "-c", 'exec "$@"', "sh", *self.settings["argv"]],
                cwd=self.settings["cwd"],
                env=self.settings["environment"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=bind_to_parent,
            )
        self.main = process.pid
        process.returncode = 0  # the reaper waits for it
        self._ended = self._exits[self.main] = asyncio.get_running_loop().create_future()
        self._state, self._since = ("active", "running"), f"@{time.time():.0f}"
        return self._ended

    def _note(self, text: str) -> None:
        with contextlib.suppress(FileNotFoundError), open(self.settings["log"], "a", encoding="utf-8") as log:
            log.write(f"{text}\n")


class Timer:
    """A transient timer that elapses once, in `seconds`; `began` in microseconds of the monotonic clock."""

    def __init__(self, name: str, seconds: float, elapse: Callable[[], None]) -> None:
        self.name = name
        self.seconds = seconds
        self.began = round(time.monotonic() * 1e6)
        self._handle = asyncio.get_running_loop().call_later(seconds, elapse)

    def stop(self) -> None:
        self._handle.cancel()

    def show(self) -> str:
        return (
            f"NextElapseUSecMonotonic={self.began / 1e6 + self.seconds:f}s\n"
            f"ActiveState=active\nActiveEnterTimestampMonotonic={self.began}\n"
        )


class Init:
    """All units of a fleet, and who may ask about them: its own user."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._units: dict[tuple[str, str], Unit] = {}
        self._timers: dict[tuple[str, str], Timer] = {}
        self._enabled: set[tuple[str, str]] = set()
        self._exits: Exits = {}
        self._over = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, self._over.set)
        watch = asyncio.create_task(self._watch_directory())
        async with await asyncio.start_unix_server(self._serve, sock=listener):
            await self._over.wait()
            await self._end()
        watch.cancel()

    async def _watch_directory(self) -> None:
        identity = self._directory.stat().st_ino
        while self._directory.exists() and self._directory.stat().st_ino == identity:
            await asyncio.sleep(0.5)
        self._over.set()

    async def _end(self) -> None:
        with contextlib.suppress(TimeoutError):  # somebody's restart may be under way
            async with asyncio.timeout(2 * END_LIMIT):
                await asyncio.gather(*(unit.stop(END_LIMIT) for unit in self._units.values()))
        while left := descendants(os.getpid()):
            for pid in left:
                send(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended = self._exits.pop(found[0], None)  # others were orphaned somewhere below
                if ended is not None:
                    ended.set_result(os.waitstatus_to_exitcode(found[1]))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        words = (await reader.readline()).decode().rstrip("\n").split("\0")
        try:
            if struct.unpack("3i", credentials)[1] not in (0, os.getuid()):
                status, text = 1, "Access denied"
            else:
                status, text = await self._obey(words)
        except (OSError, ValueError, KeyError) as error:
            status, text = 1, f"{words}: {error!r}"
        with contextlib.suppress(OSError):  # who asked may have gone
            writer.write(f"{status}\n{text}".encode())
            await writer.drain()
        writer.close()

    async def _obey(self, words: list[str]) -> tuple[int, str]:
        match words:
            case ["hello"]:
                return 0, f"{self._directory}\n{os.getpid()}"
            case ["load"]:
                await self._load()
                return 0, ""
            case ["end"]:
                self._over.set()
                return 0, ""
            case ["enable" | "disable" | "is-enabled" as verb, instance, name]:
                return self._link(verb, instance, name)
            case [verb, instance, pattern] if verb.endswith(" timers"):
                return self._ask_timers(verb.removesuffix(" timers"), instance, pattern)
            case ["timer", instance, name, seconds, *argv]:
                if (instance, name) in self._timers:
                    return 1, f"Unit {name}.timer was already loaded or has a fragment file."
                self._timers[instance, name] = Timer(
                    name, float(seconds), lambda: self._elapse(instance, name, argv)
                )
                return 0, ""
            case [verb, instance, name, *more]:
                unit = self._units.get((instance, name))
            case _:
                return 1, f"unknown request {words}"
        if unit is None and verb == "show":
            return 0, Unit(name, {}, {}).show().replace("=loaded", "=not-found")
        if unit is None:
            return 5, f"Failed to {verb} {name}.service: Unit {name}.service not found."
        match verb:
            case "show":
                return 0, unit.show()
            case "start":
                await unit.start()
            case "stop":
                await unit.stop()
            case "restart":
                await unit.restart()
            case "reload" | "kill" if unit.main:
                unit.kill(more[0] if more else unit.settings["reload"])
            case _:
                return 1, f"{name}.service is not active, cannot {verb}."
        return 0, ""

    def _link(self, verb: str, instance: str, name: str) -> tuple[int, str]:
        """Units from anywhere, enabled; nothing here is started at boot."""
        unit = instance, name
        is_enabled = unit in self._enabled
        if verb == "is-enabled":
            return (0, "enabled\n") if is_enabled else (4, "not-found")
        if verb == "disable" and not is_enabled:
            return 1, f"Failed to disable unit: Unit file {name} does not exist."
        (self._enabled.add if verb == "enable" else self._enabled.remove)(unit)
        return 0, ""

    def _ask_timers(self, verb: str, instance: str, pattern: str) -> tuple[int, str]:
        """`systemctl` about timers, which may be named by a pattern."""
        named = [
            key
            for key in self._timers
            if key[0] == instance and fnmatch.fnmatchcase(f"{key[1]}.timer", pattern)
        ]
        match verb:
            case "list-units":
                return 0, "".join(f"{name}.timer loaded active waiting {name}\n" for _, name in named)
            case "is-active":
                return 0 if named else 3, ""
            case "stop":
                for key in named:
                    self._timers.pop(key).stop()
                return (
                    (0, "") if named or "*" in pattern else (5, f"Failed to stop {pattern}: Unit not loaded.")
                )
            case _:
                return 0, "".join(self._timers[key].show() for key in named)

    def _elapse(self, instance: str, name: str, argv: list[str]) -> None:
        del self._timers[instance, name]
        home = self._directory / "instances" / instance
        with open(home / "timers.log", "ab") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", 'exec "$@"', "sh", *argv],
                cwd=home,
                env={
                    "PATH": f"{self._directory}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "VEZA_LAB_INSTANCE": instance,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process.returncode = 0  # the reaper waits for it

    async def _load(self) -> None:
        """Read the units anew. Changed ones run on as they are until their next start; missing ones stop."""
        listed = json.loads((self._directory / "units.json").read_text(encoding="utf-8"))
        wanted = {(unit["instance"], unit["name"]): unit for unit in listed}
        gone = [self._units.pop(key) for key in self._units.keys() - wanted.keys()]
        for key, settings in wanted.items():
            self._units.setdefault(key, Unit(key[1], settings, self._exits)).settings = settings
        await asyncio.gather(*(unit.stop(END_LIMIT) for unit in gone))


def descendants(pid: int) -> list[int]:
    """Every process below this one (proc(5): the parent is the second field after the name in parentheses)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # processes end while we look
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    below = list(children.get(pid, []))
    for each in below:
        below.extend(children.get(each, []))
    return below


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # gone already
        os.kill(pid, number)


def main() -> int:
    directory, slot = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"\0veza-lab-sandbox-{slot}")
    except OSError:
        return 3
    listener.listen(64)
    if os.fork():
        return 0
    os.setsid()
    os.chdir("/")
    log = os.open(f"{directory}/init.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    asyncio.run(Init(Path(directory)).run(listener))
    return 0


if __name__ == "__main__":
    sys.exit(main())
