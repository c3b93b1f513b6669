"""After a crash: what the last run meant to do beside what is, and the way on, or back.

The fleet is the truth: nothing here relies on what a dead run wrote down but for which binary it was about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veza_tasks.adapters.haproxy import Pool, State
from veza_tasks.adapters.incus import Instance
from veza_tasks.adapters.node import Binaries, Node
from veza_tasks.capabilities import deadman, install, journal, lock, rotation
from veza_tasks.capabilities.artifact import Release
from veza_tasks.capabilities.journal import HISTORY, remembered
from veza_tasks.capabilities.lock import DEAD_AFTER, Holder
from veza_tasks.errors import FleetError, NeedsHuman, Refused, ReleaseError, RollbackFailed
from veza_tasks.events import ArtifactRead, Warned
from veza_tasks.recipes import release as steps
from veza_tasks.recipes.preflight import last_known_good
from veza_tasks.run import Run

RELEASES = ("canary", "roll-peers")
"""Tasks that bring one binary to every node."""
UNFINISHED = (*RELEASES, "recover")
"""Tasks whose binary is taken back by ``undo``."""


@dataclass(frozen=True)
class Difference:
    """Something that is not as a finished run leaves it; ``cure`` is the command that resolves it."""

    where: str
    what: str
    cure: str


@dataclass(frozen=True)
class Last:
    """The last run as far as the fleet knows: what it was about, and its exit code, None where it has not ended."""

    run: str
    task: str
    digest: str
    code: int | None


@dataclass(frozen=True)
class Found:
    """What there is to recover from."""

    last: Last | None
    holder: Holder | None
    differences: Sequence[Difference]


def look(run: Run) -> Found:
    """Compare what the last run meant to do with what is, on every node. Changes nothing.

    Raises:
        FleetError: the load balancer's host or HAProxy could not be asked.
    """
    fleet = run.fleet
    instances: dict[str, Instance] = {}
    for incus in fleet.incus.values():
        instances.update(incus.instances())
    holder = lock.holder(fleet.for_records, lock.lock_name(run.settings))
    balancer = instances.get(run.settings.load_balancer.instance)
    last = _last(holder, balancer.marks.get(HISTORY, "") if balancer else "")
    pool = fleet.load_balancer.pool()
    found: list[Difference] = []
    if holder:
        found.append(
            Difference("fleet", f"locked by {holder.told(run.clock.now())}", f"inv unlock --run {holder.run}")
        )
    seen: dict[str, Binaries] = {}
    for differences in run.each(
        lambda node: _node(run, node, instances, pool, seen, last), fleet.released_to
    ):
        found += differences
    if last and last.task in UNFINISHED and last.digest and last.code in (None, 5, 6):
        have = [name for name, one in seen.items() if one.running == last.digest]
        if have and len(have) < len(fleet.released_to):
            missing = [node.name for node in fleet.released_to if node.name not in have]
            found.append(
                Difference(
                    "fleet",
                    f"{', '.join(have)} runs {last.digest[:12]}, {', '.join(missing)} does not",
                    "inv recover --resume finishes it, inv recover --undo takes it back",
                )
            )
    if found and last and last.code is None and not holder:
        said = f"run {last.run} ({last.task}) ended without a word"
        found.insert(0, Difference("fleet", said, "inv recover --resume or --undo"))
    return Found(last, holder, found)


def check_dead(run: Run, holder: Holder | None) -> None:
    """A lock is only taken from a run that does not look alive.

    Raises:
        Refused: its heartbeat is recent.
    """
    silent = holder.silent_for(run.clock.now()) if holder else None
    if holder and silent is not None and silent < DEAD_AFTER:
        raise Refused(
            f"run {holder.run} looks alive: {holder.told(run.clock.now())}",
            state="Nothing was changed.",
            next_command=f"wait for it; or, if it is surely dead: inv unlock --run {holder.run}",
        )


def knobs_of(last: Last | None, journals: Path) -> dict[str, str]:
    """``artifact`` and ``rollback_binary`` as the last run had them, if its journal lies on this machine."""
    try:
        lines = journal.read(journals / f"{last.run}.jsonl") if last else ()
        started = next((line for line in lines if line["event"] == "RunStarted"), {})
    except OSError:
        return {}
    knobs = started.get("knobs")
    named = knobs if isinstance(knobs, dict) else {}
    return {name: str(named[name]) for name in ("artifact", "rollback_binary") if named.get(name)}


def check_resumable(last: Last | None, artifact: str) -> str:
    """Whether there is a release to finish, and a local binary for it; gives the sha256 that it must have.

    Raises:
        Refused: there is none, or this machine does not know the binary.
    """
    if last is None or last.task not in RELEASES or last.code not in (None, 5) or not last.digest:
        raise Refused(
            "the last run was no release that is to be finished",
            state="Nothing was changed.",
            next_command="inv recover --undo, or inv status",
        )
    if not artifact:
        raise Refused(
            f"this machine does not know the binary of run {last.run}",
            state="Nothing was changed.",
            next_command=f"inv recover --resume --artifact PATH    # sha256 {last.digest}",
        )
    return last.digest


def undo(run: Run, last: Last | None) -> None:
    """Take an unfinished release back: what has its binary goes to the last known good one, what we left out serves again.

    What somebody else took out stays out.

    Raises:
        RollbackFailed: a node could not be brought back; the others are.
        NeedsHuman: all are, and what somebody else took out of rotation is left out.
    """
    digest = last.digest if last and last.task in UNFINISHED else ""
    if digest:
        run.emit(ArtifactRead(digest, run.fleet.canary.look().version(digest)))
    failed: dict[str, str] = {}
    left_out: dict[str, str] = {}
    with run.signals.shield("taking the release back goes on to the last node"):
        # What is out comes back first: never is one more taken out.
        pool = run.fleet.load_balancer.pool()
        for node in sorted(run.fleet.released_to, key=lambda node: pool.server(node.server).serves):
            try:
                _bring_back(run, node, digest)
            except NeedsHuman as error:
                left_out[node.name] = error.message
            except ReleaseError as error:
                failed[node.name] = error.message
    if failed:
        raise RollbackFailed(
            "\n".join(f"{name}: {why}" for name, why in failed.items()),
            state="The other nodes are back and serve.",
            next_command="inv status; then the same command again",
        )
    if left_out:
        raise NeedsHuman(
            "\n".join(left_out.values()),
            state="Every other node is back and serves.",
            next_command="whoever took it out puts it back",
        )


def _bring_back(run: Run, node: Node, digest: str) -> None:
    switch, seen = deadman.look(node), node.look()
    target: Release | None = None
    if digest and digest in (seen.installed, seen.running):
        artifact = Release(digest, seen.version(digest))
        good = last_known_good(run, node, seen, artifact, switch)
        # A release of the last known good binary itself has nothing to go back to.
        if good.release.digest != digest or seen.installed != seen.running:
            steps.stage_last_known_good(run, [(node, good)])
            target = good.release
    elif seen.installed and (seen.installed != seen.running or not seen.unit.is_up):
        target = Release(seen.installed, seen.version(seen.installed))
    if target:
        with run.step("rollback", node.name) as done:
            steps.restore(run, node, target, drain_timeout=run.settings.drain_timeout)
            done(f"on {target}")
    elif rotation.drained_by(node) or _is_down(run, node):
        steps.check_health(run, node, None, restarted=False)
        steps.ready(run, node)
        steps.check_load_balancer(run, node)
    if arriving := [name for name in seen.kept if name.startswith(install.ARRIVING)]:
        node.forget(arriving)
    if switch.left_over:
        deadman.disarm(run, node, of=switch.armed.run if switch.armed else run.id)
        deadman.clear(node)


def _is_down(run: Run, node: Node) -> bool:
    """Whether nobody took it out and HAProxy's checks fail all the same."""
    server = run.fleet.load_balancer.server(node.server)
    return server.state is State.READY and not server.serves


