"""Transactions, settings, and the statements that run others."""

from __future__ import annotations

from itertools import pairwise

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.dynamic import run_by
from veza_tasks.migrations.judge.columns import start_sequence
from veza_tasks.migrations.judge.state import State


def commit(state: State) -> None:
    schema = state.schema
    if schema.log:  # something was done
        for pending in schema.pending.values():
            state.found.setdefault((pending.source, pending.start, pending.rule), pending)
        schema.pending.clear()
        schema.groups_pending.clear()
        schema.unvalidated.clear()
        schema.unstarted.clear()
        schema.log.clear()
    state.savepoints.clear()
    state.ran.clear()
    schema.path.pop("local", None)
    state.lock_timeout.pop("local", None)
    if schema.temporary:
        schema.forget_temporary(at_commit=True)


def transaction(state: State, act: a.Transaction) -> None:
    schema = state.schema
    match act.verb:
        case "begin":
            state.in_block = True
        case "commit":
            commit(state)
            state.in_block = act.chain
        case "rollback":
            schema.undo(0)
            state.savepoints.clear()
            state.in_block = act.chain
        case "savepoint":
            state.savepoints.append((act.name, len(schema.log)))
        case "rollback to":
            for index in range(len(state.savepoints) - 1, -1, -1):
                if state.savepoints[index][0] == act.name:
                    schema.undo(state.savepoints[index][1])
                    del state.savepoints[index + 1 :]
                    break
        case _:
            for index in range(len(state.savepoints) - 1, -1, -1):
                if state.savepoints[index][0] == act.name:
                    del state.savepoints[index:]
                    break


def unbounded(state: State, act: a.Unbounded) -> None:
    if state.in_block:
        state.warn("concurrently-in-transaction", act, what=act.what)


def setting(state: State, act: a.Setting) -> None:
    if act.name == "search_path":
        scope = "local" if act.local else "session"
        path = tuple(schema for schema in act.values if schema and not schema.startswith(("$", "pg_")))
        state.schema.put(state.schema.path, scope, path)
        if scope == "session":
            state.schema.put(state.schema.path, "local", ())
    elif act.name == "lock_timeout":
        on = bool(act.values) and act.values[0].strip("0 ") not in ("", "ms", "s", "min")
        state.lock_timeout["local" if act.local else "session"] = on
    elif (
        act.name == "standard_conforming_strings"
        and act.values[:1] in (("off",), ("false",), ("0",))
        and not state.learning
    ):
        raise state.cannot_tell(
            act.start, "standard_conforming_strings = off: strings mean something else from here on"
        )


def calls(state: State, act: a.Calls) -> None:
    schema = state.schema
    if schema.unstarted:
        # 't_id_seq', or pg_get_serial_sequence('t', 'id')
        for table, column in pairwise(("", *act.sequences)):
            start_sequence(state, column)
            start_sequence(state, f"{table}_{column}_seq")
    if not schema.functions or state.learning:
        return
    for name in act.functions:
        found = schema.resolve(name, schema.functions)
        functions = schema.functions.get(found)
        if functions and (found, len(functions)) not in state.ran:
            state.ran.add((found, len(functions)))
            for function in functions:
                state.running.append((run_by(function.statement), function.source))


def do(state: State, act: a.Do) -> None:
    state.running.append((run_by(act.statement), state.source))


def prepare(state: State, act: a.Prepare) -> None:
    state.schema.put(state.schema.prepared, act.name, act.statement)


def execute(state: State, act: a.Execute) -> None:
    prepared = state.schema.prepared.get(act.name)
    if prepared is not None:
        state.running.append((iter((prepared,)), state.source))


def unknown(state: State, act: a.Unknown) -> None:
    if act.table is not None:
        relation = state.schema.relation(act.table)
        if relation is None or not relation.old:
            return
    rule = "unresolved-dynamic-sql" if act.dynamic else "unknown-statement"
    state.add(("unknown", state.source, act.start), rule, act, what=act.what)
