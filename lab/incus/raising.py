"""Raise fleets, find them again, take them down.

What exists is asked of Incus, never remembered: a fleet's project carries its slot (addresses and ports) and
its directory, so that `up` on half a fleet makes only what is missing and `down` finds everything.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import artifacts
from lab.incus import machine, templates
from lab.incus.fleet import LOAD_BALANCER, Fleet, listens, start
from lab.incus.host import LabError, Say, incus, incus_list, run, wait_until
from lab.incus.machine import Image

_REPOSITORY = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_SLOT, _DIRECTORY = "user.veza-lab.slot", "user.veza-lab.directory"
_SLOTS = range(14)  # 16 addresses each; the first 16 of the network are the host's
_MOST_NODES = 15


def up(
    name: str = "lab", *, nodes: int | None = None, repository: Path = _REPOSITORY, say: Say | None = None
) -> Fleet:
    """Raise a fleet, or repair one; in seconds when it is up. Raises `LabError`.

    `nodes`: how many backends, at least 2 (default: as it is, else 2). `say` is told what happens, line by
    line (default: print with seconds).
    """
    say = say or _stopwatch()
    if not _NAME.fullmatch(name) or name == "default":
        raise LabError(f"a fleet's name is a lower-case word, not {name!r}")
    if nodes is not None and not 2 <= nodes <= _MOST_NODES:
        raise LabError(f"a fleet has 2 to {_MOST_NODES} nodes, not {nodes}")
    with machine.lock():
        image = machine.provide(say)
        fleet = _claim(name, nodes, repository / ".lab" / name)
    say(f"fleet {name}: {len(fleet.nodes)} nodes, {fleet.address(LOAD_BALANCER)} and up")
    _write_host_files(fleet)
    fleet.start_sshd()
    fleet.prometheus.start()  # already here: it looks at its targets for the first time 5 s after its start
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(_build_artifacts, fleet, image)
        _make_instances(fleet, image, say)
        building.result()
    say("containers run; installing and waiting until everything serves")
    fleet.reset()
    say(f"up: {fleet.lb_url}{templates.HEALTH_PATH}, {fleet.prom_url}, {fleet.fleet_file}")
    return fleet


def down(name: str = "lab", *, repository: Path = _REPOSITORY, say: Say | None = None) -> None:
    """Remove a fleet and all it made; with the last one what the fleets shared. Nothing to remove is fine."""
    say = say or _stopwatch()
    directory = repository / ".lab" / name
    fleet = Fleet(name=name, directory=directory, slot=0, nodes=())
    fleet.stop_sshd()
    fleet.prometheus.stop()
    with machine.lock():
        if directory.exists():
            machine.start_daemon(say)  # a fleet outlives its daemon, and only a daemon can remove it
        claims = _claims() if machine.daemon_answers() else {}
    if name in claims:
        _check_owner(name, claims[name], directory)
        _delete_instances(name, list(fleet.instances()))
        incus("project", "delete", name, "--force", stdin="yes\n")
        say(f"fleet {name}: containers removed")
    if directory.exists():
        shutil.rmtree(directory)
        if not any(directory.parent.iterdir()):
            directory.parent.rmdir()
    with machine.lock():
        if machine.daemon_answers() and not _claims():
            machine.release(say)
    say(f"fleet {name} is down")


def find(name: str = "lab") -> Fleet | None:
    """The fleet of that name as Incus knows it, whole or not; nothing is changed."""
    claim = _claims().get(name) if machine.daemon_answers() else None
    return None if claim is None else _fleet(name, claim)


def fleets() -> list[Fleet]:
    """Every lab fleet of this machine."""
    return [_fleet(name, claim) for name, claim in _claims().items()] if machine.daemon_answers() else []


def _claims() -> dict[str, dict[str, str]]:
    projects = incus_list("project")
    return {project["name"]: project["config"] for project in projects if _SLOT in project["config"]}


def _fleet(name: str, claim: dict[str, str]) -> Fleet:
    listed = json.loads(incus("list", f"--project={name}", "--format", "json"))
    nodes = [one["name"] for one in listed if one["name"] != LOAD_BALANCER]
    nodes.sort(key=lambda node: int(node.rpartition("-")[2]))
    return Fleet(name=name, directory=Path(claim[_DIRECTORY]), slot=int(claim[_SLOT]), nodes=tuple(nodes))


def _claim(name: str, nodes: int | None, directory: Path) -> Fleet:
    claims = _claims()
    if name not in claims:
        taken = {int(claim[_SLOT]) for claim in claims.values()}
        slot = next((slot for slot in _SLOTS if slot not in taken and _ports_are_free(slot)), None)
        if slot is None:
            raise LabError(f"all {len(_SLOTS)} places for fleets are taken: {', '.join(sorted(claims))}")
        settings = (
            f"{_SLOT}={slot}",
            f"{_DIRECTORY}={directory}",
            "features.images=false",
            "features.networks=false",
        )
        incus("project", "create", name, *(f"--config={setting}" for setting in settings))
        claims = _claims()
    _check_owner(name, claims[name], directory)
    incus("project", "set", name, f"{_DIRECTORY}={directory}")
    present = _fleet(name, claims[name])
    count = nodes if nodes is not None else max(2, len(present.nodes))
    names = tuple(f"backend-api-{number}" for number in range(1, count + 1))
    return Fleet(name=name, directory=directory, slot=present.slot, nodes=names)


def _check_owner(name: str, claim: dict[str, str], directory: Path) -> None:
    owner = Path(claim[_DIRECTORY])
    if owner != directory and owner.exists():
        raise LabError(f"fleet {name} belongs to {owner}; take another --name")


def _ports_are_free(slot: int) -> bool:
    return not listens("127.0.0.1", 2222 + slot) and not listens(machine.GATEWAY, 9090 + slot)


def _make_instances(fleet: Fleet, image: Image, say: Say) -> None:
    wanted = (LOAD_BALANCER, *fleet.nodes)
    wait_until(lambda: _is_quiet(fleet.name), "Incus has finished what a killed run began", seconds=60)
    found = fleet.instances()
    _delete_instances(fleet.name, [name for name in found if name not in wanted])
    missing = [name for name in wanted if name not in found]
    if missing:
        say(f"making {', '.join(missing)}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _make_instance(fleet, image, name), missing))
        found = fleet.instances()
        list(pool.map(lambda name: start(fleet.name, found[name]), wanted))


def _make_instance(fleet: Fleet, image: Image, name: str) -> None:
    # LXC sets the address before the first process runs: no DHCP and nothing to wait for.
    address = f"--config=raw.lxc=lxc.net.0.ipv4.address = {fleet.address(name)}/24"
    # A user may own 200 kernel keys, and a container's systemd takes 13: each container gets users of its own.
    own_users = "--config=security.idmap.isolated=true"
    # The same hardware address whenever it is made anew: neighbours remember the old one for half a minute.
    hardware = "02:" + ":".join(f"{int(byte):02x}" for byte in f"0.{fleet.address(name)}".split("."))
    ethernet = f"--config=volatile.eth0.hwaddr={hardware}"
    where = (f"--project={fleet.name}", f"--storage={machine.POOL}", f"--network={machine.BRIDGE}")
    incus("init", image.alias, name, "--quiet", *where, address, ethernet, own_users)


def _is_quiet(project: str) -> bool:
    operations = json.loads(incus("operation", "list", f"--project={project}", "--format=json"))
    return not any(one["class"] == "task" and one["status"] == "Running" for one in operations)


def _delete_instances(project: str, names: Sequence[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: incus("delete", "--force", f"--project={project}", name), names))


def _build_artifacts(fleet: Fleet, image: Image) -> None:
    builder = Path(artifacts.__file__)
    sources = (builder, builder.with_name("backend.py"), image.interpreter)
    stamp = fleet.artifacts / ".made-of"
    made_of = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == made_of:
        return
    artifacts.build_all(fleet.artifacts, interpreter=image.interpreter)
    stamp.write_text(made_of, encoding="ascii")


def _write_host_files(fleet: Fleet) -> None:
    directory = fleet.directory
    directory.mkdir(parents=True, exist_ok=True)
    for key in (directory / "host_key", directory / "id_ed25519"):
        if not key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"veza-lab {fleet.name}", "-f", str(key))
    kind, public = (directory / "host_key.pub").read_text(encoding="ascii").split()[:2]
    root_is_locked = Path("/etc/shadow").read_text(encoding="utf-8").startswith("root:!")
    servers = {node: fleet.address(node) for node in fleet.nodes}
    files = {
        "known_hosts": f"[127.0.0.1]:{fleet.ssh_port} {kind} {public}\n",
        "sshd_config": templates.sshd(directory, port=fleet.ssh_port, root_is_locked=root_is_locked),
        "prometheus.yml": templates.prometheus(servers),
        "fabfile.yaml": templates.fleet_file(
            directory,
            name=fleet.name,
            port=fleet.ssh_port,
            nodes=fleet.nodes,
            lb_url=fleet.lb_url,
            prom_url=fleet.prom_url,
        ),
    }
    for name, daemon in {"sshd_config": fleet.sshd, "prometheus.yml": fleet.prometheus}.items():
        if (directory / name).exists() and (directory / name).read_text(encoding="utf-8") != files[name]:
            daemon.stop()
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


def _stopwatch() -> Callable[[str], None]:
    started = time.monotonic()
    return lambda text: print(f"{time.monotonic() - started:5.1f} s  {text}", flush=True)
