"""The one seam through which the fleet is read and changed.

A call with an ``effect`` (a short text saying what it changes) is a change; a call without is a read. ``GuardedHost``
is what makes ``--plan`` true everywhere: it lets reads through and only announces changes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from veza_tasks.errors import OutcomeUnknown, ReleaseError, Unreachable
from veza_tasks.events import Changed, Changing, Emit, Planned

Command = Sequence[str]
Progress = Callable[[int], None]
"""Takes the number of bytes sent so far."""

TIMED_OUT = 124
"""Exit status of ``timeout`` from coreutils when it had to end the command."""


@dataclass(frozen=True)
class Reply:
    """What a command that surely ran gave back. ``planned`` replies stand for changes that were not made."""

    status: int
    out: str = ""
    err: str = ""
    planned: bool = False

    @property
    def complaint(self) -> str:
        """What it said about its failure, on one line."""
        if self.status == TIMED_OUT:
            return "it did not end in time"
        return " ".join((self.err or self.out).split()) or f"exit status {self.status}"


@dataclass(frozen=True)
class Held:
    """A remote program that is started once and then spoken to; ``where`` names it for people."""

    where: str
    argv: tuple[str, ...]


class Host(Protocol):
    """One Incus server. All times in seconds; every call ends within its timeout and a small margin.

    Raises ``Unreachable``, ``HostKeyRefused`` or ``OutcomeUnknown``; a command that ran and failed is a ``Reply``.
    """

    name: str

    def open_ahead(self, programs: Sequence[Held]) -> None:
        """Connect and start these programs in the background; what fails is told by the first call that needs it."""
        ...

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
        """One command of its own; ``into`` is a second one fed by its output (as a pipe on the host)."""
        ...

    def shell(self, held: Held, argv: Command, *, effect: str = "", timeout: float) -> Reply:
        """One command in a held-open ``sh``."""
        ...

    def close(self) -> None: ...


def quoted(argv: Command, *, into: Command = (), timeout: float | None = None) -> str:
    """The only place where an argument list becomes text for a remote POSIX shell; ``timeout`` bounds it over there."""
    bound = [] if timeout is None else ["timeout", "-k", "2", f"{timeout:g}"]
    line = shlex.join([*bound, *argv])
    return f"{line} | {shlex.join([*bound, *into])}" if into else line


class GuardedHost:
    """A host whose changes are told apart from its reads: announced before and after, or under ``plan`` not made.

    Once closed it stays closed: a thread that is still at work does not connect again behind an abandoned run.
    """

    def __init__(self, host: Host, emit: Emit, *, plan: bool) -> None:
        self.name = host.name
        self.changes = 0
        self.planned = 0
        self._host = host
        self._emit = emit
        self._plan = plan
        self._closed = False

    def open_ahead(self, programs: Sequence[Held]) -> None:
        self._host.open_ahead(programs)

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
        def send() -> Reply:
            return self._host.run(
                argv, into=into, stdin=stdin, effect=effect, timeout=timeout, progress=progress
            )

        return self._guarded(send, effect, self.name)

    def shell(self, held: Held, argv: Command, *, effect: str = "", timeout: float) -> Reply:
        return self._guarded(
            lambda: self._host.shell(held, argv, effect=effect, timeout=timeout), effect, held.where
        )

    def close(self) -> None:
        self._closed = True
        self._host.close()

    def _guarded(self, send: Callable[[], Reply], effect: str, where: str) -> Reply:
        if self._closed:
            raise Unreachable(f"{where}: the connection was closed by us")
        if not effect:
            return send()
        if self._plan:
            self.planned += 1
            self._emit(Planned(where, effect))
            return Reply(0, planned=True)
        self._emit(Changing(where, effect))
        self.changes += 1
        try:
            reply = send()
        except ReleaseError as error:
            self._emit(Changed(where, effect, error.message))
            raise
        self._emit(Changed(where, effect, reply.complaint if reply.status else "done"))
        return reply


def ensure(change: Callable[[], Reply | None], came_true: Callable[[], bool]) -> bool:
    """Make a change whose answer may get lost: look, and if it did not come true make it once more.

    The change must be safe to repeat. Gives whether it came true (always, when it was only planned).

    Raises:
        OutcomeUnknown: the answer was lost twice.
    """
    for attempt in (1, 2):
        try:
            reply = change()
        except OutcomeUnknown:
            if attempt == 2:
                raise
        else:
            if reply is not None and reply.planned:
                return True
        if came_true():
            return True
    return False
