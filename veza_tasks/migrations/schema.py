"""What is known of the schema while migrations run: which names the old binary knows, and what they stand for by now.

A name that nothing here has heard of is old: it was there before, and the running binary may use it. Everything that
changes is written through `put`, so that ROLLBACK and ROLLBACK TO SAVEPOINT can undo it in linear time.
"""

from collections.abc import Hashable
from typing import Any, NamedTuple

from veza_tasks.migrations.actions import Argument, Constraint, CreateTrigger, Name, Query, Tokens
from veza_tasks.migrations.columns import elements_of
from veza_tasks.migrations.conditions import ANY, Value, columns_in
from veza_tasks.migrations.dynamic import is_placeholder
from veza_tasks.migrations.lexer import Statement

TEMPORARY = "pg_temp"
DEFAULT_PATH = ("public",)

Key = Hashable


class Unique(NamedTuple):
    """A unique index or constraint: the texts of what it covers, and of its predicate."""

    table: Key
    name: str
    unique: bool
    elements: frozenset[str]
    predicate: str
    constraint: bool
    old: bool  # it restricted the old binary before this set of migrations
    live: bool
    on_old: bool = False  # the table is old


class Relation(NamedTuple):
    """A table, view, sequence or index. `home` is the name by which the old binary knows it."""

    key: Key
    home: Name
    old: bool
    kind: str = ""
    known: bool = False  # all of its columns and constraints were seen
    unique: Unique | None = None
    on_commit_drop: bool = False
    definition: Tokens = ()  # of a new table
    query: Query | None = None  # of a view that was made here


class Column(NamedTuple):
    """`was`: its name for the old binary. `value`: what a row has that the old binary writes without knowing the column."""

    old: bool
    was: str
    not_null: bool = False
    default: bool | None = None  # None: not known
    value: Value = ANY
    maybe_new: bool = False  # ADD COLUMN IF NOT EXISTS
    type: str = ""  # "" if it is not known


class Rule(NamedTuple):
    """A constraint that was seen: of the history or of this set."""

    kind: str
    old: bool
    columns: tuple[str, ...] = ()
    expression: Tokens = ()
    references: Name | None = None
    on_delete: str = ""


class Function(NamedTuple):
    kind: str  # function, procedure, aggregate
    old: bool
    arguments: tuple[Argument, ...]
    returns: str
    statement: Statement
    source: int
    definer: bool


class Type(NamedTuple):
    old: bool
    not_null: bool = False
    default: bool = False
    labels: tuple[str, ...] | None = None
    added: frozenset[str] = frozenset()  # labels that the old binary does not know


class PolicyFact(NamedTuple):
    old: bool
    permissive: bool
    command: str
    lets_all_through: bool
    text: tuple[str, ...]
    unsure: bool = False  # it would, if the running binary were one of its roles


_MISSING = object()
_IMPLICIT = ("_seq", "_pkey", "_key", "_excl")
SERIAL = frozenset(["serial", "bigserial", "smallserial"])


def default_name(table: str, constraint: Constraint) -> str:
    """The name that PostgreSQL gives to a constraint without one."""
    if constraint.kind == "primary key":
        return f"{table}_pkey"
    columns = constraint.columns
    if constraint.kind == "check" and not columns:
        named = list(dict.fromkeys(columns_in(constraint.expression)))
        columns = tuple(named) if len(named) == 1 else ()
    return "_".join([table, *columns, _SUFFIXES[constraint.kind]])


_SUFFIXES = {
    "unique": "key",
    "foreign key": "fkey",
    "check": "check",
    "exclude": "excl",
    "not null": "not_null",
}


def implicit_names(table: str, definition: Tokens) -> set[str]:
    """The sequences and indexes that CREATE TABLE makes beside."""
    columns, constraints, _ = elements_of(definition)
    keys = [*constraints, *(constraint for column in columns for constraint in column.constraints)]
    names = {
        key.name or default_name(table, key)
        for key in keys
        if key.kind in ("primary key", "unique", "exclude")
    }
    serial = (
        column.name for column in columns if column.type.name in SERIAL or column.generated == "identity"
    )
    return names | {f"{table}_{column}_seq" for column in serial}


