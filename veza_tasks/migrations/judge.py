"""What the old binary meets at the end of each transaction of a set of migrations.

The statements of a release are carried out, in the tool's order, on what is known of the schema. A break that the same
transaction heals (drop and create again, rename and a view of the old name) is none; one that a later transaction heals
still was one; what is rolled back never happened. What was made in the set is unknown to the old binary: anything may be
done to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, Literal, NamedTuple

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, Tokens, spelled
from veza_tasks.migrations.columns import elements_of
from veza_tasks.migrations.conditions import (
    ANY,
    DISTINCT,
    SOME,
    Value,
    columns_in,
    implied,
    may_be_false,
    may_be_true,
    not_null_by,
    value_of,
)
from veza_tasks.migrations.dynamic import Unresolved, body_of, is_placeholder, raises, returns_null, run_by
from veza_tasks.migrations.failing import failing
from veza_tasks.migrations.grammar import actions
from veza_tasks.migrations.lexer import Statement, Token, Unreadable, statements
from veza_tasks.migrations.rules import RULES, message
from veza_tasks.migrations.schema import (
    SERIAL,
    Column,
    Function,
    Key,
    PolicyFact,
    Relation,
    Rule,
    Schema,
    Type,
    Unique,
    default_name,
    implicit_names,
)
from veza_tasks.migrations.tools import Part, deployed, in_order

Level = Literal["error", "warning"]


class Source(NamedTuple):
    """One migration file: its path decides on tool and order."""

    path: str
    text: str


class Finding(NamedTuple):
    """1-based line and column; the end column is exclusive. `offset` and `end` count characters from the file's start."""

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    rule: str
    level: Level
    message: str
    recipe: str
    offset: int
    end: int


class Options(NamedTuple):
    """`application_role`: the running binary's, so that what other roles lose does not matter. `levels`: by rule id."""

    tool: str = "auto"
    application_role: str = ""
    levels: Mapping[str, Literal["error", "warning", "off"]] = {}
    strict: bool = False


class CannotTell(Exception):
    """Nobody can vouch for a file that PostgreSQL itself could not read. Line and column are 1-based."""

    def __init__(self, path: str, line: int, column: int, what: str) -> None:
        super().__init__(f"{path}:{line}:{column}: {what}")
        self.path = path
        self.line = line
        self.column = column
        self.what = what


def lint(
    sources: Sequence[Source], *, options: Options | None = None, history: Sequence[Source] = ()
) -> list[Finding]:
    """What is wrong with the migrations of one release, in the order in which the tool runs them.

    `history`, the migrations that were applied before, only tells what the named things are; it is never found fault with.
    Raises CannotTell.
    """
    options = options or Options()
    judge = _Judge(options)
    if history:
        judge.learn(history)
    for source in _ordered(sources, options.tool):
        judge.file(source)
    return judge.findings()


def _ordered(sources: Sequence[Source], tool: str) -> Iterator[Source]:
    if len(sources) < 2:
        yield from sources
        return
    named: dict[str, list[Source]] = {}
    for source in sources:
        named.setdefault(source.path, []).append(source)
    for path in in_order(named, tool=tool):
        yield from named[path]


class _Pending(NamedTuple):
    """A finding, unless this transaction heals it or rolls it back. `about`: what is needed to see whether it does."""

    rule: str
    fields: dict[str, str]
    why: str
    source: int
    start: int
    end: int
    about: Any = None


class _MadeKey(NamedTuple):
    """A unique index that was made on an old table, and where its finding stands if there is one."""

    table: Relation
    finding: tuple[int, int, str]


_KEPT = 10_000
"""Statements that are kept for a restart; a longer file is read again."""


class _RestartError(Exception):
    """The part turns out not to be one transaction."""


# Rights that the statements of a binary need, by kind of object
_NEEDED = {
    "table": frozenset(["SELECT", "INSERT", "UPDATE", "DELETE"]),
    "sequence": frozenset(["USAGE", "SELECT", "UPDATE"]), "database": frozenset(["CONNECT", "TEMPORARY"]),
    "schema": frozenset(["USAGE"]), "function": frozenset(["EXECUTE"]), "type": frozenset(["USAGE"]),
    "language": frozenset(["USAGE"]), "server": frozenset(["USAGE"]),
    "large object": frozenset(["SELECT", "UPDATE"]),
}  # fmt: skip
_TABLES = frozenset(["table", "foreign table"])
_VIEWS = frozenset(["view", "materialized view"])
_RELATIONS = _TABLES | _VIEWS | {"sequence", "index"}
_HARMLESS_DROPS = frozenset(["statistics", "publication", "subscription", "event trigger", "tablespace"])


