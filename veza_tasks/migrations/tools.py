"""Which part of a migration file a deploy runs, and in what order the files of a release run.

Each tool's own rules, as its own source has them: goose ``internal/sqlparser/parser.go``, dbmate
``pkg/dbmate/migration.go``, sql-migrate ``sqlparse/sqlparse.go`` and ``migrate.go``, golang-migrate
``source/parse.go``, sqlx ``migrate/source.rs``, Flyway ``ResourceNameParser`` and ``MigrationVersion``. None of
them knows SQL strings: a marker in one is a marker. A file that its tool would refuse, or that its name does not
place, is taken whole: nobody can say which half was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from veza_tasks.migrations.lexer import Comment, Unreadable, statements

TOOLS = ("auto", "goose", "dbmate", "sql-migrate", "golang-migrate", "sqlx", "flyway", "plain")


class Part(NamedTuple):
    """What a deploy runs of a file: ``text[start:end]``.

    ``transaction``: True, the tool opens one around the part, and what cannot run in one fails; False, each
    statement stands alone unless the part itself says BEGIN; None, one transaction unless a statement in it
    cannot run in one (golang-migrate's simple query, Flyway, or an unknown tool).
    """

    start: int
    end: int
    transaction: bool | None


def deployed(path: str, text: str, *, tool: str = "auto") -> list[Part]:
    """The parts of a migration that run on the way up, in order; none of a file that only ever undoes.

    ``auto`` goes by the file's name where that says "down", then by markers, then by name.

    Raises ``ValueError`` for a tool that is not one of ``TOOLS``.
    """
    if text.startswith(
        "\ufeff"
    ):  # some tools would refuse a byte order mark, psql does not mind: no reason to look away
        return [Part(start + 1, end + 1, how) for start, end, how in deployed(path, text[1:], tool=tool)]
    name = _name(path)
    whole = [Part(0, len(text), None)]
    match tool:
        case "auto":
            return _by_signs(path, name, text)
        case "goose":
            parts = _goose(text)
        case "dbmate":
            parts = _dbmate(text)
        case "sql-migrate":
            parts = _sql_migrate(text)
        case "golang-migrate":
            return [] if _direction(name) == "down" else whole
        case "sqlx":
            return [] if name.endswith(".down.sql") else [Part(0, len(text), not _says_no_transaction(text))]
        case "flyway":
            return [] if _never_runs_in_flyway(name) else whole
        case "plain":
            return whole
        case _:
            raise _unknown(tool)
    return whole if parts is None else parts


def in_order(paths: Iterable[str], *, tool: str = "auto") -> list[str]:
    """The files of one release as the tool would run them; ties go by the full path.

    By the number in front; dbmate alone by name, letter by letter. ``auto`` and ``plain``: numbered files, then
    the others by name. Flyway's repeatables come after its versions, its callbacks around them. Where all
    files have the same name (``up.sql``, ``migration.sql``), their folder's name counts.

    Raises ``ValueError`` for a tool that is not one of ``TOOLS``.
    """
    if tool not in TOOLS:
        raise _unknown(tool)
    if tool == "dbmate":
        return sorted(paths, key=lambda path: (_name(path), path))
    flyway = tool in ("auto", "plain", "flyway")
    return sorted(paths, key=lambda path: (_place(path, flyway=flyway), path))


def runs_again(path: str, *, tool: str = "auto") -> bool:
    """Whether the tool expects the file to be edited later: Flyway's repeatables and callbacks."""
    name = _name(path)
    return tool in ("auto", "flyway") and (name.startswith("R__") or _callback(name) is not None)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _unknown(tool: str) -> ValueError:
    return ValueError(f"{tool!r} is no migration tool: choose one of {', '.join(TOOLS)}")


def _by_signs(path: str, name: str, text: str) -> list[Part]:
    if name.rpartition(".")[0].endswith(".down") or name == "down.sql":  # the second: Diesel
        return []
    if _never_runs_in_flyway(name) and ("__" in name or _callback(name) is not None):
        return []
    readings = [parts for read in (_goose, _dbmate, _sql_migrate_surely) if (parts := read(text)) is not None]
    if readings:
        return _union(readings)
    return [Part(0, len(text), False if _says_no_transaction(text) else None)]


def _union(readings: Sequence[list[Part]]) -> list[Part]:
    """What any of several tools would run: nobody knows which one the file with the markers of two is for."""
    if len(readings) == 1:
        return readings[0]
    merged: list[Part] = []
    for part in sorted((part for parts in readings for part in parts), key=lambda part: part.start):
        if merged and part.start <= merged[-1].end:
            last = merged[-1]
            transaction = last.transaction if last.transaction == part.transaction else None
            merged[-1] = Part(last.start, max(last.end, part.end), transaction)
        else:
            merged.append(part)
    return merged


# Go's unicode.IsSpace: what strings.TrimSpace and strings.Fields know, which is not quite what str.strip knows.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)


def _lines_with(word: str, text: str) -> Iterator[tuple[int, int]]:
    """Start and end (without the newline) of each line that contains the word. A lone CR ends no line."""
    found = text.find(word)
    while found >= 0:
        start = text.rfind("\n", 0, found) + 1
        end = text.find("\n", found)
        end = len(text) if end < 0 else end
        yield start, end
        found = text.find(word, end)


def _only_comment_lines(text: str, end: int) -> bool:
    """Whether nothing else stands in front of ``end``, the start of a line."""
    start = 0
    while start < end:
        stop = text.index("\n", start, end)
        line = text[start:stop].strip(_SPACE)
        if line and not line.startswith("--"):
            return False
        start = stop + 1
    return True


def _goose(text: str) -> list[Part] | None:
    """One Up, then at most one Down; None where goose refuses the annotations.

    A missing semicolon before Down is refused by goose too, but there nobody doubts what was meant to run.
    """
    section = ""
    up, down = 0, len(text)
    in_statement = False
    transaction = True
    for start, end in _lines_with("+goose", text):
        line = text[start:end]
        if not line.strip(_SPACE).startswith("--"):
            continue
        if line.startswith((" ", "\t")):
            return None
        match line.replace("--", "").replace("+goose", "", 1).strip(_SPACE).lower():
            case "up" if not section and _only_comment_lines(text, start):
                section, up = "up", end
            case "down" if section == "up" and not in_statement:
                section, down = "down", start
            case "statementbegin" if section and not in_statement:
                in_statement = True
            case "statementend" if in_statement:
                in_statement = False
            case "no transaction":
                transaction = False
            case "envsub on" | "envsub off":
                pass
            case _:
                return None
    if not section or in_statement:
        return None
    return [Part(up, down, transaction)]


# Go's \s, spelled out; ^ and $ know no line end but \n in either language.
_DBMATE = re.compile(
    r"^--[\t\n\f\r ]*migrate:(up|down)(?:[\t\n\f\r ]*$|[\t\n\f\r ]+[^\t\n\f\r ]+)", re.MULTILINE
)


def _dbmate(text: str) -> list[Part] | None:
    """Pairs of an up and a down, each up its own transaction; None where dbmate refuses the file."""
    if "migrate:up" not in text:
        return None
    parts: list[Part] = []
    up = -1
    for marker in _DBMATE.finditer(text):
        start = marker.start()
        if marker[1] == "up":
            if up >= 0:
                return None  # an up without its down
            if not parts and not _only_comment_lines(text, start):
                return None
            up = start
        elif up >= 0:
            parts.append(Part(up, start, _dbmate_transaction(text, up)))
            up = -1
        elif parts:
            return None  # a second down; one before the first up was a comment line
    return parts if up < 0 and parts else None


def _dbmate_transaction(text: str, up: int) -> bool:
    """The options stand behind the marker on the line where it begins; the last of two wins."""
    end = text.find("\n", up)
    answer = "true"
    for option in text[up : end if end >= 0 else len(text)].split():
        key, *values = option.split(":")
        if key == "transaction" and len(values) == 1:
            answer = values[0]
    return answer != "false"


_SQL_MIGRATE = "-- +migrate "


def _sql_migrate(text: str) -> list[Part] | None:
    """Sections in any order; what stands before the first is ignored. None where sql-migrate refuses the file."""
    spans: list[tuple[int, int]] = []
    section = ""
    up = 0
    in_statement = False
    transaction = True
    for start, end in _lines_with(_SQL_MIGRATE, text):
        if not text.startswith(_SQL_MIGRATE, start):
            continue
        words = text[start + len(_SQL_MIGRATE) : end].split()
        if not words:
            return None
        match words[0]:
            case "Up" | "Down":
                if section == "Up":
                    spans.append((up, start))
                section, up = words[0], end
                if section == "Up" and "notransaction" in words:
                    transaction = False
            case "StatementBegin" if section:
                in_statement = True
            case "StatementEnd":
                in_statement = False
    if not section or in_statement:
        return None
    if section == "Up":
        spans.append((up, len(text)))
    return [Part(start, end, transaction) for start, end in spans]


def _sql_migrate_surely(text: str) -> list[Part] | None:
    """As sql-migrate reads it, if the first marker is a comment to PostgreSQL too, not part of a string."""
    parts = _sql_migrate(text)
    if parts is None:
        return None
    lines = _lines_with(_SQL_MIGRATE, text)
    marker, end = next((start, end) for start, end in lines if text.startswith(_SQL_MIGRATE, start))
    comments: list[Comment] = []
    try:
        for _ in statements(text, end=end, comments=comments):
            pass
    except Unreadable:
        return None
    return parts if any(comment.offset == marker for comment in comments) else None


_GOLANG_MIGRATE = re.compile(r"[0-9]+_.*\.(down|up)\.")


def _direction(name: str) -> str:
    """What golang-migrate reads in a file name: up, down, or nothing."""
    named = _GOLANG_MIGRATE.match(name)
    return named[1] if named else ""


def _says_no_transaction(text: str) -> bool:
    """sqlx's mark: nothing may stand before it."""
    return text.startswith("-- no-transaction")


_FLYWAY_ASIDE = re.compile(r"[UB][0-9]+(?:[._][0-9]+)*(?:__.*)?\.(?i:sql)\Z", re.DOTALL)
_FLYWAY_VERSION = re.compile(r"V([0-9]+(?:[._][0-9]+)*)(?:__|\.[A-Za-z])")

# Flyway's api/callback/Event.java: those that `migrate` fires, as they come, around versions and repeatables.
_BEFORE = (
    *(
        "beforeConnect",
        "afterConnect",
        "beforeCreateSchema",
        "createSchema",
        "beforeValidate",
        "afterValidate",
    ),
    *("beforeMigrate", "beforeEachMigrate", "beforeEachMigrateStatement"),
)
_BETWEEN = ("afterVersioned", "beforeRepeatables")
_AFTER = (
    *("afterEachMigrateStatement", "afterEachMigrate", "afterMigrateApplied", "afterMigrate"),
    *("afterMigrateOperationFinish", "afterEachMigrateStatementError", "afterEachMigrateError"),
    *("afterMigrateError", "afterValidateError", "beforeBaseline", "afterBaseline", "afterBaselineError"),
    *("beforeRepair", "afterRepair", "afterRepairError", "beforeInfo", "afterInfo", "afterInfoError"),
    "afterInfoOperationFinish",
)
# Nobody cleans or undoes in a deploy.
_NEVER = (
    *(
        "beforeClean",
        "afterClean",
        "afterCleanError",
        "beforeUndo",
        "beforeEachUndo",
        "beforeEachUndoStatement",
    ),
    *("afterEachUndoStatement", "afterEachUndoStatementError", "afterEachUndo", "afterEachUndoError"),
    *("afterUndo", "afterUndoError"),
)
_CALLBACKS = {
    event: (place, index)
    for place, events in enumerate((_BEFORE, (), (), _BETWEEN, (), _AFTER, _NEVER))
    for index, event in enumerate(events)
}
_VERSIONED, _UNNUMBERED, _REPEATABLE, _NEVER_PLACE = 1, 2, 4, 6


def _callback(name: str) -> tuple[int, int] | None:
    """Where a Flyway callback comes among all files: ``beforeMigrate.sql`` or ``beforeMigrate__why.sql``."""
    stem = name[:-4] if name.lower().endswith(".sql") else name
    return _CALLBACKS.get(stem.partition("__")[0])


def _never_runs_in_flyway(name: str) -> bool:
    """Undo scripts, baselines (which only make new databases), callbacks of other commands than ``migrate``."""
    callback = _callback(name)
    if callback is not None:
        return callback[0] == _NEVER_PLACE
    return _FLYWAY_ASIDE.match(name) is not None


_Place = tuple[int, tuple[tuple[int, str], ...], str]


def _place(path: str, *, flyway: bool) -> _Place:
    """What files are sorted by: kind, version, name."""
    folder, _, name = path.rpartition("/")
    version = _version(name, flyway=flyway)
    if version is None and (above := _version(_name(folder), flyway=False)) is not None:
        name, version = f"{_name(folder)}/{name}", above
    if version is not None:
        return _VERSIONED, version, name
    if flyway and (callback := _callback(name)) is not None:
        return callback[0], (_number(str(callback[1])),), name
    if flyway and name.startswith("R__"):
        return _REPEATABLE, (), name.replace("_", " ")
    return _UNNUMBERED, (), name


def _version(name: str, *, flyway: bool) -> tuple[tuple[int, str], ...] | None:
    if flyway and (version := _FLYWAY_VERSION.match(name)):
        parts = [_number(part) for part in re.split("[._]", version[1])]
        while len(parts) > 1 and not parts[-1][0]:
            parts.pop()  # 1.0 is 1
        return tuple(parts)
    digits = name[: len(name) - len(name.lstrip("0123456789"))]
    return (_number(digits),) if digits else None


def _number(digits: str) -> tuple[int, str]:
    """Sorts as the number does, however long it is."""
    digits = digits.lstrip("0")
    return len(digits), digits
