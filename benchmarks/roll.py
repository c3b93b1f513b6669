"""How long a healthy release takes, and what its users notice, beside the floor: the same work without any tool.

    python -m benchmarks.roll [--repetitions 3] [--out DIR] [--name NAME] [--keep]

Raises a real Incus fleet of two nodes (root on Debian or Ubuntu) and removes it afterwards. Under 100 requests a second
and by turns, `inv canary` releases a binary of 40 MiB, and the floor restarts the same nodes on the same binary, staged
beforehand, driven by this process on the same machine. All times in seconds. How each is measured: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import start
from benchmarks.rotation import AdminSocket, container_pid, sampled
from lab import artifacts
from lab.incus import Fleet, LabError, down, up
from lab.incus.fleet import LOAD_BALANCER
from lab.incus.host import run
from lab.incus.templates import HEALTH_PATH, INSTALL_DIR, UNIT
from lab.load import Load

REPOSITORY = Path(__file__).resolve().parent.parent
OUT = REPOSITORY / ".lab" / "benchmarks"

FAST, SLOW, CRASHING = "0.15 s", "3 s", "v1.0.14"
RELEASES = {FAST: ("v1.0.10", "v1.0.16"), SLOW: ("v1.0.15",)}
"""Boot time to the versions that have it, taken by turns. Every release starts on v1.0.9."""

RATE = 100.0  # requests per second
WARM_UP = 6.0  # of load before a run: the gate wants scrapes and requests to judge by
COOL_DOWN = 1.0  # of load after it
FLOOR_POLL = 0.01
WORTH_TELLING = 0.02  # of a step
PATIENCE = 60.0  # a floor that takes longer is broken

OUT_FACTOR = 1.5  # of the floor, plus HEALTH_SETTLE
WHOLE_RUN, SETTLES = 4.0, 2  # plus one settle for each node
DEATH_NOTICED = 2.0
LIST_FACTOR = 1.3

_STEP = re.compile(r"\S+ step (?P<step>\S+?)(?: (?P<node>\S+))?: (?P<what>started|done in|failed after)")


@dataclass(frozen=True)
class Release:
    """One `inv canary`. `out`: seconds out of rotation by node. `steps`: seconds by step, in order of
    their beginning. `lines`: what it said, each after the seconds since its start."""

    version: str
    exit_code: int
    wall: float
    out: dict[str, float]
    samples_per_second: float
    sent: int
    failed: int
    steps: dict[str, float]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Floor:
    """One release without a tool, by node: restart until the first 200, then until HAProxy sends requests again."""

    version: str
    boot: dict[str, float]
    rise: dict[str, float]
    sent: int
    failed: int

    def of(self, node: str) -> float:
        return self.boot[node] + self.rise[node]

    @property
    def all_nodes(self) -> float:
        return sum(map(self.of, self.boot))


@dataclass(frozen=True)
class Row:
    """One line of the result; times in seconds. No floor, no target: `None`. `met` is about the median."""

    what: str
    measured: float
    spread: tuple[float, float]
    floor: float | None
    floor_spread: tuple[float, float] | None
    target: float | None
    unit: str = "s"

    @property
    def ratio(self) -> float | None:
        return self.measured / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.measured <= self.target


def release(fleet: Fleet, version: str) -> Release:
    """`inv canary` with a window of 0, as a user types it, on a fleet that has seen nothing of this version."""
    fleet.reset()
    command = (sys.executable, "-m", "invoke", "canary", "--artifact", str(fleet.artifact(version)))
    # As an operator's: some build machines keep Python from keeping what it has compiled.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**inherited, "FLEET": str(fleet.fleet_file), "SLI_WINDOW": "0"}
    with _load(fleet) as load, sampled(fleet) as stop_sampling:
        time.sleep(WARM_UP)
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        lines = [(time.monotonic() - began, line.rstrip("\n")) for line in process.stdout]
        exit_code = process.wait()
        wall = time.monotonic() - began
        time.sleep(COOL_DOWN)
        out, rate = stop_sampling()
        summary = load.stop()
    return Release(
        version=version,
        exit_code=exit_code,
        wall=wall,
        out=out,
        samples_per_second=rate,
        sent=summary.sent,
        failed=summary.failed,
        steps=_steps(lines, wall),
        lines=tuple(f"{at:.3f} {line}" for at, line in lines),
    )


def floor(fleet: Fleet, version: str) -> Floor:
    """The same nodes, binary and order, without a tool: drain, rename, restart, poll, ready; no settling, no proofs."""
    fleet.reset()
    staged = f"{INSTALL_DIR}/veza-api.staged"
    for node in fleet.nodes:
        fleet.push(node, fleet.artifact(version), staged)
    boot: dict[str, float] = {}
    rise: dict[str, float] = {}
    with _load(fleet) as load, AdminSocket(container_pid(fleet)) as haproxy:
        time.sleep(WARM_UP)
        for node in _in_order(fleet):
            haproxy.set_state(node, "drain")
            time.sleep(0.1)  # for the requests in hand, which take a few milliseconds
            script = 'mv -T -- "$1" "$2" && date +%s.%N && systemctl restart -- "$3"'
            ran = fleet.exec(node, "sh", "-c", script, "floor", staged, f"{INSTALL_DIR}/veza-api", UNIT)
            restarted = float(ran.stdout)  # containers have the host's clock
            _until(partial(_is_healthy, fleet.address(node)))
            boot[node] = time.time() - restarted
            haproxy.set_state(node, "ready")
            ready = time.monotonic()
            _until(partial(_serves, haproxy, node))
            rise[node] = time.monotonic() - ready
        time.sleep(COOL_DOWN)
        summary = load.stop()
    return Floor(version, boot, rise, summary.sent, summary.failed)


def death_noticed(found: Release) -> float:
    """Seconds from the start of the push, which renames and restarts, until the failed step was on the screen."""
    at: dict[tuple[str, str], float] = {}
    for when, match in _step_lines(_stamped(found)):
        at.setdefault((match["step"], match["what"]), when)  # the rollback that follows pushes as well
    return at["health", "failed after"] - at["push", "started"]


def rows(
    releases: Mapping[str, Sequence[Release]],
    floors: Mapping[str, Sequence[Floor]],
    crashes: Sequence[Release],
    starts: start.Starts,
    *,
    amiss: int,
    settle: float,
) -> list[Row]:
    """What was measured beside its floor and its target."""
    table: list[Row] = []
    for boot, ran in releases.items():
        floored = floors[boot]
        for node in ran[0].out:
            below = [one.of(node) for one in floored]
            target = OUT_FACTOR * statistics.median(below) + settle
            what = f"out of rotation, {node}, boot {boot}"
            table.append(_row(what, [one.out[node] for one in ran], below, target))
        whole = [one.all_nodes for one in floored]
        most = WHOLE_RUN + SETTLES * settle if boot == FAST else None
        table.append(_row(f"whole `inv canary`, boot {boot}", [one.wall for one in ran], whole, most))
        table.append(_lost(ran, f"boot {boot}"))
    table.append(_row("death at start noticed", [death_noticed(one) for one in crashes], [], DEATH_NOTICED))
    table.append(_lost(crashes, "death at start"))
    table.append(_count("runs with another exit code than 0, or 4 after a death at start", amiss))
    bare = list(starts.bare)
    target = LIST_FACTOR * statistics.median(bare)
    table.append(_row("`inv --list` (floor: a bare Invoke collection)", list(starts.ours), bare, target))
    return table


def markdown(
    table: Sequence[Row], releases: Mapping[str, Sequence[Release]], facts: Mapping[str, Any]
) -> str:
    """The result as a table, then where the time of a run goes."""
    lines = ["| measured | median (range) | floor (range) | ratio | target | met |", "| --- " * 6 + "|"]
    for row in table:
        counted = row.unit == ""
        target = "-" if row.target is None else f"≤ {row.target:.0f}" if counted else f"≤ {row.target:.2f} s"
        cells = (
            row.what,
            f"{row.measured:.0f}" if counted else _ranged(row.measured, row.spread),
            _ranged(row.floor, row.floor_spread),
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            target,
            {None: "-", True: "yes", False: "**no**"}[row.met],
        )
        lines.append(f"| {' | '.join(cells)} |")
    boots = " | ".join(f"boot {boot}" for boot in releases)
    lines += ["", "Where a run's time goes, median seconds:", ""]
    lines += [f"| step | {boots} |", "| --- " * (len(releases) + 1) + "|"]
    for name in dict.fromkeys(name for ran in releases.values() for one in ran for name in one.steps):
        medians = [statistics.median(one.steps.get(name, 0.0) for one in ran) for ran in releases.values()]
        if max(medians) >= WORTH_TELLING:
            lines.append(f"| {name} | {' | '.join(f'{median:.2f}' for median in medians)} |")
    lines += ["", "; ".join(f"{name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)


def _ranged(median: float | None, spread: tuple[float, float] | None) -> str:
    return "-" if median is None or spread is None else f"{median:.2f} s ({spread[0]:.2f}-{spread[1]:.2f})"


def _row(what: str, measured: Sequence[float], below: Sequence[float], target: float | None) -> Row:
    return Row(
        what=what,
        measured=statistics.median(measured),
        spread=(min(measured), max(measured)),
        floor=statistics.median(below) if below else None,
        floor_spread=(min(below), max(below)) if below else None,
        target=target,
    )


def _lost(ran: Sequence[Release], which: str) -> Row:
    sent = sum(one.sent for one in ran)
    return _count(f"failed of {sent} client requests, {which}", sum(one.failed for one in ran))


def _count(what: str, number: int) -> Row:
    return Row(what, number, (number, number), None, None, 0, unit="")


def _steps(lines: Sequence[tuple[float, str]], wall: float) -> dict[str, float]:
    """Seconds from each step's first line to the next step's first line: what a step leaves undone until then counts
    for "after" it."""
    spent: dict[str, float] = defaultdict(float)
    name, since = "start of the process", 0.0
    for at, match in _step_lines(lines):
        spent[name] += at - since
        since = at
        step = " ".join(filter(None, (match["step"], match["node"])))
        name = step if match["what"] == "started" else f"after {step}"
    spent[name] += wall - since
    return dict(spent)


def _step_lines(lines: Iterable[tuple[float, str]]) -> Iterator[tuple[float, re.Match[str]]]:
    return ((at, match) for at, line in lines if (match := _STEP.match(line)))


def _stamped(found: Release) -> list[tuple[float, str]]:
    return [(float(at), line) for at, _, line in (line.partition(" ") for line in found.lines)]


def _in_order(fleet: Fleet) -> list[str]:
    """The canary, then the peers, as the lab's fleet file has them."""
    first, canary, *others = fleet.nodes
    return [canary, first, *others]


