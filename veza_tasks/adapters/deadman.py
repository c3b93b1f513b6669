"""The dead-man's switch of one node: a timer in the node itself that puts the last known good binary back.

What lies in ``veza-api.deadman`` beside the binary (owned by root, as is the folder that it lies in):

    revert       the program that puts it back; it needs nothing of ours
    lock         taken by whoever arms, renews, disarms or reverts (flock(1)); never removed
    armed        while a release is unproven: run, generation, unit, sha256 of the last known good, seconds, the sha256
                 of what is unproven (of more than one, with commas, where a run took over from a dead one), the boot
    reverting    the same file by another name, while and for as long as the binary is being put back
    tombstone    the same file again, with a line that says when and how that came out
    log          who armed, disarmed and reverted

How far it is, is the *name* of one file: every transition is one rename or one unlink under the lock, which is atomic and
needs no room on a disk that may be full. Removing ``armed`` is the commit.

As in `node`, everything goes through constant scripts with positional parameters. Sources: systemd-run(1), systemd.timer(5)
(``OnActiveSec`` counts on the monotonic clock; ``AccuracySec`` is a minute unless told), systemd.unit(5), flock(1).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from veza_tasks.adapters.host import Reply, ensure
from veza_tasks.adapters.node import BINARY, HASH, KEPT, SHA256, Node
from veza_tasks.errors import FleetError

FOLDER = f"{BINARY}.deadman"
PREFIX = "veza-tasks-deadman"
"""Of our units: a timer ``PREFIX-RUN-GENERATION`` for every renewal, and the guard for reboots."""
GUARD = f"{PREFIX}.service"

# Which boot of the machine this is; containers share their kernel's id, and their first process is their own.
_BOOT = """
this_boot() {
  read -r kernel </proc/sys/kernel/random/boot_id
  read -r first </proc/1/stat
  set -- $first
  echo "$kernel-${22}"
}
"""

REVERT = f"""#!/bin/sh
# Dead-man's switch of veza-tasks: while a release is unproven and nobody renews, the last known good binary goes back.
# A timer calls it with RUN GENERATION, the boot with --boot, recovery with --resume; --dry-run SHA256 UNIT only looks
# whether it could. It never touches a load balancer. Twice is harmless; what fails is left for the next try.
cd -P -- "${{0%/*}}" || exit
exec 9>lock && flock 9 || exit
{HASH}{_BOOT}
digest() {{ [ ! -e "$1" ] || {{ sum=$(sha256 <"$1") && echo "${{sum%% *}}"; }}; }}
is_unproven() {{ case ",$unproven," in *",$1,"*) ;; *) false ;; esac; }}
say() {{ echo "$*"; echo "$(date -u +%FT%TZ) $*" >>log; }}
find_process() {{ pid=$(systemctl show --property=MainPID --value -- "$unit"); }}
runs() {{ find_process && [ "$pid" -gt 0 ] && [ "/proc/$pid/exe" -ef ../{BINARY} ]; }}

if [ "$1" = --dry-run ]; then
  result=ok
  [ "$(digest "../{KEPT}/$2")" = "$2" ] || [ "$(digest ../{BINARY})" = "$2" ] || result="no binary with sha256 $2"
  systemctl show --property=LoadState -- "$3" | grep -q =loaded || result="systemctl knows no unit $3"
  echo "$2 $result" >.tried && mv -T .tried tried
  exit
fi

phase=reverting
[ -e $phase ] || phase=armed
[ -e $phase ] || exit 0
read -r run generation unit good seconds unproven boot <$phase || exit
case $1 in
  --resume) [ $phase = reverting ] || exit 0 ;;
  --boot) [ "$boot" != "$(this_boot)" ] || ! systemctl is-active --quiet "{PREFIX}-$run-$generation.timer" || exit 0 ;;
  *) [ "$1 $2" = "$run $generation" ] || exit 0 ;;
esac
[ $phase = reverting ] || mv -T armed reverting || exit
sync .
say "run $run: not renewed for $seconds s ($*); putting $good back"

outcome="$good is back"
find_process
installed=$(digest ../{BINARY})
if [ "$installed" = "$good" ]; then
  :
