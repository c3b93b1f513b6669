"""Views: which of them stand in for what the old binary knows by their name."""

from __future__ import annotations

from typing import Any

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, spelled
from veza_tasks.migrations.judge.objects import change
from veza_tasks.migrations.judge.state import VIEWS, State
from veza_tasks.migrations.schema import Column, Relation

_COLUMN_LOST = "Queries of the running binary on {name} fail where they name what the new one leaves out: "


def create_view(state: State, act: a.CreateView) -> None:
    schema = state.schema
    name = schema.to_create(act.name, temporary=act.temporary)
    gone = name in schema.relations and schema.relations[name] is None
    if (act.replace or act.if_not_exists) and not gone and not state.learning and not act.temporary:
        relation = schema.relation(act.name)
        if act.if_not_exists:
            state.unproven.update((str(act.name), str(name)))
        if relation is not None and relation.old and act.replace:
            for option in sorted(act.options):
                change(
                    state,
                    a.Change(act.start, act.end, "alter-view-options", "table", act.name, option, option),
                )
        elif relation is not None and not relation.kind:  # whoever made it, and whenever
            schema.put(schema.relations, name, relation._replace(kind=act.kind))
        return
    key = schema.new_key()
    was = schema.pending.get(("relation", name))
    old = stands_in(state, name, act, act.kind, act.query)
    relation = Relation(key, name, old, act.kind, known=act.query.columns is not None, query=act.query)
    schema.put(schema.relations, name, relation)
    if state.learning:
        for column in act.query.columns or ():
            schema.put(schema.columns, (key, column), Column(True, column))
    if old:
        if not act.populated:
            state.add(("nodata", key), "view-without-data", act, name=str(act.name))
        if was is not None and was.rule == "rename-table" and was.about.kind not in VIEWS:
            return  # the rights on the table, and its rows, are as they were
        for option in sorted(act.options):
            change(
                state, a.Change(act.start, act.end, "alter-view-options", "table", act.name, option, option)
            )


def stands_in(state: State, name: Name, act: Any, kind: str, query: a.Query) -> bool:
    """Whether the view takes the place of what the old binary knows by this name; heals if it does."""
    schema = state.schema
    pending = schema.pending.get(("relation", name))
    if pending is None:
        return False
    lost: Relation = pending.about
    if pending.rule == "drop-view" or lost.kind in VIEWS:
        if lost.known and query.columns is not None and not query.everything:
            before = {
                column
                for (key, column), fact in schema.columns.items()
                if key == lost.key and fact is not None
            }
            if not before <= query.columns.keys():
                missing = ", ".join(spelled(column) for column in sorted(before - query.columns.keys()))
                schema.put(
                    schema.pending, ("relation", name), pending._replace(why=_COLUMN_LOST + _braced(missing))
                )
                return False
        if kind == "materialized view" and lost.kind == "view" and query.plain:
            return False
        state.heal("relation", name)
        state.add(("grants", str(name)), "grants-lost", act, name=spelled(name.name))
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
                state.heal("column", lost.key, output)
    state.heal("relation", name)
    schema.put(schema.behind, lost.key, name)
    return True


def refresh(state: State, act: a.Refresh) -> None:
    relation = state.schema.relation(act.name)
    if relation is None or not relation.old:
        return
    if act.populated:
        state.heal("nodata", relation.key)
    else:
        state.add(("nodata", relation.key), "view-without-data", act, name=str(act.name))


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
