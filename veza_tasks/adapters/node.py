"""What is looked at and done inside a node: systemd, the binaries on its disk, and its own HTTP port.

Everything goes through constant scripts with positional parameters; nothing from outside becomes script text.
Sources: systemctl(1), systemd.service(5), proc(5); ``rename(2)`` for why a running binary can be replaced but not written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from veza_tasks import settings
from veza_tasks.adapters.host import Progress, Reply
from veza_tasks.adapters.incus import Incus
from veza_tasks.errors import FleetError

BINARY = "veza-api"
PREVIOUS = "veza-api.previous"
"""Belongs to the deploy pipeline (runbook, "Manual rollback"); read, never written."""
KEPT = "veza-api.kept"
"""Folder beside the binary: binaries by sha256, staged or replaced, each with its version in ``DIGEST.version``."""

SHA256 = re.compile("[0-9a-f]{64}")

_UNIT = "LoadState,ActiveState,SubState,MainPID,NRestarts,ActiveEnterTimestamp"
UNIT_STATE = f'systemctl show --timestamp=unix --property={_UNIT} -- "$1"'

# The same 40 MiB take sha256sum of Debian 12 0.23 s and openssl 0.035 s, which a node has if it has ca-certificates.
HASH = "sha256() { if command -v openssl >/dev/null; then openssl dgst -sha256 -r; else sha256sum; fi; }"

# A file is not hashed again while it is the same inode with the same size and nanosecond of modification; renames and
# links keep these. What a process *runs* after a restart is always hashed (RUNNING).
IDENTITY = "stat -L -c %d:%i:%s:%.9Y --"

# Prints NAME=SHA256@IDENTITY of the file $2, or NAME=@IDENTITY where $known lists that identity.
DIGEST = f"""
{HASH}
digest() {{
  [ -e "$2" ] || return 0
  identity=$({IDENTITY} "$2")
  case " $known " in
    *" $identity "*) echo "$1=@$identity" ;;
    *) sum=$(sha256 <"$2") && echo "$1=${{sum%% *}}@$identity" && known="$known $identity" ;;
  esac
}}
"""

# $1 unit, $2 folder, $3 identities of files whose sha256 we know.
LOOK = f"""
known=$3{DIGEST}
{UNIT_STATE} || exit
pid=$(systemctl show --property=MainPID --value -- "$1")
cd -- "$2" || exit
digest installed {BINARY}
[ "$pid" -eq 0 ] || digest running "/proc/$pid/exe"
digest previous {PREVIOUS}
ls -1Atc {KEPT} 2>/dev/null | while IFS= read -r name; do
  case $name in
    *.version) echo "version.${{name%.version}}=$(cat -- "{KEPT}/$name")" ;;
    *) echo "kept.$name=" ;;
  esac
done
echo "now=$(date +%s)"
echo "free=$(stat -f -c '%a %S' . | {{ read -r blocks size && echo $((blocks * size)); }})"
"""

# Prints the sha256 of the running process's executable; succeeds if that is the installed file.
RUNNING = f"""
{HASH}
pid=$(systemctl show --property=MainPID --value -- "$1")
[ "$pid" -gt 0 ] && sum=$(sha256 <"/proc/$pid/exe") && echo "${{sum%% *}}" && [ "/proc/$pid/exe" -ef "$2/{BINARY}" ]
"""

# A unit that crashed too often refuses even a good binary (StartLimitBurst), and keeps counting its old crashes.
RESTART = 'systemctl reset-failed -- "$1" 2>/dev/null; systemctl restart -- "$1"'

HEALTH = f"""
{UNIT_STATE} || exit
echo "http=$(curl --silent --output /dev/null --write-out '%{{http_code}}' --noproxy '*' --max-time 2 -- "$2")"
"""

RECEIVE = f"""
cd -- "$1" && mkdir -p {KEPT} && cat >"{KEPT}/$2"
"""

COPY = f"""
cd -- "$1" && mkdir -p {KEPT} && cp -- "$3" "{KEPT}/$2"
"""

# $1 folder, $2 temporary name, $3 digest, $4 version. The owner is that of the binary it will stand in for.
ADOPT = f"""
{HASH}
cd -- "$1/{KEPT}" || exit
sum=$(sha256 <"$2") && sum=${{sum%% *}}
if [ "$sum" != "$3" ]; then rm -f -- "$2"; echo "it arrived as sha256 $sum" >&2; exit 1; fi
chmod 0755 -- "$2" || exit
[ ! -e ../{BINARY} ] || chown --reference=../{BINARY} -- "$2" || exit
sync -- "$2" && printf '%s' "$4" >"$3.version" && mv -T -- "$2" "$3" && sync . && {IDENTITY} "$3"
"""

CHECK_KEPT = f"""
{HASH}
cd -- "$1/{KEPT}" && [ -e "$2" ] && sum=$(sha256 <"$2") && [ "${{sum%% *}}" = "$2" ]
"""

# $1 folder, $2 digest, $3 digest of the binary in place (empty: none). Two renames; no moment without a whole binary.
INSTALL = f"""
cd -- "$1" || exit
if [ -n "$3" ]; then
  [ -e "{KEPT}/$3.version" ] || printf 'unknown' >"{KEPT}/$3.version" || exit
  ln -f -- {BINARY} "{KEPT}/$3" || exit
