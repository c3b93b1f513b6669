"""One run at a time per pool: a lock on the fleet, so that two laptops exclude each other.

It is an Incus profile on the load balancer's host, which Incus creates atomically (in a cluster it is a row of its
replicated database). Nobody waits for it to grow old: a dead holder's lock is broken by a human, who is shown the fleet first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from veza_tasks.adapters.incus import Incus
from veza_tasks.errors import FleetError, LockHeld, LockLost, OutcomeUnknown
from veza_tasks.events import (
    ArtifactRead,
    Changing,
    Event,
    Probed,
    StepStarted,
    Uploading,
    Waiting,
    Warned,
)
from veza_tasks.run import Run
from veza_tasks.settings import Settings

BEAT = 10.0
"""Seconds between two heartbeats of a run that works; a step, a probe or a wait gives the occasion."""
DEAD_AFTER = 60.0
"""Seconds without a heartbeat after which a holder does not look alive any more. It is for people; nothing acts on it."""
LOOK_LASTS = 5.0
"""Seconds for which a look is relied on; a change after that, late in a long step, waits for a new one."""
POLL = 1.0
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, as it says itself: ``since`` and ``heartbeat`` by the holder's own clock."""

    run: str
    task: str
    who: str
    pid: str
    artifact: str
    phase: str
    since: str
    heartbeat: str

    def silent_for(self, now: datetime) -> float | None:
        """Seconds since the last heartbeat; None where it cannot be read."""
        try:
            beat = datetime.strptime(self.heartbeat, _TIME).replace(tzinfo=UTC)
        except ValueError:
            return None
        return (now - beat).total_seconds()

    def told(self, now: datetime) -> str:
        """All of it in words."""
        silent = self.silent_for(now)
        beat = f"{self.heartbeat} ({silent:.0f} s ago)" if silent is not None else self.heartbeat or "none"
        artifact = f" of {self.artifact[:12]}" if self.artifact else ""
        return (
            f"{self.task}{artifact} by {self.who} (pid {self.pid}), run {self.run}, since {self.since}, "
            f"now in {self.phase}, last heartbeat {beat}"
        )


