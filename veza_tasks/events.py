"""What recipes say while they work. The screen listens; a recipe never prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum


class Colour(StrEnum):
    """The verdict of a check or a probe. Grey is "cannot tell (yet)": never green."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"
    GREY = "grey"


@dataclass(frozen=True)
class Event:
    """Something worth telling the operator."""


@dataclass(frozen=True)
class StepStarted(Event):
    """A named line of the runbook begins; ``node`` is empty where it concerns the whole fleet."""

    step: str
    node: str = ""


@dataclass(frozen=True)
class StepDone(Event):
    step: str
    node: str = ""
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class StepBroke(Event):
    step: str
    node: str = ""
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Waiting(Event):
    """One look of a wait; all times in seconds."""

    step: str
    node: str
    what: str
    elapsed: float
    limit: float


@dataclass(frozen=True)
class Uploading(Event):
    """Progress of an upload, in bytes."""

    host: str
    name: str
    sent: int
    total: int


@dataclass(frozen=True)
class Planned(Event):
    """A change that ``--plan`` did not make: where, and the command as it would be sent."""

    where: str
    command: str


@dataclass(frozen=True)
class Checked(Event):
    """One row of preflight. ``accepted`` holds the reason of ``--accept``."""

    check: str
    colour: Colour
    detail: str
    accepted: str = ""


@dataclass(frozen=True)
class Probed(Event):
    """One look at the SLIs. Missing numbers are ``None``; ``p95`` and times in seconds, ``error_rate`` a ratio."""

    node: str
    colour: Colour
    detail: str
    elapsed: float
    window: float
    requests: float | None = None
    p95: float | None = None
    p95_threshold: float = 0.0
    error_rate: float | None = None
    error_rate_threshold: float = 0.0
    waiting: bool = False
    """Grey for want of scrapes or traffic, not for want of an answer."""
    asked: tuple[tuple[str, str], ...] = ()
    """Each query that was sent, and its raw answer."""


@dataclass(frozen=True)
class Recorded(Event):
    """For the record; the screen does not show it."""


@dataclass(frozen=True)
class RunStarted(Recorded):
    """The first line of a journal. ``knobs`` are the settings by name."""

    run: str
    task: str
    who: str
    pid: int
    pool: str
    knobs: Mapping[str, object]


@dataclass(frozen=True)
class RunEnded(Recorded):
    """The last line of a journal: the exit code, why, and in what state the fleet was left."""

    run: str
    code: int
    message: str
    state: str
    next_command: str
    seconds: float


@dataclass(frozen=True)
class ArtifactRead(Recorded):
    """Which binary this run is about: its sha256 and its version."""

    digest: str
    version: str


@dataclass(frozen=True)
class Changing(Recorded):
    """The fleet is about to be changed: where, and what is sent. A listener that raises keeps it from being sent."""

    where: str
    command: str


@dataclass(frozen=True)
class Changed(Recorded):
    """What came of it: ``done``, a complaint, or why that is not known."""

    where: str
    command: str
    outcome: str


@dataclass(frozen=True)
class OutOfRotation(Recorded):
    """A node of ours gets no new requests any more."""

    node: str


@dataclass(frozen=True)
class InRotation(Recorded):
    """HAProxy has the node serving again."""

    node: str


@dataclass(frozen=True)
class Note(Event):
    text: str


@dataclass(frozen=True)
class Warned(Event):
    text: str


Emit = Callable[[Event], None]
"""Takes an event; may be called from several threads."""


class Listeners:
    """Tells everybody who listens, those who came last first."""

    def __init__(self, *listeners: Emit) -> None:
        self._listeners = list(listeners)

    def __iter__(self) -> Iterator[Emit]:
        return iter(tuple(self._listeners))

    def __call__(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    @contextmanager
    def joined(self, listener: Emit) -> Iterator[None]:
        """One more listens for a while, before those that are there."""
        self._listeners.insert(0, listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
