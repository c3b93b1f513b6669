"""The statements inside DO blocks and called functions, and inside the strings that those EXECUTE.

PL/pgSQL (PostgreSQL manual, chapter 43; grammar in ``src/pl/plpgsql/src/pl_gram.y``) is walked in one pass over the
lexer's tokens, control flow flattened: every branch counts, a loop's body once. What a string variable may hold
is followed through assignments, branches and loops; an EXECUTE runs each text that it may hold.

What is only known at run time stands in a text as a placeholder, so that the rest of it can still be read:
``EXECUTE format('ALTER TABLE %I DROP COLUMN x', r.name)`` is ``ALTER TABLE "?r.name" DROP COLUMN x``, a quoted
identifier that no migration makes by its plain name. The same unknown has the same placeholder until it may have
changed. Where the placeholder could be more than a name (a verb, a clause), the statement is ``Unresolved``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from veza_tasks.migrations.expressions import (
    MOST_VALUES,
    Expression,
    Unknowns,
    Values,
    either,
    path_at,
    source_of,
)
from veza_tasks.migrations.lexer import Statement, Token, Unreadable, statements


class Unresolved(NamedTuple):
    """A dynamic statement, or a body, that nobody can read before it runs; ``offset`` is in the outer text."""

    offset: int
    what: str


class _Body(NamedTuple):
    """A body that is yet to be walked: text, language, and where its characters are in the outer text."""

    text: str
    language: str
    offset_of: Callable[[int], int]


_Found = Statement | Unresolved | _Body


def language_of(statement: Statement) -> str:
    """The language of a DO or CREATE FUNCTION|PROCEDURE, in lower case; sql for a body without quotes."""
    tokens = statement.tokens
    for index, token in _outside_parentheses(tokens):
        if token.word == "LANGUAGE" and index + 1 < len(tokens):
            return (tokens[index + 1].name or tokens[index + 1].value).lower()
    return "plpgsql" if tokens and tokens[0].word == "DO" else "sql"


def body_of(statement: Statement) -> Token | None:
    """The literal that holds the body of a DO or of a CREATE FUNCTION|PROCEDURE ... AS.

    None for other statements, for a body without quotes (BEGIN ATOMIC, RETURN), for C and internal functions.
    """
    tokens = statement.tokens
    if not tokens:
        return None
    if tokens[0].word == "DO":
        return next((token for token in tokens[1:] if token.kind == "STRING"), None)
    if not _creates_routine(tokens) or language_of(statement) in ("c", "internal"):
        return None
    for index, token in _outside_parentheses(tokens):
        if token.word == "AS" and index + 1 < len(tokens) and tokens[index + 1].kind == "STRING":
            return tokens[index + 1]
    return None


def run_by(statement: Statement) -> Iterator[Statement | Unresolved]:
    """All that a DO, or a call of the function or procedure that the statement creates, may run.

    Includes a body without quotes (its statements, its RETURN as a SELECT). Nothing for other statements.
    """
    body = body_of(statement)
    if body is not None:
        yield from executed(body.value, offset_of=offsets_in(body), language=language_of(statement))
    elif _creates_routine(statement.tokens):
        yield from _unquoted(statement.tokens)


def offsets_in(literal: Token) -> Callable[[int], int]:
    """Maps an offset in a literal's value to the text it stands in; its start where escapes move characters."""
    return _offsets_in(literal, literal.value)


