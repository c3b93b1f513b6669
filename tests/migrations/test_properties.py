"""What must not matter to a verdict, and what must not hide a finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veza_tasks.migrations.judge import Source, lint
from veza_tasks.migrations.lexer import Token, statements
from veza_tasks.migrations.rules import RULES

EXAMPLES = sorted({sql for rule in RULES.values() for sql in (rule.bad, rule.good) if sql})
FUNCTION = """
CREATE FUNCTION mend() RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    IF EXISTS (SELECT 1 FROM users) THEN
        EXECUTE 'ALTER TABLE users DROP COLUMN ' || 'nickname';
    END IF;
END
$body$;
SELECT mend();
"""
EXAMPLES_EACH = 400
SETS = [
    *EXAMPLES,
    FUNCTION,
    "BEGIN; ALTER TABLE users RENAME TO people; CREATE VIEW users AS SELECT * FROM people; COMMIT;",
    "CREATE TABLE fresh (a int, b int);\nALTER TABLE fresh DROP COLUMN b;\nDROP TABLE fresh;",
    "ALTER TABLE users\n  ADD COLUMN age int NOT NULL,\n  ALTER COLUMN name TYPE varchar(20),\n  DROP COLUMN nickname;",
]
WORDS = """
    bigint boolean char date double int integer interval json jsonb numeric precision real serial smallint text time
    timestamp timestamptz timetz uuid varchar bit void trigger sql plpgsql true false null default value new old excluded
    public on off
"""
NO_NAMES = frozenset(WORDS.split())
"""Lower-case words of the examples that mean something else, or nothing, in quotes."""


def verdict(*texts: str) -> Counter[tuple[str, str]]:
    """Rule and level of every finding of a set of files that run in this order."""
    found = lint([Source(f"{number:03}.sql", text) for number, text in enumerate(texts)])
    return Counter((finding.rule, finding.level) for finding in found)


def rewritten(sql: str, gap: Callable[[bool], str], token: Callable[[Token, Token | None], str]) -> str:
    """The statements anew: each token as ``token`` writes it, ``gap(needed)`` between each two and around them."""
    text = ""
    for statement in statements(sql):
        tokens = statement.tokens
        for at, one in enumerate(tokens):
            after = tokens[at + 1] if at + 1 < len(tokens) else None
            text += token(one, after)
            needed = after is not None and after.offset > one.offset + len(one.text)
            text += gap(needed)
        text += ";" + gap(False)
    return text


def as_written(token: Token, _: Token | None) -> str:
    return token.text


def quoted(token: Token, after: Token | None) -> str:
    is_name = token.kind == "WORD" and token.text.islower() and token.text not in NO_NAMES
    return f'"{token.text}"' if is_name and not (after and after.text == "(") else token.text


white_space = st.text(" \t\n\r\f", min_size=1, max_size=3)
comments = st.sampled_from(
    [
        "-- DROP TABLE users;\n",
        "--\r\n",
        "/* '; */",
        '/* /* DROP TABLE users; */ " */',
        "/**/",
        "-- $$ it's\n",
        "-- +goose\n",
        "/* ALTER TABLE users\n DROP COLUMN name; */",
    ]
)
gaps = st.lists(white_space | comments, min_size=1, max_size=3).map("".join)


@settings(max_examples=EXAMPLES_EACH, deadline=None)
@given(sql=st.sampled_from(SETS), data=st.data())
def test_white_space_and_comments_never_change_a_verdict(sql: str, data: st.DataObject) -> None:
    again = rewritten(
        sql, lambda needed: data.draw(gaps) if needed or data.draw(st.booleans()) else "", as_written
    )

    assert verdict(again) == verdict(sql), again


@settings(max_examples=EXAMPLES_EACH, deadline=None)
@given(sql=st.sampled_from(SETS), data=st.data())
def test_case_never_changes_a_verdict(sql: str, data: st.DataObject) -> None:
    def cased(token: Token, _: Token | None) -> str:
        how = data.draw(st.sampled_from([str.upper, str.lower, str.title, str.swapcase]))
        return how(token.text) if token.kind == "WORD" else token.text

    again = rewritten(sql, lambda needed: " " if needed else "", cased)

    assert verdict(again) == verdict(sql), again


@settings(max_examples=EXAMPLES_EACH, deadline=None)
@given(sql=st.sampled_from(SETS), data=st.data())
def test_quoting_names_never_changes_a_verdict(sql: str, data: st.DataObject) -> None:
    def maybe(token: Token, after: Token | None) -> str:
        return quoted(token, after) if data.draw(st.booleans()) else token.text

    again = rewritten(sql, lambda needed: " " if needed else "", maybe)

    assert verdict(again) == verdict(sql), again


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n\n", " \n"])
def test_line_ends_never_change_a_verdict(end: str) -> None:
    for sql in SETS:
        assert verdict(sql.replace("\n", end)) == verdict(sql), sql
        assert verdict("\ufeff" + sql) == verdict(sql), sql
        assert verdict(end + sql.rstrip("\n;")) == verdict(sql), sql


def test_a_later_file_never_hides_a_break_of_an_earlier_one() -> None:
    for sql in SETS:
        if alone := errors(verdict(sql)):
            for later in SETS:
                assert alone <= errors(verdict(sql, later)), f"{sql}\n-- then\n{later}"


def errors(found: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    return Counter({key: number for key, number in found.items() if key[1] == "error"})


STRANGERS = [
    "CREATE TABLE zz (a int, b text);",
    "ALTER TABLE zz_old ADD COLUMN c int;",
    "ALTER TABLE zz_old DROP COLUMN d;",
    "DROP TABLE zz_old;",
    "CREATE VIEW zz_view AS SELECT 1 AS one;",
    "INSERT INTO zz VALUES (1, 'ALTER TABLE users DROP COLUMN name;');",
    "DO $$ BEGIN PERFORM 1; END $$;",
    "CREATE FUNCTION zz_f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;",
    "CREATE TYPE zz_type AS ENUM ('a');",
    "COPY zz FROM stdin;\n1\tDROP TABLE users;\n\\.\n",
    "COMMENT ON TABLE zz_old IS 'it''s';",
    "UPDATE zz_old SET a = 1;",
]


@settings(max_examples=EXAMPLES_EACH, deadline=None)
@given(
    sql=st.sampled_from(SETS),
    before=st.lists(st.sampled_from(STRANGERS), max_size=4),
    after=st.lists(st.sampled_from(STRANGERS), max_size=4),
)
def test_what_is_about_other_things_never_hides_a_break_in_the_same_file(
    sql: str, before: Sequence[str], after: Sequence[str]
) -> None:
    together = "\n".join([*before, sql.rstrip().removesuffix(";") + ";", *after])

    assert errors(verdict(sql)) <= errors(verdict(together)), together


@settings(max_examples=EXAMPLES_EACH, deadline=None)
@given(files=st.lists(st.sampled_from(SETS), min_size=1, max_size=5), cut=st.integers(0, 4))
def test_files_that_run_later_change_nothing_of_what_was_said_before(files: list[str], cut: int) -> None:
    first = errors(verdict(*files[: cut + 1]))

    assert first <= errors(verdict(*files))