fi
mv -T -- "{KEPT}/$2" {BINARY} && sync .
"""


@dataclass(frozen=True)
class Unit:
    """The systemd unit that runs the backend. ``main_pid`` is 0 when nothing runs; ``since`` is Unix time or ``None``."""

    load: str
    active: str
    sub: str
    main_pid: int
    restarts: int
    since: float | None

    @property
    def is_up(self) -> bool:
        return self.active == "active" and self.sub == "running" and self.main_pid > 0

    def __str__(self) -> str:
        return f"{self.active} ({self.sub})"


@dataclass(frozen=True)
class Binaries:
    """sha256 of every binary that matters on a node, and what else one look at it gives.

    ``kept`` names what lies in the folder of kept binaries, newest first; ``free`` is in bytes, ``now`` Unix time.
    """

    unit: Unit
    installed: str | None
    running: str | None
    previous: str | None
    kept: tuple[str, ...]
    versions: Mapping[str, str]
    now: float
    free: int

    def version(self, digest: str | None) -> str:
        return self.versions.get(digest or "", "unknown")

    @property
    def uptime(self) -> float | None:
        """Seconds since the unit became active, by the node's own clock."""
        return None if self.unit.since is None else max(0.0, self.now - self.unit.since)


@dataclass(frozen=True)
class Health:
    """One look at a node's health; ``http`` is the status code, 0 when there was no answer."""

    unit: Unit
    http: int


