"""What surrounds every command that changes the fleet: one operator at a time, and all of it on record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from veza_tasks.capabilities.hooks import Hooks
from veza_tasks.capabilities.journal import HISTORY, Journal, remember
from veza_tasks.capabilities.lock import Lock, break_lock
from veza_tasks.errors import (
    Abandoned,
    FleetError,
    Interrupted,
    JournalFailed,
    LockLost,
    NeedsHuman,
    Refused,
    ReleaseError,
    StepFailed,
)
from veza_tasks.events import RunEnded, RunStarted, Warned
from veza_tasks.recipes.recover import tell_leftovers
from veza_tasks.run import Run


@contextmanager
def operation(
    run: Run, *, journals: Path, wait: float = 0.0, breaks: str = "", ahead: Executor | None = None
) -> Iterator[None]:
    """One run that changes the fleet, from its lock to its last record. Under ``--plan`` there is neither.

    ``journals`` is the folder of journals, ``wait`` how many seconds to wait for the lock; ``breaks`` is the run whose lock is
    broken, or ``*`` for anybody's. ``ahead`` is where the lock is looked at while steps go on (default: a thread).

    Raises:
        ReleaseError: whatever ended the run, as one of the endings.
    """
    if run.plan:
        with endings(run):
            yield
        return
    ahead = ahead or ThreadPoolExecutor(max_workers=1, thread_name_prefix="lock")
    lock = Lock(run, ahead=ahead)
    books = _Books(run, lock, ahead)
    beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hooks")
    try:
        with closing(_journal(run, journals)) as journal:
            hooks = Hooks(run, journal=journal.path, beside=beside)
            with run.emit.joined(hooks), run.emit.joined(journal):
                run.emit(_started(run))
                try:
                    with endings(run):
                        if breaks:
                            _break(run, lock, breaks)
                        lock.take_within(wait)
                        books.read_ahead()
                        hooks.before_run()
                        with run.emit.joined(lock):
                            yield
                except Exception as error:
                    books.close(journal, error)
                    raise
                else:
                    books.close(journal, None)
                finally:
                    hooks.wait()
    finally:
        ahead.shutdown(wait=False, cancel_futures=True)
        beside.shutdown(wait=False)


@contextmanager
def endings(run: Run) -> Iterator[None]:
    """Turns what stopped a run outside of any recipe's care into an ending: what it means for the fleet.

    Raises:
        ReleaseError: an ending.
    """
    try:
        yield
    except (StepFailed, Interrupted, Abandoned, LockLost) as stop:
        raise _ending(stop, changed=run.fleet.changed) from stop.__cause__


def _ending(stop: BaseException, *, changed: bool) -> ReleaseError:
    message = stop.message if isinstance(stop, ReleaseError) else str(stop)
    next_command = stop.next_command if isinstance(stop, ReleaseError) else ""
    if isinstance(stop, LockLost):
        message, next_command = f"this run lost the fleet's lock; it is held by {stop}", "inv status"
    if not changed:
        state = "Nothing was changed."
        return Refused(message, state=state, next_command=next_command or "the same command again")
    if isinstance(stop, LockLost):
        state = "Nothing was put back: that is now for whoever holds the lock."
        return NeedsHuman(message, state=state, next_command=next_command)
    return NeedsHuman(
        message,
        state="Nothing was put back after that; a node may be out of rotation, marked as ours.",
        next_command="inv status; then the same command again, or inv rollback-all",
    )


class _Books:
    """The end of a run, told to everybody: the journal, the fleet, and whoever waits for the lock."""

    def __init__(self, run: Run, lock: Lock, ahead: Executor) -> None:
        self._run = run
        self._lock = lock
        self._ahead = ahead
        self._before: Future[str] | None = None
        self._began = run.clock.monotonic()
        self._when = f"{run.clock.now():%Y-%m-%dT%H:%M:%SZ}"

    def read_ahead(self) -> None:
        """Read what the fleet remembers of earlier runs: while the lock is held nobody else writes it."""
        if self._lock.held:
            self._before = self._ahead.submit(self._read)

    def _read(self) -> str:
        run = self._run
        return run.fleet.for_records.read_mark(run.settings.load_balancer.instance, HISTORY)

    def close(self, journal: Journal, error: Exception | None) -> None:
        run = self._run
        known = error if isinstance(error, ReleaseError) else None
        end = RunEnded(
            run=run.id,
            code=known.exit_code if known else int(error is not None),
            message=known.message if known else repr(error) if error else "done",
            state=known.state if known else "",
            next_command=known.next_command if known else "",
            seconds=run.clock.monotonic() - self._began,
        )
        if not self._lock.held:
            run.emit(end)
            return
        with run.signals.shield("writing the run's summary and releasing the lock"):
            try:
                self._close(journal, end, sweep=run.fleet.changed and end.code in (0, 3, 4))
            finally:
                self._give_back()

    def _close(self, journal: Journal, end: RunEnded, *, sweep: bool) -> None:
        run = self._run
        self._lock.look_ahead()
        swept = self._ahead.submit(tell_leftovers, run) if sweep else None
        try:
            remember(
                run.fleet.for_records,
                run.settings.load_balancer.instance,
                journal.summary.record(end, when=self._when),
                before=self._what_was(),
            )
        except FleetError as failed:
            run.emit(Warned(f"the run's summary could not be kept on the fleet: {failed.message}"))
        if swept:
            swept.result()
        run.emit(end)

    def _give_back(self) -> None:
        run = self._run
        try:
            self._lock.give_back()
        except FleetError as failed:
            run.emit(
                Warned(f"the lock may still be there: {failed.message}; next: inv unlock --run {run.id}")
            )

    def _what_was(self) -> str:
        try:
            return self._before.result() if self._before else self._read()
        except FleetError:
            return self._read()


def _journal(run: Run, directory: Path) -> Journal:
    try:
        return Journal(directory, run.id, clock=run.clock, emit=run.emit)
    except JournalFailed as failed:
        raise Refused(
            failed.message, state="Nothing was changed.", next_command=failed.next_command
        ) from None


def _started(run: Run) -> RunStarted:
    return RunStarted(
        run=run.id,
        task=run.task,
        who=run.who,
        pid=os.getpid(),
        pool=run.settings.pool_backend,
        knobs=run.settings.model_dump(mode="json"),
    )


def _break(run: Run, lock: Lock, whose: str) -> None:
    held = lock.holder()
    if held is not None and whose in ("*", held.run) and break_lock(run.fleet.for_records, lock.name, held):
        run.emit(Warned(f"BROKE THE LOCK of {held.told(run.clock.now())}; that run stops at its next change"))