class Schema:
    """The facts, each in a dictionary of its own, and the way back."""

    __slots__ = (
        "attached", "behind", "columns", "constraints", "counts", "functions", "grants", "groups",
        "groups_pending", "keys_before", "log", "next_key", "objects", "path", "pending", "policies",
        "prepared", "relations", "roles", "rules_before", "security", "temporary", "triggers", "triggers_of", "types",
        "uniques", "unstarted", "unvalidated",
    )  # fmt: skip

    def __init__(self) -> None:
        self.relations: dict[Name, Relation | None] = {}  # None: the name stands for nothing by now
        self.behind: dict[Key, Name] = {}  # a renamed table, and the view of its old name
        self.columns: dict[tuple[Key, str], Column | None] = {}
        self.constraints: dict[
            Key, dict[str, tuple[Rule | None, bool]]
        ] = {}  # what is known, and whether it is there
        self.rules_before: dict[Key, tuple[Rule, ...]] = {}  # constraints that the old binary lived with
        self.keys_before: dict[Key, tuple[Unique, ...]] = {}
        self.uniques: dict[Key, tuple[Unique, ...]] = {}
        self.functions: dict[Name, tuple[Function, ...]] = {}
        self.temporary: dict[Name, None] = {}
        self.types: dict[Name, Type | None] = {}
        self.objects: dict[tuple[str, Name], bool | None] = {}  # True: old, False: new, None: gone
        self.roles: dict[str, bool] = {}  # new ones
        self.groups: dict[str, frozenset[str]] = {}
        self.grants: dict[tuple[Key, str], bool] = {}
        self.policies: dict[Key, dict[str, PolicyFact]] = {}
        self.security: dict[Key, Any] = {}
        self.triggers: dict[tuple[Key, str], bool] = {}
        self.triggers_of: dict[Name, tuple[CreateTrigger, ...]] = {}  # the old ones, by function
        self.attached: dict[tuple[Key, Key], bool] = {}
        self.prepared: dict[str, Statement] = {}
        self.unvalidated: dict[tuple[Key, str], bool] = {}  # constraints added NOT VALID in this transaction
        self.unstarted: dict[
            str, Any
        ] = {}  # new identity sequences that start at 1, and the finding about it
        self.pending: dict[Key, Any] = {}
        self.groups_pending: dict[Key, dict[Key, None]] = {}  # the same keys, by what they are about
        self.path: dict[str, tuple[str, ...]] = {}
        self.log: list[tuple[dict[Any, Any], Any, Any]] = []
        self.next_key = 0
        self.counts: dict[tuple[Key, str], int] = {}

    def put(self, facts: dict[Any, Any], key: Any, value: Any) -> None:
        self.log.append((facts, key, facts.get(key, _MISSING)))
        facts[key] = value

    def remove(self, facts: dict[Any, Any], key: Any) -> Any:
        """Forgets a fact, and returns it; None if there is none."""
        if key not in facts:
            return None
        value = facts.pop(key)
        self.log.append((facts, key, value))
        return value

    def undo(self, mark: int) -> None:
        """Back to when the log was `mark` long."""
        log = self.log
        while len(log) > mark:
            facts, key, value = log.pop()
            if value is _MISSING:
                facts.pop(key, None)
            else:
                facts[key] = value

    def new_key(self) -> Key:
        self.next_key += 1
        return self.next_key

    def constraints_of(self, table: Key) -> dict[str, tuple[Rule | None, bool]]:
        return self.constraints.setdefault(table, {})

    # Names

    def search_path(self) -> tuple[str, ...]:
        if not self.path:
            return DEFAULT_PATH
        return self.path.get("local") or self.path.get("session") or DEFAULT_PATH

    def to_create(self, name: Name, *, temporary: bool = False) -> Name:
        """The name of what CREATE makes."""
        if temporary:
            made = Name(TEMPORARY, name.name)
            self.temporary[made] = None
            return made
        return name if name.schema else Name(self.search_path()[0], name.name)

    def resolve(self, name: Name, facts: dict[Name, Any]) -> Name:
        """The qualified name that PostgreSQL would find among these facts."""
        if name.schema:
            return name
        if self.temporary and facts.get(found := Name(TEMPORARY, name.name)) is not None:
            return found
        path = self.search_path()
        if len(path) > 1:
            for schema in path:
                if facts.get(found := Name(schema, name.name)) is not None:
                    return found
        return Name(path[0], name.name)

    def is_new_schema(self, schema: str) -> bool:
        if schema == TEMPORARY or not self.objects:
            return schema == TEMPORARY
        return not is_placeholder(schema) and self.objects.get(("schema", Name("", schema))) is False

    def relation(self, name: Name) -> Relation | None:
        """What the name stands for; an old, unknown one if nothing was heard of it; None if it is gone."""
        found = self.resolve(name, self.relations)
        if is_placeholder(name.name) or is_placeholder(name.schema):
            return Relation(found, found, True)
        if found in self.relations:
            return self.relations[found]
        if found.name.endswith(_IMPLICIT) and self.made_beside(found):
            return Relation(found, found, False)
        return Relation(found, found, not self.is_new_schema(found.schema))

    def made_beside(self, name: Name) -> bool:
        """Whether a new table brought this sequence or index along: its serial columns and keys do."""
        at = name.name.find("_")
        while at > 0:
            table = self.relations.get(Name(name.schema, name.name[:at]))
            if (
                table is not None
                and not table.old
                and name.name in implicit_names(name.name[:at], table.definition)
            ):
                return True
            at = name.name.find("_", at + 1)
        return False

    def column(self, relation: Relation, name: str) -> Column | None:
        """None if it is gone."""
        key = (relation.key, name)
        if key in self.columns:
            return self.columns[key]
        return Column(old=relation.old, was=name)

    def type(self, name: Name) -> Type | None:
        found = self.resolve(name, self.types)
        if is_placeholder(name.name) or is_placeholder(name.schema):
            return Type(True)
        if found in self.types:
            return self.types[found]
        return Type(not self.is_new_schema(found.schema))

    def forget_temporary(self, *, at_commit: bool) -> None:
        """ON COMMIT DROP, or the end of the session."""
        for name in list(self.temporary):
            relation = self.relations.get(name)
            if not at_commit or (relation is not None and relation.on_commit_drop):
                self.relations.pop(name, None)
                del self.temporary[name]

    def now_old(self) -> None:
        """Everything that was seen so far was there before: the end of the history."""
        for name, relation in self.relations.items():
            if relation is not None:
                unique = relation.unique._replace(old=True) if relation.unique else None
                self.relations[name] = relation._replace(old=True, home=name, unique=unique, query=None)
        for place, column in self.columns.items():
            if column is not None:
                value: Value = ANY
                self.columns[place] = column._replace(old=True, was=place[1], maybe_new=False, value=value)
        for key, rules in self.constraints.items():
            kept: dict[str, tuple[Rule | None, bool]] = {
                name: (rule._replace(old=True), True)
                for name, (rule, there) in rules.items()
                if rule and there
            }
            self.constraints[key] = kept
            self.rules_before[key] = tuple(rule for rule, _ in kept.values() if rule)
        self.uniques = {
            key: tuple(unique._replace(old=True) for unique in uniques if unique.live)
            for key, uniques in self.uniques.items()
        }
        self.keys_before = dict(self.uniques)
        self.functions = {
            name: tuple(function._replace(old=True) for function in functions)
            for name, functions in self.functions.items()
        }
        for type_name, kind in self.types.items():
            if kind is not None:
                self.types[type_name] = kind._replace(old=True, added=frozenset())
        self.objects = {key: True for key, old in self.objects.items() if old is not None}
        self.policies = {
            key: {name: policy._replace(old=True) for name, policy in policies.items()}
            for key, policies in self.policies.items()
        }
        self.security = dict.fromkeys(self.security)
        for facts in (
            self.behind,
            self.roles,
            self.triggers,
            self.attached,
            self.prepared,
            self.path,
            self.pending,
        ):
            facts.clear()
        self.relations = {name: relation for name, relation in self.relations.items() if relation is not None}
        self.columns = {place: column for place, column in self.columns.items() if column is not None}
        self.types = {type_name: kind for type_name, kind in self.types.items() if kind is not None}
        self.log.clear()
