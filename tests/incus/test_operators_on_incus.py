"""The lock, the record and recovery on a real Incus fleet: two operators, a dead one, and the next person."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.acceptance import CANARY
from lab.incus import Fleet
from lab.incus.host import wait_until
from tests.incus.test_faults import (
    BEFORE,
    GOOD,
    PEER,
    QUICK,
    SLOW_BOOT,
    WATCHED,
    Operator,
    check_released,
    check_rolled_back,
    check_runs,
    ended,
    operator,
    users,
)

__all__ = ["operator", "users"]
pytestmark = pytest.mark.incus
ROOT = Path(__file__).parents[2]
ROUNDS = 50

# Both processes connect first and take the lock when they are told to, which is when their standard input closes.
TAKER = """
import sys
from pathlib import Path
from veza_tasks.capabilities.lock import Lock
from concurrent.futures import ThreadPoolExecutor
from veza_tasks.clock import SystemClock
from veza_tasks.errors import LockHeld
from veza_tasks.events import Listeners
from veza_tasks.fleet import Fleet
from veza_tasks.run import Run
from veza_tasks.settings import load
from veza_tasks.signals import Signals

file, who, rounds = sys.argv[1:]
settings = load(file=Path(file), environ={}, flags={}).settings
emit = Listeners()
fleet = Fleet(settings, emit=emit)
fleet.for_records.instances()
for number in range(int(rounds)):
    run = Run(id=f"run-{who}-{number}", who=who, settings=settings, fleet=fleet, clock=SystemClock(), emit=emit,
              signals=Signals(emit), task="canary")
    lock = Lock(run, ahead=ThreadPoolExecutor(1))
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        lock.take()
        print(f"won {lock.holder().run}", flush=True)
    except LockHeld as held:
        print(f"lost {held.message}", flush=True)
    sys.stdin.readline()
    if lock.held:
        lock.give_back()
    print("done", flush=True)
