"""Single steps of the runbook, for an engineer who drives by hand."""

from __future__ import annotations

from veza_tasks.adapters.haproxy import State
from veza_tasks.adapters.node import Node
from veza_tasks.capabilities import install
from veza_tasks.capabilities.artifact import read_artifact
from veza_tasks.capabilities.rotation import check_ours
from veza_tasks.errors import DrainTimeout, Interrupted, NeedsHuman, Refused, StepFailed
from veza_tasks.events import ArtifactRead
from veza_tasks.recipes import release
from veza_tasks.run import Run


def drain(run: Run, node: Node) -> None:
    """Step 2. The node stays out, marked, until ``ready`` or a release brings it back.

    Raises:
        Refused: it is somebody else's, the last that serves, or it would not empty and is back in rotation.
        NeedsHuman: its sessions did not end when they were closed.
    """
    try:
        release.drain(run, node, why="drained by hand")
    except DrainTimeout as late:
        if late.state:
            raise NeedsHuman(
                late.message, state=late.state, next_command=f"inv status; then inv ready {node.name}"
            ) from late
        raise Refused(
            late.message,
            state=f"{node.name} is as it was.",
            next_command=f"inv drain {node.name} --drain-policy close    # cuts its sessions",
        ) from late
    except Interrupted as stop:
        raise Refused(str(stop), state=f"{node.name} is as it was.", next_command="inv status") from None


def ready(run: Run, node: Node) -> None:
    """Steps 4 to 6: health comes first, for a server that leaves ``maint`` is up unchecked.

    Raises:
        Refused: somebody else took it out.
        NeedsHuman: it is not healthy, or HAProxy does not route to it.
    """
    check_ours(node, run.fleet.load_balancer.server(node.server))
    try:
        release.check_health(run, node, None, restarted=False)
        release.ready(run, node)
        release.check_load_balancer(run, node)
    except StepFailed as failed:
        raise NeedsHuman(
            failed.message, state=f"{node.name} waits for a human.", next_command="inv status"
        ) from failed


def push(run: Run, node: Node, *, sha256: str | None = None) -> None:
    """Steps 3 and 4 on a node that is out of rotation.

    Raises:
        Refused: the node is in rotation, the artifact is not fit, or it did not arrive whole.
        NeedsHuman: it did not come up healthy.
    """
    if run.settings.artifact is None:
        raise Refused("no artifact named", next_command="inv push --artifact /path/to/veza-api-vX.Y.Z")
    artifact = read_artifact(run.settings.artifact, sha256=sha256)
    run.emit(ArtifactRead(artifact.release.digest, artifact.release.version))
    server = run.fleet.load_balancer.server(node.server)
    if server.state is State.READY and not run.plan:
        raise Refused(
            f"{node.name} is in rotation ({server}); a push restarts it",
            state="Nothing was changed.",
            next_command=f"inv drain {node.name}",
        )
    try:
        install.stage(run, [node], artifact.release, artifact.path)
    except (StepFailed, Interrupted) as failed:
        raise Refused(
            str(failed),
            state=f"{node.name} is out of rotation and runs what it ran before.",
            next_command="put the cause right, then the same command again",
        ) from failed
    try:
        restarted = release.push(run, node, artifact.release, node.look())
        release.check_health(run, node, artifact.release, restarted=restarted)
    except StepFailed as failed:
        raise NeedsHuman(
            failed.message, state=f"{node.name} is out of rotation.", next_command="inv status"
        ) from failed
    release.tidy(run, [node], artifact.release)
