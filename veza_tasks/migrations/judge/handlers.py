"""What is done about each kind of action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, spelled
from veza_tasks.migrations.judge import (
    columns,
    constraints,
    functions,
    objects,
    rights,
    session,
    tables,
    views,
)
from veza_tasks.migrations.judge.state import RELATIONS, State


def drop(state: State, act: a.Drop) -> None:
    kind = act.kind
    if kind in RELATIONS:
        tables.drop_relation(state, act)
    elif kind == "function":
        functions.drop_function(state, act)
    elif kind in ("type", "domain"):
        objects.drop_type(state, act)
    elif kind == "trigger":
        functions.drop_trigger(state, act)
    elif kind == "policy":
        rights.drop_policy(state, act)
    elif kind == "rule":
        objects.drop_rule(state, act)
    else:
        objects.drop_object(state, act)


def rename(state: State, act: a.Rename) -> None:
    schema = state.schema
    if act.kind in RELATIONS:
        tables.rename_relation(state, act, Name("", act.new))
    elif act.kind == "function":
        functions.rename_function(state, act, act.new, act.new)
    elif act.kind in ("type", "domain"):
        name = schema.resolve(act.name, schema.types)
        objects.rename_type(state, act, name, Name(name.schema, act.new), spelled(act.new))
    else:
        objects.rename_object(state, act, act.name._replace(name=act.new), spelled(act.new))


def move(state: State, act: a.Move) -> None:
    schema = state.schema
    if act.kind in RELATIONS:
        tables.rename_relation(state, act, Name(act.schema, ""))
    elif act.kind == "function":
        functions.rename_function(state, act, "", act.schema)
    elif act.kind in ("type", "domain"):
        name = schema.resolve(act.name, schema.types)
        objects.rename_type(state, act, name, Name(act.schema, name.name), str(Name(act.schema, name.name)))
    else:
        new = Name(act.schema, act.name.name)
        objects.rename_object(state, act, new, str(new))


def rename_part(state: State, act: a.RenamePart) -> None:
    if act.part == "value":
        objects.rename_value(state, act)
        return
    if act.part == "attribute" or act.kind == "type":
        objects.change(state, a.Change(act.start, act.end, "alter-attribute", "type", act.name, act.old))
        return
    relation = state.schema.relation(act.name)
    if relation is None or (not relation.old and not state.learning):
        return
    if act.part == "constraint":
        constraints.rename_constraint(state, act, relation)
    else:
        columns.rename_column(state, act, relation)


HANDLERS: dict[type, Callable[[State, Any], None]] = {
    a.Transaction: session.transaction, a.Setting: session.setting, a.Unbounded: session.unbounded,
    a.Calls: session.calls, a.Do: session.do, a.Prepare: session.prepare, a.Execute: session.execute,
    a.Unknown: session.unknown,
    a.Drop: drop, a.Rename: rename, a.Move: move, a.RenamePart: rename_part,
    a.CreateTable: tables.create_table, a.AddColumn: tables.add_column, a.Attach: tables.attach,
    a.ChangeTable: tables.change_table, a.Locks: tables.locks, a.Rows: tables.rows, a.Heavy: tables.heavy,
    a.Catalogue: tables.catalogue,
    a.CreateView: views.create_view, a.Refresh: views.refresh,
    a.DropColumn: columns.drop_column, a.AlterColumn: columns.alter_column,
    a.AddConstraint: constraints.add_constraint, a.DropConstraint: constraints.drop_constraint,
    a.CreateIndex: constraints.create_index,
    a.CreateFunction: functions.create_function, a.CreateTrigger: functions.create_trigger,
    a.CreateType: objects.create_type, a.AddValue: objects.add_value, a.CreateDomain: objects.create_domain,
    a.CreateObject: objects.create_object, a.Change: objects.change,
    a.Policy: rights.create_policy, a.Privileges: rights.privileges, a.Membership: rights.membership,
    a.RoleChange: rights.role_change,
}  # fmt: skip