def leftovers(run: Run) -> list[str]:
    """What a run that has ended well must not leave behind, in words: servers out, switches, files that did not arrive."""
    pool = run.fleet.load_balancer.pool()

    def of(node: Node) -> list[str]:
        said = []
        server = pool.server(node.server)
        if not server.serves and not rotation.drained_by(node):
            said.append(f"{node.name} does not serve, and not by us: {server}")
        if half := [name for name in node.look().kept if name.startswith(install.ARRIVING + run.id)]:
            said.append(f"{node.name}: {', '.join(half)} did not arrive whole")
        if node is run.fleet.canary and (stands := deadman.look(node)).left_over:
            said.append(f"{node.name}: its dead-man's switch {deadman.describe(stands) or 'is left'}")
        return said

    return [line for lines in run.each(of, run.fleet.released_to) for line in lines]


def tell_leftovers(run: Run) -> None:
    """The sweep at the end of a run."""
    try:
        for line in leftovers(run):
            run.emit(Warned(f"{line}; next: inv recover"))
    except FleetError as error:
        run.emit(Warned(f"what is left on the fleet is not known: {error.message}"))


def _last(holder: Holder | None, history: str) -> Last | None:
    if holder:
        return Last(holder.run, holder.task, holder.artifact, None)
    changing = [one for one in remembered(history) if one.get("code") not in (2, 3)]
    if not changing:
        return None
    one = changing[-1]
    code = one.get("code")
    return Last(
        one["run"],
        str(one.get("task", "")),
        str(one.get("digest", "")),
        code if isinstance(code, int) else None,
    )


