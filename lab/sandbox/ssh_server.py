"""A stand-in for OpenSSH's sshd where there is none: runs commands for one key, nothing else.

    python -m lab.sandbox.ssh_server DIRECTORY ADDRESS PORT

DIRECTORY holds host_key and id_ed25519.pub. SIGHUP cuts every connection, while the commands run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import ClassVar

import asyncssh


class Server(asyncssh.SSHServer):
    """Knows its connections, so that they can be cut."""

    connections: ClassVar[set[asyncssh.SSHServerConnection]] = set()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self._connection)


async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
    if process.command is None:
        process.stderr.write(b"commands only\n")
        process.exit(1)
        return
    pipe = asyncio.subprocess.PIPE
    shell = ("/bin/sh", "-c", process.command)
    child = await asyncio.create_subprocess_exec(*shell, stdin=pipe, stdout=pipe, stderr=pipe)
    feeding = asyncio.create_task(feed(process.stdin, child))
    await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
    status = await child.wait()
    feeding.cancel()
    if status < 0:
        process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
    else:
        process.exit(status)


async def feed(source: asyncssh.SSHReader[bytes], child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    with contextlib.suppress(OSError, asyncssh.Error):  # either side may end before the other
        while data := await source.read(1 << 16):
            child.stdin.write(data)
            await child.stdin.drain()
    child.stdin.close()


async def pump(source: asyncio.StreamReader | None, target: asyncssh.SSHWriter[bytes]) -> None:
    assert source is not None
    while data := await source.read(1 << 16):
        with contextlib.suppress(OSError, asyncssh.Error):  # nobody listens any more; the command runs on
            target.write(data)
            await target.drain()


async def main(directory: Path, address: str, port: int) -> None:
    server = await asyncssh.listen(
        address,
        port,
        server_factory=Server,
        server_host_keys=[str(directory / "host_key")],
        authorized_client_keys=str(directory / "id_ed25519.pub"),
        process_factory=run,
        encoding=None,
    )

    def cut() -> None:
        for connection in list(Server.connections):
            connection.abort()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, cut)
    print(f"stand-in for sshd (asyncssh {asyncssh.__version__}) on {address}:{port}", flush=True)
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
