"""Binaries on nodes, by sha256: stage while everyone still serves, install by renaming, keep what was replaced.

A transfer's exit status is never trusted (a cut stream ends well with a truncated file), and a running binary is never
written to (``ETXTBSY``). Runbook step 3.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from veza_tasks.adapters.host import Reply, ensure
from veza_tasks.adapters.node import BINARY, Binaries, Node
from veza_tasks.capabilities.artifact import Release
from veza_tasks.errors import InstallFailed, Interrupted, OutcomeUnknown, StepFailed
from veza_tasks.events import Uploading
from veza_tasks.run import Run

PROVEN = "proven"
"""Mark: this digest survived a full green window here. Cleared when another digest is installed."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
ARRIVING = ".arriving-"


def stage(run: Run, nodes: Sequence[Node], release: Release, source: Path) -> str:
    """Bring a local binary to every node, one upload per host, all hosts in parallel, and verify each copy; says what it did.

    Raises:
        InstallFailed: a copy did not arrive whole; nothing was changed but the folder of kept binaries.
    """
    by_host: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        by_host[node.incus.host.name].append(node)

    def to_host(group: Sequence[Node]) -> str:
        has = dict(zip(group, run.each(lambda node: is_on(node, release), group), strict=True))
        missing = [node for node in group if not has[node]]
        if not missing:
            return f"already on {_names(group)}"
        first, others = missing[0], missing[1:]
        _upload(run, first, release, source)
        try:
            run.each(lambda node: _take_over(run, first, node, release), others)
        except StepFailed:
            _adopt(run, first, release)
            raise
        # Verified last and side by side: hashing is what takes the time.
        run.each(lambda node: _adopt(run, node, release), missing)
        return f"uploaded to {_names(missing)}"

    return "; ".join(f"{release} {said}" for said in run.each(to_host, list(by_host.values())))


def is_on(node: Node, release: Release) -> bool:
    """Whether the node has the binary, installed or kept; hashes it."""
    seen = node.look()
    return seen.installed == release.digest or (release.digest in seen.kept and node.has_kept(release.digest))


def stage_from_node(run: Run, node: Node, path: str, release: Release) -> None:
    """Keep a binary that already lies on the node under its digest, so that going back to it is a rename.

    Raises:
        InstallFailed: the file is not what it was a moment ago, or there is no room for a copy.
    """
    if is_on(node, release):
        return
    temporary = _temporary(run, release)
    timeout = run.settings.upload_timeout
    _succeed(node, node.copy(path, temporary, what=str(release), timeout=timeout), f"copy {path}")
    _adopt(run, node, release)


def install(run: Run, node: Node, release: Release, before: Binaries) -> str:
    """Put the binary in place; ``before`` is a look at the node that is still true. Gives what was done, in words.

    Same digest: nothing is touched, mtime included.

    Raises:
        InstallFailed: it is not on the node, or could not be renamed into place.
    """
    if before.installed == release.digest:
        return f"{release} is already installed"
    replies: list[Reply] = []

    def change() -> Reply:
        replies.append(node.install(release.digest, replacing=before.installed, what=str(release)))
        return replies[-1]

    def came_true() -> bool:
        return bool(replies and replies[-1].status == 0) or node.look().installed == release.digest

    if not ensure(change, came_true):
        raise InstallFailed(f"{node.name}: {release} could not be put in place: {replies[-1].complaint}")
    replaced = Release(before.installed, before.version(before.installed)) if before.installed else None
    return f"{release}, replacing {replaced}; {replaced.digest[:12]} is kept" if replaced else f"{release}"


def check_running(node: Node, release: Release) -> None:
    """Verify that the running process *is* the binary: its own executable, not the path it was started from.

    Raises:
        InstallFailed: it runs something else.
    """
    if node.runs(release.digest):
        return
    # Not the same file may still be the same binary: installed anew by somebody else, and not restarted.
    seen = node.look()
    if not seen.installed == seen.running == release.digest:
        raise InstallFailed(
            f"{node.name}: expected {release} installed and running; installed is {_short(seen.installed)}, "
            f"running is {_short(seen.running)}"
        )


def forget_proof(run: Run, node: Node, *, unless: str = "") -> None:
    """Clear the green record, unless it is this digest's own."""
    proof = node.read_mark(PROVEN)
    if proof and not (unless and unless in proof):
        node.unmark(PROVEN)


def prune(run: Run, node: Node, protected: Sequence[str]) -> None:
    """Bound the kept binaries to ``KEPT_BINARIES``, never removing the protected digests.

    Raises:
        InstallFailed: they could not be removed.
    """
    seen = node.look()
    stays = {*protected, seen.installed, seen.running}
    binaries = [name for name in seen.kept if _DIGEST.fullmatch(name) and name not in stays]
    doomed = binaries[run.settings.kept_binaries :]
    gone = {*doomed} | {name for name in seen.versions if name not in seen.kept and name not in stays}
    # We hold the lock, so nobody else is uploading.
    abandoned = [name for name in seen.kept if name.startswith(ARRIVING)]
    if names := [*doomed, *(f"{name}.version" for name in sorted(gone)), *abandoned]:
        _succeed(node, node.forget(names), "remove old binaries")


def _upload(run: Run, node: Node, release: Release, source: Path) -> None:
    temporary = _temporary(run, release)
    timeout = run.settings.upload_timeout
    total = source.stat().st_size

    def told(sent: int) -> None:
        run.signals.check()
        run.emit(Uploading(node.incus.host.name, source.name, sent, total))

    try:
        with source.open("rb") as file:
            reply = node.receive(file, temporary, what=str(release), timeout=timeout, progress=told)
    except Interrupted:
        node.forget([temporary])
        raise
    except OutcomeUnknown as error:
        raise InstallFailed(f"{node.name}: the upload of {release} was cut off ({error.message})") from error
    if reply.status:
        node.forget([temporary])
    _succeed(node, reply, f"upload {release}")


def _take_over(run: Run, source: Node, node: Node, release: Release) -> None:
    temporary = _temporary(run, release)
    timeout = run.settings.upload_timeout
    reply = node.fetch_from(source, temporary, what=str(release), timeout=timeout)
    if reply.status:
        node.forget([temporary])
    _succeed(node, reply, f"copy {release} from {source.name}")


def _adopt(run: Run, node: Node, release: Release) -> None:
    temporary = _temporary(run, release)
    replies: list[Reply] = []

    def change() -> Reply:
        replies.append(
            node.adopt(temporary, release.digest, release.version, timeout=run.settings.upload_timeout)
        )
        return replies[-1]

    def came_true() -> bool:
        return bool(replies and replies[-1].status == 0) or node.has_kept(release.digest)

    if not ensure(change, came_true):
        node.forget([temporary])
        raise InstallFailed(f"{node.name}: {release} did not arrive whole: {replies[-1].complaint}")


def _temporary(run: Run, release: Release) -> str:
    return f"{ARRIVING}{run.id}-{release.digest[:12]}"


def _succeed(node: Node, reply: Reply, what: str) -> None:
    if reply.status:
        raise InstallFailed(f"{node.name}: could not {what}: {reply.complaint}")


def _short(digest: str | None) -> str:
    return digest[:12] if digest else f"no {BINARY}"


def _names(nodes: Sequence[Node]) -> str:
    return ", ".join(node.name for node in nodes)
