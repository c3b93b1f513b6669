"""Take the lock from a run that died. Nobody's lock is broken silently: the fleet is shown first, and the run is named."""

from __future__ import annotations

from veza_tasks.capabilities import lock
from veza_tasks.capabilities.journal import HISTORY, remember
from veza_tasks.capabilities.lock import DEAD_AFTER, Holder
from veza_tasks.errors import Refused
from veza_tasks.events import Warned
from veza_tasks.run import Run


def held_by(run: Run, wanted: str) -> Holder:
    """The holder of the lock, which must be the run ``wanted``; warns of one that looks alive.

    Raises:
        Refused: nobody holds it, or another run does.
        FleetError: that could not be found out.
    """
    found = lock.holder(run.fleet.for_records, lock.lock_name(run.settings))
    if found is None:
        raise Refused("nobody holds the lock", state="Nothing was changed.", next_command="inv status")
    if found.run != wanted:
        raise Refused(
            f"run {wanted} does not hold the lock: {found.told(run.clock.now())}",
            state="Nothing was changed.",
            next_command=f"inv unlock --run {found.run}",
        )
    silent = found.silent_for(run.clock.now())
    if silent is not None and silent < DEAD_AFTER:
        run.emit(Warned(f"run {found.run} looks alive: its last heartbeat was {silent:.0f} s ago"))
    return found


def unlock(run: Run, held: Holder) -> None:
    """Break the lock, and put on record that this run ended without a word.

    Raises:
        Refused: it has just changed hands.
        FleetError: it is not known whether it is broken.
    """
    if not lock.break_lock(run.fleet.for_records, lock.lock_name(run.settings), held):
        raise Refused(
            f"run {held.run} does not hold the lock any more",
            state="Nothing was changed.",
            next_command="inv status",
        )
    incus, instance = run.fleet.for_records, run.settings.load_balancer.instance
    remember(
        incus,
        instance,
        {
            "run": held.run,
            "task": held.task,
            "who": held.who,
            "when": held.since,
            "digest": held.artifact,
            "code": None,
            "said": f"ended without a word in {held.phase}; unlocked by {run.who}",
        },
        before=incus.read_mark(instance, HISTORY),
    )