class Node:
    """One Incus instance that runs the backend. Times in seconds, sizes in bytes."""

    def __init__(self, node: settings.Node, incus: Incus, *, timeout: float) -> None:
        self.name = node.name
        self.server = node.server
        self.unit = node.unit
        self.health_url = node.health_url
        self.directory = PurePosixPath(node.install_dir)
        self.incus = incus
        self._timeout = timeout
        self._hashed: dict[str, str] = {}
        """sha256 by ``IDENTITY`` of files that were hashed on the node in this run."""

    def look(self) -> Binaries:
        """What is installed, running, previous and kept; hashes them all.

        Raises:
            FleetError: the node could not be looked at.
        """
        facts = self._facts(LOOK, self.unit, str(self.directory), " ".join(self._hashed))
        try:
            return Binaries(
                unit=_unit(facts),
                installed=self._sha256(facts.get("installed")),
                running=self._sha256(facts.get("running")),
                previous=self._sha256(facts.get("previous")),
                kept=tuple(key.removeprefix("kept.") for key in facts if key.startswith("kept.")),
                versions={
                    k.removeprefix("version."): v for k, v in facts.items() if k.startswith("version.")
                },
                now=float(facts["now"]),
                free=int(facts["free"]),
            )
        except (ValueError, KeyError) as error:
            raise self._nonsense(error) from None

    def health(self) -> Health:
        """The unit's state, and the status code of its health URL asked from inside (runbook step 4)."""
        facts = self._facts(HEALTH, self.unit, self.health_url)
        try:
            return Health(_unit(facts), int(facts["http"]))
        except (ValueError, KeyError) as error:
            raise self._nonsense(error) from None

    def runs(self, digest: str) -> bool:
        """Whether the running process's own executable has this sha256 and is the installed file."""
        reply = self._script(RUNNING, self.unit, str(self.directory))
        return reply.status == 0 and reply.out.strip() == digest

    def log_tail(self, lines: int = 20) -> str:
        """The unit's last log lines, or why there are none."""
        reply = self.incus.execute(
            self.name,
            ["journalctl", "--unit", self.unit, "--lines", str(lines), "--no-pager", "--output", "cat"],
        )
        return reply.out.strip() or f"(no log lines: {reply.complaint})"

    def restart(self, *, timeout: float) -> Reply:
        """Restart the unit. It answers well even when the new process dies at once; look at its health."""
        return self._script(RESTART, self.unit, effect=f"systemctl restart {self.unit}", timeout=timeout)

    def digest(self, path: str) -> str | None:
        """sha256 of a file on the node; ``None`` where it cannot be read."""
        reply = self._script(f'{HASH}\nsha256 <"$1"', path)
        digest = reply.out[:64]
        return digest if reply.status == 0 and SHA256.fullmatch(digest) else None

    def has_kept(self, digest: str) -> bool:
        """Whether a binary with this sha256 lies whole in the folder of kept binaries; hashes it."""
        return self._script(CHECK_KEPT, str(self.directory), digest).status == 0

    def receive(
        self, stdin: BinaryIO, temporary: str, *, what: str, timeout: float, progress: Progress
    ) -> Reply:
        """Stream a binary to a temporary name in the folder of kept binaries."""
        return self.incus.send(
            self.name,
            ["sh", "-c", RECEIVE, "sh", str(self.directory), temporary],
            stdin,
            effect=f"upload {what} to {self.directory / KEPT}/",
            timeout=timeout,
            progress=progress,
        )

    def fetch_from(self, source: Node, name: str, *, what: str, timeout: float) -> Reply:
        """Take a file in the folder of kept binaries over from another node of the same host."""
        return self.incus.hand_over(
            source.name,
            ["cat", "--", str(source.directory / KEPT / name)],
            self.name,
            ["sh", "-c", RECEIVE, "sh", str(self.directory), name],
            effect=f"copy {what} from {source.name} to {self.name}:{self.directory / KEPT}/",
            timeout=timeout,
        )

    def copy(self, path: str, temporary: str, *, what: str, timeout: float) -> Reply:
        """Copy a file of the node to a temporary name in the folder of kept binaries."""
        return self._script(
            COPY,
            str(self.directory),
            temporary,
            path,
            effect=f"copy {path} ({what}) to {self.directory / KEPT}/",
            timeout=timeout,
        )

    def adopt(self, temporary: str, digest: str, version: str, *, timeout: float) -> Reply:
        """Verify a temporary file's sha256, set owner and mode, sync, and give it its name; a wrong one is removed."""
        reply = self._script(
            ADOPT,
            str(self.directory),
            temporary,
            digest,
            version,
            effect=f"verify sha256 {digest[:12]}, then name it {KEPT}/{digest[:12]}…",
            timeout=timeout,
        )
        if reply.status == 0 and (identity := reply.out.strip()):
            self._hashed[identity] = digest
        return reply

    def install(self, digest: str, *, replacing: str | None, what: str) -> Reply:
        """Put a kept binary in place of the installed one, by renaming; the replaced one is kept."""
        return self._script(
            INSTALL,
            str(self.directory),
            digest,
            replacing or "",
            effect=f"install {what} as {self.directory / BINARY}",
        )

    def forget(self, names: Sequence[str]) -> Reply:
        """Remove files from the folder of kept binaries."""
        folder = self.directory / KEPT
        return self.incus.execute(
            self.name,
            ["rm", "-f", "--", *(str(folder / name) for name in names)],
            effect=f"remove {', '.join(names)} from {folder}/",
        )

    def mark(self, key: str, value: str) -> None:
        self.incus.mark(self.name, key, value)

    def unmark(self, key: str) -> None:
        self.incus.unmark(self.name, key)

    def read_mark(self, key: str) -> str:
        return self.incus.read_mark(self.name, key)

    def _sha256(self, fact: str | None) -> str | None:
        """The digest in what ``DIGEST`` printed about a file, from memory where it was not hashed again."""
        if fact is None:
            return None
        digest, _, identity = fact.partition("@")
        if digest:
            if not SHA256.fullmatch(digest):
                raise ValueError(f"{digest[:80]!r} is no sha256")
            self._hashed[identity] = digest
        return self._hashed[identity]

    def _nonsense(self, error: Exception) -> FleetError:
        return FleetError(f"{self.name}: what a look at the node gave makes no sense: {error!r}")

    def _script(self, script: str, *arguments: str, effect: str = "", timeout: float | None = None) -> Reply:
        return self.incus.execute(
            self.name, ["sh", "-c", script, "sh", *arguments], effect=effect, timeout=timeout
        )

    def _facts(self, script: str, *arguments: str) -> dict[str, str]:
        reply = self._script(script, *arguments)
        facts = dict(line.split("=", 1) for line in reply.out.splitlines() if "=" in line)
        if reply.status or "LoadState" not in facts:
            raise FleetError(f"{self.name}: could not look at the node: {reply.complaint}")
        return facts


def _unit(facts: Mapping[str, str]) -> Unit:
    since = facts.get("ActiveEnterTimestamp", "").removeprefix("@")
    return Unit(
        load=facts["LoadState"],
        active=facts.get("ActiveState", "unknown"),
        sub=facts.get("SubState", "unknown"),
        main_pid=int(facts["MainPID"]),
        restarts=int(facts.get("NRestarts", "0")),
        since=float(since) if since else None,
    )
