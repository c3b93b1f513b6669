"""The runbook's acceptance drill: real canaries on a real Incus fleet, under load, with evidence.

Normal releases must lose no client request; each bad one must end rolled back with the peers never touched
(runbook, "Acceptance bar"). Every run is the command of the README, in a process of its own.

    python -m lab.acceptance [--name NAME] [--out DIR]

Needs what `lab.incus` needs. A fleet that is up already is used, reset first, and stays up.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from lab import artifacts, incus
from lab.artifacts import RELEASES
from lab.incus import Fleet, LabError
from lab.incus.fleet import LOAD_BALANCER
from lab.incus.host import wait_until, which
from lab.incus.templates import ADMIN_SOCKET, INSTALL_DIR, POOL_BACKEND, UNIT
from lab.load import Load, Summary

REPOSITORY = Path(__file__).resolve().parents[1]
CANARY = "backend-api-2"  # as in the lab's fleet file
USERS = "/api/v1/tracks"
RELEASED, ROLLED_BACK = 0, 4  # exit codes
MARGIN = 0.5  # seconds by which a sample of HAProxy and the start of a request may disagree

_STATE = f"""
cd {INSTALL_DIR}
pid=$(systemctl show --property MainPID --value {UNIT})
digest() {{ sum=$(sha256sum <"$1" 2>/dev/null) && echo "${{sum%% *}}" || echo none; }}
digest veza-api
if [ "/proc/$pid/exe" -ef veza-api ]; then echo "${{sum%% *}}"; else digest "/proc/$pid/exe"; fi
echo "$pid $(cut -d ' ' -f 22 "/proc/$pid/stat" 2>/dev/null || echo 0)"
stat --format %.Y veza-api
"""


@dataclass(frozen=True)
class Exercise:
    """One release and how it must end. `may_fail`: its users see errors while the canary is exposed."""

    name: str
    version: str
    code: int = RELEASED
    may_fail: bool = False
    knobs: Mapping[str, str] = field(default_factory=dict)


NORMAL = (Exercise("normal", "v1.0.10"), Exercise("normal, once more", "v1.0.16"))
SLOW_BOOT = Exercise("slow boot", "v1.0.15")
BAD = (
    Exercise("health-500", "v1.0.11", ROLLED_BACK, knobs={"HEALTH_TIMEOUT": "8"}),
    Exercise("errors-20", "v1.0.12", ROLLED_BACK, may_fail=True),
    Exercise("slow-p95", "v1.0.13", ROLLED_BACK),
    Exercise("crash", "v1.0.14", ROLLED_BACK),
)
DRILL = (*NORMAL, *BAD, SLOW_BOOT)


@dataclass(frozen=True)
class NodeState:
    """What a node has and runs: two sha256, and what tells one process, one file from the next."""

    installed: str
    running: str
    pid: int
    started: int
    """Kernel ticks from boot to the start of the process (proc(5), field 22 of `stat`)."""
    modified: str


def node_state(fleet: Fleet, node: str) -> NodeState:
    installed, running, process, modified = fleet.exec(node, "sh", "-c", _STATE).stdout.splitlines()
    pid, started = process.split()
    return NodeState(installed, running, int(pid), int(started), modified)


def node_states(fleet: Fleet) -> dict[str, NodeState]:
    return {node: node_state(fleet, node) for node in fleet.nodes}


def marks(fleet: Fleet) -> dict[str, dict[str, str]]:
    """Each node's `user.veza-tasks.*` keys without that prefix."""
    prefix, instances = "user.veza-tasks.", fleet.instances()
    return {
        node: {
            key.removeprefix(prefix): value
            for key, value in instances[node]["config"].items()
            if key.startswith(prefix)
        }
        for node in fleet.nodes
    }


