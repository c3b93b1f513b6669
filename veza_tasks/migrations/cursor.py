"""A place in a statement's tokens, and how to read the names of PostgreSQL's objects there."""

from __future__ import annotations

from collections.abc import Iterable

from veza_tasks.migrations.actions import Argument, Name, Tokens

IDENTIFIERS = frozenset(["WORD", "QUOTED"])


NOWHERE = Name("", "")


class Cursor:
    """A place in a statement's tokens. `words` holds keywords in upper case, punctuation as it is, "" for all else."""

    __slots__ = ("at", "schema", "size", "tokens", "words")

    def __init__(self, tokens: Tokens, schema: str = "") -> None:
        self.tokens = tokens
        self.words = [
            text.upper() if kind == "WORD" else text if kind == "PUNCTUATION" or kind == "OPERATOR" else ""
            for kind, text, _ in tokens
        ]
        self.size = len(tokens)
        self.at = 0
        self.schema = schema  # of unqualified names: CREATE SCHEMA with elements

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.words[index] if index < self.size else ""

    def accept(self, *words: str) -> bool:
        """Steps over these words if they stand here, all of them."""
        index = self.at
        for word in words:
            if index >= self.size or self.words[index] != word:
                return False
            index += 1
        self.at = index
        return True

    def any_of(self, *words: str) -> str:
        """Steps over one of these words, and says which; "" if none stands here."""
        word = self.peek()
        if word and word in words:
            self.at += 1
            return word
        return ""

    @property
    def done(self) -> bool:
        return self.at >= self.size

    def offset(self, index: int) -> int:
        """Where a token starts; the end of the statement past the last one."""
        if index < self.size:
            return self.tokens[index].offset
        return self.end(self.size)

    def end(self, index: int) -> int:
        """Where the token before `index` ends."""
        if not self.tokens:
            return 0
        token = self.tokens[min(max(index, 1), self.size) - 1]
        return token.offset + len(token.text)

    def identifier(self) -> str:
        """A single name; "" if none stands here."""
        if self.at < self.size and self.tokens[self.at].kind in IDENTIFIERS:
            self.at += 1
            return self.tokens[self.at - 1].name
        return ""

    def name(self) -> Name:
        """A name with up to two qualifiers; an empty one if none stands here."""
        last = self.identifier()
        schema = self.schema if last else ""
        while self.peek() == "." and self.at + 1 < self.size:
            self.at += 1
            schema, last = last, self.identifier()
        return Name(schema, last)

    def string(self) -> str:
        """A literal's content or a bare word, as SET and CREATE ROLE take both."""
        if self.at >= self.size:
            return ""
        token = self.tokens[self.at]
        self.at += 1
        return token.value if token.kind == "STRING" else token.name or token.text

    def skip(self) -> None:
        """Steps over one token, or over a whole pair of parentheses or brackets."""
        if self.peek() not in ("(", "["):
            self.at += 1
            return
        depth = 0
        words, size, index = self.words, self.size, self.at
        while index < size:
            word = words[index]
            if word == "(" or word == "[":
                depth += 1
            elif word == ")" or word == "]":
                depth -= 1
                if depth == 0:
                    break
            index += 1
        self.at = min(index + 1, size)

    def group(self) -> Tokens:
        """The tokens inside the parentheses that open here, which are stepped over; () if none do."""
        if self.peek() != "(":
            return ()
        first = self.at + 1
        self.skip()
        last = self.at - 1 if self.words[self.at - 1] == ")" else self.at
        return self.tokens[first:last]

    def items(self) -> list[Tokens]:
        """The elements, split at commas, of the parentheses that open here; they are stepped over."""
        return split(self.group())

    def until(self, *words: str) -> Tokens:
        """The tokens up to one of these words at this depth, or to the end."""
        first = self.at
        while self.at < self.size and self.words[self.at] not in words:
            self.skip()
        return self.tokens[first : self.at]

    def if_exists(self) -> bool:
        return self.accept("IF", "EXISTS")

    def if_not_exists(self) -> bool:
        return self.accept("IF", "NOT", "EXISTS")

    def names(self) -> list[str]:
        """Single names, separated by commas."""
        found = []
        while name := self.identifier():
            found.append(name)
            if not self.accept(","):
                break
        return found


def whole(cursor: Cursor) -> tuple[int, int]:
    tokens = cursor.tokens
    if not tokens:
        return 0, 0
    _, text, offset = tokens[-1]
    return tokens[0].offset, offset + len(text)


def split(tokens: Tokens) -> list[Tokens]:
    """A list's elements: cut at the commas outside parentheses and brackets."""
    found = []
    depth = first = 0
    for index, (kind, text, _) in enumerate(tokens):
        if kind != "PUNCTUATION":
            continue
        if text in "([":
            depth += 1
        elif text in ")]":
            depth -= 1
        elif text == "," and depth == 0:
            found.append(tokens[first:index])
            first = index + 1
    if first < len(tokens):
        found.append(tokens[first:])
    return found


_TYPES = {
    "int": "integer", "int4": "integer", "int8": "bigint", "int2": "smallint", "bool": "boolean",
    "varchar": "character varying", "char": "character", "bpchar": "character", "decimal": "numeric",
    "dec": "numeric", "float": "double precision", "float8": "double precision", "float4": "real",
    "timestamptz": "timestamp with time zone", "timetz": "time with time zone", "varbit": "bit varying",
    "char varying": "character varying", "national character": "character", "national char": "character",
    "national character varying": "character varying", "serial": "serial", "serial4": "serial",
    "serial8": "bigserial", "serial2": "smallserial",
}  # fmt: skip


