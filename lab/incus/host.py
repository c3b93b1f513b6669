"""Programs on this machine: run one, wait for something, keep one in the background."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Say = Callable[[str], None]

SEARCH_PATH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/libexec/incus"]
)


class LabError(Exception):
    """The lab could not be brought to the wanted state: what was tried, and what came back."""


@dataclass(frozen=True)
class Daemon:
    """A background process of the lab.

    No pid file: it is found by its program and `mark`, a path in its command line that no other process has.
    """

    command: Sequence[str]
    mark: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def pid(self) -> int | None:
        """Its process id, or None when it does not run."""
        for link in Path("/proc").glob("[0-9]*/exe"):
            with contextlib.suppress(
                OSError
            ):  # kernel threads have no program, and processes end while we look
                program = os.readlink(link).removesuffix(" (deleted)")
                if (
                    os.path.basename(program) == self.command[0]
                    and str(self.mark).encode() in link.with_name("cmdline").read_bytes()
                ):
                    return int(link.parent.name)
        return None

    def children(self) -> list[int]:
        """The process ids of its direct children."""
        pid = self.pid()
        return [] if pid is None else [child for child, parent in _parents().items() if parent == pid]

    def start(self) -> None:
        """Start it unless it runs. It may yet fail: wait for it to answer."""
        if self.pid() is not None:
            return
        with self.log.open("ab") as log:
            subprocess.Popen(
                [which(self.command[0]), *self.command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )

    def stop(self) -> None:
        """End it: TERM, and after 10 s KILL. Raises `LabError` when it survives even that."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            pid = self.pid()
            if pid is None:
                return
            os.kill(pid, number)
            with contextlib.suppress(LabError):
                wait_until(lambda: self.pid() is None, f"{self.command[0]} ends", seconds=10)
        if self.pid() is not None:
            raise LabError(f"{self.command[0]} (pid {self.pid()}) does not end")


def run(
    *argv: str,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = 120,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program here. Raises `LabError` when it takes over `timeout` seconds or, with `check`, fails."""
    # INCUS_PROJECT would silently send the command to another fleet, a default remote to another machine.
    inherited = {key: value for key, value in os.environ.items() if key != "INCUS_PROJECT"}
    try:
        result = subprocess.run(
            argv,
            check=False,
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**inherited, "INCUS_REMOTE": "local", "PATH": SEARCH_PATH, **(environment or {})},
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"no end after {timeout:g} s: {shlex.join(argv)}") from error
    if check and result.returncode != 0:
        answer = (result.stderr or result.stdout).strip()[-2000:]
        raise LabError(f"{shlex.join(argv)}\nended with {result.returncode}: {answer}")
    return result


def incus(*argv: str, stdin: str | None = None) -> str:
    """The output of one `incus` command. Raises `LabError`."""
    return run("incus", *argv, stdin=stdin).stdout


def incus_list(kind: str) -> list[dict[str, Any]]:
    """`incus KIND list` (project, network, storage, image): the objects of this machine."""
    listed: list[dict[str, Any]] = json.loads(incus(kind, "list", "--format=json"))
    return listed


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Raises `LabError` naming `what` when it has not come true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(0.05)


def is_installed(command: str) -> bool:
    return shutil.which(command, path=SEARCH_PATH) is not None


def which(command: str) -> str:
    """The full path of a command. Raises `LabError` when it is not installed."""
    path = shutil.which(command, path=SEARCH_PATH)
    if path is None:
        raise LabError(f"{command} is not installed")
    return path


def _parents() -> dict[int, int]:
    """Each process's parent (proc(5): the second field after the command's name in parentheses)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # processes end while we look
            _state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            parents[int(stat.parent.name)] = int(parent)
    return parents
