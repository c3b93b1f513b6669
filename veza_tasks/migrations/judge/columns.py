"""The columns of old tables: what is in a row that the old binary writes, and which writes fail."""

from __future__ import annotations

from collections.abc import Callable

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, Tokens, spelled, text_of
from veza_tasks.migrations.conditions import ANY, DISTINCT, SOME, Value, value_of
from veza_tasks.migrations.dynamic import is_placeholder
from veza_tasks.migrations.failing import failing
from veza_tasks.migrations.judge.findings import Placed
from veza_tasks.migrations.judge.state import State
from veza_tasks.migrations.schema import SERIAL, Column, Key, Relation

_STARTS_AT_ONE = (
    "An INSERT of the running binary that leaves out {table}.{column} takes a number that is in use: the new identity sequence "
    "starts at 1. START WITH, RESTART or setval() in the same transaction lets it go on."
)


def old_row(state: State, relation: Relation) -> Callable[[str], Value]:
    """The value of a column in a row that the old binary writes."""

    def value(column: str) -> Value:
        fact = state.schema.column(relation, column)
        if fact is None:
            return ANY
        if fact.old:
            return SOME if fact.not_null else ANY
        return fact.value

    return value


def new_column(state: State, column: a.Column) -> Column:
    """The fact of a column that is made here, before its constraints."""
    kind = state.schema.type(column.type)
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


def required(state: State, act: Placed, relation: Relation, column: str, rule: str, table: Name) -> bool:
    """Whether old INSERTs fail for want of a value; keeps the finding in step with the column."""
    fact = state.schema.column(relation, column)
    key = ("required", relation.key, column)
    if fact is None or (fact.old and not fact.maybe_new) or not fact.not_null or fact.default:
        state.heal(*key)
        return False
    state.add(key, rule, act, table=str(table), column=spelled(column))
    return True


def fails(
    state: State, act: a.AddColumn | a.CreateIndex, relation: Relation, key: tuple[Key, ...], tokens: Tokens, what: str,
    *, predicate: Tokens = (),
) -> bool:  # fmt: skip
    """Whether an expression that every write to an old table computes fails for values that were valid."""

    def old(name: str) -> str | None:
        fact = state.schema.column(relation, name)
        return fact.type if fact is not None and fact.old else None

    failure = failing(tokens, old, guard=predicate)
    if not failure:
        return False
    part = text_of(failure).replace(" :: ", "::")
    state.add(key, "failing-expression", act, table=str(act.table), what=what, part=part)
    return True


def rename_column(state: State, act: a.RenamePart, relation: Relation) -> None:
    schema = state.schema
    fact = schema.column(relation, act.old)
    if fact is None:
        return
    schema.put(schema.columns, (relation.key, act.old), None)
    schema.put(schema.columns, (relation.key, act.new), fact)
    if not fact.old:
        state.heal("required", relation.key, act.old)
        required(state, act, relation, act.new, "add-required-column", act.name)
    elif act.new == fact.was:
        state.heal("column", relation.key, fact.was)
    elif act.old == fact.was and relation.key not in schema.behind:
        state.add(
            ("column", relation.key, fact.was),
            "rename-column",
            act,
            table=str(act.name),
            column=spelled(act.old),
            new=spelled(act.new),
        )


def drop_column(state: State, act: a.DropColumn) -> None:
    schema = state.schema
    relation = schema.relation(act.table)
    if relation is None:
        return
    fact = schema.column(relation, act.column)
    if fact is None:
        return
    schema.put(schema.columns, (relation.key, act.column), None)
    if relation.old and fact.old:
        state.add(
            ("dropped column", relation.key, fact.was),
            "drop-column",
            act,
            table=str(act.table),
            column=spelled(act.column),
        )
    else:
        state.heal("required", relation.key, act.column)
        state.heal("failing", relation.key, act.column)
        _heal_keys_over(state, relation, act.column)


def _heal_keys_over(state: State, relation: Relation, column: str) -> None:
    """A dropped column takes its constraints along."""
    for key, pending in state.pending_about("constraint", relation.key):
        if column in (pending.about or ()):
            state.heal(*key)


def alter_column(state: State, act: a.AlterColumn) -> None:
    schema = state.schema
    relation = schema.relation(act.table)
    if relation is None or (not relation.old and not state.learning):
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
                state.add(("type", relation.key, fact.was), "alter-column-type", act, **names, type=shown)
        case "default":
            value = value_of(act.expression) if act.expression else None
            there = value is not None
            schema.put(
                schema.columns, place, fact._replace(default=there, value=fact.value if old else value)
            )
            if there:
                state.heal("default", relation.key, fact.was)
                state.heal("required", relation.key, act.column)
            elif not old:
                required(state, act, relation, act.column, "drop-default", act.table)
            elif fact.default is not False:
                state.add(("default", relation.key, fact.was), "drop-default", act, **names)
        case "not null":
            schema.put(schema.columns, place, fact._replace(not_null=True))
            if not old:
                required(state, act, relation, act.column, "set-not-null", act.table)
            elif not fact.not_null:
                state.add(("not null", relation.key, fact.was), "set-not-null", act, **names)
        case "nullable":
            undone = state.heal("not null", relation.key, fact.was)
            was = old and not undone and not fact.maybe_new and not state.learning
            schema.put(schema.columns, place, fact._replace(not_null=was))
            state.heal("required", relation.key, act.column)
        case "add identity":
            schema.put(schema.columns, place, fact._replace(default=True, value=DISTINCT))
            state.heal("required", relation.key, act.column)
            home = schema.resolve(act.table, schema.relations)
            sequence = Name(home.schema, f"{home.name}_{act.column}_seq")
            schema.put(schema.relations, sequence, Relation(schema.new_key(), sequence, False, "sequence"))
            dropped = ("default", relation.key, fact.was)
            if act.restart:
                state.heal(*dropped)
            elif dropped in schema.pending:
                pending = schema.pending[dropped]
                schema.put(schema.pending, dropped, pending._replace(why=_STARTS_AT_ONE))
                schema.put(schema.unstarted, sequence.name, dropped)
            if old and act.always:
                state.add(("always", relation.key, fact.was), "identity-always", act, **names)
        case "set identity" if old:
            if act.always:
                state.add(("always", relation.key, fact.was), "identity-always", act, **names)
            elif not act.restart:
                state.heal("always", relation.key, fact.was)
            home = schema.resolve(act.table, schema.relations)
            if act.restart and not start_sequence(state, f"{home.name}_{act.column}_seq"):
                name = f"the sequence of {act.table}.{spelled(act.column)}"
                state.add(("sequence", relation.key, fact.was), "alter-sequence", act, name=name, what="this")
        case "drop identity":
            schema.put(schema.columns, place, fact._replace(default=False, value=ANY if old else None))
            state.heal("always", relation.key, fact.was)
            if old:
                state.add(("default", relation.key, fact.was), "drop-identity", act, **names)
            else:
                required(state, act, relation, act.column, "drop-identity", act.table)
        case "drop expression" | "set expression" if old:
            state.add(("generated", relation.key, fact.was), "alter-generated", act, **names)


def start_sequence(state: State, name: str) -> bool:
    """A new identity sequence, by its name, goes on where the dropped default's left off: says who starts it."""
    unstarted = state.schema.unstarted
    if is_placeholder(name):
        for dropped in unstarted.values():
            state.heal(*dropped)
    dropped = unstarted.get(name.rpartition(".")[2].strip('"').rstrip("0123456789"))
    return dropped is not None and state.heal(*dropped)
