"""What recipes say while they work. The screen listens; a recipe never prints."""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class Note(Event):
    text: str


@dataclass(frozen=True)
class Warned(Event):
    text: str


Emit = Callable[[Event], None]
"""Takes an event; may be called from several threads."""
