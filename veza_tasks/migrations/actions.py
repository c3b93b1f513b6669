"""What a statement of a migration can do to a schema: the vocabulary between grammar and judge.

Offsets (`start`, `end`) are those of the tokens and span the offending action: in ALTER TABLE the `DROP` to the last word
of its own clause, not the whole statement.
"""

from collections.abc import Iterable
from typing import NamedTuple

from veza_tasks.migrations.lexer import Statement, Token

Tokens = tuple[Token, ...]


class Name(NamedTuple):
    """A possibly qualified name, folded as PostgreSQL folds it; schema "" when none was written."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{spelled(self.schema)}.{spelled(self.name)}" if self.schema else spelled(self.name)


def spelled(identifier: str) -> str:
    """An identifier as it has to be written in SQL: quoted where folding would change it."""
    plain = identifier.isascii() and identifier.replace("_", "a").isalnum() and not identifier[0].isdigit()
    return identifier if plain and identifier.islower() else '"' + identifier.replace('"', '""') + '"'


def quoted(value: str) -> str:
    """A text as it has to be written in SQL."""
    return "'" + value.replace("'", "''") + "'"


def text_of(tokens: Tokens) -> str:
    """An expression, comparable and readable: names folded, one blank between tokens but around parentheses."""
    text = " ".join(
        token.name or (quoted(token.value) if token.kind == "STRING" else token.text) for token in tokens
    )
    return (
        text.replace(" ( ", "(")
        .replace("( ", "(")
        .replace(" )", ")")
        .replace(" , ", ", ")
        .replace(" . ", ".")
    )


class Argument(NamedTuple):
    """One argument of a function: mode is IN, OUT, INOUT, VARIADIC or TABLE, type is canonical (integer, not int4)."""

    mode: str
    name: str
    type: str
    optional: bool


def inputs(arguments: Iterable[Argument]) -> tuple[str, ...]:
    """The types that make out a function among those of its name."""
    return tuple(argument.type for argument in arguments if argument.mode not in ("OUT", "TABLE"))


class Constraint(NamedTuple):
    kind: str  # primary key, unique, exclude, check, foreign key, not null
    name: str
    columns: tuple[str, ...]
    start: int
    end: int
    elements: tuple[Tokens, ...] = ()  # of an exclusion constraint
    expression: Tokens = ()  # of a check; the predicate of an exclusion
    nulls_distinct: bool = True
    deferrable: bool = False
    valid: bool = True
    enforced: bool = True
    using_index: str = ""
    references: Name | None = None
    match_full: bool = False
    on_delete: str = ""


class Column(NamedTuple):
    name: str
    type: Name
    not_null: bool
    default: Tokens | None
    generated: str  # "", identity, expression
    stored: bool
    expression: Tokens  # of a generated column
    constraints: tuple[Constraint, ...]
    start: int
    end: int


class Query(NamedTuple):
    """A view's query as far as it can be read: one table without conditions is what PostgreSQL updates through a view."""

    source: Name | None  # the only table of a plain SELECT ... FROM table, else None
    columns: (
        dict[str, str] | None
    )  # output name -> column of the source ("" for expressions); None for unknown
    everything: bool  # SELECT *
    plain: bool  # no WHERE, JOIN, GROUP BY, DISTINCT, LIMIT, set operation, WITH


class Transaction(NamedTuple):
    start: int
    end: int
    verb: str  # begin, commit, rollback, savepoint, rollback to, release
    name: str = ""
    chain: bool = False


class Setting(NamedTuple):
    start: int
    end: int
    name: str
    values: tuple[str, ...]  # () for RESET and TO DEFAULT
    local: bool


class CreateTable(NamedTuple):
    start: int
    end: int
    kind: str
    name: Name
    temporary: bool
    if_not_exists: bool
    definition: Tokens  # between the parentheses
    complete: bool  # and that is all there is to it
    parent: Name | None  # PARTITION OF, OF
    drops_on_commit: bool


class CreateView(NamedTuple):
    start: int
    end: int
    kind: str
    name: Name
    temporary: bool
    replace: bool
    if_not_exists: bool
    query: Query
    options: frozenset[str]
    populated: bool


class CreateIndex(NamedTuple):
    start: int
    end: int
    name: str
    table: Name
    unique: bool
    concurrently: bool
    if_not_exists: bool
    elements: tuple[Tokens, ...]
    predicate: Tokens
    nulls_distinct: bool


class CreateFunction(NamedTuple):
    start: int
    end: int
    kind: str
    name: Name
    replace: bool
    arguments: tuple[Argument, ...]
    returns: str
    definer: bool
    statement: Statement


class CreateTrigger(NamedTuple):
    start: int
    end: int
    name: str
    table: Name
    function: Name
    timing: str
    events: tuple[str, ...]
    each_row: bool
    columns: tuple[str, ...]  # of UPDATE OF, when UPDATE is the only event
    condition: Tokens


class Policy(NamedTuple):
    """CREATE or ALTER POLICY."""

    start: int
    end: int
    alter: bool
    name: str
    table: Name
    permissive: bool
    command: str
    roles: tuple[str, ...]
    using: Tokens
    check: Tokens
    new_name: str = ""


class CreateType(NamedTuple):
    start: int
    end: int
    name: Name
    labels: tuple[str, ...] | None


class AddValue(NamedTuple):
    """ALTER TYPE ... ADD VALUE."""

    start: int
    end: int
    name: Name
    label: str
    if_not_exists: bool


class CreateDomain(NamedTuple):
    start: int
    end: int
    name: Name
    base: Name
    not_null: bool
    default: Tokens | None
    checks: tuple[Tokens, ...]