elif [ -n "$installed" ] && ! is_unproven "$installed" && ! is_unproven "$(digest "/proc/$pid/exe")"; then
  outcome="nothing to put back: what is installed is not the release"
elif [ "$(digest "../{KEPT}/$good")" = "$good" ]; then
  if [ -n "$installed" ]; then
    [ -e "../{KEPT}/$installed.version" ] || printf unknown >"../{KEPT}/$installed.version"
    ln -f -- ../{BINARY} "../{KEPT}/$installed"
  fi
  mv -T -- "../{KEPT}/$good" ../{BINARY} && sync .. || exit
else
  outcome="failed: no binary with sha256 $good"
fi
# At boot the unit starts after us, with what lies there.
if [ "$outcome" = "$good is back" ] && [ "$1" != --boot ] && ! runs; then
  systemctl reset-failed -- "$unit" 2>/dev/null
  systemctl restart -- "$unit"
  tries=100
  until runs; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || {{ say "run $run: $unit does not run it"; exit 1; }}
    sleep 0.1
  done
fi
say "run $run: $outcome"
echo "$(date +%s) $outcome" >>reverting
mv -T reverting tombstone && sync .
systemctl disable --quiet --no-reload {GUARD}
"""

_LOCKED = """
exec 9>lock || exit
flock -w 2 9 || { echo stands=busy; exit 0; }
"""

# The next generation's timer is started before the last one's is stopped, so that no moment is without. Until `armed`
# names the next one the last one counts, and after that only the next one.
_NEXT = f"""{_BOOT}
start() {{
  systemd-run --quiet --collect --unit="{PREFIX}-$run-$generation" --on-active="$seconds" \\
    --timer-property=AccuracySec=1s --property=Type=oneshot --property=Restart=on-failure --property=RestartSec=10s \\
    -- "$PWD/revert" "$run" "$generation"
}}
next() {{
  generation=$((generation + 1))
  # A call that was cut off may have left one of this name, which does not count.
  start 2>/dev/null || {{ systemctl stop -- "{PREFIX}-$run-$generation.timer"; start; }} || exit
  echo "$run $generation $unit $good $seconds $unproven $boot" >.armed && sync .armed && mv -T .armed armed || exit
  [ -z "$1" ] || systemctl stop -- "$1"
  echo "stands=armed"
}}
"""

_TOMBSTONE = """
tombstone() { echo stands=tombstone; echo "tombstone=$(tr '\\n' ' ' <tombstone)"; }
"""

# $1 folder, $2 unit, $3 sha256 of the last known good, $4 the program.
# The dry run goes all the way: a transient timer starts the very program that would put the binary back.
PREPARE = f"""
cd -P -- "$1" && mkdir -p {FOLDER} && cd {FOLDER} || exit
case $PWD in
  *[!A-Za-z0-9/._@+=:,-]*) echo "systemd would misread a character in $PWD" >&2; exit 1 ;;
esac
put() {{
  if [ -e "$1" ] && [ "$(cat "$1")" = "$3" ]; then return; fi
  printf '%s\\n' "$3" >".$1" && chmod "$2" ".$1" && sync ".$1" && mv -T ".$1" "$1"
}}
service=${{2%.service}}.service
put revert 0755 "$4" && put {GUARD} 0644 "[Unit]
Description=Puts the last known good {BINARY} back where the node rebooted while a release was unproven
ConditionPathExists=|$PWD/armed
ConditionPathExists=|$PWD/reverting
Before=$service
[Service]
Type=oneshot
ExecStart=$PWD/revert --boot
[Install]
WantedBy=multi-user.target" && sync . || exit
rm -f tried
systemctl enable --quiet --no-reload --force "$PWD/{GUARD}" || exit
systemd-run --quiet --collect --unit="{PREFIX}-try-$$" --on-active=0 --timer-property=AccuracySec=1us \\
  --property=Type=oneshot --property=Restart=on-failure --property=RestartSec=10s \\
  -- "$PWD/revert" --dry-run "$3" "$2" || exit
