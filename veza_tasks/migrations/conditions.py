"""What a condition of CHECK, of a partial index or of a trigger comes to for a row that the old binary writes.

Columns that it does not know hold their default; all others may hold anything. PostgreSQL's three-valued logic (manual
sections 9.1 and 9.2) is carried on with unknowns: a condition that comes to NULL passes a CHECK, but is not true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal, InvalidOperation
from enum import Enum

from veza_tasks.migrations.actions import Tokens
from veza_tasks.migrations.lexer import Token

DEPTH = 50
"""Parentheses within parentheses beyond which a condition is not read: it may be anything."""


class Unsure(Enum):
    ANY = "anything"
    SOME = "anything but NULL"
    DISTINCT = "another value in every row"
    NEVER_TRUE = "false or NULL"
    NEVER_FALSE = "true or NULL"


Value = bool | Decimal | str | Unsure | None
Lookup = Callable[[str], Value]

ANY, SOME, DISTINCT = Unsure.ANY, Unsure.SOME, Unsure.DISTINCT
NEVER_TRUE, NEVER_FALSE = Unsure.NEVER_TRUE, Unsure.NEVER_FALSE


def nothing_known(column: str) -> Value:
    return ANY


def value_of(tokens: Tokens, lookup: Lookup = nothing_known) -> Value:
    """The value of an expression, with the columns' values from `lookup`. `ANY` for what cannot be read."""
    reader = _Reader(tokens, lookup)
    if len(tokens) == 1 and tokens[0].kind in ("STRING", "NUMBER"):
        return reader.primary()
    try:
        value = reader.expression(0)
    except _UnreadableError:
        return ANY
    return value if reader.at == len(tokens) else ANY


def may_be_false(value: Value) -> bool:
    return value is False or value in (ANY, SOME, NEVER_TRUE)


def may_be_true(value: Value) -> bool:
    return value is not False and value is not None and value is not NEVER_TRUE


def columns_in(tokens: Tokens) -> Iterator[str]:
    """Every name in an expression that may be a column."""
    for index, token in enumerate(tokens):
        if token.kind not in ("WORD", "QUOTED") or token.word in _NO_COLUMNS:
            continue
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        before = tokens[index - 1].text if index else ""
        if after not in ("(", ".") and before != "::" and not (after and tokens[index + 1].kind == "STRING"):
            yield token.name


class _UnreadableError(Exception):
    pass


_NO_COLUMNS = frozenset([
    "AND", "OR", "NOT", "IS", "NULL", "TRUE", "FALSE", "IN", "BETWEEN", "SYMMETRIC", "LIKE", "ILIKE",
    "SIMILAR", "TO", "ANY", "ALL", "SOME", "ARRAY", "CASE", "WHEN", "THEN", "ELSE", "END", "DISTINCT",
    "FROM", "ISNULL", "NOTNULL", "UNKNOWN", "COLLATE", "AT", "TIME", "ZONE", "CURRENT_DATE",
    "CURRENT_TIMESTAMP", "CURRENT_USER", "ESCAPE", "EXTRACT", "VARYING", "PRECISION", "WITH", "WITHOUT",
])  # fmt: skip
_COMPARISONS = frozenset(["=", "<>", "!=", "<", ">", "<=", ">="])
# Distinct in every row they are asked for.
_DISTINCT_FUNCTIONS = frozenset([
    "nextval", "gen_random_uuid", "uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4",
    "uuid_generate_v7", "uuidv4", "uuidv7", "gen_random_ulid", "generate_ulid", "ulid_generate", "gen_ulid",
])  # fmt: skip
_NOT_STRICT = frozenset([
    "coalesce", "concat", "concat_ws", "num_nulls", "num_nonnulls", "nullif", "greatest", "least", "format",
    "row", "jsonb_build_object", "json_build_object", "jsonb_build_array", "json_build_array",
    "quote_nullable", "count", "exists",
])  # fmt: skip
_NEVER_NULL = frozenset([
    "now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "random", "timeofday",
    "current_user", "session_user", "concat", "num_nulls", "num_nonnulls", "jsonb_build_object",
    "json_build_object", "jsonb_build_array", "json_build_array", "exists",
])  # fmt: skip


