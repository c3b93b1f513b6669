"""An Incus server over SSH: one Fabric connection, opened once, with verified host keys.

Fabric accepts any host key, waits without bound for a stalled server and calls a lost connection "exit status -1"; this
module is where that ends. Times are seconds. Sources: RFC 4254 (channels), sshd_config(5) (MaxSessions), timeout(1).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, Literal

import paramiko
from fabric import Config, Connection
from fabric.connection import derive_shorthand
from paramiko.hostkeys import InvalidHostKey
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    ChannelException,
    PasswordRequiredException,
    SSHException,
)

from veza_tasks.adapters.host import TIMED_OUT, Command, Held, Progress, Reply, quoted
from veza_tasks.errors import HostKeyRefused, OutcomeUnknown, ReleaseError, Unreachable
from veza_tasks.settings import HostSettings

KEEPALIVE = 5
DEAD_LINK = 10
"""Seconds of unacknowledged data after which the kernel gives a connection up (TCP_USER_TIMEOUT)."""
MARGIN = 5.0
"""Seconds past a command's own timeout that its answer may be under way; ``timeout -k`` needs two of them."""
LINGER = 1.0
"""Seconds of silence after which output that a command's children hold open is no longer waited for."""
USER_SSH_CONFIG = Path("~/.ssh/config")
CHUNK = 1 << 18
AWAKE = 0.05
"""Seconds after which we look for output anyway: Paramiko loses a wake-up where both outputs of a channel stir at once."""
OPENED_AHEAD = 6
"""Programs at most that are started before they are needed: sshd allows ten sessions on a connection (MaxSessions)."""
BROKEN = (SSHException, OSError, EOFError)
"""What Paramiko raises when a connection or a channel ends under it."""