_LONGER_TYPES = {
    "DOUBLE": ("PRECISION",), "CHARACTER": ("VARYING",), "CHAR": ("VARYING",), "BIT": ("VARYING",),
    "NATIONAL": ("CHARACTER", "CHAR", "VARYING"),
}  # fmt: skip


def type_name(cursor: Cursor) -> Name:
    """A type as the catalogue calls it, with [] for arrays and without length; steps over it."""
    head = cursor.peek()
    if head == "SETOF":
        cursor.at += 1
        head = cursor.peek()
    schema, text = cursor.name()
    if not text:
        return NOWHERE
    after = cursor.peek()
    if schema == cursor.schema or schema == "pg_catalog":
        schema = ""
        if head in _LONGER_TYPES:
            while word := cursor.any_of(*_LONGER_TYPES[head]):
                text += " " + word.lower()
            after = cursor.peek()
        text = _TYPES.get(text, text)
    if after == "(":
        cursor.skip()
        after = cursor.peek()
    if head in ("TIMESTAMP", "TIME") and after in ("WITH", "WITHOUT") and cursor.peek(1) == "TIME":
        if after == "WITH":
            text += " with time zone"
        cursor.at += 3
    elif head == "INTERVAL":
        while cursor.any_of("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "TO"):
            if cursor.peek() == "(":
                cursor.skip()
    elif cursor.accept("%"):
        text += "%" + cursor.identifier()
    array = cursor.accept("ARRAY")
    while cursor.peek() == "[":
        cursor.skip()
        array = True
    return Name(schema, text + "[]" if array else text)


def arguments_of(items: Iterable[Tokens]) -> tuple[Argument, ...]:
    """The arguments of CREATE FUNCTION, or of the signature in DROP and ALTER FUNCTION."""
    found = []
    for item in items:
        cursor = Cursor(item)
        mode = _mode(cursor)
        first = cursor.at
        kind = type_name(cursor)
        name = ""
        if not cursor.done and cursor.peek() not in ("DEFAULT", "=", ":="):
            cursor.at = first
            name = cursor.identifier()
            mode = _mode(cursor) or mode
            kind = type_name(cursor)
        if cursor.peek() == "ORDER":  # an ordered-set aggregate's signature
            cursor.at = cursor.size
        found.append(Argument(mode or "IN", name, kind.name, cursor.peek() in ("DEFAULT", "=", ":=")))
    return tuple(found)


def _mode(cursor: Cursor) -> str:
    if cursor.accept("IN"):
        return "INOUT" if cursor.accept("OUT") else "IN"
    return cursor.any_of("OUT", "INOUT", "VARIADIC")


_TEXT_SEARCH = ("CONFIGURATION", "DICTIONARY", "PARSER", "TEMPLATE")


_PLAIN_KINDS = {
    "TABLE": "table", "VIEW": "view", "SEQUENCE": "sequence", "TYPE": "type", "DOMAIN": "domain",
    "INDEX": "index", "SCHEMA": "schema", "EXTENSION": "extension", "COLLATION": "collation",
    "CONVERSION": "conversion", "LANGUAGE": "language", "SERVER": "server", "ROLE": "role", "GROUP": "role",
    "USER": "role", "DATABASE": "database", "TRIGGER": "trigger", "RULE": "rule", "POLICY": "policy",
    "STATISTICS": "statistics", "PUBLICATION": "publication", "SUBSCRIPTION": "subscription",
    "TABLESPACE": "tablespace", "FUNCTION": "function", "PROCEDURE": "function", "AGGREGATE": "function",
    "ROUTINE": "function",
}  # fmt: skip


ON_TABLE = ("trigger", "rule", "policy")


def kind_after(cursor: Cursor, head: str) -> str:
    """The kind of object after CREATE, DROP or ALTER, whose first word was read; "" if there is none of that name."""
    match head:
        case "MATERIALIZED":
            return "materialized view" if cursor.accept("VIEW") else ""
        case "FOREIGN":
            if cursor.accept("TABLE"):
                return "foreign table"
            return "foreign-data wrapper" if cursor.accept("DATA", "WRAPPER") else ""
        case "EVENT":
            return "event trigger" if cursor.accept("TRIGGER") else ""
        case "ACCESS":
            return "access method" if cursor.accept("METHOD") else ""
        case "TEXT":
            cursor.accept("SEARCH")
            word = cursor.any_of(*_TEXT_SEARCH)
            return f"text search {word.lower()}" if word else ""
        case "OPERATOR":
            word = cursor.any_of("CLASS", "FAMILY")
            return f"operator {word.lower()}" if word else "operator"
        case "USER":
            return "user mapping" if cursor.accept("MAPPING") else "role"
        case "TRUSTED" | "PROCEDURAL":
            return "language" if cursor.accept("LANGUAGE") else ""
        case "LARGE":
            return "large object" if cursor.accept("OBJECT") else ""
        case "CAST" | "TRANSFORM" | "OWNED" | "DEFAULT" | "SYSTEM":
            return head.lower()
        case _:
            return _PLAIN_KINDS.get(head, "")


def operator_name(cursor: Cursor) -> str:
    """An operator's name: punctuation, so never an identifier."""
    text = ""
    while not cursor.done and cursor.peek() not in ("(", ","):
        text += cursor.tokens[cursor.at].text
        cursor.at += 1
    return text


def cast_name(cursor: Cursor) -> str:
    tokens = cursor.group()
    inner = Cursor(tokens)
    source = type_name(inner)
    inner.accept("AS")
    return f"({source} AS {type_name(inner)})"