class Lock:
    """The lock of the pool, as one run sees it. It listens to the run: looks at each step, and beats while it goes on.

    A change waits until the look of its step has said that the lock is still ours, so that the look costs no time of its own.
    ``ahead`` is where looks and beats are made meanwhile.
    """

    def __init__(self, run: Run, *, ahead: Executor) -> None:
        self.name = lock_name(run.settings)
        self.held = False
        self._run = run
        self._ahead = ahead
        self._lost: LockLost | None = None
        self._look: Future[None] | None = None
        self._looked_at = 0.0
        self._beaten_at = 0.0
        self._phase = "preparing"
        self._artifact = ""

    def __call__(self, event: Event) -> None:
        """Take part in the run.

        Raises:
            LockLost: before a change, when the lock is not ours any more.
            LockHeld: before the first change, when it could not be taken earlier and somebody else has it now.
            FleetError: before a change, when that cannot be found out.
        """
        match event:
            case StepStarted() if self.held:
                self._phase = f"{event.step} of {event.node}" if event.node else event.step
                self._look_ahead()
            case ArtifactRead() if self.held:
                self._artifact = event.digest
                self._look_ahead(beat=True)
            case Probed() | Waiting() | Uploading() if self.held and self._due:
                self._look_ahead()
            case Changing():
                self.confirm()

    def holder(self) -> Holder | None:
        """Who holds it; None where nobody does.

        Raises:
            FleetError: that could not be found out.
        """
        return holder(self._run.fleet.for_records, self.name)

    def take(self) -> None:
        """Take it now.

        Raises:
            LockHeld: somebody else has it; names them.
            FleetError: Incus refused or could not be reached.
        """
        run, incus = self._run, self._run.fleet.for_records
        mine = asdict(
            Holder(
                run=run.id,
                task=run.task,
                who=run.who,
                pid=str(os.getpid()),
                artifact=self._artifact,
                phase=self._phase,
                since=self._now(),
                heartbeat=self._now(),
            )
        )

        def taken() -> bool:
            return incus.create_profile(self.name, mine)

        try:
            self.held = taken()
        except OutcomeUnknown:
            self.held = False
        if not self.held:
            found = self.holder()
            # Nobody: it was released in this very moment, or our request was lost.
            self.held = found.run == run.id if found else taken()
            if not self.held:
                raise _held(found, run)
        self._beaten_at = run.clock.monotonic()

    def take_within(self, seconds: float) -> None:
        """Take it, trying again for so many seconds. A fleet out of reach is left to the first change to find.

        So preflight still says all that there is to say about it.

        Raises:
            LockHeld: somebody else still has it.
            Interrupted: a signal came.
        """
        run = self._run
        began = run.clock.monotonic()
        while True:
            try:
                return self.take()
            except LockHeld as held:
                elapsed = run.clock.monotonic() - began
                if elapsed >= seconds:
                    raise
                run.signals.check()
                run.emit(Waiting("lock", "", held.message, elapsed, seconds))
                run.clock.sleep(min(POLL, seconds - elapsed))
            except FleetError:
                return None

    def confirm(self) -> None:
        """Make sure that it is still ours, by the look of this step or by a new one.

        Raises:
            LockLost: it is not.
            LockHeld: it was not taken yet, and somebody else has it.
            FleetError: that could not be found out, twice.
        """
        if self._lost:
            raise self._lost
        if not self.held:
            return self.take()
        look = self._look
        if look is None or self._run.clock.monotonic() - self._looked_at > LOOK_LASTS:
            look = self._look_ahead()
        try:
            try:
                look.result()
            except FleetError:
                self._look_ahead().result()
        except LockLost as lost:
            self.held, self._lost = False, lost
            raise
        return None

    def give_back(self) -> None:
        """Release it if it is ours; what is not ours is left alone.

        Raises:
            FleetError: it is not known whether it is released.
        """
        incus = self._run.fleet.for_records
        try:
            self.confirm()
            incus.delete_profile(self.name)
        except LockLost:
            return
        except FleetError:
            found = self.holder()
            if found is not None and found.run == self._run.id:
                incus.delete_profile(self.name)
        self.held = False

    def look_ahead(self) -> None:
        """Look whether it is still ours, while something else is done."""
        self._look_ahead()

    @property
    def _due(self) -> bool:
        return self._run.clock.monotonic() - self._beaten_at >= BEAT

    def _look_ahead(self, *, beat: bool = False) -> Future[None]:
        self._looked_at = self._run.clock.monotonic()
        self._look = self._ahead.submit(self._look_and_beat, beat=beat)
        return self._look

    def _look_and_beat(self, *, beat: bool = False) -> None:
        run = self._run
        found = self.holder()
        if found is None or found.run != run.id:
            raise LockLost(found.told(run.clock.now()) if found else "nobody: somebody broke it")
        if beat or self._due:
            self._beaten_at = run.clock.monotonic()
            keys = {"phase": self._phase, "artifact": self._artifact, "heartbeat": self._now()}
            try:
                run.fleet.for_records.mark_profile(self.name, keys)
            except FleetError as error:
                run.emit(Warned(f"the lock's heartbeat could not be written: {error.message}"))

    def _now(self) -> str:
        return self._run.clock.now().strftime(_TIME)


def lock_name(settings: Settings) -> str:
    """The profile's name. An Incus project may hold several load balancers with pools of one name."""
    return f"veza-tasks.lock.{settings.load_balancer.instance}.{settings.pool_backend}"


def holder(incus: Incus, name: str) -> Holder | None:
    """Who holds the lock of this name; None where nobody does.

    Raises:
        FleetError: that could not be found out.
    """
    keys = incus.profile(name)
    return None if keys is None else _holder(keys)


def break_lock(incus: Incus, name: str, held: Holder) -> bool:
    """Take the lock from a holder; False where it is not that run's any more.

    Raises:
        FleetError: it is not known whether it is broken.
    """
    now = holder(incus, name)
    return now is not None and now.run == held.run and incus.delete_profile(name)


def _held(found: Holder | None, run: Run) -> LockHeld:
    if found is None:
        return LockHeld(
            "the fleet is locked", state="Nothing was changed.", next_command="the same command again"
        )
    return LockHeld(
        f"the fleet is locked: {found.told(run.clock.now())}",
        state="Nothing was changed.",
        next_command=f"the same command with --wait SECONDS; or, if that run is dead: inv unlock --run {found.run}",
    )


def _holder(keys: Mapping[str, str]) -> Holder:
    return Holder(**{name: keys.get(name, "unknown") for name in Holder.__dataclass_fields__})