def _load(fleet: Fleet) -> Load:
    return Load(f"{fleet.lb_url}/api/v1/tracks", rate=RATE)


def _serves(haproxy: AdminSocket, node: str) -> bool:
    return haproxy.serving()[node]


def _is_healthy(address: str) -> bool:
    connection = http.client.HTTPConnection(address, 8080, timeout=2.0)
    try:
        connection.request("GET", HEALTH_PATH)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise LabError(f"the floor did not come back within {PATIENCE:g} s")
        time.sleep(FLOOR_POLL)


def _settle(fleet: Fleet) -> float:
    """HEALTH_SETTLE as a release on this fleet has it."""
    command = (sys.executable, "-m", "invoke", "config", "--json", "--fleet", str(fleet.fleet_file))
    shown = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return float(next(row["value"] for row in json.loads(shown.stdout) if row["knob"] == "health_settle"))


def _facts(fleet: Fleet, repetitions: int) -> dict[str, Any]:
    haproxy = fleet.exec(LOAD_BALANCER, "haproxy", "-v").stdout.split()
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "repetitions": repetitions,
        "artifact": f"{artifacts.DEFAULT_SIZE >> 20} MiB",
        "load": f"{RATE:g} requests/s",
        "processors": os.cpu_count(),
        "load average before": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "Incus": run("incus", "version").stdout.split()[-1],
        "HAProxy": haproxy[2] if len(haproxy) > 2 else "unknown",
    }