class _Judge:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.schema = Schema()
        self.sources: list[Source] = []
        self.source = 0
        self.learning = False
        self.found: dict[tuple[int, int, str], _Pending] = {}
        self.locking: list[_Pending] = []
        self.savepoints: list[tuple[str, int]] = []
        self.in_block = False
        self.whole_part = False  # one transaction because nothing says otherwise
        self.touched = False  # something ran in it
        self.lock_timeout: dict[str, bool] = {}
        self.ran: set[tuple[Name, int]] = set()
        self.running: list[tuple[Iterator[Statement | Unresolved], int]] = []
        self.trigger_dropped: set[str] = set()
        self.made_keys: dict[Key, _MadeKey] = {}

    # Files, parts and transactions

    def learn(self, history: Sequence[Source]) -> None:
        self.learning = True
        for source in _ordered(history, self.options.tool):
            try:
                self.file(source)
            except CannotTell:
                self.schema.undo(0)
        self.schema.now_old()
        self.learning = False

    def file(self, source: Source) -> None:
        self.sources.append(source)
        here = len(self.sources) - 1
        self.lock_timeout = {}
        self.locking = []
        for part in deployed(source.path, source.text, tool=self.options.tool):
            self.source = here
            try:
                self.part(part)
            except Unreadable as error:
                raise self.cannot_tell(error.offset, error.what) from error
        self.source = here
        self.schema.path.clear()
        self.schema.forget_temporary(at_commit=False)
        self.settle_lock_timeout(here)

    def part(self, part: Part) -> None:
        text = self.sources[self.source].text
        read = statements(text, start=part.start, end=part.end)
        kept: list[Statement] = []

        def keeping() -> Iterator[Statement]:
            for statement in read:
                if len(kept) <= _KEPT:
                    kept.append(statement)
                yield statement

        whole = part.transaction is None
        try:
            self.run(keeping() if whole else read, block=part.transaction is not False, whole=whole)
        except _RestartError:
            self.schema.undo(0)
            self.locking.clear()
            again = (
                chain(kept, read) if len(kept) <= _KEPT else statements(text, start=part.start, end=part.end)
            )
            self.run(again, block=False, whole=False)

    def run(self, read: Iterable[Statement], *, block: bool, whole: bool) -> None:
        self.in_block, self.whole_part, self.touched = block, whole, False
        self.savepoints.clear()
        self.running.clear()
        for statement in read:
            self.statement(statement)
            if not self.in_block:
                self.commit()
            self.touched = True
        self.commit()
        self.in_block = False

    def statement(self, statement: Statement) -> None:
        """Carries out a statement and all that it runs."""
        self.perform(statement)
        running = self.running
        while running:
            inner, source = running[-1]
            found = next(inner, None)
            if found is None:
                running.pop()
                continue
            again, self.source = self.source, source
            if isinstance(found, Unresolved):
                if not self.learning:
                    end = found.offset + 1
                    self.add(
                        ("unresolved", source, found.offset),
                        "unresolved-dynamic-sql",
                        found.offset,
                        end,
                        what=found.what,
                    )
            else:
                self.perform(found)
            self.source = again

    def perform(self, statement: Statement) -> None:
        for action in actions(statement):
            _HANDLERS[type(action)](self, action)

    def commit(self) -> None:
        schema = self.schema
        for pending in schema.pending.values():
            self.found.setdefault((pending.source, pending.start, pending.rule), pending)
        schema.pending.clear()
        schema.groups_pending.clear()
        schema.unvalidated.clear()
        schema.unstarted.clear()
        schema.log.clear()
        self.savepoints.clear()
        self.ran.clear()
        schema.path.pop("local", None)
        self.lock_timeout.pop("local", None)
        schema.forget_temporary(at_commit=True)

    def transaction(self, act: a.Transaction) -> None:
        schema = self.schema
        match act.verb:
            case "begin":
                if self.whole_part and self.touched:
                    raise _RestartError
                self.in_block, self.whole_part = True, False
            case "commit":
                self.commit()
                self.in_block, self.whole_part = act.chain, False
            case "rollback":
                schema.undo(0)
                self.savepoints.clear()
                self.in_block, self.whole_part = act.chain, False
            case "savepoint":
                self.savepoints.append((act.name, len(schema.log)))
            case "rollback to":
                for index in range(len(self.savepoints) - 1, -1, -1):
                    if self.savepoints[index][0] == act.name:
                        schema.undo(self.savepoints[index][1])
                        del self.savepoints[index + 1 :]
                        break
            case _:
                for index in range(len(self.savepoints) - 1, -1, -1):
                    if self.savepoints[index][0] == act.name:
                        del self.savepoints[index:]
                        break

    def unbounded(self, act: a.Unbounded) -> None:
        if self.whole_part:
            if self.touched:
                raise _RestartError
            self.in_block = self.whole_part = False
        elif self.in_block:
            self.warn("concurrently-in-transaction", act, what=act.what)

    def setting(self, act: a.Setting) -> None:
        if act.name == "search_path":
            scope = "local" if act.local else "session"
            path = tuple(schema for schema in act.values if schema and not schema.startswith(("$", "pg_")))
            self.schema.put(self.schema.path, scope, path)
            if scope == "session":
                self.schema.put(self.schema.path, "local", ())
        elif act.name == "lock_timeout":
            on = bool(act.values) and act.values[0].strip("0 ") not in ("", "ms", "s", "min")
            self.lock_timeout["local" if act.local else "session"] = on
        elif (
            act.name == "standard_conforming_strings"
            and act.values[:1] in (("off",), ("false",), ("0",))
            and not self.learning
        ):
            raise self.cannot_tell(
                act.start, "standard_conforming_strings = off: strings mean something else from here on"
            )

    # Findings

    def add(
        self,
        key: tuple[Key, ...],
        rule: str,
        start: int,
        end: int,
        *,
        about: Any = None,
        why: str = "",
        **fields: str,
    ) -> None:
        """A break, unless this transaction heals it: `heal` with the same key."""
        if self.learning or key in self.schema.pending:
            return
        schema = self.schema
        schema.put(schema.pending, key, _Pending(rule, fields, why, self.source, start, end, about))
        if key[0] in _GROUPED:
            schema.put(schema.groups_pending.setdefault(key[:2], {}), key, None)

    def warn(self, rule: str, act: Any, **fields: str) -> None:
        self.add(("warning", rule, self.source, act.start), rule, act.start, act.end, **fields)

    def heal(self, *key: Key) -> bool:
        if key not in self.schema.pending:
            return False
        self.schema.remove(self.schema.pending, key)
        if key[0] in _GROUPED:
            self.schema.remove(self.schema.groups_pending[key[:2]], key)
        return True

    def pending_about(self, what: str, identity: Key) -> list[tuple[Any, _Pending]]:
        """The findings of one kind about one table."""
        pending = self.schema.pending
        return [(key, pending[key]) for key in self.schema.groups_pending.get((what, identity), ())]

    def settle_lock_timeout(self, here: int) -> None:
        """One warning a file, at the first statement that is not refused anyway."""
        if not self.locking:
            return
        broken = [
            (pending.start, pending.end)
            for (source, _, rule), pending in self.found.items()
            if source == here and self.level(rule) == "error"
        ]
        for pending in self.locking:
            if not any(pending.start <= start < pending.end for start, _ in broken):
                self.found[here, pending.start, pending.rule] = pending
                return

    def level(self, rule: str) -> str:
        level = self.options.levels.get(rule, RULES[rule].level)
        return "error" if level == "warning" and self.options.strict else level

    def findings(self) -> list[Finding]:
        found = []
        lines: dict[int, list[int]] = {}
        for pending in sorted(self.found.values(), key=lambda p: (p.source, p.start, p.end, p.rule)):
            level = self.level(pending.rule)
            if level == "off":
                continue
            source = self.sources[pending.source]
            if pending.source not in lines:
                lines[pending.source] = _line_starts(source.text)
            starts = lines[pending.source]
            start = min(pending.start, len(source.text))
            end = max(start, min(pending.end, len(source.text)))
            line, column = _place(starts, start)
            end_line, end_column = _place(starts, end)
            why, recipe = message(pending.rule, pending.fields, pending.why)
            shown: Level = "error" if level == "error" else "warning"
            place = (source.path, line, column, end_line, end_column)
            found.append(Finding(*place, pending.rule, shown, why, recipe, start, end))
        return found

    def cannot_tell(self, offset: int, what: str) -> CannotTell:
        source = self.sources[self.source]
        line, column = _place(_line_starts(source.text), offset)
        return CannotTell(source.path, line, column, what)

    # Tables and views

    def create_table(self, act: a.CreateTable) -> None:
        schema = self.schema
        name = schema.to_create(act.name, temporary=act.temporary)
        if act.if_not_exists and schema.relations.get(name, self) is not None and not self.learning:
            return  # it may be there, and old, with other columns
        relation = Relation(
            schema.new_key(), name, False, act.kind, known=act.complete, on_commit_drop=act.drops_on_commit,
            definition=act.definition,
        )  # fmt: skip
        if self.learning:
            columns, constraints, like = elements_of(act.definition)
            relation = relation._replace(known=act.complete and like is None, definition=())
            schema.put(schema.relations, name, relation)
            for column in columns:
                self.learn_column(relation, column)
            for constraint in constraints:
                self.learn_constraint(relation, constraint)
        else:
            schema.put(schema.relations, name, relation)
            self.replaced(name)

    def replaced(self, name: Name) -> None:
        """Another table takes the name of one that was renamed: what was said of the latter was not the whole truth."""
        place = ("relation", name)
        pending = self.schema.pending.get(place)
        if pending is not None and pending.rule == "rename-table":
            self.schema.put(self.schema.pending, place, pending._replace(why=_TABLE_SWAPPED))

    def made_beside(self, table: Name, definition: Tokens) -> None:
        """The sequence and indexes that a new column or key of an old table brings along."""
        schema = self.schema
        for found in implicit_names(table.name, definition):
            name = Name(table.schema, found)
            schema.put(schema.relations, name, Relation(schema.new_key(), name, False))

    def create_view(self, act: a.CreateView) -> None:
        schema = self.schema
        name = schema.to_create(act.name, temporary=act.temporary)
        gone = name in schema.relations and schema.relations[name] is None
        if (act.replace or act.if_not_exists) and not gone and not self.learning and not act.temporary:
            relation = schema.relation(act.name)
            if relation is not None and relation.old and act.replace:
                for option in sorted(act.options):
                    self.change(
                        a.Change(act.start, act.end, "alter-view-options", "table", act.name, option, option)
                    )
            return
        key = schema.new_key()
        was = schema.pending.get(("relation", name))
        stands_in = self.stands_in(name, act, act.kind, act.query)
        relation = Relation(
            key, name, stands_in, act.kind, known=act.query.columns is not None, query=act.query
        )
        schema.put(schema.relations, name, relation)
        if self.learning:
            for column in act.query.columns or ():
                schema.put(schema.columns, (key, column), Column(True, column))
        if stands_in:
            if not act.populated:
                self.add(("nodata", key), "view-without-data", act.start, act.end, name=str(act.name))
            if was is not None and was.rule == "rename-table" and was.about.kind not in _VIEWS:
                return  # the rights on the table, and its rows, are as they were
            for option in sorted(act.options):
                self.change(
                    a.Change(act.start, act.end, "alter-view-options", "table", act.name, option, option)
                )

    def stands_in(self, name: Name, act: Any, kind: str, query: a.Query) -> bool:
        """Whether the view takes the place of what the old binary knows by this name; heals if it does."""
        schema = self.schema
        pending = schema.pending.get(("relation", name))
        if pending is None:
            return False
        lost: Relation = pending.about
        if pending.rule == "drop-view" or lost.kind in _VIEWS:
            if lost.known and query.columns is not None and not query.everything:
                before = {
                    column
                    for (key, column), fact in schema.columns.items()
                    if key == lost.key and fact is not None
                }
                if not before <= query.columns.keys():
                    missing = ", ".join(spelled(column) for column in sorted(before - query.columns.keys()))
                    schema.put(
                        schema.pending, ("relation", name),
                        pending._replace(why=_COLUMN_LOST + _braced(missing)),
                    )  # fmt: skip
                    return False
            if kind == "materialized view" and lost.kind == "view" and query.plain:
                return False
            self.heal("relation", name)
            self.add(("grants", str(name)), "grants-lost", act.start, act.end, name=spelled(name.name))
            return True
        if pending.rule != "rename-table" or kind != "view" or not query.plain or query.source is None:
            return False
        if lost.kind in ("sequence", "index"):
            return False
        source = schema.relation(query.source)
        if source is None or source.key != lost.key:
            return False
        if not query.everything:
            columns = query.columns or {}
            if lost.known:
                facts = [
                    fact
                    for (key, _), fact in schema.columns.items()
                    if key == lost.key and fact is not None and fact.old
                ]
                if not {fact.was for fact in facts} <= columns.keys():
                    return False
            for output, column in columns.items():
                fact = schema.column(source, column)
                if fact is not None and fact.old and fact.was == output:
                    self.heal("column", lost.key, output)
        self.heal("relation", name)
        schema.put(schema.behind, lost.key, name)
        return True

    def drop(self, act: a.Drop) -> None:
        kind = act.kind
        if kind in _RELATIONS:
            self.drop_relation(act)
        elif kind == "function":
            self.drop_function(act)
        elif kind in ("type", "domain"):
            self.drop_type(act)
        elif kind == "trigger":
            self.drop_trigger(act)
        elif kind == "policy":
            self.drop_policy(act)
        elif kind == "rule":
            relation = self.schema.relation(act.on) if act.on else None
            if relation is not None and relation.old and not self.heal("rule", relation.key, act.name.name):
                self.add(("rule gone", relation.key, act.name.name), "drop-rule", act.start, act.end,
                         table=str(act.on), name=str(act.name))  # fmt: skip
        elif kind not in _HARMLESS_DROPS:
            self.drop_object(act)

    def drop_object(self, act: a.Drop) -> None:
        schema, kind = self.schema, act.kind
        if kind in ("role", "owned"):
            if self.matters(act.name.name) and not schema.roles.get(act.name.name):
                self.add(("role", act.name.name, kind), "drop-role", act.start, act.end, name=str(act.name))
            schema.put(schema.roles, act.name.name, False)
            return
        name = act.name if kind in _UNQUALIFIED else schema.to_create(act.name)
        if schema.objects.get((kind, name)) is False or schema.is_new_schema(name.schema):
            schema.put(schema.objects, (kind, name), None)
            return
        rule = {"schema": "drop-schema", "extension": "drop-extension", "database": "drop-database"}.get(
            kind, "drop-object"
        )
        again = kind not in ("schema", "database") and not act.cascade
        self.add(("object", kind, name, again), rule, act.start, act.end, kind=kind, name=str(act.name))
        schema.put(schema.objects, (kind, name), None)

    def create_object(self, act: a.CreateObject) -> None:
        schema, kind = self.schema, act.kind
        if kind == "sequence":
            name = schema.to_create(act.name)
            if act.certain or name in schema.relations:
                schema.put(schema.relations, name, Relation(schema.new_key(), name, False, "sequence"))
        elif kind == "role":
            schema.put(schema.roles, act.name.name, True)
        elif kind == "rule":
            relation = schema.relation(act.on) if act.on else None
            if (
                relation is not None
                and relation.old
                and not self.heal("rule gone", relation.key, act.name.name)
            ):
                self.add(("rule", relation.key, act.name.name), "create-rule", act.start, act.end,
                         table=str(act.on), name=str(act.name))  # fmt: skip
        else:
            name = act.name if kind in _UNQUALIFIED else schema.to_create(act.name)
            if self.heal("object", kind, name, True):
                schema.put(schema.objects, (kind, name), True)
            elif act.certain and not (kind == "schema" and name.name == "public"):
                schema.put(schema.objects, (kind, name), False)

    def drop_relation(self, act: a.Drop) -> None:
        schema = self.schema
        name = schema.resolve(act.name, schema.relations)
        relation = schema.relation(act.name)
        if relation is None:
            return
        schema.put(schema.relations, name, None)
        for hidden in [key for key, view in schema.behind.items() if view == name]:
            schema.remove(schema.behind, hidden)
        kind = relation.kind or act.kind
        if kind == "index":
            self.drop_index(act, name, relation)
        elif relation.old:
            rule = (
                "drop-view"
                if act.kind in _VIEWS
                else "drop-sequence"
                if act.kind == "sequence"
                else "drop-table"
            )
            key = ("relation", relation.home) if act.kind in _VIEWS else ("dropped", relation.home)
            self.add(
                key,
                rule,
                act.start,
                act.end,
                about=relation,
                table=str(act.name),
                name=str(act.name),
                kind=act.kind,
            )
            if act.kind in _TABLES:
                self.lock(act, act.name)

    def rename(self, act: a.Rename) -> None:
        schema = self.schema
        if act.kind in _RELATIONS:
            self.rename_relation(act, Name("", act.new))
        elif act.kind == "function":
            self.rename_function(act, act.new, act.new)
        elif act.kind in ("type", "domain"):
            name = schema.resolve(act.name, schema.types)
            self.rename_type(act, name, Name(name.schema, act.new), spelled(act.new))
        else:
            self.rename_object(act, act.name._replace(name=act.new), spelled(act.new))

    def move(self, act: a.Move) -> None:
        schema = self.schema
        if act.kind in _RELATIONS:
            self.rename_relation(act, Name(act.schema, ""))
        elif act.kind == "function":
            self.rename_function(act, "", act.schema)
        elif act.kind in ("type", "domain"):
            name = schema.resolve(act.name, schema.types)
            self.rename_type(act, name, Name(act.schema, name.name), str(Name(act.schema, name.name)))
        else:
            new = Name(act.schema, act.name.name)
            self.rename_object(act, new, str(new))

    def rename_object(self, act: a.Rename | a.Move, new: Name, shown: str) -> None:
        schema, kind = self.schema, act.kind
        if kind == "role":
            if (
                not schema.roles.get(act.name.name)
                and self.matters(act.name.name)
                and not self.heal("named", kind, new)
            ):
                self.add(
                    ("named", kind, act.name),
                    "rename-object",
                    act.start,
                    act.end,
                    kind=kind,
                    name=str(act.name),
                    new=shown,
                )
            return
        if schema.objects.get((kind, act.name)) is False:
            schema.put(schema.objects, (kind, act.name), None)
            schema.put(schema.objects, (kind, new), False)
            return
        if kind not in _NEVER_NAMED and not self.heal("named", kind, new):
            self.add(
                ("named", kind, act.name),
                "rename-object",
                act.start,
                act.end,
                kind=kind,
                name=str(act.name),
                new=shown,
            )

    def rename_relation(self, act: a.Rename | a.Move, new: Name) -> None:
        """RENAME TO and SET SCHEMA: `new` has what changes."""
        schema = self.schema
        name = schema.resolve(act.name, schema.relations)
        relation = schema.relation(act.name)
        if relation is None:
            return
        new = Name(new.schema or name.schema, new.name or name.name)
        schema.put(schema.relations, name, None)
        if (
            relation.query is not None
            and not relation.old
            and self.stands_in(new, act, relation.kind, relation.query)
        ):
            relation = relation._replace(old=True, home=new)
            schema.put(schema.relations, new, relation)
            return
        schema.put(schema.relations, new, relation)
        if not relation.old:
            self.replaced(new)
            unique = relation.unique
            if unique is not None and relation.key in self.made_keys:
                table = self.made_keys[relation.key].table
                if self.heal_lost_key(
                    table, new.name, tuple(unique.elements), unique.predicate, None, certain=True
                ):
                    self.restricts_nothing(relation.key)
            return
        kind = relation.kind or act.kind
        if kind == "index":
            if isinstance(act, a.Move):
                return
            unique = relation.unique
            relied = unique.constraint if unique else _may_be_key(name.name, index=True)
            if relied and not self.heal("index name", new):
                self.add(("index name", name), "rename-constraint", act.start, act.end, table="its table", name=str(act.name),
                         new=spelled(new.name))  # fmt: skip
            return
        if new != relation.home:
            self.replaced(new)
        if new == relation.home:
            self.heal("relation", relation.home)
        elif name == relation.home:
            shown = spelled(new.name) if isinstance(act, a.Rename) else str(new)
            about = relation if relation.kind else relation._replace(kind=act.kind)
            self.add(
                ("relation", relation.home),
                "rename-table",
                act.start,
                act.end,
                about=about,
                table=str(act.name),
                name=str(act.name),
                kind=kind,
                new=shown,
            )

    # Columns

    def learn_column(self, relation: Relation, column: a.Column) -> None:
        schema = self.schema
        schema.put(schema.columns, (relation.key, column.name), self.new_column(column))
        for constraint in column.constraints:
            self.learn_constraint(relation, constraint)

    def new_column(self, column: a.Column) -> Column:
        """The fact of a column that is made here, before its constraints."""
        kind = self.schema.type(column.type)
        value: Value = None
        if column.generated == "expression":
            value = ANY
        elif column.generated == "identity" or column.type.name in SERIAL:
            value = DISTINCT
        elif column.default is not None:
            value = value_of(column.default)
        elif kind is not None and kind.default:
            value = SOME
        not_null = column.not_null or column.type.name in SERIAL
        not_null = not_null or (kind is not None and kind.not_null)
        not_null = not_null or any(constraint.kind == "primary key" for constraint in column.constraints)
        return Column(False, column.name, not_null, value is not None, value, type=str(column.type))

    def add_column(self, act: a.AddColumn) -> None:
        schema, column = self.schema, act.column
        relation = schema.relation(act.table)
        if relation is None:
            return
        if self.learning:
            self.learn_column(relation, column)
            return
        home = schema.resolve(act.table, schema.relations)
        serial = column.type.name in SERIAL or column.generated == "identity"
        if serial or any(constraint.kind in _KEYS_OF_COLUMNS for constraint in column.constraints):
            if not relation.old:
                schema.put(
                    schema.relations,
                    home,
                    relation._replace(definition=(*relation.definition, *act.definition)),
                )
            elif not act.if_not_exists:
                self.made_beside(home, act.definition)
        if not relation.old:
            return
        fact = self.new_column(column)
        if act.if_not_exists:
            fact = fact._replace(old=True, maybe_new=True)
        schema.put(schema.columns, (relation.key, column.name), fact)
        if self.required(act, relation, column.name, "add-required-column", act.table):
            return
        before = len(schema.pending)
        if column.generated == "expression" and column.stored:
            what = f"the column {spelled(column.name)}"
            self.expression(act, relation, ("failing", relation.key, column.name), column.expression, what)
        checked_at_once = False
        for constraint in column.constraints:
            self.constrain(relation, act.table, constraint, act.start, act.end)
            checked_at_once = checked_at_once or (
                constraint.kind in ("check", "foreign key") and constraint.valid
            )
        if len(schema.pending) > before:
            return
        volatile = (
            column.generated == "identity"
            or column.type.name in SERIAL
            or (column.generated and column.stored)
        )
        if volatile or (column.default is not None and _is_volatile(column.default)):
            self.warn(
                "table-rewrite", act, table=str(act.table), what=f"the new column {spelled(column.name)}"
            )

    def expression(
        self, act: a.AddColumn | a.CreateIndex, relation: Relation, key: tuple[Key, ...], tokens: Tokens, what: str,
        *, predicate: Tokens = (),
    ) -> bool:  # fmt: skip
        """Whether an expression that every write to an old table computes fails for values that were valid."""

        def old(name: str) -> str | None:
            fact = self.schema.column(relation, name)
            return fact.type if fact is not None and fact.old else None

        failure = failing(tokens, old, guard=predicate)
        if not failure:
            return False
        self.add(
            key,
            "failing-expression",
            act.start,
            act.end,
            table=str(act.table),
            what=what,
            part=_text(failure).replace(" :: ", "::"),
        )
        return True

    def required(self, act: Any, relation: Relation, column: str, rule: str, table: Name) -> bool:
        """Whether old INSERTs fail for want of a value; keeps the finding in step with the column."""
        fact = self.schema.column(relation, column)
        key = ("required", relation.key, column)
        if fact is None or (fact.old and not fact.maybe_new) or not fact.not_null or fact.default:
            self.heal(*key)
            return False
        self.add(key, rule, act.start, act.end, table=str(table), column=spelled(column))
        return True

    def drop_column(self, act: a.DropColumn) -> None:
        schema = self.schema
        relation = schema.relation(act.table)
        if relation is None:
            return
        fact = schema.column(relation, act.column)
        if fact is None:
            return
        schema.put(schema.columns, (relation.key, act.column), None)
        if relation.old and fact.old:
            self.add(("dropped column", relation.key, fact.was), "drop-column", act.start, act.end,
                     table=str(act.table), column=spelled(act.column))  # fmt: skip
        else:
            self.heal("required", relation.key, act.column)
            self.heal("failing", relation.key, act.column)
            self.heal_keys_over(relation, act.column)

    def heal_keys_over(self, relation: Relation, column: str) -> None:
        """A dropped column takes its constraints along."""
        for key, pending in self.pending_about("constraint", relation.key):
            if column in (pending.about or ()):
                self.heal(*key)

    def rename_part(self, act: a.RenamePart) -> None:
        schema = self.schema
        if act.part == "value":
            self.rename_value(act)
            return
        if act.part == "attribute" or act.kind == "type":
            self.change(a.Change(act.start, act.end, "alter-attribute", "type", act.name, act.old))
            return
        relation = schema.relation(act.name)
        if relation is None or (not relation.old and not self.learning):
            return
        if act.part == "constraint":
            self.rename_constraint(act, relation)
            return
        fact = schema.column(relation, act.old)
        if fact is None:
            return
        schema.put(schema.columns, (relation.key, act.old), None)
        schema.put(schema.columns, (relation.key, act.new), fact)
        if not fact.old:
            self.heal("required", relation.key, act.old)
            self.required(act, relation, act.new, "add-required-column", act.name)
        elif act.new == fact.was:
            self.heal("column", relation.key, fact.was)
        elif act.old == fact.was and relation.key not in schema.behind:
            self.add(("column", relation.key, fact.was), "rename-column", act.start, act.end,
                     table=str(act.name), column=spelled(act.old), new=spelled(act.new))  # fmt: skip

    def rename_value(self, act: a.RenamePart) -> None:
        schema = self.schema
        name, kind = schema.resolve(act.name, schema.types), schema.type(act.name)
        if kind is None or not kind.old:
            return
        if act.old in kind.added:
            schema.put(schema.types, name, kind._replace(added=kind.added - {act.old} | {act.new}))
        elif not self.heal("value", name, act.new):
            self.add(("value", name, act.old), "rename-enum-value", act.start, act.end,
                     name=str(act.name), old=_quoted(act.old), new=_quoted(act.new))  # fmt: skip

    def add_value(self, act: a.AddValue) -> None:
        schema = self.schema
        kind = schema.type(act.name)
        if kind is None:
            return
        if self.learning:
            kind = kind._replace(labels=None if kind.labels is None else (*kind.labels, act.label))
        elif not act.if_not_exists:
            kind = kind._replace(added=kind.added | {act.label})
        schema.put(schema.types, schema.resolve(act.name, schema.types), kind)

    def alter_column(self, act: a.AlterColumn) -> None:
        schema = self.schema
        relation = schema.relation(act.table)
        if relation is None or (not relation.old and not self.learning):
            return
        fact = schema.column(relation, act.column)
        if fact is None:
            return
        place = (relation.key, act.column)
        names = {"table": str(act.table), "column": spelled(act.column)}
        old = fact.old
        match act.what:
            case "type":
                if old:
                    shown = " ".join(token.text for token in act.expression) or "the other type"
                    shown = shown.replace(" (", "(").replace("( ", "(").replace(" )", ")").replace(" ,", ",")
                    self.add(
                        ("type", relation.key, fact.was),
                        "alter-column-type",
                        act.start,
                        act.end,
                        **names,
                        type=shown,
                    )
            case "default":
                value = value_of(act.expression) if act.expression else None
                there = value is not None
                schema.put(
                    schema.columns, place, fact._replace(default=there, value=fact.value if old else value)
                )
                if there:
                    self.heal("default", relation.key, fact.was)
                    self.heal("required", relation.key, act.column)
                elif not old:
                    self.required(act, relation, act.column, "drop-default", act.table)
                elif fact.default is not False:
                    self.add(("default", relation.key, fact.was), "drop-default", act.start, act.end, **names)
            case "not null":
                schema.put(schema.columns, place, fact._replace(not_null=True))
                if not old:
                    self.required(act, relation, act.column, "set-not-null", act.table)
                elif not fact.not_null:
                    self.add(
                        ("not null", relation.key, fact.was), "set-not-null", act.start, act.end, **names
                    )
            case "nullable":
                undone = self.heal("not null", relation.key, fact.was)
                was = old and not undone and not fact.maybe_new and not self.learning
                schema.put(schema.columns, place, fact._replace(not_null=was))
                self.heal("required", relation.key, act.column)
            case "add identity":
                schema.put(schema.columns, place, fact._replace(default=True, value=DISTINCT))
                self.heal("required", relation.key, act.column)
                home = schema.resolve(act.table, schema.relations)
                sequence = Name(home.schema, f"{home.name}_{act.column}_seq")
                schema.put(
                    schema.relations, sequence, Relation(schema.new_key(), sequence, False, "sequence")
                )
                dropped = ("default", relation.key, fact.was)
                if act.restart:
                    self.heal(*dropped)
                elif dropped in schema.pending:
                    pending = schema.pending[dropped]
                    schema.put(schema.pending, dropped, pending._replace(why=_STARTS_AT_ONE))
                    schema.put(schema.unstarted, sequence.name, dropped)
                if old and act.always:
                    self.add(
                        ("always", relation.key, fact.was), "identity-always", act.start, act.end, **names
                    )
            case "set identity" if old:
                if act.always:
                    self.add(
                        ("always", relation.key, fact.was), "identity-always", act.start, act.end, **names
                    )
                elif not act.restart:
                    self.heal("always", relation.key, fact.was)
                home = schema.resolve(act.table, schema.relations)
                if act.restart and not self.start_sequence(f"{home.name}_{act.column}_seq"):
                    name = f"the sequence of {act.table}.{spelled(act.column)}"
                    self.add(
                        ("sequence", relation.key, fact.was),
                        "alter-sequence",
                        act.start,
                        act.end,
                        name=name,
                        what="this",
                    )
            case "drop identity":
                schema.put(schema.columns, place, fact._replace(default=False, value=ANY if old else None))
                self.heal("always", relation.key, fact.was)
                if old:
                    self.add(
                        ("default", relation.key, fact.was), "drop-identity", act.start, act.end, **names
                    )
                else:
                    self.required(act, relation, act.column, "drop-identity", act.table)
            case "drop expression" | "set expression" if old:
                self.add(
                    ("generated", relation.key, fact.was), "alter-generated", act.start, act.end, **names
                )

    def start_sequence(self, name: str) -> bool:
        """A new identity sequence, by its name, goes on where the dropped default's left off: says who starts it."""
        unstarted = self.schema.unstarted
        if is_placeholder(name):
            for dropped in unstarted.values():
                self.heal(*dropped)
        dropped = unstarted.get(name.rpartition(".")[2].strip('"').rstrip("0123456789"))
        return dropped is not None and self.heal(*dropped)

    # Constraints

    def lookup(self, relation: Relation) -> Callable[[str], Value]:
        """The value of a column in a row that the old binary writes."""

        def value(column: str) -> Value:
            fact = self.schema.column(relation, column)
            if fact is None:
                return ANY
            if fact.old:
                return SOME if fact.not_null else ANY
            return fact.value

        return value

    def learn_constraint(self, relation: Relation, constraint: a.Constraint, table: str = "") -> None:
        """Remembers a constraint that is there now."""
        schema = self.schema
        home = table or relation.home.name
        name = constraint.name or self.free_name(relation, home, constraint)
        expression = constraint.expression if constraint.valid else ()
        rule = Rule(
            constraint.kind,
            self.learning,
            constraint.columns,
            constraint.expression,
            constraint.references,
            constraint.on_delete,
        )
        schema.put(schema.constraints_of(relation.key), name, (rule, True))
        if constraint.kind in ("primary key", "unique") and constraint.using_index:
            index = schema.relations.get(Name(relation.home.schema, constraint.using_index))
            if index is not None and index.unique is not None:
                self.learn_unique(
                    relation, name, tuple(index.unique.elements), index.unique.predicate, constraint=True
                )
        elif constraint.kind in ("primary key", "unique"):
            self.learn_unique(relation, name, constraint.columns, "", constraint=True)
        if self.learning:
            columns: Iterable[str] = ()
            if constraint.kind == "primary key" or constraint.kind == "not null":
                columns = constraint.columns
            elif constraint.kind == "check" and expression:
                columns = not_null_by(expression)
            for column in columns:
                fact = schema.column(relation, column)
                if fact is not None:
                    schema.put(schema.columns, (relation.key, column), fact._replace(not_null=True))

    def free_name(self, relation: Relation, table: str, constraint: a.Constraint) -> str:
        rules = self.schema.constraints_of(relation.key)
        name = base = default_name(table, constraint)
        count = self.schema.counts.get((relation.key, base), 0)
        while rules.get(name, _UNHEARD_OF)[1]:
            count += 1
            name = f"{base}{count}"
        self.schema.counts[relation.key, base] = count
        return name

    def learn_unique(
        self, relation: Relation, name: str, elements: Sequence[str], predicate: str, *, constraint: bool
    ) -> None:
        schema = self.schema
        unique = Unique(
            relation.key,
            name,
            True,
            frozenset(elements),
            predicate,
            constraint,
            self.learning,
            True,
            relation.old,
        )
        schema.put(schema.uniques, relation.key, (*schema.uniques.get(relation.key, ()), unique))
        place = Name(relation.home.schema, name)
        index = Relation(schema.new_key(), place, self.learning, "index", unique=unique)
        schema.put(schema.relations, place, index)

    def add_constraint(self, act: a.AddConstraint) -> None:
        schema, constraint = self.schema, act.constraint
        relation = schema.relation(act.table)
        if relation is None:
            return
        if not relation.old and not self.learning:
            if constraint.kind in ("primary key", "unique", "exclude"):
                home = schema.resolve(act.table, schema.relations)
                schema.put(
                    schema.relations,
                    home,
                    relation._replace(definition=(*relation.definition, *act.definition)),
                )
            return
        if self.learning:
            self.learn_constraint(relation, constraint)
            return
        before = len(schema.pending)
        self.constrain(relation, act.table, constraint, act.start, act.end)
        if len(schema.pending) > before:
            return
        if constraint.kind in ("check", "foreign key"):
            if constraint.valid and constraint.enforced:
                name = spelled(constraint.name or default_name(relation.home.name, constraint))
                self.warn("validate-at-once", act, table=str(act.table), name=name)
            elif constraint.name:
                schema.put(schema.unvalidated, (relation.key, constraint.name), True)

    def constrain(
        self, relation: Relation, table: Name, constraint: a.Constraint, start: int, end: int
    ) -> None:
        """A constraint on an old table: breaks unless rows of the old binary cannot violate it."""
        schema = self.schema
        name = constraint.name or self.free_name(relation, table.name, constraint)
        rule = self.restricts(relation, table, constraint, name, start, end)
        self.learn_constraint(relation, constraint._replace(name=name), table.name)
        if not rule or not constraint.enforced:
            renamed = schema.pending.get(("constraint name", relation.key, name))
            if renamed is not None and renamed.rule == "rename-constraint":
                self.heal("constraint name", relation.key, name)
            return
        columns = ", ".join(map(spelled, constraint.columns)) or name
        self.add(
            ("constraint", relation.key, name), rule, start, end,
            about=self.new_columns(relation, constraint), table=str(table), columns=columns, column=columns,
            name=str(constraint.references) if rule == "add-foreign-key" else spelled(name),
        )  # fmt: skip

    def new_columns(self, relation: Relation, constraint: a.Constraint) -> frozenset[str]:
        """The columns of a constraint that the old binary does not know."""
        named = constraint.columns or tuple(columns_in(constraint.expression))
        return frozenset(
            name
            for name in named
            if (fact := self.schema.column(relation, name)) is not None and not fact.old
        )

    def restricts(
        self, relation: Relation, table: Name, constraint: a.Constraint, name: str, start: int, end: int
    ) -> str:
        """The rule that a new constraint breaks, or ""."""
        schema = self.schema
        lookup = self.lookup(relation)
        match constraint.kind:
            case "unique" | "primary key":
                return self.key_restricts(relation, table, constraint, name, start, end)
            case "exclude":
                if constraint.expression and not may_be_true(value_of(constraint.expression, lookup)):
                    return ""
                values = [value_of(_before(element, "WITH"), lookup) for element in constraint.elements]
                if None in values or self.found_again(relation, name, "exclude"):
                    return ""
                return "add-exclusion"
            case "foreign key":
                values = [lookup(column) for column in constraint.columns]
                facts = [schema.column(relation, column) for column in constraint.columns]
                if all(fact is not None and not fact.old for fact in facts):
                    return (
                        "add-foreign-key"
                        if constraint.match_full and 0 < values.count(None) < len(values)
                        else ""
                    )
                if None in values and not constraint.match_full:
                    return ""
                return "" if self.same_foreign_key(relation, constraint, name) else "add-foreign-key"
            case "check":
                value = value_of(constraint.expression, lookup)
                if not may_be_false(value):
                    return ""
                if value is not False:
                    names = set(columns_in(constraint.expression))
                    facts = [schema.column(relation, column) for column in names]
                    if names and all(fact is not None and not fact.old for fact in facts):
                        return ""
                    known = [rule.expression for rule in self.old_rules(relation, "check")]
                    if known and implied(constraint.expression, known):
                        return ""
                return "add-check"
            case "not null":
                column = constraint.columns[0]
                self.alter_column(a.AlterColumn(start, end, table, column, "not null"))
        return ""

    def old_rules(self, relation: Relation, kind: str) -> list[Rule]:
        """The constraints of this kind that the old binary lived with."""
        return [rule for rule in self.schema.rules_before.get(relation.key, ()) if rule.kind == kind]

    def found_again(self, relation: Relation, name: str, kind: str) -> bool:
        """A key that this transaction dropped, of which nothing but the name is known, is made again under that name."""
        pending = self.schema.pending.get(("constraint name", relation.key, name))
        return pending is not None and pending.rule == "drop-unique" and kind == "exclude"

    def same_foreign_key(self, relation: Relation, constraint: a.Constraint, name: str) -> bool:
        for rule in self.old_rules(relation, "foreign key"):
            if (
                rule.columns == constraint.columns
                and rule.references is not None
                and constraint.references is not None
            ):
                same = rule.references.name == constraint.references.name
                if same and (rule.on_delete == constraint.on_delete or not rule.on_delete):
                    return True
        known, there = self.schema.constraints_of(relation.key).get(name, (None, True))
        return known is None and not there

    def key_restricts(
        self, relation: Relation, table: Name, constraint: a.Constraint, name: str, start: int, end: int
    ) -> str:
        schema = self.schema
        primary = constraint.kind == "primary key"
        rule = "add-primary-key" if primary else "add-unique"
        columns = constraint.columns
        if constraint.using_index:
            place = Name(schema.resolve(table, schema.relations).schema, constraint.using_index)
            index = schema.relations.get(place)
            if name != constraint.using_index:
                schema.put(schema.relations, place, None)
            unique = index.unique if index is not None else None
            columns = tuple(unique.elements) if unique else ()
            healed = self.heal_lost_key(relation, name, columns, "", constraint, certain=unique is not None)
            if healed and index is not None:
                self.restricts_nothing(index.key)
            if not primary:
                return rule if constraint.deferrable and index is None else ""
            facts = [schema.column(relation, column) for column in columns]
            if healed:
                return ""
            if facts and all(fact is not None and (fact.not_null or not fact.old) for fact in facts):
                self.make_not_null(relation, table, columns, start, end)
                return ""
            return rule
        healed = self.heal_lost_key(relation, name, columns, "", constraint, certain=True)
        if primary and self.make_not_null(relation, table, columns, start, end):
            return ""
        if healed:
            return ""
        if self.may_repeat(relation, tuple((column, self.lookup(relation)(column)) for column in columns), (),
                           distinct=constraint.nulls_distinct and not primary):  # fmt: skip
            return rule
        if primary:
            facts = [schema.column(relation, column) for column in columns]
            if any(fact is not None and fact.old and not fact.not_null for fact in facts):
                return rule
        return ""

    def restricts_nothing(self, index: Key) -> None:
        """A unique index turns out to be the old key made anew: it was no break, not even before its transaction's end."""
        self.heal("index", index)
        made = self.made_keys.get(index)
        if made is not None:
            self.schema.remove(self.found, made.finding)

    def make_not_null(
        self, relation: Relation, table: Name, columns: Sequence[str], start: int, end: int
    ) -> bool:
        """The new columns of a primary key; whether one of them then lacks a value."""
        schema = self.schema
        lacking = False
        for column in columns:
            fact = schema.column(relation, column)
            if fact is not None and not fact.old:
                schema.put(schema.columns, (relation.key, column), fact._replace(not_null=True))
                act = a.AddColumn(start, end, table, _NO_COLUMN, False, ())
                lacking = self.required(act, relation, column, "add-required-column", table) or lacking
        return lacking

    def may_repeat(
        self, relation: Relation, elements: Sequence[tuple[str, Value]], predicate: Tokens, *, distinct: bool
    ) -> bool:
        """Whether rows of the old binary may be equal in all elements of a new key."""
        values = [value for _, value in elements]
        if predicate and not may_be_true(value_of(predicate, self.lookup(relation))):
            return False
        if (distinct and None in values) or DISTINCT in values:
            return False
        texts = frozenset(text for text, _ in elements)
        about = _text(predicate)
        if len(texts) > 1 and "id" in texts and not relation.known:
            fact = self.schema.column(relation, "id")
            if fact is not None and fact.old:
                return False  # what is called id is a key, as long as nothing else is known
        return not any(
            unique.elements <= texts and unique.predicate in ("", about)
            for unique in self.schema.keys_before.get(relation.key, ())
        )

    def heal_lost_key(
        self,
        relation: Relation,
        name: str,
        elements: Sequence[str],
        predicate: str,
        key: a.Constraint | None,
        *,
        certain: bool,
    ) -> bool:
        """A key that was dropped in this transaction is made again: on the same columns, as far as anyone can tell."""
        if key is not None and key.deferrable:
            return False
        pending = self.schema.pending.get(("constraint name", None, name))
        nameless = [(("constraint name", None, name), pending)] if pending is not None else []
        for place, pending in [*self.pending_about("constraint name", relation.key), *nameless]:
            if pending.rule != "drop-unique":
                continue
            lost: Unique | None = pending.about
            if lost is not None:
                same = lost.elements == frozenset(elements) and lost.predicate == predicate
                same = same and (not lost.constraint or (key is not None and lost.name == name))
                if elements == () and lost.name == name:
                    same = True
            else:
                facts = [self.schema.column(relation, element) for element in elements]
                on_old = all(fact is not None and fact.old for fact in facts)
                says = on_old and not predicate and _says(name, relation.home.name, elements, key)
                same = place[2] == name and (says or not certain)
            if same:
                self.heal(*place)
                return True
        return False

    def drop_constraint(self, act: a.DropConstraint) -> None:
        schema = self.schema
        relation = schema.relation(act.table)
        if relation is None or (not relation.old and not self.learning):
            return
        rules = schema.constraints_of(relation.key)
        rule, there = rules.get(act.name, (None, True))
        if not there:
            return
        schema.put(rules, act.name, (rule, False))
        unique = self.kill_unique(relation.key, Name(relation.home.schema, act.name))
        if self.heal("constraint", relation.key, act.name) or (rule is not None and not rule.old):
            return
        kind = rule.kind if rule else ""
        if rule is not None and kind not in ("primary key", "unique", "exclude"):
            return
        if rule is None and not _may_be_key(act.name, index=False):
            return
        self.add(("constraint name", relation.key, act.name), "drop-unique", act.start, act.end, about=unique,
                 table=str(act.table), name=spelled(act.name))  # fmt: skip

    def kill_unique(self, table: Key, index: Name) -> Unique | None:
        """The key of that name is no more; what is known of it."""
        schema = self.schema
        uniques = schema.uniques.get(table, ())
        found = next((unique for unique in uniques if unique.live and unique.name == index.name), None)
        if found is not None:
            left = tuple(unique._replace(live=False) if unique is found else unique for unique in uniques)
            schema.put(schema.uniques, table, left)
            if index in schema.relations:
                schema.put(schema.relations, index, None)
        return found

    def rename_constraint(self, act: a.RenamePart, relation: Relation) -> None:
        schema = self.schema
        rules = schema.constraints_of(relation.key)
        rule, there = rules.get(act.old, (None, True))
        if not there:
            return
        schema.put(rules, act.old, (rule, False))
        schema.put(rules, act.new, (rule, True))
        if self.learning:
            unique = self.kill_unique(relation.key, Name(relation.home.schema, act.old))
            if unique is not None:
                self.learn_unique(
                    relation, act.new, tuple(unique.elements), unique.predicate, constraint=True
                )
        if self.heal("constraint name", relation.key, act.new) or (rule is not None and not rule.old):
            return
        relied = (
            rule.kind in ("primary key", "unique", "exclude") if rule else _may_be_key(act.old, index=False)
        )
        if relied:
            self.add(("constraint name", relation.key, act.old), "rename-constraint", act.start, act.end,
                     table=str(act.name), name=spelled(act.old), new=spelled(act.new))  # fmt: skip

    def create_index(self, act: a.CreateIndex) -> None:
        schema = self.schema
        relation = schema.relation(act.table)
        if relation is None:
            return
        home = schema.resolve(act.table, schema.relations)
        elements = [_bare_element(element) for element in act.elements]
        texts = [_text(element) for element in elements]
        predicate = _text(act.predicate)
        name = act.name or "_".join([home.name, *texts, "idx"])
        place = Name(home.schema, name)
        unique = Unique(
            relation.key,
            name,
            act.unique,
            frozenset(texts),
            predicate,
            False,
            self.learning,
            True,
            relation.old,
        )
        key = schema.new_key()
        if self.learning:
            schema.put(schema.relations, place, Relation(key, place, True, "index", unique=unique))
            if act.unique:
                schema.put(schema.uniques, relation.key, (*schema.uniques.get(relation.key, ()), unique))
            return
        if not act.if_not_exists:
            schema.put(schema.relations, place, Relation(key, place, False, "index", unique=unique))
        if not relation.old:
            return
        if relation.kind not in _VIEWS and (
            predicate == "" or may_be_true(value_of(act.predicate, self.lookup(relation)))
        ):
            what = f"the index {spelled(act.name)}" if act.name else "this index"
            for tokens, guard in [(act.predicate, ()), *((element, act.predicate) for element in elements)]:
                if self.expression(act, relation, ("failing", key), tokens, what, predicate=guard):
                    break
        if act.unique and relation.kind != "materialized view":  # which nobody writes to
            self.made_keys[key] = _MadeKey(relation, (self.source, act.start, "add-unique"))
            healed = self.heal_lost_key(relation, name, texts, predicate, None, certain=True)
            lookup = self.lookup(relation)
            pairs = [(text, value_of(element, lookup)) for text, element in zip(texts, elements, strict=True)]
            schema.put(schema.uniques, relation.key, (*schema.uniques.get(relation.key, ()), unique))
            if not healed and self.may_repeat(relation, pairs, act.predicate, distinct=act.nulls_distinct):
                self.add(
                    ("index", key),
                    "add-unique",
                    act.start,
                    act.end,
                    table=str(act.table),
                    columns=", ".join(texts),
                )
                return
        if not act.concurrently:
            self.warn("index-not-concurrent", act, table=str(act.table))

    def drop_index(self, act: a.Drop, name: Name, relation: Relation) -> None:
        schema = self.schema
        unique = relation.unique
        if not relation.old:
            self.heal("failing", relation.key)
            healed = self.heal("index", relation.key)
            if not healed and unique is not None and unique.on_old and not act.concurrently:
                self.warn("drop-index-not-concurrent", act, name=str(act.name))
            return
        if unique is None:
            relied = _may_be_key(name.name, index=True)
        else:
            self.kill_unique(unique.table, name)
            twins = schema.uniques.get(unique.table, ())
            relied = unique.unique and not any(
                twin.live and twin.elements == unique.elements and twin.predicate == unique.predicate
                for twin in twins
            )
        if relied:
            table_key = unique.table if unique else None
            self.add(("constraint name", table_key, name.name), "drop-unique", act.start, act.end, about=unique,
                     table="its table", name=str(act.name))  # fmt: skip
        elif not act.concurrently:
            self.warn("drop-index-not-concurrent", act, name=str(act.name))

    # Types and functions

    def create_type(self, act: a.CreateType) -> None:
        schema = self.schema
        name = schema.to_create(act.name)
        old = self.made_anew("type", name, act.labels)
        schema.put(schema.types, name, Type(old, labels=act.labels))

    def made_anew(self, kind: str, name: Name, labels: tuple[str, ...] | None) -> bool:
        """Whether a type takes the place of one that nothing used: without CASCADE it could not have been dropped."""
        pending = self.schema.pending.get(("type", name, kind, "unused"))
        if pending is None or (pending.about is not None and not set(pending.about) <= set(labels or ())):
            return False
        return self.heal("type", name, kind, "unused")

    def create_domain(self, act: a.CreateDomain) -> None:
        schema = self.schema
        base = schema.type(act.base)
        default = act.default is not None and value_of(act.default) is not None
        default = default or (act.default is None and base is not None and base.default)
        refuses_null = any(value_of(check, lambda _: None) is False for check in act.checks)
        not_null = act.not_null or refuses_null or (base is not None and base.not_null)
        name = schema.to_create(act.name)
        old = self.made_anew("domain", name, None)
        schema.put(schema.types, name, Type(old, not_null, default))

    def drop_type(self, act: a.Drop) -> None:
        schema = self.schema
        name = schema.resolve(act.name, schema.types)
        kind = schema.type(act.name)
        if kind is None:
            return
        schema.put(schema.types, name, None)
        if kind.old:
            self.add(
                ("type", name, act.kind, "used" if act.cascade else "unused"),
                "drop-type",
                act.start,
                act.end,
                about=kind.labels,
                name=str(act.name),
                kind=act.kind,
            )

    def rename_type(self, act: a.Rename | a.Move, name: Name, new: Name, shown: str) -> None:
        schema = self.schema
        kind = schema.type(act.name)
        if kind is None:
            return
        schema.put(schema.types, name, None)
        schema.put(schema.types, new, kind)
        if kind.old and not self.heal("named", "type", new):
            self.add(
                ("named", "type", name),
                "rename-object",
                act.start,
                act.end,
                kind=act.kind,
                name=str(act.name),
                new=shown,
            )

    def create_function(self, act: a.CreateFunction) -> None:
        schema = self.schema
        name = schema.to_create(act.name)
        known = schema.functions.get(name, ())
        inputs = _inputs(act.arguments)
        same = [function for function in known if _inputs(function.arguments) == inputs]
        others = tuple(function for function in known if _inputs(function.arguments) != inputs)
        old = bool(act.replace and (not same or same[0].old)) or self.learning
        for key, pending in self.pending_about("function", name):
            lost: Function | None = pending.about
            if _takes_over(act, key[2], lost):
                self.heal(*key)
                old = True
            elif lost is not None and pending.rule == "drop-function":
                schema.put(schema.pending, key, pending._replace(why=_FUNCTION_CHANGED))
        if old and same and same[0].definer and not act.definer:
            self.change(a.Change(act.start, act.end, "security-invoker", "function", act.name))
        if not same and not self.learning and not any(self.is_gone(name, f) for f in others):
            for function in others:
                if function.old and _ambiguous(function.arguments, act.arguments):
                    self.add(
                        ("ambiguous", name, inputs), "ambiguous-function", act.start, act.end,
                        name=_signature(act.name, function.arguments), new=_signature(act.name, act.arguments),
                    )  # fmt: skip
        if old and same and not self.learning:
            for trigger in schema.triggers_of.get(name, ()):
                if _refuses(trigger, act.statement) and not _refuses(trigger, same[0].statement):
                    self.add(("trigger", trigger.table, trigger.name), "trigger-refuses", act.start, act.end,
                             table=str(trigger.table), name=str(act.name))  # fmt: skip
        made = Function(old, act.arguments, act.returns, act.statement, self.source, act.definer)
        schema.put(schema.functions, name, (*others, made))

    def is_gone(self, name: Name, function: Function) -> bool:
        return ("function", name, _inputs(function.arguments)) in self.schema.pending

    def drop_function(self, act: a.Drop) -> None:
        schema = self.schema
        name = schema.resolve(act.name, schema.functions)
        known = schema.functions.get(name, ())
        wanted = None if act.arguments is None else _inputs(act.arguments)
        match = [function for function in known if wanted is None or _inputs(function.arguments) == wanted]
        if len(match) != 1 and wanted is not None and not match:  # OUT arguments may be written too
            match = [
                function
                for function in known
                if tuple(x.type for x in function.arguments) == tuple(x.type for x in act.arguments or ())
            ]
        if match:
            schema.put(schema.functions, name, tuple(function for function in known if function not in match))
        if match and not match[0].old:
            self.heal("ambiguous", name, _inputs(match[0].arguments))
            return
        if not match and schema.is_new_schema(name.schema):
            return
        if match and match[0].returns == "trigger":
            return
        if not match and not wanted and self.is_trigger_function(name.name):
            return
        lost = match[0] if match else None
        signature = _inputs(lost.arguments) if lost else wanted
        shown = _signature(act.name, act.arguments) if act.arguments is not None else str(act.name)
        self.add(("function", name, signature), "drop-function", act.start, act.end, about=lost, name=shown)

    def is_trigger_function(self, name: str) -> bool:
        """Its trigger went before, and nothing but its name is known: nobody calls a trigger function."""
        if name in self.trigger_dropped:
            return True
        return bool(self.trigger_dropped) and not {"trigger", "trg", "tg", "tgr"}.isdisjoint(name.split("_"))

    def rename_function(self, act: a.Rename | a.Move, new_name: str, new_schema: str) -> None:
        schema = self.schema
        name = schema.resolve(act.name, schema.functions)
        new = Name(name.schema, new_name) if new_name else Name(new_schema, name.name)
        known = schema.functions.get(name, ())
        wanted = None if act.arguments is None else _inputs(act.arguments)
        match = [function for function in known if wanted is None or _inputs(function.arguments) == wanted]
        if match:
            schema.put(schema.functions, name, tuple(function for function in known if function not in match))
            schema.put(schema.functions, new, (*schema.functions.get(new, ()), *match))
        if match and (not match[0].old or match[0].returns == "trigger"):
            return
        if not match and schema.is_new_schema(name.schema):
            return
        lost = match[0] if match else None
        signature = _inputs(lost.arguments) if lost else wanted
        if self.heal("function", new, signature):
            return
        shown = _signature(act.name, act.arguments) if act.arguments is not None else str(act.name)
        self.add(("function", name, signature), "rename-object", act.start, act.end, about=lost, kind="function", name=shown,
                 new=spelled(new_name) if new_name else str(new))  # fmt: skip

    # Triggers

    def create_trigger(self, act: a.CreateTrigger) -> None:
        schema = self.schema
        relation = schema.relation(act.table)
        if relation is None:
            return
        self.heal("trigger", relation.key, act.name)
        schema.put(schema.triggers, (relation.key, act.name), True)
        function_name = schema.resolve(act.function, schema.functions)
        if self.learning:
            schema.put(schema.triggers_of, function_name, (*schema.triggers_of.get(function_name, ()), act))
            return
        if not relation.old or act.events == ("TRUNCATE",):
            return
        if act.columns and all(
            (fact := schema.column(relation, name)) is not None and not fact.old for name in act.columns
        ):
            return
        if act.condition and not may_be_true(value_of(act.condition, self.lookup(relation))):
            return
        for function in schema.functions.get(function_name, ()):
            self.filled(act, relation, function.statement)
            if _refuses(act, function.statement):
                self.add(("trigger", relation.key, act.name), "trigger-refuses", act.start, act.end,
                         table=str(act.table), name=str(act.function))  # fmt: skip

    def filled(self, act: a.CreateTrigger, relation: Relation, function: Statement) -> None:
        """A trigger that sets columns before a row is written gives them a value, as a default does."""
        schema = self.schema
        if act.timing != "BEFORE" or not act.each_row or "INSERT" not in act.events or act.condition:
            return
        for column in _columns_set(function):
            fact = schema.column(relation, column)
            if fact is None or (fact.old and "UPDATE" not in act.events):
                continue
            pending = schema.pending.get(("required", relation.key, column))
            if pending is not None and pending.rule == "add-required-column":
                continue  # the runbook's rule holds literally
            self.heal("required", relation.key, column)
            self.heal("not null", relation.key, fact.was)
            given = fact._replace(default=True, value=ANY, not_null=fact.old or fact.not_null)
            schema.put(schema.columns, (relation.key, column), given)

    def drop_trigger(self, act: a.Drop) -> None:
        schema = self.schema
        relation = schema.relation(act.on) if act.on else None
        self.trigger_dropped.add(act.name.name)
        if relation is None or not relation.old:
            return
        if schema.remove(schema.triggers, (relation.key, act.name.name)):
            self.heal("trigger", relation.key, act.name.name)
            return
        self.add(("trigger", relation.key, act.name.name), "drop-trigger", act.start, act.end,
                 table=str(act.on), name=str(act.name))  # fmt: skip

    # Row security

    def policy(self, act: a.Policy) -> None:
        schema = self.schema
        relation = schema.relation(act.table)
        if relation is None or (not relation.old and not self.learning):
            return
        policies = schema.policies.get(relation.key, {})
        known = policies.get(act.name)
        if act.alter:
            self.alter_policy(act, relation, known)
            return
        using = not act.using or value_of(act.using) is True
        check = value_of(act.check) is True if act.check else using
        everyone = not act.roles or "public" in act.roles or not self.options.application_role
        everyone = everyone or any(self.matters(role) for role in act.roles)
        text = (act.command, _text(act.using), _text(act.check), *act.roles)
        fact = PolicyFact(self.learning, act.permissive, act.command, using and check and everyone, text)
        schema.put(schema.policies, relation.key, {**policies, act.name: fact})
        if self.learning:
            return
        if not act.permissive:
            if not (using and check) and not self.security_is_off(relation):
                self.add(("policy", relation.key, act.name), "restrictive-policy", act.start, act.end,
                         table=str(act.table), name=spelled(act.name))  # fmt: skip
            return
        for key, pending in self.pending_about("policy gone", relation.key):
            lost: PolicyFact | None = pending.about
            all_of_it = fact.lets_all_through and (
                act.command == "ALL" or (lost is not None and lost.command == act.command)
            )
            if all_of_it or (lost is not None and lost.text == text):
                self.heal(*key)
        self.row_security(relation)

    def alter_policy(self, act: a.Policy, relation: Relation, known: PolicyFact | None) -> None:
        if (known is not None and not known.old) or self.learning or self.security_is_off(relation):
            return
        narrows = (act.using and value_of(act.using) is not True) or (
            act.check and value_of(act.check) is not True
        )
        if narrows or (act.roles and "public" not in act.roles):
            self.add(("policy altered", relation.key, act.name), "alter-policy", act.start, act.end,
                     table=str(act.table), name=spelled(act.name))  # fmt: skip

    def security_is_off(self, relation: Relation) -> bool:
        """All of the table was seen, and row security never was on: policies do nothing."""
        return relation.known and relation.key not in self.schema.security

    def drop_policy(self, act: a.Drop) -> None:
        schema = self.schema
        relation = schema.relation(act.on) if act.on else None
        if relation is None or (not relation.old and not self.learning):
            return
        policies = schema.policies.get(relation.key, {})
        name = act.name.name
        known = policies.get(name)
        if known is not None:
            schema.put(
                schema.policies, relation.key, {key: fact for key, fact in policies.items() if key != name}
            )
        if known is not None and not known.old:
            self.heal("policy", relation.key, name)
            self.row_security(relation)
            return
        if (known is not None and not known.permissive) or self.security_is_off(relation):
            return
        if any(other.lets_all_through and other.permissive and other.command == "ALL"
               for key, other in policies.items() if key != name):  # fmt: skip
            return
        self.add(("policy gone", relation.key, name), "drop-policy", act.start, act.end, about=known,
                 table=str(act.on), name=spelled(name))  # fmt: skip

    def row_security(self, relation: Relation) -> None:
        """Row security that this set switched on: do its policies let everything through?"""
        schema = self.schema
        enabled = schema.security.get(relation.key)
        if enabled is None:
            return
        open_for = {
            policy.command
            for policy in schema.policies.get(relation.key, {}).values()
            if policy.permissive and policy.lets_all_through
        }
        if "ALL" in open_for or open_for >= {"SELECT", "INSERT", "UPDATE", "DELETE"}:
            self.heal("rls", relation.key)
        else:
            act, source = enabled
            again, self.source = self.source, source
            self.add(("rls", relation.key), "row-security", act.start, act.end, table=str(act.table))
            self.source = again

    # The smaller sub-commands of ALTER TABLE

    def change_table(self, act: a.ChangeTable) -> None:
        schema = self.schema
        if act.kind in ("role", "database", "schema") or act.kind not in _RELATIONS:
            old = schema.objects.get((act.kind, act.table)) is not False
            if act.kind in ("type", "domain"):
                kind = schema.type(act.table)
                old = kind is not None and kind.old
            elif act.kind == "function":
                functions = schema.functions.get(schema.resolve(act.table, schema.functions), ())
                old = not functions or functions[0].old
            if old and act.what == "owner":
                self.warn("owner-changed", act, name=str(act.table))
            return
        relation = schema.relation(act.table)
        if relation is None or (not relation.old and not self.learning):
            return
        match act.what:
            case "rls":
                self.switch_security(act, relation)
            case "owner":
                self.warn("owner-changed", act, name=str(act.table))
            case "tablespace" | "logged" | "access method":
                what = {
                    "tablespace": "SET TABLESPACE",
                    "logged": "SET LOGGED or UNLOGGED",
                    "access method": "SET ACCESS METHOD",
                }
                self.warn("table-rewrite", act, table=str(act.table), what=what[act.what])
            case "disable trigger":
                if not schema.triggers.get((relation.key, act.detail)):
                    self.warn("drop-trigger", act, table=str(act.table), name=spelled(act.detail or "all"))
            case "validate":
                if (relation.key, act.detail) in schema.unvalidated:
                    self.warn(
                        "validate-in-same-transaction", act, table=str(act.table), name=spelled(act.detail)
                    )

    def switch_security(self, act: a.ChangeTable, relation: Relation) -> None:
        schema = self.schema
        match act.detail:
            case "enable" | "force":
                if act.detail == "enable" and relation.key in schema.security:
                    return  # it was on before
                schema.put(schema.security, relation.key, (act, self.source))
                self.row_security(relation)
            case "disable":
                schema.remove(schema.security, relation.key)
                self.heal("rls", relation.key)
                for what in ("policy gone", "policy", "policy altered"):
                    for key, _ in self.pending_about(what, relation.key):
                        self.heal(*key)
            case _:
                enabled = schema.security.get(relation.key)
                if enabled is not None and enabled[0].detail == "force":
                    schema.remove(schema.security, relation.key)
                    self.heal("rls", relation.key)

    def attach(self, act: a.Attach) -> None:
        schema = self.schema
        parent, child = schema.relation(act.parent), schema.relation(act.child)
        if parent is None or child is None:
            return
        place = (child.key, parent.key)
        names = {"table": str(act.parent), "name": str(act.child)}
        if act.attach:
            if self.heal("partition", *place):
                return
            schema.put(schema.attached, place, True)
            bounded = any(pending.about for _, pending in self.pending_about("partition", child.key))
            made = schema.relations.get(schema.resolve(act.child, schema.relations))  # be it by a placeholder
            old = child.old and (made is None or made.old)
            if act.partition and old and not bounded:
                self.add(("bound", *place), "attach-partition", act.start, act.end, **names)
        elif schema.attached.get(place):
            self.heal("bound", *place)
        elif parent.old and child.old:
            self.add(
                ("partition", *place),
                "detach-partition",
                act.start,
                act.end,
                about=act.partition,
                **names,
            )

    def locks(self, act: a.Locks) -> None:
        self.lock(act, act.table)

    def lock(self, act: Any, table: Name) -> None:
        if self.learning or any(self.lock_timeout.values()):
            return
        relation = self.schema.relation(table)
        if relation is not None and relation.old:
            fields = {"table": str(table)}
            self.locking.append(_Pending("missing-lock-timeout", fields, "", self.source, act.start, act.end))

    def change(self, act: a.Change) -> None:
        schema = self.schema
        if act.kind in ("type", "domain"):
            identity: Key = schema.resolve(act.name, schema.types)
            kind = schema.type(act.name)
            old = kind is not None and kind.old
        elif act.kind == "function":
            name = schema.resolve(act.name, schema.functions)
            functions = schema.functions.get(name, ())
            identity = name
            old = not functions or functions[0].old
        elif act.kind in ("table", "sequence", "foreign table"):
            relation = schema.relation(act.name)
            identity = relation.key if relation else None
            old = relation is not None and relation.old
        else:
            identity = act.name
            old = schema.objects.get((act.kind, act.name), True) is True
        if not old:
            if act.rule == "alter-sequence" and act.part == "RESTART":
                self.start_sequence(act.name.name)
            return
        key = (act.rule, identity, act.part)
        if act.heals:
            self.heal(*key)
            return
        shown = act.detail if act.rule in _NAMED_BY_DETAIL else str(act.name)
        self.add(key, act.rule, act.start, act.end, kind=act.kind, name=shown, table=str(act.name),
                 column=spelled(act.part) if act.part else "", what=act.detail)  # fmt: skip

    # Rows

    def rows(self, act: a.Rows) -> None:
        relation = self.schema.relation(act.table)
        if relation is not None and relation.old:
            rule = "truncate" if act.verb == "TRUNCATE" else "delete-all"
            self.add(
                ("rows", rule, self.source, act.start, relation.key),
                rule,
                act.start,
                act.end,
                table=str(act.table),
            )

    def refresh(self, act: a.Refresh) -> None:
        relation = self.schema.relation(act.name)
        if relation is None or not relation.old:
            return
        if act.populated:
            self.heal("nodata", relation.key)
        else:
            self.add(("nodata", relation.key), "view-without-data", act.start, act.end, name=str(act.name))

    def heavy(self, act: a.Heavy) -> None:
        relation = self.schema.relation(act.table) if act.table else None
        if act.table is None or (relation is not None and relation.old):
            table = str(act.table) if act.table else "every table"
            self.warn(act.rule, act, what=act.what, table=table)

    def catalogue(self, act: a.Catalogue) -> None:
        relation = self.schema.relation(act.table)
        if relation is not None and relation.old:
            self.add(
                ("catalogue", self.source, act.start),
                "change-catalogue",
                act.start,
                act.end,
                table=str(act.table),
            )

    # Rights

    def matters(self, role: str) -> bool:
        """Whether the running binary may be this role, or have rights through it."""
        mine = self.options.application_role
        if self.schema.roles.get(role):
            return False
        return not mine or role in ("", "public", mine) or role in self.groups_of(mine)

    def groups_of(self, role: str) -> set[str]:
        found: set[str] = set()
        pending = [role]
        while pending:
            for group in self.schema.groups.get(pending.pop(), ()):
                if group not in found:
                    found.add(group)
                    pending.append(group)
        return found

    def identity(self, kind: str, name: Name, arguments: tuple[a.Argument, ...] | None) -> tuple[Key, bool]:
        """What a GRANT or REVOKE is about, and whether the old binary knows it."""
        schema = self.schema
        if kind in ("table", "sequence"):
            relation = schema.relation(name)
            return ("relation", relation.key if relation else None), relation is not None and relation.old
        if kind == "function":
            found = schema.resolve(name, schema.functions)
            known = schema.functions.get(found, ())
            wanted = None if arguments is None else _inputs(arguments)
            match = [
                function for function in known if wanted is None or _inputs(function.arguments) == wanted
            ]
            return ("function", found), (match[0].old if match else not schema.is_new_schema(found.schema))
        if kind == "type":
            type_fact = schema.type(name)
            return ("type", schema.resolve(name, schema.types)), type_fact is not None and type_fact.old
        return (kind, name), schema.objects.get((kind, name), True) is True

    def privileges(self, act: a.Privileges) -> None:
        schema = self.schema
        needed = _NEEDED.get(act.kind, frozenset())
        named = act.privileges | {"TEMPORARY"} if "TEMP" in act.privileges else act.privileges
        rights = needed & named if named else needed
        if not rights:
            return
        targets: list[tuple[Key, bool, str]] = []
        for name, arguments in act.objects:
            identity, old = self.identity(act.kind, name, arguments)
            targets.append((identity, old, str(name)))
            if act.grant:
                self.heal("grants", str(schema.resolve(name, schema.relations)))
        for schema_name in act.in_schemas:
            old = not schema.is_new_schema(schema_name)
            targets.append(
                (("all", act.kind, schema_name), old, f"all {act.kind}s in schema {spelled(schema_name)}")
            )
        for identity, old, shown in targets:
            for role in act.roles:
                key = ("right", identity, role)
                if act.grant:
                    self.grant_right(act, key, identity, role, rights)
                elif old and self.matters(role) and not self.learning:
                    if role == "public" and self.public_has_none(act, identity):
                        continue
                    self.revoke_right(act, key, rights, role, shown)

    def public_has_none(self, act: a.Privileges, identity: Key) -> bool:
        """PUBLIC has no rights on tables unless someone gave them: known when the table was made in the history."""
        schema = self.schema
        if act.kind not in ("table", "sequence") or not act.objects:
            return False
        relation = schema.relation(act.objects[0][0])
        return relation is not None and relation.known and (identity, "public") not in schema.grants

    def grant_right(
        self, act: a.Privileges, key: tuple[Key, ...], identity: Key, role: str, rights: frozenset[str]
    ) -> None:
        schema = self.schema
        schema.put(schema.grants, (identity, role), True)
        for place in (key, ("right", identity, "public")):
            pending = schema.pending.get(place)
            if pending is None or (place != key and not self.matters(role)):
                continue
            left = pending.about - rights
            if left and not act.column:
                schema.put(
                    schema.pending,
                    place,
                    pending._replace(about=left, fields={**pending.fields, "what": _listed(left)}),
                )
            elif not left:
                self.heal(*place)

    def revoke_right(
        self, act: a.Privileges, key: tuple[Key, ...], rights: frozenset[str], role: str, shown: str
    ) -> None:
        schema = self.schema
        pending = schema.pending.get(key)
        if pending is not None:
            rights = rights | pending.about
            schema.remove(schema.pending, key)
        self.add(
            key,
            "revoke",
            act.start,
            act.end,
            about=rights,
            what=_listed(rights),
            name=shown,
            role=spelled(role),
        )

    def membership(self, act: a.Membership) -> None:
        schema = self.schema
        for member in act.members:
            groups = schema.groups.get(member, frozenset())
            if act.grant:
                schema.put(schema.groups, member, groups | frozenset(act.roles))
            for role in act.roles:
                key = ("member", role, member)
                if act.grant:
                    self.heal(*key)
                elif self.matters(member) and not schema.roles.get(role) and not self.learning:
                    self.add(
                        key,
                        "revoke",
                        act.start,
                        act.end,
                        what="the rights",
                        name=f"role {spelled(role)}",
                        role=spelled(member),
                    )
            if not act.grant and self.learning:
                schema.put(schema.groups, member, groups - frozenset(act.roles))

    def role_change(self, act: a.RoleChange) -> None:
        if act.kind == "role" and not self.matters(act.name):
            return
        if act.kind == "database" and self.schema.objects.get(("database", Name("", act.name))) is False:
            return
        what = f"{act.what} {act.value}".strip()
        self.add(("alter role", act.kind, act.name, what), "alter-role", act.start, act.end,
                 kind=act.kind, name=spelled(act.name) if act.name else "all", what=what)  # fmt: skip

    # Running other statements

    def calls(self, act: a.Calls) -> None:
        schema = self.schema
        if schema.unstarted:
            for table, column in pairwise(
                ("", *act.sequences)
            ):  # 't_id_seq', or pg_get_serial_sequence('t', 'id')
                self.start_sequence(column)
                self.start_sequence(f"{table}_{column}_seq")
        if not schema.functions or self.learning:
            return
        for name in act.functions:
            found = schema.resolve(name, schema.functions)
            functions = schema.functions.get(found)
            if functions and (found, len(functions)) not in self.ran:
                self.ran.add((found, len(functions)))
                for function in functions:
                    self.running.append((run_by(function.statement), function.source))

    def do(self, act: a.Do) -> None:
        self.running.append((run_by(act.statement), self.source))

    def prepare(self, act: a.Prepare) -> None:
        self.schema.put(self.schema.prepared, act.name, act.statement)

    def execute(self, act: a.Execute) -> None:
        prepared = self.schema.prepared.get(act.name)
        if prepared is not None:
            self.running.append((iter((prepared,)), self.source))

    def unknown(self, act: a.Unknown) -> None:
        if act.table is not None:
            relation = self.schema.relation(act.table)
            if relation is None or not relation.old:
                return
        rule = "unresolved-dynamic-sql" if act.dynamic else "unknown-statement"
        self.add(("unknown", self.source, act.start), rule, act.start, act.end, what=act.what)


