"""What a PL/pgSQL expression may be, as far as it is put together from strings: the argument of an EXECUTE.

Literals, variables, ``||``, format(), quote_ident() and their kin, CASE, arrays, a subquery's select list. What is
only known at run time becomes a placeholder within the text, so that the rest of it can still be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from veza_tasks.migrations.lexer import Statement, Token

Values = tuple[str, ...]  # all that an expression may be; nothing at all when it can only be NULL

# No expression is followed further than this many texts, and no body to more text than this many times its own.
MOST_VALUES = 64
MOST_GROWTH = 64


class Unknowns:
    """The placeholders of one body, and how much text may still be made of it.

    In a text a placeholder is a private-use character, a letter to the lexer, so that ``'log_' || name`` is one word. Each has
    two: one for raw text, which may be anything, one for what went through quote_ident() or ``%I``. In a finished
    statement it reads ``?name``, in a quoted identifier.
    """

    _RAW, _IDENTIFIER, _MOST = 0xF0000, 0x100000, 0xFFF0

    def __init__(self, length: int) -> None:
        self._left = length * MOST_GROWTH + 1_000_000
        self._labels: list[str] = []
        self._characters: dict[tuple[str, int, int], str] = {}
        self._times: dict[str, int] = {}
        self._blocks = 0

    def spend(self, characters: int) -> bool:
        """Whether so much text may be made or read."""
        self._left -= characters
        return self._left >= 0

    def new_block(self) -> int:
        self._blocks += 1
        return self._blocks

    def character(self, label: str, block: int, epoch: int) -> str:
        """The placeholder of an expression, by its text and which of its values it stands for."""
        known = self._characters.get((label, block, epoch))
        if known is None:
            index = min(len(self._labels), self._MOST)
            if index == len(self._labels):
                times = self._times[label] = self._times.get(label, 0) + 1
                self._labels.append(f"?{label}" if times == 1 else f"?{label} {times}")
            known = self._characters[label, block, epoch] = chr(self._RAW + index)
        return known

    def as_identifier(self, text: str) -> str:
        shift = self._IDENTIFIER - self._RAW
        return (
            text if text.isascii() else "".join(chr(ord(c) + shift) if self._is_raw(c) else c for c in text)
        )

    def without(self, text: str) -> str:
        """The known rest of a text."""
        return text if text.isascii() else "".join(c for c in text if ord(c) < self._RAW)

    def shown(self, statement: Statement) -> Statement:
        """The statement with readable placeholders."""
        if not self._labels or all(token.text.isascii() for token in statement.tokens):
            return statement
        return statement._replace(tokens=tuple([self._shown(token) for token in statement.tokens]))

    def can_be_read(self, statement: Statement) -> bool:
        """Whether what is unknown of a statement can only be names and values, or does not matter."""
        tokens = statement.tokens
        if not self._labels:
            return True
        raw = {
            index for index, (kind, text, _) in enumerate(tokens) if kind == "WORD" and self._has_raw(text)
        }
        if not raw:
            return True
        head = tokens[0].word
        if 0 in raw or (1 in raw and head in ("CREATE", "DROP", "ALTER")):
            return False
        if head in _HARMLESS_TAIL:
            return True
        depth = 0
        for index, token in enumerate(tokens):
            if index in raw:
                before = tokens[index - 1]
                if before.word in ("ADD", "ALTER", "RENAME"):
                    if index + 1 == len(tokens) or index + 1 in raw or not tokens[index + 1].word:
                        return False
                elif before.kind == "PUNCTUATION":
                    if before.text in (")", "]") or (before.text == "," and not depth):
                        return False
                elif before.word == "WITH":
                    if tokens[index - 2].word not in ("RESTART", "START"):
                        return False
                elif before.kind != "OPERATOR" and before.word not in _BEFORE_A_NAME:
                    return False
            elif token.kind == "PUNCTUATION":
                depth += (token.text == "(") - (token.text == ")")
        return True

    def _has_raw(self, text: str) -> bool:
        return not text.isascii() and any(map(self._is_raw, text))

    def _is_raw(self, character: str) -> bool:
        return self._RAW <= ord(character) <= self._RAW + self._MOST

    def _shown(self, token: Token) -> Token:
        if self.without(token.text) == token.text:
            return token
        if token.kind == "WORD":
            return token._replace(kind="QUOTED", text='"' + self._labelled(token.text, '"').lower() + '"')
        return token._replace(text=self._labelled(token.text, "'" if token.kind == "STRING" else '"'))

    def _labelled(self, text: str, quote: str) -> str:
        return "".join(self._label(c).replace(quote, quote * 2) if ord(c) >= self._RAW else c for c in text)

    def _label(self, character: str) -> str:
        index = ord(character) - (self._RAW if self._is_raw(character) else self._IDENTIFIER)
        return self._labels[index] if index < len(self._labels) else character


def either(several: Iterable[Values]) -> Values:
    """Any of several expressions' values."""
    return tuple({value: None for values in several for value in values})