def measure(fleet: Fleet, *, repetitions: int, out: Path) -> bool:
    """Measure all, print and write it to `out` (`roll.md`, `roll.json`); gives whether every target is met."""
    facts = _facts(fleet, repetitions)
    settle = _settle(fleet)
    releases: dict[str, list[Release]] = defaultdict(list)
    floors: dict[str, list[Floor]] = defaultdict(list)
    crashes: list[Release] = []
    amiss: list[Release] = []

    def take(found: Release, measured: list[Release], *, expected: int) -> bool:
        # What ends otherwise is told and counted, but is no measurement of what was to be measured.
        (measured if found.exit_code == expected else amiss).append(found)
        if found.exit_code != expected:
            print(f"{found.version} ended with {found.exit_code}:", *found.lines, sep="\n  ", flush=True)
        return found.exit_code == expected

    for turn in range(repetitions):
        for boot, versions in RELEASES.items():
            version = versions[turn % len(versions)]
            floors[boot].append(floor(fleet, version))
            if take(release(fleet, version), releases[boot], expected=0):
                print(_told(boot, releases[boot][-1], floors[boot][-1]), flush=True)
        if take(release(fleet, CRASHING), crashes, expected=4):
            print(f"crash: noticed after {death_noticed(crashes[-1]):.2f} s", flush=True)
    if not (crashes and all(releases[boot] for boot in RELEASES)):
        raise LabError("not one run of some kind ended as it should; see above")
    starts = start.compare()
    sampled_runs = [one for ran in releases.values() for one in ran]
    facts["load average after"] = f"{os.getloadavg()[0]:.1f}"
    facts["samples/s, least"] = f"{min(one.samples_per_second for one in sampled_runs):.0f}"
    table = rows(releases, floors, crashes, starts, amiss=len(amiss), settle=settle)
    text = markdown(table, releases, facts)
    out.mkdir(parents=True, exist_ok=True)
    (out / "roll.md").write_text(text, encoding="utf-8")
    evidence = {
        "facts": facts,
        "settle": settle,
        "rows": [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in table],
        "releases": {boot: [asdict(one) for one in ran] for boot, ran in releases.items()},
        "floors": {boot: [asdict(one) for one in ran] for boot, ran in floors.items()},
        "crashes": [asdict(one) for one in crashes],
        "amiss": [asdict(one) for one in amiss],
        "list": asdict(starts),
    }
    (out / "roll.json").write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}\n{out}/roll.md, {out}/roll.json")
    return all(row.met is not False for row in table)


def _told(boot: str, found: Release, below: Floor) -> str:
    nodes = ", ".join(
        f"{node} out {found.out[node]:.2f} s (floor {below.of(node):.2f})" for node in below.boot
    )
    return (
        f"boot {boot}: {found.wall:.2f} s, {nodes}, failed {found.failed} of {found.sent} "
        f"(floor: {below.failed}), {found.samples_per_second:.0f} samples/s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roll",
        description="Measure healthy releases; exits 1 when a target is missed.",
    )
    parser.add_argument("--repetitions", type=int, default=3, help="of each (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder for roll.md and roll.json (default: %(default)s)"
    )
    parser.add_argument("--name", default="bench", help="of the fleet (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the fleet up")
    given = parser.parse_args(arguments)
    try:
        fleet = up(given.name)
        return 0 if measure(fleet, repetitions=given.repetitions, out=given.out) else 1
    finally:
        if not given.keep:
            down(given.name)


if __name__ == "__main__":
    sys.exit(main())
