"""Constraints and indexes: which of them refuse what the old binary writes, and which its upserts rely on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, Tokens, spelled, text_of
from veza_tasks.migrations.conditions import (
    DISTINCT,
    Value,
    columns_in,
    implied,
    may_be_false,
    may_be_true,
    not_null_by,
    value_of,
)
from veza_tasks.migrations.judge.columns import alter_column, fails, old_row, required
from veza_tasks.migrations.judge.findings import Placed
from veza_tasks.migrations.judge.state import VIEWS, MadeKey, State
from veza_tasks.migrations.schema import Key, Relation, Rule, Unique, default_name

_KEYS = frozenset(["uniq", "unique", "uq", "ux", "uk", "uidx", "uix", "pkey", "pk"])
_NO_KEYS = frozenset(["fkey", "fk", "check", "chk", "ck", "nn", "notnull"])
_PLAIN_INDEXES = frozenset(["idx", "ix", "index", "gin", "gist", "trgm", "brin", "fts"])
_UNHEARD_OF: tuple[Rule | None, bool] = (None, False)


def learn_constraint(state: State, relation: Relation, constraint: a.Constraint, table: str = "") -> None:
    """Remembers a constraint that is there now."""
    schema = state.schema
    home = table or relation.home.name
    name = constraint.name or _free_name(state, relation, home, constraint)
    expression = constraint.expression if constraint.valid else ()
    rule = Rule(
        constraint.kind,
        state.learning,
        constraint.columns,
        constraint.expression,
        constraint.references,
        constraint.on_delete,
    )
    schema.put(schema.constraints_of(relation.key), name, (rule, True))
    if constraint.kind in ("primary key", "unique") and constraint.using_index:
        index = schema.relations.get(Name(relation.home.schema, constraint.using_index))
        if index is not None and index.unique is not None:
            _learn_unique(
                state, relation, name, tuple(index.unique.elements), index.unique.predicate, constraint=True
            )
    elif constraint.kind in ("primary key", "unique"):
        _learn_unique(state, relation, name, constraint.columns, "", constraint=True)
    if state.learning:
        columns: Iterable[str] = ()
        if constraint.kind == "primary key" or constraint.kind == "not null":
            columns = constraint.columns
        elif constraint.kind == "check" and expression:
            columns = not_null_by(expression)
        for column in columns:
            fact = schema.column(relation, column)
            if fact is not None:
                schema.put(schema.columns, (relation.key, column), fact._replace(not_null=True))


def _free_name(state: State, relation: Relation, table: str, constraint: a.Constraint) -> str:
    rules = state.schema.constraints_of(relation.key)
    name = base = default_name(table, constraint)
    count = state.schema.counts.get((relation.key, base), 0)
    while rules.get(name, _UNHEARD_OF)[1]:
        count += 1
        name = f"{base}{count}"
    state.schema.counts[relation.key, base] = count
    return name


def _learn_unique(
    state: State, relation: Relation, name: str, elements: Sequence[str], predicate: str, *, constraint: bool
) -> None:
    schema = state.schema
    unique = Unique(
        relation.key,
        name,
        True,
        frozenset(elements),
        predicate,
        constraint,
        state.learning,
        True,
        relation.old,
    )
    schema.put(schema.uniques, relation.key, (*schema.uniques.get(relation.key, ()), unique))
    place = Name(relation.home.schema, name)
    index = Relation(schema.new_key(), place, state.learning, "index", unique=unique)
    schema.put(schema.relations, place, index)


def add_constraint(state: State, act: a.AddConstraint) -> None:
    schema, constraint = state.schema, act.constraint
    relation = schema.relation(act.table)
    if relation is None:
        return
    if not relation.old and not state.learning:
        if constraint.kind in ("primary key", "unique", "exclude"):
            home = schema.resolve(act.table, schema.relations)
            schema.put(
                schema.relations, home, relation._replace(definition=(*relation.definition, *act.definition))
            )
        return
    if state.learning:
        learn_constraint(state, relation, constraint)
        return
    before = len(schema.pending)
    constrain(state, relation, act.table, constraint, act)
    if len(schema.pending) > before:
        return
    if constraint.kind in ("check", "foreign key"):
        if constraint.valid and constraint.enforced:
            name = spelled(constraint.name or default_name(relation.home.name, constraint))
            state.warn("validate-at-once", act, table=str(act.table), name=name)
        elif constraint.name:
            schema.put(schema.unvalidated, (relation.key, constraint.name), True)


def constrain(state: State, relation: Relation, table: Name, constraint: a.Constraint, act: Placed) -> None:
    """A constraint on an old table: breaks unless rows of the old binary cannot violate it."""
    schema = state.schema
    name = constraint.name or _free_name(state, relation, table.name, constraint)
    rule = _restricts(state, relation, table, constraint, name, act)
    learn_constraint(state, relation, constraint._replace(name=name), table.name)
    if not rule or not constraint.enforced:
        renamed = schema.pending.get(("constraint name", relation.key, name))
        if renamed is not None and renamed.rule == "rename-constraint":
            state.heal("constraint name", relation.key, name)
        return
    columns = ", ".join(map(spelled, constraint.columns)) or name
    state.add(
        ("constraint", relation.key, name),
        rule,
        act,
        about=_new_columns(state, relation, constraint),
        table=str(table),
        columns=columns,
        column=columns,
        name=str(constraint.references) if rule == "add-foreign-key" else spelled(name),
    )


def _new_columns(state: State, relation: Relation, constraint: a.Constraint) -> frozenset[str]:
    """The columns of a constraint that the old binary does not know."""
    named = constraint.columns or tuple(columns_in(constraint.expression))
    return frozenset(
        name for name in named if (fact := state.schema.column(relation, name)) is not None and not fact.old
    )


def _restricts(
    state: State, relation: Relation, table: Name, constraint: a.Constraint, name: str, act: Placed
) -> str:
    """The rule that a new constraint breaks, or ""."""
    schema = state.schema
    lookup = old_row(state, relation)
    match constraint.kind:
        case "unique" | "primary key":
            return _key_restricts(state, relation, table, constraint, name, act)
        case "exclude":
            if constraint.expression and not may_be_true(value_of(constraint.expression, lookup)):
                return ""
            values = [value_of(_before(element, "WITH"), lookup) for element in constraint.elements]
            if None in values or _found_again(state, relation, name, "exclude"):
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
            return "" if _same_foreign_key(state, relation, constraint, name) else "add-foreign-key"
        case "check":
            value = value_of(constraint.expression, lookup)
            if not may_be_false(value):
                return ""
            if value is not False:
                names = set(columns_in(constraint.expression))
                facts = [schema.column(relation, column) for column in names]
                if names and all(fact is not None and not fact.old for fact in facts):
                    return ""
                known = [rule.expression for rule in _old_rules(state, relation, "check")]
                if known and implied(constraint.expression, known):
                    return ""
            return "add-check"
        case "not null":
            column = constraint.columns[0]
            alter_column(state, a.AlterColumn(act.start, act.end, table, column, "not null"))
    return ""


def _old_rules(state: State, relation: Relation, kind: str) -> list[Rule]:
    """The constraints of this kind that the old binary lived with."""
    return [rule for rule in state.schema.rules_before.get(relation.key, ()) if rule.kind == kind]


def _found_again(state: State, relation: Relation, name: str, kind: str) -> bool:
    """A key that this transaction dropped, of which nothing but the name is known, is made again under that name."""
    pending = state.schema.pending.get(("constraint name", relation.key, name))
    return pending is not None and pending.rule == "drop-unique" and kind == "exclude"


def _same_foreign_key(state: State, relation: Relation, constraint: a.Constraint, name: str) -> bool:
    for rule in _old_rules(state, relation, "foreign key"):
        if (
            rule.columns == constraint.columns
            and rule.references is not None
            and constraint.references is not None
        ):
            same = rule.references.name == constraint.references.name
            if same and (rule.on_delete == constraint.on_delete or not rule.on_delete):
                return True
    known, there = state.schema.constraints_of(relation.key).get(name, (None, True))
    return known is None and not there


def _key_restricts(
    state: State, relation: Relation, table: Name, constraint: a.Constraint, name: str, act: Placed
) -> str:
    schema = state.schema
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
        healed = heal_lost_key(state, relation, name, columns, "", constraint, certain=unique is not None)
        if healed and index is not None:
            restricts_nothing(state, index.key)
        if not primary:
            return rule if constraint.deferrable and index is None else ""
        facts = [schema.column(relation, column) for column in columns]
        if healed:
            return ""
        if facts and all(fact is not None and (fact.not_null or not fact.old) for fact in facts):
            _make_not_null(state, relation, table, columns, act)
            return ""
        return rule
    healed = heal_lost_key(state, relation, name, columns, "", constraint, certain=True)
    if primary and _make_not_null(state, relation, table, columns, act):
        return ""
    if healed:
        return ""
    value = old_row(state, relation)
    elements = [(column, value(column)) for column in columns]
    if _may_repeat(state, relation, elements, (), distinct=constraint.nulls_distinct and not primary):
        return rule
    if primary:
        facts = [schema.column(relation, column) for column in columns]
        if any(fact is not None and fact.old and not fact.not_null for fact in facts):
            return rule
    return ""


def restricts_nothing(state: State, index: Key) -> None:
    """A unique index turns out to be the old key made anew: it was no break, not even before its transaction's end."""
    state.heal("index", index)
    made = state.made_keys.get(index)
    if made is not None:
        state.schema.remove(state.found, made.finding)