_NEVER_NAMED = frozenset([  # in the statements of a binary
    "server", "foreign-data wrapper", "language", "conversion", "operator class", "operator family", "tablespace",
    "text search parser", "text search template",
])  # fmt: skip
_KEYS_OF_COLUMNS = frozenset(["primary key", "unique"])
_GROUPED = frozenset([
    "constraint", "constraint name", "function", "partition", "policy", "policy gone", "policy altered",
])  # fmt: skip
_UNQUALIFIED = frozenset(
    [
        "schema",
        "extension",
        "cast",
        "language",
        "server",
        "foreign-data wrapper",
        "database",
        "access method",
        "user mapping",
        "transform",
    ]
)
_TABLE_SWAPPED = (
    "Another table takes the name {table}: rows that the running binary wrote since they were copied stay behind in {new}, "
    "and so do the rights, keys, sequences, triggers and foreign keys that hang on it."
)
_STARTS_AT_ONE = (
    "An INSERT of the running binary that leaves out {table}.{column} takes a number that is in use: the new identity sequence "
    "starts at 1. START WITH, RESTART or setval() in the same transaction lets it go on."
)
_COLUMN_LOST = "Queries of the running binary on {name} fail where they name what the new one leaves out: "
_FUNCTION_CHANGED = (
    "Calls of {name} by the running binary fail or return something else: the new one has another result, other argument "
    "names or fewer defaults."
)
_NAMED_BY_DETAIL = frozenset(["create-rule", "drop-rule", "add-check"])
_UNHEARD_OF: tuple[Rule | None, bool] = (None, False)
_NO_COLUMN = a.Column("", Name("", ""), False, None, "", False, (), (), 0, 0)