class _Reader:
    """Precedence climbing over tokens; evaluates as it reads."""

    __slots__ = ("at", "depth", "lookup", "tokens")

    def __init__(self, tokens: Tokens, lookup: Lookup) -> None:
        self.tokens = tokens
        self.lookup = lookup
        self.at = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        if index >= len(self.tokens):
            return ""
        kind, text, _ = self.tokens[index]
        return text.upper() if kind == "WORD" else text if kind in ("OPERATOR", "PUNCTUATION") else ""

    def accept(self, *words: str) -> bool:
        if self.peek() != words[0]:
            return False
        if len(words) > 1 and any(self.peek(ahead) != word for ahead, word in enumerate(words)):
            return False
        self.at += len(words)
        return True

    def expect(self, word: str) -> None:
        if not self.accept(word):
            raise _UnreadableError

    def expression(self, least: int) -> Value:
        self.depth += 1
        if self.depth > DEPTH:
            raise _UnreadableError
        value = self.prefix()
        while True:
            word = self.peek()
            if word == "OR" and least <= 1:
                self.at += 1
                value = either(value, self.expression(2))
            elif word == "AND" and least <= 2:
                self.at += 1
                value = both(value, self.expression(3))
            elif word in ("IS", "ISNULL", "NOTNULL") and least <= 4:
                self.at += 1
                value = self.test(value, word)
            elif word in _COMPARISONS and least <= 5:
                self.at += 1
                value = self.compared(value, word)
            elif (negated := word == "NOT" and least <= 6 and self.peek(1) in _PATTERNS) or (
                word in _PATTERNS and least <= 6
            ):
                self.at += negated
                value = self.pattern(value)
                value = negation(value) if negated else value
            elif word and self.tokens[self.at].kind == "OPERATOR" and least <= 7:
                self.at += 1
                value = _operation(value, word, self.expression(8))
            else:
                self.depth -= 1
                return value

    def prefix(self) -> Value:
        if self.accept("NOT"):
            return negation(self.expression(3))
        if self.accept("-"):
            value = self.expression(9)
            return -value if isinstance(value, Decimal) else _strict(value)
        if self.accept("+"):
            return self.expression(9)
        value = self.primary()
        while self.peek() in _POSTFIXES:
            if self.accept("::"):
                self.type()
            elif self.accept("COLLATE"):
                self.name()
            elif self.accept("AT", "TIME", "ZONE"):
                value = _operation(value, "at", self.primary())
            elif self.peek() == "[":
                self.skip_group()
                value = None if value is None else ANY
            elif self.peek() == ".":
                self.at += 2
                value = None if value is None else ANY
            else:
                break
        return value

    def primary(self) -> Value:
        if self.at >= len(self.tokens):
            raise _UnreadableError
        token = self.tokens[self.at]
        self.at += 1
        if token.kind == "NUMBER":
            try:
                return Decimal(token.text)
            except InvalidOperation:
                return SOME
        if token.kind == "STRING":
            return token.value
        if token.text == "(":
            if self.peek() in ("SELECT", "WITH", "VALUES"):
                self.at -= 1
                self.skip_group()
                return ANY
            value = self.expression(0)
            if self.peek() == ",":
                raise _UnreadableError
            self.expect(")")
            return value
        if token.kind not in ("WORD", "QUOTED"):
            raise _UnreadableError
        word = token.word
        if word in ("TRUE", "FALSE"):
            return word == "TRUE"
        if word == "NULL":
            return None
        if word == "CASE":
            depth = 1
            while depth and self.at < len(self.tokens):
                depth += (self.peek() == "CASE") - (self.peek() == "END")
                self.at += 1
            return ANY
        if word == "ARRAY" and self.peek() == "[":
            self.skip_group()
            return SOME
        if word in (
            "CURRENT_DATE",
            "CURRENT_TIME",
            "CURRENT_TIMESTAMP",
            "LOCALTIMESTAMP",
            "CURRENT_USER",
            "SESSION_USER",
        ):
            return SOME
        name = token.name
        while self.accept("."):
            if self.at >= len(self.tokens):
                raise _UnreadableError
            name = self.tokens[self.at].name
            self.at += 1
        if self.peek() == "(":
            return self.call(name)
        if self.at < len(self.tokens) and self.tokens[self.at].kind == "STRING":
            value = self.tokens[self.at].value  # date '2026-01-01'
            self.at += 1
            return value
        return self.lookup(name)

    def call(self, name: str) -> Value:
        start = self.at
        arguments: list[Value] = []
        self.at += 1
        try:
            while not self.accept(")"):
                arguments.append(self.expression(0))
                if not self.accept(","):
                    self.expect(")")
                    break
        except _UnreadableError:
            self.at = start
            self.skip_group()
            return ANY
        return _called(name, arguments)

    def test(self, value: Value, word: str) -> Value:
        """IS [NOT] NULL, TRUE, FALSE, UNKNOWN, DISTINCT FROM."""
        if word != "IS":
            null: Value = _is_null(value)
            return null if word == "ISNULL" else negation(null)
        negated = self.accept("NOT")
        if self.accept("NULL") or self.accept("UNKNOWN"):
            result = _is_null(value)
        elif self.accept("TRUE"):
            result = value if isinstance(value, bool) else False if value in (None, NEVER_TRUE) else SOME
        elif self.accept("FALSE"):
            result = not value if isinstance(value, bool) else False if value in (None, NEVER_FALSE) else SOME
        elif self.accept("DISTINCT", "FROM"):
            other = self.expression(6)
            if value is None and other is None:
                result = False
            elif isinstance(value, Unsure) or isinstance(other, Unsure):
                result = True if {_is_null(value), _is_null(other)} == {True, False} else SOME
            else:
                result = value != other
        else:
            raise _UnreadableError
        return negation(result) if negated else result

    def compared(self, value: Value, operator: str) -> Value:
        if self.peek() in ("ANY", "SOME", "ALL") and self.peek(1) == "(":
            self.at += 1
            self.skip_group()
            return None if value is None else ANY
        return _compared(value, operator, self.expression(6))

    def pattern(self, value: Value) -> Value:
        """IN, BETWEEN, LIKE and kin."""
        if self.accept("IN"):
            start = self.at
            self.expect("(")
            if self.peek() in ("SELECT", "WITH", "VALUES"):
                self.at = start
                self.skip_group()
                return None if value is None else ANY
            result: Value = False
            while True:
                result = either(result, _compared(value, "=", self.expression(0)))
                if not self.accept(","):
                    break
            self.expect(")")
            return result
        if self.accept("BETWEEN"):
            self.accept("SYMMETRIC")
            low = self.expression(7)
            self.expect("AND")
            high = self.expression(7)
            return both(_compared(value, ">=", low), _compared(value, "<=", high))
        self.at += 2 if self.peek() == "SIMILAR" else 1
        other = self.expression(7)
        if self.accept("ESCAPE"):
            self.expression(7)
        return _strict(value, other)

    def type(self) -> None:
        """Steps over a type after ::."""
        self.name()
        while self.peek() in ("VARYING", "PRECISION", "WITH", "WITHOUT", "TIME", "ZONE"):
            self.at += 1
        while self.peek() in ("(", "["):
            self.skip_group()

    def name(self) -> None:
        self.at += 1
        while self.accept("."):
            self.at += 1

    def skip_group(self) -> None:
        depth = 0
        while self.at < len(self.tokens):
            depth += (self.peek() in ("(", "[")) - (self.peek() in (")", "]"))
            self.at += 1
            if depth == 0:
                return
        raise _UnreadableError


