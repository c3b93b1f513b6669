"""The Incus lab itself: what `up`, `reset` and `down` promise to those who practise and test on its fleets."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import artifacts
from lab.incus import Fleet, LabError, check, down, find, status, up
from lab.incus.host import incus, incus_list, wait_until
from lab.incus.machine import daemon_answers
from lab.incus.templates import INSTALL_DIR, UNIT

pytestmark = pytest.mark.incus
NAME = "lab-test"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    try:
        check()
    except LabError as reason:
        pytest.skip(str(reason))
    try:
        yield up(NAME)
    finally:
        down(NAME)


def processes(fleet: Fleet) -> dict[str, int]:
    """The main process of every instance, as the host numbers them."""
    return {name: instance["state"]["pid"] for name, instance in fleet.instances().items()}


def test_up_on_a_fleet_that_is_up_restarts_nothing(fleet: Fleet) -> None:
    before = processes(fleet), fleet.sshd.pid(), fleet.prometheus.pid(), fleet.servers()

    assert up(NAME) == fleet == find(NAME)

    after = processes(fleet), fleet.sshd.pid(), fleet.prometheus.pid(), fleet.servers()
    assert after[:3] == before[:3]
    assert all(state.startswith("ok") for state in status(fleet).values()), status(fleet)


def test_the_fleet_is_reached_over_its_own_ssh_and_only_with_its_host_key(
    fleet: Fleet, tmp_path: Path
) -> None:
    listed = fleet.ssh("incus", "list", f"--project={NAME}", "--format=csv", "--columns=n").stdout

    assert listed.split() == ["backend-api-1", "backend-api-2", "haproxy"]

    known_hosts = fleet.directory / "known_hosts"
    kept = known_hosts.read_text(encoding="ascii")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    try:
        other = (tmp_path / "other.pub").read_text(encoding="ascii")
        known_hosts.write_text(f"[127.0.0.1]:{fleet.ssh_port} {other}", encoding="ascii")
        refused = fleet.ssh("true", check=False)
    finally:
        known_hosts.write_text(kept, encoding="ascii")
    assert refused.returncode == 255
    assert "verification failed" in refused.stderr


def test_prometheus_tells_the_nodes_apart(fleet: Fleet) -> None:
    assert fleet.query("veza_build_info") == {"backend-api-1:8080": 1.0, "backend-api-2:8080": 1.0}


def test_reset_takes_back_what_a_broken_run_leaves_behind(fleet: Fleet) -> None:
    fleet.push("backend-api-2", fleet.artifact("v1.0.11"), f"{INSTALL_DIR}/veza-api")
    fleet.exec("backend-api-2", "systemctl", "restart", UNIT)
    fleet.exec("backend-api-2", "touch", f"{INSTALL_DIR}/veza-api.upload")
    incus("config", "set", f"--project={NAME}", "backend-api-2", "user.veza-tasks.drained=run 1")
    incus("stop", "--force", f"--project={NAME}", "backend-api-1")
    fleet.configure_haproxy(backend=["cookie node insert indirect"], server="cookie {name} slowstart 60s")
    fleet.haproxy("set server api_pool/backend-api-2 state maint")
    fleet.prometheus.stop()
    fleet.stop_sshd()

    fleet.reset()

    assert all(state.startswith("ok") for state in status(fleet).values()), status(fleet)
    assert "user.veza-tasks.drained" not in fleet.instances()["backend-api-2"]["config"]
    assert "cookie" not in fleet.exec("haproxy", "cat", "/etc/haproxy/haproxy.cfg").stdout
    for node in fleet.nodes:
        assert fleet.exec(node, "ls", "-A", INSTALL_DIR).stdout.split() == ["veza-api", "veza-api.previous"]
        main = fleet.exec(node, "systemctl", "show", "--property=MainPID", "--value", UNIT).stdout.strip()
        digest = fleet.exec(node, "sha256sum", f"/proc/{main}/exe").stdout.split()[0]
        assert digest == artifacts.sha256(fleet.artifact("v1.0.9"))


def test_a_cut_connection_does_not_end_what_was_started_through_it(fleet: Fleet, tmp_path: Path) -> None:
    started, proof = tmp_path / "started", tmp_path / "proof"
    script = f"touch {shlex.quote(str(started))}; sleep 1; touch {shlex.quote(str(proof))}"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fleet.ssh, script, check=False)
        wait_until(started.exists, "the command runs", seconds=10)
        fleet.cut_ssh()

        assert answer.result(timeout=10).returncode == 255
    wait_until(proof.exists, "the command has run to its end", seconds=10)


def test_down_leaves_nothing(fleet: Fleet) -> None:
    down(NAME)

    assert fleet.sshd.pid() is None
    assert fleet.prometheus.pid() is None
    assert not fleet.directory.exists()
    assert find(NAME) is None
    assert not daemon_answers() or NAME not in [project["name"] for project in incus_list("project")]
    down(NAME)  # nothing to remove is fine
