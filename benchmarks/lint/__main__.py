"""The linter side by side with squawk: whole processes, by turns, in one run. How each is measured: benchmarks/lint/README.md.

python -m benchmarks.lint [--runs 9] [--megabytes 50]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RUNS = 9
MEGABYTES = 50
ABOVE_PASS = 0.090
"""Seconds that one file may take beyond `python -c pass`."""
BESIDE_SQUAWK = 1.5
TIMES_THE_FILE = 6.0
LINEAR = 1.15
"""How much longer than double the time a file of double the size may take: the machine's own unrest."""

SCRIPT = """\
import sys
from veza_tasks.migrations.command import entry
if __name__ == "__main__":
    sys.exit(entry())
"""
"""What pip writes as the console script."""

DDL = (
    "CREATE TABLE IF NOT EXISTS tracks_{n} (\n    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n"
    "    title text NOT NULL,\n    mood text DEFAULT 'calm',\n    length interval,\n"
    "    created_at timestamptz NOT NULL DEFAULT now()\n);",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS tracks_{n}_title ON tracks_{n} (lower(title)) WHERE mood <> 'none';",
    "ALTER TABLE artists ADD COLUMN IF NOT EXISTS rank_{n} integer NOT NULL DEFAULT 0, ADD COLUMN note_{n} text;",
    "COMMENT ON COLUMN artists.rank_{n} IS 'where the artist stands; DROP COLUMN is not meant';",
    "UPDATE artists SET rank_{n} = sub.rank "
    "FROM (SELECT id, count(*) AS rank FROM plays GROUP BY id) sub WHERE artists.id = sub.id;",
    "GRANT SELECT, INSERT ON tracks_{n} TO app;",
)


@dataclass(frozen=True)
class Sample:
    """Seconds, seconds of processor, and bytes (peak resident) of one process."""

    seconds: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Row:
    """What three commands took for one input. `size`: bytes of the input."""

    name: str
    size: int
    ours: tuple[Sample, ...]
    squawk: tuple[Sample, ...]
    nothing: tuple[Sample, ...]


def seconds(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.seconds for sample in samples)


def cpu(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.cpu for sample in samples)


def peak(samples: Sequence[Sample]) -> int:
    return max(sample.peak for sample in samples)


