"""Many files are read by two processes; nobody can tell but by the clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from veza_tasks.migrations.judge.reading import FEWEST_CHARACTERS, FEWEST_FILES

ROOT = Path(__file__).parents[2]

# Says what it finds, how often it forked, and whether a child is left.
SCRIPT = """
import json, os, sys
from veza_tasks.migrations.judge import CannotTell, Source, lint
texts, history, before = json.loads(sys.stdin.read())
forks = []
os.register_at_fork(after_in_parent=lambda: forks.append(1))
exec(before)
named = lambda texts, folder: [Source(f"{folder}/{number:05}_change.sql", text) for number, text in enumerate(texts)]
try:
    found = [list(finding) for finding in lint(named(texts, "new"), history=named(history, "old"))]
except CannotTell as error:
    found = [str(error)]
try:
    left = os.waitpid(-1, os.WNOHANG) is not None
except ChildProcessError:
    left = False
print(json.dumps([found, len(forks), left]))
"""
# Whether the second process says what the first one would read.
ANSWER = """
import json, sys
from veza_tasks.migrations.judge import Source
from veza_tasks.migrations.judge.reading import _Second, _sections
sources = [Source(f"{number:05}_change.sql", text) for number, text in enumerate(json.loads(sys.stdin.read()))]
listed = lambda files: [[(section.transaction, list(section.read())) for section in file] for file in files]
second = _Second(sources, "auto")
answer = listed(second.answer())
second.end()
assert answer == listed(_sections(source, "auto") for source in sources)
assert all(type(act).__name__ != "tuple" for file in answer for _, read in file for acts in read for act in acts)
print(sum(len(acts) for file in answer for _, read in file for acts in read))
"""
ALONE = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one processor"
)


def linted(
    texts: list[str], *, history: list[str] | None = None, before: str = ""
) -> tuple[list[object], int, bool]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps([texts, history or [], before]),
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found, forks, left = json.loads(done.stdout)
    return found, forks, left


def many(count: int = FEWEST_FILES) -> list[str]:
    """Each makes a table, uses what an earlier file made, and breaks something."""
    filler = "-- " + "x" * (FEWEST_CHARACTERS // count)
    return [
        f"{filler}\nCREATE TABLE made_{n} (id bigint PRIMARY KEY, note text DEFAULT 'a;b');\n"
        f"ALTER TABLE made_{n // 2} DROP COLUMN note;\nALTER TABLE users DROP COLUMN c_{n};\n"
        f"DO $$ BEGIN EXECUTE 'DROP INDEX users_{n}_key'; END $$;\n"
        f"CREATE FUNCTION f_{n}() RETURNS int AS 'SELECT 1' LANGUAGE sql;\n"
        for n in range(count)
    ]


def test_two_processes_find_what_one_finds() -> None:
    texts = many()
    found, forks, left = linted(texts)
    alone, forks_alone, _ = linted(texts, before=ALONE)
    assert found == alone
    assert len(found) == 2 * len(texts)
    assert (forks, forks_alone, left) == (1, 0, False)


def test_the_second_process_says_what_the_first_would_read() -> None:
    texts = [
        *many(10),
        "",
        "-- +goose Up\nSELECT 1;\n-- +goose Down\nDROP TABLE a;",
        "GRANT ALL (a) ON b TO c;",
    ]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER],
        input=json.dumps(texts),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_the_history_is_read_by_two_processes_too() -> None:
    history = ["CREATE TABLE users (id bigint, c_0 text);", *many()]
    found, forks, _ = linted(["ALTER TABLE users DROP COLUMN c_0;"], history=history)
    assert forks == 1
    assert found == linted(["ALTER TABLE users DROP COLUMN c_0;"], history=history, before=ALONE)[0]


@pytest.mark.parametrize("at", [3, FEWEST_FILES - 3])
def test_what_cannot_be_read_is_told_wherever_it_stands(at: int) -> None:
    texts = many()
    texts[at] = "SELECT 1;\n  SELECT 'open;"
    found, forks, left = linted(texts)
    assert found == [f"new/{at:05}_change.sql:2:10: unterminated string"]
    assert (forks, left) == (1, False)


def test_a_second_process_that_dies_is_done_without() -> None:
    texts = many()
    found, forks, left = linted(texts, before="os.register_at_fork(after_in_child=lambda: os._exit(3))")
    assert found == linted(texts, before=ALONE)[0]
    assert (forks, left) == (1, False)


def test_few_files_and_a_process_with_threads_are_read_by_one() -> None:
    assert linted(many()[:-1])[1] == 0
    thread = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert linted(many(), before=thread)[1] == 0