def _node(
    run: Run,
    node: Node,
    instances: Mapping[str, Instance],
    pool: Pool,
    seen: dict[str, Binaries],
    last: Last | None,
) -> list[Difference]:
    found: list[Difference] = []
    by_hand = f"inv ready {node.name}"
    instance = instances.get(node.name)
    if instance is None or instance.status != "Running":
        said = f"Incus says {instance.status if instance else 'there is no such instance'}"
        return [Difference(node.name, said, f"incus start {node.name}; then inv recover")]
    server = pool.server(node.server)
    mark = instance.marks.get(rotation.DRAINED, "")
    if mark:
        state = "in rotation, but still marked" if server.serves else f"out of rotation ({server})"
        found.append(Difference(node.name, f"{state}: {rotation.explain(mark)}", by_hand))
    elif not server.serves:
        if server.state is State.READY:
            found.append(Difference(node.name, f"does not serve: {server}", "inv recover --undo"))
        else:
            what = f"out of rotation ({server}) and not by us"
            found.append(Difference(node.name, what, "whoever took it out puts it back"))
    try:
        now = seen[node.name] = node.look()
        switch = deadman.look(node)
    except ReleaseError as error:
        return [*found, Difference(node.name, f"cannot be looked at: {error.message}", "inv status")]
    if now.installed != now.running or not now.unit.is_up:
        runs = (now.running or "nothing")[:12]
        installed = (now.installed or "nothing")[:12]
        found.append(
            Difference(
                node.name,
                f"installed is {installed}, running is {runs}, the unit is {now.unit}",
                "inv recover --undo",
            )
        )
    if arriving := [name for name in now.kept if name.startswith(install.ARRIVING)]:
        found.append(
            Difference(
                node.name, f"{len(arriving)} uploads did not arrive whole", "removed by the next release"
            )
        )
    if switch.left_over:
        what = f"its dead-man's switch {deadman.describe(switch) or 'is left, and does nothing'}"
        found.append(Difference(node.name, what, "inv recover --resume or --undo"))
    return found