_HANDLERS: dict[type, Callable[[_Judge, Any], None]] = {
    a.Transaction: _Judge.transaction, a.Setting: _Judge.setting, a.CreateTable: _Judge.create_table,
    a.CreateView: _Judge.create_view, a.CreateIndex: _Judge.create_index,
    a.CreateFunction: _Judge.create_function, a.CreateTrigger: _Judge.create_trigger,
    a.Policy: _Judge.policy, a.CreateType: _Judge.create_type, a.AddValue: _Judge.add_value,
    a.CreateDomain: _Judge.create_domain,
    a.CreateObject: _Judge.create_object, a.Drop: _Judge.drop, a.Rename: _Judge.rename, a.Move: _Judge.move,
    a.RenamePart: _Judge.rename_part, a.AddColumn: _Judge.add_column, a.DropColumn: _Judge.drop_column,
    a.AlterColumn: _Judge.alter_column, a.AddConstraint: _Judge.add_constraint,
    a.DropConstraint: _Judge.drop_constraint, a.ChangeTable: _Judge.change_table, a.Attach: _Judge.attach,
    a.Locks: _Judge.locks, a.Change: _Judge.change, a.Rows: _Judge.rows, a.Refresh: _Judge.refresh,
    a.Heavy: _Judge.heavy, a.Privileges: _Judge.privileges, a.Membership: _Judge.membership,
    a.RoleChange: _Judge.role_change, a.Unbounded: _Judge.unbounded, a.Calls: _Judge.calls, a.Do: _Judge.do,
    a.Prepare: _Judge.prepare, a.Execute: _Judge.execute, a.Catalogue: _Judge.catalogue,
    a.Unknown: _Judge.unknown,
}  # fmt: skip


