"""Migrations with the verdict that PostgreSQL gives, none written by hand: `python -m tests.migrations.cases` computes them.

Each `*.sql` file of a rule or a theme holds many cases:

    -- case: name                    starts one; names are unique in a file
    -- why: overruled-rule           the runbook or the design decides, not the machine: a key of `OVERRULED`
    -- role: app                     the linter is told the application role
    -- needs: history                undecidable without the base's own migrations
    -- bytes: crlf bom               how the text is written
    -- file: 0002_two.up.sql         starts a further file of the set (or names the first); files stand in deploy order

`-- why:` and its like stand directly under `-- case:`. All else is the migration, word for word.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from veza_tasks.migrations.judge import CannotTell, Options, Source, lint

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.sql"
OLD_BINARY = HERE / "old_binary.sql"
VERDICTS = HERE / "verdicts.json"

# Where a rule overrules the machine: what it is then, and why.
OVERRULED: Mapping[str, tuple[bool, str]] = {
    "retype": (True, "the runbook refuses ALTER COLUMN ... TYPE in every spelling, widening too"),
    "drop-column": (True, "the runbook refuses DROP COLUMN literally; what was in it is gone"),
    "unresolved": (
        True,
        "a dynamic statement that cannot be read: nobody can vouch for it, whatever it did here",
    ),
    "default": (True, "who omitted the column counted on its default, and reads NULL now"),
    "copied": (True, "what is written to the old table while its rows are copied is lost with it"),
    "update-is-a-write": (
        False,
        "new values in rows that are still there are what any other client might write",
    ),
}

_CASE = re.compile(r"^-- case: (\S+)\n((?:-- (?:why|role|needs|bytes): .*\n)*)", re.MULTILINE)
_FILE = re.compile(r"^-- file: (\S+)\n", re.MULTILINE)


class File(NamedTuple):
    """One migration file, or the part of it that a deploy runs."""

    path: str
    data: bytes
    transaction: bool = True


class Case(NamedTuple):
    """One release's migrations, in deploy order."""

    name: str
    files: tuple[File, ...]
    overruled: str = ""
    role: str = ""
    needs_history: bool = False

    def deployed(self) -> list[File]:
        """What a deploy runs of each file."""
        return [part for file in self.files if (part := _deployed(file))]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr((self.files, self.overruled)).encode()).hexdigest()[:12]


class Verdict(NamedTuple):
    """`broken`: the statement of the old binary that suffers and how; "" if none does."""

    digest: str
    broken: str

    def breaks(self, case: Case) -> bool:
        return OVERRULED[case.overruled][0] if case.overruled else bool(self.broken)


def cases() -> Iterator[Case]:
    for path in sorted(HERE.glob("*.sql")):
        if path not in (BASELINE, OLD_BINARY):
            yield from _read(path)


class Comparison(NamedTuple):
    """The linter beside the machine."""

    case: Case
    expected: bool
    alarmed: bool
    said: str


def compare(case: Case, verdict: Verdict, *, with_history: bool) -> Comparison | None:
    """What the linter says of a case; `None` if it cannot be decided with what the linter is given."""
    if case.needs_history and not with_history:
        return None
    history = [Source("migrations/0000_baseline.sql", BASELINE.read_text())] if with_history else []
    alarms = list(_alarms(case, history))
    return Comparison(
        case, verdict.breaks(case), bool(alarms), "; ".join(alarms) or verdict.broken or case.overruled
    )


def _alarms(case: Case, history: list[Source]) -> Iterator[str]:
    # Last file first: the order is for the linter to find.
    sources = [Source(file.path, file.data.decode()) for file in reversed(case.files)]
    try:
        for finding in lint(sources, options=Options(application_role=case.role), history=history):
            if finding.level == "error":
                yield f"{finding.rule} {finding.path}:{finding.line}"
    except CannotTell as error:
        yield f"cannot tell: {error}"


def verdicts() -> dict[str, Verdict]:
    """As last computed, by case."""
    return {name: Verdict(*row) for name, row in json.loads(VERDICTS.read_text())["cases"].items()}


def judged_on() -> str:
    """The `baseline` that the verdicts are of."""
    return str(json.loads(VERDICTS.read_text())["baseline"])


def write(computed: Mapping[str, Verdict]) -> None:
    rows = (
        f"{json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in sorted(computed.items())
    )
    VERDICTS.write_text(f'{{"baseline": "{baseline()}", "cases": {{\n' + ",\n".join(rows) + "\n}}\n")


def baseline() -> str:
    """Stands for all that verdicts depend on beside the case."""
    parts = (path.read_bytes() for path in (BASELINE, OLD_BINARY, HERE / "replay.py"))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def _read(path: Path) -> Iterator[Case]:
    pieces = _CASE.split(path.read_text())
    assert not pieces[0].replace("\n", "").strip() or pieces[0].startswith("--"), (
        f"{path}: text before the first case"
    )
    for number in range(1, len(pieces), 3):
        name, header, text = pieces[number : number + 3]
        said = dict(line.removeprefix("-- ").split(": ", 1) for line in header.splitlines())
        first, *rest = _FILE.split(text)
        named = list(zip(rest[::2], rest[1::2], strict=True))
        if first.strip():
            named.insert(0, ("0001_change.sql", first))
        yield Case(
            f"{path.stem}/{name}",
            tuple(
                File(f"migrations/{file}", _encode(body.rstrip("\n") + "\n", said.get("bytes", "")))
                for file, body in named
            ),
            said.get("why", ""),
            said.get("role", ""),
            said.get("needs") == "history",
        )


def _encode(text: str, how: str) -> bytes:
    if "crlf" in how:
        text = text.replace("\n", "\r\n")
    return ("\ufeff" if "bom" in how else "").encode() + text.encode()


def _deployed(file: File) -> File | None:
    """Each tool's own rule in its shortest form, apart from the linter's: goose, dbmate, sql-migrate, file names."""
    name = file.path.rpartition("/")[2]
    if re.search(r"\.down\.sql$|^U[0-9._]+__|^B[0-9._]+__", name):
        return None
    lines = file.data.decode().splitlines(keepends=True)
    kept: list[str] = []
    on, transaction, tool = True, not any(line.startswith("-- no-transaction") for line in lines[:1]), ""
    for line in lines:
        goose = re.match(r"\s*--\s*\+goose\s+(up|down|no transaction)\s*$", line, re.IGNORECASE)
        dbmate = re.match(r"--\s*migrate:(up|down)(\s.*)?$", line)
        migrate = re.match(r"-- \+migrate (Up|Down)(.*)$", line)
        if goose and tool in ("", "goose"):
            tool, word = "goose", goose[1].lower()
            transaction = transaction and word != "no transaction"
            on = word == "up" if word in ("up", "down") else on
        elif dbmate and tool in ("", "dbmate"):
            tool, on = "dbmate", dbmate[1] == "up"
            transaction = transaction and "transaction:false" not in line
        elif migrate and tool in ("", "sql-migrate"):
            tool, on = "sql-migrate", migrate[1] == "Up"
            transaction = transaction and not (on and "notransaction" in line)
        elif on:
            kept.append(line)
    return File(file.path, "".join(kept).encode(), transaction)
