"""The runbook "Canary release — backend-api", its numbered steps by name and in order.

Every step looks first and does only what is missing, so the same command again is the resume.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from veza_tasks.adapters.haproxy import State
from veza_tasks.adapters.node import KEPT, Binaries, Node
from veza_tasks.capabilities import deadman, gate, health, install, rotation
from veza_tasks.capabilities.artifact import Release
from veza_tasks.errors import (
    DrainTimeout,
    FleetError,
    HealthCheckFailed,
    HostKeyRefused,
    Interrupted,
    NeedsHuman,
    NotRouted,
    Refused,
    ReleaseError,
    RollbackFailed,
    RolledBack,
    StepFailed,
)
from veza_tasks.events import Event, Planned, Probed, StepStarted, Waiting, Warned
from veza_tasks.recipes.preflight import Cleared, LastKnownGood, preflight
from veza_tasks.run import Run

ROLLBACK_DRAIN = 5.0
"""Seconds that a bad canary's requests get to finish before its sessions are closed."""
ROLLBACK_PATIENCE = 60.0
"""Seconds for which a rollback tries again while the fleet is out of reach."""


def canary(run: Run, *, sha256: str | None = None, rewatch: bool = False) -> None:
    """One release, from the checklist to the last peer.

    Raises:
        Refused: nothing is changed, or everything was undone.
        RolledBack: the canary is back on the last known good binary.
        NeedsHuman: a peer failed; the canary and the peers before it are released.
        RollbackFailed: the canary could not be brought back.
    """
    node = run.fleet.canary
    cleared = preflight(run, sha256=sha256)  # 1. Pre-deploy hook, and the rest of the checklist
    release = cleared.artifact.release
    on_its_own = run.settings.deadman == "on" and not nothing_to_prove(run, node, cleared, rewatch=rewatch)
    stage(run, run.fleet.released_to, cleared, guarded=node if on_its_own else None)
    with (
        back_to_last_known_good(run, node, cleared),
        guarded(run, node, cleared) if on_its_own else unguarded(run, node, cleared),
    ):
        put_ours_back(run, node, release)
        came_back_at = deploy(run, node, release)  # 2. to 6.
        watch(
            run, node, release, came_back_at=came_back_at, rewatch=rewatch, is_guarded=on_its_own
        )  # 7. SLI monitor
    roll(run, release)  # 8. Roll the peers
    tidy(run, run.fleet.released_to, cleared.artifact.release, cleared.last_known_good.release)


def put_ours_back(run: Run, node: Node, release: Release) -> None:
    """What an earlier run left out comes back as it is, before one more node is taken out.

    Raises:
        StepFailed: it is not well.
    """
    seen, pool = node.look(), run.fleet.load_balancer.pool()
    if seen.installed == seen.running == release.digest or not pool.server(node.server).serves or run.plan:
        return
    for other in run.fleet.released_to:
        if other is not node and not pool.server(other.server).serves and rotation.drained_by(other):
            check_health(run, other, None, restarted=False)
            ready(run, other)
            check_load_balancer(run, other)


def nothing_to_prove(run: Run, node: Node, cleared: Cleared, *, rewatch: bool) -> bool:
    """Whether the node runs the release already and has its green record."""
    release, seen = cleared.artifact.release, cleared.seen[node.name]
    runs_it = seen.installed == seen.running == release.digest
    return runs_it and not rewatch and bool(proven(run, node, release))


@contextmanager
def guarded(run: Run, node: Node, cleared: Cleared) -> Iterator[None]:
    """While this lasts the node itself puts the last known good binary back if it does not hear from us any more.

    It hears from the very loops that wait and judge. A node out of reach is told and borne: it acts by itself.

    Raises:
        Fired: it has acted already, or is just acting for an earlier run.
        FleetError: it could not be armed.
    """
    with run.step("guard", node.name) as done:
        done(deadman.arm(run, node, cleared.last_known_good.release, unproven=cleared.artifact.release))
    beat = deadman.heartbeat(run, node)

    def renew(event: Event) -> None:
        if isinstance(event, StepStarted | Waiting | Probed) and event.node == node.name:
            try:
                beat()
            except FleetError as error:
                run.emit(Warned(f"{node.name} could not be told that we are there: {error.message}"))

    with run.emit.joined(renew):
        yield