def _line_starts(text: str) -> list[int]:
    """Where lines start: after \\n, \\r or both, as editors count them."""
    starts = [0]
    at = 0
    if "\r" not in text:
        while (at := text.find("\n", at) + 1) > 0:
            starts.append(at)
        return starts
    for at, character in enumerate(text):
        if character == "\n" or (character == "\r" and text[at + 1 : at + 2] != "\n"):
            starts.append(at + 1)
    return starts


def _place(starts: list[int], offset: int) -> tuple[int, int]:
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


def _text(tokens: Tokens) -> str:
    """An expression, comparable and readable: names folded, one blank between tokens but around parentheses."""
    text = " ".join(
        token.name or (_quoted(token.value) if token.kind == "STRING" else token.text) for token in tokens
    )
    return (
        text.replace(" ( ", "(")
        .replace("( ", "(")
        .replace(" )", ")")
        .replace(" , ", ", ")
        .replace(" . ", ".")
    )


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _listed(rights: frozenset[str]) -> str:
    return ", ".join(sorted(rights))


def _before(tokens: Tokens, word: str) -> Tokens:
    for index, token in enumerate(tokens):
        if token.word == word:
            return tokens[:index]
    return tokens


def _bare_element(tokens: Tokens) -> Tokens:
    """An index element without collation, operator class and order."""
    depth = 0
    for index, token in enumerate(tokens):
        if token.text in "([":
            depth += 1
        elif token.text in ")]":
            depth -= 1
        elif index and depth == 0 and token.text != "." and tokens[index - 1].text != ".":
            tokens = tokens[:index]
            break
    if len(tokens) > 2 and tokens[0].text == "(" and tokens[-1].text == ")":
        return tokens[1:-1]
    return tokens


