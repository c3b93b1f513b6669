"""Where the judge stands: what is known of the schema, what was found, and which transaction is open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from veza_tasks.migrations.actions import Name
from veza_tasks.migrations.dynamic import Unresolved
from veza_tasks.migrations.judge.findings import CannotTell, Options, Pending, Placed, Source
from veza_tasks.migrations.lexer import Statement
from veza_tasks.migrations.schema import Key, Relation, Schema

VIEWS = frozenset(["view", "materialized view"])
TABLES = frozenset(["table", "foreign table"])
RELATIONS = TABLES | VIEWS | {"sequence", "index"}

# Findings that are looked for by what they are about, not by their whole key
_GROUPED = frozenset([
    "constraint", "constraint name", "function", "partition", "policy", "policy gone", "policy altered",
])  # fmt: skip


class MadeKey(NamedTuple):
    """A unique index that was made on an old table, and where its finding stands if there is one."""

    table: Relation
    finding: tuple[int, int, str]


class State:
    """What the statements so far have led to. A finding is pending until its transaction commits."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.schema = Schema()
        self.sources: list[Source] = []
        self.source = 0
        self.learning = False  # from the history, which nobody finds fault with
        self.found: dict[tuple[int, int, str], Pending] = {}
        self.locking: list[Pending] = []
        self.savepoints: list[tuple[str, int]] = []
        self.in_block = False
        self.lock_timeout: dict[str, bool] = {}
        self.ran: set[tuple[Name, int]] = set()
        self.running: list[tuple[Iterator[Statement | Unresolved], int]] = []
        self.trigger_dropped: set[str] = set()
        self.unproven: set[str] = set()  # made IF NOT EXISTS, as findings call it
        self.made_keys: dict[Key, MadeKey] = {}

    def add(self, key: tuple[Key, ...], rule: str, act: Placed, *, about: Any = None, **fields: str) -> None:
        """A break, unless this transaction heals it: `heal` with the same key."""
        schema = self.schema
        if self.learning or key in schema.pending:
            return
        pending = Pending(rule, fields, self.source, act.start, act.end, about)
        if self.unproven:
            table, column, name = (fields.get(field, "") for field in ("table", "column", "name"))
            found = (what for what in (f"{table}.{column}", table, name) if what in self.unproven)
            pending = pending._replace(unproven=next(found, ""))
        schema.put(schema.pending, key, pending)
        if key[0] in _GROUPED:
            schema.put(schema.groups_pending.setdefault(key[:2], {}), key, None)

    def warn(self, rule: str, act: Placed, **fields: str) -> None:
        self.add(("warning", rule, self.source, act.start), rule, act, **fields)

    def heal(self, *key: Key) -> bool:
        """Whether there was such a finding; it is no more."""
        schema = self.schema
        if key not in schema.pending:
            return False
        schema.remove(schema.pending, key)
        if key[0] in _GROUPED:
            schema.remove(schema.groups_pending[key[:2]], key)
        return True

    def pending_about(self, what: str, identity: Key) -> list[tuple[Any, Pending]]:
        """The findings of one kind about one table."""
        pending = self.schema.pending
        return [(key, pending[key]) for key in self.schema.groups_pending.get((what, identity), ())]

    def lock(self, act: Placed, table: Name) -> None:
        """The table is locked against all others, maybe for as long as it takes to get there."""
        if self.learning or any(self.lock_timeout.values()):
            return
        relation = self.schema.relation(table)
        if relation is not None and relation.old:
            fields = {"table": str(table)}
            self.locking.append(Pending("missing-lock-timeout", fields, self.source, act.start, act.end))

    def settle_lock_timeout(self, here: int) -> None:
        """One warning a file, at the first statement that is not refused anyway."""
        if not self.locking:
            return
        broken = [
            (pending.start, pending.end)
            for (source, _, rule), pending in self.found.items()
            if source == here and self.options.level(rule) == "error"
        ]
        for pending in self.locking:
            if not any(pending.start <= start < pending.end for start, _ in broken):
                self.found[here, pending.start, pending.rule] = pending
                return

    def cannot_tell(self, offset: int, what: str) -> CannotTell:
        return CannotTell.at(self.sources[self.source], offset, what)
