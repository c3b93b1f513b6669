"""Column definitions and table constraints, as CREATE TABLE and ALTER TABLE have them (gram.y: columnDef, TableConstraint)."""

from __future__ import annotations

from typing import NamedTuple

from veza_tasks.migrations.actions import Column, Constraint, Name, Tokens
from veza_tasks.migrations.cursor import NOWHERE, Cursor, type_name
from veza_tasks.migrations.lexer import Token

COMMA = Token("PUNCTUATION", ",", 0)


_COLUMN_WORDS = frozenset(
    [
        "CONSTRAINT",
        "NOT",
        "NULL",
        "DEFAULT",
        "PRIMARY",
        "UNIQUE",
        "CHECK",
        "REFERENCES",
        "GENERATED",
        "DEFERRABLE",
        "INITIALLY",
        "COLLATE",
        "STORAGE",
        "COMPRESSION",
        "OPTIONS",
        "ENFORCED",
    ]
)


def column_of(cursor: Cursor) -> Column:
    """A column definition as in CREATE TABLE and ADD COLUMN; the cursor is left at the comma or closing parenthesis."""
    first = cursor.at
    name = cursor.identifier()
    kind = NOWHERE
    if cursor.peek() not in _COLUMN_WORDS:
        kind = type_name(cursor)
        cursor.accept("WITH", "OPTIONS")
    not_null = False
    default: Tokens | None = None
    generated = ""
    stored = True
    expression: Tokens = ()
    constraints: list[Constraint] = []
    label = ""
    while (word := cursor.peek()) not in (",", ")") and not cursor.done:
        start = cursor.at
        cursor.at += 1
        match word:
            case "CONSTRAINT":
                label = cursor.identifier()
                continue
            case "NOT" if cursor.accept("NULL"):
                not_null = True
                cursor.accept("NO", "INHERIT")
                cursor.accept("NOT", "VALID")
            case "DEFAULT":
                default = default_of(cursor)
            case "GENERATED":
                if not cursor.accept("ALWAYS"):
                    cursor.accept("BY", "DEFAULT")
                cursor.accept("AS")
                if cursor.accept("IDENTITY"):
                    generated = "identity"
                    not_null = True
                    cursor.group()
                else:
                    generated = "expression"
                    expression = cursor.group()
                    stored = not cursor.accept("VIRTUAL") and cursor.accept("STORED")
            case "PRIMARY" if cursor.accept("KEY"):
                not_null = True
                constraints.append(_key(cursor, "primary key", label, start, (name,)))
            case "UNIQUE":
                constraints.append(_key(cursor, "unique", label, start, (name,)))
            case "CHECK":
                check = Constraint(
                    "check", label, (name,), cursor.offset(start), 0, expression=cursor.group()
                )
                constraints.append(_finish(cursor, check))
            case "REFERENCES":
                constraints.append(_references(cursor, label, start, (name,)))
            case "(" | "[":
                cursor.at = start
                cursor.skip()
        label = ""
    return Column(
        name, kind, not_null, default, generated, stored, expression, tuple(constraints), cursor.offset(first),
        cursor.end(cursor.at),
    )  # fmt: skip


def default_of(cursor: Cursor) -> Tokens:
    """The expression after DEFAULT: up to the next column constraint."""
    first = cursor.at
    cursor.skip()
    while not cursor.done and (word := cursor.peek()) not in (",", ")"):
        after = cursor.words[cursor.at - 1]
        if word in _COLUMN_WORDS and after not in (".", "::") and word != "COLLATE":
            break
        cursor.skip()
    return cursor.tokens[first : cursor.at]


_TAIL_WORDS = frozenset(["NOT", "DEFERRABLE", "INITIALLY", "NO", "ENFORCED"])


def _finish(cursor: Cursor, constraint: Constraint) -> Constraint:
    """The constraint with what may follow any of them: deferrable, not valid, not enforced."""
    deferrable, valid, enforced = False, True, True
    while cursor.peek() in _TAIL_WORDS:
        if cursor.accept("NOT", "DEFERRABLE"):
            deferrable = False
        elif cursor.accept("DEFERRABLE") or cursor.accept("INITIALLY", "DEFERRED"):
            deferrable = True
        elif cursor.accept("NOT", "VALID"):
            valid = False
        elif cursor.accept("NOT", "ENFORCED"):
            enforced = False
        elif not (
            cursor.accept("INITIALLY", "IMMEDIATE")
            or cursor.accept("NO", "INHERIT")
            or cursor.accept("ENFORCED")
        ):
            break
    return constraint._replace(
        end=cursor.end(cursor.at), deferrable=deferrable, valid=valid, enforced=enforced
    )


