"""The manual full rollback: every node back to its last known good binary (runbook, "Manual rollback (full)")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from veza_tasks.adapters.haproxy import State
from veza_tasks.adapters.node import KEPT, Binaries, Node
from veza_tasks.capabilities import install, rotation
from veza_tasks.capabilities.artifact import Release
from veza_tasks.errors import Interrupted, NeedsHuman, Refused, ReleaseError, RollbackFailed
from veza_tasks.events import Warned
from veza_tasks.recipes.preflight import LastKnownGood, last_known_good
from veza_tasks.recipes.release import restore, stage_last_known_good, tidy
from veza_tasks.run import Run


@dataclass(frozen=True)
class Way:
    """What ``rollback_all`` would do on one node. No target: ``problem`` says why.

    ``settled``: it serves, or somebody else took it out, and no drain of ours is left.
    """

    node: Node
    seen: Binaries | None
    target: LastKnownGood | None
    settled: bool
    serves: bool = False
    problem: str = ""

    @property
    def is_there(self) -> bool:
        """Whether the node already runs its target and nothing of ours is left to do."""
        if self.seen is None or self.target is None:
            return False
        return self.seen.installed == self.seen.running == self.target.release.digest and self.settled

    @property
    def runs(self) -> str:
        if self.seen is None:
            return "unknown"
        return (
            str(Release(self.seen.running, self.seen.version(self.seen.running)))
            if self.seen.running
            else "nothing"
        )

    @property
    def action(self) -> str:
        if self.target is None:
            return f"cannot: {self.problem}"
        return "nothing, it is there" if self.is_there else f"back to {self.target.release}"


def ways(run: Run) -> list[Way]:
    """Look at every node: what it runs and where it would go.

    Raises:
        Refused: ``ROLLBACK_BINARY`` is the word ``running``, which names no way back here.
    """
    if run.settings.rollback_binary == "running":
        raise Refused(
            "ROLLBACK_BINARY=running names what the nodes run now: nothing to go back to",
            state="Nothing was changed.",
            next_command="inv rollback-all --rollback-binary /path/to/old/veza-api",
        )

    def look(node: Node) -> Way:
        seen: Binaries | None = None
        try:
            seen = node.look()
            server = run.fleet.load_balancer.server(node.server)
            settled = not rotation.drained_by(node) and (server.serves or server.state is not State.READY)
            return Way(node, seen, last_known_good(run, node, seen, None), settled, server.serves)
        except ReleaseError as error:
            return Way(node, seen, None, settled=False, problem=error.message)

    return run.each(look, run.fleet.released_to)


def rollback_all(run: Run, plan: Sequence[Way], *, at_once: bool = False) -> None:
    """Bring every node back, one after the other with drain so that users see nothing, or all at once and in place.

    A failing node does not stop the others. The previous binary stays where it is, so twice is harmless. The green record is
    cleared first: what is rolled back is no longer proven.

    Raises:
        RollbackFailed: at least one node is not on its last known good binary.
        NeedsHuman: all are, and what somebody else took out of rotation is left out.
        Refused: a signal came before anything was changed.
    """
    # What is out comes back first: never is one more taken out.
    going = sorted((way for way in plan if way.target and not way.is_there), key=lambda way: way.serves)
    failed = {way.node.name: way.problem for way in plan if way.target is None}
    left_out: dict[str, str] = {}
    try:
        with run.step("stage") as done:
            for together in _staged_together(going):
                try:
                    done(stage_last_known_good(run, together))
                except ReleaseError as error:
                    failed.update({node.name: error.message for node, _ in together})
        run.signals.check()
    except Interrupted as stop:
        raise Refused(
            str(stop),
            state=f"No node was drained or restarted; at most copies were added to {KEPT}.",
            next_command="the same command again",
        ) from None
    unclear = _forget_proof(run) if going else ""

    def bring_back(way: Way) -> None:
        if way.target is None or way.node.name in failed:
            return
        try:
            with run.step("rollback", way.node.name) as done:
                timeout = run.settings.drain_timeout
                restore(run, way.node, way.target.release, drain_timeout=timeout, in_place=at_once)
                done(f"on {way.target.release}")
        except NeedsHuman as error:
            left_out[way.node.name] = error.message
        except ReleaseError as error:
            failed[way.node.name] = error.message

    with run.signals.shield("the rollback goes on to the last node"):
        if at_once:
            run.each(bring_back, going)
        else:
            for way in going:
                bring_back(way)
    for way in going:
        if way.target and way.node.name not in failed:
            tidy(run, [way.node], way.target.release)
    if unclear and run.fleet.canary.name not in [way.node.name for way in going]:
        failed.setdefault(run.fleet.canary.name, unclear)
    if failed:
        raise RollbackFailed(
            "\n".join(f"{name}: {why}" for name, why in failed.items()),
            state="\n".join(way.action for way in plan),
            next_command="inv status; then the same command again: nodes that are back are left alone",
        )
    if left_out:
        raise NeedsHuman(
            "\n".join(left_out.values()),
            state="Every node is on its last known good binary.",
            next_command="whoever took it out puts it back",
        )


def _staged_together(going: Sequence[Way]) -> list[list[tuple[Node, LastKnownGood]]]:
    """A local binary goes to all nodes at once, one upload per host; what lies on a node concerns that node alone."""
    targets = [(way.node, way.target) for way in going if way.target]
    local = [(node, good) for node, good in targets if good.local]
    return [*([local] if local else []), *([(node, good)] for node, good in targets if good.on_node)]


def _forget_proof(run: Run) -> str:
    """Clear the green record; gives why that failed. It holds up nothing: pushing the old binary clears it again."""
    try:
        install.forget_proof(run, run.fleet.canary)
    except ReleaseError as error:
        run.emit(Warned(f"the green record is not cleared yet: {error}"))
        return error.message
    return ""