class _Open:
    """An open parenthesis, bracket or CASE: what calls it, and the items read so far."""

    __slots__ = (
        "alias",
        "asleep",
        "callee",
        "items",
        "odd",
        "part",
        "parts",
        "since",
        "skips",
        "start",
        "unions",
    )

    def __init__(self, callee: str, start: int, since: int, *, asleep: bool = False) -> None:
        self.callee = callee
        self.start = start  # index of the first token of the call
        self.asleep = asleep  # nothing in it matters
        self.items: list[tuple[str, Values]] = []
        self.unions: list[list[tuple[str, Values]]] = []
        self.restart(since)

    def restart(self, since: int) -> None:
        """Begin the next item, at this token."""
        self.since = since
        self.part: Values | None = None
        self.parts: list[Values] = []  # of a concatenation
        self.odd = False  # the part is nothing we understand
        self.alias = ""
        self.skips = False  # to the next comma: AS type, ORDER BY


class Expression:
    """One expression, or a query's select list. Not recursive: parentheses may nest as they like.

    ``variable`` gives what a.b.c may be; ``unknown`` a placeholder for the value of some tokens.
    """

    def __init__(
        self,
        tokens: tuple[Token, ...],
        *,
        variable: Callable[[list[str]], Values],
        unknown: Callable[[Sequence[Token]], Values],
        unknowns: Unknowns,
    ) -> None:
        self._tokens = tokens
        self._variable = variable
        self._unknown = unknown
        self._unknowns = unknowns

    def value(self) -> Values:
        columns = self.columns()
        return columns[0][1] if columns else ()

    def columns(self) -> list[tuple[str, Values]]:
        """The columns of a query with their names; of a mere expression one."""
        tokens = self._tokens
        if not tokens or tokens[0].word in _OPAQUE:
            return []
        top = _Open(tokens[0].word if tokens[0].word in ("SELECT", "VALUES") else "", 0, 0)
        stack = [top]
        index = 0
        while index < len(tokens):
            kind, text, _ = token = tokens[index]
            frame = stack[-1]
            if kind == "PUNCTUATION":
                if text in ("(", "["):
                    stack.append(self._opened(frame, index))
                elif text in (")", "]"):
                    if len(stack) > 1:
                        self._close(stack, index)
                elif text == ",":
                    self._end_item(frame, index)
                elif text == "::":
                    index = _after_type(tokens, index + 1) - 1
                else:
                    frame.odd = True
            elif kind == "STRING":
                self._operand(frame, (token.value,))
            elif kind == "NUMBER":
                self._operand(frame, (text,))
            elif kind == "PARAM":
                self._operand(frame, self._variable([text]))
            elif kind == "OPERATOR":
                if text == "||":
                    self._end_part(frame, index)
                else:
                    frame.odd = True
            else:
                index = self._word(stack, index)
            index += 1
        while len(stack) > 1:
            self._close(stack, len(tokens))
        self._end_item(top, len(tokens))
        return self._rows(top)

    def _word(self, stack: list[_Open], index: int) -> int:
        """A keyword, or a name with all that belongs to it; the index of its last token."""
        tokens, frame = self._tokens, stack[-1]
        word = tokens[index].word
        following = tokens[index + 1] if index + 1 < len(tokens) else _NOTHING
        if frame.callee == "SELECT" and word in _CLAUSES:
            return self._clause(frame, index, following)
        if word == "CASE":
            stack.append(_Open("CASE", index, index + 1, asleep=True))
        elif frame.callee == "CASE" and word in ("WHEN", "THEN", "ELSE", "END"):
            self._end_item(frame, index)
            frame.asleep = word in ("WHEN", "END") or stack[-2].asleep
            frame.restart(index + 1)
            if word == "END":
                self._close(stack, index)
        elif frame.asleep:
            pass
        elif word in ("AS", "ORDER"):
            alias = following.name if word == "AS" else frame.alias
            self._end_part(frame, index)
            frame.alias, frame.skips = alias, True
        elif word == "COLLATE":
            return _after_name(tokens, index + 1) - 1
        elif word in ("DISTINCT", "ALL", "VALUES") or (word == "ARRAY" and following.text in ("(", "[")):
            pass
        elif word and following.kind == "STRING":
            pass  # a type's name before a literal
        elif word == "NULL":
            frame.odd = True
        else:
            return self._name(stack, index)
        return index

    def _clause(self, frame: _Open, index: int, following: Token) -> int:
        """SELECT begins a select list, any other clause ends it."""
        word = self._tokens[index].word
        if word != "SELECT":
            self._end_item(frame, index)
            frame.asleep = True
            if word in _SET_OPERATIONS:
                frame.unions.append(frame.items)
                frame.items = []
            return index
        frame.asleep = False
        index += following.word in ("ALL", "DISTINCT")
        frame.restart(index + 1)
        return index

    def _name(self, stack: list[_Open], index: int) -> int:
        """A variable, an alias without AS, or the head of a call."""
        tokens, frame = self._tokens, stack[-1]
        path = path_at(tokens, index)
        last = index + 2 * len(path) - 2
        if last + 1 < len(tokens) and tokens[last + 1].text == "(":
            callee = path[-1] if len(path) == 1 or path[0] == "pg_catalog" else "?"
            stack.append(_Open(callee, index, last + 2, asleep=frame.skips))
            return last + 1
        if frame.part is not None and frame.callee == "SELECT":
            frame.alias = path[-1]
        else:
            self._operand(frame, self._variable(path))
            self._call_it(frame, path[-1])
        return last

    def _opened(self, frame: _Open, index: int) -> _Open:
        """A parenthesis or bracket that no function's name stands before."""
        tokens = self._tokens
        asleep = frame.asleep or frame.skips
        is_array = index > 0 and tokens[index - 1].word == "ARRAY"
        if tokens[index].text == "[" and not is_array and (frame.callee != "array" or frame.part is not None):
            return _Open("[]", index, index + 1, asleep=True)  # a subscript: any element is meant
        if index + 1 < len(tokens) and tokens[index + 1].word == "SELECT":
            return _Open("SELECT", index, index + 1, asleep=asleep)
        return _Open("array" if tokens[index].text == "[" else "", index, index + 1, asleep=asleep)

    def _operand(self, frame: _Open, values: Values) -> None:
        if not frame.asleep and not frame.skips:
            frame.odd = frame.odd or frame.part is not None
            frame.part = values

    def _call_it(self, frame: _Open, name: str) -> None:
        if not frame.alias and not frame.parts:
            frame.alias = name

    def _end_part(self, frame: _Open, index: int) -> None:
        if frame.asleep or frame.skips:
            return
        if frame.part is None or frame.odd:
            frame.part = self._placeholder(frame.since, index)
        frame.parts.append(frame.part)
        frame.part, frame.odd, frame.since = None, False, index + 1

    def _end_item(self, frame: _Open, index: int) -> None:
        if frame.asleep:
            return
        if frame.part is not None or frame.parts or frame.odd:
            self._end_part(frame, index)
        if frame.parts:
            frame.items.append((frame.alias, self._joined(frame.parts, frame.start, index)))
        frame.restart(index + 1)

    def _close(self, stack: list[_Open], index: int) -> None:
        frame = stack.pop()
        outer = stack[-1]
        if frame.callee == "[]" or outer.asleep or outer.skips:
            return
        self._end_item(frame, index)
        self._operand(outer, self._result(frame, index))
        self._call_it(outer, frame.callee.lower())

    def _rows(self, frame: _Open) -> list[tuple[str, Values]]:
        if frame.callee == "VALUES":
            return [("column1", self._few([values for _, values in frame.items]))] if frame.items else []
        if not frame.unions:
            return frame.items
        selects = [*frame.unions, frame.items]
        return [
            (selects[0][column][0], self._few([items[column][1] for items in selects]))
            for column in range(min(map(len, selects)))
        ]

    def _result(self, frame: _Open, index: int) -> Values:
        """What a call, or a pair of parentheses, may give."""
        values = [value for _, value in self._rows(frame)]
        call = (frame.start, index + 1)
        if not values:
            return self._placeholder(*call)
        first = values[0]
        match frame.callee:
            case "CASE" | "array" | "coalesce":
                return self._few(values)
            case "" if len(values) == 1:
                return first
            case "SELECT" | "cast" | "text" | "varchar" | "max" | "min" | "any_value" | "nullif":
                return first
            case (
                "string_agg"
                | "array_agg"
                | "array_to_string"
                | "unnest"
                | "trim"
                | "btrim"
                | "rtrim"
                | "ltrim"
            ):
                return first
            case "lower":
                return tuple([value.lower() for value in first])
            case "upper":
                return tuple([value.upper() for value in first])
            case "quote_ident":
                return tuple([self._quoted(value) for value in first])
            case "quote_literal" | "quote_nullable":
                return tuple([_literal(value) for value in first])
            case "concat":
                return self._joined(values, *call)
            case "concat_ws":
                return self._joined([part for value in values[1:] for part in (first, value)][1:], *call)
            case "replace" if len(values) == 3 and all(len(value) == 1 for value in values):
                (text,), (old,), (new,) = values
                if old and self._unknowns.spend(text.count(old) * len(new) + len(text)):
                    return (text.replace(old, new),)
            case "format":
                return self._few([self._formatted(pattern, values[1:], *call) for pattern in first])
        return self._placeholder(*call)

    def _placeholder(self, start: int, end: int) -> Values:
        return self._unknown(self._tokens[start : min(end, start + _TELLING)])

    def _few(self, several: Sequence[Values]) -> Values:
        values = either(several)
        return values if len(values) <= MOST_VALUES else self._placeholder(0, len(self._tokens))

    def _joined(self, parts: Sequence[Values], start: int, end: int) -> Values:
        """Every concatenation of one value of each part."""
        made = [""]
        run: list[str] = []  # parts that are the same in all
        for part in (*parts, None):
            if part is not None and len(part) < 2:
                run.append(part[0] if part else self._placeholder(start, end)[0])
                continue
            tail = "".join(run)
            if part and len(part) * len(made) > MOST_VALUES:
                part = self._placeholder(start, end)
            endings = [tail + value for value in part] if part else [tail]
            longest = max(map(len, made)) + max(map(len, endings))
            if not self._unknowns.spend(longest * len(made) * len(endings)):
                return self._placeholder(start, end)
            made = [left + right for left in made for right in endings]
            run = []
        return tuple(dict.fromkeys(made))

    def _formatted(self, pattern: str, arguments: list[Values], start: int, end: int) -> Values:
        """format(): ``%[position$][-][width][s|I|L]``, ``%%`` (manual section 9.4.1). Widths are not padded."""
        parts: list[Values] = []
        position = taken = 0
        while (percent := pattern.find("%", position)) >= 0:
            parts.append((pattern[position:percent],))
            number, at = _digits(pattern, percent + 1)
            chosen = 0
            if number and pattern.startswith("$", at):
                chosen, at = int(number[:6]), at + 1
            while pattern.startswith("-", at):
                at += 1
            if pattern.startswith("*", at):
                star, at = _digits(pattern, at + 1)
                at += bool(star)  # *1$ names its argument, * takes the next
                taken += not star
            _, at = _digits(pattern, at)
            conversion = pattern[at : at + 1]
            position = at + 1
            if conversion == "%":
                parts.append(("%",))
                continue
            taken = chosen or taken + 1
            values = (arguments[taken - 1] if taken <= len(arguments) else ()) or self._placeholder(
                start, end
            )
            match conversion:
                case "s":
                    parts.append(values)
                case "I":
                    parts.append(tuple([self._quoted(value) for value in values]))
                case "L":
                    parts.append(tuple([_literal(value) for value in values]))
                case _:
                    return self._placeholder(start, end)
        parts.append((pattern[position:],))
        return self._joined(parts, start, end)

    def _quoted(self, name: str) -> str:
        """quote_ident(): in quotes where PostgreSQL would fold or misread the name."""
        known = self._unknowns.without(name)
        name = self._unknowns.as_identifier(name)
        simple = known.isascii() and all(c.islower() or c.isdigit() or c == "_" for c in known)
        if name and simple and not name[0].isdigit() and name not in _RESERVED:
            return name
        return '"' + name.replace('"', '""') + '"'


