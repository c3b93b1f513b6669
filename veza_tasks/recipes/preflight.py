"""Runbook, "Pre-flight checklist": every check as one row, all of them, before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from veza_tasks import migrations
from veza_tasks.adapters.deadman import Stands
from veza_tasks.adapters.haproxy import Pool, State
from veza_tasks.adapters.incus import Instance
from veza_tasks.adapters.node import KEPT, PREVIOUS, Binaries, Node
from veza_tasks.adapters.prometheus import EMPTY, NoData
from veza_tasks.capabilities import deadman, gate
from veza_tasks.capabilities.artifact import Artifact, Release, read_artifact
from veza_tasks.capabilities.rotation import DRAINED, explain, others_serving
from veza_tasks.errors import ConfigError, Refused, ReleaseError
from veza_tasks.events import ArtifactRead, Checked, Colour
from veza_tasks.migrations.report import one_line
from veza_tasks.run import Run
from veza_tasks.settings import lint_choices

ROWS = (
    "artifact",
    "migrations",
    "hosts",
    "nodes",
    "last-known-good",
    "haproxy",
    "pool",
    "states",
    "capacity",
    "sli-data",
    "sli-now",
    "game-day",
)
NEVER_ACCEPTED = frozenset({"artifact", "hosts", "last-known-good", "capacity"})
"""Rows that no ``--accept`` lets pass; ``hosts`` holds the host keys."""
GAME_DAY = "game-day"
"""Mark that anybody may set on the load balancer's instance: no canary while it is there."""
MOST_SKEW = 5.0
"""Seconds that a node's clock may be off ours."""

Row = tuple[Colour, str]


@dataclass(frozen=True)
class LastKnownGood:
    """The binary that a node goes back to: a local file (whose ``architecture`` is known), or a file on the node."""

    release: Release
    architecture: str | None = None
    local: Path | None = None
    on_node: str | None = None


@dataclass
class Cleared:
    """What preflight saw, for the steps that follow."""

    artifact: Artifact
    seen: dict[str, Binaries]
    last_known_good: LastKnownGood
    out: Collection[str]
    """Nodes that did not serve."""
    switch: Stands | None
    """The canary's dead-man's switch; None where that could not be looked at and ``nodes`` was accepted."""


@dataclass
class _Looking:
    """Gathers rows; a red one that was accepted does not count."""

    run: Run
    refused: list[str] = field(default_factory=list)

    def row(self, check: str, look: Callable[[], Row]) -> bool:
        try:
            colour, detail = look()
        except ReleaseError as error:
            colour, detail = (
                Colour.RED,
                error.message + (f"\n{error.next_command}" if error.next_command else ""),
            )
        accepted = self.run.accepted.get(check, "") if colour is Colour.RED else ""
        self.run.emit(Checked(check, colour, detail, accepted))
        if colour is Colour.RED and not accepted:
            self.refused.append(check)
        return colour is not Colour.RED

    def skip(self, checks: tuple[str, ...], why: str) -> None:
        for check in checks:
            self.row(check, lambda: (Colour.RED, f"not looked at: {why}"))


def accepted(ids: list[str], reason: str) -> Mapping[str, str]:
    """What ``--accept ID --reason TEXT`` lets pass.

    Raises:
        ConfigError: an unknown row, one that is never accepted, or no reason.
    """
    problems = [
        f"--accept {name}: there is no such row; rows are {', '.join(ROWS)}."
        for name in ids
        if name not in ROWS
    ]
    problems += [f"--accept {name}: this row is never accepted." for name in ids if name in NEVER_ACCEPTED]
    if ids and not reason.strip():
        problems.append("--accept wants a --reason, which is shown and recorded.")
    if problems:
        raise ConfigError(problems, next_command="inv preflight")
    return dict.fromkeys(ids, reason.strip())


