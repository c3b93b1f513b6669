"""`make demo`: a disposable fleet without root, a good release, and a bad one that is rolled back by itself.

Ends with 0 only if all of that happened. The evidence stays in `.lab/demo-evidence`; the fleet does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import sandbox
from lab.load import Load
from lab.sandbox import Fleet, LabError

REPOSITORY = Path(__file__).parents[1]
EVIDENCE = REPOSITORY / ".lab" / "demo-evidence"
NAME = "demo"
GOOD, BAD = "v1.0.10", "v1.0.12"
RATE = 100
WINDOW = 10
"""Seconds of SLI window: in production it is an hour."""


@dataclass(frozen=True)
class Act:
    """One release of the demo and what came of it; times in seconds."""

    title: str
    command: str
    wanted_exit: int
    exit: int
    seconds: float
    requests: int
    failed_requests: int
    runs: dict[str, str]
    transcript: str


def main() -> int:
    shutil.rmtree(EVIDENCE, ignore_errors=True)
    EVIDENCE.mkdir(parents=True)
    try:
        return _play()
    except LabError as error:
        print(f"The disposable fleet could not be raised: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; the fleet is taken down.", file=sys.stderr)
        return 130
    finally:
        with contextlib.suppress(LabError):
            sandbox.down(NAME, say=lambda _: None)


def _play() -> int:
    _headline("A disposable fleet: two backends behind HAProxy, all on this machine")
    fleet = sandbox.up(NAME)
    _headline(f"A good release, {GOOD}, under {RATE} requests a second")
    good = _release(fleet, GOOD, title="good release", wanted_exit=0)
    _headline(f"A bad release, {BAD}: healthy, but one request in five fails")
    bad = _release(fleet, BAD, title="bad release", wanted_exit=4)
    _headline("What the fleet is now")
    _show(["status"], fleet, EVIDENCE / "status.txt")
    acts = (good, bad)
    (EVIDENCE / "summary.json").write_text(json.dumps([asdict(act) for act in acts], indent=2) + "\n")
    as_hoped = _tell(acts)
    print(f"\nEvidence: {EVIDENCE.relative_to(REPOSITORY)}/ (transcripts, status.txt, summary.json)")
    return 0 if as_hoped else 1


def _release(fleet: Fleet, version: str, *, title: str, wanted_exit: int) -> Act:
    transcript = EVIDENCE / f"{title.replace(' ', '-')}.txt"
    arguments = ["canary", "--artifact", str(fleet.artifact(version)), "--rollback-binary", "running"]
    with Load(f"{fleet.lb_url}/api/v1/tracks", rate=RATE, max_seconds=80) as load:
        time.sleep(5)  # the gate looks at what the canary served before the release
        began = time.monotonic()
        code = _show(arguments, fleet, transcript)
        seconds = time.monotonic() - began
        summary = load.stop()
    return Act(
        title=title,
        command=f"inv {shlex.join(arguments)}",
        wanted_exit=wanted_exit,
        exit=code,
        seconds=round(seconds, 1),
        requests=summary.sent,
        failed_requests=summary.failed,
        runs=_versions(fleet),
        transcript=transcript.name,
    )


def _tell(acts: Sequence[Act]) -> bool:
    good, bad = acts
    _headline("In short")
    hoped = (
        (f"{GOOD} was released to both nodes", good.exit == 0 and set(good.runs.values()) == {GOOD}),
        (f"{good.requests} requests meanwhile, {good.failed_requests} failed", good.failed_requests == 0),
        (f"{BAD} was rolled back by itself, exit code {bad.exit}", bad.exit == bad.wanted_exit),
        (f"both nodes run {GOOD} again", set(bad.runs.values()) == {GOOD}),
        (
            f"{bad.requests} requests meanwhile, {bad.failed_requests} failed, all on the canary",
            0 < bad.failed_requests < bad.requests * 0.2,
        ),
    )
    for what, happened in hoped:
        print(f"  {'yes' if happened else 'NO '}  {what}")
    return all(happened for _, happened in hoped)


def _versions(fleet: Fleet) -> dict[str, str]:
    told = subprocess.run(
        _inv(["status", "--json"]),
        cwd=REPOSITORY,
        env=_environment(fleet),
        capture_output=True,
        text=True,
        check=False,
    )
    return {node["node"]: node["version"] for node in json.loads(told.stdout)["nodes"]}


def _show(arguments: Sequence[str], fleet: Fleet, transcript: Path) -> int:
    """Run `inv` on the terminal there is, and keep what it printed; gives its exit code."""
    print(f"$ inv {shlex.join(arguments)}", flush=True)
    ours, theirs = os.openpty() if sys.stdout.isatty() else os.pipe()
    if sys.stdout.isatty():
        size = fcntl.ioctl(sys.stdout, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    with transcript.open("wb") as kept:
        process = subprocess.Popen(
            _inv(arguments),
            cwd=REPOSITORY,
            env=_environment(fleet),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.STDOUT,
        )
        os.close(theirs)
        # A terminal whose other end is gone answers with an error instead of an end of file.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                kept.write(chunk)
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
        os.close(ours)
        return process.wait()


def _inv(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "invoke", *arguments]


def _environment(fleet: Fleet) -> dict[str, str]:
    journals = {"XDG_STATE_HOME": str(EVIDENCE)}
    return {**os.environ, **journals, "FLEET": str(fleet.fleet_file), "SLI_WINDOW": str(WINDOW)}


def _headline(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