class CreateObject(NamedTuple):
    """CREATE of a kind that only its name matters of: schema, sequence, extension, cast, rule, role, ..."""

    start: int
    end: int
    kind: str
    name: Name
    on: Name | None
    certain: bool  # False for IF NOT EXISTS and OR REPLACE


class Drop(NamedTuple):
    start: int
    end: int
    kind: str
    name: Name
    arguments: tuple[Argument, ...] | None  # of a function, when written
    on: Name | None  # the table of a trigger, rule or policy
    cascade: bool
    concurrently: bool
    routine: str = ""  # function, procedure, aggregate or routine


class Rename(NamedTuple):
    start: int
    end: int
    kind: str
    name: Name
    new: str
    arguments: tuple[Argument, ...] | None = None


class Move(NamedTuple):
    """SET SCHEMA."""

    start: int
    end: int
    kind: str
    name: Name
    schema: str
    arguments: tuple[Argument, ...] | None = None


class RenamePart(NamedTuple):
    start: int
    end: int
    kind: str  # of the object
    name: Name
    part: str  # column, attribute, constraint, value
    old: str
    new: str


class AddColumn(NamedTuple):
    start: int
    end: int
    table: Name
    column: Column
    if_not_exists: bool
    definition: Tokens  # as in CREATE TABLE, with a comma


class DropColumn(NamedTuple):
    start: int
    end: int
    table: Name
    column: str


class AlterColumn(NamedTuple):
    start: int
    end: int
    table: Name
    column: str
    what: str  # type, default, not null, nullable, add identity, set identity, drop identity, drop expression, set expression
    expression: Tokens = ()
    always: bool = False
    restart: bool = False  # the sequence is told where to start


class AddConstraint(NamedTuple):
    start: int
    end: int
    table: Name
    constraint: Constraint
    definition: Tokens  # as in CREATE TABLE, with a comma


class DropConstraint(NamedTuple):
    start: int
    end: int
    table: Name
    name: str


class ChangeTable(NamedTuple):
    """A sub-command of ALTER TABLE that needs no more than its words: owner, row security, triggers, storage."""

    start: int
    end: int
    kind: str
    table: Name
    what: str
    detail: str = ""


class Attach(NamedTuple):
    """ATTACH/DETACH PARTITION (child of parent) and INHERIT/NO INHERIT."""

    start: int
    end: int
    parent: Name
    child: Name
    attach: bool
    partition: bool


class Locks(NamedTuple):
    """The statement takes an ACCESS EXCLUSIVE lock on the table."""

    start: int
    end: int
    table: Name


class Change(NamedTuple):
    """A change that breaks the old binary when the object is old; `part` names what of it, and pairs changes that heal."""

    start: int
    end: int
    rule: str
    kind: str
    name: Name
    part: str = ""
    detail: str = ""
    heals: bool = False


class Rows(NamedTuple):
    """TRUNCATE, or DELETE without a condition."""

    start: int
    end: int
    table: Name
    verb: str


class Refresh(NamedTuple):
    start: int
    end: int
    name: Name
    populated: bool


class Heavy(NamedTuple):
    """REINDEX, CLUSTER, VACUUM FULL, LOCK TABLE."""

    start: int
    end: int
    rule: str
    what: str
    table: Name | None


class Privileges(NamedTuple):
    start: int
    end: int
    grant: bool
    privileges: frozenset[str]  # empty for ALL; SELECT (email) is that of one column
    kind: str
    objects: tuple[tuple[Name, tuple[Argument, ...] | None], ...]
    in_schemas: tuple[str, ...]
    roles: tuple[str, ...]
    cascade: bool


class Membership(NamedTuple):
    start: int
    end: int
    grant: bool
    roles: tuple[str, ...]
    members: tuple[str, ...]


class RoleChange(NamedTuple):
    """ALTER ROLE and ALTER DATABASE: an option, or a setting that every session starts with."""

    start: int
    end: int
    kind: str
    name: str
    what: str
    value: str = ""


class Unbounded(NamedTuple):
    """A statement that cannot run in a transaction block (CONCURRENTLY, VACUUM, CREATE DATABASE, ...)."""

    start: int
    end: int
    what: str


class Calls(NamedTuple):
    """Functions that a query calls."""

    start: int
    end: int
    functions: tuple[Name, ...]
    sequences: tuple[str, ...] = ()  # what names the sequence of a setval(): its strings


class Do(NamedTuple):
    start: int
    end: int
    statement: Statement


class Prepare(NamedTuple):
    start: int
    end: int
    name: str
    statement: Statement


class Execute(NamedTuple):
    start: int
    end: int
    name: str


class Catalogue(NamedTuple):
    """A write to PostgreSQL's own catalogue."""

    start: int
    end: int
    table: Name


class Unknown(NamedTuple):
    """An ALTER or DROP that this module cannot read, or a psql command: nobody can vouch for it."""

    start: int
    end: int
    what: str
    table: Name | None = None
    dynamic: bool = False


Action = (
    Transaction | Setting | CreateTable | CreateView | CreateIndex | CreateFunction | CreateTrigger
    | Policy | CreateType | AddValue | CreateDomain | CreateObject | Drop | Rename | Move | RenamePart | AddColumn
    | DropColumn | AlterColumn | AddConstraint | DropConstraint | ChangeTable | Attach | Locks | Change
    | Rows | Refresh | Heavy | Privileges | Membership | RoleChange | Unbounded | Calls | Do | Prepare
    | Execute | Catalogue | Unknown
)  # fmt: skip
