"""DROP and ALTER. Every form that is not known here becomes `Unknown`: nobody can vouch for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from veza_tasks.migrations.actions import (
    Action,
    AddColumn,
    AddConstraint,
    AddValue,
    AlterColumn,
    Attach,
    Change,
    ChangeTable,
    Drop,
    DropColumn,
    DropConstraint,
    Locks,
    Membership,
    Move,
    Name,
    Rename,
    RenamePart,
    RoleChange,
    Unbounded,
    Unknown,
    spelled,
)
from veza_tasks.migrations.columns import COMMA, column_of, constraint_of
from veza_tasks.migrations.creates import policy, view_options
from veza_tasks.migrations.cursor import (
    ON_TABLE,
    Cursor,
    arguments_of,
    cast_name,
    kind_after,
    operator_name,
    split,
    type_name,
    whole,
)
from veza_tasks.migrations.lexer import Statement


def drop(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    head = cursor.peek()
    cursor.at += 1
    kind = kind_after(cursor, head)
    start, end = whole(cursor)
    if not kind or kind in ("default", "system", "large object"):
        yield Unknown(start, end, " ".join(token.text for token in cursor.tokens[:3]))
        return
    if kind in ("database", "tablespace", "subscription"):
        yield Unbounded(start, end, f"DROP {head}")
    if kind == "owned":
        cursor.accept("BY")
        for role in cursor.names():
            yield Drop(start, end, "owned", Name("", role), None, None, False, False)
        return
    concurrently = cursor.accept("CONCURRENTLY")
    if concurrently:
        yield Unbounded(start, end, "DROP INDEX CONCURRENTLY")
    cursor.if_exists()
    cascade = cursor.words[-1] == "CASCADE"
    listed = kind not in ON_TABLE
    items = cursor.at
    while True:
        first = cursor.at
        arguments = None
        on = None
        if kind == "cast":
            name = Name("", cast_name(cursor))
        elif kind == "operator":
            name = Name("", operator_name(cursor))
            cursor.group()
        elif kind in ("user mapping", "transform"):
            name = Name("", "")
            cursor.at = cursor.size
        elif kind == "operator class" or kind == "operator family":
            name = cursor.name()
            if cursor.accept("USING"):
                cursor.identifier()
        else:
            name = cursor.name()
        if kind == "function" and cursor.peek() == "(":
            arguments = arguments_of(item for item in cursor.items() if item and item[0].text != "*")
        if kind in ON_TABLE and cursor.accept("ON"):
            on = cursor.name()
        more = listed and cursor.peek() == ","
        alone = first == items and not more
        yield Drop(
            start if alone else cursor.offset(first), end if alone else cursor.end(cursor.at), kind, name,
            arguments, on, cascade, concurrently, head.lower() if kind == "function" else "",
        )  # fmt: skip
        if not (listed and cursor.accept(",")):
            return


# ALTER


def alter(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    head = cursor.peek()
    cursor.at += 1
    kind = kind_after(cursor, head)
    start, end = whole(cursor)
    match kind:
        case "table" | "view" | "materialized view" | "foreign table" | "index" | "sequence" | "type":
            yield from _alter_relation(cursor, kind)
        case "domain":
            yield from _alter_domain(cursor)
        case "function":
            yield from _alter_function(cursor)
        case "role":
            yield from _alter_role(cursor)
        case "database":
            yield from _alter_role(cursor, kind="database")
        case "system":
            cursor.accept("SET")
            yield Unbounded(start, end, "ALTER SYSTEM")
            cursor.at = 1
            cursor.accept("SYSTEM")
            yield from _setting_of(cursor, "system", "")
        case "policy":
            yield policy(cursor, alter=True)
        case "default":  # DEFAULT PRIVILEGES: only of what is yet to be made
            return
        case (
            "schema"
            | "collation"
            | "language"
            | "server"
            | "extension"
            | "conversion"
            | "foreign-data wrapper"
            | "tablespace"
        ):
            yield from _alter_object(cursor, kind)
        case "operator" | "operator class" | "operator family":
            yield from _alter_object(cursor, kind)
        case _ if kind.startswith("text search"):
            yield from _alter_object(cursor, kind)
        case (
            "rule"
            | "trigger"
            | "statistics"
            | "publication"
            | "subscription"
            | "event trigger"
            | "user mapping"
            | "large object"
        ):
            return
        case _:
            yield Unknown(start, end, " ".join(token.text for token in cursor.tokens[:3]))


def _alter_object(cursor: Cursor, kind: str) -> Iterator[Action]:
    """ALTER of the kinds that can be renamed, moved and given away, and whose other options matter little."""
    start, end = whole(cursor)
    if kind == "operator":
        name = Name("", operator_name(cursor))
        cursor.group()
    else:
        cursor.if_exists()
        name = cursor.name()
    if cursor.accept("USING"):
        cursor.identifier()
    if cursor.accept("RENAME", "TO"):
        yield Rename(start, end, kind, name, cursor.identifier())
    elif cursor.accept("SET", "SCHEMA"):
        yield Move(start, end, kind, name, cursor.identifier())
    elif cursor.accept("OWNER", "TO"):
        yield ChangeTable(start, end, kind, name, "owner", cursor.identifier())
    elif kind == "server" and cursor.accept("OPTIONS"):
        yield from _foreign_options(cursor, kind, name)
    elif kind == "operator family" and cursor.peek() == "DROP":
        yield Change(start, end, "drop-object", kind, name)


_TUNING = frozenset(
    [
        "fetch_size",
        "use_remote_estimate",
        "async_capable",
        "batch_size",
        "fdw_startup_cost",
        "fdw_tuple_cost",
        "extensions",
        "analyze_sampling",
        "keep_connections",
        "parallel_commit",
        "parallel_abort",
        "truncatable",
    ]
)


def _foreign_options(cursor: Cursor, kind: str, name: Name) -> Iterator[Action]:
    start, end = whole(cursor)
    for item in cursor.items():
        option = Cursor(item)
        option.any_of("ADD", "SET", "DROP")
        if option.identifier() not in _TUNING:
            yield Change(start, end, "alter-foreign-options", kind, name, "options")
            return


# Sub-commands of ALTER TABLE that keep readers out only shortly, or not at all.
_GENTLE = frozenset(["VALIDATE", "CLUSTER", "ATTACH"])


def _alter_relation(cursor: Cursor, kind: str) -> Iterator[Action]:
    """ALTER TABLE and its likes: PostgreSQL takes ALTER TABLE for views, indexes and sequences too."""
    start, end = whole(cursor)
    if cursor.accept("ALL", "IN", "TABLESPACE"):
        yield ChangeTable(start, end, kind, Name("", cursor.identifier()), "tablespace")
        return
    cursor.if_exists()
    cursor.accept("ONLY")
    enclosed = cursor.accept("(")
    name = cursor.name()
    if enclosed:
        cursor.accept(")")
    cursor.accept("*")
    if kind in ("table", "foreign table"):
        gentle = True
        for index in range(cursor.at, cursor.size):
            if index == cursor.at or cursor.words[index - 1] == ",":
                gentle = gentle and (
                    cursor.words[index] in _GENTLE or "STATISTICS" in cursor.words[index : index + 6]
                    or (cursor.words[index] == "DETACH" and cursor.words[-1] == "CONCURRENTLY")
                )  # fmt: skip
                if not gentle:
                    break
        if not gentle:
            yield Locks(start, end, name)
    while not cursor.done:
        before = cursor.at
        yield from _alter_relation_action(cursor, kind, name)
        while not cursor.done and cursor.peek() != ",":
            cursor.skip()
        cursor.accept(",")
        if cursor.at == before:
            cursor.at += 1


def _alter_relation_action(cursor: Cursor, kind: str, name: Name) -> Iterator[Action]:
    """One sub-command; the cursor may be left anywhere before the comma that follows it."""
    first = cursor.at
    verb = cursor.peek()
    cursor.at += 1
    attributes = kind == "type"

    def span() -> tuple[int, int]:
        again = cursor.at
        while not cursor.done and cursor.peek() != ",":
            cursor.skip()
        end = cursor.end(cursor.at)
        cursor.at = again
        return cursor.offset(first), end

    match verb:
        case "ADD" if attributes:
            if cursor.accept("VALUE"):
                there = cursor.if_not_exists()
                yield AddValue(*span(), name, cursor.string(), there)
                return
            cursor.accept("ATTRIBUTE")
            yield Change(*span(), "add-attribute", "type", name, cursor.identifier())
        case "ADD":
            if cursor.accept("GENERATED"):  # of an identity sequence: cannot be
                return
            started = cursor.at
            constraint = constraint_of(cursor)
            if constraint is not None:
                yield AddConstraint(*span(), name, constraint, (COMMA, *cursor.tokens[started : cursor.at]))
                return
            cursor.accept("COLUMN")
            unsure = cursor.if_not_exists()
            started = cursor.at
            column = column_of(cursor)
            if not column.name:
                yield Unknown(*span(), "ALTER TABLE ... ADD", name)
                return
            yield AddColumn(*span(), name, column, unsure, (COMMA, *cursor.tokens[started : cursor.at]))
        case "DROP":
            if cursor.accept("CONSTRAINT"):
                cursor.if_exists()
                yield DropConstraint(*span(), name, cursor.identifier())
                return
            cursor.any_of("COLUMN", "ATTRIBUTE") if not attributes else cursor.accept("ATTRIBUTE")
            cursor.if_exists()
            column_name = cursor.identifier()
            if not column_name:
                yield Unknown(*span(), "ALTER TABLE ... DROP", name)
            elif attributes:
                yield Change(*span(), "drop-attribute", "type", name, column_name)
            else:
                yield DropColumn(*span(), name, column_name)
        case "ALTER" if cursor.accept("CONSTRAINT"):
            label = cursor.identifier()
            if (
                "ENFORCED" in (rest := [t.word for t in cursor.until(",")])
                and rest[rest.index("ENFORCED") - 1] != "NOT"
            ):
                yield Change(*span(), "add-check", "table", name, label, detail=spelled(label))
        case "ALTER":
            cursor.accept("ATTRIBUTE") if attributes else cursor.accept("COLUMN")
            yield from _alter_column(cursor, name, attributes, span)
        case "RENAME":
            part = cursor.any_of("COLUMN", "CONSTRAINT", "ATTRIBUTE", "VALUE").lower()
            if not part and cursor.accept("TO"):
                yield Rename(*span(), kind, name, cursor.identifier())
                return
            if part == "value":
                old = cursor.string()
                cursor.accept("TO")
                yield RenamePart(*span(), kind, name, part, old, cursor.string())
                return
            old = cursor.identifier()
            if not old or not cursor.accept("TO"):
                yield Unknown(*span(), "ALTER TABLE ... RENAME", name)
                return
            yield RenamePart(*span(), kind, name, part or "column", old, cursor.identifier())
        case "SET":
            yield from _alter_set(cursor, kind, name, span)
        case "OWNER":
            cursor.accept("TO")
            yield ChangeTable(*span(), kind, name, "owner", cursor.identifier())
        case "ENABLE" | "DISABLE" | "FORCE" | "NO":
            inherit = verb == "NO" and cursor.accept("INHERIT")
            if inherit:
                yield Attach(*span(), cursor.name(), name, False, False)
                return
            forced = verb == "NO" and cursor.accept("FORCE")
            if cursor.accept("ROW", "LEVEL", "SECURITY"):
                yield ChangeTable(*span(), kind, name, "rls", "no force" if forced else verb.lower())
            elif verb == "NO" and cursor.any_of("MAXVALUE", "MINVALUE", "CYCLE"):
                return
            elif verb == "DISABLE" and cursor.accept("TRIGGER"):
                yield ChangeTable(*span(), kind, name, "disable trigger", cursor.identifier())
            elif cursor.any_of("ALWAYS", "REPLICA"):
                if cursor.accept("RULE"):
                    yield Change(*span(), "create-rule", "table", name, cursor.identifier())
            elif cursor.accept("RULE"):
                rule = "create-rule" if verb == "ENABLE" else "drop-rule"
                yield Change(*span(), rule, "table", name, label := cursor.identifier(), spelled(label))
            elif not cursor.accept("TRIGGER"):
                yield Unknown(*span(), f"ALTER TABLE ... {verb}", name)
        case "VALIDATE":
            cursor.accept("CONSTRAINT")
            yield ChangeTable(*span(), kind, name, "validate", cursor.identifier())
        case "ATTACH" | "DETACH":
            if cursor.accept("PARTITION"):
                child = cursor.name()
                if cursor.words[-1] == "CONCURRENTLY":
                    yield Unbounded(*span(), "DETACH PARTITION CONCURRENTLY")
                if kind != "index":
                    yield Attach(*span(), name, child, verb == "ATTACH", True)
        case "INHERIT":
            yield Attach(*span(), cursor.name(), name, True, False)
        case "CLUSTER" | "REPLICA" | "RESET" | "NOT" | "OF" | "DEPENDS":
            return
        case "OPTIONS" if kind == "foreign table" or kind == "table":
            yield from _foreign_options(cursor, kind, name)
        case (
            "AS" | "INCREMENT" | "START" | "CACHE" | "CYCLE" | "OWNED" | "RESTART" | "MAXVALUE" | "MINVALUE"
        ) if kind == "sequence":
            cursor.at -= 1
            yield from _alter_sequence(cursor, name)
        case "CYCLE" | "OWNED" | "START" | "CACHE":
            return
        case _:
            cursor.at = first
            what = " ".join(token.text for token in cursor.tokens[first : first + 2])
            yield Unknown(*span(), f"ALTER {kind.upper()} ... {what}", name)


Span = Callable[[], tuple[int, int]]


def _alter_column(cursor: Cursor, name: Name, attribute: bool, span: Span) -> Iterator[Action]:
    """What follows ALTER [COLUMN] in ALTER TABLE."""
    column = cursor.identifier()
    if not column:  # a numbered column of an index
        return
    if attribute:
        yield Change(*span(), "alter-attribute", "type", name, column)
        return
    if cursor.accept("SET", "DATA", "TYPE") or cursor.accept("TYPE"):
        yield AlterColumn(*span(), name, column, "type", cursor.until("USING", ","))
    elif cursor.accept("SET", "DEFAULT"):
        yield AlterColumn(*span(), name, column, "default", cursor.until(","))
    elif cursor.accept("DROP", "DEFAULT"):
        yield AlterColumn(*span(), name, column, "default")
    elif cursor.accept("SET", "NOT", "NULL"):
        yield AlterColumn(*span(), name, column, "not null")
    elif cursor.accept("DROP", "NOT", "NULL"):
        yield AlterColumn(*span(), name, column, "nullable")
    elif cursor.accept("DROP", "IDENTITY"):
        yield AlterColumn(*span(), name, column, "drop identity")
    elif cursor.accept("DROP", "EXPRESSION"):
        yield AlterColumn(*span(), name, column, "drop expression")
    elif cursor.accept("SET", "EXPRESSION"):
        yield AlterColumn(*span(), name, column, "set expression")
    elif cursor.accept("ADD", "GENERATED"):
        always = cursor.accept("ALWAYS")
        options = cursor.until(",")
        starts = any(token.word in ("START", "RESTART") for token in options)
        yield AlterColumn(*span(), name, column, "add identity", always=always, restart=starts)
    elif cursor.peek() in ("SET", "RESTART"):
        always = restart = identity = False
        while not cursor.done and cursor.peek() != ",":
            if cursor.accept("SET", "GENERATED"):
                identity = True
                always = cursor.accept("ALWAYS")
            elif (
                cursor.accept("RESTART")
                or cursor.accept("SET", "MAXVALUE")
                or cursor.accept("SET", "MINVALUE")
            ):
                identity = restart = True
            elif cursor.peek() == "SET" and cursor.peek(1) not in (
                "STATISTICS", "STORAGE", "COMPRESSION", "(", "INCREMENT", "START", "CACHE", "NO", "CYCLE",
                "SEQUENCE", "LOGGED", "UNLOGGED",
            ):  # fmt: skip
                yield Unknown(
                    *span(),
                    f"ALTER COLUMN ... SET {cursor.tokens[min(cursor.at + 1, cursor.size - 1)].text}",
                    name,
                )
                return
            else:
                cursor.skip()
        if identity:
            yield AlterColumn(*span(), name, column, "set identity", always=always, restart=restart)
    elif cursor.peek() == "OPTIONS":
        cursor.at += 1
        yield from _foreign_options(cursor, "foreign table", name)
    elif cursor.peek() not in ("RESET", "DEPENDS"):
        yield Unknown(
            *span(), f"ALTER COLUMN ... {cursor.tokens[min(cursor.at, cursor.size - 1)].text}", name
        )


def _alter_set(cursor: Cursor, kind: str, name: Name, span: Span) -> Iterator[Action]:
    """What follows SET in ALTER TABLE."""
    if cursor.accept("SCHEMA"):
        yield Move(*span(), kind, name, cursor.identifier())
    elif cursor.accept("TABLESPACE"):
        yield ChangeTable(*span(), kind, name, "tablespace")
    elif cursor.any_of("LOGGED", "UNLOGGED"):
        yield ChangeTable(*span(), kind, name, "logged")
    elif cursor.accept("ACCESS", "METHOD"):
        yield ChangeTable(*span(), kind, name, "access method")
    elif cursor.peek() == "(":
        if kind in ("view", "table"):
            for option in view_options(cursor.items()):
                yield Change(*span(), "alter-view-options", "table", name, option, option)
    elif not (cursor.any_of("WITH", "WITHOUT", "STATISTICS")):
        yield Unknown(*span(), f"ALTER {kind.upper()} ... SET", name)


def _alter_sequence(cursor: Cursor, name: Name) -> Iterator[Action]:
    """The options of ALTER SEQUENCE, which stand one after the other without commas."""

    def change(detail: str, last: int) -> Change:
        return Change(
            cursor.offset(first), cursor.end(last), "alter-sequence", "sequence", name, word, detail
        )

    while not cursor.done:
        first = cursor.at
        word = cursor.peek()
        cursor.at += 1
        if word == "RESTART":
            cursor.accept("WITH")
            if not cursor.done and cursor.tokens[cursor.at].kind == "NUMBER":
                cursor.at += 1
            yield change(word, cursor.at)
        elif word in ("MAXVALUE", "MINVALUE"):
            text = "" if cursor.done else cursor.tokens[cursor.at].text.replace("_", "")
            cursor.at += 1
            if text == "-":
                cursor.at += 1
            if word == "MINVALUE" or text != "9223372036854775807":
                yield change(word, cursor.at)
        elif word == "NO":
            cursor.at += 1
        elif word == "AS":
            if type_name(cursor).name != "bigint":
                yield change(word, cursor.at)
        elif word == "INCREMENT":
            cursor.accept("BY")
            if cursor.accept("-"):
                yield change(f"{word} BY -", cursor.at + 1)


def _alter_domain(cursor: Cursor) -> Iterator[Action]:
    start, end = whole(cursor)
    cursor.if_exists()
    name = cursor.name()
    first = cursor.offset(cursor.at)
    if cursor.accept("ADD"):
        if constraint_always_true(cursor):
            return
        yield Change(first, end, "restrict-domain", "domain", name, "constraint", "ADD CONSTRAINT")
    elif cursor.accept("SET", "NOT", "NULL"):
        yield Change(first, end, "restrict-domain", "domain", name, "not null", "SET NOT NULL")
    elif cursor.accept("DROP", "NOT", "NULL"):
        yield Change(first, end, "restrict-domain", "domain", name, "not null", "SET NOT NULL", heals=True)
    elif cursor.accept("DROP", "DEFAULT"):
        yield Change(first, end, "drop-domain-default", "domain", name, "default")
    elif cursor.accept("SET", "DEFAULT"):
        gone = [token.word for token in cursor.tokens[cursor.at :][:1]] == ["NULL"]
        yield Change(first, end, "drop-domain-default", "domain", name, "default", heals=not gone)
    elif cursor.accept("RENAME", "TO"):
        yield Rename(first, end, "domain", name, cursor.identifier())
    elif cursor.accept("SET", "SCHEMA"):
        yield Move(first, end, "domain", name, cursor.identifier())
    elif cursor.accept("OWNER", "TO"):
        yield ChangeTable(first, end, "domain", name, "owner", cursor.identifier())
    elif not (
        cursor.accept("DROP", "CONSTRAINT")
        or cursor.accept("VALIDATE")
        or cursor.accept("RENAME", "CONSTRAINT")
    ):
        yield Unknown(start, end, "ALTER DOMAIN")


def constraint_always_true(cursor: Cursor) -> bool:
    """CHECK (true) stands here."""
    again = cursor.at
    constraint = constraint_of(cursor)
    cursor.at = again
    return constraint is not None and [token.word for token in constraint.expression] == ["TRUE"]


def _alter_function(cursor: Cursor) -> Iterator[Action]:
    end = cursor.end(cursor.size)
    name = cursor.name()
    arguments = (
        arguments_of(i for i in cursor.items() if i and i[0].text != "*") if cursor.peek() == "(" else None
    )
    first = cursor.offset(cursor.at)
    if cursor.accept("RENAME", "TO"):
        yield Rename(first, end, "function", name, cursor.identifier(), arguments)
    elif cursor.accept("SET", "SCHEMA"):
        yield Move(first, end, "function", name, cursor.identifier(), arguments)
    elif cursor.accept("OWNER", "TO"):
        yield ChangeTable(first, end, "function", name, "owner", cursor.identifier())
    else:
        while not cursor.done:
            if cursor.accept("SECURITY", "INVOKER"):
                yield Change(first, end, "security-invoker", "function", name)
            elif cursor.accept("SECURITY", "DEFINER"):
                yield Change(first, end, "security-invoker", "function", name, heals=True)
            cursor.skip()


def _alter_role(cursor: Cursor, kind: str = "role") -> Iterator[Action]:
    start, end = whole(cursor)
    name = cursor.identifier()
    if name == "all" and cursor.words[cursor.at - 1] == "ALL":
        name = ""
    if cursor.accept("IN", "DATABASE"):
        cursor.identifier()
    first = cursor.offset(cursor.at)
    if cursor.accept("RENAME", "TO"):
        yield Rename(first, end, kind, Name("", name), cursor.identifier())
    elif cursor.peek() in ("SET", "RESET"):
        if cursor.peek(1) == "TABLESPACE":
            yield Unbounded(start, end, "ALTER DATABASE SET TABLESPACE")
            return
        yield from _setting_of(cursor, kind, name)
    elif cursor.accept("OWNER", "TO"):
        yield ChangeTable(first, end, kind, Name("", name), "owner", cursor.identifier())
    elif cursor.peek() in ("ADD", "DROP") and kind == "role":
        grant = cursor.accept("ADD")
        cursor.at += not grant
        cursor.accept("USER")
        yield Membership(first, end, grant, (name,), tuple(cursor.names()))
    else:
        cursor.accept("WITH")
        while not cursor.done:
            at = cursor.at
            word = cursor.peek()
            cursor.at += 1
            if word in ("NOLOGIN", "NOSUPERUSER", "NOBYPASSRLS", "NOINHERIT"):
                yield RoleChange(cursor.offset(at), cursor.end(cursor.at), kind, name, word)
            elif word == "CONNECTION" and cursor.accept("LIMIT"):
                limited = cursor.peek() != "-"
                cursor.at += 1 if limited else 2
                if limited:
                    yield RoleChange(cursor.offset(at), cursor.end(cursor.at), kind, name, "CONNECTION LIMIT")
            elif word == "ALLOW_CONNECTIONS":
                cursor.accept("=")
                if cursor.string().lower() in ("false", "off", "0", "no"):
                    yield RoleChange(
                        cursor.offset(at), cursor.end(cursor.at), kind, name, "ALLOW_CONNECTIONS"
                    )
            elif word == "PASSWORD":
                cursor.at += 1
                yield RoleChange(cursor.offset(at), cursor.end(cursor.at), kind, name, "PASSWORD")
            elif word == "VALID":
                cursor.accept("UNTIL")
                if cursor.string().lower() != "infinity":
                    yield RoleChange(cursor.offset(at), cursor.end(cursor.at), kind, name, "VALID UNTIL")


# Settings that change which objects a session sees, or whether it may write.
_TELLING = {
    "search_path": (), "role": (), "default_transaction_read_only": ("off", "false", "0", "no"),
    "transaction_read_only": ("off", "false", "0", "no"), "row_security": ("on", "true", "1", "yes"),
    "standard_conforming_strings": ("on", "true", "1", "yes"),
}  # fmt: skip


_DEFAULT_PATHS = (["$user", "public"], ["public"])


def _setting_of(cursor: Cursor, kind: str, name: str) -> Iterator[Action]:
    """SET or RESET in ALTER ROLE, ALTER DATABASE and ALTER SYSTEM."""
    start, end = cursor.offset(cursor.at), cursor.end(cursor.size)
    reset = cursor.accept("RESET")
    if not reset and not cursor.accept("SET"):
        return
    setting = cursor.name().name
    values = (
        []
        if reset or not cursor.any_of("TO", "=")
        else [Cursor(i).string() for i in split(cursor.tokens[cursor.at :])]
    )
    if reset or cursor.peek() == "DEFAULT":
        if setting in ("search_path", "all", "role"):
            yield RoleChange(start, end, kind, name, "RESET", setting)
        return
    if setting not in _TELLING or (len(values) == 1 and values[0].lower() in _TELLING[setting]):
        return
    if setting == "search_path" and kind != "role" and values in _DEFAULT_PATHS:
        return
    yield RoleChange(start, end, kind, name, "SET", setting)