def _make_not_null(
    state: State, relation: Relation, table: Name, columns: Sequence[str], act: Placed
) -> bool:
    """The new columns of a primary key; whether one of them then lacks a value."""
    schema = state.schema
    lacking = False
    for column in columns:
        fact = schema.column(relation, column)
        if fact is not None and not fact.old:
            schema.put(schema.columns, (relation.key, column), fact._replace(not_null=True))
            lacking = required(state, act, relation, column, "add-required-column", table) or lacking
    return lacking


def _may_repeat(
    state: State,
    relation: Relation,
    elements: Sequence[tuple[str, Value]],
    predicate: Tokens,
    *,
    distinct: bool,
) -> bool:
    """Whether rows of the old binary may be equal in all elements of a new key."""
    values = [value for _, value in elements]
    if predicate and not may_be_true(value_of(predicate, old_row(state, relation))):
        return False
    if (distinct and None in values) or DISTINCT in values:
        return False
    texts = frozenset(text for text, _ in elements)
    about = text_of(predicate)
    if len(texts) > 1 and "id" in texts and not relation.known:
        fact = state.schema.column(relation, "id")
        if fact is not None and fact.old:
            return False  # what is called id is a key, as long as nothing else is known
    return not any(
        unique.elements <= texts and unique.predicate in ("", about)
        for unique in state.schema.keys_before.get(relation.key, ())
    )