@contextmanager
def unguarded(run: Run, node: Node, cleared: Cleared) -> Iterator[None]:
    """A switch that a dead run left armed, and that this run does not take over, would act in the middle of it.

    Raises:
        FleetError: it could not be disarmed.
    """
    if armed := cleared.switch and cleared.switch.armed:
        with run.step("guard", node.name) as done:
            deadman.disarm(run, node, of=armed.run)
            done(f"the dead-man's switch of run {armed.run} is disarmed")
    yield


def deploy(run: Run, node: Node, release: Release) -> float:
    """Steps 2 to 6 on one node; gives when it came back into rotation, on the run's clock.

    Raises:
        StepFailed: a step failed; the node is left as it then was.
    """
    seen = node.look()
    runs_it = seen.installed == seen.running == release.digest and seen.unit.is_up
    restarted = False
    if runs_it:
        rotation.check_ours(node, run.fleet.load_balancer.server(node.server))
    else:
        drain(run, node, why=f"release of {release}")  # 2. Drain
        restarted = push(run, node, release, seen)  # 3. Push the binary, restart
    check_health(run, node, release, restarted=restarted, drained=not runs_it)  # 4. Per-node health check
    came_back_at = ready(run, node, drained=not runs_it)  # 5. Re-enable
    check_load_balancer(run, node)  # 6. LB-side health check
    return came_back_at if not runs_it else came_back_at - (seen.uptime or 0.0)


def drain(run: Run, node: Node, *, why: str, policy: str | None = None, timeout: float | None = None) -> None:
    """2. Take the node out of rotation and wait until it serves nothing."""
    with run.step("drain", node.name) as done:
        done(rotation.drain(run, node, why=why, policy=policy, timeout=timeout))


def push(run: Run, node: Node, release: Release, seen: Binaries) -> bool:
    """3. Put the binary in place, and restart the unit if it does not run that very file; gives whether it did."""
    with run.step("push", node.name) as done:
        done(install.install(run, node, release, seen))
        restart = seen.running != release.digest or not seen.unit.is_up
        if restart:
            health.restart(run, node, seen.unit)
            done("restarted")
        # While it boots: the record names its own digest, so nothing is lost if this is not reached.
        install.forget_proof(run, node, unless=release.digest)
    return restart


def check_health(
    run: Run, node: Node, release: Release | None, *, restarted: bool, drained: bool = False
) -> None:
    """4. 200 from inside the container, the main process unchanged, and its executable the binary (if one is named).

    A node that we ``drained``, or that is out of rotation now, is kept out meanwhile.
    """
    out = drained or run.fleet.load_balancer.server(node.server).state is not State.READY

    def stay_out() -> None:
        if out:
            rotation.keep_out(run, node)

    def check_executable() -> None:
        if release and not run.plan:
            install.check_running(node, release)

    with run.step("health", node.name) as done:
        if restarted and run.plan:
            return
        done(health.wait_until_healthy(run, node, meanwhile=stay_out, once_healthy=check_executable))


def ready(run: Run, node: Node, *, drained: bool = False) -> float:
    """5. Make the server ready and wait until HAProxy has it serving; gives when that was, on the run's clock.

    What was not ``drained`` by this run is looked at once more: somebody else's drain is not undone.
    """
    with run.step("ready", node.name) as done:
        done(rotation.put_back(run, node, drained=drained))
    return run.clock.monotonic()


def check_load_balancer(run: Run, node: Node) -> None:
    """6. 200 through the load balancer, and this very server served."""
    with run.step("lb-check", node.name) as done:
        done(rotation.check_routed(run, node))