_STABLE = frozenset([
    "now", "current_timestamp", "statement_timestamp", "transaction_timestamp", "current_date",
    "localtimestamp", "current_user", "lower", "upper", "coalesce", "to_timestamp", "make_date",
    "make_interval", "array", "jsonb_build_object", "json_build_object", "jsonb_build_array",
    "current_setting", "to_jsonb", "to_json", "concat", "md5", "date_trunc", "repeat", "replace",
    "timezone", "numeric", "varchar", "char", "interval", "timestamp", "timestamptz", "time",
])  # fmt: skip


def _is_volatile(tokens: Tokens) -> bool:
    """Whether a default may differ from row to row, so that ADD COLUMN rewrites the table."""
    for index, token in enumerate(tokens):
        if token.text == "(" and index and tokens[index - 1].kind in ("WORD", "QUOTED"):
            cast = index > 1 and tokens[index - 2].text == "::"
            if not cast and tokens[index - 1].name not in _STABLE:
                return True
    return False


def _refuses(trigger: a.CreateTrigger, function: Statement) -> bool:
    """Whether a trigger with this function raises errors, or drops rows before they are written."""
    body = body_of(function)
    if body is None or trigger.events == ("TRUNCATE",):
        return False
    if raises(body.value):
        return True
    if trigger.timing not in ("BEFORE", "INSTEAD") or not trigger.each_row:
        return False
    if returns_null(body.value):
        return True
    words = [token.word for token in _tokens(body.value)]
    if "TG_OP" in words:
        return False
    returned = {after for word, after in pairwise(words) if word == "RETURN"}
    # NEW is NULL in a DELETE, OLD in an INSERT: such a row is passed over.
    return (returned == {"NEW"} and "DELETE" in trigger.events) or (
        returned == {"OLD"} and "INSERT" in trigger.events
    )