fleet.close()
"""


def test_of_two_operators_who_start_at_once_exactly_one_proceeds_each_time(
    fleet: Fleet, tmp_path: Path
) -> None:
    script = tmp_path / "taker.py"
    script.write_text(TAKER)
    takers = [
        subprocess.Popen(
            [sys.executable, str(script), str(fleet.fleet_file), who, str(ROUNDS)],
            cwd=ROOT,
            env={
                "PYTHONPATH": str(ROOT),
                "PATH": "/usr/bin:/bin",
                "HOME": str(Path.home()),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in ("ada", "bob")
    ]

    def says(taker: subprocess.Popen[str]) -> str:
        assert taker.stdout
        return taker.stdout.readline().strip()

    def tell(taker: subprocess.Popen[str]) -> None:
        assert taker.stdin
        taker.stdin.write("go\n")
        taker.stdin.flush()

    winners: list[str] = []
    with ThreadPoolExecutor(2) as both:
        for number in range(ROUNDS):
            assert list(both.map(says, takers)) == ["ready", "ready"]
            list(both.map(tell, takers))
            said = list(both.map(says, takers))
            won = [line for line in said if line.startswith("won ")]
            lost = [line for line in said if line.startswith("lost ")]
            assert (len(won), len(lost)) == (1, 1), said
            winner = won[0].removeprefix("won ")
            assert winner in {f"run-ada-{number}", f"run-bob-{number}"}
            assert winner in lost[0]
            winners.append(winner.split("-")[1])
            list(both.map(tell, takers))
            assert list(both.map(says, takers)) == ["done", "done"]
    for taker in takers:
        assert taker.wait(timeout=30) == 0
        for stream in (taker.stdin, taker.stdout):
            assert stream
            stream.close()
    assert len(winners) == ROUNDS


def test_a_second_operator_is_refused_and_waits_if_asked_to(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    arguments = ("canary", "--artifact", str(small / f"veza-api-{GOOD}"))
    with operator.start(*arguments, **WATCHED) as first:
        first.until_it_says(f"step sli-window {CANARY}: started")
        refused = operator.inv("drain", PEER)
        ended(refused, 3)
        assert "the fleet is locked: canary of" in refused.transcript
        assert "now in" in refused.transcript
        waited = operator.inv(*arguments, "--wait", "2m")
        ended(first.end(), 0)
    ended(waited, 0)
    check_released(fleet, small / f"veza-api-{GOOD}")
    told = json.loads(operator.inv("history", "--json").transcript)
    assert [(one["task"], one["code"]) for one in told] == [("canary", 0), ("drain", 3), ("canary", 0)]
    assert set(told[0]["out"]) == {PEER, CANARY}
    assert told[2]["out"] == {}


def test_an_emergency_takes_the_fleet_over_and_the_other_run_stops(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    with operator.start("canary", "--artifact", str(small / f"veza-api-{GOOD}"), SLI_WINDOW="120") as first:
        first.until_it_says(f"step sli-window {CANARY}: started")
        rolled = operator.inv("rollback-all", "--force", "--yes")
        ended(rolled, 0)
        assert "BROKE THE LOCK of canary" in rolled.transcript
        stopped = first.end()
    assert stopped.code in (3, 4, 5), stopped.transcript
    assert "lost the fleet's lock" in stopped.transcript
    check_runs(fleet, {node: fleet.artifact(BEFORE) for node in fleet.nodes})


def test_the_next_person_sees_what_a_killed_release_left_and_takes_it_back(
    fleet: Fleet, operator: Operator, small: Path
) -> None:
    release = small / f"veza-api-{SLOW_BOOT}"
    with operator.start("canary", "--artifact", str(release)) as command:
        command.until_it_says(f"step health {PEER}: started")
        command.send(signal.SIGKILL)
        ended(command.end(), -signal.SIGKILL)
    told = operator.inv("recover")
    ended(told, 0)
    for said in ("out of rotation (drain", "locked by canary of", "inv unlock --run"):
        assert said in told.transcript
    alive = operator.inv("recover", "--undo", "--yes")
    ended(alive, 3)
    assert "looks alive" in alive.transcript
    operator.unlock()
    ended(operator.inv("recover", "--undo", "--yes"), 0)
    check_runs(fleet, {node: fleet.artifact(BEFORE) for node in fleet.nodes})
    clean = operator.inv("recover")
    ended(clean, 0)
    assert "nothing is left undone" in clean.transcript


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("upload", signal.SIGTERM, 3),
        (f"step drain {CANARY}: started", signal.SIGHUP, 3),
        (f"step rollback {CANARY}: started", signal.SIGINT, 4),
        (f"step drain {PEER}: started", signal.SIGTERM, 0),
    ],
    ids=["during the upload", "while it drains", "while it rolls back", "while peers roll"],
)
def test_a_signal_to_the_real_process_ends_in_a_true_exit_code_and_frees_the_lock(
    fleet: Fleet, operator: Operator, small: Path, moment: str, number: signal.Signals, code: int
) -> None:
    bad = "rollback" in moment
    artifact = (
        fleet.artifact(GOOD) if moment == "upload" else small / f"veza-api-{'v1.0.11' if bad else GOOD}"
    )
    wait = {"HEALTH_TIMEOUT": "2"} if bad else {}
    with operator.start("canary", "--artifact", str(artifact), **wait) as command:
        command.until_it_says("step stage: started" if moment == "upload" else moment)
        command.send(number)
        outcome = command.end()
    # A drain may be over before the signal arrives; then the canary is rolled back.
    assert outcome.code in ({code, 4} if "drain backend-api-2" in moment else {code}), outcome.transcript
    held = json.loads(operator.inv("status", "--json").transcript)["lock"]
    assert held is None
    if code == 0:  # it was the last peer, which is finished
        check_released(fleet, artifact)
    elif outcome.code == 4:
        check_rolled_back(fleet, BEFORE)


def test_a_terminal_that_is_closed_in_the_window_rolls_the_canary_back(
    fleet: Fleet, small: Path, tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "invoke", "canary", "--artifact", str(small / f"veza-api-{GOOD}")],
        cwd=ROOT,
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME")},
            "TERM": "xterm",
            "FLEET": str(fleet.fleet_file),
            "XDG_STATE_HOME": str(tmp_path),
            **QUICK,
            "SLI_WINDOW": "60",
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)

    def watches() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 1 << 16)
        return any('"step": "sli-window"' in path.read_text() for path in tmp_path.glob("*/runs/*.jsonl"))

    os.set_blocking(ours, False)
    wait_until(watches, "the window has begun", seconds=60)
    os.close(ours)
    assert process.wait(timeout=120) == 4
    check_rolled_back(fleet, BEFORE)
    [journal] = tmp_path.glob("*/runs/*.jsonl")
    assert "SIGHUP" in journal.read_text()