def executed(
    body: str, *, offset_of: Callable[[int], int], language: str = ""
) -> Iterator[Statement | Unresolved]:
    """All SQL statements that a body may run, those of the DO blocks and EXECUTEs inside it included.

    ``language`` is looked at in the body itself when not given: plpgsql or sql; of any other the answer is one
    Unresolved. Offsets are those of the outer text: ``offset_of`` maps an offset in the body to it.

    A DO inside is gone through, not handed out. PERFORM, conditions, assignments and the like come as a SELECT
    of their expression when they call anything; PL/pgSQL's INTO is left out, so a SELECT INTO is a real one;
    COMMIT and ROLLBACK are statements.
    """
    unknowns = Unknowns(len(body))
    running: list[Iterator[_Found]] = [_walk(_Body(body, language, offset_of), unknowns)]
    while running:
        found = next(running[-1], None)
        if found is None:
            running.pop()
        elif isinstance(found, _Body):
            running.append(_walk(found, unknowns))
        elif isinstance(found, Statement):
            shown = unknowns.shown(found)
            if unknowns.can_be_read(found):
                yield shown
            else:
                what = f"a statement that is only known when it runs: {source_of(shown.tokens, 60)}"
                yield Unresolved(shown.start, what)
        else:
            yield found


def is_placeholder(name: str) -> bool:
    """Whether a name is, in part, only known at run time: it may be any object, and is never surely a new one."""
    return "?" in name


def raises(body: str) -> bool:
    """Whether a PL/pgSQL body can raise an error of its own: RAISE EXCEPTION (or no level at all), ASSERT.

    Also true of a body that cannot be read, or is in another language than PL/pgSQL and SQL.
    """
    for tokens in _readable_pieces(body):
        if tokens is None:
            return True
        for index, token in enumerate(tokens):
            if token.word == "ASSERT" and not _is_qualified(tokens, index):
                return True
            if token.word == "RAISE" and not _is_qualified(tokens, index):
                level = tokens[index + 1].word if index + 1 < len(tokens) else ""
                if level not in ("DEBUG", "LOG", "INFO", "NOTICE", "WARNING"):
                    return True
    return False


def returns_null(body: str) -> bool:
    """Whether a PL/pgSQL body has a RETURN NULL. Also true of a body that cannot be read."""
    for tokens in _readable_pieces(body):
        if tokens is None:
            return True
        for token, following in pairwise(tokens):
            if token.word == "RETURN" and following.word == "NULL":
                return True
    return False


def _readable_pieces(body: str) -> Iterator[tuple[Token, ...] | None]:
    try:
        for piece in statements(body):
            yield piece.tokens
    except Unreadable:
        yield None


def _is_qualified(tokens: Sequence[Token], index: int) -> bool:
    return index > 0 and tokens[index - 1].text == "."


def _creates_routine(tokens: Sequence[Token]) -> bool:
    words = [token.word for token in tokens[:4]]
    if words[1:3] == ["OR", "REPLACE"]:
        del words[1:3]
    return words[:1] == ["CREATE"] and words[1:2] in (["FUNCTION"], ["PROCEDURE"])