def path_at(tokens: Sequence[Token], start: int) -> list[str]:
    """The names of a.b.c; whatever stands at ``start`` is one, too."""
    if start >= len(tokens):
        return []
    path = [tokens[start].name or tokens[start].text]
    while start + 2 < len(tokens) and tokens[start + 1].text == "." and tokens[start + 2].name:
        start += 2
        path.append(tokens[start].name)
    return path


def source_of(tokens: Sequence[Token], most: int = 40) -> str:
    """Tokens as one short line of text, for people."""
    text = ""
    spaced = False
    for token in tokens:
        sticks = token.kind == "PUNCTUATION"
        text += (" " if spaced and not sticks else "") + " ".join(token.text.split())
        if len(text) > most:
            return text[: most - 1] + "…"
        spaced = not sticks or token.text in (")", ",")
    return text


def _after_name(tokens: Sequence[Token], index: int) -> int:
    return index + max(0, 2 * len(path_at(tokens, index)) - 1)


def _after_type(tokens: Sequence[Token], index: int) -> int:
    """The index after a type: pg_catalog.varchar(10)[], double precision, timestamp with time zone."""
    index = _after_name(tokens, index)
    while index < len(tokens) and tokens[index].word in _IN_A_TYPE:
        index += 1
    if index < len(tokens) and tokens[index].text == "(":
        while index < len(tokens) and tokens[index].text != ")":
            index += 1
        index += 1
    while index + 1 < len(tokens) and tokens[index].text == "[" and tokens[index + 1].text == "]":
        index += 2
    return index


