"""What a machine needs before it can hold lab fleets: packages, Incus, a storage pool, a bridge, an image.

All fleets of a machine share these. A daemon that already answers is used and left alone. Nothing is made
twice, and `release` takes away what `provide` made, except packages and cached files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.incus.host import SEARCH_PATH, Daemon, LabError, Say, incus, incus_list, is_installed, run

POOL = "veza-lab"
BRIDGE = "veza-lab0"
NETWORK = "198.18.0"  # RFC 2544: set aside for test networks, never routed
GATEWAY = f"{NETWORK}.1"
_ALIAS_PREFIX = "veza-lab-"
_INOTIFY_INSTANCES = 1024

# Each command with the package that has it, by preference: not every release splits Incus.
_COMMANDS = {
    "incusd": ("incus-base", "incus"),
    "incus": ("incus-client", "incus"),
    "mmdebstrap": ("mmdebstrap",),
    "sshd": ("openssh-server",),
    "prometheus": ("prometheus",),
}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Debian 12 on every machine: its systemd still runs where there is only cgroup v1.
_SUITE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "procps",
    "curl",
    "ca-certificates",
    "socat",
    "python3",
    "haproxy",
)
_HOOKS = (
    # A service is enabled when a container gets its role; timers would only disturb measurements.
    'cd "$1"/etc/systemd/system && rm -f multi-user.target.wants/haproxy.service timers.target.wants/*',
    # Copied from the building machine by mmdebstrap; a container has a name of its own and no name server.
    'rm -f "$1"/etc/hostname "$1"/etc/resolv.conf',
    # A third of the files, none of them used here: every container is unpacked file by file.
    'cd "$1" && rm -rf usr/lib/*/perl usr/share/perl var/lib/apt/lists',
    'cd "$1"/usr/share && rm -rf zoneinfo doc man locale bash-completion',
)


@dataclass(frozen=True)
class Image:
    """A root file system that Incus knows: its alias, and its own Python for building artifacts."""

    alias: str
    interpreter: Path


def check() -> None:
    """Raises `LabError` with every reason why this machine cannot hold an Incus fleet."""
    reasons = []
    if os.geteuid() != 0:
        reasons.append("not root (Incus, a bridge and packages are needed)")
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    if not {"debian", "ubuntu"} & {release.get("ID", ""), *release.get("ID_LIKE", "").split()}:
        reasons.append(f"neither Debian nor Ubuntu but {release.get('PRETTY_NAME', platform.system())}")
    mounts = Path("/proc/self/mounts")
    if not mounts.exists() or " cgroup" not in mounts.read_text(encoding="utf-8"):
        reasons.append("no cgroup file system is mounted")
    if reasons:
        raise LabError("no Incus lab on this machine: " + "; ".join(reasons))


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """One at a time: fleets may be raised and taken down at once, but they share what this module makes."""
    with (_cache() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def provide(say: Say) -> Image:
    """Make sure of packages, daemon, pool, bridge and image; quick when they are there. Raises `LabError`."""
    check()
    _install_packages(say)
    start_daemon(say)
    _raise_inotify_limit(say)
    if POOL not in [pool["name"] for pool in incus_list("storage")]:
        incus("storage", "create", POOL, "dir")
    if BRIDGE not in [network["name"] for network in incus_list("network")]:
        # No DHCP, names, NAT or routes: addresses are fixed, and nothing else of the machine is touched.
        address = (f"ipv4.address={GATEWAY}/24", "ipv6.address=none", "dns.mode=none")
        off = ("ipv4.dhcp=false", "ipv4.nat=false", "ipv4.firewall=false", "ipv4.routing=false")
        incus("network", "create", BRIDGE, *address, *off)
        say(f"bridge {BRIDGE}, {GATEWAY}/24")
    return _image(say)


def release(say: Say) -> None:
    """Remove the lab's image, bridge and pool; end the daemon if started here and holding nothing else."""
    for image in incus_list("image"):
        if any(alias["name"].startswith(_ALIAS_PREFIX) for alias in image["aliases"]):
            incus("image", "delete", image["fingerprint"])
    if BRIDGE in [network["name"] for network in incus_list("network")]:
        incus("network", "delete", BRIDGE)
    if POOL in [pool["name"] for pool in incus_list("storage")]:
        incus("storage", "delete", POOL)
    say("image, bridge and pool removed")
    daemon = _daemon()
    if daemon.pid() is None:
        return
    if json.loads(incus("list", "--all-projects", "--format=json")):
        say("the Incus daemon stays: it holds instances that are not the lab's")
        return
    run("incus", "admin", "shutdown", "--timeout=20", check=False, timeout=30)
    daemon.stop()
    for mount in ("shmounts", "guestapi"):
        run("umount", f"/var/lib/incus/{mount}", check=False)
    say("Incus daemon ended")


def daemon_answers() -> bool:
    """Whether an Incus daemon runs here and lets us in."""
    return is_installed("incus") and run("incus", "query", "/1.0", check=False, timeout=15).returncode == 0


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
    run("incusd", "waitready", "--timeout=60")


