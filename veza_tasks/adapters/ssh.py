"""An Incus server over SSH: one Fabric connection, opened once, with verified host keys.

Fabric accepts any host key, waits without bound for a stalled server and calls a lost connection "exit status -1"; this
module is where that ends. Times are seconds. Sources: RFC 4254 (channels), sshd_config(5) (MaxSessions), timeout(1).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import paramiko
from fabric import Config, Connection
from paramiko.hostkeys import InvalidHostKey
from paramiko.ssh_exception import (
    BadHostKeyException,
    ChannelException,
    ConfigParseError,
    PasswordRequiredException,
    SSHException,
)

from veza_tasks.adapters.host import TIMED_OUT, Command, Held, Progress, Reply, quoted
from veza_tasks.errors import HostKeyRefused, OutcomeUnknown, Unreachable
from veza_tasks.settings import HostSettings

KEEPALIVE = 5
DEAD_LINK = 10
"""Seconds of unacknowledged data after which the kernel gives a connection up (TCP_USER_TIMEOUT)."""
MARGIN = 5.0
"""Seconds past a command's own timeout that its answer may be under way; ``timeout -k`` needs two of them."""
PROMPT = b"\n> "
CHUNK = 1 << 18
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
        self._ssh_config = ssh_config
        self._margin = margin
        self._connection: Connection | None = None
        self._programs: dict[Held, _Program] = {}
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
        line = quoted(argv, into=into, timeout=timeout)

        def attempt() -> Reply:
            channel = self._start(line)
            streams = _Streams(channel)
            with contextlib.closing(channel), self._deadline(channel, timeout + self._margin) as give_up:
                if stdin is not None:
                    _feed(streams, stdin, give_up, progress)
                channel.shutdown_write()
                return streams.reply(give_up)

        repeatable = not effect and stdin is None
        return self._attempt(attempt, self.name, effect or argv[0], repeatable=repeatable, timeout=timeout)

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

    def prompt(self, held: Held, command: str, *, effect: str = "", timeout: float) -> Reply:
        if "\n" in command:
            raise ValueError("a runtime API command is one line")
        return self._speak(
            held,
            greet=lambda program, give_up: program.ask("prompt", give_up),
            exchange=lambda program, give_up: program.ask(command, give_up),
            what=command,
            effect=effect,
            timeout=timeout,
        )

    def close(self) -> None:
        self._drop()

    def _speak(
        self, held: Held, *, greet: _Exchange, exchange: _Exchange, what: str, effect: str, timeout: float
    ) -> Reply:
        """Talk to a held program, starting it where it is not (or no longer) there."""
        place = f"{held.where} on {self.name}"
        with self._lock:
            program = self._programs.setdefault(held, _Program())

        def attempt() -> Reply:
            if not program.is_running:
                self._start_program(program, held, place, greet)
            with self._deadline(program.channel, timeout + self._margin) as give_up:
                return exchange(program, give_up)

        if not program.lock.acquire(timeout=timeout + self._margin):
            raise Unreachable(f"{place}: {held.argv[0]!r} is still busy with an earlier command")
        try:
            return self._attempt(attempt, place, effect or what, repeatable=not effect, timeout=timeout)
        except OutcomeUnknown:
            # What is left of the lost exchange must not be read as the next one's answer.
            program.stop()
            raise
        finally:
            program.lock.release()

    def _attempt(
        self, attempt: Callable[[], Reply], place: str, what: str, *, repeatable: bool, timeout: float
    ) -> Reply:
        """Make an attempt whose answer may get lost. A read whose connection broke is repeated once, an effect never."""
        for last in (not repeatable, True):
            started = time.monotonic()
            try:
                reply = attempt()
            except TimeoutError:
                reason = f"no answer within {timeout + self._margin:g} s"
                raise OutcomeUnknown(f"{place}: it is not known whether {what!r} ran: {reason}") from None
            except BROKEN as error:
                if last:
                    reason = f"the connection broke: {error or 'closed'}"
                    raise OutcomeUnknown(f"{place}: it is not known whether {what!r} ran: {reason}") from None
            else:
                # `timeout -k` that had to kill what it watched goes down with it.
                killed = reply.status in (_KILLED, 128 + _KILLED) and time.monotonic() - started >= timeout
                return Reply(TIMED_OUT, reply.out, reply.err) if killed else reply
        raise AssertionError("unreachable")
