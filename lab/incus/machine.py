"""What a machine needs before it can hold lab fleets: packages, an Incus daemon, a storage pool, a bridge, an image.

All fleets of a machine share these. A daemon that already answers is used and left alone; one started here is found
again by its pid file. Nothing is made twice, and `release` takes away what `provide` made, except packages and
cached files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POOL = "veza-lab"
BRIDGE = "veza-lab0"
NETWORK = "198.18.0"  # RFC 2544: set aside for test networks, never routed
GATEWAY = f"{NETWORK}.1"
_IMAGE_PREFIX = "veza-lab-"

Say = Callable[[str], None]

# Debian 12 on every host: its systemd still runs where the host has only cgroup v1.
_SUITE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "iproute2", "procps", "curl", "socat", "python3", "haproxy")
_HOOKS = (
    # A service is enabled when a container gets its role; timers would only disturb measurements.
    'cd "$1"/etc/systemd/system && rm -f multi-user.target.wants/haproxy.service timers.target.wants/*',
    # Copied from the building machine by mmdebstrap; a container has a name of its own and no name server.
    'rm -f "$1"/etc/hostname "$1"/etc/resolv.conf',
    # A third of the files, none of them used here: every container is unpacked file by file.
    'cd "$1" && rm -rf usr/lib/*/perl usr/share/perl var/lib/apt/lists',
    'cd "$1"/usr/share && rm -rf zoneinfo doc man locale bash-completion',
)

# command: the package that has it, by preference (Debian splits Incus, older Ubuntu packages may not)
_COMMANDS = {
    "incusd": ("incus-base", "incus"),
    "incus": ("incus-client", "incus"),
    "mmdebstrap": ("mmdebstrap",),
    "sshd": ("openssh-server",),
    "prometheus": ("prometheus",),
}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PATH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/libexec/incus"]
)


class LabError(Exception):
    """The lab could not be brought to the wanted state: what was tried, and what came back."""


@dataclass(frozen=True)
class Image:
    """A root file system that Incus knows: its alias, and the node's own Python for building artifacts."""

    alias: str
    interpreter: Path


