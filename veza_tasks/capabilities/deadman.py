"""While a canary is unproven its node guards itself: without us the last known good binary goes back by itself.

Prepared and tried out while staging, armed before the new binary starts, renewed by the loop that judges (a judge that is
stuck must not look alive), disarmed once the release is proven or rolled back. What the node did by itself is said by its
tombstone, which a run that comes back obeys. It never touches the load balancer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

from veza_tasks.adapters.deadman import Answer, Stands, Switch, Tombstone
from veza_tasks.adapters.node import Node
from veza_tasks.capabilities.artifact import Release
from veza_tasks.capabilities.rotation import CLOSED_WITHIN
from veza_tasks.errors import FleetError, StepFailed
from veza_tasks.run import Run
from veza_tasks.settings import Settings

RENEWALS = 3
"""Probe intervals without renewal after which nobody is there any more, beside the longest step."""
QUERIES = 5
"""Of one probe; each may take ``PROM_TIMEOUT``."""
REVERT_LIMIT = 120.0
"""Seconds that a revert may take: the old process has systemd's ``TimeoutStopSec`` (90 s) to end."""
POLL = 0.2


class Fired(StepFailed):
    """The dead-man's switch has put the last known good binary back, or is not ours any more: this run stops and obeys.

    ``tombstone`` is ``None`` where the switch did not act for this run.
    """

    def __init__(self, node: Node, message: str, tombstone: Tombstone | None) -> None:
        super().__init__(f"{node.name}: {message}")
        self.tombstone = tombstone


def patience(settings: Settings) -> int:
    """Seconds without renewal after which the node acts: three probes, and the longest step in which nothing renews."""
    longest = max(
        settings.drain_timeout + CLOSED_WITHIN,
        settings.health_timeout + settings.health_settle,
        settings.ready_timeout,
        settings.lb_timeout,
        settings.command_timeout,
        QUERIES * settings.prom_timeout,
    )
    return math.ceil(RENEWALS * settings.sli_probe_interval + longest)


def prepare(run: Run, node: Node, good: Release) -> str:
    """Install the switch on a node that has ``good``, installed or kept, and try it out. Gives the outcome in words.

    Raises:
        FleetError: it would not work here; nothing is armed.
    """
    Switch(node).prepare(good.digest, timeout=run.settings.command_timeout)
    return f"the dead-man's switch of {node.name} works"


def arm(run: Run, node: Node, good: Release, *, unproven: Release) -> str:
    """Arm it: without renewal ``good`` goes back where the unproven release is, and only there.

    What a dead run left armed is taken over. Gives the outcome in words.

    Raises:
        Fired: the node is just being reverted for an earlier run.
        FleetError: it could not be armed.
    """
    seconds = patience(run.settings)
    answer = Switch(node).arm(run.id, good.digest, seconds, unproven=unproven.digest)
    if answer.stands != "armed":
        raise Fired(node, "an earlier run's dead-man's switch is putting the old binary back", None)
    return f"without renewal {good} goes back after {seconds} s"


def renew(run: Run, node: Node) -> None:
    """Say that this run is alive and judging. Under ``--plan`` it was never armed, so there is nothing to say.

    Raises:
        Fired: it is too late; gives the tombstone once the binary is back.
        FleetError: it could not be renewed; it stays armed, so another try may do.
    """
    if run.plan:
        return
    answer = _unless_busy(run, node, lambda: Switch(node).renew(run.id))
    if answer.stands == "armed":
        return
    if answer.stands == "reverting":
        # Whoever put it back was broken off.
        answer = _disarm(run, node, run.id)
    raise _fired(run, node, answer)