_POSTFIXES = frozenset(["::", "COLLATE", "AT", "[", "."])
_PATTERNS = frozenset(["IN", "BETWEEN", "LIKE", "ILIKE", "SIMILAR"])


def negation(value: Value) -> Value:
    if isinstance(value, bool):
        return not value
    if value is NEVER_TRUE:
        return NEVER_FALSE
    if value is NEVER_FALSE:
        return NEVER_TRUE
    return value if value in (None, ANY, SOME) else ANY


def both(left: Value, right: Value) -> Value:
    """AND."""
    if left is False or right is False:
        return False
    if left is True:
        return right
    if right is True:
        return left
    if left is None and right is None:
        return None
    if None in (left, right) and NEVER_FALSE in (left, right):
        return None
    if left in (None, NEVER_TRUE) or right in (None, NEVER_TRUE):
        return NEVER_TRUE
    return NEVER_FALSE if left is NEVER_FALSE and right is NEVER_FALSE else ANY


def either(left: Value, right: Value) -> Value:
    """OR."""
    return negation(both(negation(left), negation(right)))


def _is_null(value: Value) -> Value:
    if value is ANY or value is NEVER_TRUE or value is NEVER_FALSE:
        return SOME
    return value is None


def _strict(*values: Value) -> Value:
    """The result of an operator or function that gives NULL for NULL, and of which no more is known."""
    return None if None in values else ANY


