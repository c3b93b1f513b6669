"""Tables, and what they have in common with views, sequences and indexes: they are dropped, renamed and moved by name."""

from __future__ import annotations

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, Tokens, spelled
from veza_tasks.migrations.columns import elements_of
from veza_tasks.migrations.judge.columns import fails, new_column, required
from veza_tasks.migrations.judge.constraints import (
    constrain,
    drop_index,
    heal_lost_key,
    learn_constraint,
    may_be_key,
    restricts_nothing,
)
from veza_tasks.migrations.judge.rights import switch_security
from veza_tasks.migrations.judge.state import RELATIONS, TABLES, VIEWS, State
from veza_tasks.migrations.judge.views import stands_in
from veza_tasks.migrations.schema import SERIAL, Relation, implicit_names

_KEYS_OF_COLUMNS = frozenset(["primary key", "unique"])
_TABLE_SWAPPED = (
    "Another table takes the name {table}: rows that the running binary wrote since they were copied stay behind in {new}, "
    "and so do the rights, keys, sequences, triggers and foreign keys that hang on it."
)
_STABLE = frozenset([
    "now", "current_timestamp", "statement_timestamp", "transaction_timestamp", "current_date",
    "localtimestamp", "current_user", "lower", "upper", "coalesce", "to_timestamp", "make_date",
    "make_interval", "array", "jsonb_build_object", "json_build_object", "jsonb_build_array",
    "current_setting", "to_jsonb", "to_json", "concat", "md5", "date_trunc", "repeat", "replace",
    "timezone", "numeric", "varchar", "char", "interval", "timestamp", "timestamptz", "time",
])  # fmt: skip


def create_table(state: State, act: a.CreateTable) -> None:
    schema = state.schema
    name = schema.to_create(act.name, temporary=act.temporary)
    if act.if_not_exists and schema.relations.get(name, state) is not None and not state.learning:
        state.unproven.update((str(act.name), str(name)))
        return  # it may be there, and old, with other columns
    relation = Relation(
        schema.new_key(), name, False, act.kind, known=act.complete, on_commit_drop=act.drops_on_commit,
        definition=act.definition,
    )  # fmt: skip
    if state.learning:
        columns, constraints, like = elements_of(act.definition)
        relation = relation._replace(known=act.complete and like is None, definition=())
        schema.put(schema.relations, name, relation)
        for column in columns:
            _learn_column(state, relation, column)
        for constraint in constraints:
            learn_constraint(state, relation, constraint)
    else:
        schema.put(schema.relations, name, relation)
        _replaced(state, name)


def _replaced(state: State, name: Name) -> None:
    """Another table takes the name of one that was renamed: what was said of the latter was not the whole truth."""
    place = ("relation", name)
    pending = state.schema.pending.get(place)
    if pending is not None and pending.rule == "rename-table":
        state.schema.put(state.schema.pending, place, pending._replace(why=_TABLE_SWAPPED))


def _made_beside(state: State, table: Name, definition: Tokens) -> None:
    """The sequence and indexes that a new column or key of an old table brings along."""
    schema = state.schema
    for found in implicit_names(table.name, definition):
        name = Name(table.schema, found)
        schema.put(schema.relations, name, Relation(schema.new_key(), name, False))


def _learn_column(state: State, relation: Relation, column: a.Column) -> None:
    schema = state.schema
    schema.put(schema.columns, (relation.key, column.name), new_column(state, column))
    for constraint in column.constraints:
        learn_constraint(state, relation, constraint)


