"""A statement's tokens to typed actions: PostgreSQL's grammar as far as it touches what the old binary can name.

Manual part VI and src/backend/parser/gram.y up to version 18, read with a cursor over tokens at parenthesis depth 0, never
by pattern over text. Nothing here raises on syntax it does not know: an unknown form of ALTER or DROP becomes `Unknown`,
other unknown heads do nothing to the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from veza_tasks.migrations.actions import (
    Action,
    Argument,
    ChangeTable,
    Do,
    Execute,
    Heavy,
    Locks,
    Membership,
    Name,
    Prepare,
    Privileges,
    Refresh,
    Rows,
    Setting,
    Tokens,
    Transaction,
    Unbounded,
    Unknown,
    spelled,
)
from veza_tasks.migrations.alters import alter, drop
from veza_tasks.migrations.creates import create
from veza_tasks.migrations.cursor import Cursor, arguments_of, split, whole
from veza_tasks.migrations.lexer import Statement, Token
from veza_tasks.migrations.queries import query


def actions(statement: Statement, schema: str = "") -> Iterator[Action]:
    """What the statement does, in order. Never raises on syntax."""
    tokens = statement.tokens
    if not tokens:
        return iter(())
    first, last = tokens[0], tokens[-1]
    found: Iterator[Action] = iter(())
    if first.kind == "PARAM":  # psql's variable: the statement is what it holds
        what = f"what the variable {first.text} holds"
        return iter([Unknown(first.offset, statement.end, what, dynamic=True)])
    head = first.text.upper()
    read = query if head == "(" else _HEADS.get(head) if first.kind == "WORD" else None
    if read is not None:
        cursor = Cursor(tokens, schema)
        cursor.at = 1
        found = read(cursor, statement)
    # A psql command, or a statement that psql's \gexec ends
    return chain(found, _meta(last)) if last.kind == "META" else found


def _meta(token: Token) -> Iterator[Action]:
    command = token.text.split(None, 1)[0].lstrip("\\").lower() if token.text.strip("\\ ") else ""
    if command not in ("copy", "g", "gx"):
        yield Unknown(token.offset, token.offset + len(token.text), token.text.strip(), dynamic=True)


Reader = Callable[[Cursor, Statement], Iterator[Action]]


# Transactions and the session


def _begin(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    yield Transaction(*whole(cursor), "begin")


def _commit(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    cursor.any_of("WORK", "TRANSACTION")
    if cursor.peek() == "PREPARED":
        return
    yield Transaction(*whole(cursor), "commit", chain=cursor.accept("AND", "CHAIN"))


def _rollback(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    cursor.any_of("WORK", "TRANSACTION")
    if cursor.accept("TO"):
        cursor.accept("SAVEPOINT")
        yield Transaction(*whole(cursor), "rollback to", cursor.identifier())
    elif cursor.peek() != "PREPARED":
        yield Transaction(*whole(cursor), "rollback", chain=cursor.accept("AND", "CHAIN"))


def _savepoint(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    yield Transaction(*whole(cursor), "savepoint", cursor.identifier())


def _release(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    cursor.accept("SAVEPOINT")
    yield Transaction(*whole(cursor), "release", cursor.identifier())


def _start(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    if cursor.accept("TRANSACTION"):
        yield Transaction(*whole(cursor), "begin")


def _prepare(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    if cursor.accept("TRANSACTION"):  # its effects come with COMMIT PREPARED, which nothing here can prevent
        yield Transaction(*whole(cursor), "commit")
        return
    name = cursor.identifier()
    if cursor.peek() == "(":
        cursor.skip()
    if cursor.accept("AS"):
        yield Prepare(*whole(cursor), name, statement._replace(tokens=cursor.tokens[cursor.at :]))


def _execute(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    yield Execute(*whole(cursor), cursor.identifier())


def _set(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    local = cursor.accept("LOCAL")
    if not local:
        cursor.accept("SESSION")
    if cursor.accept("SCHEMA"):
        yield Setting(*whole(cursor), "search_path", (cursor.string(),), local)
        return
    name = cursor.name()
    if name.name in ("constraints", "transaction", "role", "time", "session") or not (
        cursor.any_of("TO", "=")
    ):
        return
    values = tuple(Cursor(item).string() for item in split(cursor.tokens[cursor.at :]))
    if cursor.peek() == "DEFAULT":
        values = ()
    yield Setting(
        *whole(cursor), name.name if not name.schema else f"{name.schema}.{name.name}", values, local
    )


def _reset(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    name = cursor.identifier()
    for setting in ("search_path", "lock_timeout") if name == "all" else (name,):
        yield Setting(*whole(cursor), setting, (), False)


def _discard(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    if cursor.accept("ALL"):
        yield Setting(*whole(cursor), "search_path", (), False)


def _explain(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    runs = False
    if cursor.peek() == "(":
        for item in cursor.items():
            option = Cursor(item)
            if option.any_of("ANALYZE", "ANALYSE"):
                runs = option.peek() not in ("FALSE", "OFF")
    while word := cursor.any_of("ANALYZE", "ANALYSE", "VERBOSE"):
        runs = runs or word != "VERBOSE"
    if runs:
        yield from actions(statement._replace(tokens=cursor.tokens[cursor.at :]))


def _do(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    yield Do(*whole(cursor), statement)


def _truncate(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    cursor.accept("TABLE")
    while not cursor.done:
        cursor.accept("ONLY")
        enclosed = cursor.accept("(")
        table = cursor.name()
        if not table.name:
            return
        cursor.accept("*")
        if enclosed:
            cursor.accept(")")
        yield Rows(*whole(cursor), table, "TRUNCATE")
        if not cursor.accept(","):
            return


# Maintenance


def _refresh(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    if cursor.accept("MATERIALIZED", "VIEW"):
        cursor.accept("CONCURRENTLY")
        name = cursor.name()
        cursor.accept("WITH")
        yield Refresh(*whole(cursor), name, not cursor.accept("NO", "DATA"))


def _reindex(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    concurrently = any(option and option[0].word == "CONCURRENTLY" for option in cursor.items())
    kind = cursor.any_of("INDEX", "TABLE", "SCHEMA", "DATABASE", "SYSTEM")
    concurrently = cursor.accept("CONCURRENTLY") or concurrently
    if concurrently:
        yield Unbounded(*whole(cursor), "REINDEX CONCURRENTLY")
        return
    if kind in ("SCHEMA", "DATABASE", "SYSTEM"):
        yield Unbounded(*whole(cursor), f"REINDEX {kind}")
    name = cursor.name()
    table = name if kind in ("TABLE", "INDEX") else None
    yield Heavy(
        *whole(cursor),
        "reindex-not-concurrent",
        f"REINDEX {kind} {name if name.name else ''}".strip(),
        table,
    )


def _vacuum(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    yield Unbounded(*whole(cursor), "VACUUM")
    full = any(option and option[0].word == "FULL" for option in cursor.items())
    while word := cursor.any_of("FULL", "FREEZE", "VERBOSE", "ANALYZE", "ANALYSE"):
        full = full or word == "FULL"
    if full:
        name = cursor.name()
        yield Heavy(*whole(cursor), "table-rewrite", "VACUUM FULL", name if name.name else None)


def _cluster(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    cursor.group()
    cursor.accept("VERBOSE")
    name = cursor.name()
    if cursor.accept("ON"):
        name = cursor.name()
    yield Heavy(*whole(cursor), "table-rewrite", "CLUSTER", name if name.name else None)


def _lock(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    cursor.accept("TABLE")
    exclusive = True
    tables = []
    while True:
        cursor.accept("ONLY")
        table = cursor.name()
        if not table.name:
            break
        tables.append(table)
        cursor.accept("*")
        if not cursor.accept(","):
            break
    if cursor.accept("IN"):
        exclusive = cursor.accept("ACCESS", "EXCLUSIVE")
    for table in tables:
        if exclusive:
            yield Locks(*whole(cursor), table)
        yield Heavy(*whole(cursor), "lock-table", "LOCK TABLE", table)


# GRANT and REVOKE

_OBJECT_KINDS = {
    "TABLE": "table", "SEQUENCE": "sequence", "DATABASE": "database", "SCHEMA": "schema",
    "FUNCTION": "function", "PROCEDURE": "function", "ROUTINE": "function", "TYPE": "type", "DOMAIN": "type",
    "LANGUAGE": "language", "TABLESPACE": "tablespace", "PARAMETER": "parameter",
}  # fmt: skip


_MANY_KINDS = {
    "TABLES": "table",
    "SEQUENCES": "sequence",
    "FUNCTIONS": "function",
    "PROCEDURES": "function",
    "ROUTINES": "function",
}


def _grant(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    yield from _privileges(cursor, grant=True)


def _revoke(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    cascade = cursor.words[-1] == "CASCADE"
    if cursor.any_of("GRANT", "ADMIN", "INHERIT", "SET") and cursor.accept("OPTION", "FOR") and not cascade:
        return
    yield from _privileges(cursor, grant=False)


def _privileges(cursor: Cursor, *, grant: bool) -> Iterator[Action]:
    start, end = whole(cursor)
    listed = split(cursor.until("ON", "TO", "FROM"))
    direction = "TO" if grant else "FROM"
    if not cursor.accept("ON"):
        cursor.accept(direction)
        roles = tuple(Cursor(item).identifier() for item in listed)
        yield Membership(start, end, grant, roles, tuple(_roles(cursor)))
        return
    privileges = {privilege for item in listed for privilege in _named(item)}
    if "ALL" in privileges:
        privileges = set()
    kind = "table"
    schemas: tuple[str, ...] = ()
    objects: list[tuple[Name, tuple[Argument, ...] | None]] = []
    if cursor.peek() == "ALL" and cursor.peek(1) in _MANY_KINDS:
        kind = _MANY_KINDS[cursor.peek(1)]
        cursor.at += 2
        cursor.accept("IN", "SCHEMA")
        schemas = tuple(cursor.names())
    else:
        if cursor.peek() == "FOREIGN" and cursor.peek(1) in ("DATA", "SERVER"):
            kind = "server"
            cursor.at += 2
            cursor.accept("WRAPPER")
        elif cursor.peek() == "LARGE":
            kind = "large object"
            cursor.at += 2
        elif cursor.peek() in _OBJECT_KINDS and cursor.peek(1) not in (",", direction, "."):
            kind = _OBJECT_KINDS[cursor.peek()]
            cursor.at += 1
        while True:
            name = cursor.name()
            if not name.name:
                cursor.at += 1
            arguments = arguments_of(cursor.items()) if cursor.peek() == "(" else None
            objects.append((name, arguments))
            if not cursor.accept(","):
                break
    cursor.accept(direction)
    cascade = cursor.words[-1] == "CASCADE"
    yield Privileges(
        start,
        end,
        grant,
        frozenset(privileges),
        kind,
        tuple(objects),
        schemas,
        tuple(_roles(cursor)),
        cascade,
    )


def _named(item: Tokens) -> Iterator[str]:
    """A privilege, and of one on columns each: SELECT (email). ALL PRIVILEGES is ALL."""
    cursor = Cursor(item)
    words = [token.word for token in cursor.until("(")]
    columns = [token.name for token in cursor.group() if token.name]
    if not words or not words[0]:
        return
    if not columns:
        yield "ALL" if words[0] == "ALL" else " ".join(words)
        return
    for word in _OF_COLUMNS if words[0] == "ALL" else words[:1]:
        yield from (f"{word} ({spelled(column)})" for column in columns)


_OF_COLUMNS = ("SELECT", "INSERT", "UPDATE", "REFERENCES")


def _roles(cursor: Cursor) -> Iterator[str]:
    while True:
        cursor.accept("GROUP")
        role = cursor.identifier()
        if not role:
            return
        yield role
        if not cursor.accept(","):
            return


def _reassign(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    start, end = whole(cursor)
    if cursor.accept("OWNED", "BY"):
        yield ChangeTable(start, end, "role", Name("", cursor.identifier()), "owner")


_HEADS: dict[str, Reader] = {
    "ALTER": alter, "CREATE": create, "DROP": drop, "GRANT": _grant, "REVOKE": _revoke,
    "TRUNCATE": _truncate, "SELECT": query, "WITH": query, "VALUES": query, "INSERT": query, "UPDATE": query,
    "DELETE": query, "MERGE": query, "CALL": query, "PERFORM": query, "EXPLAIN": _explain, "DO": _do,
    "PREPARE": _prepare, "EXECUTE": _execute, "BEGIN": _begin, "START": _start, "COMMIT": _commit,
    "END": _commit, "ROLLBACK": _rollback, "ABORT": _rollback, "SAVEPOINT": _savepoint, "RELEASE": _release,
    "SET": _set, "RESET": _reset, "DISCARD": _discard, "REFRESH": _refresh, "REINDEX": _reindex,
    "VACUUM": _vacuum, "CLUSTER": _cluster, "LOCK": _lock, "REASSIGN": _reassign, "TABLE": query,
}  # fmt: skip