def preflight(run: Run, *, sha256: str | None = None, first: Node | None = None) -> Cleared:
    """Look at everything a release relies on; ``first`` is the first node that it reaches (default: the canary).

    Raises:
        Refused: at least one row is red and not accepted. Nothing was changed.
    """
    settings, fleet = run.settings, run.fleet
    first = first or fleet.canary
    looking = _Looking(run)
    artifacts: list[Artifact] = []
    instances: dict[str, Instance] = {}
    seen: dict[str, Binaries] = {}
    good: list[LastKnownGood] = []
    pools: list[Pool] = []
    switches: list[Stands] = []

    def look_at_artifact() -> Row:
        if settings.artifact is None:
            raise Refused(
                "no artifact named", next_command="inv preflight --artifact /path/to/veza-api-vX.Y.Z"
            )
        artifacts.append(read_artifact(settings.artifact, sha256=sha256))
        found = artifacts[0]
        run.emit(ArtifactRead(found.release.digest, found.release.version))
        pinned = ", as signed off" if sha256 else ""
        size = f"{found.size / (1 << 20):.1f} MiB"
        return (
            Colour.GREEN,
            f"{found.release.version}, {found.architecture}, {size}, sha256 {found.release.digest}{pinned}",
        )

    def look_at_hosts() -> Row:
        for found in run.each(lambda incus: incus.instances(), list(fleet.incus.values())):
            instances.update(found)
        return Colour.GREEN, f"{', '.join(fleet.hosts)}: host keys verified, Incus answers"

    def look_at_nodes() -> Row:
        return _nodes(run, artifacts[0] if artifacts else None, instances, seen, switches)

    def look_at_pool() -> Row:
        pools.append(fleet.load_balancer.pool())
        return _haproxy(run, pools[0])

    def look_at_last_known_good() -> Row:
        if fleet.canary.name not in seen:
            return Colour.RED, f"not looked at: {fleet.canary.name} could not be looked at"
        good.append(
            last_known_good(
                run,
                fleet.canary,
                seen[fleet.canary.name],
                artifacts[0].release if artifacts else None,
                switches[0] if switches else None,
            )
        )
        wanted = instances[fleet.canary.name].architecture
        if good[0].architecture not in (None, wanted):
            return (
                Colour.RED,
                f"{good[0].local} is for {good[0].architecture}, {fleet.canary.name} is {wanted}",
            )
        return _last_known_good(
            run, good[0], seen[fleet.canary.name], artifacts[0].release if artifacts else None
        )

    with run.step("preflight") as done:
        looking.row("artifact", look_at_artifact)
        looking.row("migrations", lambda: _migrations(run))
        if looking.row("hosts", look_at_hosts):
            looking.row("nodes", look_at_nodes)
            looking.row("last-known-good", look_at_last_known_good)
            if looking.row("haproxy", look_at_pool) or pools:
                looking.row("pool", lambda: _pool(run, pools[0]))
                looking.row("states", lambda: _states(run, pools[0], instances))
                release = artifacts[0].release if artifacts else None
                looking.row("capacity", lambda: _capacity(run, release, seen, pools[0], first))
            else:
                looking.skip(("pool", "states", "capacity"), "HAProxy does not answer")
        else:
            looking.skip(ROWS[3:9], "a host is out of reach")
        _look_at_slis(
            run, looking, artifacts[0].release if artifacts else None, seen, pools[0] if pools else None
        )
        looking.row("game-day", lambda: _game_day(run, instances))
        if looking.refused:
            raise _refusal(looking.refused)
        done("all clear" + (f", with {', '.join(run.accepted)} accepted" if run.accepted else ""))
    servers = pools[0].servers if pools else {}
    out = [
        node.name
        for node in fleet.released_to
        if node.server not in servers or not servers[node.server].serves
    ]
    return Cleared(artifacts[0], seen, good[0], out, switches[0] if switches else None)


