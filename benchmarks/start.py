"""What `inv --list` costs: ours against a bare Invoke collection of as many tasks, both in fresh processes, by turns.

python -m benchmarks.start [--runs 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LIST = (sys.executable, "-m", "invoke", "--list")
RUNS = 15


@dataclass(frozen=True)
class Starts:
    """Seconds of each run; `ours` and `bare` were run by turns, and both have `tasks` tasks."""

    tasks: int
    ours: tuple[float, ...]
    bare: tuple[float, ...]


def compare(*, runs: int = RUNS) -> Starts:
    """Raises `subprocess.CalledProcessError` when Invoke fails."""
    tasks = _task_names(REPOSITORY)
    with tempfile.TemporaryDirectory(prefix="bare-collection-") as folder:
        bare = Path(folder)
        bodies = (f'@task\ndef {name}(c):\n    """{name}"""\n' for name in tasks)
        source = "\n\n".join(["from invoke import task", *bodies])
        (bare / "tasks.py").write_text(source, encoding="utf-8")
        if _task_names(bare) != tasks:
            raise RuntimeError("the bare collection lists other tasks than ours")
        # The listings above also filled the caches of both: a user's second start, like every later one.
        times = [(_seconds(REPOSITORY), _seconds(bare)) for _ in range(runs)]
    ours, others = zip(*times, strict=True)
    return Starts(len(tasks), ours, others)


def _task_names(folder: Path) -> list[str]:
    listed = subprocess.run([*LIST, "--list-format=json"], cwd=folder, check=True, capture_output=True)
    return [task["name"].replace("-", "_") for task in json.loads(listed.stdout)["tasks"]]


def _seconds(folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(LIST, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start", description="What `inv --list` costs."
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="of each (default: %(default)s)")
    starts = compare(runs=parser.parse_args(arguments).runs)
    ours, bare = statistics.median(starts.ours), statistics.median(starts.bare)
    print(
        f"{starts.tasks} tasks, {len(starts.ours)} runs: ours {ours:.3f} s, bare {bare:.3f} s, ratio {ours / bare:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
