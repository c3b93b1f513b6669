"""A disposable PostgreSQL of Debian's package: data in a temporary folder, a UNIX socket, no network, nothing durable."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_connections=12",
    "shared_buffers=64MB",
    "log_min_messages=panic",
    "jit=off",
)
_LOCALE = {"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)}


class Missing(Exception):
    """Why there can be no PostgreSQL on this machine."""


def provide() -> Path:
    """The folder of PostgreSQL's programs, newest first; as root on Debian or Ubuntu the package is installed if missing.

    Raises `Missing` elsewhere.
    """
    if found := _installed():
        return found
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    debian = {"debian", "ubuntu"} & {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    if os.geteuid() != 0 or not debian:
        raise Missing(
            "no PostgreSQL in /usr/lib/postgresql, and only root on Debian or Ubuntu may install it"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update",), ("install", "-y", "--no-install-recommends", "postgresql")):
        command = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"apt-get {arguments[0]}: {done.stderr.strip()}")
    if found := _installed():
        return found
    raise Missing("the package postgresql has no programs in /usr/lib/postgresql")


def _installed() -> Path | None:
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(folders, key=lambda folder: float(folder.parent.name), default=None)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for servers, in memory where there is room: a database is three hundred files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    with tempfile.TemporaryDirectory(prefix="veza-postgres-", dir=memory if roomy else None) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@dataclass(frozen=True)
class Server:
    """One cluster; `folder` holds its data and its socket, and is readable for PostgreSQL's user."""

    programs: Path
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def make(self) -> None:
        """A new, empty cluster, not yet started."""
        self.folder.mkdir(parents=True)
        if user := _user():
            shutil.chown(self.folder, user, user)
        self._run(
            "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"
        )

    def start(self) -> None:
        options = " ".join(
            f"-c {setting}" for setting in (*_SETTINGS, f"unix_socket_directories={self.folder}")
        )
        self._run("pg_ctl", "-D", self.data, "-w", "-s", "-l", self.folder / "log", "-o", options, "start")

    def stop(self, *, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "-s", "-m", mode, "stop")

    def copy(self, folder: Path) -> Server:
        """The same cluster elsewhere; this one must be stopped."""
        folder.mkdir(parents=True)
        if user := _user():
            shutil.chown(folder, user, user)
        self._run("cp", "-a", self.data, folder / "data")
        return Server(self.programs, folder)

    def psql(self, database: str, *arguments: str | Path) -> list[str]:
        """The argument vector of psql as superuser, for the caller to run."""
        options = ("-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose")
        return [
            str(self.programs / "psql"),
            *options,
            "-h",
            str(self.folder),
            "-U",
            "postgres",
            "-d",
            database,
        ] + [str(argument) for argument in arguments]

    def conninfo(self, database: str, user: str) -> str:
        return f"host={self.folder} user={user} dbname={database} application_name={user}"

    def _run(self, program: str, *arguments: str | Path) -> None:
        path = self.programs / program
        command = [str(path) if path.exists() else program, *map(str, arguments)]
        # pg_ctl's server keeps what it inherits: a pipe here would never end.
        done = subprocess.run(
            command,
            user=_user(),
            cwd="/",
            env=_LOCALE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(
                f"{command} ended with {done.returncode}: {log.read_text() if log.exists() else ''}"
            )


def _user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
