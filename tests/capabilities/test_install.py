"""Binaries on nodes: uploaded once per host, verified on each, never in the way of what runs, and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.memory import INSTALLED, KEPT, File, MemoryFleet, digest_of
from veza_tasks.capabilities import install
from veza_tasks.capabilities.artifact import read_artifact
from veza_tasks.errors import InstallFailed
from veza_tasks.events import Uploading


@pytest.fixture
def three(tmp_path: Path) -> MemoryFleet:
    return MemoryFleet(tmp_path, nodes=3)


def uploads(fleet: MemoryFleet) -> list[str]:
    return [event.host for event in fleet.events if isinstance(event, Uploading)]


def kept(fleet: MemoryFleet) -> list[list[str]]:
    machines = fleet.world.machines.values()
    return [
        sorted(path.removeprefix(f"{KEPT}/") for path in m.files if path.startswith(KEPT)) for m in machines
    ]


def test_a_host_gets_one_upload_and_every_node_a_verified_copy(three: MemoryFleet) -> None:
    artifact = read_artifact(three.binary("v2.0.0"))
    run = three.run()
    install.stage(run, run.fleet.released_to, artifact.release, artifact.path)
    assert uploads(three) == ["incus-1"]
    assert kept(three) == [[artifact.release.digest, f"{artifact.release.digest}.version"]] * 3
    assert three.all_run(three.v1)
    install.stage(run, run.fleet.released_to, artifact.release, artifact.path)
    assert uploads(three) == ["incus-1"], "what is there is not sent again"


def test_each_host_gets_its_own(three: MemoryFleet) -> None:
    artifact = read_artifact(three.binary("v2.0.0"))
    nodes = {f"backend-api-{number}": {"host": f"incus-{1 + number % 2}"} for number in (1, 2, 3)}
    run = three.run(hosts={"incus-1": {}, "incus-2": {}}, nodes=nodes)
    install.stage(run, run.fleet.released_to, artifact.release, artifact.path)
    assert sorted(uploads(three)) == ["incus-1", "incus-2"]
    assert all(artifact.release.digest in names for names in kept(three))


def test_a_damaged_copy_under_its_digest_is_sent_again(three: MemoryFleet) -> None:
    artifact = read_artifact(three.binary("v2.0.0"))
    digest = artifact.release.digest
    three.canary.files[f"{KEPT}/{digest}"] = File("damaged", 3)
    run = three.run()
    install.stage(run, run.fleet.released_to, artifact.release, artifact.path)
    assert three.canary.files[f"{KEPT}/{digest}"].digest == digest


def test_what_is_handed_from_node_to_node_is_verified_too(three: MemoryFleet) -> None:
    artifact = read_artifact(three.binary("v2.0.0"))
    three.peers[1].disk -= three.peers[1].free - 50
    run = three.run()
    with pytest.raises(InstallFailed):
        install.stage(run, run.fleet.released_to, artifact.release, artifact.path)
    assert kept(three)[2] == [], "half a file is not left behind"


def test_what_is_replaced_is_kept_with_its_version(three: MemoryFleet) -> None:
    v2, v3 = (read_artifact(three.binary(version)) for version in ("v2.0.0", "v3.0.0"))
    run = three.run()
    node = run.fleet.canary
    for artifact in (v2, v3):
        install.stage(run, [node], artifact.release, artifact.path)
        install.install(run, node, artifact.release, node.look())
    seen = node.look()
    assert seen.installed == v3.release.digest
    assert set(seen.kept) == {v2.release.digest, digest_of(three.v1)}
    assert seen.version(v2.release.digest) == "v2.0.0"


def test_the_same_digest_touches_nothing(three: MemoryFleet) -> None:
    run = three.run()
    before = three.canary.files[INSTALLED]
    changed = before.changed
    node = run.fleet.canary
    install.install(run, node, read_artifact(three.v1).release, node.look())
    assert (three.canary.files[INSTALLED], before.changed, three.world.effects) == (before, changed, [])


def test_pruning_leaves_the_newest_the_protected_and_what_is_not_ours(three: MemoryFleet) -> None:
    digests = [f"{number:064x}" for number in range(6)]
    run = three.run(kept_binaries=2)
    files = three.canary.files
    for number, digest in enumerate(digests):
        files[f"{KEPT}/{digest}"] = File(digest, changed=float(number))
        files[f"{KEPT}/{digest}.version"] = File("", text=f"v{number}")
    files[f"{KEPT}/.arriving-20200101T000000Z-aaaaaa-0"] = File("x")
    files[f"{KEPT}/somebodys.notes"] = File("x")
    install.prune(run, run.fleet.canary, [digests[0]])
    stays = [digests[0], digests[4], digests[5]]
    names = [
        *stays,
        *(f"{digest}.version" for digest in stays),
        "somebodys.notes",
    ]
    assert sorted(path.removeprefix(f"{KEPT}/") for path in files if path.startswith(KEPT)) == sorted(names)