def watch(
    run: Run, node: Node, release: Release, *, came_back_at: float, rewatch: bool, is_guarded: bool
) -> None:
    """7. Watch the SLIs for ``SLI_WINDOW``; a green window is recorded on the instance.

    Raises:
        SliBreached: the first red probe, no data for too long, or no verdict by the end.
        HealthCheckFailed: the process died.
        NotRouted: the node fell out of rotation.
        Fired: the node did not hear from us in time and is back on the last known good binary.
    """
    settings = run.settings
    with run.step("sli-window", node.name) as done:
        if not rewatch and (proof := proven(run, node, release)):
            if is_guarded:
                deadman.commit(run, node)
            done(f"skipped: {release} survived a window at least as strict: {proof}; --rewatch watches again")
            return
        if run.plan:
            run.emit(Planned(node.name, f"watch its SLIs for {settings.sli_window:g} s"))
            return
        green = gate.watch(
            run.fleet.prometheus,
            settings,
            node.name,
            clock=run.clock,
            emit=run.emit,
            check_interrupt=run.signals.check,
            came_back_at=came_back_at,
            keep_routed=_still_well(run, node),
        )
        if is_guarded:
            # First this: a record of a binary that the node has just taken away would be untrue.
            deadman.commit(run, node)
        node.mark(
            install.PROVEN,
            run.note(
                digest=release.digest,
                version=release.version,
                window=settings.sli_window,
                p95_threshold=settings.prom_p95_threshold_s,
                error_rate_threshold=settings.prom_err_rate_threshold,
                worst_p95=green.worst_p95,
                worst_error_rate=green.worst_error_rate,
                accepted={
                    **run.accepted,
                    **({"migrations": "FORCE_MIGRATE=1"} if settings.force_migrate else {}),
                },
            ),
        )
        done(f"green for {settings.sli_window:g} s, {green.probes} probes")


def proven(run: Run, node: Node, release: Release) -> str:
    """The record of a green window of this binary at least as strict as the knobs ask, in words; else empty."""
    settings = run.settings
    try:
        record = json.loads(node.read_mark(install.PROVEN) or "{}")
        strict_enough = (
            record["digest"] == release.digest
            and record["window"] >= settings.sli_window
            and record["p95_threshold"] <= settings.prom_p95_threshold_s
            and record["error_rate_threshold"] <= settings.prom_err_rate_threshold
        )
        return f"{record['window']:g} s, run {record['run']}, {record['when']}" if strict_enough else ""
    except (ValueError, KeyError, TypeError):
        return ""


def roll_peers(run: Run, *, sha256: str | None = None, unproven: str = "") -> None:
    """Step 8 alone: the peers get what the canary has proven.

    Raises:
        Refused: preflight is red, the canary has no green record of this binary and no reason was given, or what failed
            failed before any peer was changed.
        NeedsHuman: a peer failed.
    """
    cleared = preflight(run, sha256=sha256, first=run.fleet.peers[0] if run.fleet.peers else None)
    release = cleared.artifact.release
    if not proven(run, run.fleet.canary, release):
        if not unproven:
            raise Refused(
                f"{release} has no green record on {run.fleet.canary.name} that is as strict as the knobs ask",
                state="Nothing was changed.",
                next_command=f"inv canary --artifact {cleared.artifact.path}; or, knowing why: --unproven REASON",
            )
        run.emit(Warned(f"rolling {release} unproven: {unproven}"))
    if cleared.switch and cleared.switch.armed:
        raise Refused(
            f"{run.fleet.canary.name} is about to go back: its dead-man's switch {deadman.describe(cleared.switch)}",
            state="Nothing was changed.",
            next_command="inv canary, which takes it over; or inv recover",
        )
    stage(run, run.fleet.peers, cleared)
    try:
        roll(run, release)
    except NeedsHuman as stopped:
        if _peers_as_before(run, cleared):
            raise Refused(
                stopped.message, state="No peer was changed.", next_command=stopped.next_command
            ) from stopped.__cause__
        raise
    tidy(run, run.fleet.released_to, cleared.artifact.release, cleared.last_known_good.release)


def roll(run: Run, release: Release) -> None:
    """8. Steps 2 to 6 on the peers, ``MAX_UNAVAILABLE`` at a time. A failing peer stops the run and stays out.

    It is not rolled back: a peer's failure is of the deployment, not of the binary, and going back and forth is worse
    (runbook, "Rollback path").

    Raises:
        NeedsHuman: a peer failed, or a signal came.
    """
    many = run.settings.max_unavailable
    try:
        pool = run.fleet.load_balancer.pool()
        out_first = sorted(run.fleet.peers, key=lambda node: pool.server(node.server).serves)
        for batch in (out_first[at : at + many] for at in range(0, len(out_first), many)):
            run.signals.check()
            with run.signals.shield(
                f"finishing {', '.join(node.name for node in batch)}, then stopping before the next"
            ):
                check_others_serve(run, batch)
                run.each(lambda node: deploy_peer(run, node, release), batch)
    except (ReleaseError, Interrupted) as error:
        if not run.fleet.changed:
            raise Refused(
                f"the roll stopped: {error}",
                state="Nothing was changed.",
                next_command="the same command again",
            ) from error
        raise NeedsHuman(
            f"the roll stopped: {error}",
            state=mixed(run, release),
            next_command="put the cause right, then the same command again: it does what is missing",
        ) from error