def _compared(left: Value, operator: str, right: Value) -> Value:
    if left is None or right is None:
        return None
    if isinstance(left, Unsure) or isinstance(right, Unsure):
        return ANY
    if isinstance(left, str) and isinstance(right, Decimal):
        left = _number(left)
    elif isinstance(left, Decimal) and isinstance(right, str):
        right = _number(right)
    if isinstance(left, bool) and isinstance(right, str):
        right = right.lower() in ("t", "true", "on", "1", "yes")
    if type(left) is not type(right) or isinstance(left, Unsure):
        return SOME
    if operator == "=":
        return left == right
    if operator in ("<>", "!="):
        return left != right
    if isinstance(left, Decimal) and isinstance(right, Decimal):
        ordered = {"<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right}
        return ordered[operator]
    return SOME


def _number(text: str) -> Value:
    try:
        return Decimal(text)
    except InvalidOperation:
        return SOME


def _operation(left: Value, operator: str, right: Value) -> Value:
    if left is None or right is None:
        return None
    if isinstance(left, Decimal) and isinstance(right, Decimal):
        if operator == "+":
            return left + right
        if operator == "-":
            return left - right
        if operator == "*":
            return left * right
    if operator == "||" and isinstance(left, str) and isinstance(right, str):
        return left + right
    return ANY


def _called(name: str, arguments: list[Value]) -> Value:
    if name in _DISTINCT_FUNCTIONS:
        return DISTINCT
    if name == "coalesce":
        for argument in arguments:
            if argument is not None:
                return argument if not isinstance(argument, Unsure) or argument in (SOME, DISTINCT) else ANY
        return None
    if name in ("num_nonnulls", "num_nulls"):
        nulls = [_is_null(argument) for argument in arguments]
        if all(isinstance(null, bool) for null in nulls):
            return Decimal(sum(null is (name == "num_nulls") for null in nulls))
        return SOME
    if name in _NEVER_NULL:
        return SOME
    if name not in _NOT_STRICT and None in arguments:
        return None
    if (
        name in ("length", "char_length", "character_length")
        and len(arguments) == 1
        and isinstance(arguments[0], str)
    ):
        return Decimal(len(arguments[0]))
    return ANY


# What a CHECK demands, so that two of them can be compared

Demand = tuple[str, str, frozenset[str] | Decimal | None]


def demands(tokens: Tokens) -> list[Demand]:
    """The parts of a condition that are joined by AND: (subject, in, values), (subject, >=, number) or (text, "", None)."""
    found: list[Demand] = []
    pending = [_bare(tokens)]
    while pending:
        part = pending.pop()
        pieces = list(_cut(part, "AND"))
        if len(pieces) > 1:
            pending.extend(_bare(piece) for piece in pieces)
            continue
        found.extend(_demand(part))
    return found


def implied(condition: Tokens, by: Iterable[Tokens]) -> bool:
    """Whether a row that satisfies all of `by` cannot violate `condition`, as far as their text shows."""
    known: list[Demand] = [demand for tokens in by for demand in demands(tokens)]
    return all(any(_implies(old, new) for old in known) for new in demands(condition))


def not_null_by(tokens: Tokens) -> Iterator[str]:
    """The columns that a condition demands not to be NULL."""
    for subject, what, _ in demands(tokens):
        words = subject.rsplit(" ", 3)
        if not what and len(words) == 4 and words[1:] == ["is", "not", "null"]:
            yield words[0].strip('"')


def _implies(old: Demand, new: Demand) -> bool:
    if old == new:
        return True
    if old[0] != new[0]:
        return False
    if old[1] == new[1] == "in" and isinstance(old[2], frozenset) and isinstance(new[2], frozenset):
        return old[2] <= new[2]
    if (
        isinstance(old[2], Decimal)
        and isinstance(new[2], Decimal)
        and old[1]
        and new[1]
        and old[1][0] == new[1][0]
    ):
        if old[1][0] == ">":
            return old[2] > new[2] or (old[2] == new[2] and not (new[1] == ">" and old[1] == ">="))
        if old[1][0] == "<":
            return old[2] < new[2] or (old[2] == new[2] and not (new[1] == "<" and old[1] == "<="))
    return False


def _bare(tokens: Tokens) -> Tokens:
    """Without the parentheses around all of it."""
    while len(tokens) > 1 and tokens[0].text == "(" and tokens[-1].text == ")":
        depth = 0
        for token in tokens[:-1]:
            depth += (token.text == "(") - (token.text == ")")
            if depth == 0:
                return tokens
        tokens = tokens[1:-1]
    return tokens


def _cut(tokens: Tokens, word: str) -> Iterator[Tokens]:
    depth = first = 0
    between = False
    for index, token in enumerate(tokens):
        if token.kind == "PUNCTUATION":
            depth += (token.text in "([") - (token.text in ")]")
        elif depth == 0 and token.kind == "WORD":
            if token.word == "BETWEEN":
                between = True
            elif token.word == "AND" and between:
                between = False
            elif token.word == word:
                yield tokens[first:index]
                first = index + 1
    yield tokens[first:]


def _demand(tokens: Tokens) -> Iterator[Demand]:
    tokens = _without_casts(tokens)
    alternatives = [_bare(piece) for piece in _cut(tokens, "OR")]
    if len(alternatives) > 1:
        values: set[str] = set()
        subjects = set()
        for piece in alternatives:
            inner = list(_demand(piece))
            if len(inner) != 1 or inner[0][1] != "in" or not isinstance(inner[0][2], frozenset):
                break
            subjects.add(inner[0][0])
            values |= inner[0][2]
        else:
            if len(subjects) == 1:
                yield subjects.pop(), "in", frozenset(values)
                return
    for index, token in enumerate(tokens):
        if index == 0 or token.kind == "PUNCTUATION":
            continue
        subject = _text(_bare(tokens[:index]))
        rest = tokens[index + 1 :]
        if token.word == "IN" or (token.text == "=" and rest and rest[0].word == "ANY"):
            inside = [
                t for t in rest if t.text not in ("(", ")", "[", "]", ",") and t.word not in ("ANY", "ARRAY")
            ]
            if inside and all(t.kind in ("STRING", "NUMBER") for t in inside):
                if len(inside) == 1 and inside[0].value.startswith("{") and token.text == "=":
                    yield (
                        subject,
                        "in",
                        frozenset(part.strip('"') for part in inside[0].value[1:-1].split(",")),
                    )
                else:
                    yield subject, "in", frozenset(t.value or t.text for t in inside)
                return
        elif token.text == "=" and len(rest) == 1 and rest[0].kind in ("STRING", "NUMBER"):
            yield subject, "in", frozenset([rest[0].value or rest[0].text])
            return
        elif token.word == "BETWEEN":
            low, high = _sides(rest)
            if low is not None and high is not None:
                yield subject, ">=", low
                yield subject, "<=", high
                return
        elif token.text in (">", ">=", "<", "<="):
            number = value_of(rest)
            if isinstance(number, str):
                number = _number(number)
            if isinstance(number, Decimal):
                yield subject, token.text, number
                return
    yield _text(tokens), "", None


def _sides(tokens: Tokens) -> tuple[Decimal | None, Decimal | None]:
    for index, token in enumerate(tokens):
        if token.word == "AND":
            low, high = value_of(tokens[:index]), value_of(tokens[index + 1 :])
            if isinstance(low, Decimal) and isinstance(high, Decimal):
                return low, high
    return None, None


def _without_casts(tokens: Tokens) -> Tokens:
    found: list[Token] = []
    index = 0
    while index < len(tokens):
        if tokens[index].text == "::":
            reader = _Reader(tokens, nothing_known)
            reader.at = index + 1
            try:
                reader.type()
            except _UnreadableError:
                return tokens
            index = reader.at
            if len(found) >= 3 and found[-1].text == ")" and found[-3].text == "(":
                found[-3:] = [found[-2]]  # (status)::text
            continue
        found.append(tokens[index])
        index += 1
    return tuple(found)


def _text(tokens: Tokens) -> str:
    return " ".join(
        token.name or (f"'{token.value}'" if token.kind == "STRING" else token.text) for token in tokens
    )
