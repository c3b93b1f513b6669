"""Who may do what: rights, roles, policies and row security."""

from __future__ import annotations

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, inputs, spelled, text_of
from veza_tasks.migrations.conditions import value_of
from veza_tasks.migrations.judge.state import State
from veza_tasks.migrations.schema import Key, PolicyFact, Relation

_FOR_A_ROLE = (
    "The running binary finds no row in {table} and may write none: row security is on, and policy {name} lets everything "
    "through for {role} alone. If that is the binary's role, name it in MIGRATIONS_ROLE."
)
# Rights that the statements of a binary need, by kind of object
_NEEDED = {
    "table": frozenset(["SELECT", "INSERT", "UPDATE", "DELETE"]),
    "sequence": frozenset(["USAGE", "SELECT", "UPDATE"]), "database": frozenset(["CONNECT", "TEMPORARY"]),
    "schema": frozenset(["USAGE"]), "function": frozenset(["EXECUTE"]), "type": frozenset(["USAGE"]),
    "language": frozenset(["USAGE"]), "server": frozenset(["USAGE"]),
    "large object": frozenset(["SELECT", "UPDATE"]),
}  # fmt: skip


def create_policy(state: State, act: a.Policy) -> None:
    schema = state.schema
    relation = schema.relation(act.table)
    if relation is None or (not relation.old and not state.learning):
        return
    policies = schema.policies.get(relation.key, {})
    known = policies.get(act.name)
    if act.alter:
        _alter_policy(state, act, relation, known)
        return
    # Without USING no row is seen, and without WITH CHECK what USING says holds for new rows too.
    using = act.command == "INSERT" or (bool(act.using) and value_of(act.using) is True)
    check = value_of(act.check) is True if act.check else using and act.command != "INSERT"
    mine = bool(state.options.application_role)
    for_us = not act.roles or "public" in act.roles or (mine and any(matters(state, x) for x in act.roles))
    all_rows = using and check
    text = (act.command, text_of(act.using), text_of(act.check), *act.roles)
    fact = PolicyFact(
        state.learning,
        act.permissive,
        act.command,
        all_rows and for_us,
        text,
        all_rows and not (for_us or mine),
    )
    schema.put(schema.policies, relation.key, {**policies, act.name: fact})
    if state.learning:
        return
    if not act.permissive:
        if _narrows(act) and not _security_is_off(state, relation):
            state.add(
                ("policy", relation.key, act.name),
                "restrictive-policy",
                act,
                table=str(act.table),
                name=spelled(act.name),
            )
        return
    for key, pending in state.pending_about("policy gone", relation.key):
        lost: PolicyFact | None = pending.about
        all_of_it = fact.lets_all_through and (
            act.command == "ALL" or (lost is not None and lost.command == act.command)
        )
        if all_of_it or (lost is not None and lost.text == text):
            state.heal(*key)
    _row_security(state, relation)


def _alter_policy(state: State, act: a.Policy, relation: Relation, known: PolicyFact | None) -> None:
    if (known is not None and not known.old) or state.learning or _security_is_off(state, relation):
        return
    if _narrows(act) or (act.roles and "public" not in act.roles):
        state.add(
            ("policy altered", relation.key, act.name),
            "alter-policy",
            act,
            table=str(act.table),
            name=spelled(act.name),
        )


def _narrows(act: a.Policy) -> bool:
    return any(tokens and value_of(tokens) is not True for tokens in (act.using, act.check))


def _security_is_off(state: State, relation: Relation) -> bool:
    """All of the table was seen, and row security never was on: policies do nothing."""
    return relation.known and relation.key not in state.schema.security


