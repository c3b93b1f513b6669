"""What a run did, on record: a journal of JSON lines here, and a summary of it on the fleet for everybody else.

The journal is written ahead: what is about to be changed is on disk before it is sent. One file per run, under
``$XDG_STATE_HOME`` (XDG Base Directory Specification). The summaries are a bounded list on the load balancer's instance.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from veza_tasks.adapters.incus import Incus
from veza_tasks.clock import Clock
from veza_tasks.errors import JournalFailed
from veza_tasks.events import (
    ArtifactRead,
    Changing,
    Checked,
    Emit,
    Event,
    InRotation,
    OutOfRotation,
    RunEnded,
    RunStarted,
    Uploading,
    Waiting,
    Warned,
)

HISTORY = "history"
"""Mark on the load balancer's instance: the summaries of the last runs, newest last."""
REMEMBERED = 30
"""How many summaries the fleet keeps."""
_NOT_RECORDED = (Waiting, Uploading)


def folder(environ: Mapping[str, str]) -> Path:
    """Where the journals of this user lie; a relative ``XDG_STATE_HOME`` counts as unset, as its specification says."""
    base = Path(environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "veza-tasks" / "runs"


class Journal:
    """The open journal of one run. A context manager, and an event listener.

    A line goes to the file in one write, so that threads and signal handlers do not mix theirs. Before a change, and at the
    end, everything so far is on disk (``fsync``).
    """

    def __init__(self, directory: Path, run: str, *, clock: Clock, emit: Emit) -> None:
        """
        Raises:
            JournalFailed: the file cannot be made.
        """
        self.path = directory / f"{run}.jsonl"
        self.summary = Summary(clock)
        self._clock = clock
        self._emit = emit
        self._torn = self._stopped = self._warned = False
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            _sync(directory)
        except OSError as error:
            raise self._failure(error) from None

    def __call__(self, event: Event) -> None:
        """Write it down.

        Raises:
            JournalFailed: at a change, once; after that what must still be done (such as a rollback) goes on unrecorded.
        """
        self.summary(event)
        if isinstance(event, _NOT_RECORDED):
            return
        try:
            line = json.dumps({"at": f"{self._clock.now():%Y-%m-%dT%H:%M:%S.%fZ}", **as_record(event)})
            # A line that was cut off must not swallow the next.
            _write(self._file, b"\n" * self._torn + line.encode() + b"\n")
            self._torn = False
            if isinstance(event, Changing | RunEnded):
                os.fsync(self._file)
        except OSError as error:
            self._torn = True
            if isinstance(event, Changing) and not self._stopped:
                self._stopped = True
                raise self._failure(error) from None
            if not self._warned:
                self._warned = True
                self._emit(Warned(self._failure(error).message))

    def close(self) -> None:
        os.close(self._file)

    def _failure(self, error: OSError) -> JournalFailed:
        return JournalFailed(
            f"the journal {self.path} cannot be written: {error.strerror or error}",
            next_command=f"make room in {self.path.parent}, or set XDG_STATE_HOME; then the same command again",
        )


class Summary:
    """A run in a few lines, gathered from its events. ``out`` is in seconds out of rotation during the run, by node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._started: RunStarted | None = None
        self._artifact = ArtifactRead("", "")
        self.out: dict[str, float] = {}
        self.accepted: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._started = event
                if event.knobs.get("force_migrate"):
                    self.accepted["migrations"] = "FORCE_MIGRATE=1"
            case ArtifactRead():
                self._artifact = event
            case OutOfRotation():
                self._since.setdefault(event.node, self._clock.monotonic())
            case InRotation() if event.node in self._since:
                seconds = self._clock.monotonic() - self._since.pop(event.node)
                self.out[event.node] = self.out.get(event.node, 0.0) + seconds
            case Checked() if event.accepted:
                self.accepted[event.check] = event.accepted

    def record(self, end: RunEnded, *, when: str) -> dict[str, Any]:
        """What the fleet keeps of the run. Nodes that are still out are named without a time."""
        assert self._started is not None
        return {
            "run": self._started.run,
            "task": self._started.task,
            "who": self._started.who,
            "when": when,
            "digest": self._artifact.digest,
            "version": self._artifact.version,
            "code": end.code,
            "said": end.message.partition("\n")[0][:200],
            "seconds": round(end.seconds, 1),
            "out": {node: round(seconds, 1) for node, seconds in self.out.items()}
            | dict.fromkeys(self._since, None),
            "accepted": self.accepted,
        }


def as_record(event: Event) -> dict[str, Any]:
    """An event as a line of the journal; its name is under ``event``."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; a last line that was cut off in the middle is left out.

    Raises:
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("event"), str):
                yield entry


def remember(incus: Incus, instance: str, record: Mapping[str, Any], *, before: str) -> None:
    """Add a run's summary to those ``before`` it on the fleet. The caller holds the lock, so nobody else writes meanwhile.

    Raises:
        FleetError: it could not be written.
    """
    kept = [one for one in remembered(before) if one["run"] != record["run"]]
    incus.mark(instance, HISTORY, json.dumps([*kept, record][-REMEMBERED:], separators=(",", ":")))


def remembered(mark: str) -> Sequence[dict[str, Any]]:
    """The summaries in a mark, oldest first; what does not look like one is left out."""
    try:
        found = json.loads(mark or "[]")
    except ValueError:
        return []
    return [
        one
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict) and isinstance(one.get("run"), str)
    ]


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