@dataclass(frozen=True)
class Daemon:
    """A background process of the lab, found again by its pid file.

    `mark` must occur in its command line: a pid may have been given to another process since.
    """

    name: str
    command: Sequence[str]
    directory: Path
    mark: str
    environment: dict[str, str] | None = None

    def running(self) -> bool:
        return self._pid() is not None

    def start(self) -> None:
        """Start it unless it runs; its output goes to `NAME.log`. It may yet fail: wait for it to answer."""
        if self.running():
            return
        with (self.directory / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                [which(self.command[0]), *self.command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | (self.environment or {}),
            )
        self._pid_file.write_text(f"{process.pid}\n", encoding="ascii")

    def stop(self, *, seconds: float = 10) -> None:
        """End it: TERM, and KILL after `seconds`. Raises `LabError` when it survives even that."""
        for number, limit in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            pid = self._pid()
            if pid is None:
                break
            os.kill(pid, number)
            with contextlib.suppress(LabError):
                wait_until(lambda: not self.running(), f"{self.name} ends", seconds=limit)
        if self.running():
            raise LabError(f"{self.name} (pid {self._pid()}) does not end")
        self._pid_file.unlink(missing_ok=True)

    def children(self) -> list[int]:
        """The process ids of its direct children (of sshd: one for each open connection)."""
        pid = self._pid()
        if pid is None:
            return []
        return [
            int(child)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        ]

    @property
    def _pid_file(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def _pid(self) -> int | None:
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
            # A zombie has an empty command line, so a child of ours that has ended does not count as running.
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if self.mark.encode() in command else None


def run(
    *argv: str,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = 120,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program here. Raises `LabError` when it takes over `timeout` seconds or, with `check`, fails."""
    # Both would silently send the command to another fleet.
    inherited = {
        key: value for key, value in os.environ.items() if key not in ("INCUS_PROJECT", "INCUS_REMOTE")
    }
    try:
        result = subprocess.run(
            argv,
            check=False,
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=inherited | {"INCUS_REMOTE": "local", "PATH": _PATH} | (environment or {}),
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"no end after {timeout:g} s: {shlex.join(argv)}") from error
    if check and result.returncode != 0:
        answer = (result.stderr or result.stdout).strip()[-2000:]
        raise LabError(f"{shlex.join(argv)}\nended with {result.returncode}: {answer}")
    return result


def incus(*argv: str, check: bool = True, stdin: str | None = None, timeout: float = 120) -> str:
    """The output of one `incus` command. Raises `LabError`."""
    return run("incus", *argv, check=check, stdin=stdin, timeout=timeout).stdout


def incus_list(kind: str) -> list[dict[str, Any]]:
    """`incus KIND list` (project, network, storage, image): the objects of this machine."""
    listed: list[dict[str, Any]] = json.loads(incus(kind, "list", "--format", "json"))
    return listed


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float, poll: float = 0.05) -> None:
    """Raises `LabError` naming `what` when it has not come true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(poll)


def which(command: str) -> str:
    """The full path of a command. Raises `LabError` when it is not installed."""
    path = shutil.which(command, path=_PATH)
    if path is None:
        raise LabError(f"{command} is not installed")
    return path


def cache_directory() -> Path:
    """Where files outlive fleets: the root file system, the daemon's pid file and log."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    directory = Path(base) / "veza-tasks-lab"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """One at a time: fleets may be raised and taken down at once, but they share what this module makes."""
    with (cache_directory() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check() -> None:
    """Raises `LabError` with every reason why this machine cannot hold an Incus fleet."""
    reasons = []
    if os.geteuid() != 0:
        reasons.append("not root (Incus, a bridge and packages are needed)")
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    if not {"debian", "ubuntu"} & {release.get("ID", ""), *release.get("ID_LIKE", "").split()}:
        reasons.append(f"neither Debian nor Ubuntu but {release.get('PRETTY_NAME', platform.system())}")
    mounts = (
        Path("/proc/self/mounts").read_text(encoding="utf-8") if Path("/proc/self/mounts").exists() else ""
    )
    if not any(line.split()[2].startswith("cgroup") for line in mounts.splitlines()):
        reasons.append("no cgroup file system is mounted")
    if reasons:
        raise LabError("no Incus lab on this machine: " + "; ".join(reasons))


def provide(say: Say) -> Image:
    """Make sure of packages, daemon, pool, bridge and image; quick when they are there. Raises `LabError`."""
    check()
    _install_packages(say)
    start_daemon(say)
    if POOL not in [pool["name"] for pool in incus_list("storage")]:
        incus("storage", "create", POOL, "dir")
    if BRIDGE not in [network["name"] for network in incus_list("network")]:
        # No DHCP, names, NAT or routes: addresses are fixed, and nothing else of the machine is touched.
        settings = {
            "ipv4.address": f"{GATEWAY}/24",
            "ipv4.dhcp": "false",
            "ipv4.nat": "false",
            "ipv4.firewall": "false",
            "ipv4.routing": "false",
            "ipv6.address": "none",
            "dns.mode": "none",
        }
        incus("network", "create", BRIDGE, *[f"{key}={value}" for key, value in settings.items()])
        say(f"bridge {BRIDGE}, {GATEWAY}/24")
    return _image(say)


def release(say: Say) -> None:
    """Remove the lab's image, bridge and pool; end the daemon if it was started here and holds nothing else."""
    if not daemon_answers():
        return
    for image in incus_list("image"):
        if any(alias["name"].startswith(_IMAGE_PREFIX) for alias in image["aliases"]):
            incus("image", "delete", image["fingerprint"])
    if BRIDGE in [network["name"] for network in incus_list("network")]:
        incus("network", "delete", BRIDGE)
    if POOL in [pool["name"] for pool in incus_list("storage")]:
        incus("storage", "delete", POOL)
    say("image, bridge and pool removed")
    daemon = _daemon()
    if not daemon.running():
        return
    if json.loads(incus("list", "--all-projects", "--format", "json")):
        say("the Incus daemon stays: it holds instances that are not the lab's")
        return
    run("incus", "admin", "shutdown", "--timeout", "20", check=False, timeout=30)
    daemon.stop()
    for mount in ("shmounts", "guestapi", "devlxd"):
        run("umount", f"/var/lib/incus/{mount}", check=False)
    say("Incus daemon ended")


def daemon_answers() -> bool:
    return (
        shutil.which("incus", path=_PATH) is not None
        and run("incus", "query", "/1.0", check=False, timeout=15).returncode == 0
    )


def _daemon() -> Daemon:
    log = cache_directory() / "incusd.log"
    return Daemon(
        name="incusd",
        command=("incusd", "--group", "incus-admin", "--logfile", str(log)),
        directory=log.parent,
        mark=str(log),
        environment={
            "PATH": _PATH,
            "INCUS_SECURITY_APPARMOR": "false",
            "LXC_TEMPLATE_CONFIG": "/usr/share/lxc/config",
            # The daemon looks for public image servers now and then; the lab needs none of them.
            "HTTPS_PROXY": "http://127.0.0.1:9",
        },
    )


def start_daemon(say: Say) -> None:
    """Start an Incus daemon unless one answers. Raises `LabError`, also when Incus is not installed."""
    if daemon_answers():
        return
    if Path("/run/systemd/system").is_dir():
        say("starting the Incus service")
        run("systemctl", "start", "incus.socket", "incus.service")
    else:
        say("starting an Incus daemon (no systemd here)")
        Path("/var/log/incus").mkdir(exist_ok=True)
        _daemon().start()
    run(which("incusd"), "waitready", "--timeout=60")


def _install_packages(say: Say) -> None:
    # A daemon that answers need not have come as a package.
    needed = [command for command in _COMMANDS if not (command.startswith("incus") and daemon_answers())]
    missing = [command for command in needed if shutil.which(command, path=_PATH) is None]
    if not missing and _KEYRING.exists():
        return
    _apt("update", "-q")
    if "incusd" in missing and not any(map(_candidate, _COMMANDS["incusd"])):
        _add_backports(say)
    packages = [] if _KEYRING.exists() else ["debian-archive-keyring"]
    for command in missing:
        package = next(filter(_candidate, _COMMANDS[command]), None)
        if package is None:
            raise LabError(
                f"no package of this distribution has {command} (looked for {', '.join(_COMMANDS[command])})"
            )
        packages.append(package)
    say(f"installing {', '.join(packages)}")
    with _services_stay_off():
        _apt("install", "-q", "-y", "--no-install-recommends", *dict.fromkeys(packages))
    if Path("/run/systemd/system").is_dir():
        # A fleet runs its own sshd and Prometheus: the machine's must not begin with the next boot because of us.
        units = {"sshd": ("ssh.service", "ssh.socket"), "prometheus": ("prometheus.service",)}
        run(
            "systemctl",
            "disable",
            *[unit for command in missing for unit in units.get(command, ())],
            check=False,
        )
    say("packages installed")


def _apt(*argv: str) -> None:
    run(
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
        *argv,
        timeout=900,
        environment={"DEBIAN_FRONTEND": "noninteractive"},
    )


def _candidate(package: str) -> bool:
    policy = run("apt-cache", "policy", package, check=False).stdout
    return "Candidate:" in policy and "Candidate: (none)" not in policy


def _add_backports(say: Say) -> None:
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise LabError(
            f"{release.get('PRETTY_NAME')} has no Incus package; Debian 12 or 13 and Ubuntu 24.04 do"
        )
    say("adding Debian backports for Incus")
    Path("/etc/apt/sources.list.d/veza-tasks-lab.sources").write_text(
        f"Types: deb\nURIs: {_MIRROR}\nSuites: {release['VERSION_CODENAME']}-backports\n"
        f"Components: main\nSigned-By: {_KEYRING}\n",
        encoding="utf-8",
    )
    _apt("update", "-q")


@contextlib.contextmanager
def _services_stay_off() -> Iterator[None]:
    # Debian policy 9.3.3.2: exit status 101 forbids packages to start their services.
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _image(say: Say) -> Image:
    recipe = json.dumps([_SUITE, _MIRROR, _PACKAGES, _HOOKS, platform.machine()])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    cache = cache_directory()
    root_file_system, metadata, interpreter = (
        cache / f"{name}-{key}" for name in ("rootfs.tar", "metadata.tar", "python")
    )
    if not root_file_system.exists():
        _build_root_file_system(root_file_system, say)
    if not interpreter.exists():
        _extract_interpreter(root_file_system, interpreter)
    alias = f"{_IMAGE_PREFIX}{key}"
    if alias not in [known["name"] for image in incus_list("image") for known in image["aliases"]]:
        _write_metadata(metadata)
        incus("image", "import", str(metadata), str(root_file_system), "--alias", alias)
        say("image imported")
    return Image(alias=alias, interpreter=interpreter)


def _build_root_file_system(target: Path, say: Say) -> None:
    say(f"building the root file system once (Debian {_SUITE}, half a minute)")
    for old in target.parent.glob("*.tar-*"):
        old.unlink()
    new = target.with_name(f".{target.name}.new")
    hooks = [argument for hook in _HOOKS for argument in ("--customize-hook", hook)]
    run(
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        f"--keyring={_KEYRING}",
        f"--include={','.join(_PACKAGES)}",
        *hooks,
        _SUITE,
        str(new),
        _MIRROR,
        timeout=900,
    )
    new.replace(target)
    say(f"root file system built, {target.stat().st_size / 1e6:.0f} MB")


def _extract_interpreter(root_file_system: Path, target: Path) -> None:
    new = target.with_name(f".{target.name}.new")
    with tarfile.open(root_file_system) as archive, new.open("wb") as out:
        link = archive.getmember("./usr/bin/python3")
        program = archive.extractfile(f"./usr/bin/{link.linkname}" if link.issym() else link)
        if program is None:
            raise LabError(f"{root_file_system} holds no Python")
        shutil.copyfileobj(program, out)
    new.chmod(0o755)
    new.replace(target)


def _write_metadata(target: Path) -> None:
    description = target.with_name("metadata.yaml")
    architecture = platform.machine()
    description.write_text(
        f"architecture: {architecture}\ncreation_date: 1\nproperties: {{os: debian, release: {_SUITE}}}\n",
        encoding="utf-8",
    )
    with tarfile.open(target, "w") as archive:
        archive.add(description, arcname="metadata.yaml")
    description.unlink()