def serves(server: Mapping[str, str]) -> bool:
    """Whether HAProxy sends requests there: ready, up or warming up, with a weight (a `show servers state` row)."""
    ready = server["srv_admin_state"] == "0" and server["srv_op_state"] in ("1", "2")
    return ready and server["srv_uweight"] != "0"


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `seconds` on the wall."""

    command: str
    code: int
    seconds: float
    transcript: str


class Command:
    """`inv …` as the README has it, run from the repository in a process of its own.

    `knobs` are environment variables; nothing else is inherited but PATH and HOME. What it says goes into the file
    `transcript`.
    """

    def __init__(
        self, fleet_file: Path, arguments: Sequence[str], *, transcript: Path, knobs: Mapping[str, str]
    ) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        # Its journal lies with what it said.
        settings = {"FLEET": str(fleet_file), "XDG_STATE_HOME": str(transcript.parent.resolve()), **knobs}
        assigned = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
        self.command = " ".join([*assigned, "inv", shlex.join(arguments)])
        self._transcript = transcript
        self._began = time.monotonic()
        with transcript.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "invoke", *arguments],
                cwd=REPOSITORY,
                env={**inherited, **settings},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def transcript(self) -> str:
        return self._transcript.read_text(encoding="utf-8", errors="replace")

    def until_it_says(self, text: str, *, seconds: float = 60) -> None:
        """Wait for `text` in what it says. Raises `LabError` when it ends before, or is too late."""
        wait_until(
            lambda: text in self.transcript or self.process.poll() is not None,
            f"{self.command} says {text!r}; it said:\n{self.transcript}",
            seconds=seconds,
        )
        if text not in self.transcript:
            raise LabError(
                f"{self.command} ended with {self.process.returncode} without saying {text!r}:\n{self.transcript}"
            )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, *, seconds: float = 150) -> Outcome:
        """Wait for its end. Raises `LabError` (and kills it) when there is none within `seconds`."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise LabError(f"no end after {seconds:g} s: {self.command}\n{self.transcript}") from None
        return Outcome(self.command, code, time.monotonic() - self._began, self.transcript)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Rotation:
    """Which servers are in rotation, asked of HAProxy every 50 ms through one held-open connection.

    The connection stays with one HAProxy process: no use across a reload.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._samples: list[tuple[float, dict[str, dict[str, str]]]] = []
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._socat = subprocess.Popen(
            [
                *(which("incus"), "exec", f"--project={self._fleet.name}", "--force-noninteractive"),
                *(f"local:{LOAD_BALANCER}", "--", "socat", "-", f"UNIX-CONNECT:{ADMIN_SOCKET}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._ask("prompt")
        self._sample()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        self._socat.kill()
        self._socat.communicate()
        if self._failure:
            raise LabError("HAProxy could not be sampled to the end") from self._failure

    def out_of_rotation(self, server: str) -> list[tuple[float, float]]:
        """When the server got no requests: begin and end of each time, in seconds since the epoch."""
        spans: list[tuple[float, float]] = []
        was_out = False
        for when, servers in self._samples:
            if was_out:
                spans[-1] = (spans[-1][0], when)
            out = not serves(servers[server])
            if out and not was_out:
                spans.append((when, when))
            was_out = out
        return spans

    def was_taken_out(self, server: str) -> bool:
        """Whether somebody drained it or put it into maintenance; a failed health check is neither."""
        return any(servers[server]["srv_admin_state"] != "0" for _, servers in self._samples)

    def _watch(self) -> None:
        try:
            while not self._stop.wait(0.05):
                self._sample()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._failure = error

    def _sample(self) -> None:
        answer = self._ask(f"show servers state {POOL_BACKEND}")
        _, header, *rows = [line for line in answer.splitlines() if line]
        names = header.removeprefix("# ").split()
        found = [dict(zip(names, row.split(), strict=False)) for row in rows]
        self._samples.append((time.time(), {server["srv_name"]: server for server in found}))

    def _ask(self, command: str) -> str:
        assert self._socat.stdin is not None
        assert self._socat.stdout is not None
        self._socat.stdin.write(f"{command}\n".encode())
        self._socat.stdin.flush()
        answer = b""
        while not answer.endswith(b"\n> "):
            chunk = os.read(self._socat.stdout.fileno(), 65536)
            if not chunk:
                raise LabError(f"HAProxy's admin socket closed during {command!r}")
            answer += chunk
        return answer.removesuffix(b"\n> ").decode()


@dataclass(frozen=True)
class Evidence:
    """What one exercise showed. Seconds; requests are those of the load generator. No `problems`: it passed."""

    exercise: Exercise
    variant: str
    outcome: Outcome
    transcript: str
    out_of_rotation: dict[str, float]
    exposed: float
    """How long users could reach the new binary on the canary before it was taken back or the run ended."""
    load: Summary
    failed_unexposed: int
    before: dict[str, NodeState]
    after: dict[str, NodeState]
    problems: tuple[str, ...]


def perform(fleet: Fleet, exercise: Exercise, directory: Path) -> Evidence:
    """Release `exercise.version` under 100 requests a second, and judge it.

    Every node must run the same lab release: it is the last known good one, handed over as `ROLLBACK_BINARY`.
    Raises `LabError` when it does not, or when the command does not end.
    """
    before = node_states(fleet)
    release = fleet.artifact(exercise.version)
    knobs = {
        "ROLLBACK_BINARY": str(_release_on(fleet, before)),
        "SLI_WINDOW": "10",
        **exercise.knobs,
    }
    directory.mkdir(parents=True, exist_ok=True)
    transcript = directory / f"{exercise.version}-{exercise.name.replace(',', '').replace(' ', '-')}.log"
    with Load(fleet.lb_url + USERS, rate=100) as load, Rotation(fleet) as rotation:
        arguments = ["canary", "--artifact", str(release)]
        with Command(fleet.fleet_file, arguments, transcript=transcript, knobs=knobs) as command:
            outcome = command.end()
    exposed = _exposure(exercise, rotation.out_of_rotation(CANARY))
    summary = load.stop()
    begin, end = exposed or (0.0, 0.0)
    unexposed = [when for when, _ in summary.failures if not begin - MARGIN <= when <= end + MARGIN]
    after = node_states(fleet)
    found = _problems(fleet, exercise, rotation, before, after)
    if outcome.code != exercise.code:
        found.append(f"exit code {outcome.code} instead of {exercise.code}")
    if summary.failed and not exercise.may_fail:
        found.append(f"{summary.failed} client requests failed, the first with {summary.failures[0][1]}")
    if unexposed:
        found.append(f"{len(unexposed)} client requests failed while no user could reach the new binary")
    return Evidence(
        exercise=exercise,
        variant=RELEASES[exercise.version].name,
        outcome=outcome,
        transcript=transcript.name,
        out_of_rotation={
            node: round(sum(end - begin for begin, end in rotation.out_of_rotation(node)), 2)
            for node in fleet.nodes
        },
        exposed=round(end - begin, 1),
        load=summary,
        failed_unexposed=len(unexposed),
        before=before,
        after=after,
        problems=tuple(found),
    )


def _problems(
    fleet: Fleet,
    exercise: Exercise,
    rotation: Rotation,
    before: Mapping[str, NodeState],
    after: Mapping[str, NodeState],
) -> list[str]:
    """What of the fleet is not as the exercise must leave it."""
    found = []
    if exercise.code == RELEASED:
        digest = artifacts.sha256(fleet.artifact(exercise.version))
        expected = dict.fromkeys(fleet.nodes, digest)
    else:
        expected = {node: before[node].installed for node in fleet.nodes}
        for node in fleet.nodes:
            if node == CANARY:
                continue
            if after[node] != before[node]:
                found.append(f"{node} was touched: {before[node]} became {after[node]}")
            if rotation.was_taken_out(node):
                found.append(f"{node} was taken out of rotation")
    for node, digest in expected.items():
        if not after[node].installed == after[node].running == digest:
            found.append(f"{node} should have and run {digest[:12]}, it is {after[node]}")
    found += [f"{name} does not serve" for name, server in fleet.servers().items() if not serves(server)]
    found += [
        f"{node} is still marked as drained" for node, keys in marks(fleet).items() if "drained" in keys
    ]
    return found


def _release_on(fleet: Fleet, states: Mapping[str, NodeState]) -> Path:
    """The local file of what every node runs."""
    digests = {digest for state in states.values() for digest in (state.installed, state.running)}
    for path in map(fleet.artifact, RELEASES):
        if digests == {artifacts.sha256(path)}:
            return path
    raise LabError(f"fleet {fleet.name} does not run one lab release everywhere: {states}")


def _exposure(exercise: Exercise, out: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """From the canary's return with the new binary until it was taken out again, or until now if it was released."""
    if exercise.code == RELEASED:
        return (out[0][1], time.time()) if out else None
    # Out only once, it came back with the old binary.
    return (out[0][1], out[-1][0]) if len(out) > 1 else None