def drop_policy(state: State, act: a.Drop) -> None:
    schema = state.schema
    relation = schema.relation(act.on) if act.on else None
    if relation is None or (not relation.old and not state.learning):
        return
    policies = schema.policies.get(relation.key, {})
    name = act.name.name
    known = policies.get(name)
    if known is not None:
        schema.put(
            schema.policies, relation.key, {key: fact for key, fact in policies.items() if key != name}
        )
    if known is not None and not known.old:
        state.heal("policy", relation.key, name)
        _row_security(state, relation)
        return
    if (known is not None and not known.permissive) or _security_is_off(state, relation):
        return
    if any(other.lets_all_through and other.permissive and other.command == "ALL"
           for key, other in policies.items() if key != name):  # fmt: skip
        return
    state.add(
        ("policy gone", relation.key, name),
        "drop-policy",
        act,
        about=known,
        table=str(act.on),
        name=spelled(name),
    )


def _row_security(state: State, relation: Relation) -> None:
    """Row security that this set switched on: do its policies let everything through?"""
    schema = state.schema
    enabled = schema.security.get(relation.key)
    if enabled is None:
        return
    open_for = {
        policy.command
        for policy in schema.policies.get(relation.key, {}).values()
        if policy.permissive and policy.lets_all_through
    }
    if "ALL" in open_for or open_for >= {"SELECT", "INSERT", "UPDATE", "DELETE"}:
        state.heal("rls", relation.key)
    else:
        act, source = enabled
        again, state.source = state.source, source
        key = ("rls", relation.key)
        state.add(key, "row-security", act, table=str(act.table))
        pending = schema.pending.get(key)
        policies = schema.policies.get(relation.key, {})
        name = next((name for name, policy in policies.items() if policy.unsure), "")
        if name and pending is not None:
            roles = ", ".join(spelled(role) for role in policies[name].text[3:])
            fields = {"table": str(act.table), "name": spelled(name), "role": roles}
            schema.put(schema.pending, key, pending._replace(fields=fields, why=_FOR_A_ROLE))
        state.source = again


def switch_security(state: State, act: a.ChangeTable, relation: Relation) -> None:
    schema = state.schema
    match act.detail:
        case "enable" | "force":
            if act.detail == "enable" and relation.key in schema.security:
                return  # it was on before
            schema.put(schema.security, relation.key, (act, state.source))
            _row_security(state, relation)
        case "disable":
            schema.remove(schema.security, relation.key)
            state.heal("rls", relation.key)
            for what in ("policy gone", "policy", "policy altered"):
                for key, _ in state.pending_about(what, relation.key):
                    state.heal(*key)
        case _:
            enabled = schema.security.get(relation.key)
            if enabled is not None and enabled[0].detail == "force":
                schema.remove(schema.security, relation.key)
                state.heal("rls", relation.key)


def matters(state: State, role: str) -> bool:
    """Whether the running binary may be this role, or have rights through it."""
    mine = state.options.application_role
    if state.schema.roles.get(role):
        return False
    return not mine or role in ("", "public", mine) or role in _groups_of(state, mine)


def _groups_of(state: State, role: str) -> set[str]:
    found: set[str] = set()
    pending = [role]
    while pending:
        for group in state.schema.groups.get(pending.pop(), ()):
            if group not in found:
                found.add(group)
                pending.append(group)
    return found


def _subject(
    state: State, kind: str, name: Name, arguments: tuple[a.Argument, ...] | None
) -> tuple[Key, bool]:
    """What a GRANT or REVOKE is about, and whether the old binary knows it."""
    schema = state.schema
    if kind in ("table", "sequence"):
        relation = schema.relation(name)
        return ("relation", relation.key if relation else None), relation is not None and relation.old
    if kind == "function":
        found = schema.resolve(name, schema.functions)
        known = schema.functions.get(found, ())
        wanted = None if arguments is None else inputs(arguments)
        match = [function for function in known if wanted is None or inputs(function.arguments) == wanted]
        return ("function", found), (match[0].old if match else not schema.is_new_schema(found.schema))
    if kind == "type":
        type_fact = schema.type(name)
        return ("type", schema.resolve(name, schema.types)), type_fact is not None and type_fact.old
    return (kind, name), schema.objects.get((kind, name), True) is True


