"""PostgreSQL's tokens and psql's statements, against hand-made traps and against PostgreSQL's own scanner (pglast)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pglast import parser as pglast_parser

from veza_tasks.migrations.lexer import Comment, PostgresLexer, Token, Unreadable, statements

LEXER = PostgresLexer()


def texts(sql: str) -> list[list[str]]:
    return [[token.text for token in statement.tokens] for statement in statements(sql)]


def heads(sql: str) -> list[str]:
    return [statement.tokens[0].word or statement.tokens[0].text for statement in statements(sql)]


def only(sql: str) -> Token:
    ((token,),) = [statement.tokens for statement in statements(sql)]
    return token


DROP = "DROP TABLE x;"

# A DROP that other lexers lose.
FOUND = {
    "backslash in a plain string": rf"VALUES ('C:\'); {DROP} VALUES ('x')",
    "backslashes in E''": rf"SELECT E'a\\'; {DROP} SELECT 'b'",
    "backslash in a quoted identifier": rf'SELECT "a\"; {DROP} SELECT "x"',
    "# is an operator": f"SELECT 5 # 3; {DROP}",
    "isolation level": f"BEGIN ISOLATION LEVEL SERIALIZABLE; {DROP}",
    "read write": f"BEGIN READ WRITE; {DROP}",
    "columns begin, declare, loop": f"SELECT begin, declare, loop, if FROM t; {DROP}",
    "column GO": f"SELECT GO FROM t; {DROP}",
    "tag beyond Latin": f"SELECT $标签$ it's $标签$; {DROP}",
    "backtick operator": f"SELECT 1 ` 2; {DROP} SELECT 3 ` 4;",
    "brackets": f"SELECT ARRAY [ 'a', $$]$$ ]; {DROP}",
    "COPY data": f"COPY t FROM stdin;\nit's\n\\.\n{DROP}",
    "COPY data, CRLF": f"COPY t FROM stdin;\r\nit's\r\n\\.\r\n{DROP}",
    "COPY without data rows": f"COPY t FROM stdin;\n\\.\n{DROP}",
    "COPY from stdout, as PostgreSQL takes it": f"COPY t (a) FROM STDOUT WITH (FORMAT csv); -- '\n'\n\\.\n{DROP}",
    "COPY to stdout": f"COPY (SELECT a FROM stdin) TO STDOUT;\n{DROP}\n",
    "psql \\set": f"\\set x on\n{DROP}",
    "psql \\echo": f"\\echo it's\n{DROP}",
    "psql \\\\ ends a command": f"\\set x on \\\\ {DROP}",
    "a command after a command": f"\\pset a b \\echo c \\\\{DROP}",
    "psql argument in quotes": f"\\echo '\\\\' x\n{DROP}",
    "psql variables": f"SELECT :a, :'b', :\"c\", :{{?d}}, e[1:f], g[h:i]; {DROP}",
    "psql \\;": f"SELECT 1\\; {DROP}",
    "psql \\g": "SELECT 1 \\g\nDROP TABLE x \\gx\n",
    "psql \\if": f"\\if :x\n{DROP}\n\\endif",
    "psql \\copy": f"\\copy t from stdin\nit's\n\\.\n{DROP}",
    "byte order mark": f"\ufeff{DROP}",
    "lone CR ends a comment": f"-- a\r{DROP}",
    "comment opens within an operator": f"SELECT 1 */* ; */ 2; {DROP}",
    "dashes within an operator": f"SELECT 1 +--;'\n 2; {DROP}",
    "E'' goes on after a line end": f"SELECT E'a' -- '\n  '\\''; {DROP}",
    "UESCAPE with a quote": f"SELECT U&'a' UESCAPE '!'''; {DROP} SELECT '!'",
    "plain string goes on after a line end": f"SELECT 'a'\n'\\'; {DROP} SELECT ''",
    "E at a name's end": f"SELECT date'\\'; {DROP} SELECT ''",
    "dollar within a name": f"SELECT a$b$ FROM t; {DROP} SELECT a$b$;",
    "parameter before a name": f"SELECT $1; {DROP} SELECT $1",
    "variable then E''": f"SELECT a[1:E'\\'']; {DROP}",
    "nested dollar quotes": f"DO $a$ BEGIN EXECUTE $b$ ; $a $b$; END $a$; {DROP}",
    "BEGIN ATOMIC": f"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; END; {DROP}",
    "BEGIN ATOMIC, empty": f"CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC END; {DROP}",
    "END as a label in BEGIN ATOMIC": f"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end; END; {DROP}",
    "CREATE RULE": f"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); {DROP}",
}


@pytest.mark.parametrize("sql", FOUND.values(), ids=FOUND)
def test_a_drop_behind_a_trap_is_a_statement(sql: str) -> None:
    assert [statement[:3] for statement in texts(sql)].count(["DROP", "TABLE", "x"]) == 1


HIDDEN = {
    "plain string": f"SELECT '{DROP}';",
    "quotes doubled": f"SELECT 'it''s {DROP}';",
    "E''": f"SELECT E'\\' {DROP} \\\\';",
    "string on the next line": f"SELECT E'a'\n'\\'; {DROP}';",
    "quoted identifier": f'SELECT "a"" {DROP}";',
    "U& identifier": f"SELECT U&\"{DROP}\" UESCAPE '!';",
    "dollars": f"SELECT $$ {DROP} $$;",
    "dollars in dollars": f"SELECT $a$ $$ $b$ {DROP} $a$;",
    "tag beyond Latin": f"SELECT $标签$ {DROP} $标签$;",
    "nested comment": f"/* a /* b */ {DROP} */",
    "comment after a comment's end": f"/**/ -- {DROP}\n /*/ {DROP} */",
    "comment within an operator": f"SELECT 1 +/* {DROP} */ 2",
    "COPY data": f"COPY t FROM stdin;\n{DROP}\n \\.\n\\.x\n\\.",
    "psql command": f"\\echo {DROP}\n",
    "psql's shell": f"\\! echo \\\\ {DROP}\n",
    "psql throws it away": "DROP TABLE x \\r\n",
    "a name with a no-break space": "DROP\N{NO-BREAK SPACE}TABLE x;",
    "BEGIN ATOMIC": f"CREATE FUNCTION f() RETURNS void BEGIN ATOMIC {DROP} END",
    "CREATE RULE": f"CREATE RULE r AS ON INSERT TO t DO ({DROP} SELECT 2)",
}


@pytest.mark.parametrize("sql", HIDDEN.values(), ids=HIDDEN)
def test_a_drop_that_is_none_stays_hidden(sql: str) -> None:
    assert "DROP" not in heads(sql)


UNREADABLE = {
    "SELECT 'a": (7, "unterminated string"),
    "SELECT E'a\\'": (7, "unterminated string"),
    "SELECT E'a'\n'\\'": (7, "unterminated string"),
    "SELECT 'a'\n'b": (10 + 1, "unterminated string"),
    "SELECT U&'a": (7, "unterminated string"),
    "SELECT N'a''": (7, "unterminated string"),
    'SELECT "a""': (7, "unterminated quoted identifier"),
    'SELECT U&"a': (7, "unterminated quoted identifier"),
    "SELECT 1 /* /* */": (9, "unterminated comment"),
    "SELECT $a$ $b$ $A$": (7, "unterminated $a$ literal"),
    "SELECT (1; DROP TABLE x;": (7, "unclosed parenthesis"),
    "INSERT INTO t VALUES (1, now(); DROP TABLE x;": (21, "unclosed parenthesis"),
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;": (0, "unterminated BEGIN ATOMIC body"),
    "SELECT 1;\0": (9, "NUL character"),
    "COPY t FROM stdin;\nDROP TABLE x;": (17, "COPY data without its end, a line with \\."),
    "COPY t FROM stdin; SELECT 1;\n\\.": (18, "something follows COPY ... FROM STDIN on its line"),
    "SET standard_conforming_strings = off; SELECT '\\'';": (
        0,
        "backslashes after standard_conforming_strings is turned off",
    ),
}


@pytest.mark.parametrize("sql", UNREADABLE)
def test_what_postgresql_cannot_read_is_refused_with_its_place(sql: str) -> None:
    with pytest.raises(Unreadable) as refused:
        list(statements(sql))
    assert (refused.value.offset, refused.value.what) == UNREADABLE[sql]


def test_strings_without_backslashes_are_alike_in_both_settings() -> None:
    assert len(texts("SET standard_conforming_strings TO off; SELECT 'a''b'; SELECT 1")) == 3


NAMES = {
    "Orders": "orders",
    '"Orders"': "Orders",
    '"a""b"': 'a"b',
    "ÄPFEL": "Äpfel",
    "\N{LATIN SMALL LETTER LONG S}ELECT": "\N{LATIN SMALL LETTER LONG S}elect",
    r'U&"d\0061t\+000061"': "data",
    r'U&"\\""!"': '\\"!',
    "u&\"d!0061t!+000061\" /* '' */ uEscape\n-- c\n'!'": "data",
    r'U&"\D83D\DE00"': "\N{GRINNING FACE}",
    "a" * 64: "a" * 63,
    '"' + "é" * 32 + '"': "é" * 31,
    "'text'": "",
    "12": "",
}


@pytest.mark.parametrize("sql", NAMES)
def test_a_name_is_the_one_in_the_catalogue(sql: str) -> None:
    token = only(sql)
    assert token.text == sql
    assert token.name == NAMES[sql]


def test_a_word_is_unquoted_and_ascii_in_upper_case() -> None:
    assert only("drop").word == "DROP"
    assert only('"drop"').word == ""
    assert only("'drop'").word == ""
    assert only("\N{LATIN SMALL LETTER LONG S}elect").word == "\N{LATIN SMALL LETTER LONG S}ELECT"


VALUES = {
    "'it''s'": "it's",
    r"'C:\n'": r"C:\n",
    "'a' -- it's\n 'b'": "ab",
    r"E'a\'b''c\\d\n\t\q'": "a'b'c\\d\n\tq",
    "E'\\x41\\101\\u0042\\U00000043'\n'\\'x'": "AABC'x",
    r"e'\xc3\xa9\303\251'": "éé",
    r"E'\ud83d\ude00'": "\N{GRINNING FACE}",
    r"E'\U00110000 \u12 \x'": r"\U00110000 u12 x",
    r"U&'d\0061t\+000061\\'": "data\\",
    "U&'d!0061t\\'\n'!0061' UESCAPE '!'": "dat\\a",
    "U&'d+0061' UESCAPE '\"'": "d+0061",
    r"U&'\D83D \zz'": "\N{REPLACEMENT CHARACTER} " + r"\zz",
    "N'n'": "n",
    "x'1F'": "1F",
    "B'01'": "01",
    "$$a$b'\\$$": "a$b'\\",
    "$é$ $$ $é$": " $$ ",
    '"name"': "",
}


@pytest.mark.parametrize("sql", VALUES)
def test_a_literal_has_the_value_postgresql_gives_it(sql: str) -> None:
    token = only(sql)
    assert token.text == sql
    assert token.value == VALUES[sql]


def test_each_kind_of_token_is_told_apart() -> None:
    sql = "a.\"B\"::int := 'c' => $1 + :v - .5e-3 * 1_000 / 0x1F, [1..2:3] a=-1 b->>'k' <@ @-3 {;"
    (statement,) = statements(sql)
    assert [(token.kind, token.text) for token in statement.tokens] == [
        *[("WORD", "a"), ("PUNCTUATION", "."), ("QUOTED", '"B"'), ("PUNCTUATION", "::"), ("WORD", "int")],
        *[("PUNCTUATION", ":="), ("STRING", "'c'"), ("OPERATOR", "=>"), ("PARAM", "$1"), ("OPERATOR", "+")],
        *[("PARAM", ":v"), ("OPERATOR", "-"), ("NUMBER", ".5e-3"), ("OPERATOR", "*"), ("NUMBER", "1_000")],
        *[("OPERATOR", "/"), ("NUMBER", "0x1F"), ("PUNCTUATION", ","), ("PUNCTUATION", "["), ("NUMBER", "1")],
        *[
            ("PUNCTUATION", ".."),
            ("NUMBER", "2"),
            ("PUNCTUATION", ":"),
            ("NUMBER", "3"),
            ("PUNCTUATION", "]"),
        ],
        *[("WORD", "a"), ("OPERATOR", "="), ("OPERATOR", "-"), ("NUMBER", "1"), ("WORD", "b")],
        *[("OPERATOR", "->>"), ("STRING", "'k'"), ("OPERATOR", "<@"), ("OPERATOR", "@-"), ("NUMBER", "3")],
        ("PUNCTUATION", "{"),
    ]
    assert all(sql.startswith(token.text, token.offset) for token in statement.tokens)


def test_statements_know_where_they_stand_and_comments_are_handed_over() -> None:
    sql = "-- one\n SELECT 1 ; /* two /* three */ */\nSELECT 2 -- four\n"
    comments: list[Comment] = []
    assert [sql[found.start : found.end] for found in statements(sql, comments=comments)] == [
        "SELECT 1 ;",
        "SELECT 2",
    ]
    assert [comment.text for comment in comments] == ["-- one", "/* two /* three */ */", "-- four"]
    assert all(sql[comment.offset : comment.end] == comment.text for comment in comments)


def test_a_part_of_a_text_is_read_as_if_it_were_all_of_it() -> None:
    sql = "SELECT 'x'; SELECT $$a$$ /* c */; SELECT 'y'"
    start, end = sql.index(";") + 1, sql.rindex(";")
    (found,) = statements(sql, start=start, end=end)
    assert [token.text for token in found.tokens] == ["SELECT", "$$a$$"]
    assert found.start == sql.index("SELECT $$")
    with pytest.raises(Unreadable):
        list(statements(sql, start=start, end=sql.index("a$$") + 2))


def test_psql_commands_that_change_what_is_run_are_statements() -> None:
    sql = (
        "\\set x 1\n\\i a b.sql\n\\ir c.sql \\echo d\n\\include e\n\\include_relative f\n\\copy t from g \\\\ h\n"
        "SELECT 'DROP TABLE x' \\gexec\nSELECT 1 \\g | sh\nSELECT 2 \\gset p_\n\\c other\n\\connect x\n\\!ls \\\\ y\n\\d t\n"
    )
    found = [statement.tokens for statement in statements(sql)]
    assert [tokens[0].text for tokens in found if tokens[0].kind == "META"] == [
        *["\\i a b.sql", "\\ir c.sql", "\\include e", "\\include_relative f", "\\copy t from g \\\\ h"],
        *["\\gexec", "\\g | sh", "\\c other", "\\connect x", "\\!ls \\\\ y"],
    ]
    assert [len(tokens) for tokens in found if tokens[0].kind != "META"] == [2, 2, 2]


def test_an_insert_keeps_its_names_and_calls_and_none_of_its_constants() -> None:
    sql = "INSERT INTO t (a, b) VALUES (1, 'x'), (-2.5e1, NULL),\n(DEFAULT, E'\\'' '')"
    assert texts(f"{sql};") == [["INSERT", "INTO", "t", "(", "a", "b", ")", "VALUES"]]
    (found,) = statements(f" {sql} ")
    assert (found.start, found.end) == (1, len(sql) + 1)
    assert texts("INSERT INTO t VALUES (1, now(), 'x'::text), (2, now(), 'y'::text), (3, f(4));") == [
        [
            "INSERT",
            "INTO",
            "t",
            "VALUES",
            "(",
            "now",
            "(",
            ")",
            "::",
            "text",
            ")",
            ",",
            "(",
            "f",
            "(",
            ")",
            ")",
        ]
    ]
    assert texts("INSERT INTO t SELECT migrate(1, 'a'), 'b' FROM u WHERE x IN (1, 2);") == [
        [
            "INSERT",
            "INTO",
            "t",
            "SELECT",
            "migrate",
            "(",
            ")",
            ",",
            "'b'",
            "FROM",
            "u",
            "WHERE",
            "x",
            "IN",
            "(",
            ")",
        ]
    ]
    assert texts("SELECT (1, 2);") == [["SELECT", "(", "1", ",", "2", ")"]]


@pytest.mark.parametrize("end", ["');", "'); SELECT (1", "') /*", "', E'\\"])
def test_the_fast_way_through_rows_misses_nothing(end: str) -> None:
    with pytest.raises(Unreadable):
        list(statements("INSERT INTO t VALUES (1, 'a'), (2, '" + end * 2))
    assert heads("INSERT INTO t VALUES (1, '); --'), (2, ''';'); DROP TABLE x;") == ["INSERT", "DROP"]


def test_sqlparse_token_types_and_nothing_lost() -> None:
    sql = "\ufeffSELECT 'a', $$b$$, \"c\" -- d\n, /* e */ 1 + 2.5, 0x1F, $1; \\d t\n \t"
    tokens = list(LEXER.get_tokens(sql))
    assert "".join(text for _, text in tokens) == sql
    assert {str(ttype).removeprefix("Token.") for ttype, _ in tokens} == {
        *["Text.Whitespace", "Keyword.DML", "Literal", "Literal.String.Single", "Literal.String.Symbol"],
        *[
            "Punctuation",
            "Comment.Single",
            "Comment.Multiline",
            "Operator",
            "Name.Placeholder",
            "Generic.Command",
        ],
        *["Literal.Number.Integer", "Literal.Number.Float", "Literal.Number.Hexadecimal"],
    }
    assert list(LEXER.get_tokens(sql.encode())) == tokens


# --- PostgreSQL's own scanner is the judge ---

OPENING = ["'", '"', "''", "$$", "$a$", "$é$", "/*", "E'", "e'", "U&'", 'u&"', "N'", "b'", "X'", "*/", "$b$"]
FRAGMENTS = [
    *[
        " ",
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\f",
        "\v",
        "\u00a0",
        ";",
        "; select ",
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        "..",
    ],
    *[
        ":",
        "::",
        ":=",
        ":v",
        ":'v'",
        "=>",
        "=",
        "<",
        ">",
        "+",
        "-",
        "--",
        "*",
        "/",
        "@",
        "#",
        "%",
        "?",
        "`",
        "|",
    ],
    *[
        "~",
        "!",
        "&",
        "^",
        "{",
        "}",
        "$",
        "$1",
        "$2$",
        "a",
        "b",
        "e",
        "n",
        "x",
        "u",
        "é",
        "标",
        "_",
        "A",
        "a$b",
        "x$",
    ],
    *[
        "select",
        "drop table t",
        "UESCAPE",
        "uescape '!'",
        "1",
        "0",
        "1_000",
        "0x1F",
        "1e5",
        ".5",
        "e1",
        "0b1",
        "0o7",
    ],
    *[
        "'a'",
        "'it''s'",
        '"q"',
        "E'\\n'",
        "U&'\\0061'",
        'U&"a"',
        "$$x$$",
        "$a$ ' $a$",
        "/* c */",
        "-- c\n",
        "'a'\n'b'",
    ],
    *["E'a'\n'\\''", "'a' -- '\n'b'"],
]
OPERATORS = {"Op", "LESS_EQUALS", "GREATER_EQUALS", "NOT_EQUALS", "EQUALS_GREATER", "RIGHT_ARROW"}
SINGLE = {"DOT_DOT", "TYPECAST", "COLON_EQUALS", "UNKNOWN"}
NAMES_OF_KINDS = {
    "COMMENT": {"SQL_COMMENT", "C_COMMENT"},
    "STRING": {"SCONST", "USCONST", "BCONST", "XCONST", "NCHAR"},
    "QUOTED": {"IDENT", "UIDENT"},
    "NUMBER": {"ICONST", "FCONST"},
    "OPERATOR": OPERATORS,
    "PUNCTUATION": SINGLE,
}


def alike(kind: str, text: str, names: list[str]) -> bool:
    if kind == "PARAM":
        return names == ["PARAM"] or text[0] == ":"
    if len(names) > 1 and names[0] not in ("NCHAR", "BCONST", "XCONST", "USCONST", "UIDENT"):
        return False
    name = names[0]
    if kind == "WORD":
        return name not in set().union(*NAMES_OF_KINDS.values()) - {
            "IDENT",
            "UNKNOWN",
        } and not name.startswith("ASCII_")
    return name in NAMES_OF_KINDS[kind] or (kind in ("OPERATOR", "PUNCTUATION") and name.startswith("ASCII_"))


def compare(sql: str) -> str:
    """ "same", "refused" by PostgreSQL, "psql" when a psql command is in it, or what differs."""
    ours = []
    refused = ""
    try:
        for token in LEXER.scan(sql):
            ours.append(token)
    except Unreadable as error:
        refused = str(error)
    if any(kind == "META" for kind, _, _ in ours):
        return "psql"
    try:
        theirs = list(pglast_parser.scan(sql))
    except pglast_parser.ParseError as error:
        # These are found by the parser's other half or concern one token alone.
        return "refused" if refused or "unterminated" not in str(error) else f"only PostgreSQL: {error}"
    if refused:
        return f"only we: {refused}"
    for kind, text, offset in ours:
        names: list[str] = []
        last = None
        while theirs and theirs[0].end < offset + len(text):
            last = theirs.pop(0)
            if not names and last.start != offset:
                return f"{kind} {text!r} at {offset} begins at {last.start}"
            names.append(last.name)
        if last is None or last.end != offset + len(text) - 1:
            return f"{kind} {text!r} at {offset} is cut differently: {last}"
        if not alike(kind, text, names):
            return f"{kind} {text!r} is {names}"
    return f"left over: {theirs}" if theirs else "same"


def nasty(choice: random.Random) -> str:
    pool = FRAGMENTS + choice.sample(OPENING, choice.choice((0, 0, 1, 3, 9)))
    return "".join(choice.choice(pool) for _ in range(choice.randint(1, choice.choice((6, 14, 30)))))


def test_twenty_thousand_nasty_strings_are_cut_as_postgresql_cuts_them() -> None:
    choice = random.Random(15)
    verdicts = {"same": 0, "refused": 0, "psql": 0}
    for _ in range(20_000):
        sql = nasty(choice)
        verdict = compare(sql)
        assert verdict in verdicts, f"{sql!r}: {verdict}"
        verdicts[verdict] += 1
        if verdict == "same":
            assert "".join(text for _, text in LEXER.get_tokens(sql)) == sql
    assert verdicts["same"] > 10_000


def significant(sql: str, start: int, end: int) -> list[tuple[str, int]]:
    """Texts and offsets, without comments and semicolons, of the tokens between two offsets."""
    return [
        (text, at)
        for kind, text, at in LEXER.scan(sql)
        if start <= at < end and kind != "COMMENT" and text != ";"
    ]


def test_statements_end_where_postgresql_ends_them() -> None:
    choice = random.Random(16)
    compared = 0
    for _ in range(20_000):
        sql = "select " + nasty(choice).replace(";", "; select ").replace("\u00a0", "\n")
        if compare(sql) != "same" or "&" in sql:
            continue
        depths = accumulate((text == "(") - (text == ")") for _, text, _ in LEXER.scan(sql))
        if min(depths) < 0:
            continue  # libpg_query counts closing parentheses below nothing, psql does not
        try:
            ours = [significant(sql, found.start, found.end) for found in statements(sql)]
        except Unreadable as error:
            if error.what != "unclosed parenthesis":
                raise
            continue
        slices = pglast_parser.split(sql, with_parser=False, only_slices=True)
        assert ours == [
            tokens for piece in slices if (tokens := significant(sql, piece.start, piece.stop))
        ], repr(sql)
        compared += 1
    assert compared > 3_000


SEPARATORS = st.lists(
    st.sampled_from([" ", "\n", "\t", "\r\n", "\f", "/* ; ' */", "/* /* $$ */ */", "-- ' ;\n", "--\r"]),
    min_size=1,
)
PIECES = st.sampled_from(
    [
        *[
            "alter",
            "Table",
            "drop",
            "COLUMN",
            "é",
            "Ünder_1",
            "a$1",
            '"Mixed ""x"',
            'U&"\\0061"',
            "$1",
            "1e5",
            "0x1F",
        ],
        *[
            "'it''s'",
            "E'\\''",
            "$q$;'$q$",
            "N'x'",
            "b'1'",
            "(",
            ")",
            ",",
            "=",
            "::",
            "->>",
            "[",
            "]",
            "<=",
            ":=",
            ".",
        ],
    ]
)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("INSERT INTO t (a) VALUES (1);\nINSERT INTO t (a) VALUES ('x;'),(NULL);\nDROP TABLE t;", ["INSERT", "DROP"]),
        ("insert into s.\"T\" values (1); insert into s.\"T\" values (-2.5::numeric);", ["INSERT"]),
        ("INSERT INTO t VALUES (1);INSERT INTO u VALUES (1);INSERT INTO t VALUES (1)", ["INSERT"] * 3),
        ("INSERT INTO t VALUES (1); INSERT INTO t VALUES (f()); INSERT INTO t VALUES (2);", ["INSERT"] * 3),
        ("INSERT INTO t VALUES (1); INSERT INTO t VALUES (1) RETURNING f();", ["INSERT"] * 2),
        ("INSERT INTO t VALUES ('1'); DROP TABLE t; --');", ["INSERT", "DROP"]),
        ("INSERT INTO t VALUES (E'\\'); DROP TABLE t; --');", ["INSERT"]),
        ("LOCK t; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); ALTER TABLE t DROP a", ["LOCK", "INSERT", "ALTER"]),
    ],
)  # fmt: skip
def test_neighbouring_inserts_of_constants_are_one_statement_and_swallow_nothing(
    sql: str, words: list[str]
) -> None:
    found = list(statements(sql))
    assert [statement.tokens[0].word for statement in found] == words
    assert [sql[statement.start :].lstrip()[:6].upper() for statement in found] == [
        sql[statement.start :][:6].upper() for statement in found
    ]
    assert sum("f" in [token.name for token in statement.tokens] for statement in found) == ("f()" in sql)


def meaning(sql: str) -> list[list[tuple[str, str, str, str]]]:
    return [
        [
            (token.kind, token.name, token.value, token.text if not (token.name or token.value) else "")
            for token in found.tokens
        ]
        for found in statements(sql)
    ]


@given(st.lists(PIECES, min_size=1, max_size=12), st.data())
def test_white_space_comments_and_case_never_change_names_and_words(
    pieces: list[str], data: st.DataObject
) -> None:
    # Two strings in a row are one where a line ends between them.
    pieces = [piece for before, piece in pairwise(["", *pieces]) if not ("'" in before and "'" in piece)]
    plain = " ".join(pieces)
    other = []
    for piece in pieces:
        recased = (
            piece.swapcase() if piece.isascii() and piece.isalpha() and data.draw(st.booleans()) else piece
        )
        other += [recased, *data.draw(SEPARATORS)]
    if plain.count("(") != plain.count(")"):
        plain, other = f"({plain}) ;", ["(", *other, ")", ";"]
    try:
        expected = meaning(plain)
    except Unreadable:
        with pytest.raises(Unreadable):
            meaning("".join(other))
    else:
        assert meaning("".join(other)) == expected


HOSTILE = {
    "unclosed tags": lambda n: "".join(f"$a{i}$ " for i in range(n // 8)),
    "unclosed comments": lambda n: "/* " * (n // 3),
    "signs": lambda n: "+" * n,
    "signs and dashes": lambda n: "+- " * (n // 3),
    "slashes": lambda n: "/" * n,
    "quotes": lambda n: "'" * n,
    "quotes and line ends": lambda n: "'\n" * (n // 2),
    "E quotes and line ends": lambda n: "E'a'\n" * (n // 5) + "'",
    "strings and comments": lambda n: "'a' --\n" * (n // 7),
    "double quotes": lambda n: '"' * n,
    "backslashes": lambda n: "\\" * n,
    "psql quotes": lambda n: "\\a '" * (n // 4),
    "parentheses": lambda n: "(" * n,
    "INSERT of parentheses": lambda n: "INSERT INTO t VALUES " + "(1, " * (n // 4),
    "INSERT of nested rows": lambda n: "INSERT INTO t VALUES " + "(a" * (n // 2) + ")" * (n // 2),
    "INSERT of odd rows": lambda n: "INSERT INTO t VALUES " + "(1, 'a', b), " * (n // 13),
    "COPY": lambda n: "COPY t FROM stdin;\n\\.\n" * (n // 22),
    "COPY's near ends": lambda n: "COPY t FROM stdin;\n" + "\\.x\n" * (n // 4),
    "BEGIN ATOMIC": lambda n: "CREATE FUNCTION f() BEGIN ATOMIC " + "SELECT 1;" * (n // 9),
    "unfinished UESCAPE": lambda n: "U&'a' /**/ " * (n // 11),
    "digits": lambda n: "1_" * (n // 2) + "." * 9,
    "dots": lambda n: "." * n,
    "colons": lambda n: ":" * n,
    "white space": lambda n: " " * n,
    "U&": lambda n: "U&" * (n // 2),
    "dollars": lambda n: "$a" * (n // 2),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_half_a_megabyte_of_anything_is_read_in_linear_time(make: Any) -> None:
    def seconds(size: int) -> float:
        sql = make(size)
        begin = time.process_time()
        try:
            for _ in statements(sql):
                pass
        except Unreadable:
            pass
        return time.process_time() - begin

    # Quadratic time would be minutes here; the bound only has to tell the two apart on a busy machine.
    assert seconds(500_000) < 15


@pytest.mark.parametrize(
    "row", ["INSERT INTO t (a, b) VALUES ({}, 'some text', NULL);\n", "({}, 'some text', now()),\n"]
)
def test_inserts_are_not_held_in_memory(row: str) -> None:
    program = (
        "import resource, sys\n"
        "from veza_tasks.migrations.lexer import statements\n"
        f"sql = {'' if row[0] == 'I' else 'INSERT INTO t VALUES '!r} + ''.join({row!r}.format(i) for i in range(60_000))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert sum(len(found.tokens) for found in statements(sql)) > 7\n"
        "grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024\n"
        "sys.exit(f'{grown} bytes for {len(sql)}' if grown > len(sql) else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_postgresql_regression_suite_is_cut_as_postgresql_cuts_it() -> None:
    source = os.environ.get("POSTGRES_SOURCE")
    if not source:
        pytest.skip("POSTGRES_SOURCE names no unpacked PostgreSQL source")
    unreadable = []
    different = []
    for path in sorted(Path(source).rglob("*.sql")):
        try:
            sql = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # src/test/mb: other encodings
        try:
            for found in statements(sql):
                if found.tokens[0].kind != "META":
                    verdict = compare(sql[found.start : found.end])
                    if verdict not in ("same", "refused", "psql"):
                        different.append((path.name, found.start, verdict))
        except Unreadable:
            unreadable.append(path.name)
    assert not different
    # A COPY without data, which the server is meant to refuse; escapes in plain strings, turned on to test them.
    assert set(unreadable) <= {"generated.sql", "rowsecurity.sql", "strings.sql", "plpgsql.sql"}