tries=1000
until [ -e tried ]; do
  tries=$((tries - 1))
  [ $tries -gt 0 ] || {{ echo "a timer was started here and nothing came of it" >&2; exit 1; }}
  sleep 0.01
done
read -r digest result <tried
rm -f tried
[ ! -e log ] || {{ tail -n 200 log >.log && mv -T .log log; }}
[ "$digest $result" = "$3 ok" ] || {{ echo "$result" >&2; exit 1; }}
"""

# $1 folder, $2 unit, $3 run, $4 sha256 of the last known good, $5 seconds, $6 sha256 of the release. Takes over what a dead
# run left armed, whose release is as unproven as ours.
ARM = f"""
cd -P -- "$1/{FOLDER}" || exit
{_LOCKED}{_NEXT}
if [ -e reverting ]; then echo stands=reverting; exit 0; fi
last='' generation=0 unproven=$6
if [ -e armed ]; then
  read -r run number unit good seconds other boot <armed
  last={PREFIX}-$run-$number.timer
  [ "$run" != "$3" ] || generation=$number
  case ",$other," in *",$6,"*) unproven=$other ;; *) unproven=$6,$other ;; esac
fi
unit=$2 run=$3 good=$4 seconds=$5 boot=$(this_boot)
next "$last"
rm -f tombstone
sync .
systemctl show --property=ActiveState,ActiveEnterTimestampMonotonic,NextElapseUSecMonotonic "{PREFIX}-$run-$generation.timer"
echo "$(date -u +%FT%TZ) run $run: armed for $seconds s, good is $good" >>log
"""

# $1 folder, $2 run. After a boot it is the guard's turn, until the unit runs.
RENEW = f"""
cd -P -- "$1/{FOLDER}" || exit
{_LOCKED}{_NEXT}{_TOMBSTONE}
if [ -e reverting ]; then echo stands=reverting; exit 0; fi
if [ ! -e armed ]; then
  [ -e tombstone ] && tombstone || echo stands=nothing
  exit 0
fi
read -r run generation unit good seconds unproven boot <armed
if [ "$run" != "$2" ]; then echo "stands=another $run"; exit 0; fi
if [ "$boot" != "$(this_boot)" ]; then
  systemctl is-active --quiet -- "$unit" || {{ echo stands=busy; exit 0; }}
  boot=$(this_boot)
fi
next "{PREFIX}-$run-$generation.timer"
"""

# $1 folder, $2 run. Removing `armed` is the commit. A revert that was broken off is finished first.
DISARM = f"""
cd -P -- "$1/{FOLDER}" 2>/dev/null || {{ echo stands=nothing; exit 0; }}
{_LOCKED}{_TOMBSTONE}
if [ -e reverting ]; then
  flock -u 9
  ./revert --resume >&2 || exit
  flock 9
fi
if [ -e armed ]; then
  read -r run _ <armed
  if [ "$run" != "$2" ]; then echo "stands=another $run"; exit 0; fi
  rm armed && sync . || exit
  echo "$(date -u +%FT%TZ) run $run: disarmed" >>log
fi
[ -e tombstone ] && tombstone || echo stands=nothing
systemctl stop '{PREFIX}-*.timer'
systemctl disable --quiet --no-reload {GUARD} 2>/dev/null || :
"""

# $1 folder. What a run that obeyed a tombstone leaves behind: nothing.
CLEAR = f"""
cd -P -- "$1/{FOLDER}" 2>/dev/null || exit 0
rm -f tombstone
"""

# $1 folder.
LOOK = f"""
echo "timers=$(systemctl list-units --all --plain --no-legend '{PREFIX}-*.timer' | cut -d ' ' -f 1 | tr '\\n' ' ')"
echo "guard=$(systemctl is-enabled {GUARD} 2>/dev/null)"
echo "now=$(date +%s)"
cd -P -- "$1/{FOLDER}" 2>/dev/null || exit 0
for phase in armed reverting tombstone; do
  [ ! -e $phase ] || echo "$phase=$(stat -c %Y $phase) $(tr '\\n' ' ' <$phase)"