def add_column(state: State, act: a.AddColumn) -> None:
    schema, column = state.schema, act.column
    relation = schema.relation(act.table)
    if relation is None:
        return
    if state.learning:
        _learn_column(state, relation, column)
        return
    home = schema.resolve(act.table, schema.relations)
    serial = column.type.name in SERIAL or column.generated == "identity"
    if serial or any(constraint.kind in _KEYS_OF_COLUMNS for constraint in column.constraints):
        if not relation.old:
            schema.put(
                schema.relations, home, relation._replace(definition=(*relation.definition, *act.definition))
            )
        elif not act.if_not_exists:
            _made_beside(state, home, act.definition)
    if not relation.old:
        return
    fact = new_column(state, column)
    if act.if_not_exists:
        fact = fact._replace(old=True, maybe_new=True)
        state.unproven.add(f"{act.table}.{spelled(column.name)}")
    schema.put(schema.columns, (relation.key, column.name), fact)
    if required(state, act, relation, column.name, "add-required-column", act.table):
        return
    before = len(schema.pending)
    if column.generated == "expression" and column.stored:
        what = f"the column {spelled(column.name)}"
        fails(state, act, relation, ("failing", relation.key, column.name), column.expression, what)
    checked_at_once = False
    for constraint in column.constraints:
        constrain(state, relation, act.table, constraint, act)
        checked_at_once = checked_at_once or (
            constraint.kind in ("check", "foreign key") and constraint.valid
        )
    if len(schema.pending) > before:
        return
    volatile = (
        column.generated == "identity" or column.type.name in SERIAL or (column.generated and column.stored)
    )
    if volatile or (column.default is not None and _is_volatile(column.default)):
        state.warn("table-rewrite", act, table=str(act.table), what=f"the new column {spelled(column.name)}")


def drop_relation(state: State, act: a.Drop) -> None:
    schema = state.schema
    name = schema.resolve(act.name, schema.relations)
    relation = schema.relation(act.name)
    if relation is None:
        return
    schema.put(schema.relations, name, None)
    for hidden in [key for key, view in schema.behind.items() if view == name]:
        schema.remove(schema.behind, hidden)
    kind = relation.kind or act.kind
    if kind == "index":
        drop_index(state, act, name, relation)
    elif relation.old:
        rule = (
            "drop-view" if act.kind in VIEWS else "drop-sequence" if act.kind == "sequence" else "drop-table"
        )
        key = ("relation", relation.home) if act.kind in VIEWS else ("dropped", relation.home)
        state.add(key, rule, act, about=relation, table=str(act.name), name=str(act.name), kind=act.kind)
        if act.kind in TABLES:
            state.lock(act, act.name)


def rename_relation(state: State, act: a.Rename | a.Move, new: Name) -> None:
    """RENAME TO and SET SCHEMA: `new` has what changes."""
    schema = state.schema
    name = schema.resolve(act.name, schema.relations)
    relation = schema.relation(act.name)
    if relation is None:
        return
    new = Name(new.schema or name.schema, new.name or name.name)
    schema.put(schema.relations, name, None)
    if (
        relation.query is not None
        and not relation.old
        and stands_in(state, new, act, relation.kind, relation.query)
    ):
        relation = relation._replace(old=True, home=new)
        schema.put(schema.relations, new, relation)
        return
    schema.put(schema.relations, new, relation)
    if not relation.old:
        _replaced(state, new)
        unique = relation.unique
        if unique is not None and relation.key in state.made_keys:
            table = state.made_keys[relation.key].table
            if heal_lost_key(
                state, table, new.name, tuple(unique.elements), unique.predicate, None, certain=True
            ):
                restricts_nothing(state, relation.key)
        return
    kind = relation.kind or act.kind
    if kind == "index":
        if isinstance(act, a.Move):
            return
        unique = relation.unique
        relied = unique.constraint if unique else may_be_key(name.name, index=True)
        if relied and not state.heal("index name", new):
            state.add(
                ("index name", name),
                "rename-constraint",
                act,
                table="its table",
                name=str(act.name),
                new=spelled(new.name),
            )
        return
    if new != relation.home:
        _replaced(state, new)
    if new == relation.home:
        state.heal("relation", relation.home)
    elif name == relation.home:
        shown = spelled(new.name) if isinstance(act, a.Rename) else str(new)
        about = relation if relation.kind else relation._replace(kind=act.kind)
        state.add(
            ("relation", relation.home),
            "rename-table",
            act,
            about=about,
            table=str(act.name),
            name=str(act.name),
            kind=kind,
            new=shown,
        )


