"""PostgreSQL's lexical rules (manual section 4.1, src/backend/parser/scan.l) on sqlparse's Lexer, and psql's on top.

sqlparse's own rules are those of many dialects at once and misread PostgreSQL: a backslash in a plain string, nested comments,
`#`, brackets, COPY data. Here one regular expression reads PostgreSQL's tokens as its server does with
`standard_conforming_strings` on, and `statements` cuts them at the semicolons that end a statement.

Time is linear in the text, whatever it holds, and nothing is kept of a statement after it was handed out.
What cannot be read (an unterminated string, say) raises `Unreadable`: nobody can vouch for the rest of the file.
"""

import re
from collections.abc import Iterator
from functools import cache
from io import TextIOBase
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from sqlparse import keywords
from sqlparse import tokens as types
from sqlparse.lexer import Lexer


class Unreadable(Exception):
    """PostgreSQL would not get past this token; `offset` is where it opens in the given text."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"{what} at offset {offset}")
        self.offset = offset
        self.what = what


class Token(NamedTuple):
    """One token; `text` is as written, `offset` counts characters in the text given to `statements`.

    Kinds: WORD (identifier or keyword), QUOTED ("..." or U&"..." with its UESCAPE), STRING (all literals in quotes or
    dollars; `'a'` and `'b'` on the next line are one), NUMBER, PARAM ($1, and psql's :name :'name' :"name" :{?name}),
    OPERATOR, PUNCTUATION (also every character that PostgreSQL knows nothing about), META (a psql command), COMMENT (never in
    a statement).
    """

    kind: str
    text: str
    offset: int

    @property
    def name(self) -> str:
        """The identifier as the catalogue has it: folded, unescaped, cut to 63 bytes; "" for other kinds."""
        if self.kind == "WORD":
            text = self.text
            return text.lower() if len(text) < 16 and text.isascii() else _cut(_lower(text))
        if self.kind != "QUOTED":
            return ""
        if self.text[0] == '"':
            return _cut(self.text[1:-1].replace('""', '"'))
        segment = _QUOTED_SEGMENT.match(self.text, 2)
        assert segment is not None, self.text
        content = segment[0][1:-1].replace('""', '"')
        return _cut(_unicode_escapes(content, self._escape(segment.end())))

    @property
    def word(self) -> str:
        """An unquoted identifier or keyword in upper case, else "": a quoted "drop" is never the keyword."""
        if self.kind != "WORD":
            return ""
        return self.text.upper() if self.text.isascii() else self.text.translate(_TO_UPPER)

    @property
    def value(self) -> str:
        """A STRING's content, unescaped ("" for other kinds). An escape that PostgreSQL would refuse stays as written."""
        if self.kind != "STRING":
            return ""
        text = self.text
        first = text[0]
        if first == "$":
            tag = text.index("$", 1) + 1
            return text[tag:-tag]
        escapes = first in "eE"
        segment_at = (_ESCAPED_SEGMENT if escapes else _PLAIN_SEGMENT).match
        position = text.index("'")
        parts = []
        while segment := segment_at(text, position):
            parts.append(segment[0][1:-1])
            position = segment.end()
            following = _CONTINUED.match(text, position)
            if not following:
                break
            position = following.end() - 1
        content = "".join(parts)
        if escapes:
            return _BACKSLASH.sub(_backslash, content)
        content = content.replace("''", "'")
        return _unicode_escapes(content, self._escape(position)) if first in "uU" else content

    def _escape(self, end_of_literal: int) -> str:
        return self.text[-2] if end_of_literal < len(self.text) else "\\"


class Comment(NamedTuple):
    text: str
    offset: int
    end: int


class Statement(NamedTuple):
    """One statement without white space, comments and its closing `;` (`end` is after it).

    A psql command that can change what is run (META) is a statement of its own with one token.
    """

    tokens: tuple[Token, ...]
    start: int
    end: int


# Any character beyond ASCII is part of an identifier for PostgreSQL: a no-break space too.
# The classes name what does not belong to them: a set that goes up to U+10FFFF takes long to compile.
_FIRST = r"[^\x00-@\[-^`{-\x7f]"  # letters and _
_TAG = r"[^\x00-/:-@\[-^`{-\x7f]"  # digits too
_REST = r"[^\x00-#%-/:-@\[-^`{-\x7f]"  # $ too
_SPACE = r"[ \t\n\r\f\v]"
_LINE_COMMENT = r"--[^\n\r]*+"
# Two literals with a line end between them are one, which goes on in the first one's manner.
_CONTINUED_BY = rf"(?:[ \t\f\v]|{_LINE_COMMENT})*+[\n\r](?:{_SPACE}++|{_LINE_COMMENT}[\n\r])*+'"
_PLAIN_REST = r"[^']*+(?:''[^']*+)*+'"
_PLAIN = rf"'{_PLAIN_REST}(?:{_CONTINUED_BY}{_PLAIN_REST})*+"
_ESCAPED_REST = r"[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'"
_ESCAPED = rf"'{_ESCAPED_REST}(?:{_CONTINUED_BY}{_ESCAPED_REST})*+(?!{_CONTINUED_BY})"
_STRING = rf"[bBxXnN]?+{_PLAIN}|[eE]{_ESCAPED}"
_QUOTED = r'"[^"]*+(?:""[^"]*+)*+"'
_DIGITS = r"[0-9](?:_?[0-9])*+"
_NUMBER = (
    r"0[xX](?:_?[0-9A-Fa-f])++|0[oO](?:_?[0-7])++|0[bB](?:_?[01])++"
    rf"|(?:{_DIGITS}(?:\.(?!\.)(?:{_DIGITS})?+)?+|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?+"
)
_OPERATOR = r"(?:[~!@#^&|`?%+*<>=]|-(?!-)|/(?!\*))++"
_QUOTED_VARIABLE = rf"""'{_TAG}++'(?!'|{_CONTINUED_BY})|"{_TAG}++"(?!")"""
_VARIABLE = rf"""(?:(?![eEbBxXnN]'|[uU]&['"]){_FIRST}{_REST}*+|{_QUOTED_VARIABLE}|\{{\?{_TAG}++\}})"""

# White space before the token belongs to the match. Groups in capitals are kinds, all others need a second look.
_TOKEN = re.compile(
    rf"""{_SPACE}*+(?:
      (?P<WORD>(?![eEbBxXnN]'|[uU]&['"]){_FIRST}{_REST}*+)
    | (?P<PUNCTUATION>[,\[\]] | \.(?:\.|(?![0-9])) | :[:=])
    | (?P<structure>[();])
    | (?P<STRING>{_PLAIN})
    | (?P<NUMBER>{_NUMBER})
    | (?P<OPERATOR>[=<>+*](?![~!@#^&|`?%+*<>=/-]))
    | (?P<QUOTED>{_QUOTED})
    | (?P<comment>{_LINE_COMMENT})
    | (?P<operator>{_OPERATOR})
    | (?P<rare>(?:[eEbBxXnN]|[uU]&)?+['"] | /\* | [$:\\])
    | (?P<end>\Z)
    | (?P<other>.)
    )""",
    re.DOTALL | re.VERBOSE,
)
_RARE = rf"""
      (?P<STRING>{_STRING})
    | (?P<PARAM>\$[0-9]++ | :{_VARIABLE})
    | (?P<unicode>[uU]&(?:{_PLAIN}|{_QUOTED}))
    | (?P<dollar>\$(?:(?![0-9]){_TAG}++)?+\$)
    """
_GROUPS = ("", *_TOKEN.groupindex)
_KINDS = tuple(group if group.isupper() else "" for group in _GROUPS)
_BLOCK = re.compile(r"/\*|\*/")
_KEEPS_SIGN = re.compile(r"[~!@#^&|`?%]")  # an operator with one of these may end in + or -
_BLANK = re.compile(rf"(?:{_SPACE}++|{_LINE_COMMENT})*+")
_UESCAPE = re.compile(rf"(?i:uescape)(?!{_REST})")
_ESCAPE_CHARACTER = re.compile(rf"[eE]?'[^']'(?!'|{_CONTINUED_BY})")
_PLAIN_SEGMENT = re.compile(rf"'{_PLAIN_REST}")
_ESCAPED_SEGMENT = re.compile(rf"'{_ESCAPED_REST}", re.DOTALL)
_QUOTED_SEGMENT = re.compile(_QUOTED)
_CONTINUED = re.compile(_CONTINUED_BY)

# psql: a command's arguments end with the line, at `\\`, or where the next command begins.
_COMMAND = re.compile(r"\\([;:]|[^ \t\n\r\f\v\\]*)")
_ARGUMENTS = re.compile(
    r"""(?:[^\\\n'"`]++ | '(?:[^'\\\n]|\\[^\n])*+(?:'|\\?(?=\n|\Z)) | "[^"\n]*+(?:"|(?=\n|\Z)) | `[^`\n]*+(?:`|(?=\n|\Z)))*+""",
    re.VERBOSE,
)
_WHOLE_LINE = frozenset(["!", "copy", "h", "help", "ef", "ev", "sf", "sv"])
_SENDS = frozenset([";", "g", "gx", "gexec", "gset", "gdesc", "watch", "crosstabview"])
_RUNS = frozenset(["i", "ir", "include", "include_relative", "copy", "gexec", "c", "connect", "!"])
_PIPES = frozenset(["g", "gx"])  # with an argument the rows go to a file or a program
_RESETS = frozenset(["r", "reset"])
_END_OF_LINE = re.compile(r"\r?(?:\n|\Z)")
_SPACES = re.compile(rf"{_SPACE}*+")
_REST_OF_LINE = re.compile(r"[ \t\r\f\v]*+(--[^\n]*+)?+(?:\n|\Z)")

# Rows of nothing but constants in an INSERT, the bulk of a data file, are passed over in one go.
_CONSTANT = rf"(?:{_STRING}|[+-]?+(?:{_NUMBER})|(?i:null|true|false|default)(?!{_REST}|'))(?:::{_FIRST}{_REST}*+(?:\[\])?+)?+"
_ROW = rf"\((?:{_SPACE}++|,|{_CONSTANT})*+\)"
_ROWS = rf"{_ROW}(?:{_SPACE}*+,{_SPACE}*+{_ROW})*+"
# A run of INSERTs that differ in nothing but such rows, as data files have one for each row.
_NAME = rf"(?:{_FIRST}{_REST}*+|{_QUOTED})"
_COLUMNS = rf"\({_SPACE}*+{_NAME}{_SPACE}*+(?:,{_SPACE}*+{_NAME}{_SPACE}*+)*+\)"
_TABLE = rf"{_NAME}(?:\.{_NAME})*+{_SPACE}*+"
_INTO = rf"(?i:insert){_SPACE}++(?i:into){_SPACE}++{_TABLE}(?:{_COLUMNS})?+{_SPACE}*+(?i:values){_SPACE}*+"
_ALL_ROWS = rf"{_ROWS}{_SPACE}*+;"
_INSERTS = rf"{_SPACE}*+(?P<into>{_INTO}){_ALL_ROWS}(?:{_SPACE}*+(?P=into){_ALL_ROWS})*+"
_INSERT_NEXT = re.compile(rf"{_SPACE}*+(?i:insert){_SPACE}")
_CONSTANT_WORDS = frozenset(["NULL", "TRUE", "FALSE", "DEFAULT"])
_SAME_ROW_LIMIT = 64  # tokens; to compare longer rows at each closing parenthesis would not be linear

# Tokens, and the one after them that may end something: a parenthesis or semicolon, COMMENT, META; None at the end.
_Run: TypeAlias = tuple[list[Token], Token | None]


_new = tuple.__new__  # what Token() itself calls


class PostgresLexer(Lexer):
    """sqlparse's lexer with PostgreSQL's rules. A private instance: sqlparse's own singleton stays as it is."""

    def __init__(self) -> None:
        self.clear()  # type: ignore[no-untyped-call]
        for words in (keywords.KEYWORDS_COMMON, keywords.KEYWORDS_PLPGSQL, keywords.KEYWORDS):
            self.add_keywords(words)  # type: ignore[no-untyped-call]

    def get_tokens(
        self, text: str | bytes | TextIOBase, encoding: str | None = None
    ) -> Iterator[tuple[Any, str]]:
        """sqlparse's (type, text) pairs; the texts concatenate to the input. Raises Unreadable."""
        if isinstance(text, TextIOBase):
            text = text.read()
        if isinstance(text, bytes):
            text = text.decode(encoding or "utf-8")
        position = 0
        for kind, value, offset in self.scan(text):
            if offset > position:
                yield types.Whitespace, text[position:offset]
            position = offset + len(value)
            if kind == "WORD":
                yield self.is_keyword(value)  # type: ignore[no-untyped-call]
            else:
                yield _sqlparse_type(kind, value), value
        if position < len(text):
            yield types.Whitespace, text[position:]

    def scan(self, text: str, start: int = 0, end: int | None = None) -> Iterator[Token]:
        """Kind, text and offset of all tokens between two offsets, COMMENT and META included. Raises Unreadable."""
        for run, last in self.runs(text, start, end):
            yield from run
            if last:
                yield last

    def runs(self, text: str, start: int = 0, end: int | None = None) -> Iterator[_Run]:
        """The same, up to each token that may end something at a time: so it is a third faster."""
        end = len(text) if end is None else end
        position = start
        if position == 0 and text.startswith("\ufeff"):
            position = 1
        run: list[Token] = []
        kinds, new = _KINDS, _new
        while position < end:
            for match in _TOKEN.finditer(text, position, end):
                index: Any = match.lastindex
                kind = kinds[index]
                if kind:
                    run.append(new(Token, (kind, match[index], match.start(index))))
                    continue
                group, value, offset = _GROUPS[index], match[index], match.start(index)
                if group == "structure":
                    yield run, new(Token, ("PUNCTUATION", value, offset))
                    run = []
                elif group == "operator":
                    # `a=-1` is `=` and `-1`: without certain characters an operator does not end in a sign.
                    head = value
                    if len(value) > 1 and value[-1] in "+-" and not _KEEPS_SIGN.search(value):
                        head = value.rstrip("+-")
                    if head:
                        run.append(new(Token, ("OPERATOR", head, offset)))
                    for sign in range(len(head), len(value)):
                        run.append(Token("OPERATOR", value[sign], offset + sign))
                elif group == "comment":
                    yield run, Token("COMMENT", value, offset)
                    run = []
                elif group == "other":
                    run.append(Token("PUNCTUATION", value, offset))
                elif group == "end":
                    position = end
                else:
                    kind, position = _rare(text, value, offset, end)
                    token = Token(kind, text[offset:position], offset)
                    if kind in ("COMMENT", "META"):
                        yield run, token
                        run = []
                    else:
                        run.append(token)
                    break
            else:
                break
        yield run, None


_LEXER = PostgresLexer()


def statements(
    text: str, *, start: int = 0, end: int | None = None, comments: list[Comment] | None = None
) -> Iterator[Statement]:
    """The statements between two offsets; comments go to the list when one is given. Raises Unreadable.

    `;` ends a statement outside parentheses and outside the BEGIN ATOMIC body of a function. In an INSERT the constants and
    commas inside parentheses are left out, and pairs of parentheses that held nothing else (or only what an earlier pair
    held): data files are large and say nothing. Called functions stay. Neighbouring INSERTs that differ in their constants
    only are one statement. The lines of COPY ... FROM STDIN are passed over.
    """
    end = len(text) if end is None else end
    nul = text.find("\0", start, end)
    if nul >= 0:
        raise Unreadable(nul, "NUL character")
    tokens: list[Token] = []
    insert: _Insert | None = None
    depth = opened = 0
    body = -1  # in a BEGIN ATOMIC body: the index of the token that would begin its next statement
    constant = True  # an INSERT that follows may hold nothing but constants
    position = start
    while True:
        while (
            constant
            and not tokens
            and _INSERT_NEXT.match(text, position, end)
            and (found := _inserts().match(text, position, end))
        ):
            into = _LEXER.scan(text, *found.span("into"))
            yield Statement(
                tuple(token for token in into if token.text != ","), found.start("into"), found.end()
            )
            position = found.end()
        constant = False
        for run, last in _LEXER.runs(text, position, end):
            if insert:
                for token in run:
                    insert.add(token)
            else:
                tokens += run
            if last is None:
                continue
            kind, value, offset = last
            if kind == "PUNCTUATION":
                ends = False
                if value == "(":
                    if not depth:
                        opened = offset
                        if not insert and _word(tokens, 0) == "INSERT":
                            insert = _Insert(tokens)
                    if insert and not insert.calls() and (rows := _rows().match(text, offset, end)):
                        position = insert.end = rows.end()
                        insert.passed = True
                        break
                    depth += 1
                elif value == ")":
                    depth = depth - 1 if depth else 0
                elif not depth:
                    head = _word(tokens, 0)
                    if body < 0 and head == "CREATE":
                        body = _atomic_body(tokens)
                    ends = body < 0 or _word(tokens, body) == "END"
                    if not ends:
                        body = len(tokens) + 1
                if not ends:
                    if insert:
                        insert.add(last)
                    else:
                        tokens.append(last)
                    continue
            elif kind == "COMMENT":
                if comments is not None:
                    comments.append(Comment(value, offset, offset + len(value)))
                continue
            name = ";"
            if kind == "META":
                name, head = _command_name(value), _word(tokens, 0)
            data = False
            if name in _RESETS:
                tokens, insert, depth, body = [], None, 0, -1
            elif name in _SENDS and tokens:
                yield Statement(tuple(tokens), tokens[0][2], offset + (kind != "META"))
                data = head == "COPY" and _reads_input(tokens)
                constant = head != "INSERT"
                if head == "SET" and _turns_escapes_on(tokens) and text.find("\\", offset, end) >= 0:
                    raise Unreadable(
                        tokens[0][2], "backslashes after standard_conforming_strings is turned off"
                    )
                tokens, insert, depth, body = [], None, 0, -1
            if name in _RUNS or (name in _PIPES and value.split()[1:]):
                line = value.removesuffix("\\\\").rstrip()
                yield Statement((Token(kind, line, offset),), offset, offset + len(line))
                data = data or _copies_input(line)
            if data:
                position = _after_data(text, offset, offset + len(value), end, comments)
                break
            if constant and _INSERT_NEXT.match(text, offset + len(value), end):
                position = offset + len(value)
                break
        else:
            break
    if depth:
        raise Unreadable(opened, "unclosed parenthesis")
    if tokens:
        if body >= 0 and _word(tokens, body) != "END":
            raise Unreadable(tokens[0][2], "unterminated BEGIN ATOMIC body")
        _, value, offset = tokens[-1]
        yield Statement(tuple(tokens), tokens[0][2], insert.end if insert else offset + len(value))


# Compiled when they are first wanted: they take long, and few migrations hold such things.
@cache
def _rare_tokens() -> re.Pattern[str]:
    return re.compile(_RARE, re.DOTALL | re.VERBOSE)


@cache
def _inserts() -> re.Pattern[str]:
    return re.compile(_INSERTS, re.DOTALL)


@cache
def _rows() -> re.Pattern[str]:
    return re.compile(_ROWS, re.DOTALL)


class _Insert:
    """What is kept of an INSERT: not its constants, and of alike rows the first."""

    __slots__ = ("end", "opened", "passed", "seen", "tokens")

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.opened: list[int] = []  # for each open parenthesis its index, or -1: a call's, a column list's
        self.seen: set[tuple[str, ...]] = set()
        self.passed = False  # the last pair of parentheses was left out, and so is the comma after it
        self.end = 0

    def calls(self) -> bool:
        """Whether a parenthesis here would belong to the word before it."""
        return self.tokens[-1][0] == "QUOTED" or _word(self.tokens, -1) not in ("", "VALUES")

    def add(self, token: Token) -> None:
        kind, value, offset = token
        self.end = offset + len(value)
        if self.opened:
            if value == "," or kind in ("STRING", "NUMBER"):
                return
            if kind == "WORD" and value.upper() in _CONSTANT_WORDS:
                return
        elif value == "," and self.passed:
            return
        if value == "(":
            self.opened.append(-1 if self.calls() else len(self.tokens))
        elif value == ")" and self.opened:
            first = self.opened.pop()
            held = len(self.tokens) - first - 1
            if first >= 0 and held <= _SAME_ROW_LIMIT:
                row = tuple([kept[1] for kept in self.tokens[first:]])
                if not held or row in self.seen:
                    del self.tokens[first:]
                    self.passed = True
                    return
                self.seen.add(row)
        self.passed = False
        self.tokens.append(token)


def _word(tokens: list[Token], index: int) -> str:
    """The token at an index in upper case when it is a WORD, else ""."""
    if index >= len(tokens):
        return ""
    kind, value, _ = tokens[index]
    return value.upper() if kind == "WORD" and value.isascii() else ""


def _atomic_body(tokens: list[Token]) -> int:
    """The index after BEGIN ATOMIC in a CREATE FUNCTION or PROCEDURE, or -1.

    The body ends with the END that follows a `;` (or ATOMIC itself): no other END stands there, not even a CASE's.
    """
    if _word(tokens, 3 if _word(tokens, 1) == "OR" else 1) not in ("FUNCTION", "PROCEDURE"):
        return -1
    for index in range(3, len(tokens)):
        if _word(tokens, index) == "ATOMIC" and _word(tokens, index - 1) == "BEGIN":
            return index + 1
    return -1


def _reads_input(tokens: list[Token]) -> bool:
    """Whether a COPY is FROM STDIN; PostgreSQL takes STDOUT there as well."""
    depth = 0
    for index, (_, value, _) in enumerate(tokens):
        depth += (value == "(") - (value == ")")
        if not depth and _word(tokens, index) == "FROM":
            return _word(tokens, index + 1) in ("STDIN", "STDOUT")
    return False


def _turns_escapes_on(tokens: list[Token]) -> bool:
    """Whether a SET is of standard_conforming_strings to anything but on: a backslash in '...' would be an escape then."""
    if not any(text.lower() == "standard_conforming_strings" for _, text, _ in tokens[1:3]):
        return False
    return tokens[-1][1].strip("'").lower() not in ("on", "true", "yes", "1", "default")


def _copies_input(command: str) -> bool:
    words = command.lower().split()
    return words[0] == "\\copy" and any(pair == ("from", "stdin") for pair in pairwise(words))


def _after_data(text: str, copy: int, position: int, end: int, comments: list[Comment] | None) -> int:
    """The offset after COPY's data: from the line after the statement to the line `\\.`."""
    line = _REST_OF_LINE.match(text, position, end)
    if not line:
        raise Unreadable(position, "something follows COPY ... FROM STDIN on its line")
    if line[1] and comments is not None:
        comments.append(Comment(line[1], line.start(1), line.end(1)))
    if _SPACES.fullmatch(text, line.end(), end):
        return end
    position = line.end() - 1
    while (position := text.find("\n\\.", position, end)) >= 0:
        position += 3
        if last := _END_OF_LINE.match(text, position, end):
            return last.end()
    raise Unreadable(copy, "COPY data without its end, a line with \\.")


def _rare(text: str, opening: str, offset: int, end: int) -> tuple[str, int]:
    """Kind and end of a token that `_TOKEN` only knows to begin."""
    if opening == "/*":
        return "COMMENT", _after_comment(text, offset, end)
    if opening == "\\":
        return "META", _after_command(text, offset, end)
    match = _rare_tokens().match(text, offset, end)
    if not match:
        if opening in "$:":
            return "PUNCTUATION", offset + 1
        what = "quoted identifier" if opening[-1] == '"' else "string"
        raise Unreadable(offset, f"unterminated {what}")
    if match.lastgroup == "dollar":
        tag = match[0]
        position = text.find(tag, match.end(), end)
        if position < 0:
            raise Unreadable(offset, f"unterminated {tag} literal")
        return "STRING", position + len(tag)
    if match.lastgroup == "unicode":
        return "STRING" if opening[-1] == "'" else "QUOTED", _after_uescape(text, match.end(), end)
    return str(match.lastgroup), match.end()


def _after_comment(text: str, offset: int, end: int) -> int:
    """The offset after a block comment, which may hold others."""
    depth = 0
    for mark in _BLOCK.finditer(text, offset, end):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    raise Unreadable(offset, "unterminated comment")


def _after_blank(text: str, position: int, end: int) -> int:
    """The offset after white space and comments."""
    while True:
        blank = _BLANK.match(text, position, end)
        position = blank.end() if blank else position
        if not text.startswith("/*", position, end):
            return position
        position = _after_comment(text, position, end)


def _after_uescape(text: str, position: int, end: int) -> int:
    """The offset after the UESCAPE 'c' of a U& token that ends at `position`, or `position` when it has none."""
    word = _UESCAPE.match(text, _after_blank(text, position, end), end)
    character = word and _ESCAPE_CHARACTER.match(text, _after_blank(text, word.end(), end), end)
    return character.end() if character else position


def _command_name(text: str) -> str:
    if text == ";":
        return text
    name = _COMMAND.match(text)
    assert name is not None
    return "!" if name[1].startswith("!") else name[1]


def _after_command(text: str, offset: int, end: int) -> int:
    if text.startswith("\\\\", offset, end):
        return offset + 2
    command = _COMMAND.match(text, offset, end)
    assert command is not None
    if command[1] in (";", ":"):
        return command.end()
    if command[1] in _WHOLE_LINE or command[1].startswith("!"):
        line = text.find("\n", command.end(), end)
        return end if line < 0 else line
    arguments = _ARGUMENTS.match(text, command.end(), end)
    assert arguments is not None
    position = arguments.end()
    return position + 2 if text.startswith("\\\\", position, end) else position


def _sqlparse_type(kind: str, text: str) -> Any:
    if kind == "COMMENT":
        return types.Comment.Multiline if text[0] == "/" else types.Comment.Single
    if kind == "STRING":
        return types.Literal if text[0] == "$" else types.String.Single
    if kind == "NUMBER":
        if text[:2] in ("0x", "0X"):
            return types.Number.Hexadecimal
        return types.Number.Float if not text.replace("_", "").isdigit() else types.Number.Integer
    return _SQLPARSE_TYPES[kind]


_SQLPARSE_TYPES = {
    "QUOTED": types.String.Symbol,
    "PARAM": types.Name.Placeholder,
    "OPERATOR": types.Operator,
    "PUNCTUATION": types.Punctuation,
    "META": types.Command,
}

_TO_LOWER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_TO_UPPER = {ord(letter): letter.upper() for letter in "abcdefghijklmnopqrstuvwxyz"}


def _lower(text: str) -> str:
    """Folded as in a UTF-8 database: the letters A to Z only."""
    return text.lower() if text.isascii() else text.translate(_TO_LOWER)


def _cut(name: str) -> str:
    """What PostgreSQL keeps of a name: 63 bytes (NAMEDATALEN - 1), whole characters."""
    if len(name) < 16:
        return name
    encoded = name.encode("utf-8", "surrogatepass")
    return name if len(encoded) < 64 else encoded[:63].decode("utf-8", "ignore")


_BACKSLASH = re.compile(
    r"''|((?:\\(?:[0-7]{1,3}|x[0-9A-Fa-f]{1,2}))+)|((?:\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})+)|\\(.)",
    re.DOTALL,
)
_BYTE = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3}))")
_CODE_POINT = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))")
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _backslash(match: re.Match[str]) -> str:
    """One escape of an E'' literal; neighbouring bytes and code points are one character at times."""
    if match[1]:
        codes = bytes(
            int(hexadecimal or "0", 16) | int(octal or "0", 8) & 255
            for hexadecimal, octal in _BYTE.findall(match[1])
        )
        return codes.decode("utf-8", "replace")
    if match[2]:
        return _characters([short or long for short, long in _CODE_POINT.findall(match[2])]) or match[2]
    if match[3]:
        return _LETTERS.get(match[3], match[3])
    return "'"


def _unicode_escapes(content: str, escape: str) -> str:
    mark = re.escape(escape)
    pattern = rf"{mark}{mark}|((?:{mark}(?:[0-9A-Fa-f]{{4}}|\+[0-9A-Fa-f]{{6}}))+)"

    def character(match: re.Match[str]) -> str:
        if not match[1]:
            return escape
        codes = [code.lstrip("+") for code in match[1].split(escape)[1:]]
        return _characters(codes) or match[1]

    return re.sub(pattern, character, content)


def _characters(codes: list[str]) -> str:
    """The characters of hexadecimal code points, surrogate pairs joined; "" when one is none."""
    points = [int(code, 16) for code in codes]
    if any(point > 0x10FFFF for point in points):
        return ""
    return "".join(map(chr, points)).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