def _raise_inotify_limit(say: Say) -> None:
    # Every container's systemd holds about six, all counted for the user who made the containers: with the kernel's
    # 128 the twentieth boots for ever. The value is that of Incus's own /etc/sysctl.d/10-incus-inotify.conf, which
    # waits for a boot with systemd.
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text(encoding="ascii")) < _INOTIFY_INSTANCES:
        limit.write_text(f"{_INOTIFY_INSTANCES}\n", encoding="ascii")
        say(f"fs.inotify.max_user_instances raised to {_INOTIFY_INSTANCES} (until the next boot)")


def _cache() -> Path:
    """Where files outlive fleets: the root file system, its Python, the daemon's log."""
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "veza-tasks-lab"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _daemon() -> Daemon:
    log = _cache() / "incusd.log"
    environment = {
        "PATH": SEARCH_PATH,
        "INCUS_SECURITY_APPARMOR": "false",
        "LXC_TEMPLATE_CONFIG": "/usr/share/lxc/config",
        # It looks for public image servers now and then; the lab needs none of them.
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    command = ("incusd", "--group=incus-admin", f"--logfile={log}")
    return Daemon(command, mark=log, log=log.with_name("incusd.out"), environment=environment)


def _install_packages(say: Say) -> None:
    # A daemon that answers need not have come as a package.
    needed = [command for command in _COMMANDS if not (command.startswith("incus") and daemon_answers())]
    missing = [command for command in needed if not is_installed(command)]
    if not missing and _KEYRING.exists():
        return
    _apt("update", "-q")
    if "incusd" in missing and not any(map(_is_available, _COMMANDS["incusd"])):
        _add_backports(say)
    packages = [] if _KEYRING.exists() else ["debian-archive-keyring"]
    for command in missing:
        package = next(filter(_is_available, _COMMANDS[command]), None)
        if package is None:
            raise LabError(f"no package of this release has {command} ({', '.join(_COMMANDS[command])})")
        packages.append(package)
    say(f"installing {', '.join(packages)}")
    with _services_stay_off():
        _apt("install", "-q", "-y", "--no-install-recommends", *packages)
    if Path("/run/systemd/system").is_dir():
        # A fleet runs its own sshd and Prometheus: the machine's must not begin with the next boot.
        units = {"sshd": ("ssh.service", "ssh.socket"), "prometheus": ("prometheus.service",)}
        ours = [unit for command in missing for unit in units.get(command, ())]
        run("systemctl", "disable", *ours, check=False)
    say("packages installed")


def _apt(*argv: str) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "-o", "DPkg::Lock::Timeout=300", *argv, timeout=900, environment=environment)


def _is_available(package: str) -> bool:
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
    # Debian policy 9.3.3.2 and invoke-rc.d: exit status 101 forbids packages to start their services.
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
    alias = f"{_ALIAS_PREFIX}{key}"
    root, interpreter = _cache() / f"rootfs-{key}.tar", _cache() / f"python-{key}"
    if not root.exists():
        _build_root(root, say)
    if not interpreter.exists():
        _extract_interpreter(root, interpreter)
    if alias not in [known["name"] for image in incus_list("image") for known in image["aliases"]]:
        metadata = _cache() / "metadata.tar"
        _write_metadata(metadata)
        incus("image", "import", str(metadata), str(root), f"--alias={alias}")
        say("image imported")
    return Image(alias=alias, interpreter=interpreter)


def _build_root(target: Path, say: Say) -> None:
    say(f"building the root file system, once (Debian {_SUITE}, half a minute)")
    for old in [*target.parent.glob("rootfs-*"), *target.parent.glob("python-*")]:
        old.unlink()
    new = target.with_suffix(".new")
    run(
        *("mmdebstrap", "--variant=minbase", "--format=tar", f"--keyring={_KEYRING}"),
        *(f"--include={','.join(_PACKAGES)}", *(f"--customize-hook={hook}" for hook in _HOOKS)),
        *(_SUITE, str(new), _MIRROR),
        timeout=900,
    )
    new.replace(target)
    say(f"root file system built, {target.stat().st_size / 1e6:.0f} MB")


def _extract_interpreter(root: Path, target: Path) -> None:
    new = target.with_suffix(".new")
    with tarfile.open(root) as archive, new.open("wb") as out:
        link = archive.getmember("./usr/bin/python3")
        program = archive.extractfile(f"./usr/bin/{link.linkname}")
        if program is None:
            raise LabError(f"{root} holds no Python")
        shutil.copyfileobj(program, out)
    new.chmod(0o755)
    new.replace(target)


def _write_metadata(target: Path) -> None:
    # What `incus image import` wants beside a root file system (Incus manual, image format).
    text = f"architecture: {platform.machine()}\ncreation_date: 1\nproperties: {{release: {_SUITE}}}\n"
    description = target.with_name("metadata.yaml")
    description.write_text(text, encoding="utf-8")
    with tarfile.open(target, "w") as archive:
        archive.add(description, arcname="metadata.yaml")
    description.unlink()
