"""What in an expression fails for some values of the columns that it reads: casts and divisions.

PostgreSQL computes the expressions of an index or of a stored generated column on every write, so that one which cannot be
computed refuses a row that was valid before (manual sections 11.7 and 5.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from veza_tasks.migrations.actions import Tokens
from veza_tasks.migrations.conditions import DEPTH, columns_in
from veza_tasks.migrations.cursor import IDENTIFIERS, Cursor, split, type_name
from veza_tasks.migrations.lexer import Token

LONGEST = 200
"""Tokens of an operand beyond which it is not read: it is taken not to fail."""

OldColumn = Callable[[str], str | None]
"""The type of a column that the old binary writes, "" if it is not known; None for another column."""

_TEXTS = frozenset(["text", "character varying", "character", "name", "citext", "bytea", "unknown", ""])
# What text of any kind is cast to without fail.
_FROM_TEXT = _TEXTS - {"bytea"} | {"tsvector"}
# What even a column of unknown type is hardly cast to without fail.
_NARROW = frozenset([
    "smallint", "integer", "boolean", "uuid", "inet", "cidr", "macaddr", "json", "jsonb",
])  # fmt: skip
_NUMBERS = ("smallint", "integer", "bigint", "numeric")
_WIDER = frozenset([
    ("boolean", "integer"), ("integer", "boolean"), ("json", "jsonb"), ("jsonb", "json"), ("cidr", "inet"),
    ("serial", "integer"), ("smallserial", "integer"), ("smallserial", "smallint"),
    *((narrow, wide) for at, narrow in enumerate(_NUMBERS) for wide in _NUMBERS[at:]),
])  # fmt: skip
_TEXT_FUNCTIONS = frozenset([
    "lower", "upper", "trim", "btrim", "ltrim", "rtrim", "substring", "substr", "split_part", "replace",
    "regexp_replace", "concat", "concat_ws", "left", "right", "translate", "overlay", "reverse", "initcap",
    "lpad", "rpad", "format", "jsonb_extract_path_text", "json_extract_path_text", "string_to_array",
    "regexp_match", "regexp_split_to_array", "array_to_string",
])  # fmt: skip
_SAME_TYPE = frozenset(["coalesce", "nullif", "greatest", "least"])
_FALLIBLE = frozenset(["::", "CAST", "/", "%", "MOD", "DIV"])
_TESTS = frozenset(["~", "~*", "SIMILAR", "JSONB_TYPEOF", "JSON_TYPEOF", "PG_INPUT_IS_VALID"])


def failing(tokens: Tokens, old: OldColumn, *, guard: Tokens = ()) -> Tokens:
    """The first part of an expression that may fail; () if none does.

    `guard` is the condition under which the expression is computed at all: a partial index's predicate. What stands in a CASE
    is taken to be guarded by it.
    """
    if _FALLIBLE.isdisjoint([token.text.upper() for token in tokens]):
        return ()
    tested = any(token.text.upper() in _TESTS for token in guard)
    guarded = frozenset(columns_in(guard))
    cursor = Cursor(tokens)
    opened, depth = _opening(tokens)
    if depth > DEPTH:
        return ()
    cases = 0
    for index, token in enumerate(tokens):
        word = token.word
        cursor.at = index + 1
        if word == "CASE":
            cases += 1
        elif word == "END" and cases:
            cases -= 1
        elif cases:
            continue
        elif token.text == "::" and not tested:
            first = _operand_before(tokens, opened, index)
            target = type_name(cursor).name
            if _cast_fails(tokens[first:index], target, old):
                return tokens[first : cursor.at]
        elif word == "CAST" and not tested:
            inner = Cursor(cursor.group()[:LONGEST])
            operand = inner.until("AS")
            inner.accept("AS")
            if _cast_fails(operand, type_name(inner).name, old):
                return tokens[index : cursor.at]
        elif token.kind == "OPERATOR" and token.text in ("/", "%"):
            _step_over_operand(cursor)
            divisor = tokens[index + 1 : cursor.at]
            if _may_be_zero(divisor, old) and guarded.isdisjoint(columns_in(divisor)):
                return tokens[_operand_before(tokens, opened, index) : cursor.at]
        elif word in ("MOD", "DIV") and cursor.peek() == "(":
            items = split(cursor.group()[:LONGEST])
            if len(items) == 2 and _may_be_zero(items[1], old) and guarded.isdisjoint(columns_in(items[1])):
                return tokens[index : cursor.at]
    return ()


def _opening(tokens: Tokens) -> tuple[dict[int, int], int]:
    """Where the parenthesis or bracket opens that closes at an index, and how deep they go."""
    found = {}
    waiting: list[int] = []
    depth = 0
    for index, token in enumerate(tokens):
        if token.text in ("(", "["):
            waiting.append(index)
            depth = max(depth, len(waiting))
        elif token.text in (")", "]") and waiting:
            found[index] = waiting.pop()
    return found, depth


def _operand_before(tokens: Tokens, opened: dict[int, int], end: int) -> int:
    """Where the operand starts that ends before an operator: a name, constant, call or pair of parentheses, casts included."""
    at = end - 1
    while at > 0 and end - at < LONGEST:
        if at in opened:
            at = opened[at]
            before = tokens[at - 1]
            if at and before.kind in IDENTIFIERS and before.word not in _NO_CALLS:
                at -= 1
                continue
        if at > 1 and tokens[at - 1].text in (".", "::"):
            at -= 2
        else:
            break
    return max(at, 0)


_NO_CALLS = frozenset(["AND", "OR", "NOT", "IN", "THEN", "WHEN", "ELSE", "BETWEEN", "LIKE", "IS"])


def _step_over_operand(cursor: Cursor) -> None:
    """Steps over what follows an operator, casts included."""
    while not cursor.done and cursor.peek() in ("-", "+"):
        cursor.at += 1
    cursor.skip()
    while not cursor.done and cursor.peek() in ("(", "[", ".", "::"):
        if cursor.accept("::"):
            type_name(cursor)
        elif cursor.accept("."):
            cursor.at += 1
        else:
            cursor.skip()


def _enclosed(tokens: Tokens) -> Tokens:
    """Without the parentheses around all of it."""
    while tokens and tokens[0].text == "(":
        cursor = Cursor(tokens)
        inner = cursor.group()
        if not cursor.done:
            break
        tokens = inner
    return tokens


def _call(tokens: Tokens) -> tuple[str, list[Tokens]] | None:
    """Name and arguments if all of it is one call."""
    if len(tokens) < 3 or tokens[0].kind not in IDENTIFIERS:
        return None
    cursor = Cursor(tokens)
    name = cursor.name().name
    if cursor.peek() != "(":
        return None
    inner = cursor.group()
    return (name, split(inner)) if cursor.done else None


def _cast_fails(operand: Tokens, target: str, old: OldColumn) -> bool:
    if len(operand) > LONGEST:
        return False
    operand = _enclosed(operand)
    if not operand or target.removesuffix("[]") in _TEXTS:
        return False
    types = [kind for name in columns_in(operand) if (kind := old(name)) is not None]
    if not types:
        return False
    if len(operand) == 1 or (len(operand) == 3 and operand[1].text == "."):
        kind = types[0]
        if kind and kind in _TEXTS:
            return target not in _FROM_TEXT
        return target in _NARROW and kind != target and (kind, target) not in _WIDER
    if any(token.text in ("->>", "#>>") for token in _outermost(operand)):
        return target not in _FROM_TEXT
    if any(token.text in ("->", "#>") for token in _outermost(operand)):
        return target not in _FROM_TEXT and target not in ("json", "jsonb")
    called = _call(operand)
    if called is None:
        return False
    name, arguments = called
    if name in _SAME_TYPE:
        return any(_cast_fails(argument, target, old) for argument in arguments)
    return name in _TEXT_FUNCTIONS and target not in _FROM_TEXT


def _outermost(tokens: Tokens) -> Iterator[Token]:
    depth = 0
    for token in tokens:
        depth += (token.text in "([") - (token.text in ")]")
        if depth == 0:
            yield token


def _may_be_zero(divisor: Tokens, old: OldColumn) -> bool:
    if len(divisor) > LONGEST:
        return False
    divisor = _enclosed(divisor)
    if all(old(name) is None for name in columns_in(divisor)):
        return False
    called = _call(divisor)
    if called is not None:
        name, arguments = called
        if name == "coalesce":
            return any(_may_be_zero(argument, old) for argument in arguments)
        if name == "greatest":
            return not any(len(argument) == 1 and argument[0].text.strip("0.") for argument in arguments
                           if argument[0].kind == "NUMBER")  # fmt: skip
        return name != "nullif"
    cast = max((at for at, token in enumerate(divisor) if token.text == "::"), default=0)
    if cast and _operand_before(divisor, _opening(divisor)[0], cast) == 0:
        return _may_be_zero(divisor[:cast], old)
    return True
