"""One invocation that looks at or changes the fleet: who, on what, by which clock, and whom it tells."""

from __future__ import annotations

import getpass
import json
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from veza_tasks.clock import Clock
from veza_tasks.errors import ReleaseError
from veza_tasks.events import Listeners, StepBroke, StepDone, StepStarted, Waiting
from veza_tasks.fleet import Fleet
from veza_tasks.settings import Settings
from veza_tasks.signals import Signals

T = TypeVar("T")
R = TypeVar("R")


def new_run_id(clock: Clock) -> str:
    return f"{clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def operator() -> str:
    """Who runs this, as other operators know them."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@dataclass
class Run:
    """What every step needs. ``accepted`` maps the id of a preflight row to the reason for letting it pass."""

    id: str
    who: str
    settings: Settings
    fleet: Fleet
    clock: Clock
    emit: Listeners
    signals: Signals
    task: str = ""
    plan: bool = False
    accepted: Mapping[str, str] = field(default_factory=dict)
    doing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.signals.doing = lambda: self.doing[-1] if self.doing else "the start"

    @property
    def only_imagined(self) -> bool:
        """Whether ``--plan`` left changes out already, so that the fleet is not as it then would be."""
        return self.plan and self.fleet.planned > 0

    @contextmanager
    def step(self, name: str, node: str = "") -> Iterator[Callable[[str], None]]:
        """A named line of the runbook. Call what it gives with a short text to say how it came out."""
        said: list[str] = []
        began, planned = self.clock.monotonic(), self.fleet.planned
        self.emit(StepStarted(name, node))
        doing = f"{name} of {node}" if node else name
        self.doing.append(doing)
        try:
            yield said.append
        except BaseException as error:
            reason = error.message if isinstance(error, ReleaseError) else str(error) or type(error).__name__
            # What else there is to say, such as log lines, stands in the error itself.
            self.emit(StepBroke(name, node, reason.partition("\n")[0], self.clock.monotonic() - began))
            raise
        finally:
            self.doing.remove(doing)
        detail = "planned, not done" if self.fleet.planned > planned else "; ".join(said)
        self.emit(StepDone(name, node, detail, self.clock.monotonic() - began))

    def until(
        self,
        missing: Callable[[], str],
        *,
        step: str,
        node: str,
        limit: float,
        every: float | Callable[[], float],
        failure: Callable[[str], ReleaseError],
    ) -> None:
        """Look until ``missing`` gives nothing any more; it says what is still missing.

        ``every`` is the pause between two looks in seconds, or gives it.

        Under ``--plan`` it looks once: what is waited for was not done.

        Raises:
            ReleaseError: ``failure`` of what was missing, after ``limit`` seconds.
            Interrupted: a signal came and nothing shields.
        """
        began = self.clock.monotonic()
        while what := missing():
            elapsed = self.clock.monotonic() - began
            if self.plan:
                return
            if elapsed >= limit:
                raise failure(what)
            self.signals.check()
            self.emit(Waiting(step, node, what, elapsed, limit))
            pause = every() if callable(every) else every
            self.clock.sleep(min(pause, limit - elapsed))

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Do the same for several at once; all are finished before the first failure is raised."""
        if len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(max_workers=len(items)) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                _finish(futures)
            except BaseException:
                # Only a third signal raises here. Closed connections end the workers.
                self.fleet.close()
                raise
        return [future.result() for future in futures]

    def note(self, **more: object) -> str:
        """The value of a mark: who did it, when, in which run, and more."""
        when = f"{self.clock.now():%Y-%m-%dT%H:%M:%SZ}"
        return json.dumps({"run": self.id, "who": self.who, "when": when, **more}, sort_keys=True)


def _finish(futures: Sequence[Future[R]]) -> None:
    # Waits in short turns: a signal handler runs between them.
    pending = set(futures)
    while pending:
        _, pending = wait(pending, timeout=0.2)