def check_others_serve(run: Run, batch: Sequence[Node]) -> None:
    """Before peers are taken out: whatever else is released serves, so that never more than ``MAX_UNAVAILABLE`` are out.

    Raises:
        NotRouted: another node is out.
    """
    serving = {name for name, server in run.fleet.load_balancer.pool().servers.items() if server.serves}
    others_out = [
        node.name for node in run.fleet.released_to if node.server not in serving and node not in batch
    ]
    if others_out and any(node.server in serving for node in batch) and not run.only_imagined:
        raise NotRouted(f"{', '.join(others_out)} does not serve: no further node is taken out")


def deploy_peer(run: Run, node: Node, release: Release) -> None:
    """Steps 2 to 6 on a peer. One that fails stays out of rotation, also where it had been put back already.

    Raises:
        StepFailed: a step failed.
    """
    try:
        deploy(run, node, release)
    except StepFailed:
        try:
            if rotation.drained_by(node):
                rotation.keep_out(run, node)
        except FleetError as error:
            run.emit(Warned(f"it is not known whether {node.name} is out of rotation: {error}"))
        raise


@contextmanager
def back_to_last_known_good(run: Run, node: Node, cleared: Cleared) -> Iterator[None]:
    """Any way out but green ends here: the old binary is put back (runbook, "Rollback path").

    Raises:
        Refused: nothing had been installed yet; the node serves as before.
        RolledBack: the last known good binary is back and serves.
        RollbackFailed: it could not be brought back; the node is out of rotation.
    """
    try:
        yield
    except Exception as cause:  # noqa: BLE001 - a bug of ours must not leave an unproven binary serving
        with run.signals.shield(
            f"putting the last known good binary back on {node.name}; that is not interrupted"
        ):
            _undo(run, node, cleared, cause)


def restore(run: Run, node: Node, release: Release, *, drain_timeout: float, in_place: bool = False) -> None:
    """Bring a node back to a binary it has: out of traffic, put it back, and the checks of steps 4 to 6.

    Sessions that are left after ``drain_timeout`` seconds are closed. In place, without draining, if asked or where no
    other server is up. For ``ROLLBACK_PATIENCE`` it is tried again while a system does not do as told, for every step
    looks first; what runs and is not healthy is not tried again.

    Raises:
        StepFailed: what the last attempt failed of; the node stays out of rotation.
        NeedsHuman: it is back on the binary, but somebody else took it out of rotation.
    """
    deadline = run.clock.monotonic() + ROLLBACK_PATIENCE
    while True:
        try:
            return _restore(run, node, release, drain_timeout, in_place=in_place)
        except FleetError as error:
            if isinstance(error, HostKeyRefused) or run.clock.monotonic() >= deadline:
                raise
            run.emit(Warned(f"{error.message}; trying again"))
            run.clock.sleep(2.0)


def _restore(run: Run, node: Node, release: Release, drain_timeout: float, *, in_place: bool) -> None:
    seen = node.look()
    pool = run.fleet.load_balancer.pool()
    server = pool.server(node.server)
    somebody_elses = server.state is not State.READY and not rotation.drained_by(node)
    if not rotation.others_serving(pool, node) and not in_place:
        run.emit(Warned(f"no other server than {node.name} is up: going back in place, without draining"))
        in_place = True
    if not (in_place or somebody_elses):
        try:
            drain(run, node, why=f"going back to {release}", policy="close", timeout=drain_timeout)
        except DrainTimeout as late:
            # It is in maint, so nothing new comes; the old binary matters more than its last requests.
            run.emit(Warned(late.message))
        except Refused as last:
            # The others went down in this very moment.
            run.emit(Warned(f"{last.message}: going back in place"))
            in_place = True
    restarted = push(run, node, release, seen)
    drained = not (in_place or somebody_elses)
    check_health(run, node, release, restarted=restarted, drained=drained)
    try:
        ready(run, node, drained=drained)
    except Refused as foreign:
        raise NeedsHuman(
            f"{node.name} is back on {release}, but somebody else took it out of rotation; it is left out",
            next_command=foreign.next_command,
        ) from None
    check_load_balancer(run, node)


