"""A node's place in HAProxy's rotation: out of it, back into it, and proof that requests reach it again.

Before a node is taken out it is marked as ours. A server that is out with the mark is *explained* and a re-run takes it on;
without the mark it is somebody else's decision and is never undone by us. Runbook steps 2, 5 and 6.
"""

from __future__ import annotations

import json

from veza_tasks.adapters.haproxy import Pool, Server, State
from veza_tasks.adapters.node import Node
from veza_tasks.errors import DrainTimeout, Interrupted, NotRouted, Refused
from veza_tasks.events import InRotation, Note, OutOfRotation, Warned
from veza_tasks.run import Run

DRAINED = "drained"
"""Mark: which run took this node out, who, when and why."""
POLL = 0.05
CLOSED_WITHIN = 5.0
"""Seconds that closed sessions may take to be gone."""


def drained_by(node: Node) -> str:
    """Who took the node out and why, in words; empty where nobody of us did."""
    mark = node.read_mark(DRAINED)
    return explain(mark)


def explain(mark: str) -> str:
    """A mark in words; a mark that is not ours to read is given as it stands."""
    try:
        note = json.loads(mark)
        return f"{note['why']} (run {note['run']}, {note['who']}, {note['when']})"
    except (ValueError, KeyError, TypeError):
        return mark


def check_ours(node: Node, server: Server) -> str:
    """Who of us took the node out, in words; empty where it is in rotation.

    Raises:
        Refused: it is out of rotation without our mark: somebody else's decision.
    """
    if server.state is State.READY:
        return ""
    marked = drained_by(node)
    if not marked:
        raise Refused(
            f"{node.name} is out of rotation ({server}) and not by us: somebody else's decision, which we leave alone",
            state="Nothing was changed on it.",
            next_command="whoever took it out puts it back; then the same command again",
        )
    return marked


def others_serving(pool: Pool, node: Node) -> list[Server]:
    """The servers that go on serving without this node."""
    return [server for name, server in pool.servers.items() if name != node.server and server.serves]


def drain(run: Run, node: Node, *, why: str, policy: str | None = None, timeout: float | None = None) -> str:
    """Take a node out of rotation and wait until it serves nothing; twice is a no-op. Gives the outcome in words.

    ``policy`` is what happens at the timeout: ``abort`` puts it back, ``close`` moves it to ``maint`` and cuts its sessions
    (clients bound by a cookie never leave a server in ``drain``). Both default to the knobs.

    Raises:
        Refused: it is out already and not by us, or nobody else serves.
        DrainTimeout: it still served at the timeout; it is back in rotation.
    """
    settings = run.settings
    policy = policy or settings.drain_policy
    timeout = settings.drain_timeout if timeout is None else timeout
    balancer = run.fleet.load_balancer
    pool = balancer.pool()
    server = pool.server(node.server)
    marked = check_ours(node, server)
    if server.serves and not others_serving(pool, node) and not run.only_imagined:
        raise Refused(
            f"{node.name} is the last server of {balancer.pool_name} that serves; it is not drained",
            state="Nothing was changed on it.",
            next_command="bring another server up, then the same command again",
        )
    if not marked:
        node.mark(DRAINED, run.note(why=why))
        balancer.set_state(node.server, State.DRAIN)
    run.emit(OutOfRotation(node.name))

    def missing() -> str:
        now = keep_out(run, node)
        return "" if now.idle else f"{now.sessions} sessions, {now.queued} queued"

    try:
        run.until(
            missing,
            step="drain",
            node=node.name,
            limit=timeout,
            every=POLL,
            failure=lambda what: DrainTimeout(f"{node.name} still serves after {timeout:g} s: {what}"),
        )
    except (DrainTimeout, Interrupted) as stop:
        if isinstance(stop, DrainTimeout) and policy == "close":
            return _close(run, node, stop)
        if not marked:
            _undo(run, node)
        raise
    return "0 sessions" + (f"; it was out already: {marked}" if marked else "")