def _tokens(body: str) -> Iterator[Token]:
    try:
        for statement in statements(body):
            yield from statement.tokens
    except Unreadable:
        return


def _columns_set(function: Statement) -> Iterator[str]:
    """The columns of NEW that a trigger function sets: NEW.a := ..."""
    body = body_of(function)
    tokens = tuple(_tokens(body.value)) if body is not None else ()
    for index in range(len(tokens) - 3):
        new, dot, column, sign = tokens[index : index + 4]
        if new.word == "NEW" and dot.text == "." and sign.text in (":=", "=") and column.name:
            before = tokens[index - 1].word if index else ""
            if before in ("", "BEGIN", "THEN", "ELSE", "LOOP"):
                yield column.name


def _inputs(arguments: Iterable[a.Argument]) -> tuple[str, ...]:
    """The types that make out a function among those of its name."""
    return tuple(argument.type for argument in arguments if argument.mode not in ("OUT", "TABLE"))


def _signature(name: Name, arguments: Iterable[a.Argument]) -> str:
    return f"{name}({', '.join(_inputs(arguments))})"


def _takes_over(new: a.CreateFunction, inputs: tuple[str, ...] | None, old: Function | None) -> bool:
    """Whether all calls of the old function find the new one, and get the same from it."""
    after = [argument for argument in new.arguments if argument.mode not in ("OUT", "TABLE")]
    if inputs is None:
        return True
    if tuple(argument.type for argument in after[: len(inputs)]) != inputs:
        return False
    if not all(argument.optional for argument in after[len(inputs) :]):
        return False
    if old is None:
        return True
    before = [argument for argument in old.arguments if argument.mode not in ("OUT", "TABLE")]
    return new.returns == old.returns and all(
        (not was.name or was.name == now.name) and (now.optional or not was.optional)
        for was, now in zip(before, after, strict=False)
    )


