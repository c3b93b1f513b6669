"""Is this node well, asked on the node itself (runbook steps 3 and 4).

``systemctl restart`` of a binary that dies at once answers well; systemd's own record of the main process and its restarts
tells within milliseconds what sixty health polls would take a minute to find.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from veza_tasks.adapters.host import Reply, ensure
from veza_tasks.adapters.node import Health, Node, Unit
from veza_tasks.errors import HealthCheckFailed
from veza_tasks.run import Run

STARTING, SETTLING = 0.02, 0.1
"""Seconds between two looks at a node that is starting, and at one that answers and is watched for a while."""
WATCHED = 0.25
"""Seconds between two looks at what else must stay true meanwhile."""
OK = 200


def restart(run: Run, node: Node, before: Unit) -> None:
    """Restart the unit that was in the state ``before``; whether the new process lives is for ``wait_until_healthy`` to see.

    Raises:
        HealthCheckFailed: systemd refused, or the old process did not end in time.
    """
    replies: list[Reply] = []

    def change() -> Reply:
        replies.append(node.restart(timeout=run.settings.health_timeout))
        return replies[-1]

    def came_true() -> bool:
        return bool(replies) or node.health().unit.main_pid not in (0, before.main_pid)

    ensure(change, came_true)
    if replies and replies[-1].status:
        raise _failed(node, f"systemctl restart {node.unit}: {replies[-1].complaint}")


def wait_until_healthy(
    run: Run, node: Node, *, meanwhile: Callable[[], None], once_healthy: Callable[[], None]
) -> str:
    """Wait for 200 within ``HEALTH_TIMEOUT``, then ``HEALTH_SETTLE`` with the main process unchanged.

    ``meanwhile`` is called every now and then: what else must stay true. ``once_healthy`` is called at the first 200,
    so that what it verifies costs no time of its own. Both end the wait by raising. Gives the outcome in words.

    Raises:
        HealthCheckFailed: no 200 in time, or the process died or was restarted (at once, with its last log lines).
    """
    settings = run.settings
    # A restart does not set NRestarts back if it meets the unit between two tries, so only its growth tells.
    restarts = node.health().unit.restarts
    alive: Unit | None = None
    settled_at: float | None = None
    began = run.clock.monotonic()
    served_after = 0.0
    watched_at = -math.inf

    def missing() -> str:
        nonlocal alive, settled_at, served_after, watched_at
        if run.clock.monotonic() - watched_at >= WATCHED:
            meanwhile()
            watched_at = run.clock.monotonic()
        health = node.health()
        unit = health.unit
        died = unit.restarts > restarts or (alive is not None and unit.main_pid != alive.main_pid)
        if died or unit.active in ("failed", "inactive") or unit.sub == "auto-restart":
            raise _failed(node, f"the process died: unit is {unit}, restarted {unit.restarts} times")
        if unit.main_pid:
            alive = unit
        if health.http != OK:
            settled_at = None
            return f"{_answer(health)} instead of 200"
        now = run.clock.monotonic()
        if settled_at is None:
            served_after = now - began
            settled_at = now + settings.health_settle
            once_healthy()
            now = run.clock.monotonic()
        return "" if now >= settled_at else "200; watching that the process stays"

    def pause() -> float:
        return STARTING if settled_at is None else max(0.0, min(SETTLING, settled_at - run.clock.monotonic()))

    run.until(
        missing,
        step="health",
        node=node.name,
        limit=settings.health_timeout + settings.health_settle,
        every=pause,
        failure=lambda what: _failed(
            node, f"no 200 from {node.health_url} within {settings.health_timeout:g} s: {what}"
        ),
    )
    return f"200 after {served_after:.1f} s"


def _answer(health: Health) -> str:
    return str(health.http) if health.http else f"no answer (unit {health.unit})"


def _failed(node: Node, what: str) -> HealthCheckFailed:
    return HealthCheckFailed(f"{node.name}: {what}\nLast log lines of {node.unit}:\n{node.log_tail()}")