def _literal(value: str) -> str:
    """quote_literal()."""
    quoted = "'" + value.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def _digits(text: str, start: int) -> tuple[str, int]:
    end = start
    while end < len(text) and text[end] in "0123456789":
        end += 1
    return text[start:end], end


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TELLING = 40  # tokens that an unknown expression is told apart by
_NOTHING = Token("", "", 0)
_OPAQUE = _words("WITH TABLE INSERT UPDATE DELETE MERGE")
_IN_A_TYPE = _words("VARYING PRECISION WITH WITHOUT TIME ZONE")
_SET_OPERATIONS = _words("UNION INTERSECT EXCEPT")
_CLAUSES = _SET_OPERATIONS | _words("SELECT FROM WHERE GROUP HAVING WINDOW ORDER LIMIT OFFSET FETCH FOR INTO")

# Statements that no unknown name, value or clause behind their first words makes a break of another kind.
_HARMLESS_TAIL = _words(
    """SELECT VALUES TABLE WITH INSERT UPDATE DELETE MERGE CREATE DROP GRANT COMMENT ANALYZE ANALYSE VACUUM SET RESET
    SHOW NOTIFY LISTEN UNLISTEN REFRESH EXPLAIN LOCK REINDEX CLUSTER COPY CALL TRUNCATE SECURITY CHECKPOINT"""
)