def write(evidence: Iterable[Evidence], directory: Path) -> None:
    """`acceptance.json` with everything, `acceptance.md` to read; the transcripts lie beside them."""
    evidence = list(evidence)
    directory.mkdir(parents=True, exist_ok=True)
    rows = [asdict(one) for one in evidence]
    (directory / "acceptance.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (directory / "acceptance.md").write_text(_markdown(evidence), encoding="utf-8")


def _markdown(evidence: Sequence[Evidence]) -> str:
    failed = [one for one in evidence if one.problems]
    verdict = (
        f"{len(failed)} of {len(evidence)} runs failed" if failed else f"all {len(evidence)} runs passed"
    )
    lines = [
        f"# Acceptance drill: {verdict}",
        "",
        "Real Incus, HAProxy, Prometheus and OpenSSH on one machine, 100 client requests a second throughout. Exit code 0 is",
        "released, 4 is rolled back. Out of rotation: seconds, sampled from HAProxy. Exposed: seconds for which users could",
        "reach the new binary on the canary before it was taken back or the run ended.",
        "",
        "| run | release | exit | wall s | out of rotation | exposed | requests | failed | verdict | transcript |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in evidence:
        out = ", ".join(f"{node} {seconds:.2f}" for node, seconds in one.out_of_rotation.items())
        cells = (
            one.exercise.name,
            f"{one.exercise.version} ({one.variant})",
            f"{one.outcome.code}",
            f"{one.outcome.seconds:.1f}",
            out,
            f"{one.exposed:.1f}",
            f"{one.load.sent}",
            f"{one.load.failed}",
            "failed" if one.problems else "passed",
            f"[{one.transcript}]({one.transcript})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    for one in evidence:
        lines += ["", f"## {one.exercise.name}: {one.exercise.version}", "", f"    {one.outcome.command}", ""]
        lines += [f"- **{problem}**" for problem in one.problems]
        lines += [
            f"- {node}: ran {_short(one.before[node])}, runs {_short(one.after[node])}" for node in one.before
        ]
    return "\n".join(lines) + "\n"


def _short(state: NodeState) -> str:
    return f"{state.running[:12]} (process {state.pid})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.acceptance", description="The acceptance drill; exits 1 when it is not passed."
    )
    parser.add_argument(
        "--name", default="drill", help="the fleet (default: %(default)s); made if it is not up"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=REPOSITORY / ".lab" / "acceptance",
        metavar="DIR",
        help="where the evidence goes (default: .lab/acceptance)",
    )
    given = parser.parse_args(arguments)
    if given.out.resolve().is_relative_to(REPOSITORY / ".lab" / given.name):
        parser.error("the evidence would be removed together with the fleet; take another --out or --name")
    evidence: list[Evidence] = []
    try:
        was_up = incus.find(given.name) is not None
        fleet = incus.up(given.name)
        try:
            for exercise in DRILL:
                evidence.append(perform(fleet, exercise, given.out))
                _tell(evidence[-1])
                if evidence[-1].problems:
                    fleet.reset()
        finally:
            write(evidence, given.out)
            if not was_up:
                incus.down(given.name)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"evidence: {given.out / 'acceptance.md'}")
    return 1 if any(one.problems for one in evidence) else 0


def _tell(one: Evidence) -> None:
    print(
        f"{one.exercise.version:<8} {one.exercise.name:<18} exit {one.outcome.code}, {one.outcome.seconds:.1f} s, "
        f"{one.load.sent} requests, {one.load.failed} failed: {'; '.join(one.problems) or 'as it must be'}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
