"""An Incus server over SSH: one Fabric connection, opened once, with verified host keys.

Fabric accepts any host key, waits without bound for a stalled server and calls a lost connection "exit status -1"; this
module is where that ends. Times are seconds.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import paramiko
from fabric import Config, Connection
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    PasswordRequiredException,
    SSHException,
)

from veza_tasks.adapters.host import Command, Held, Progress, Reply, quoted
from veza_tasks.errors import FleetError, HostKeyRefused, OutcomeUnknown, Unreachable
from veza_tasks.settings import HostSettings

KEEPALIVE = 5
DEAD_LINK = 10
"""Seconds of unacknowledged data after which the kernel gives a connection up (TCP_USER_TIMEOUT)."""
MARGIN = 5.0
"""Seconds past a command's own timeout that its answer may be under way."""
PROMPT = b"\n> "
CHUNK = 1 << 18
T = TypeVar("T")


class SshHost:
    """A ``Host`` reached with SSH; threads may share it."""

    def __init__(self, name: str, settings: HostSettings, *, connect_timeout: float, ssh_config: Path) -> None:
        self.name = name
        self._settings = settings
        self._connect_timeout = connect_timeout
        self._ssh_config = ssh_config
        self._connection: Connection | None = None
        self._held: dict[Held, _HeldChannel] = {}
        self._lock = threading.RLock()

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
        give_up = time.monotonic() + timeout + MARGIN
        channel = self._start(quoted(argv, into=into, timeout=timeout))
        try:
            if stdin is not None:
                _feed(channel, stdin, give_up, progress)
            channel.shutdown_write()
            status, out, err = _collect(channel, give_up)
        except TimeoutError:
            self._drop()
            raise self._unknown(argv[0], f"no answer within {timeout + MARGIN:g} s") from None
        except (SSHException, OSError, EOFError) as error:
            raise self._unknown(argv[0], f"the connection broke: {error or 'closed'}") from None
        finally:
            channel.close()
        if status == -1:
            raise self._unknown(argv[0], "the connection or the command was cut off")
        return Reply(status, out.decode(errors="replace"), err.decode(errors="replace"))

    def shell(self, held: Held, argv: Command, *, effect: str = "", timeout: float) -> Reply:
        def exchange(channel: _HeldChannel, give_up: float) -> Reply:
            nonce = secrets.token_hex(12)
            command = f"{quoted(argv, timeout=timeout)} </dev/null"
            channel.send(f"{command}\nprintf '\\n{nonce} %s\\n' \"$?\"\nprintf '\\n{nonce}\\n' >&2\n", give_up)
            out, status = channel.read_frame(nonce, give_up)
            return Reply(status, out, channel.read_errors(nonce, give_up))

        return self._speak(held, exchange, argv[0], repeatable=not effect, timeout=timeout)

    def prompt(self, held: Held, command: str, *, effect: str = "", timeout: float) -> Reply:
        if "\n" in command:
            raise ValueError("a runtime API command is one line")

        def exchange(channel: _HeldChannel, give_up: float) -> Reply:
            if channel.fresh:
                channel.send("prompt\n", give_up)
                channel.read_until(PROMPT, give_up)
            channel.send(f"{command}\n", give_up)
            return Reply(0, channel.read_until(PROMPT, give_up))

        return self._speak(held, exchange, command, repeatable=not effect, timeout=timeout)

    def close(self) -> None:
        self._drop()

    def _speak(
        self,
        held: Held,
        exchange: Callable[[_HeldChannel, float], T],
        what: str,
        *,
        repeatable: bool,
        timeout: float,
    ) -> T:
        """Talk to a held program, starting it where it is not (or no longer) there. A read is repeated once."""
        give_up = time.monotonic() + timeout + MARGIN
        for last in (not repeatable, True):
            channel = self._open(held)
            try:
                with channel.lock:
                    return exchange(channel, give_up)
            except TimeoutError:
                self._drop()
                raise self._unknown(what, f"no answer within {timeout + MARGIN:g} s", held.where) from None
            except (SSHException, OSError, EOFError) as error:
                self._forget(held, channel)
                if last:
                    reason = channel.last_words() or str(error) or "closed"
                    raise self._unknown(what, f"the connection broke: {reason}", held.where) from None
        raise AssertionError("unreachable")

    def _open(self, held: Held) -> _HeldChannel:
        with self._lock:
            channel = self._held.get(held)
            if channel is None or channel.closed:
                channel = self._held[held] = _HeldChannel(self._start(quoted(held.argv)))
            return channel

    def _forget(self, held: Held, channel: _HeldChannel) -> None:
        channel.close()
        with self._lock:
            if self._held.get(held) is channel:
                del self._held[held]

    def _start(self, line: str) -> paramiko.Channel:
        transport = self._transport()
        try:
            channel = transport.open_session(timeout=self._connect_timeout)
            # Paramiko waits without bound for the server to accept the command.
            with _closing_after(self._connect_timeout, channel):
                channel.exec_command(line.encode())
        except (SSHException, OSError, EOFError) as error:
            self._drop()
            raise Unreachable(f"{self.name}: the SSH server opened no session: {error or 'closed'}") from None
        return channel

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            if self._connection is None or not self._connection.is_connected:
                self._drop()
                self._connection = self._connect()
            transport: paramiko.Transport = self._connection.transport
            return transport

    def _connect(self) -> Connection:
        settings = self._settings
        own_config = self._ssh_config.expanduser()
        config = Config(runtime_ssh_path=str(own_config)) if own_config.exists() else Config()
        connection = Connection(
            settings.address or self.name,
            user=settings.user,
            port=settings.port,
            config=config,
            connect_timeout=self._connect_timeout,
            connect_kwargs={
                "banner_timeout": self._connect_timeout,
                "auth_timeout": self._connect_timeout,
                "channel_timeout": self._connect_timeout,
                **({"key_filename": str(settings.key_file), "look_for_keys": False} if settings.key_file else {}),
            },
        )
        hops = [connection]
        while isinstance(hops[-1].gateway, Connection):
            hops.append(hops[-1].gateway)
        for hop in reversed(hops):
            self._verify_host_keys(hop)
            self._open_hop(hop)
        _tune(hops[-1].transport)
        return connection

    def _verify_host_keys(self, hop: Connection) -> None:
        """Reject unknown keys on every hop: Fabric's own policy accepts them, and those of ProxyJump hosts too."""
        hop.client.set_missing_host_key_policy(_RefuseUnknown())
        if self._settings.known_hosts:
            files = [str(self._settings.known_hosts)]
        else:
            configured = hop.ssh_config.get("userknownhostsfile") or "~/.ssh/known_hosts ~/.ssh/known_hosts2"
            files = [*configured.split(), "/etc/ssh/ssh_known_hosts"]
        for file in files:
            path = Path(file).expanduser()
            if path.is_file():
                hop.client.load_system_host_keys(str(path))

    def _open_hop(self, hop: Connection) -> None:
        at = f"{hop.user}@{hop.host}:{hop.port}"
        name = self.name if hop.host == (self._settings.address or self.name) else f"{self.name} (jump host {hop.host})"
        known = hop.host if hop.port == 22 else f"[{hop.host}]:{hop.port}"
        try:
            hop.open()
        except _UnknownHostKey as error:
            raise HostKeyRefused(
                f"{name}: the SSH host key of {known} is unknown: {error.key.get_name()} {error.key.fingerprint}",
                next_command=f"ssh-keyscan -p {hop.port} {hop.host}    # compare the fingerprint with the host's own "
                "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then add the line to known_hosts",
            ) from None
        except BadHostKeyException as error:
            raise HostKeyRefused(
                f"{name}: the SSH host key of {known} HAS CHANGED: expected {error.expected_key.fingerprint}, "
                f"got {error.key.fingerprint}. Somebody may be in between",
                next_command=f"ssh-keygen -R '{known}'    # only when you know why it changed; then add the new key",
            ) from None
        except PasswordRequiredException:
            raise Unreachable(f"{name}: the key file for {at} has a passphrase", next_command="ssh-add") from None
        except AuthenticationException as error:
            raise Unreachable(f"{name}: {at} refused our keys: {error}", next_command=f"ssh -p {hop.port} {at}") from None
        except (SSHException, OSError, EOFError) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{name}: no SSH connection to {at}: {reason}", next_command=f"ssh -p {hop.port} {at}") from None

    def _drop(self) -> None:
        """Close everything; the next call connects anew. A connection that timed out once is not trusted again."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._held.clear()
        while connection is not None:
            if connection.transport is not None:
                connection.transport.close()
            connection = connection.gateway if isinstance(connection.gateway, Connection) else None

    def _unknown(self, what: str, reason: str, where: str = "") -> FleetError:
        place = f"{where} on {self.name}" if where else self.name
        return OutcomeUnknown(f"{place}: it is not known whether {what!r} ran: {reason}")


class _HeldChannel:
    """A program that is kept running on a channel and spoken to in frames."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self.lock = threading.Lock()
        self.fresh = True
        self._channel = channel
        self._out = b""
        self._err = b""

    @property
    def closed(self) -> bool:
        return self._channel.closed or self._channel.eof_received

    def send(self, text: str, give_up: float) -> None:
        self._channel.settimeout(_left(give_up))
        self._channel.sendall(text.encode())

    def read_until(self, mark: bytes, give_up: float) -> str:
        while mark not in self._out:
            self._out += self._receive(self._channel.recv, give_up)
        answer, _, self._out = self._out.partition(mark)
        self.fresh = False
        return answer.decode(errors="replace")

    def read_frame(self, nonce: str, give_up: float) -> tuple[str, int]:
        out = self.read_until(f"\n{nonce} ".encode(), give_up)
        return out, int(self.read_until(b"\n", give_up))

    def read_errors(self, nonce: str, give_up: float) -> str:
        mark = f"\n{nonce}\n".encode()
        while mark not in self._err:
            self._err += self._receive(self._channel.recv_stderr, give_up)
        answer, _, self._err = self._err.partition(mark)
        return answer.decode(errors="replace")

    def last_words(self) -> str:
        """What the program printed before it ended, if anything: why an ``incus exec`` could not be held open."""
        self._channel.settimeout(1.0)
        with contextlib.suppress(OSError, EOFError):
            self._err += self._receive(self._channel.recv_stderr, time.monotonic() + 1.0)
        return " ".join((self._out + self._err).decode(errors="replace").split())

    def close(self) -> None:
        self._channel.close()

    def _receive(self, receive: Callable[[int], bytes], give_up: float) -> bytes:
        self._channel.settimeout(_left(give_up))
        data = receive(CHUNK)
        if not data:
            raise EOFError("it ended")
        return data


