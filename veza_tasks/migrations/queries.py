"""What SELECT, INSERT, UPDATE, DELETE and kin do beside reading: functions that they call, rows that they lose."""

from __future__ import annotations

from collections.abc import Iterator

from veza_tasks.migrations.actions import Action, Calls, Catalogue, CreateTable, Name, Rows, Setting, Tokens
from veza_tasks.migrations.cursor import IDENTIFIERS, Cursor, whole
from veza_tasks.migrations.lexer import Statement


def query(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    """SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE, MERGE, CALL: their calls, and the rows they lose."""
    words, tokens = cursor.words, cursor.tokens
    functions: list[Name] = []
    sequences: list[str] = []
    for index, word in enumerate(words):
        if word == "(":
            if index and tokens[index - 1].kind in IDENTIFIERS and (index < 2 or words[index - 2] != "INTO"):
                schema = ""
                if index > 2 and words[index - 2] == ".":
                    schema = tokens[index - 3].name
                name = Name(schema, tokens[index - 1].name)
                if name.name == "set_config":
                    yield from _set_config(cursor, index)
                elif name.name == "setval":
                    cursor.at = index
                    for item in cursor.items()[:1]:
                        sequences += [token.value or token.name for token in item]
                functions.append(name)
        elif word not in _TELLING_WORDS:
            continue
        elif word == "FROM":
            if index and words[index - 1] == "DELETE":
                yield from _delete(cursor, index)
        elif word == "INTO":
            if index and words[index - 1] in ("INSERT", "MERGE"):
                cursor.at = index + 1
                yield from _catalogue(cursor, index - 1)
            elif words[0] in ("SELECT", "WITH", "("):
                yield from _select_into(cursor, index)
        elif index == 0 or words[index - 1] in ("(", ")"):
            cursor.at = index + 1
            yield from _catalogue(cursor, index)
    if functions:
        yield Calls(*whole(cursor), tuple(functions), tuple(filter(None, sequences)))


_TELLING_WORDS = frozenset(["FROM", "INTO", "UPDATE"])


def _set_config(cursor: Cursor, index: int) -> Iterator[Action]:
    cursor.at = index
    items = cursor.items()
    if len(items) >= 2 and len(items[0]) == 1 and items[0][0].kind == "STRING":
        name = items[0][0].value.lower()
        value = items[1][0].value if len(items[1]) == 1 and items[1][0].kind == "STRING" else ""
        values = tuple(part.strip().strip('"') for part in value.split(",")) if value.strip() else ("",)
        local = len(items) > 2 and Cursor(items[2]).peek() == "TRUE"
        yield Setting(*whole(cursor), name, values, local)


def _delete(cursor: Cursor, index: int) -> Iterator[Action]:
    """DELETE FROM at `index` of FROM: without WHERE, or with one that is always true."""
    cursor.at = index + 1
    cursor.accept("ONLY")
    enclosed = cursor.accept("(")
    at = cursor.at
    table = cursor.name()
    if enclosed:
        cursor.accept(")")
    end = cursor.end(cursor.at)
    yield from _catalogue(cursor, index - 1, at)
    condition: Tokens | None = None
    joined = False
    while not cursor.done and cursor.peek() not in (")", "RETURNING"):
        if cursor.peek() == "USING":
            joined = True
        if cursor.accept("WHERE"):
            condition = cursor.until("RETURNING", ")")
            break
        cursor.skip()
    if table.name and ((not joined and condition is None) or (condition is not None and _always(condition))):
        yield Rows(cursor.offset(index - 1), end, table, "DELETE FROM")


def _always(tokens: Tokens) -> bool:
    """A condition that holds for every row: TRUE, 1 = 1."""
    words = [token.text.upper() for token in tokens if token.text not in ("(", ")")]
    if words in (["TRUE"], ["NOT", "FALSE"], ["'T'"], ["'TRUE'"]):
        return True
    return (
        len(words) == 3
        and words[1] == "="
        and words[0] == words[2]
        and tokens[0].kind in ("NUMBER", "STRING")
    )


def _select_into(cursor: Cursor, index: int) -> Iterator[Action]:
    cursor.at = index + 1
    temporary = bool(cursor.any_of("TEMP", "TEMPORARY"))
    cursor.accept("UNLOGGED")
    cursor.accept("TABLE")
    name = cursor.name()
    if name.name:
        yield CreateTable(*whole(cursor), "table", name, temporary, False, (), False, None, False)


def _catalogue(cursor: Cursor, first: int, at: int = -1) -> Iterator[Action]:
    if at >= 0:
        again, cursor.at = cursor.at, at
        table = cursor.name()
        cursor.at = again
    else:
        cursor.accept("ONLY")
        table = cursor.name()
    if table.schema == "pg_catalog" or (not table.schema and table.name.startswith("pg_")):
        yield Catalogue(cursor.offset(first), cursor.end(cursor.at), table)