def last_known_good(
    run: Run, node: Node, seen: Binaries, artifact: Release | None, switch: Stands | None = None
) -> LastKnownGood:
    """Which binary this node goes back to: ``ROLLBACK_BINARY``, else the node's ``veza-api.previous``.

    With ``ROLLBACK_BINARY=running``, where an earlier run left an unproven one running, it is the one before, which that
    run's dead-man's ``switch`` names.

    Raises:
        Refused: there is none, or it cannot be read.
    """
    wanted = run.settings.rollback_binary
    if wanted == "running":
        if switch and switch.armed and seen.running != switch.armed.digest:
            before = Release(switch.armed.digest, seen.version(switch.armed.digest))
            return LastKnownGood(before, on_node=str(node.directory / KEPT / before.digest))
        return _what_runs(node, seen, artifact)
    if wanted and not PurePosixPath(wanted).is_relative_to(node.directory):
        local = Path(wanted)
        found = read_artifact(local)
        return LastKnownGood(found.release, found.architecture, local=local)
    path = wanted or str(node.directory / PREVIOUS)
    digest = seen.previous if path == str(node.directory / PREVIOUS) else node.digest(path)
    if digest is None:
        raise Refused(
            f"{node.name} has no {path}, and auto-rollback cannot work without a last known good binary",
            next_command="ROLLBACK_BINARY=/path/to/old/veza-api (local, under INSTALL_DIR on the node, or the word running)",
        )
    return LastKnownGood(Release(digest, seen.version(digest)), on_node=path)


def _what_runs(node: Node, seen: Binaries, artifact: Release | None) -> LastKnownGood:
    digest, path = seen.running, f"/proc/{seen.unit.main_pid}/exe"
    if digest is not None and artifact is not None and digest == artifact.digest:
        # An earlier run got as far as starting the artifact: what it replaced is the newest kept binary.
        kept = [name for name in seen.kept if len(name) == len(digest) and name != digest]
        digest, path = (kept[0], str(node.directory / "veza-api.kept" / kept[0])) if kept else (None, "")
    if digest is None:
        raise Refused(
            f"{node.name}: ROLLBACK_BINARY=running, but nothing else than the artifact runs or ran there"
        )
    return LastKnownGood(Release(digest, seen.version(digest)), on_node=path)


def _last_known_good(run: Run, good: LastKnownGood, seen: Binaries, artifact: Release | None) -> Row:
    where = f"{good.local} (local)" if good.local else f"{good.on_node} on {run.fleet.canary.name}"
    said = f"{good.release.version}, sha256 {good.release.digest}, {where}"
    if artifact and good.release.digest == artifact.digest:
        return Colour.RED, f"{said} is the artifact itself: there would be nothing to go back to"
    if seen.running not in (good.release.digest, artifact.digest if artifact else None):
        return Colour.YELLOW, f"{said}; the node now runs another binary: sha256 {seen.running or 'none'}"
    return Colour.GREEN, said


def _migrations(run: Run) -> Row:
    settings = run.settings
    try:
        verdict = migrations.check(
            [str(path) for path in settings.migrations_dir],
            base=settings.migrations_base,
            cwd=Path.cwd(),
            forced=settings.force_migrate,
            choices=lint_choices(settings),
        )
    except migrations.CannotTell as error:
        return Colour.RED, str(error)
    allowed = [f"{one_line(passed.finding)} (allowed: {passed.reason})" for passed in verdict.allowed]
    rows = [verdict.summary, *map(one_line, verdict.findings), *allowed]
    return Colour(verdict.colour), "\n".join(rows)


def _nodes(
    run: Run,
    artifact: Artifact | None,
    instances: Mapping[str, Instance],
    seen: dict[str, Binaries],
    switches: list[Stands],
) -> Row:
    bad: list[str] = []
    odd: list[str] = []
    running: list[Node] = []
    for node in run.fleet.released_to:
        instance = instances.get(node.name)
        if instance is None or instance.status != "Running":
            bad.append(
                f"{node.name}: Incus says {instance.status if instance else 'there is no such instance'}"
            )
        else:
            running.append(node)
        if instance and artifact and instance.architecture != artifact.architecture:
            bad.append(
                f"{node.name}: is {instance.architecture}, the artifact is for {artifact.architecture}"
            )
    looked: dict[str, str] = {}

    def look(node: Node) -> None:
        try:
            seen[node.name] = node.look()
            if node is run.fleet.canary:
                switches.append(deadman.look(node))
        except ReleaseError as error:
            looked[node.name] = error.message

    run.each(look, running)
    bad += looked.values()
    for stands in switches:
        said = f"{run.fleet.canary.name}: its dead-man's switch {deadman.describe(stands)}"
        if stands.armed and stands.armed.reverting:
            bad.append(said)
        elif stands.armed or stands.tombstone:
            odd.append(said)
    now = run.clock.now().timestamp()
    for name, found in seen.items():
        if not found.unit.is_up:
            # A node that an earlier run left out may well be down: this run is what brings it back.
            (odd if DRAINED in instances[name].marks else bad).append(f"{name}: the unit is {found.unit}")
        if artifact and found.free < 2 * artifact.size:
            bad.append(
                f"{name}: {found.free >> 20} MiB free, twice the artifact is {2 * artifact.size >> 20} MiB"
            )
        if abs(found.now - now) > MOST_SKEW:
            bad.append(f"{name}: its clock is {found.now - now:+.0f} s off ours")
    if bad:
        return Colour.RED, "\n".join(bad + odd)
    said = ", ".join(
        f"{name} runs {Release(f.running, f.version(f.running)) if f.running else 'nothing'}"
        for name, f in seen.items()
    )
    return (Colour.YELLOW if odd else Colour.GREEN), "\n".join([*odd, said])