# After these words of an ALTER, REVOKE or the like stands a name or a value.
_BEFORE_A_NAME = _words(
    """TABLE EXISTS ONLY COLUMN ATTRIBUTE FROM ON VIEW INDEX SEQUENCE FUNCTION PROCEDURE ROUTINE AGGREGATE SCHEMA TYPE
    DOMAIN CONSTRAINT TO TRIGGER ROLE USER GROUP BY DATABASE TABLESPACE POLICY EXTENSION SERVER PUBLICATION
    SUBSCRIPTION RULE LANGUAGE COLLATION PARTITION OF DEFAULT REFERENCES INHERIT RESTART INCREMENT MAXVALUE MINVALUE
    CACHE VALUE BEFORE AFTER STATISTICS COMPRESSION STORAGE PASSWORD LIMIT USING IN AND OR WHERE THAN OBJECT DROP"""
)

# PostgreSQL's reserved words (manual appendix C), which quote_ident() quotes, and a few that would be read as clauses.
_RESERVED = _words(
    """all analyse analyze and any array as asc asymmetric authorization between binary both case cast check collate
    collation column concurrently constraint create cross current_catalog current_date current_role current_schema
    current_time current_timestamp current_user default deferrable desc distinct do else end except exists false fetch
    for foreign freeze from full grant group having if ilike in initially inner intersect into is isnull join lateral
    leading left like limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps
    placing primary references restrict returning right select session_user similar some symmetric system_user table
    tablesample then to trailing true union unique user using variadic verbose when where window with
    add alter cascade drop rename set type"""
)