# What goes wrong is raised; without a handler Paramiko's tracebacks land on the operator's screen as well.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SshHost:
    """A ``Host`` reached with SSH; threads may share it. ``connect_timeout`` is for each hop."""

    def __init__(
        self,
        name: str,
        settings: HostSettings,
        *,
        connect_timeout: float,
        ssh_config: Path,
        margin: float = MARGIN,
    ) -> None:
        self.name = name
        self._settings = settings
        self._connect_timeout = connect_timeout
        self._ssh_config = ssh_config.expanduser()
        self._margin = margin
        self._connection: Connection | None = None
        self._ahead: Future[Connection] | None = None
        self._closed = False
        self._programs: dict[Held, _Program] = {}
        self._lock = threading.RLock()

    def open_ahead(self, programs: Sequence[Held]) -> None:
        ahead = self._ahead = Future()

        def connect() -> None:
            try:
                ahead.set_result(self._connect())
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that first needs the connection
                ahead.set_exception(error)
                return
            for held in programs[:OPENED_AHEAD]:
                threading.Thread(target=start, args=(held,), daemon=True).start()

        def start(held: Held) -> None:
            with contextlib.suppress(ReleaseError):
                self.shell(held, ["true"], timeout=self._connect_timeout)

        threading.Thread(target=connect, daemon=True).start()

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
        line = quoted(argv, into=into, timeout=timeout)

        def attempt() -> Reply:
            channel = self._start(line)
            streams = _Streams(channel)
            with contextlib.closing(channel), self._deadline(channel, timeout + self._margin) as give_up:
                if stdin is not None:
                    streams.feed(stdin, give_up, progress)
                channel.shutdown_write()
                return _settled(streams.reply(give_up), give_up - self._margin)

        return self._attempt(attempt, self.name, effect or argv[0], repeatable=not effect and stdin is None)

    def shell(self, held: Held, argv: Command, *, effect: str = "", timeout: float) -> Reply:
        command = f"{quoted(argv, timeout=timeout)} </dev/null"
        return self._speak(
            held,
            greet=lambda program, give_up: program.execute(":", give_up),
            exchange=lambda program, give_up: program.execute(command, give_up),
            what=argv[0],
            effect=effect,
            timeout=timeout,
        )

    def close(self) -> None:
        self._closed = True
        if self._ahead is not None:
            self._ahead.add_done_callback(_close_opened)
        self._drop()
        with self._lock:
            for program in self._programs.values():
                program.stop()

    def _speak(
        self, held: Held, *, greet: _Exchange, exchange: _Exchange, what: str, effect: str, timeout: float
    ) -> Reply:
        """Talk to a held program, starting it where it is not (or no longer) there."""
        place = f"{held.where} on {self.name}"
        with self._lock:
            program = self._programs.setdefault(held, _Program())

        def attempt() -> Reply:
            if not program.is_running:
                self._hold_open(program, held, place, greet)
            with self._deadline(program.channel, timeout + self._margin) as give_up:
                return _settled(exchange(program, give_up), give_up - self._margin)

        if not program.lock.acquire(timeout=timeout + self._margin):
            raise Unreachable(f"{place}: {what!r} was not sent: an earlier command still runs")
        try:
            return self._attempt(attempt, place, effect or what, repeatable=not effect)
        except BaseException:
            # What is left of a broken-off exchange must not be read as the next one's answer.
            program.stop()
            raise
        finally:
            program.lock.release()

    def _attempt(self, attempt: Callable[[], Reply], place: str, what: str, *, repeatable: bool) -> Reply:
        """Make an attempt whose answer may get lost. A read that was cut off is repeated once, an effect never."""
        for last in (not repeatable, True):
            try:
                return attempt()
            except TimeoutError as error:
                raise OutcomeUnknown(f"{place}: it is not known whether {what!r} ran: {error}") from None
            except BROKEN as error:
                if last:
                    raise OutcomeUnknown(f"{place}: it is not known whether {what!r} ran: {error}") from None
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _deadline(self, channel: paramiko.Channel, seconds: float) -> Iterator[float]:
        """Gives the time at which to give up.

        Raises:
            TimeoutError: it has passed; the connection was closed, as one that timed out is not trusted again.
            SSHException: the channel or its connection broke before.
        """
        transport = channel.get_transport()
        give_up = time.monotonic() + seconds
        with _closing_after(seconds, lambda: transport):
            try:
                yield give_up
            except BROKEN as error:
                if time.monotonic() < give_up - 0.05:
                    raise SSHException(str(error) or "the connection was closed") from None
                self._drop(transport)
                raise TimeoutError(f"no answer within {seconds:g} s") from None

    def _start(self, line: str) -> paramiko.Channel:
        """Start a command.

        Raises:
            Unreachable: it surely did not start.
            TimeoutError, SSHException: it was sent, and no answer came.
        """
        channel = self._open_session()
        try:
            with self._deadline(channel, self._connect_timeout):
                channel.exec_command(_encoded(line))
        except SSHException:
            if _is_dying(channel.get_transport()):
                raise
            raise Unreachable(f"{self.name}: the SSH server refuses to run commands for us") from None
        return channel

    def _hold_open(self, program: _Program, held: Held, place: str, greet: _Exchange) -> None:
        try:
            program.start(self._start(quoted(held.argv)))
            with self._deadline(program.channel, self._connect_timeout) as give_up:
                greet(program, give_up)
        except BROKEN as error:
            raise Unreachable(f"{place}: {shlex.join(held.argv)!r} did not start: {error}") from None

    def _open_session(self) -> paramiko.Channel:
        """Open a session; where the connection turns out dead, on a new one."""
        for last in (False, True):
            transport = self._transport()
            try:
                return self._open_session_on(transport)
            except ChannelException as error:
                raise Unreachable(
                    f"{self.name}: the SSH server allows no further session on our connection: {error}",
                    next_command="raise MaxSessions in the host's sshd_config",
                ) from None
            except BROKEN as error:
                self._drop(transport)
                if last:
                    reason = str(error) or "the connection was closed"
                    raise Unreachable(f"{self.name}: the SSH server opened no session: {reason}") from None
        raise AssertionError("unreachable")

    def _open_session_on(self, transport: paramiko.Transport) -> paramiko.Channel:
        give_up = time.monotonic() + self._connect_timeout
        while True:
            try:
                return transport.open_session(timeout=_left(give_up))
            except ChannelException:
                # sshd allows ten sessions on a connection, and a fleet may hold more programs open than that.
                if time.monotonic() > give_up - 0.1:
                    raise
                self._stop_an_idle_program()
                time.sleep(0.05)

    def _stop_an_idle_program(self) -> None:
        with self._lock:
            programs = sorted(self._programs.values(), key=lambda program: program.used)
        for program in programs:
            if program.is_running and program.lock.acquire(blocking=False):
                program.stop()
                program.lock.release()
                return

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            if self._closed:
                raise Unreachable(f"{self.name}: the connection was closed by us")
            if self._ahead is not None:
                ahead, self._ahead = self._ahead, None
                self._connection = ahead.result()
            if self._connection is None or not self._connection.is_connected:
                self._drop()
                self._connection = self._connect()
            transport: paramiko.Transport = self._connection.transport
            return transport

    def _drop(self, transport: paramiko.Transport | None = None) -> None:
        """Close the connection (or only if it is still this one); the next call connects anew."""
        with self._lock:
            if self._connection is None or transport not in (None, self._connection.transport):
                return
            hops, self._connection = _hops(self._connection), None
        _close(hops)

    def _connect(self) -> Connection:
        hops = _hops(self._configured())
        try:
            for hop in reversed(hops):
                self._open_hop(
                    hop, f"{self.name} (jump host {hop.host})" if hop is not hops[0] else self.name
                )
        except BaseException:
            _close(hops)
            raise
        # Only the outermost hop has a socket of its own.
        _tune(hops[-1].transport.sock)
        return hops[0]

    def _configured(self) -> Connection:
        """The connection and its jump hosts, as our settings and OpenSSH's configuration have them; not yet open."""
        settings = self._settings
        path = None if self._ssh_config == USER_SSH_CONFIG.expanduser() else str(self._ssh_config)
        try:
            # Lazy, as a ~/.fabric.yaml would change users and jump hosts behind our settings' back.
            config = Config(lazy=True, runtime_ssh_path=path)
            config.load_ssh_config()
            connection = _way(settings.address or self.name, config, user=settings.user, port=settings.port)
        except (*BROKEN, ValueError, RecursionError) as error:
            raise Unreachable(
                f"{self.name}: the SSH configuration {self._ssh_config} is of no use: {error}"
            ) from None
        timeouts = dict.fromkeys(("banner_timeout", "auth_timeout", "channel_timeout"), self._connect_timeout)
        for hop in _hops(connection):
            # Fabric gives none of ours to the jump hosts, and rounds down to whole seconds.
            hop.connect_timeout = self._connect_timeout
            # OpenSSH passes over identity files that are not there, Paramiko fails.
            identities = [file for file in hop.ssh_config.get("identityfile", []) if Path(file).is_file()]
            hop.connect_kwargs = {**timeouts, "key_filename": identities}
        if settings.key_file:
            connection.connect_kwargs["key_filename"].insert(0, str(settings.key_file.expanduser()))
            connection.connect_kwargs["look_for_keys"] = False
        return connection

    def _open_hop(self, hop: Connection, name: str) -> None:
        at = f"{hop.user}@{hop.host}:{hop.port}"
        self._verify_host_key(hop, name)
        started = time.monotonic()
        try:
            with _closing_after(self._connect_timeout, hop.client.get_transport):
                hop.open()
            hop.transport.set_keepalive(KEEPALIVE)
        except _UnknownHostKey as error:
            raise HostKeyRefused(
                f"{name}: the SSH host key of {error.host} is unknown: {error.key.get_name()} {error.key.fingerprint}",
                next_command=f"{self._ssh(hop)} true    # compare the fingerprint with the host's own (there: "
                "for key in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $key; done) before you answer yes",
            ) from None
        except BadHostKeyException as error:
            known = hop.host if hop.port == 22 else f"[{hop.host}]:{hop.port}"
            file = ["-f", str(self._settings.known_hosts)] if self._settings.known_hosts else []
            raise HostKeyRefused(
                f"{name}: the SSH host key of {known} HAS CHANGED: expected {error.expected_key.fingerprint}, "
                f"got {error.key.fingerprint}. Somebody may be in between",
                next_command=f"{shlex.join(['ssh-keygen', *file, '-R', known])}    # only when you know why it changed",
            ) from None
        except PasswordRequiredException:
            raise Unreachable(
                f"{name}: the key file for {at} has a passphrase", next_command="ssh-add"
            ) from None
        except BROKEN as error:
            reason = str(error) or "the connection was closed"
            if time.monotonic() - started >= self._connect_timeout:
                reason = f"no answer within {self._connect_timeout:g} s"
            transport = hop.client.get_transport()
            # After the key exchange any complaint of Paramiko's is about logging in, however it words it.
            refused = isinstance(error, AuthenticationException) or (transport and transport.is_active())
            message = f"{name}: {at} refused our keys" if refused else f"{name}: no SSH connection to {at}"
            raise Unreachable(f"{message}: {reason}", next_command=self._ssh(hop)) from None

    def _verify_host_key(self, hop: Connection, name: str) -> None:
        """Reject unknown keys on every hop: Fabric's own policy accepts them, and those of ProxyJump hosts too."""
        hop.client.set_missing_host_key_policy(_RefuseUnknown())
        if self._settings.known_hosts:
            files = [str(self._settings.known_hosts)]
        else:
            configured = hop.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
            files = [*configured.split(), "/etc/ssh/ssh_known_hosts"]
        for path in (Path(file).expanduser() for file in files):
            try:
                if path.is_file():
                    hop.client.load_system_host_keys(str(path))
            except (InvalidHostKey, OSError, ValueError) as error:
                raise HostKeyRefused(f"{name}: the known hosts in {path} cannot be read: {error}") from None

    def _ssh(self, hop: Connection) -> str:
        """The OpenSSH command that takes the same way."""
        known_hosts, key_file = self._settings.known_hosts, self._settings.key_file
        target = hop.original_host == (self._settings.address or self.name)
        return shlex.join(
            [
                "ssh",
                *(["-F", str(self._ssh_config)] if self._ssh_config != USER_SSH_CONFIG.expanduser() else []),
                *(["-o", f"UserKnownHostsFile={known_hosts}"] if known_hosts else []),
                *(["-i", str(key_file)] if key_file and target else []),
                *["-p", str(hop.port), f"{hop.user}@{hop.original_host}"],
            ]
        )


