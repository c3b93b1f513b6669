"""What is true of every node, read from the fleet and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from veza_tasks.adapters.haproxy import Pool
from veza_tasks.adapters.incus import Instance
from veza_tasks.adapters.node import Node
from veza_tasks.capabilities.lock import Holder, holder, lock_name
from veza_tasks.capabilities.rotation import explain
from veza_tasks.errors import FleetError, ReleaseError
from veza_tasks.events import Warned
from veza_tasks.recipes.preflight import last_known_good
from veza_tasks.run import Run


@dataclass(frozen=True)
class NodeStatus:
    """One node; digests are whole sha256, ``uptime`` seconds. What could not be read is ``None``, and ``problems`` says why."""

    node: str
    role: str
    installed: str | None = None
    running: str | None = None
    version: str | None = None
    unit: str | None = None
    uptime: float | None = None
    haproxy: str | None = None
    operational: str | None = None
    weight: int | None = None
    sessions: int | None = None
    serves: bool | None = None
    health: int | None = None
    last_known_good: str | None = None
    marks: dict[str, str] | None = None
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def status(run: Run) -> list[NodeStatus]:
    """Look at every node of the fleet at once; a node that does not answer is told, not raised."""
    fleet = run.fleet
    troubles: list[str] = []
    instances: dict[str, Instance] = {}
    pool: Pool | None = None
    for incus in fleet.incus.values():
        try:
            instances.update(incus.instances())
        except ReleaseError as error:
            troubles.append(error.message)
    try:
        pool = fleet.load_balancer.pool()
    except ReleaseError as error:
        troubles.append(error.message)
    return run.each(
        lambda node: _one(run, node, instances.get(node.name), pool, troubles), list(fleet.nodes.values())
    )


def lock_holder(run: Run) -> Holder | None:
    """Who is at work on the pool; None where nobody is, or where that cannot be found out, which is told."""
    try:
        return holder(run.fleet.for_records, lock_name(run.settings))
    except FleetError as error:
        run.emit(Warned(f"who holds the lock is not known: {error.message}"))
        return None


def in_words(mark: str) -> str:
    """A mark for people: a green record as what was proven for how long, any other as ``explain`` has it."""
    try:
        note = json.loads(mark)
        proof = f"{note['version']} ({note['digest'][:12]}) for {note['window']:g} s"
        return f"{proof} (run {note['run']}, {note['who']}, {note['when']})"
    except (ValueError, KeyError, TypeError):
        return explain(mark)


def as_rows(found: Sequence[NodeStatus]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column titles and rows for people; digests are shortened."""
    columns = ("node", "role", "runs", "installed", "unit", "up", "haproxy", "health", "last good", "marks")

    def cell(value: object) -> str:
        return "?" if value is None else str(value)

    def short(digest: str | None) -> str:
        return digest[:12] if digest else "-"

    def row(node: NodeStatus) -> tuple[str, ...]:
        uptime = "-" if node.uptime is None else f"{node.uptime:.0f} s"
        haproxy = f"{cell(node.haproxy)}, {cell(node.operational)}, weight {cell(node.weight)}, {cell(node.sessions)} sessions"
        marks = "\n".join(f"{key}: {in_words(value)}" for key, value in (node.marks or {}).items())
        runs = (
            f"{cell(node.version)} ({short(node.running)})"
            if node.running
            else "?"
            if node.unit is None
            else "nothing"
        )
        return (
            node.node,
            node.role,
            runs,
            "the same" if node.installed and node.installed == node.running else short(node.installed),
            cell(node.unit),
            uptime,
            haproxy,
            cell(node.health),
            short(node.last_known_good),
            marks or "-",
        )

    return columns, [row(node) for node in found]


def _one(
    run: Run, node: Node, instance: Instance | None, pool: Pool | None, troubles: list[str]
) -> NodeStatus:
    known: dict[str, Any] = {"node": node.name, "role": _role(run, node)}
    problems = [*troubles]
    if instance:
        known["marks"] = dict(instance.marks)
        if instance.status != "Running":
            problems.append(f"Incus says {instance.status}")
    elif not troubles:
        problems.append("Incus has no such instance")
    server = pool.servers.get(node.server) if pool else None
    if server:
        known |= {
            "haproxy": str(server.state),
            "operational": server.status,
            "weight": server.weight,
            "sessions": server.sessions + server.queued,
            "serves": server.serves,
        }
    elif pool:
        problems.append(f"pool {run.settings.pool_backend} has no server {node.server}")
    try:
        seen = node.look()
        known |= {
            "installed": seen.installed,
            "running": seen.running,
            "version": seen.version(seen.running),
            "unit": str(seen.unit),
            "uptime": seen.uptime if seen.unit.is_up else None,
            "health": node.health().http,
        }
        known["last_known_good"] = last_known_good(run, node, seen, None).release.digest
    except ReleaseError as error:
        problems.append(error.message)
    return NodeStatus(**known, problems=tuple(dict.fromkeys(problems)))


def _role(run: Run, node: Node) -> str:
    if node.name == run.settings.canary_node:
        return "canary"
    return "peer" if node.name in run.settings.peer_nodes else "-"
