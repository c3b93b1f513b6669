"""INT, TERM and HUP: asked once, a run stops where stopping is safe; asked three times, it stops at once.

Neither Invoke nor Paramiko gives us this: Invoke installs no handler, so TERM and HUP skip every ``finally``, and the first
Ctrl-C only reaches the remote command.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from veza_tasks.errors import Abandoned, Interrupted
from veza_tasks.events import Emit, Warned

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Counts signals while it is entered (in the main thread) and lets the run look where it may stop.

    ``doing`` gives what is in hand, for the message of the second signal.
    """

    def __init__(self, emit: Emit, doing: Callable[[], str] = lambda: "the step in hand") -> None:
        self.received = 0
        self._first = ""
        self.doing = doing
        self._emit = emit
        self._shields: list[str] = []
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in CAUGHT}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Stop here if a signal asked for it and nothing shields this place.

        Raises:
            Interrupted: a signal has come.
        """
        if self.received and not self._shields:
            raise Interrupted(f"stopped by {self._first}")

    @contextmanager
    def shield(self, why: str) -> Iterator[None]:
        """Go on in spite of one or two signals; ``why`` is told to whoever sends them."""
        self._shields.append(why)
        try:
            yield
        finally:
            self._shields.pop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        name = signal.Signals(number).name
        if self.received == 1:
            self._first = name
            first = self._shields[-1] if self._shields else f"finishing {self.doing()}, then stopping safely"
            self._emit(Warned(f"{name}: {first}"))
        elif self.received == 2:
            self._emit(Warned(f"{name} again: still in {self.doing()}; once more abandons it where it is"))
        else:
            raise Abandoned(f"{name} for the third time, during {self.doing()}")