def _haproxy(run: Run, pool: Pool) -> Row:
    bad = []
    for node in run.fleet.released_to:
        server = pool.servers.get(node.server)
        if server is None:
            bad.append(f"pool {run.settings.pool_backend} has no server {node.server}")
        elif not server.checked:
            bad.append(f"{node.server} has no health check: HAProxy would call it up whatever it does")
    if bad:
        return Colour.RED, "\n".join(bad)
    return (
        Colour.GREEN,
        f"answers; {run.settings.pool_backend}: {', '.join(sorted(pool.servers))} (balance {pool.algorithm})",
    )


def _pool(run: Run, pool: Pool) -> Row:
    known = {node.server: node.name for node in run.fleet.nodes.values()}
    named = {node.server for node in run.fleet.released_to} | set(run.settings.ignored_servers)
    strangers = [name for name in pool.servers if name not in named]
    if not strangers:
        return Colour.GREEN, "every server is the canary, a peer or ignored"
    peers = [*run.settings.peer_nodes, *(known.get(name, name) for name in strangers)]
    return (
        Colour.RED,
        f"{', '.join(strangers)} would be left on the old binary; use PEER_NODES='{' '.join(peers)}' or ignored_servers",
    )


def _states(run: Run, pool: Pool, instances: Mapping[str, Instance]) -> Row:
    bad, explained = [], []
    for node in run.fleet.released_to:
        server = pool.servers.get(node.server)
        if server is None or server.serves:
            continue
        instance = instances.get(node.name)
        mark = instance.marks.get(DRAINED) if instance else None
        if mark:
            explained.append(f"{node.name}: {server}; taken on: {explain(mark)}")
        elif server.state is State.READY:
            bad.append(f"{node.name}: does not serve: {server}")
        else:
            bad.append(
                f"{node.name}: {server}, and not by us: somebody else's decision, which we leave alone"
            )
    if bad:
        return Colour.RED, "\n".join(bad + explained)
    return (
        (Colour.YELLOW, "\n".join(explained)) if explained else (Colour.GREEN, "every server is in rotation")
    )


def _capacity(
    run: Run, artifact: Release | None, seen: Mapping[str, Binaries], pool: Pool, first: Node
) -> Row:
    """Is another server up while the first node is out that must be taken out? What has the artifact is put back before."""

    def has_it(node: Node) -> bool:
        found = seen.get(node.name)
        return bool(
            artifact and found and found.installed == found.running == artifact.digest and found.unit.is_up
        )

    reached = run.fleet.released_to[run.fleet.released_to.index(first) :]
    put_back = list(takewhile(has_it, reached))
    if put_back == reached:
        return Colour.GREEN, "every node runs the artifact: none is taken out"
    node = reached[len(put_back)]
    others = dict.fromkeys([*(s.name for s in others_serving(pool, node)), *(n.server for n in put_back)])
    if not others:
        return Colour.RED, f"no other server than {node.server} is up: nobody would serve while it is out"
    return (
        Colour.GREEN,
        f"{', '.join(others)} serve{'s' if len(others) == 1 else ''} while {node.server} is out",
    )