done
"""


@dataclass(frozen=True)
class Tombstone:
    """What a revert leaves: whose switch it was, what it put back and how that came out; ``when`` is Unix time."""

    run: str
    digest: str
    when: float
    outcome: str

    @property
    def put_back(self) -> bool:
        """Whether the last known good binary is in place."""
        return self.outcome.endswith("is back")


@dataclass(frozen=True)
class Armed:
    """A switch that waits, or whose revert is under way (``reverting``); ``since`` is Unix time, of the last renewal."""

    run: str
    generation: int
    digest: str
    seconds: int
    since: float
    reverting: bool

    @property
    def fires_at(self) -> float:
        """Unix time, by the node's own clock."""
        return self.since + self.seconds


@dataclass(frozen=True)
class Stands:
    """All there is of a switch on a node. ``timers`` are loaded in systemd now; ``guarded`` is the unit for reboots."""

    armed: Armed | None
    tombstone: Tombstone | None
    timers: tuple[str, ...]
    guarded: bool
    now: float

    @property
    def left_over(self) -> bool:
        """Whether anything of it could still act, or waits to be obeyed."""
        return bool(self.armed or self.tombstone or self.timers or self.guarded)


@dataclass(frozen=True)
class Answer:
    """What stands after a call: ``armed``, ``reverting``, ``tombstone``, ``nothing``, ``another`` run's, or ``busy``.

    ``busy``: somebody holds the lock, which is a revert that waits for its unit; or the machine boots, and its guard has
    yet to act.
    """

    stands: str
    whose: str = ""
    tombstone: Tombstone | None = None


