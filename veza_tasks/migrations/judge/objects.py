"""Types and domains, and the kinds of objects of which only the name matters."""

from __future__ import annotations

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, quoted, spelled
from veza_tasks.migrations.conditions import value_of
from veza_tasks.migrations.judge.columns import start_sequence
from veza_tasks.migrations.judge.rights import matters
from veza_tasks.migrations.judge.state import State
from veza_tasks.migrations.schema import Key, Relation, Type

_UNQUALIFIED = frozenset([
    "schema", "extension", "cast", "language", "server", "foreign-data wrapper", "database", "access method",
    "user mapping", "transform",
])  # fmt: skip
_NEVER_NAMED = frozenset([  # in the statements of a binary
    "server", "foreign-data wrapper", "language", "conversion", "operator class", "operator family", "tablespace",
    "text search parser", "text search template",
])  # fmt: skip
_NAMED_BY_DETAIL = frozenset(["create-rule", "drop-rule", "add-check"])
_HARMLESS_DROPS = frozenset(["statistics", "publication", "subscription", "event trigger", "tablespace"])


def create_type(state: State, act: a.CreateType) -> None:
    schema = state.schema
    name = schema.to_create(act.name)
    old = _made_anew(state, "type", name, act.labels)
    schema.put(schema.types, name, Type(old, labels=act.labels))


def _made_anew(state: State, kind: str, name: Name, labels: tuple[str, ...] | None) -> bool:
    """Whether a type takes the place of one that nothing used: without CASCADE it could not have been dropped."""
    pending = state.schema.pending.get(("type", name, kind, "unused"))
    if pending is None or (pending.about is not None and not set(pending.about) <= set(labels or ())):
        return False
    return state.heal("type", name, kind, "unused")


def create_domain(state: State, act: a.CreateDomain) -> None:
    schema = state.schema
    base = schema.type(act.base)
    default = act.default is not None and value_of(act.default) is not None
    default = default or (act.default is None and base is not None and base.default)
    refuses_null = any(value_of(check, lambda _: None) is False for check in act.checks)
    not_null = act.not_null or refuses_null or (base is not None and base.not_null)
    name = schema.to_create(act.name)
    old = _made_anew(state, "domain", name, None)
    schema.put(schema.types, name, Type(old, not_null, default))


def drop_type(state: State, act: a.Drop) -> None:
    schema = state.schema
    name = schema.resolve(act.name, schema.types)
    kind = schema.type(act.name)
    if kind is None:
        return
    schema.put(schema.types, name, None)
    if kind.old:
        state.add(
            ("type", name, act.kind, "used" if act.cascade else "unused"),
            "drop-type",
            act,
            about=kind.labels,
            name=str(act.name),
            kind=act.kind,
        )


def rename_type(state: State, act: a.Rename | a.Move, name: Name, new: Name, shown: str) -> None:
    schema = state.schema
    kind = schema.type(act.name)
    if kind is None:
        return
    schema.put(schema.types, name, None)
    schema.put(schema.types, new, kind)
    if kind.old and not state.heal("named", "type", new):
        state.add(("named", "type", name), "rename-object", act, kind=act.kind, name=str(act.name), new=shown)


def rename_value(state: State, act: a.RenamePart) -> None:
    schema = state.schema
    name, kind = schema.resolve(act.name, schema.types), schema.type(act.name)
    if kind is None or not kind.old:
        return
    if act.old in kind.added:
        schema.put(schema.types, name, kind._replace(added=kind.added - {act.old} | {act.new}))
    elif not state.heal("value", name, act.new):
        state.add(
            ("value", name, act.old),
            "rename-enum-value",
            act,
            name=str(act.name),
            old=quoted(act.old),
            new=quoted(act.new),
        )


def add_value(state: State, act: a.AddValue) -> None:
    schema = state.schema
    kind = schema.type(act.name)
    if kind is None:
        return
    if state.learning:
        kind = kind._replace(labels=None if kind.labels is None else (*kind.labels, act.label))
    elif not act.if_not_exists:
        kind = kind._replace(added=kind.added | {act.label})
    schema.put(schema.types, schema.resolve(act.name, schema.types), kind)


def create_object(state: State, act: a.CreateObject) -> None:
    schema, kind = state.schema, act.kind
    if kind == "sequence":
        name = schema.to_create(act.name)
        if act.certain or name in schema.relations:
            schema.put(schema.relations, name, Relation(schema.new_key(), name, False, "sequence"))
        elif not state.learning:
            state.unproven.update((str(act.name), str(name)))
    elif kind == "role":
        schema.put(schema.roles, act.name.name, True)
    elif kind == "rule":
        relation = schema.relation(act.on) if act.on else None
        if relation is not None and relation.old and not state.heal("rule gone", relation.key, act.name.name):
            state.add(
                ("rule", relation.key, act.name.name),
                "create-rule",
                act,
                table=str(act.on),
                name=str(act.name),
            )
    else:
        name = act.name if kind in _UNQUALIFIED else schema.to_create(act.name)
        if state.heal("object", kind, name, True):
            schema.put(schema.objects, (kind, name), True)
        elif act.certain and not (kind == "schema" and name.name == "public"):
            schema.put(schema.objects, (kind, name), False)
        elif not act.certain and kind != "language" and not state.learning:  # which can be replaced
            state.unproven.add(str(act.name))


def drop_rule(state: State, act: a.Drop) -> None:
    relation = state.schema.relation(act.on) if act.on else None
    if relation is not None and relation.old and not state.heal("rule", relation.key, act.name.name):
        state.add(
            ("rule gone", relation.key, act.name.name),
            "drop-rule",
            act,
            table=str(act.on),
            name=str(act.name),
        )


def drop_object(state: State, act: a.Drop) -> None:
    schema, kind = state.schema, act.kind
    if kind in _HARMLESS_DROPS:
        return
    if kind in ("role", "owned"):
        if matters(state, act.name.name) and not schema.roles.get(act.name.name):
            state.add(("role", act.name.name, kind), "drop-role", act, name=str(act.name))
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
    state.add(("object", kind, name, again), rule, act, kind=kind, name=str(act.name))
    schema.put(schema.objects, (kind, name), None)


def rename_object(state: State, act: a.Rename | a.Move, new: Name, shown: str) -> None:
    """`new` is the whole name; a rename back heals."""
    schema, kind = state.schema, act.kind
    if kind != "role" and schema.objects.get((kind, act.name)) is False:
        schema.put(schema.objects, (kind, act.name), None)
        schema.put(schema.objects, (kind, new), False)
        return
    if kind == "role":
        named = not schema.roles.get(act.name.name) and matters(state, act.name.name)
    else:
        named = kind not in _NEVER_NAMED
    if named and not state.heal("named", kind, new):
        state.add(("named", kind, act.name), "rename-object", act, kind=kind, name=str(act.name), new=shown)


def change(state: State, act: a.Change) -> None:
    schema = state.schema
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
            start_sequence(state, act.name.name)
        return
    key = (act.rule, identity, act.part)
    if act.heals:
        state.heal(*key)
        return
    shown = act.detail if act.rule in _NAMED_BY_DETAIL else str(act.name)
    state.add(
        key,
        act.rule,
        act,
        kind=act.kind,
        name=shown,
        table=str(act.name),
        column=spelled(act.part) if act.part else "",
        what=act.detail,
    )