def stage(run: Run, nodes: Sequence[Node], cleared: Cleared, *, guarded: Node | None = None) -> None:
    """Bring the artifact and the last known good binary to the nodes while everyone still serves: rollback never uploads.

    The dead-man's switch of the node that is to be ``guarded`` is installed and tried out meanwhile.

    Raises:
        Refused: a copy did not arrive whole, or a signal came.
    """
    try:
        with run.step("stage") as done:
            good = cleared.last_known_good
            # Only the canary is rolled back by itself; what lies on it lies nowhere else for sure.
            goes_back = nodes if good.local else [node for node in nodes if node is run.fleet.canary]
            both: tuple[Callable[[], str], ...] = (
                lambda: install.stage(run, nodes, cleared.artifact.release, cleared.artifact.path),
                lambda: "; ".join(
                    [
                        stage_last_known_good(run, [(node, good) for node in goes_back]),
                        *([deadman.prepare(run, guarded, good.release)] if guarded else []),
                    ]
                ),
            )
            for said in run.each(lambda one: one(), both):
                done(said)
        run.signals.check()
    except (StepFailed, Interrupted) as failed:
        if guarded:
            _disarm(run, guarded)
        raise Refused(
            str(failed),
            state=f"No node was drained or restarted; at most copies were added to {KEPT}.",
            next_command="the same command again",
        ) from failed.__cause__


def stage_last_known_good(run: Run, goods: Sequence[tuple[Node, LastKnownGood]]) -> str:
    """Keep each node's last known good binary by its digest, ready to be renamed into place."""
    said = [
        install.stage(run, [node for node, good in goods if good == known], known.release, known.local)
        for known in dict.fromkeys(good for _, good in goods)
        if known.local
    ]
    on_nodes = [(node, good) for node, good in goods if good.on_node]
    run.each(lambda one: install.stage_from_node(run, one[0], one[1].on_node or "", one[1].release), on_nodes)
    return "; ".join([*said, *(f"{good.release} kept on {node.name}" for node, good in on_nodes)])


def tidy(run: Run, nodes: Sequence[Node], *stay: Release) -> None:
    """Bound the kept binaries but for those that ``stay``. A failure here is told and changes nothing about the release."""

    def bound(node: Node) -> None:
        try:
            install.prune(run, node, [release.digest for release in stay])
        except ReleaseError as error:
            run.emit(Warned(error.message))

    run.each(bound, nodes)


def mixed(run: Run, release: Release) -> str:
    """Which nodes run the release and which do not, as far as the fleet answers."""

    def one(node: Node) -> str:
        try:
            seen = node.look()
            server = run.fleet.load_balancer.server(node.server)
        except ReleaseError as error:
            return f"{node.name}: cannot be looked at ({error.message})"
        runs = (
            "the release"
            if seen.running == release.digest
            else f"{seen.version(seen.running)} ({(seen.running or 'nothing')[:12]})"
        )
        serves = "serves" if server.serves else f"out of rotation ({server.state}, {server.status})"
        return f"{node.name}: runs {runs}, {serves}"

    return "\n".join(one(node) for node in run.fleet.released_to)