class _Streams:
    """Both outputs of a channel. They share a window: one that is not read stops the other."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self.channel = channel
        self.out = bytearray()
        self.err = bytearray()
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)

    def send(self, data: bytes, give_up: float) -> None:
        while data:
            self.channel.settimeout(min(_left(give_up), 0.5))
            # It may not take more before we have read what it says.
            with contextlib.suppress(TimeoutError):
                sent = self.channel.send(data)
                if not sent:
                    raise EOFError("it was closed")
                data = data[sent:]
            self._take()

    def feed(self, stdin: BinaryIO, give_up: float, progress: Progress | None) -> None:
        """Send a file, unless the remote program ends early; its exit status says why."""
        sent = 0
        while chunk := stdin.read(CHUNK):
            try:
                self.send(chunk, give_up)
            except (OSError, EOFError):
                if self.has_ended:
                    return
                raise
            sent += len(chunk)
            if progress:
                progress(sent)

    @property
    def has_ended(self) -> bool:
        return bool(self.channel.closed or self.channel.eof_received)

    def receive(self, give_up: float) -> bool:
        """Wait for output, for a moment; gives whether there may be more."""
        ended = self.has_ended
        if not ended:
            self._wait(min(_left(give_up), AWAKE))
        return self._take() or not ended

    def await_last_words(self) -> None:
        """The end of stdout may arrive before stderr does; the closing of the channel comes after both."""
        patience = time.monotonic() + LINGER
        while self._take() or (not self.channel.closed and time.monotonic() < patience):
            time.sleep(0.01)

    def reply(self, give_up: float) -> Reply:
        """All output and the exit status; -1 when a signal ended the command."""
        while self.receive(give_up):
            if self.channel.exit_status_ready() and not self._wait(LINGER):
                break
        if not self.channel.status_event.wait(_left(give_up)):
            raise TimeoutError
        status = self.channel.recv_exit_status()
        if status == -1 and _is_dying(self.channel.get_transport()):
            raise EOFError
        return Reply(status, _decoded(self.out), _decoded(self.err))

    def _wait(self, seconds: float) -> bool:
        return bool(self._poll.poll(seconds * 1000))

    def _take(self) -> bool:
        took = False
        while self.channel.recv_ready():
            self.out += self.channel.recv(CHUNK)
            took = True
        while self.channel.recv_stderr_ready():
            self.err += self.channel.recv_stderr(CHUNK)
            took = True
        return took


class _Program:
    """A program that is kept running on a channel and spoken to in frames, by whoever holds its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.used = 0.0
        self._streams: _Streams | None = None

    @property
    def is_running(self) -> bool:
        return self._streams is not None and not self._streams.has_ended

    @property
    def channel(self) -> paramiko.Channel:
        assert self._streams is not None
        return self._streams.channel

    def start(self, channel: paramiko.Channel) -> None:
        self.stop()
        self._streams = _Streams(channel)

    def stop(self) -> None:
        if self._streams is not None:
            self._streams.channel.close()

    def execute(self, command: str, give_up: float) -> Reply:
        """One line to a POSIX shell. A nonce, which no output can foretell, frames the answer."""
        assert self._streams is not None
        nonce = secrets.token_hex(12)
        script = f"{command}\nprintf '\\n{nonce} %s\\n' \"$?\"\nprintf '\\n{nonce}\\n' >&2\n"
        self._send(script, give_up)
        out = self._until(self._streams.out, f"\n{nonce} ".encode(), give_up)
        status = int(self._until(self._streams.out, b"\n", give_up))
        return Reply(status, out, self._until(self._streams.err, f"\n{nonce}\n".encode(), give_up))

    def _send(self, text: str, give_up: float) -> None:
        assert self._streams is not None
        self.used = time.monotonic()
        self._streams.send(_encoded(text), give_up)

    def _until(self, output: bytearray, mark: bytes, give_up: float) -> str:
        assert self._streams is not None
        seen = 0
        while (end := output.find(mark, seen)) < 0:
            seen = max(0, len(output) - len(mark))
            if not self._streams.receive(give_up):
                self._streams.await_last_words()
                last_words = _decoded(self._streams.out + self._streams.err).split()
                raise EOFError(" ".join(last_words)[-500:] or "it ended")
        text = _decoded(output[:end])
        del output[: end + len(mark)]
        return text