def heal_lost_key(
    state: State,
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
    pending = state.schema.pending.get(("constraint name", None, name))
    nameless = [(("constraint name", None, name), pending)] if pending is not None else []
    for place, pending in [*state.pending_about("constraint name", relation.key), *nameless]:
        if pending.rule != "drop-unique":
            continue
        lost: Unique | None = pending.about
        if lost is not None:
            same = lost.elements == frozenset(elements) and lost.predicate == predicate
            same = same and (not lost.constraint or (key is not None and lost.name == name))
            if elements == () and lost.name == name:
                same = True
        else:
            facts = [state.schema.column(relation, element) for element in elements]
            on_old = all(fact is not None and fact.old for fact in facts)
            says = on_old and not predicate and _says(name, relation.home.name, elements, key)
            same = place[2] == name and (says or not certain)
        if same:
            state.heal(*place)
            return True
    return False


def drop_constraint(state: State, act: a.DropConstraint) -> None:
    schema = state.schema
    relation = schema.relation(act.table)
    if relation is None or (not relation.old and not state.learning):
        return
    rules = schema.constraints_of(relation.key)
    rule, there = rules.get(act.name, (None, True))
    if not there:
        return
    schema.put(rules, act.name, (rule, False))
    unique = _kill_unique(state, relation.key, Name(relation.home.schema, act.name))
    if state.heal("constraint", relation.key, act.name) or (rule is not None and not rule.old):
        return
    kind = rule.kind if rule else ""
    if rule is not None and kind not in ("primary key", "unique", "exclude"):
        return
    if rule is None and not may_be_key(act.name, index=False):
        return
    state.add(
        ("constraint name", relation.key, act.name),
        "drop-unique",
        act,
        about=unique,
        table=str(act.table),
        name=spelled(act.name),
    )


def _kill_unique(state: State, table: Key, index: Name) -> Unique | None:
    """The key of that name is no more; what is known of it."""
    schema = state.schema
    uniques = schema.uniques.get(table, ())
    found = next((unique for unique in uniques if unique.live and unique.name == index.name), None)
    if found is not None:
        left = tuple(unique._replace(live=False) if unique is found else unique for unique in uniques)
        schema.put(schema.uniques, table, left)
        if index in schema.relations:
            schema.put(schema.relations, index, None)
    return found


def rename_constraint(state: State, act: a.RenamePart, relation: Relation) -> None:
    schema = state.schema
    rules = schema.constraints_of(relation.key)
    rule, there = rules.get(act.old, (None, True))
    if not there:
        return
    schema.put(rules, act.old, (rule, False))
    schema.put(rules, act.new, (rule, True))
    if state.learning:
        unique = _kill_unique(state, relation.key, Name(relation.home.schema, act.old))
        if unique is not None:
            _learn_unique(state, relation, act.new, tuple(unique.elements), unique.predicate, constraint=True)
    if state.heal("constraint name", relation.key, act.new) or (rule is not None and not rule.old):
        return
    relied = rule.kind in ("primary key", "unique", "exclude") if rule else may_be_key(act.old, index=False)
    if relied:
        state.add(
            ("constraint name", relation.key, act.old),
            "rename-constraint",
            act,
            table=str(act.name),
            name=spelled(act.old),
            new=spelled(act.new),
        )


def create_index(state: State, act: a.CreateIndex) -> None:
    schema = state.schema
    relation = schema.relation(act.table)
    if relation is None:
        return
    home = schema.resolve(act.table, schema.relations)
    elements = [_bare_element(element) for element in act.elements]
    texts = [text_of(element) for element in elements]
    predicate = text_of(act.predicate)
    name = act.name or "_".join([home.name, *texts, "idx"])
    place = Name(home.schema, name)
    unique = Unique(
        relation.key,
        name,
        act.unique,
        frozenset(texts),
        predicate,
        False,
        state.learning,
        True,
        relation.old,
    )
    key = schema.new_key()
    if state.learning:
        schema.put(schema.relations, place, Relation(key, place, True, "index", unique=unique))
        if act.unique:
            schema.put(schema.uniques, relation.key, (*schema.uniques.get(relation.key, ()), unique))
        return
    if not act.if_not_exists:
        schema.put(schema.relations, place, Relation(key, place, False, "index", unique=unique))
    if not relation.old:
        return
    if relation.kind not in VIEWS and (
        predicate == "" or may_be_true(value_of(act.predicate, old_row(state, relation)))
    ):
        what = f"the index {spelled(act.name)}" if act.name else "this index"
        for tokens, guard in [(act.predicate, ()), *((element, act.predicate) for element in elements)]:
            if fails(state, act, relation, ("failing", key), tokens, what, predicate=guard):
                break
    if act.unique and relation.kind != "materialized view":  # which nobody writes to
        state.made_keys[key] = MadeKey(relation, (state.source, act.start, "add-unique"))
        healed = heal_lost_key(state, relation, name, texts, predicate, None, certain=True)
        lookup = old_row(state, relation)
        pairs = [(text, value_of(element, lookup)) for text, element in zip(texts, elements, strict=True)]
        schema.put(schema.uniques, relation.key, (*schema.uniques.get(relation.key, ()), unique))
        if not healed and _may_repeat(state, relation, pairs, act.predicate, distinct=act.nulls_distinct):
            state.add(("index", key), "add-unique", act, table=str(act.table), columns=", ".join(texts))
            return
    if not act.concurrently:
        state.warn("index-not-concurrent", act, table=str(act.table))


def drop_index(state: State, act: a.Drop, name: Name, relation: Relation) -> None:
    schema = state.schema
    unique = relation.unique
    if not relation.old:
        state.heal("failing", relation.key)
        healed = state.heal("index", relation.key)
        if not healed and unique is not None and unique.on_old and not act.concurrently:
            state.warn("drop-index-not-concurrent", act, name=str(act.name))
        return
    if unique is None:
        relied = may_be_key(name.name, index=True)
    else:
        _kill_unique(state, unique.table, name)
        twins = schema.uniques.get(unique.table, ())
        relied = unique.unique and not any(
            twin.live and twin.elements == unique.elements and twin.predicate == unique.predicate
            for twin in twins
        )
    if relied:
        table_key = unique.table if unique else None
        state.add(
            ("constraint name", table_key, name.name),
            "drop-unique",
            act,
            about=unique,
            table="its table",
            name=str(act.name),
        )
    elif not act.concurrently:
        state.warn("drop-index-not-concurrent", act, name=str(act.name))


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


def may_be_key(name: str, *, index: bool) -> bool:
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