def run(command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> Sample:
    """One process to its end. Raises `RuntimeError` when it did not judge: another exit code than 0 or 1, or a traceback."""
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        complaint = said.read().decode(errors="replace")
    if process.returncode not in (0, 1) or "Traceback" in complaint:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {complaint}")
    return Sample(took, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def migrations(folder: Path, count: int) -> list[Path]:
    """Files of about 0.75 kB, every twentieth with one thing that both tools object to."""
    paths = []
    for number in range(count):
        parts = [part.replace("{n}", str(number)) for part in DDL]
        if number % 20 == 19:
            parts.append(f"ALTER TABLE artists DROP COLUMN old_{number};")
        rotated = parts[number % 3 :] + parts[: number % 3]
        text = "SET lock_timeout = '5s';\n"
        while rotated and len(text) < 750:
            text += rotated.pop(0) + "\n"
        path = folder / f"{number:06}_change.sql"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def rows_of_data(path: Path, size: int, *, one_statement: bool) -> list[Path]:
    """A file of that many bytes: an INSERT a row, or a thousand rows to an INSERT."""
    with path.open("w", encoding="utf-8") as file:
        number = written = 0
        while written < size:
            head = "INSERT INTO plays (id, title, mood, played_at) VALUES"
            values = f"({number}, 'it''s track {number}', NULL, '2026-01-01 00:00:00+00')"
            if not one_statement:
                line = f"{head} {values};\n"
            else:
                line = f"{head}\n  {values}" if number % 1000 == 0 else f",\n  {values}"
                line += ";\n" if number % 1000 == 999 else ""
            written += file.write(line)
            number += 1
        if one_statement and number % 1000:
            file.write(";\n")
    return [path]


def measure(folder: Path, *, runs: int, megabytes: int, tell: Callable[[str], None]) -> Iterator[Row]:
    """Each input, each command by turns. The first run of each fills the caches and does not count."""
    script = folder / "veza-lint-migrations"
    script.write_text(SCRIPT, encoding="utf-8")
    squawk = shutil.which("squawk", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if squawk is None:
        raise RuntimeError("squawk is not installed: pip install -r requirements-dev.txt")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONPYCACHEPREFIX": str(folder / "cache"),  # compiled once, as what pip installs is
    }
    inputs: list[tuple[str, Callable[[], list[Path]], int]] = [
        *(
            (f"{count:,} file{'s' if count > 1 else ''}", lambda count=count: migrations(folder, count), runs)
            for count in (1, 100, 1000)
        ),
        *(
            (
                f"{size} MB, {what}",
                lambda size=size, one=one: rows_of_data(folder / "data.sql", size * 10**6, one_statement=one),
                3,
            )
            for what, one in (("an INSERT a row", False), ("1,000 rows an INSERT", True))
            for size in (megabytes // 2, megabytes)
        ),
    ]
    for name, make, times in inputs:
        paths = make()
        commands: tuple[list[str | Path], ...] = (
            [sys.executable, script, *paths],
            [squawk, *paths],
            [sys.executable, "-c", "pass"],
        )
        for command in commands:
            run(command, environment, folder)
        samples = [tuple(run(command, environment, folder) for command in commands) for _ in range(times)]
        row = Row(name, sum(path.stat().st_size for path in paths), *zip(*samples, strict=True))
        tell(f"{name}: {seconds(row.ours):.3f} s, squawk {seconds(row.squawk):.3f} s")
        yield row
        for path in paths:
            path.unlink()


def judged(rows: Sequence[Row]) -> list[tuple[str, str, str, bool]]:
    """Each target: what, measured, wanted, met."""
    by = {row.name: row for row in rows}
    one, thousand = by["1 file"], by["1,000 files"]
    above = seconds(one.ours) - seconds(one.nothing)
    beside = seconds(thousand.ours) / seconds(thousand.squawk)
    found = [
        (
            "1 file, beyond `python -c pass`",
            f"{above * 1000:.0f} ms",
            f"≤ {ABOVE_PASS * 1000:.0f} ms",
            above <= ABOVE_PASS,
        ),
        (
            "1,000 files, beside squawk",
            f"{beside:.2f} times",
            f"≤ {BESIDE_SQUAWK} times",
            beside <= BESIDE_SQUAWK,
        ),
    ]
    data = [row for row in rows if " MB, " in row.name]
    for half, whole in zip(data[::2], data[1::2], strict=True):
        growth = (seconds(whole.ours) - seconds(whole.nothing)) / (seconds(half.ours) - seconds(half.nothing))
        limit = whole.size / half.size * LINEAR
        found.append(
            (
                f"{whole.name}, beside half of it",
                f"{growth:.2f} times",
                f"≤ {limit:.2f} times",
                growth <= limit,
            )
        )
        times = peak(whole.ours) / whole.size
        found.append(
            (
                f"{whole.name}, memory beside the file",
                f"{times:.1f} times",
                f"≤ {TIMES_THE_FILE:g} times",
                times <= TIMES_THE_FILE,
            )
        )
    return found


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        "| input | ours | squawk | ours / squawk | `pass` | processor: ours | squawk | memory: ours | squawk | `pass` |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        times = [seconds(samples) for samples in (row.ours, row.squawk, row.nothing)]
        cells = [
            row.name,
            *(f"{took:.3f} s" for took in times[:2]),
            f"{times[0] / times[1]:.2f}",
            f"{times[2]:.3f} s",
            *(f"{cpu(samples):.3f} s" for samples in (row.ours, row.squawk)),
            *(f"{peak(samples) / (1 << 20):.0f} MiB" for samples in (row.ours, row.squawk, row.nothing)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| target | measured | wanted | met |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {what} | {got} | {wanted} | {'yes' if met else '**no**'} |"
        for what, got, wanted, met in judged(rows)
    ]
    return "\n".join(lines)


def facts(runs: int) -> str:
    squawk = subprocess.run(
        [Path(sys.executable).with_name("squawk"), "--version"], capture_output=True, text=True, check=False
    )
    load = os.getloadavg()[0]
    return (
        f"runs: {runs} (3 for the large files); processors: {os.cpu_count()}; load average after: {load:.1f}; "
        f"kernel: {platform.release()}; Python: {platform.python_version()}; {squawk.stdout.strip()}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lint", description="The linter beside squawk."
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="of each command (default: %(default)s)")
    parser.add_argument(
        "--megabytes", type=int, default=MEGABYTES, help="of the large file (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lint-benchmark-") as folder:
        found = list(
            measure(
                Path(folder),
                runs=given.runs,
                megabytes=given.megabytes,
                tell=lambda line: print(line, file=sys.stderr),
            )
        )
    print(f"{markdown(found)}\n\n{facts(given.runs)}")
    return 0 if all(met for *_, met in judged(found)) else 1


if __name__ == "__main__":
    sys.exit(main())