def _key(cursor: Cursor, kind: str, label: str, first: int, columns: tuple[str, ...]) -> Constraint:
    """The rest of PRIMARY KEY or UNIQUE."""
    distinct = not cursor.accept("NULLS", "NOT", "DISTINCT")
    cursor.accept("NULLS", "DISTINCT")
    index = ""
    if cursor.accept("USING", "INDEX"):
        index = cursor.identifier()
    elif cursor.peek() == "(":
        columns = tuple(Cursor(item).identifier() for item in cursor.items())
    if cursor.accept("INCLUDE"):
        cursor.skip()
    if cursor.accept("WITH"):
        cursor.skip()
    if cursor.accept("USING", "INDEX", "TABLESPACE"):
        cursor.identifier()
    key = Constraint(
        kind, label, columns, cursor.offset(first), 0, nulls_distinct=distinct, using_index=index
    )
    return _finish(cursor, key)


def _references(cursor: Cursor, label: str, first: int, columns: tuple[str, ...]) -> Constraint:
    """The rest of a foreign key, after REFERENCES."""
    table = cursor.name()
    cursor.group()
    full = False
    on_delete = ""
    while True:
        if cursor.accept("MATCH"):
            full = cursor.identifier() == "full"
        elif cursor.accept("ON", "DELETE"):
            on_delete = cursor.peek() if cursor.peek() != "SET" else f"SET {cursor.peek(1)}"
            _referential_action(cursor)
        elif cursor.accept("ON", "UPDATE"):
            _referential_action(cursor)
        else:
            break
    on_delete = "" if on_delete in ("NO", "RESTRICT") else on_delete
    key = Constraint("foreign key", label, columns, cursor.offset(first), 0)
    return _finish(cursor, key._replace(references=table, match_full=full, on_delete=on_delete))


def _referential_action(cursor: Cursor) -> None:
    if cursor.any_of("SET", "NO"):
        cursor.at += 1
        cursor.group()
    else:
        cursor.at += 1


_CONSTRAINT_WORDS = frozenset(["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "EXCLUDE", "NOT"])


def constraint_of(cursor: Cursor) -> Constraint | None:
    """A table constraint, or None if none stands here; the cursor is left after it."""
    if cursor.peek() not in _CONSTRAINT_WORDS:
        return None
    first = cursor.at
    label = cursor.identifier() if cursor.accept("CONSTRAINT") else ""
    if cursor.accept("PRIMARY", "KEY"):
        return _key(cursor, "primary key", label, first, ())
    if cursor.accept("UNIQUE"):
        return _key(cursor, "unique", label, first, ())
    if cursor.accept("CHECK"):
        return _finish(
            cursor, Constraint("check", label, (), cursor.offset(first), 0, expression=cursor.group())
        )
    if cursor.accept("FOREIGN", "KEY"):
        columns = tuple(Cursor(item).identifier() for item in cursor.items())
        cursor.accept("REFERENCES")
        return _references(cursor, label, first, columns)
    if cursor.accept("EXCLUDE"):
        if cursor.accept("USING"):
            cursor.identifier()
        elements = tuple(cursor.items())
        if cursor.accept("INCLUDE"):
            cursor.skip()
        if cursor.accept("WITH"):
            cursor.skip()
        if cursor.accept("USING", "INDEX", "TABLESPACE"):
            cursor.identifier()
        predicate = cursor.group() if cursor.accept("WHERE") else ()
        exclude = Constraint("exclude", label, (), cursor.offset(first), 0)
        return _finish(cursor, exclude._replace(elements=elements, expression=predicate))
    if cursor.accept("NOT", "NULL"):
        column = cursor.identifier()
        return _finish(cursor, Constraint("not null", label, (column,), cursor.offset(first), 0))
    cursor.at = first
    return None


class Elements(NamedTuple):
    """What stands between the parentheses of CREATE TABLE."""

    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...]
    like: Name | None


def elements_of(definition: Tokens) -> Elements:
    """The columns and constraints of CREATE TABLE. Read only where they matter: new tables matter little."""
    cursor = Cursor(definition)
    columns: list[Column] = []
    constraints: list[Constraint] = []
    like: Name | None = None
    while not cursor.done:
        if cursor.accept(","):
            continue
        constraint = constraint_of(cursor)
        if constraint is not None:
            constraints.append(constraint)
        elif cursor.accept("LIKE"):
            like = cursor.name()
        else:
            columns.append(column_of(cursor))
        while not cursor.done and cursor.peek() != ",":
            cursor.skip()
    return Elements(tuple(columns), tuple(constraints), like)