_Exchange = Callable[[_Program, float], Reply]


class _UnknownHostKey(SSHException):
    def __init__(self, host: str, key: paramiko.PKey) -> None:
        super().__init__("unknown host key")
        self.host = host
        self.key = key


class _RefuseUnknown(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise _UnknownHostKey(hostname, key)


def _way(target: str, config: Config, *, user: str | None = None, port: int | None = None) -> Connection:
    """A connection and the jump hosts before it, not yet open.

    Fabric visits ``ProxyJump first,second`` in the wrong order, takes ``none`` for a host and stumbles over an agent's
    socket in ``ForwardAgent`` (no agent is forwarded). ``ProxyCommand`` is left to it.
    """
    host = derive_shorthand(target)["host"]
    configured = config.base_ssh_config.lookup(host)
    jumps = [jump for jump in configured.get("proxyjump", "none").split(",") if jump.lower() != "none"]
    gateway: Connection | Literal[False] | None = False if "proxyjump" in configured else None
    for jump in jumps:
        # A jump host that the configuration sends through itself (``Host *``) is the start.
        if derive_shorthand(jump)["host"] not in (host, configured.get("hostname")):
            gateway = (
                Connection(jump, config=config, gateway=gateway, forward_agent=False)
                if gateway
                else _way(jump, config)
            )
    return Connection(target, user=user, port=port, config=config, gateway=gateway, forward_agent=False)


def _hops(connection: Connection) -> list[Connection]:
    """A connection and its jump hosts, the outermost last."""
    hops = [connection]
    while isinstance(hops[-1].gateway, Connection):
        hops.append(hops[-1].gateway)
    return hops


def _close(hops: list[Connection]) -> None:
    for hop in hops:
        transport = hop.client.get_transport()
        if transport and isinstance(transport.sock, socket.socket):
            # Wakes Paramiko's thread, which closing waits for, up to 0.1 s.
            with contextlib.suppress(OSError):
                transport.sock.shutdown(socket.SHUT_RDWR)
        hop.client.close()


def _close_opened(ahead: Future[Connection]) -> None:
    if not ahead.exception():
        _close(_hops(ahead.result()))


def _tune(sock: object) -> None:
    """Send small commands at once, and notice a dead link (SSH's keepalive alone counts no replies)."""
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINK * 1000)


def _settled(reply: Reply, due: float) -> Reply:
    """Tell a command that was killed for its time from one that a signal ended.

    ``timeout -k`` that has to use SIGKILL goes down with its command: status 137 in a shell, none at all without.
    """
    if reply.status in (-1, 137) and time.monotonic() >= due:
        return dataclasses.replace(reply, status=TIMED_OUT)
    if reply.status == -1:
        raise SSHException("a signal ended it")
    return reply


def _is_dying(transport: paramiko.Transport) -> bool:
    # Paramiko closes a dying connection's channels a moment before it calls it inactive.
    transport.join(0.2)
    return not transport.is_active()


def _left(give_up: float) -> float:
    left = give_up - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@contextlib.contextmanager
def _closing_after(seconds: float, transport: Callable[[], paramiko.Transport | None]) -> Iterator[None]:
    """Paramiko logs in, starts commands and writes to a full socket without bound; closing the connection ends that."""

    def close() -> None:
        stuck = transport()
        if stuck is not None:
            stuck.close()

    timer = threading.Timer(seconds, close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("no command can hold a NUL character")
    return text.encode(errors="surrogateescape")


def _decoded(data: bytes | bytearray) -> str:
    return data.decode(errors="replace")