def _undo(run: Run, node: Node, cleared: Cleared, cause: Exception) -> None:
    release, good = cleared.artifact.release, cleared.last_known_good.release
    by_itself = _went_back_by_itself(run, node)
    said = cause.message if isinstance(cause, ReleaseError) else f"{type(cause).__name__}: {cause}"
    try:
        before, stopped = cleared.seen[node.name], isinstance(cause, Interrupted)
        if not by_itself and _gave_back(run, node, release, before, stopped=stopped):
            _disarm(run, node)
            raise Refused(
                said,
                state=f"{node.name} runs what it ran before and is as it was. No other node was touched.",
                next_command=_next_command(cause, "the same command again"),
            ) from cause.__cause__
        with run.step("rollback", node.name) as done:
            restore(run, node, good, drain_timeout=ROLLBACK_DRAIN, in_place=by_itself)
            done(f"{node.name} is back on {good}")
    except StepFailed as failed:
        raise RollbackFailed(
            f"{good} could not be brought back: {failed}",
            state=f"{node.name} is left as it is, out of rotation as far as HAProxy could be told. No peer was touched.",
            next_command=f"inv status; then inv rollback-all, or by hand on {node.name}",
        ) from cause
    _disarm(run, node)
    tidy(run, run.fleet.released_to, cleared.artifact.release, cleared.last_known_good.release)
    raise RolledBack(
        f"{release} is not released",
        state=f"{node.name} is back on {good} and serves. No peer was touched.",
        next_command=f"inv status; the failed binary is kept on {node.name} as {release.digest[:12]}…",
    ) from cause


def _went_back_by_itself(run: Run, node: Node) -> bool:
    """Whether the node's dead-man's switch has put the last known good binary back; if not it is put off once more."""
    if run.settings.deadman == "off":
        return False
    try:
        deadman.renew(run, node)
    except deadman.Fired as fired:
        return fired.tombstone is not None and fired.tombstone.put_back
    except FleetError as error:
        run.emit(Warned(f"{node.name} could not be told that we are there: {error.message}"))
    return False


def _disarm(run: Run, node: Node) -> None:
    """The node is on the last known good binary, so a switch that stays armed would find nothing to do."""
    if run.settings.deadman == "off":
        return
    try:
        deadman.disarm(run, node)
        deadman.clear(node)
    except StepFailed as error:
        run.emit(Warned(f"its dead-man's switch is still armed, which does no harm: {error.message}"))


def _gave_back(run: Run, node: Node, release: Release, before: Binaries, *, stopped: bool) -> bool:
    """Whether there is nothing to roll back and our own drain, if there is one, is undone.

    That is so where the node runs what it ran before and not the artifact, or where it is proven and only a signal came.
    What an earlier run or somebody else took out stays out.
    """
    try:
        now = node.look()
        as_before = (now.installed, now.running) == (before.installed, before.running) and now.unit.is_up
        if not as_before or (now.running == release.digest and not (stopped and proven(run, node, release))):
            return False
        if run.id in node.read_mark(rotation.DRAINED):
            # A server that leaves maint is up unchecked.
            check_health(run, node, None, restarted=False)
            ready(run, node)
            check_load_balancer(run, node)
    except StepFailed as error:
        run.emit(Warned(f"{error}; rolling back instead"))
        return False
    return True


def _peers_as_before(run: Run, cleared: Cleared) -> bool:
    def as_before(node: Node) -> bool:
        now, before = node.look(), cleared.seen.get(node.name)
        same = (
            before and (now.installed, now.running) == (before.installed, before.running) and now.unit.is_up
        )
        return (
            bool(same)
            and node.name not in cleared.out
            and run.fleet.load_balancer.server(node.server).serves
            and not rotation.drained_by(node)
        )

    try:
        return all(as_before(node) for node in run.fleet.peers)
    except FleetError as error:
        run.emit(Warned(f"the peers cannot be looked at: {error}"))
        return False


def _still_well(run: Run, node: Node) -> Callable[[], None]:
    """What must stay true while the window runs. A fleet out of reach is borne for ``COMMAND_TIMEOUT``, then it fails."""
    pid = node.health().unit.main_pid
    seen_at = run.clock.monotonic()

    def look() -> None:
        nonlocal seen_at
        try:
            unit = node.health().unit
            server = run.fleet.load_balancer.server(node.server)
        except FleetError:
            if run.clock.monotonic() - seen_at > run.settings.command_timeout:
                raise
            return
        seen_at = run.clock.monotonic()
        if unit.main_pid != pid:
            raise HealthCheckFailed(
                f"{node.name}: the process died in the window: unit is {unit}\n"
                f"Last log lines of {node.unit}:\n{node.log_tail()}"
            )
        if not server.serves:
            raise NotRouted(f"{node.name} fell out of rotation in the window: {server}")

    return look


def _next_command(cause: Exception, otherwise: str) -> str:
    return (cause.next_command if isinstance(cause, ReleaseError) else "") or otherwise