class _UnknownHostKey(SSHException):
    def __init__(self, key: paramiko.PKey) -> None:
        super().__init__("unknown host key")
        self.key = key


class _RefuseUnknown(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise _UnknownHostKey(key)


def _tune(transport: paramiko.Transport) -> None:
    """Notice a dead link (keepalive alone counts no replies) and send small commands at once."""
    transport.set_keepalive(KEEPALIVE)
    sock = transport.sock
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINK * 1000)


def _left(give_up: float) -> float:
    left = give_up - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@contextlib.contextmanager
def _closing_after(seconds: float, channel: paramiko.Channel) -> Iterator[None]:
    timer = threading.Timer(seconds, channel.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _feed(channel: paramiko.Channel, stdin: BinaryIO, give_up: float, progress: Progress | None) -> None:
    sent = 0
    while chunk := stdin.read(CHUNK):
        channel.settimeout(_left(give_up))
        try:
            channel.sendall(chunk)
        except TimeoutError:
            raise
        except OSError:
            # The remote program ended early; its exit status says why.
            return
        sent += len(chunk)
        if progress:
            progress(sent)


def _collect(channel: paramiko.Channel, give_up: float) -> tuple[int, bytes, bytes]:
    out, err = bytearray(), bytearray()
    while not channel.eof_received or channel.recv_ready() or channel.recv_stderr_ready():
        if channel.closed and not (channel.recv_ready() or channel.recv_stderr_ready()):
            break
        select.select([channel], [], [], min(_left(give_up), 1.0))
        while channel.recv_ready():
            out += channel.recv(CHUNK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(CHUNK)
    if not channel.status_event.wait(_left(give_up)):
        raise TimeoutError
    return channel.recv_exit_status(), bytes(out), bytes(err)