def _outside_parentheses(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    depth = 0
    for index, token in enumerate(tokens):
        if token.kind == "PUNCTUATION":
            if token.text in ("(", "["):
                depth += 1
            elif token.text in (")", "]"):
                depth -= 1
        if not depth:
            yield index, token


def _offsets_in(literal: Token, value: str, *, exact: bool = True) -> Callable[[int], int]:
    """``exact``: the literal's own characters lie where its offset says, not in a string that was put together."""
    start = literal.text.find(value) if value else len(literal.text) // 2
    verbatim = literal.text[:1] in "'$" and len(literal.text) == 2 * start + len(value)
    if verbatim and exact:
        first = literal.offset + start
        return lambda offset: first + offset
    return lambda offset: literal.offset


def _unquoted(tokens: tuple[Token, ...]) -> Iterator[Statement]:
    """The statements of BEGIN ATOMIC ... END, or the expression of RETURN."""
    start = 0
    for index, token in _outside_parentheses(tokens):
        if not start and token.word == "RETURN":
            yield _select(tokens[index + 1 :])
            return
        if token.word == "ATOMIC" and tokens[index - 1].word == "BEGIN":
            start = index + 1
        elif start and token.text == ";":
            part = tokens[start:index]
            start = index + 1
            if part and part[0].word == "RETURN":
                yield _select(part[1:])
            elif part and part[0].word != "END":
                yield _statement(part)


def _statement(tokens: tuple[Token, ...]) -> Statement:
    return Statement(tokens, tokens[0].offset, tokens[-1].offset + len(tokens[-1].text))


def _moved(tokens: Sequence[Token], offset_of: Callable[[int], int]) -> tuple[Token, ...]:
    return tuple([Token(kind, text, offset_of(offset)) for kind, text, offset in tokens])


def _select(tokens: tuple[Token, ...]) -> Statement:
    return _statement((Token("WORD", "SELECT", tokens[0].offset if tokens else 0), *tokens))


def _walk(body: _Body, unknowns: Unknowns) -> Iterator[_Found]:
    text, language, offset_of = body
    if language not in ("", "plpgsql", "sql"):
        yield Unresolved(offset_of(0), f"a body in {language}")
        return
    pieces: list[tuple[Token, ...]] = []
    unreadable: Unresolved | None = None
    try:
        for piece in statements(text):
            tokens = _moved(piece.tokens, offset_of)
            if not language:
                language = "plpgsql" if _begins_block(tokens) else "sql"
            if language == "sql":
                yield from _sql(tokens)
            else:
                pieces.append(tokens)
    except Unreadable as error:
        unreadable = Unresolved(offset_of(error.offset), error.what)
    if pieces:
        number = unknowns.new_block()
        block = _Block(unknowns, number)
        if any(token.word == "LOOP" for tokens in pieces for token in tokens):
            # What the end of a loop leaves in a variable is there when it begins again.
            for tokens in pieces:
                for _ in block.piece(tokens):
                    pass
            block = _Block(unknowns, number, left_by_loops=block.left_by_loops)
        for tokens in pieces:
            yield from block.piece(tokens)
    if unreadable:
        yield unreadable


def _begins_block(tokens: Sequence[Token]) -> bool:
    return tokens[0].text in ("#", "<<") or tokens[0].word in ("BEGIN", "DECLARE")


def _sql(tokens: tuple[Token, ...]) -> Iterator[_Found]:
    """A plain statement; of a DO its body instead."""
    statement = _statement(tokens)
    if tokens[0].word == "DO" and (body := body_of(statement)) is not None:
        yield _Body(
            body.value,
            language_of(statement),
            _offsets_in(body, body.value, exact=tokens[0].offset < body.offset),
        )
    else:
        yield statement


_Row = dict[str, Values]
_Known = Values | _Row


class _Branches:
    """An open IF, CASE, loop or block: what its variables were before, and what each branch left in them."""

    __slots__ = ("always", "before", "count", "handles", "kind", "left", "loop", "open", "saved")

    def __init__(self, kind: str, *, always: bool, open_: bool = True, loop: int = -1) -> None:
        self.kind = kind
        self.always = always  # one of the branches is taken: there is an ELSE
        self.open = open_
        self.loop = loop
        self.handles = False
        self.saved: dict[str, _Known] = {}
        self.before: dict[str, _Known] = {}
        self.left: dict[str, list[_Known]] = {}
        self.count = 0


class _Block:
    """One PL/pgSQL body, fed with its pieces between semicolons."""

    def __init__(
        self, unknowns: Unknowns, number: int, *, left_by_loops: Sequence[Mapping[str, _Known]] = ()
    ) -> None:
        self.unknowns = unknowns
        self.number = number
        self.variables: dict[str, _Known] = {}
        self.records: set[str] = set()
        self.epochs: dict[str, int] = {}  # how often a variable was set
        self.queries = 0
        self.labels: set[str] = set()
        self.branches: list[_Branches] = []
        self.declaring = False
        self.left_by_loops: list[Mapping[str, _Known]] = []
        self.carried = left_by_loops
        self.in_atomic = False
        self.exact = True  # the tokens' offsets are their own

    def piece(self, tokens: tuple[Token, ...]) -> Iterator[_Found]:
        """What the text up to one semicolon runs."""
        index = 0
        self.exact = tokens[0].offset < tokens[-1].offset
        if self.in_atomic:  # the rest of a function's unquoted body, which a plain lexer cuts
            self.in_atomic = tokens[0].word != "END"
            return
        while index < len(tokens):
            token = tokens[index]
            word = token.word
            following = tokens[index + 1] if index + 1 < len(tokens) else None
            if token.text == "<<" and following and index + 2 < len(tokens):
                self.labels.add(following.name)
                index += 3
            elif token.text == "#":
                index += 3  # #variable_conflict use_column
            elif self.declaring and word not in ("BEGIN", "DECLARE"):
                yield from self._declare(tokens[index:])
                return
            elif following and (equals := _assigned_at(tokens, index)):
                yield from self._assignment(tokens[index:equals], tokens[equals + 1 :])
                return
            elif word == "DECLARE":
                self.declaring = True
                index += 1
            elif word == "BEGIN":
                self.declaring = False
                self._open(_Branches("BEGIN", always=True))
                index += 1
            elif word in ("IF", "ELSIF", "ELSEIF"):
                then = _find(tokens, index + 1, ("THEN",))
                yield from _called(tokens[index + 1 : then])
                if word == "IF":
                    self._open(_Branches("IF", always=False))
                else:
                    self._next_branch()
                index = then + 1
            elif word == "ELSE":
                self._next_branch()
                if self.branches:
                    self.branches[-1].always = True
                index += 1
            elif word == "CASE":
                when = _find(tokens, index + 1, ("WHEN",))
                yield from _called(tokens[index + 1 : when])
                self._open(
                    _Branches("CASE", always=True, open_=False)
                )  # without ELSE it raises CASE_NOT_FOUND
                index = when
            elif word == "WHEN":
                then = _find(tokens, index + 1, ("THEN",))
                yield from _called(tokens[index + 1 : then])
                self._next_branch()
                index = then + 1
            elif word == "EXCEPTION":
                if self.branches:
                    self.branches[-1].handles = True
                index += 1
            elif word in ("LOOP", "WHILE", "FOR", "FOREACH"):
                loop = _find(tokens, index, ("LOOP",))
                yield from self._loop(word, tokens[index + 1 : loop])
                index = loop + 1
            elif word == "END":
                self._close()
                return
            else:
                yield from self._simple(tokens[index:])
                return

    def _declare(self, tokens: tuple[Token, ...]) -> Iterator[_Found]:
        name = tokens[0].name or tokens[0].text
        if any(token.word in ("RECORD", "ROWTYPE") for token in tokens[1:]):
            self.records.add(name)
        for index, token in _outside_parentheses(tokens):
            if token.word == "CURSOR":
                query = _find(tokens, index, ("FOR", "IS")) + 1
                yield from _called(tokens[query:])
                self._set(name, {})
                return
            if index and (token.text in (":=", "=") or token.word == "DEFAULT"):
                yield from _called(tokens[index + 1 :])
                self._set(name, self._value(tokens[index + 1 :]))
                return
        self._set(name, ())

    def _assignment(self, target: tuple[Token, ...], value: tuple[Token, ...]) -> Iterator[_Found]:
        yield from _called(value)
        values = self._value(value)
        path = path_at(target, 0)
        if len(path) * 2 - 1 == len(target) and (len(path) == 1 or path[0] in self.labels):
            self._set(path[-1], values)
            return
        old = self.variables.get(path[0])
        if isinstance(old, dict) and len(path) == 2:
            self._set(path[0], {**old, path[1]: values})
        elif isinstance(old, tuple) and len(path) == 1:  # an element of an array
            self._set(path[0], self._either([old, values]))
        else:
            self._set(path[0], {path[1]: values} if len(path) == 2 else self._unknown(target))

    def _loop(self, word: str, head: tuple[Token, ...]) -> Iterator[_Found]:
        """FOR x IN query, FOR x IN EXECUTE, FOR x IN 1..9, FOREACH x IN ARRAY, WHILE."""
        start = _find(head, 0, ("IN",))
        targets, source = _targets(head[:start], 0)[0], head[start + 1 :]
        columns: list[tuple[str, Values]] = []
        if word in ("LOOP", "WHILE"):
            targets, source = [], head
            yield from _called(head)
        elif word == "FOREACH":
            source = source[1:] if source[:1] and source[0].word == "ARRAY" and len(source) > 1 else source
            if source[:1] and source[0].text == "[":  # FOREACH x IN ARRAY ARRAY[...] lost one ARRAY only
                source = (Token("WORD", "ARRAY", source[0].offset), *source)
            yield from _called(source)
            values = self._value(source)
            if not any(value.startswith("{") for value in values):
                columns = [("", values)]
        elif source[:1] and source[0].word == "EXECUTE":
            yield from self._execute(source[1:])
        else:
            query = source[1:] if source[:1] and source[0].word == "REVERSE" else source
            if query and (query[0].word in _QUERIES or query[0].text == "("):
                yield from _sql(query)
                columns = self._expression(query).columns()
            else:
                yield from _called(query)
        loop = len(self.left_by_loops)
        self.left_by_loops.append({})
        self._open(_Branches("LOOP", always=False, loop=loop))
        if loop < len(self.carried):
            for name, left in self.carried[loop].items():
                self._keep(name)
                self.variables[name] = self._either([self.variables.get(name, ()), left])
        self._bind(targets, columns)

    def _simple(self, tokens: tuple[Token, ...]) -> Iterator[_Found]:
        word = tokens[0].word
        rest = tokens[1:]
        second = rest[0].word if rest else ""
        match word:
            case "EXECUTE":
                yield from self._execute(rest)
            case "PERFORM":
                yield _select(rest)
            case "RETURN" if second == "QUERY":
                if len(rest) > 1 and rest[1].word == "EXECUTE":
                    yield from self._execute(rest[2:])
                elif len(rest) > 1:
                    yield from _sql(rest[1:])
            case "RETURN" | "RAISE" | "ASSERT" | "EXIT" | "CONTINUE" | "NULL" | "CLOSE":
                yield from _called(rest)
            case "OPEN":
                query = _find(tokens, 0, ("FOR",)) + 1
                if query < len(tokens) and tokens[query].word == "EXECUTE":
                    yield from self._execute(tokens[query + 1 :])
                else:
                    yield from _called(tokens[query:] or rest)
                self._bind([rest[0].name] if rest else [], [])
            case "GET":
                names = [token.name for token, sign in pairwise(rest) if sign.text in ("=", ":=")]
                for name in names:
                    self._bind([name], [])
            case "FETCH" | "MOVE":
                into = _find(tokens, 0, ("INTO",))
                if into < len(tokens):
                    self._bind(_targets(tokens, into + 1)[0], [])
            case _:
                yield from self._plain(tokens)

    def _plain(self, tokens: tuple[Token, ...]) -> Iterator[_Found]:
        """An SQL statement, PL/pgSQL's INTO taken out of it; what CALL is given may come back changed."""
        word = tokens[0].word
        if word == "CALL":
            for token in tokens:
                if token.name in self.variables:
                    self._bind([token.name], [])
        if _creates_routine(tokens):
            atomic = [token.word for token in tokens]
            for first, second in pairwise(atomic):
                if (first, second) == ("BEGIN", "ATOMIC"):
                    self.in_atomic = True
        if word in ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES"):
            into = 0
            while (into := _find(tokens, into + 1, ("INTO",))) < len(tokens):
                if tokens[into - 1].word not in ("INSERT", "MERGE"):
                    targets, end = _targets(tokens, into + 1)
                    columns = self._expression(tokens[:into]).columns() if word == "SELECT" else []
                    tokens = tokens[:into] + tokens[end:]
                    if word == "SELECT" and not columns:
                        columns = self._expression(tokens).columns()  # SELECT INTO x expression
                    self._bind(targets, columns)
                    break
        yield from _sql(tokens)

    def _execute(self, tokens: tuple[Token, ...]) -> Iterator[_Found]:
        """EXECUTE's argument, and what INTO does to variables."""
        end = _find(tokens, 0, ("INTO", "USING"))
        argument = tokens[:end]
        if not argument:
            return
        yield from _called(argument)
        using = _find(tokens, end, ("USING",))
        yield from _called(tokens[using + 1 :])
        values = self._value(argument)
        alone = len(argument) == 1 and argument[0].kind == "STRING"
        start = argument[0].offset
        offset_of = (
            _offsets_in(argument[0], values[0], exact=self.exact) if alone and values else lambda _: start
        )
        for value in values or self._unknown(argument):
            yield from self._text(value, offset_of, argument, exact=alone and self.exact)
        into = _find(tokens, 0, ("INTO",))
        if into < len(tokens):
            self._bind(_targets(tokens, into + 1)[0], [])

    def _text(
        self, text: str, offset_of: Callable[[int], int], argument: tuple[Token, ...], *, exact: bool
    ) -> Iterator[_Found]:
        what = f"EXECUTE {source_of(argument, 60)}"
        if not self.unknowns.spend(len(text)):
            yield Unresolved(argument[0].offset, f"{what}: too much to read")
            return
        last = argument[-1].offset + len(argument[-1].text)
        try:
            for statement in statements(text):
                for found in _sql(_moved(statement.tokens, offset_of)):
                    if isinstance(found, Statement) and not exact:
                        found = found._replace(end=max(last, found.start))
                    yield found
        except Unreadable as error:
            yield Unresolved(argument[0].offset, f"{what}: {error.what}")

    # Variables

    def _set(self, name: str, value: _Known) -> None:
        self._keep(name)
        self.variables[name] = value
        self.epochs[name] = self.epochs.get(name, 0) + 1

    def _keep(self, name: str) -> None:
        """Remember what the variable was before this branch."""
        if self.branches:
            self.branches[-1].saved.setdefault(name, self.variables.get(name, ()))

    def _bind(self, targets: Sequence[str], columns: Sequence[tuple[str, Values]]) -> None:
        """Give variables the columns of a row, as far as those are known."""
        if len(targets) == 1 and columns and (targets[0] in self.records or len(columns) > 1):
            self._set(targets[0], dict(columns))
            return
        for index, name in enumerate(targets):
            self._set(name, columns[index][1] if index < len(columns) else ())
            if index >= len(columns):
                self.variables[name] = self._placeholder(name, name)

    def _placeholder(self, label: str, name: str) -> Values:
        return (self.unknowns.character(label, self.number, self.epochs.get(name, -self.queries)),)

    def _unknown(self, tokens: Sequence[Token]) -> Values:
        name = next((token.name for token in tokens if token.name in self.epochs), "")
        return self._placeholder(source_of(tokens), name)

    def _lookup(self, path: list[str]) -> Values:
        if len(path) == 2 and path[0] in self.labels and path[0] not in self.variables:
            path = path[1:]
        known = self.variables.get(path[0])
        if isinstance(known, dict):
            if len(path) == 2 and path[1] in known:
                return known[path[1]]
        elif known and len(path) == 1:
            return known
        return self._placeholder(".".join(path), path[0])

    def _either(self, several: Sequence[_Known]) -> _Known:
        """Any of what several branches leave in a variable; of rows the columns that all have."""
        rows = [known for known in several if isinstance(known, dict)]
        if not rows:
            values = either([known for known in several if isinstance(known, tuple)])
            return values if len(values) <= MOST_VALUES else self._placeholder("...", "")
        if len(rows) < len([known for known in several if known]):
            return {}
        first, *others = rows
        return {
            column: merged
            for column, values in first.items()
            if all(column in row for row in others)
            and len(merged := either([values, *(row[column] for row in others)])) <= MOST_VALUES
        }

    # Branches

    def _open(self, branches: _Branches) -> None:
        self.branches.append(branches)

    def _next_branch(self) -> None:
        if not self.branches:
            return
        branches = self.branches[-1]
        if branches.open:
            self._leave(branches)
            if not branches.handles:  # a handler begins with what the failed statements left
                self.variables.update(branches.saved)
            branches.saved = {}
        branches.open = True

    def _leave(self, branches: _Branches) -> None:
        for name, value in branches.saved.items():
            branches.before.setdefault(name, value)
            branches.left.setdefault(name, []).append(self.variables.get(name, ()))
        branches.count += 1

    def _close(self) -> None:
        if not self.branches:
            return
        branches = self.branches.pop()
        self._leave(branches)
        if branches.loop >= 0:
            self.left_by_loops[branches.loop] = {name: self.variables[name] for name in branches.saved}
        outer = self.branches[-1] if self.branches else None
        for name, left in branches.left.items():
            before = branches.before[name]
            if not branches.always or len(left) < branches.count:
                left = [before, *left]
            if outer:
                outer.saved.setdefault(name, before)
            self.variables[name] = self._either(left)

    # Expressions

    def _value(self, tokens: tuple[Token, ...]) -> Values:
        return self._expression(tokens).value()

    def _expression(self, tokens: tuple[Token, ...]) -> Expression:
        if any(token.word == "SELECT" for token in tokens):
            self.queries += 1  # the columns of two queries have nothing in common but their names
        return Expression(tokens, variable=self._lookup, unknown=self._unknown, unknowns=self.unknowns)


def _find(tokens: Sequence[Token], start: int, words: tuple[str, ...]) -> int:
    """The index of the first of these words outside parentheses, or the number of tokens."""
    depth = 0
    for index in range(start, len(tokens)):
        token = tokens[index]
        if token.kind == "PUNCTUATION":
            if token.text in ("(", "["):
                depth += 1
            elif token.text in (")", "]"):
                depth -= 1
        elif not depth and token.word in words:
            return index
    return len(tokens)


def _assigned_at(tokens: Sequence[Token], start: int) -> int:
    """Where := or = stands in ``target := value``; 0 when it is no assignment."""
    if tokens[start].kind not in ("WORD", "QUOTED", "PARAM"):
        return 0
    index, depth = start + 1, 0
    while index < len(tokens):
        text = tokens[index].text
        if text == "[" or text == "]":
            depth += 1 if text == "[" else -1
        elif not depth:
            if text in (":=", "="):
                return index
            if text != "." and tokens[index - 1].text != ".":
                return 0
        index += 1
    return 0


def _targets(tokens: Sequence[Token], start: int) -> tuple[list[str], int]:
    """The variables of ``[STRICT] a, b.c, d[1]``, by first name, and the index after them."""
    targets: list[str] = []
    index = start
    if index < len(tokens) and tokens[index].word == "STRICT":
        index += 1
    while index < len(tokens) and tokens[index].kind in ("WORD", "QUOTED", "PARAM"):
        path = path_at(tokens, index)
        targets.append(path[0])
        index += 2 * len(path) - 1
        if index < len(tokens) and tokens[index].text == "[":
            while index < len(tokens) and tokens[index].text != "]":
                index += 1
            index += 1
        if index >= len(tokens) or tokens[index].text != ",":
            break
        index += 1
    return targets, index


def _called(tokens: tuple[Token, ...]) -> Iterator[Statement]:
    """An expression as a SELECT, if it may call anything."""
    if any(token.text == "(" for token in tokens):
        yield _select(tokens[1:] if tokens[0].word == "SELECT" else tokens)


_QUERIES = frozenset(["SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE"])