def keep_out(run: Run, node: Node) -> Server:
    """Take the node out again if something put it back meanwhile: a reload of HAProxy forgets drains. Gives its server."""
    balancer = run.fleet.load_balancer
    server = balancer.server(node.server)
    if server.state is State.READY and not run.plan:
        run.emit(
            Warned(
                f"{node.name} was put back into rotation by somebody or by a reload of HAProxy; taking it out again"
            )
        )
        balancer.set_state(node.server, State.DRAIN)
        server = balancer.server(node.server)
    return server


def put_back(run: Run, node: Node, *, drained: bool) -> str:
    """Make the server ready and wait until HAProxy's own checks have it serving. Gives the outcome in words.

    ``drained``: this run took it out or over. If not, somebody else may have taken it out since it was looked at.

    Raises:
        Refused: it is out and not by us.
        NotRouted: HAProxy does not take it back within ``READY_TIMEOUT``.
    """
    balancer = run.fleet.load_balancer
    server = balancer.server(node.server)
    if not drained:
        check_ours(node, server)
    if server.state is not State.READY or run.plan:  # a plan has not taken it out
        balancer.set_state(node.server, State.READY)
    seen = ""

    def missing() -> str:
        nonlocal seen
        server = balancer.server(node.server)
        seen = str(server)
        return "" if server.serves else seen

    run.until(
        missing,
        step="ready",
        node=node.name,
        limit=run.settings.ready_timeout,
        every=POLL,
        failure=lambda what: NotRouted(
            f"{node.name}: HAProxy does not route to it after {run.settings.ready_timeout:g} s: {what}"
        ),
    )
    run.emit(InRotation(node.name))
    return seen


def check_routed(run: Run, node: Node) -> str:
    """200 through the load balancer *and* this server's own counter moved: a bare 200 can come from a peer.

    Removes the mark: the node is back. Gives the outcome in words.

    Raises:
        NotRouted: not both within ``LB_TIMEOUT``.
    """
    settings = run.settings
    balancer = run.fleet.load_balancer
    pool = balancer.pool()
    url = balancer.url + settings.health_path
    before = pool.server(node.server).total
    said = ""

    def missing() -> str:
        nonlocal before, said
        answer = balancer.get(settings.health_path)
        server = balancer.server(node.server)
        # A reload of HAProxy starts the counters anew.
        before = min(before, server.total)
        if answer != "200":
            return f"{url} answers {answer}"
        if not server.serves:
            return f"HAProxy does not route to it: {server}"
        if server.total > before:
            said = f"200, and {node.name} itself served ({server.total - before} requests)"
        elif pool.hashed:
            said = f"200; with balance {pool.algorithm} our requests may never reach it: HAProxy's state is the proof"
        return "" if said else f"200, but {node.name} has served none yet"

    run.until(
        missing,
        step="lb-check",
        node=node.name,
        limit=settings.lb_timeout,
        every=POLL,
        failure=lambda what: NotRouted(f"{node.name}: after {settings.lb_timeout:g} s {what}"),
    )
    node.unmark(DRAINED)
    return said


def _close(run: Run, node: Node, late: DrainTimeout) -> str:
    balancer = run.fleet.load_balancer
    run.emit(Warned(f"{late.message}; closing them"))

    def missing() -> str:
        server = balancer.server(node.server)
        return "" if server.idle else f"{server.sessions} sessions, {server.queued} queued"

    with run.signals.shield(f"closing the sessions of {node.name}, then stopping safely"):
        balancer.set_state(node.server, State.MAINT)
        balancer.close_sessions(node.server)
        run.until(
            missing,
            step="drain",
            node=node.name,
            limit=CLOSED_WITHIN,
            every=POLL,
            failure=lambda what: DrainTimeout(
                f"{node.name} still serves in maint with its sessions closed: {what}",
                state=f"{node.name} is in maint, marked as ours.",
            ),
        )
    return "sessions closed"


def _undo(run: Run, node: Node) -> None:
    run.fleet.load_balancer.set_state(node.server, State.READY)
    run.emit(InRotation(node.name))
    node.unmark(DRAINED)
    run.emit(Note(f"{node.name} is back in rotation, as it was"))
