"""Real SSH for tests: the system's sshd on a loopback port of its own, with its own keys and no one else's."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
TOOLS = {name: shutil.which(name) for name in ("ssh", "ssh-keygen", "ssh-agent", "ssh-add")}
MISSING = ", ".join(name for name, path in {"sshd": SSHD, **TOOLS}.items() if path is None)
"""Programs of OpenSSH that this machine lacks."""

USER = getpass.getuser()


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


def public(key: Path) -> str:
    """Type and base64 of a key pair's public half."""
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


def fingerprint(key: Path) -> str:
    out = subprocess.run(
        ["ssh-keygen", "-lf", f"{key}.pub"], check=True, capture_output=True, text=True
    ).stdout
    return out.split()[1]


def wait_until(condition: Callable[[], object], *, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Sshd:
    """One running sshd. ``known_hosts_line`` is what a client's known_hosts needs."""

    def __init__(self, directory: Path, host_key: Path, authorized: Path, *options: str) -> None:
        directory.mkdir()
        self.port = free_port()
        self.host_key = host_key
        self.known_hosts_line = f"[127.0.0.1]:{self.port} {public(host_key)}\n"
        keys = directory / "authorized_keys"
        keys.write_text(public(authorized) + "\n")
        config = directory / "sshd_config"
        lines = [
            f"ListenAddress 127.0.0.1:{self.port}",
            f"HostKey {host_key}",
            f"AuthorizedKeysFile {keys}",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            # Not the user's own ~/.bashrc.
            f"SetEnv HOME={directory}",
            *options,
        ]
        config.write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._log = directory / "log"
        assert SSHD is not None
        self._process = subprocess.Popen(
            [SSHD, "-D", "-f", str(config), "-E", str(self._log)], stdin=subprocess.DEVNULL
        )
        try:
            wait_until(self._answers)
        except AssertionError:
            self.close()
            raise AssertionError(f"sshd did not start: {self._log.read_text()}") from None

    def sessions(self) -> list[int]:
        """Process ids of the sessions that this sshd serves."""
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def signal_sessions(self, number: signal.Signals) -> None:
        for pid in self.sessions():
            # They may end meanwhile; and a session without root's rights is two processes.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                for process in (pid, *map(int, children)):
                    if Path(f"/proc/{process}/comm").read_text().startswith("sshd"):
                        os.kill(process, number)

    def close(self) -> None:
        for pid in self.sessions() if self._process.poll() is None else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGTERM)
        self._process.terminate()
        self._process.wait(10)

    def _answers(self) -> bool:
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


@contextlib.contextmanager
def agent(directory: Path, key: Path) -> Iterator[Path]:
    """An ssh-agent that holds one key; gives its socket."""
    path = directory / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists)
        subprocess.run(
            ["ssh-add", "-q", str(key)], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(path)}
        )
        yield path
    finally:
        process.terminate()
        process.wait(10)