def heartbeat(run: Run, node: Node) -> Callable[[], None]:
    """What the loops that wait and judge call at every turn: it renews at every probe, or raises as ``renew`` does.

    Not more often than every half probe interval, for it was just armed, and not from within itself: what ``renew`` waits
    for is told too.
    """
    pause = run.settings.sli_probe_interval / 2
    due = run.clock.monotonic() + pause

    def beat() -> None:
        nonlocal due
        if run.clock.monotonic() < due:
            return
        due = math.inf
        try:
            renew(run, node)
        except FleetError:
            due = run.clock.monotonic()
            raise
        due = run.clock.monotonic() + pause

    return beat


def commit(run: Run, node: Node) -> None:
    """Disarm it because the release is proven.

    Raises:
        Fired: too late; the node is on the old binary.
        FleetError: it could not be disarmed; it will fire.
    """
    if left := disarm(run, node):
        raise _fired(run, node, Answer("tombstone", tombstone=left))


def disarm(run: Run, node: Node, *, of: str = "") -> Tombstone | None:
    """From now on it does nothing; a revert under way is waited for. The tombstone, where the switch has acted.

    ``of`` is the run that armed it: this one, or one that is known to be dead.

    Raises:
        Fired: another run took the switch over; it is left armed.
        FleetError: it could not be disarmed; it will fire.
    """
    whose = of or run.id
    answer = _disarm(run, node, whose)
    if answer.stands == "another":
        raise _fired(run, node, answer)
    return _own(whose, answer)


def tombstone(node: Node) -> Tombstone | None:
    """What the node did by itself and nobody has obeyed yet."""
    return Switch(node).look().tombstone


def look(node: Node) -> Stands:
    """All there is of a switch on the node."""
    return Switch(node).look()


def describe(stands: Stands) -> str:
    """What there is of a switch, in words for people; empty where nothing is left of one."""
    said = []
    if stands.armed and stands.armed.reverting:
        said.append(f"is putting {stands.armed.digest[:12]} back (run {stands.armed.run})")
    elif stands.armed:
        left = stands.armed.fires_at - stands.now
        when = f"puts {stands.armed.digest[:12]} back in {left:.0f} s unless renewed"
        said.append(
            f"armed by run {stands.armed.run}: {when}" if stands.timers else "armed, but without its timer"
        )
    if dead := stands.tombstone:
        when = f"{datetime.fromtimestamp(dead.when, UTC):%Y-%m-%dT%H:%M:%SZ}"
        said.append(f"acted at {when} for run {dead.run}, which did not renew it: {dead.outcome}")
    if stands.timers and not stands.armed:
        said.append("a timer is left that does nothing")
    return "; ".join(said)


def clear(node: Node) -> None:
    """Remove the tombstone, once it was obeyed."""
    Switch(node).clear()


def _disarm(run: Run, node: Node, whose: str) -> Answer:
    return _unless_busy(run, node, lambda: Switch(node).disarm(whose, timeout=REVERT_LIMIT))


def _unless_busy(run: Run, node: Node, ask: Callable[[], Answer]) -> Answer:
    """Ask, and as long as the old binary is being put back ask again."""
    answer = Answer("busy")

    def missing() -> str:
        nonlocal answer
        answer = ask()
        return "the old binary is being put back" if answer.stands == "busy" else ""

    run.until(
        missing,
        step="dead-man's switch",
        node=node.name,
        limit=REVERT_LIMIT,
        every=POLL,
        failure=lambda what: Fired(node, f"after {REVERT_LIMIT:g} s {what} still", None),
    )
    return answer


def _own(whose: str, answer: Answer) -> Tombstone | None:
    found = answer.tombstone
    return found if found is not None and found.run == whose else None


def _fired(run: Run, node: Node, answer: Answer) -> Fired:
    if found := _own(run.id, answer):
        return Fired(
            node, f"its dead-man's switch acted, as this run did not renew it in time: {found.outcome}", found
        )
    if answer.stands == "another":
        return Fired(node, f"run {answer.whose} took its dead-man's switch over", None)
    return Fired(node, "its dead-man's switch was disarmed by somebody else", None)