def privileges(state: State, act: a.Privileges) -> None:
    schema = state.schema
    needed = _NEEDED.get(act.kind, frozenset())
    named = act.privileges | {"TEMPORARY"} if "TEMP" in act.privileges else act.privileges
    rights = frozenset(right for right in named if _whole(right) in needed) if named else needed
    if not rights:
        return
    targets: list[tuple[Key, bool, str]] = []
    for name, arguments in act.objects:
        identity, old = _subject(state, act.kind, name, arguments)
        targets.append((identity, old, str(name)))
        if act.grant and any(right == _whole(right) for right in rights):
            state.heal("grants", str(schema.resolve(name, schema.relations)))
    for schema_name in act.in_schemas:
        old = not schema.is_new_schema(schema_name)
        targets.append(
            (("all", act.kind, schema_name), old, f"all {act.kind}s in schema {spelled(schema_name)}")
        )
    for identity, old, shown in targets:
        for role in act.roles:
            key = ("right", identity, role)
            if act.grant:
                _grant_right(state, act, key, identity, role, rights)
            elif old and matters(state, role) and not state.learning:
                if role == "public" and _public_has_none(state, act, identity):
                    continue
                _revoke_right(state, act, key, rights, role, shown)


def _public_has_none(state: State, act: a.Privileges, identity: Key) -> bool:
    """PUBLIC has no rights on tables unless someone gave them: known when the table was made in the history."""
    schema = state.schema
    if act.kind not in ("table", "sequence") or not act.objects:
        return False
    relation = schema.relation(act.objects[0][0])
    return relation is not None and relation.known and (identity, "public") not in schema.grants


def _grant_right(
    state: State, act: a.Privileges, key: tuple[Key, ...], identity: Key, role: str, rights: frozenset[str]
) -> None:
    schema = state.schema
    schema.put(schema.grants, (identity, role), True)
    for place in (key, ("right", identity, "public")):
        pending = schema.pending.get(place)
        if pending is None or (place != key and not matters(state, role)):
            continue
        left = frozenset(
            right for right in pending.about if right not in rights and _whole(right) not in rights
        )
        if left:
            fields = {**pending.fields, "what": _listed(left)}
            schema.put(schema.pending, place, pending._replace(about=left, fields=fields))
        else:
            state.heal(*place)


def _whole(right: str) -> str:
    """The right on all columns."""
    return right.partition(" (")[0]


def _revoke_right(
    state: State, act: a.Privileges, key: tuple[Key, ...], rights: frozenset[str], role: str, shown: str
) -> None:
    schema = state.schema
    pending = schema.pending.get(key)
    if pending is not None:
        rights = rights | pending.about
        schema.remove(schema.pending, key)
    state.add(key, "revoke", act, about=rights, what=_listed(rights), name=shown, role=spelled(role))


def membership(state: State, act: a.Membership) -> None:
    schema = state.schema
    for member in act.members:
        groups = schema.groups.get(member, frozenset())
        if act.grant:
            schema.put(schema.groups, member, groups | frozenset(act.roles))
        for role in act.roles:
            key = ("member", role, member)
            if act.grant:
                state.heal(*key)
            elif matters(state, member) and not schema.roles.get(role) and not state.learning:
                state.add(
                    key, "revoke", act, what="the rights", name=f"role {spelled(role)}", role=spelled(member)
                )
        if not act.grant and state.learning:
            schema.put(schema.groups, member, groups - frozenset(act.roles))


def role_change(state: State, act: a.RoleChange) -> None:
    if act.kind == "role" and not matters(state, act.name):
        return
    if act.kind == "database" and state.schema.objects.get(("database", Name("", act.name))) is False:
        return
    what = f"{act.what} {act.value}".strip()
    state.add(
        ("alter role", act.kind, act.name, what),
        "alter-role",
        act,
        kind=act.kind,
        name=spelled(act.name) if act.name else "all",
        what=what,
    )


def _listed(rights: frozenset[str]) -> str:
    return ", ".join(sorted(rights))