class Switch:
    """The dead-man's switch of a node. Times in seconds."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def prepare(self, digest: str, *, timeout: float) -> None:
        """Install it, guard reboots, and try it out: a timer starts the program, which looks whether it could.

        Raises:
            FleetError: it would not work here, or the last known good binary is not there; says why.
        """
        reply = self._change(
            PREPARE,
            self.node.unit,
            digest,
            REVERT.strip(),
            effect=f"install a dead-man's switch in {self.node.directory / FOLDER}/ and try it out",
            timeout=timeout,
        )
        if reply.status:
            raise FleetError(f"{self.node.name}: the dead-man's switch does not work here: {reply.complaint}")

    def arm(self, run: str, digest: str, seconds: int, *, unproven: str) -> Answer:
        """Arm it for a run: without renewal what is ``unproven`` gives way to ``digest``, and nothing else does.

        Another run's that was left armed is taken over; an older tombstone is removed.

        Raises:
            FleetError: it could not be armed, or systemd has another time in mind than we asked for.
        """
        effect = f"arm the dead-man's switch: without renewal {digest[:12]} goes back after {seconds} s"
        reply = self._change(ARM, self.node.unit, run, digest, str(seconds), unproven, effect=effect)
        answer = self._answer(reply, "armed")
        if answer.stands == "armed" and not reply.planned:
            facts = _facts(reply.out)
            try:
                began = int(facts["ActiveEnterTimestampMonotonic"]) / 1e6
                elapses = seconds_in(facts["NextElapseUSecMonotonic"]) - began
            except (KeyError, ValueError) as error:
                raise self._nonsense(error) from None
            if facts.get("ActiveState") != "active" or abs(elapses - seconds) > 1:
                raise FleetError(
                    f"{self.node.name}: the dead-man's timer is {facts.get('ActiveState')} and would elapse after "
                    f"{elapses:.1f} s instead of {seconds} s"
                )
        return answer

    def renew(self, run: str) -> Answer:
        """Put the moment off by the seconds that it was armed for.

        Raises:
            FleetError: it could not be renewed; what was armed stays armed.
        """
        return self._answer(self._change(RENEW, run, effect="renew the dead-man's switch"), "armed")

    def disarm(self, run: str, *, timeout: float) -> Answer:
        """Commit: from now on it does nothing. ``tombstone`` where it had done its work before; one broken off is finished.

        Raises:
            FleetError: it could not be disarmed, or a revert that was broken off could not be finished.
        """
        reply = self._change(DISARM, run, effect="disarm the dead-man's switch", timeout=timeout)
        return self._answer(reply, "nothing")

    def clear(self) -> None:
        """Remove the tombstone: it was obeyed.

        Raises:
            FleetError: it could not be removed.
        """
        reply = self._change(CLEAR, effect=f"remove the tombstone in {self.node.directory / FOLDER}/")
        if reply.status:
            raise FleetError(f"{self.node.name}: the tombstone could not be removed: {reply.complaint}")

    def look(self) -> Stands:
        """What there is of it.

        Raises:
            FleetError: the node could not be looked at.
        """
        node = self.node
        reply = node.incus.execute(node.name, ["sh", "-c", LOOK, "sh", str(node.directory)])
        facts = _facts(reply.out)
        try:
            if reply.status:
                raise FleetError(
                    f"{node.name}: its dead-man's switch could not be looked at: {reply.complaint}"
                )
            under_way = facts.get("reverting")
            armed = under_way or facts.get("armed")
            dead = facts.get("tombstone")
            return Stands(
                armed=_armed(armed, reverting=under_way is not None) if armed else None,
                tombstone=_tombstone(dead.partition(" ")[2]) if dead else None,
                timers=tuple(facts["timers"].split()),
                guarded=facts["guard"].startswith("enabled"),
                now=float(facts["now"]),
            )
        except (ValueError, KeyError) as error:
            raise self._nonsense(error) from None

    def _change(self, script: str, *arguments: str, effect: str, timeout: float | None = None) -> Reply:
        """Send it, and where its answer is lost once more: each is safe to repeat."""
        node = self.node
        replies: list[Reply] = []

        def change() -> Reply:
            argv = ["sh", "-c", script, "sh", str(node.directory), *arguments]
            replies.append(node.incus.execute(node.name, argv, effect=effect, timeout=timeout))
            return replies[-1]

        ensure(change, lambda: bool(replies))
        return replies[-1]

    def _answer(self, reply: Reply, planned: str) -> Answer:
        if reply.planned:
            return Answer(planned)
        if reply.status:
            raise FleetError(f"{self.node.name}: the dead-man's switch: {reply.complaint}")
        facts = _facts(reply.out)
        try:
            stands, _, whose = facts["stands"].partition(" ")
            if stands not in ("armed", "reverting", "tombstone", "nothing", "another", "busy"):
                raise ValueError(f"{stands[:80]!r}")
            found = _tombstone(facts["tombstone"]) if stands == "tombstone" else None
        except (ValueError, KeyError) as error:
            raise self._nonsense(error) from None
        return Answer(stands, whose, found)

    def _nonsense(self, error: Exception) -> FleetError:
        return FleetError(f"{self.node.name}: what its dead-man's switch answered makes no sense: {error!r}")


def seconds_in(span: str) -> float:
    """Seconds in a time span as systemd writes it, such as ``6h 59min 28.134184s`` (systemd.time(7)).

    Raises:
        ValueError: it is none.
    """
    parts = [_SPAN.fullmatch(part) for part in span.split()]
    if not parts or not all(parts):
        raise ValueError(f"{span[:80]!r} is no time span")
    return math.fsum(float(part[1]) * _UNITS[part[2]] for part in parts if part)


_UNITS = {
    "us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800, "month": 2629800, "y": 31557600
}  # fmt: skip
_SPAN = re.compile(rf"([0-9.]+)({'|'.join(_UNITS)})")


def _facts(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _armed(text: str, *, reverting: bool) -> Armed:
    since, run, generation, _, digest, seconds, *_ = text.split()
    if not SHA256.fullmatch(digest):
        raise ValueError(f"{digest[:80]!r} is no sha256")
    return Armed(run, int(generation), digest, int(seconds), float(since), reverting)


def _tombstone(text: str) -> Tombstone:
    """From the words of the file: the state that was armed, then at each try to end it when and how."""
    run, _, _, digest, _, _, _, *ends = text.split()
    if not SHA256.fullmatch(digest):
        raise ValueError(f"{digest[:80]!r} is no sha256")
    # A full disk takes no further line.
    return Tombstone(run, digest, float(ends[0]) if ends else 0.0, " ".join(ends[1:]) or "unknown")