def _look_at_slis(
    run: Run, looking: _Looking, artifact: Release | None, seen: Mapping[str, Binaries], pool: Pool | None
) -> None:
    """Are there data, and are they green now? Judged on the canary, or on a peer where the canary is not the baseline."""
    settings = run.settings
    baseline = _baseline(run, artifact, seen, pool)
    uptime = seen[baseline.name].uptime if baseline.name in seen else None
    probes: list[gate.Probe] = []

    def unscraped() -> bool:
        """Whether the process has just started and Prometheus has not come by yet: no reason to refuse a second try."""
        first = probes[0].asked[0].answer
        just_started = uptime is not None and uptime < settings.prom_max_age
        return just_started and isinstance(first, NoData) and first.reason == EMPTY

    def data() -> Row:
        probes.append(gate.probe(run.fleet.prometheus, settings, baseline.name, came_back=uptime or math.inf))
        probe = probes[0]
        asked = gate.queries(settings, baseline.name, came_back=uptime or math.inf)
        shown = f"p95: {asked.p95}\nerror rate: {asked.error_rate}"
        if probe.verdict is gate.Verdict.NO_DATA:
            return (Colour.YELLOW if unscraped() else Colour.RED), f"{baseline.name}: {probe.detail}\n{shown}"
        if probe.verdict is gate.Verdict.WAITING:
            # A process that has just started may not have been asked yet; one that has not is no judge of a canary.
            settled = uptime is None or uptime >= settings.sli_range
            idle = settled and probe.number("requests") == 0
            return (Colour.RED if idle else Colour.YELLOW), f"{baseline.name}: {probe.detail}\n{shown}"
        coarse = gate.resolution(run.fleet.prometheus, settings, baseline.name)
        if isinstance(coarse, NoData):
            return Colour.YELLOW, f"{baseline.name}: buckets unknown: {coarse.reason}\n{shown}"
        if coarse:
            return Colour.YELLOW, "\n".join([*coarse, shown])
        return Colour.GREEN, f"{baseline.name}: both queries give data\n{shown}"

    def now() -> Row:
        if not probes:
            return Colour.RED, "not looked at: Prometheus gave nothing"
        probe = probes[0]
        if probe.verdict in (gate.Verdict.GREEN, gate.Verdict.RED):
            return Colour(probe.verdict.value), f"{baseline.name}: {probe.detail}"
        if probe.verdict is gate.Verdict.NO_DATA and not unscraped():
            return Colour.RED, f"{baseline.name}: {probe.detail}"
        return Colour.YELLOW, f"{baseline.name}: cannot tell yet: {probe.detail}"

    looking.row("sli-data", data)
    looking.row("sli-now", now)


def _baseline(run: Run, artifact: Release | None, seen: Mapping[str, Binaries], pool: Pool | None) -> Node:
    """The first node that serves and does not run the artifact yet; the canary where there is none."""
    for node in run.fleet.released_to:
        server = pool.servers.get(node.server) if pool else None
        runs = seen[node.name].running if node.name in seen else None
        if server and server.serves and not (artifact and runs == artifact.digest):
            return node
    return run.fleet.canary


def _game_day(run: Run, instances: Mapping[str, Instance]) -> Row:
    settings = run.settings
    balancer = instances.get(settings.load_balancer.instance)
    if balancer and (mark := balancer.marks.get(GAME_DAY)):
        return Colour.RED, f"{balancer.name} is marked: {mark}"
    if not settings.game_day_query:
        return Colour.GREEN, "no mark on the fleet (no GAME_DAY_QUERY set)"
    rows = run.fleet.prometheus.series(settings.game_day_query)
    if isinstance(rows, NoData):
        return Colour.RED, f"cannot tell: {rows.reason}"
    if rows:
        return Colour.RED, f"GAME_DAY_QUERY gives {len(rows)} series: {dict(rows[0][0])}"
    return Colour.GREEN, "no mark on the fleet, and GAME_DAY_QUERY gives nothing"


def _refusal(refused: list[str]) -> Refused:
    hopeless = [name for name in refused if name in NEVER_ACCEPTED]
    way_out = [f"--accept {name}" for name in refused if name not in NEVER_ACCEPTED]
    return Refused(
        f"preflight is red: {', '.join(refused)}",
        state="Nothing was changed.",
        next_command="put it right, then the same command again"
        + ("" if hopeless else f"; or, knowing why: {' '.join(way_out)} --reason TEXT"),
    )
