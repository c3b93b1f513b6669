"""Functions and the triggers that call them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from veza_tasks.migrations import actions as a
from veza_tasks.migrations.actions import Name, inputs, spelled
from veza_tasks.migrations.conditions import ANY, may_be_true, value_of
from veza_tasks.migrations.dynamic import body_of, raises, returns_null
from veza_tasks.migrations.judge.columns import old_row
from veza_tasks.migrations.judge.objects import change
from veza_tasks.migrations.judge.state import State
from veza_tasks.migrations.lexer import Statement, Token, Unreadable, statements
from veza_tasks.migrations.schema import Function, Relation

_FUNCTION_CHANGED = (
    "Calls of {name} by the running binary fail or return something else: the new one has another result, other argument "
    "names or fewer defaults."
)


def create_function(state: State, act: a.CreateFunction) -> None:
    schema = state.schema
    name = schema.to_create(act.name)
    known = schema.functions.get(name, ())
    types = inputs(act.arguments)
    same = [function for function in known if inputs(function.arguments) == types]
    others = tuple(function for function in known if inputs(function.arguments) != types)
    old = bool(act.replace and (not same or same[0].old)) or state.learning
    for key, pending in state.pending_about("function", name):
        kind: str = pending.about[0]
        lost: Function | None = pending.about[1]
        if kind not in ("routine", act.kind):
            continue
        if _takes_over(act, key[2], lost):
            state.heal(*key)
            old = True
        elif lost is not None and pending.rule == "drop-function":
            schema.put(schema.pending, key, pending._replace(why=_FUNCTION_CHANGED))
    if old and same and same[0].definer and not act.definer:
        change(state, a.Change(act.start, act.end, "security-invoker", "function", act.name))
    if not same and not state.learning and not any(_is_gone(state, name, f) for f in others):
        for function in others:
            if function.old and _ambiguous(function.arguments, act.arguments):
                state.add(
                    ("ambiguous", name, types),
                    "ambiguous-function",
                    act,
                    name=_call_of(act.name, function.arguments),
                    new=_call_of(act.name, act.arguments),
                )
    if old and same and not state.learning:
        for trigger in schema.triggers_of.get(name, ()):
            if _refuses(trigger, act.statement) and not _refuses(trigger, same[0].statement):
                state.add(
                    ("trigger", trigger.table, trigger.name),
                    "trigger-refuses",
                    act,
                    table=str(trigger.table),
                    name=str(act.name),
                )
    made = Function(act.kind, old, act.arguments, act.returns, act.statement, state.source, act.definer)
    schema.put(schema.functions, name, (*others, made))


def _is_gone(state: State, name: Name, function: Function) -> bool:
    return ("function", name, inputs(function.arguments)) in state.schema.pending


def drop_function(state: State, act: a.Drop) -> None:
    schema = state.schema
    name = schema.resolve(act.name, schema.functions)
    known = schema.functions.get(name, ())
    wanted = None if act.arguments is None else inputs(act.arguments)
    match = [function for function in known if wanted is None or inputs(function.arguments) == wanted]
    if len(match) != 1 and wanted is not None and not match:  # OUT arguments may be written too
        match = [
            function
            for function in known
            if tuple(x.type for x in function.arguments) == tuple(x.type for x in act.arguments or ())
        ]
    if match:
        schema.put(schema.functions, name, tuple(function for function in known if function not in match))
    if match and not match[0].old:
        state.heal("ambiguous", name, inputs(match[0].arguments))
        return
    if not match and schema.is_new_schema(name.schema):
        return
    if match and match[0].returns == "trigger":
        return
    if not match and not wanted and _is_trigger_function(state, name.name):
        return
    lost = match[0] if match else None
    signature = inputs(lost.arguments) if lost else wanted
    shown = _call_of(act.name, act.arguments) if act.arguments is not None else str(act.name)
    state.add(("function", name, signature), "drop-function", act, about=(act.routine, lost), name=shown)


def _is_trigger_function(state: State, name: str) -> bool:
    """Its trigger went before, and nothing but its name is known: nobody calls a trigger function."""
    if name in state.trigger_dropped:
        return True
    return bool(state.trigger_dropped) and not {"trigger", "trg", "tg", "tgr"}.isdisjoint(name.split("_"))


def rename_function(state: State, act: a.Rename | a.Move, new_name: str, new_schema: str) -> None:
    schema = state.schema
    name = schema.resolve(act.name, schema.functions)
    new = Name(name.schema, new_name) if new_name else Name(new_schema, name.name)
    known = schema.functions.get(name, ())
    wanted = None if act.arguments is None else inputs(act.arguments)
    match = [function for function in known if wanted is None or inputs(function.arguments) == wanted]
    if match:
        schema.put(schema.functions, name, tuple(function for function in known if function not in match))
        schema.put(schema.functions, new, (*schema.functions.get(new, ()), *match))
    if match and (not match[0].old or match[0].returns == "trigger"):
        return
    if not match and schema.is_new_schema(name.schema):
        return
    lost = match[0] if match else None
    signature = inputs(lost.arguments) if lost else wanted
    if state.heal("function", new, signature):
        return
    shown = _call_of(act.name, act.arguments) if act.arguments is not None else str(act.name)
    state.add(
        ("function", name, signature),
        "rename-object",
        act,
        about=(lost.kind if lost else "routine", lost),
        kind="function",
        name=shown,
        new=spelled(new_name) if new_name else str(new),
    )


def create_trigger(state: State, act: a.CreateTrigger) -> None:
    schema = state.schema
    relation = schema.relation(act.table)
    if relation is None:
        return
    state.heal("trigger", relation.key, act.name)
    schema.put(schema.triggers, (relation.key, act.name), True)
    function_name = schema.resolve(act.function, schema.functions)
    if state.learning:
        schema.put(schema.triggers_of, function_name, (*schema.triggers_of.get(function_name, ()), act))
        return
    if not relation.old or act.events == ("TRUNCATE",):
        return
    if act.columns and all(
        (fact := schema.column(relation, name)) is not None and not fact.old for name in act.columns
    ):
        return
    if act.condition and not may_be_true(value_of(act.condition, old_row(state, relation))):
        return
    for function in schema.functions.get(function_name, ()):
        _filled(state, act, relation, function.statement)
        if _refuses(act, function.statement):
            state.add(
                ("trigger", relation.key, act.name),
                "trigger-refuses",
                act,
                table=str(act.table),
                name=str(act.function),
            )


def _filled(state: State, act: a.CreateTrigger, relation: Relation, function: Statement) -> None:
    """A trigger that sets columns before a row is written gives them a value, as a default does."""
    schema = state.schema
    if act.timing != "BEFORE" or not act.each_row or "INSERT" not in act.events or act.condition:
        return
    for column in _columns_set(function):
        fact = schema.column(relation, column)
        if fact is None or (fact.old and "UPDATE" not in act.events):
            continue
        pending = schema.pending.get(("required", relation.key, column))
        if pending is not None and pending.rule == "add-required-column":
            continue  # the runbook's rule holds literally
        state.heal("required", relation.key, column)
        state.heal("not null", relation.key, fact.was)
        given = fact._replace(default=True, value=ANY, not_null=fact.old or fact.not_null)
        schema.put(schema.columns, (relation.key, column), given)


def drop_trigger(state: State, act: a.Drop) -> None:
    schema = state.schema
    relation = schema.relation(act.on) if act.on else None
    state.trigger_dropped.add(act.name.name)
    if relation is None or not relation.old:
        return
    if schema.remove(schema.triggers, (relation.key, act.name.name)):
        state.heal("trigger", relation.key, act.name.name)
        return
    state.add(
        ("trigger", relation.key, act.name.name), "drop-trigger", act, table=str(act.on), name=str(act.name)
    )


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


def _call_of(name: Name, arguments: Iterable[a.Argument]) -> str:
    return f"{name}({', '.join(inputs(arguments))})"


def _takes_over(new: a.CreateFunction, types: tuple[str, ...] | None, old: Function | None) -> bool:
    """Whether all calls of the old function find the new one, and get the same from it."""
    after = [argument for argument in new.arguments if argument.mode not in ("OUT", "TABLE")]
    if types is None:
        return True
    if tuple(argument.type for argument in after[: len(types)]) != types:
        return False
    if not all(argument.optional for argument in after[len(types) :]):
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