def _ambiguous(old: Sequence[a.Argument], new: Sequence[a.Argument]) -> bool:
    """Whether a call of the old function, by some number of arguments, fits the new one as well."""
    before = [argument for argument in old if argument.mode not in ("OUT", "TABLE")]
    after = [argument for argument in new if argument.mode not in ("OUT", "TABLE")]
    least = max(sum(not x.optional for x in before), sum(not x.optional for x in after))
    most = min(len(before), len(after))
    return any(
        [x.type for x in before[:count]] == [x.type for x in after[:count]]
        for count in range(least, most + 1)
    )


_NO_KEYS = frozenset(["fkey", "fk", "check", "chk", "ck", "nn", "notnull"])
_KEYS = frozenset(["uniq", "unique", "uq", "ux", "uk", "uidx", "uix", "pkey", "pk"])
_PLAIN_INDEXES = frozenset(["idx", "ix", "index", "gin", "gist", "trgm", "brin", "fts"])


def _may_be_key(name: str, *, index: bool) -> bool:
    """Whether an upsert may rely on a constraint or index of which nothing but the name is known."""
    words = [word.rstrip("0123456789") for word in name.lower().replace("-", "_").split("_")]
    ends = {words[0], words[-1]}
    if index:
        if not _KEYS.isdisjoint(words):
            return True
        return _PLAIN_INDEXES.isdisjoint(words)
    if not _KEYS.isdisjoint(ends) or words[-1] == "key":
        return True
    return _NO_KEYS.isdisjoint(ends) and not name.lower().rstrip("0123456789").endswith("_not_null")


def _says(name: str, table: str, columns: Sequence[str], key: a.Constraint | None) -> bool:
    """Whether the name of a key tells that it was on these columns: users_email_key, uniq_users_email."""
    if key is not None and key.kind == "primary key":
        return len(columns) == 1 or (bool(key.using_index) and "id" not in columns)
    words = [
        word for word in name.split("_") if word not in _KEYS and word not in _PLAIN_INDEXES and word != "key"
    ]
    of_table = table.split("_")
    if words[: len(of_table)] == of_table and len(words) > len(of_table):
        words = words[len(of_table) :]
    for column in columns:  # each has its say: artist_id in tracks_artist_slug_key
        parts = column.split("_")
        length = next((n for n in range(len(parts), 0, -1) if words[:n] == parts[:n]), 0)
        if not length:
            return False
        words = words[length:]
    return not words