def attach(state: State, act: a.Attach) -> None:
    schema = state.schema
    parent, child = schema.relation(act.parent), schema.relation(act.child)
    if parent is None or child is None:
        return
    place = (child.key, parent.key)
    names = {"table": str(act.parent), "name": str(act.child)}
    if act.attach:
        if state.heal("partition", *place):
            return
        schema.put(schema.attached, place, True)
        bounded = any(pending.about for _, pending in state.pending_about("partition", child.key))
        made = schema.relations.get(schema.resolve(act.child, schema.relations))  # be it by a placeholder
        old = child.old and (made is None or made.old)
        if act.partition and old and not bounded:
            state.add(("bound", *place), "attach-partition", act, **names)
    elif schema.attached.get(place):
        state.heal("bound", *place)
    elif parent.old and child.old:
        state.add(("partition", *place), "detach-partition", act, about=act.partition, **names)


def change_table(state: State, act: a.ChangeTable) -> None:
    schema = state.schema
    if act.kind in ("role", "database", "schema") or act.kind not in RELATIONS:
        old = schema.objects.get((act.kind, act.table)) is not False
        if act.kind in ("type", "domain"):
            kind = schema.type(act.table)
            old = kind is not None and kind.old
        elif act.kind == "function":
            functions = schema.functions.get(schema.resolve(act.table, schema.functions), ())
            old = not functions or functions[0].old
        if old and act.what == "owner":
            state.warn("owner-changed", act, name=str(act.table))
        return
    relation = schema.relation(act.table)
    if relation is None or (not relation.old and not state.learning):
        return
    match act.what:
        case "rls":
            switch_security(state, act, relation)
        case "owner":
            state.warn("owner-changed", act, name=str(act.table))
        case "tablespace" | "logged" | "access method":
            what = {
                "tablespace": "SET TABLESPACE",
                "logged": "SET LOGGED or UNLOGGED",
                "access method": "SET ACCESS METHOD",
            }
            state.warn("table-rewrite", act, table=str(act.table), what=what[act.what])
        case "disable trigger":
            if not schema.triggers.get((relation.key, act.detail)):
                state.warn("drop-trigger", act, table=str(act.table), name=spelled(act.detail or "all"))
        case "validate":
            if (relation.key, act.detail) in schema.unvalidated:
                state.warn(
                    "validate-in-same-transaction", act, table=str(act.table), name=spelled(act.detail)
                )


def locks(state: State, act: a.Locks) -> None:
    state.lock(act, act.table)


def rows(state: State, act: a.Rows) -> None:
    relation = state.schema.relation(act.table)
    if relation is not None and relation.old:
        rule = "truncate" if act.verb == "TRUNCATE" else "delete-all"
        state.add(("rows", rule, state.source, act.start, relation.key), rule, act, table=str(act.table))


def heavy(state: State, act: a.Heavy) -> None:
    relation = state.schema.relation(act.table) if act.table else None
    if act.table is None or (relation is not None and relation.old):
        table = str(act.table) if act.table else "every table"
        state.warn(act.rule, act, what=act.what, table=table)


def catalogue(state: State, act: a.Catalogue) -> None:
    relation = state.schema.relation(act.table)
    if relation is not None and relation.old:
        state.add(("catalogue", state.source, act.start), "change-catalogue", act, table=str(act.table))


def _is_volatile(tokens: Tokens) -> bool:
    """Whether a default may differ from row to row, so that ADD COLUMN rewrites the table."""
    for index, token in enumerate(tokens):
        if token.text == "(" and index and tokens[index - 1].kind in ("WORD", "QUOTED"):
            cast = index > 1 and tokens[index - 2].text == "::"
            if not cast and tokens[index - 1].name not in _STABLE:
                return True
    return False
