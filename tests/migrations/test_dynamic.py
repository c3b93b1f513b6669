"""The statements inside DO blocks, functions and EXECUTEd strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veza_tasks.migrations.dynamic import (
    Unresolved,
    body_of,
    executed,
    is_placeholder,
    language_of,
    offsets_in,
    raises,
    returns_null,
    run_by,
)
from veza_tasks.migrations.lexer import Statement, statements


def shown(found: Statement | Unresolved) -> str:
    if isinstance(found, Unresolved):
        return "unresolved"
    return " ".join(token.text for token in found.tokens)


def ran(sql: str) -> list[str]:
    """All that the statements of a text run, SELECTs of mere expressions left out."""
    found = [shown(found) for statement in statements(sql) for found in run_by(statement)]
    return [text for text in found if not text.startswith(("SELECT", "VALUES"))]


def block(body: str, declared: str = "") -> list[str]:
    return ran(f"DO $do$ DECLARE {declared} BEGIN {body} END $do$")


def executing(expression: str, declared: str = "", before: str = "") -> list[str]:
    return block(f"{before} EXECUTE {expression};", declared)


@pytest.mark.parametrize(
    "do",
    [
        "DO $$ BEGIN DROP TABLE t; END $$",
        "DO $x$BEGIN DROP TABLE t;END$x$;",
        "DO 'BEGIN DROP TABLE t; END'",
        "DO E'BEGIN\\nDROP TABLE t; END'",
        "DO U&'BEGIN \\0044ROP TABLE t; END'",
        "DO 'BEGIN '\n'DROP TABLE t; END'",
        "DO LANGUAGE plpgsql $$ BEGIN DROP TABLE t; END $$",
        "DO $$ BEGIN DROP TABLE t; END $$ LANGUAGE 'plpgsql'",
        'DO LANGUAGE "plpgsql" $$ BEGIN DROP TABLE t; END $$',
        "do $$ begin DROP TABLE t; end; $$",
        "DO $$ <<outer_block>> DECLARE x int; BEGIN DROP TABLE t; END outer_block $$",
        "DO $$ #variable_conflict use_column\nBEGIN DROP TABLE t; END $$",
        "DO $$ /* BEGIN */ BEGIN -- DROP VIEW v;\n DROP TABLE t; END $$",
        "DO $$ BEGIN EXECUTE 'DROP TABLE t'; END $$",
        "DO $$ BEGIN EXECUTE $q$DROP TABLE t$q$; END $$",
        "DO $$ BEGIN DO 'BEGIN DROP TABLE t; END'; END $$",
        "DO 'BEGIN EXECUTE ''DO $x$ BEGIN EXECUTE ''''DROP TABLE t''''; END $x$''; END'",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DROP TABLE t'",
        "CREATE OR REPLACE FUNCTION f() RETURNS trigger AS $$ BEGIN DROP TABLE t; END $$ LANGUAGE plpgsql",
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN DROP TABLE t; END $$",
        "CREATE FUNCTION f(a text DEFAULT CAST('AS' AS text)) RETURNS void AS $$ DROP TABLE t; $$ LANGUAGE sql",
        "CREATE PROCEDURE p() BEGIN ATOMIC DROP TABLE t; END",
    ],
)
def test_a_body_runs_however_it_is_quoted(do: str) -> None:
    assert ran(do) == ["DROP TABLE t"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("IF a THEN DROP TABLE b; END IF;", ["DROP TABLE b"]),
        (
            "IF a THEN ELSIF b THEN DROP TABLE c; ELSEIF d THEN DROP TABLE e; ELSE DROP TABLE f; END IF;",
            ["c", "e", "f"],
        ),
        ("IF (CASE WHEN a THEN b ELSE c END) THEN DROP TABLE t; END IF;", ["t"]),
        (
            "CASE a WHEN 1, 2 THEN DROP TABLE b; WHEN 3 THEN DROP TABLE c; ELSE DROP TABLE d; END CASE;",
            ["b", "c", "d"],
        ),
        ("CASE WHEN a = 1 THEN DROP TABLE b; END CASE; DROP TABLE c;", ["b", "c"]),
        ("LOOP DROP TABLE a; EXIT WHEN b; END LOOP; DROP TABLE c;", ["a", "c"]),
        ("<<l>> WHILE a < 1 LOOP DROP TABLE b; CONTINUE l WHEN c; END LOOP l; DROP TABLE d;", ["b", "d"]),
        ("FOR i IN 1..10 LOOP DROP TABLE a; END LOOP;", ["a"]),
        ("FOR i IN REVERSE 10..1 BY 2 LOOP DROP TABLE a; END LOOP;", ["a"]),
        ("FOR r IN SELECT 1 FROM x LOOP DROP TABLE a; END LOOP;", ["a"]),
        ("FOR r IN cur LOOP DROP TABLE a; END LOOP;", ["a"]),
        ("FOREACH x SLICE 1 IN ARRAY y LOOP DROP TABLE a; END LOOP;", ["a"]),
        (
            "BEGIN DROP TABLE a; EXCEPTION WHEN b OR c THEN DROP TABLE d; WHEN OTHERS THEN DROP TABLE e; END;",
            ["a", "d", "e"],
        ),
        ("DECLARE x int; BEGIN DROP TABLE a; END; DROP TABLE b;", ["a", "b"]),
        ("IF a THEN IF b THEN LOOP DROP TABLE c; END LOOP; END IF; ELSE DROP TABLE d; END IF;", ["c", "d"]),
        ("NULL; RETURN; DROP TABLE a;", ["a"]),
        ("begin := 1; if := 2; DROP TABLE a;", ["a"]),
    ],
)
def test_every_branch_counts(body: str, found: list[str]) -> None:
    assert block(body) == [text if " " in text else f"DROP TABLE {text}" for text in found]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("COMMIT; ROLLBACK AND CHAIN;", ["COMMIT", "ROLLBACK AND CHAIN"]),
        ("CALL p(1);", ["CALL p ( 1 )"]),
        ("RETURN QUERY DELETE FROM t RETURNING a;", ["DELETE FROM t RETURNING a"]),
        ("RETURN QUERY EXECUTE 'DELETE FROM t' USING 1;", ["DELETE FROM t"]),
        (
            "FOR r IN EXECUTE 'DELETE FROM t RETURNING a' USING x LOOP NULL; END LOOP;",
            ["DELETE FROM t RETURNING a"],
        ),
        ("FOR r IN DELETE FROM t RETURNING a LOOP NULL; END LOOP;", ["DELETE FROM t RETURNING a"]),
        ("OPEN c FOR EXECUTE 'TABLE t';", ["TABLE t"]),
        ("EXECUTE 'DELETE FROM t RETURNING a' INTO STRICT x USING 1;", ["DELETE FROM t RETURNING a"]),
        ("EXECUTE 'DELETE FROM t' USING 1 INTO x;", ["DELETE FROM t"]),
        ("DELETE FROM t RETURNING a, b INTO STRICT x, y.z;", ["DELETE FROM t RETURNING a , b"]),
        ("INSERT INTO t SELECT a FROM b RETURNING c INTO d;", ["INSERT INTO t SELECT a FROM b RETURNING c"]),
        (
            "MERGE INTO t USING s ON a WHEN MATCHED THEN DELETE;",
            ["MERGE INTO t USING s ON a WHEN MATCHED THEN DELETE"],
        ),
        ("CREATE TABLE a AS SELECT 1;", ["CREATE TABLE a AS SELECT 1"]),
        ("RAISE NOTICE 'DROP TABLE t; %', x; ASSERT true, 'x'; GET DIAGNOSTICS n = ROW_COUNT; CLOSE c;", []),
        ("x := 'DROP TABLE t;'; y[1].z = 2; FETCH NEXT FROM c INTO x;", []),
    ],
)
def test_statements_of_all_kinds(body: str, found: list[str]) -> None:
    assert block(body) == found


@pytest.mark.parametrize(
    "body",
    [
        *(
            "PERFORM f(1);",
            "IF f(1) THEN NULL; END IF;",
            "x := f(1);",
            "RETURN f(1);",
            "WHILE f(1) LOOP NULL; END LOOP;",
        ),
        *(
            "RAISE NOTICE '%', f(1);",
            "ASSERT f(1);",
            "CASE f(1) WHEN 1 THEN NULL; END CASE;",
            "RETURN NEXT f(1);",
        ),
        *(
            "EXIT WHEN f(1);",
            "SELECT f(1) INTO x;",
            "SELECT INTO x f(1);",
            "FOR i IN 1..f(1) LOOP NULL; END LOOP;",
        ),
        *(
            "EXECUTE 'SELECT f(1)';",
            "EXECUTE 'x' || f(1);",
            "EXECUTE 'SELECT 1' USING f(1);",
            "RETURN QUERY SELECT f(1);",
        ),
        *(
            "DECLARE y int := f(1); BEGIN NULL; END;",
            "OPEN c FOR SELECT f(1);",
            "FOREACH x IN ARRAY f(1) LOOP END LOOP;",
        ),
    ],
)
def test_a_call_in_any_expression_is_seen(body: str) -> None:
    sql = f"DO $do$ BEGIN {body} END $do$"
    found = [shown(found) for statement in statements(sql) for found in run_by(statement)]
    assert any(text.startswith("SELECT") and "f ( 1 )" in text and "INTO" not in text for text in found)


@pytest.mark.parametrize(
    ("expression", "declared"),
    [
        ("'DROP' || ' TABLE ' || 't'", ""),
        ("'DROP TABLE ' || quote_ident('t')", ""),
        ("'DROP TABLE '::text || ('t')::pg_catalog.varchar(10)", ""),
        ("CAST('DROP TABLE t' AS character varying)", ""),
        ("E'DROP\\tTABLE' || U&' \\0074'", ""),
        ("format('DROP TABLE %I', 't')", ""),
        ("pg_catalog.format('%2$s TABLE %1$I', 't', 'DROP')", ""),
        ("format('DROP %s t', CASE WHEN true THEN 'TABLE' END)", ""),
        ("format('%s TABLE %-1s', 'DROP', 't')", ""),
        ("concat('DROP', ' TABLE ', 't')", ""),
        ("concat_ws(' ', 'DROP', 'TABLE', 't')", ""),
        ("replace('DROP TABLE $$', '$$', 't')", ""),
        ("upper('drop table ') || lower('T')", ""),
        ("coalesce('DROP TABLE t')", ""),
        ("array_to_string(ARRAY['DROP TABLE t'], ';')", ""),
        ("((('DROP TABLE t')))", ""),
        ("(SELECT 'DROP TABLE t')", ""),
        ("(SELECT string_agg('DROP TABLE ' || 't', '; ' ORDER BY a, b) FROM c WHERE d = 'e')", ""),
        ("s", "s text := 'DROP TABLE t';"),
        ("S", "s CONSTANT text COLLATE \"C\" NOT NULL DEFAULT 'DROP TABLE t';"),
        ('"s"', "s varchar(20) = 'DROP TABLE t';"),
        ("a || b", "a text := 'DROP '; b text := 'TABLE t';"),
        ("b", "a text := 'DROP '; b text := a || 'TABLE t';"),
        ("format(a, 't')", "a text := 'DROP TABLE %I';"),
        ("a[1]", "a text[] := ARRAY['DROP TABLE t'];"),
        ("'DROP TABLE t' USING 1, 'x'", ""),
    ],
)
def test_the_text_of_an_execute_is_put_together(expression: str, declared: str) -> None:
    assert executing(expression, declared) == ["DROP TABLE t"]


@pytest.mark.parametrize(
    ("before", "found"),
    [
        ("s := 'DROP TABLE a';", ["a"]),
        ("s := 'DROP TABLE a'; s := 'DROP TABLE b';", ["b"]),
        ("s := 'DROP '; s := s || 'TABLE '; s := s || 'a';", ["a"]),
        ("IF x THEN s := 'DROP TABLE a'; ELSE s := 'DROP TABLE b'; END IF;", ["a", "b"]),
        ("s := 'DROP TABLE a'; IF x THEN s := s || ', b'; END IF;", ["a", "a , b"]),
        ("s := 'DROP TABLE a'; IF x THEN s := 'DROP TABLE b'; ELSE s := 'DROP TABLE c'; END IF;", ["b", "c"]),
        ("CASE x WHEN 1 THEN s := 'DROP TABLE a'; WHEN 2 THEN s := 'DROP TABLE b'; END CASE;", ["a", "b"]),
        (
            "s := 'DROP TABLE a'; BEGIN s := 'DROP TABLE b'; EXCEPTION WHEN OTHERS THEN s := 'DROP TABLE c'; END;",
            ["b", "c"],
        ),
        ("s := 'DROP TABLE a'; BEGIN s := 'DROP TABLE b'; END;", ["b"]),
        ("SELECT 'DROP TABLE a' INTO s;", ["a"]),
        ("SELECT 'x', 'DROP TABLE a' INTO STRICT t, s FROM y;", ["a"]),
        ("SELECT INTO s 'DROP TABLE a';", ["a"]),
        ("blk.s := 'DROP TABLE a';", ["a"]),
    ],
)
def test_a_variable_is_followed_to_the_execute(before: str, found: list[str]) -> None:
    sql = f"DO $do$ <<blk>> DECLARE s text; t text; BEGIN {before} EXECUTE s; END $do$"
    assert ran(sql) == [f"DROP TABLE {text}" for text in found]


@pytest.mark.parametrize(
    ("head", "expression"),
    [
        ("FOREACH t IN ARRAY ARRAY['a', 'b']", "'DROP TABLE ' || t"),
        ("FOREACH t IN ARRAY names", "format('DROP TABLE %I', t)"),
        ("FOR t IN SELECT unnest(ARRAY['a', 'b'])", "'DROP TABLE ' || t"),
        ("FOR t IN VALUES ('a'), ('b')", "'DROP TABLE ' || t"),
        ("FOR t IN SELECT 'DROP TABLE a' UNION ALL SELECT 'DROP TABLE b'", "t"),
        ("FOR r IN SELECT 'a' AS n UNION SELECT 'b'", "'DROP TABLE ' || r.n"),
        ("FOR r IN SELECT 1, 'a' n EXCEPT SELECT 2, 'b'", "'DROP TABLE ' || r.n"),
    ],
)
def test_a_loop_over_constants_runs_for_each(head: str, expression: str) -> None:
    declared = "t text; r record; names text[] := ARRAY['a', 'b'];"
    assert block(f"{head} LOOP EXECUTE {expression}; END LOOP;", declared) == ["DROP TABLE a", "DROP TABLE b"]


def test_the_end_of_a_loop_reaches_its_beginning() -> None:
    found = block("LOOP EXECUTE s; s := 'DROP TABLE t'; END LOOP;", "s text := 'TABLE x';")
    assert found == ["TABLE x", "DROP TABLE t"]


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("format('ALTER TABLE %I DROP COLUMN x', r.name)", 'ALTER TABLE "?r.name" DROP COLUMN x'),
        ("'ALTER TABLE ' || r.name || ' DROP COLUMN x'", 'ALTER TABLE "?r.name" DROP COLUMN x'),
        ("'ALTER TABLE ' || r.name::regclass || ' DROP COLUMN x'", 'ALTER TABLE "?r.name" DROP COLUMN x'),
        ("format('ALTER TABLE %I.%I DROP COLUMN x', s, n)", 'ALTER TABLE "?s" . "?n" DROP COLUMN x'),
        ("'DROP TABLE log_' || n", 'DROP TABLE "log_?n"'),
        ("'DROP TABLE LOG_' || n || '_old, ' || m", 'DROP TABLE "log_?n_old" , "?m"'),
        ("'DROP TABLE ' || quote_ident(n) || '_old'", 'DROP TABLE "?n_old"'),
        ("format('DROP TABLE %I', 'Log ' || n)", 'DROP TABLE "Log ?n"'),
        ("'DROP TABLE ' || f(n)", 'DROP TABLE "?f(n)"'),
        ("'DROP TABLE ' || (i + 1)", 'DROP TABLE "?i + 1"'),
        ("'ALTER TABLE t ADD ' || n || ' text NOT NULL'", 'ALTER TABLE t ADD "?n" text NOT NULL'),
        ("'ALTER TABLE t DROP ' || n", 'ALTER TABLE t DROP "?n"'),
        (
            "format('ALTER TABLE t ADD COLUMN c text DEFAULT %L', v)",
            "ALTER TABLE t ADD COLUMN c text DEFAULT '?v'",
        ),
        ("format('ALTER TABLE t ADD CHECK (%s > %s)', a, b)", 'ALTER TABLE t ADD CHECK ( "?a" > "?b" )'),
        ("'ALTER SEQUENCE s RESTART ' || n", 'ALTER SEQUENCE s RESTART "?n"'),
        ("'ALTER SEQUENCE s RESTART WITH ' || n", 'ALTER SEQUENCE s RESTART WITH "?n"'),
        ("'CREATE INDEX i ON t ' || what", 'CREATE INDEX i ON t "?what"'),
        ("'GRANT ' || rights || ' ON t TO u'", 'GRANT "?rights" ON t TO u'),
        ("'DROP TABLE ' || $1", 'DROP TABLE "?$1"'),
    ],
)
def test_an_unknown_name_leaves_the_rest_to_be_read(expression: str, found: str) -> None:
    assert executing(expression) == [found]


def test_the_same_unknown_has_the_same_name_until_it_changes() -> None:
    loop = "FOR r IN SELECT n FROM q LOOP EXECUTE 'CREATE TABLE ' || r.n; EXECUTE 'DROP TABLE ' || r.n; END LOOP;"
    first, second, third, fourth = block(loop + loop, "r record;")
    assert (first, second) == ('CREATE TABLE "?n"', 'DROP TABLE "?n"')
    assert (third, fourth) == ('CREATE TABLE "?n 2"', 'DROP TABLE "?n 2"')
    assert is_placeholder("?n 2")
    assert not is_placeholder("n")


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "s",
            "r.sql",
            "f()",
            "$1",
            "current_setting('a.b')",
            "'ALTER ' || s",
            "'DROP ' || s",
            "'CREATE ' || s",
        ),
        *("'ALTER TABLE ' || n || ' ' || s", "'ALTER TABLE t ' || s", "format('ALTER TABLE %I %s', n, s)"),
        *(
            "'ALTER TABLE t ADD COLUMN c ' || type",
            "'ALTER TABLE t ADD COLUMN c text, ' || s",
            "'ALTER TABLE t ADD ' || s",
        ),
        *(
            "s || ' TABLE t'",
            "'REVOKE ' || s",
            "'DROP TABLE \"t'",
            "'DROP TABLE t /*'",
            "format('%y', 1)",
            "NULL",
        ),
        *(
            "'DO $x$ BEGIN ' || s || '; END $x$'",
            "'ALTER ROLE r ' || s",
            "'ALTER ROLE r WITH ' || s",
            "'DO LANGUAGE plperl ''x'''",
        ),
    ],
)
def test_what_may_be_anything_is_unresolved(expression: str) -> None:
    assert executing(expression, "s text; r record;") == ["unresolved"]


def test_a_variable_that_something_else_sets_is_unknown() -> None:
    for setter in (
        *("FETCH c INTO s;", "EXECUTE 'SELECT 1' INTO s;", "CALL p(s);", "GET DIAGNOSTICS s = ROW_COUNT;"),
        *("DELETE FROM t RETURNING a INTO s;", "FOR s IN SELECT a FROM b LOOP NULL; END LOOP; s := s;"),
    ):
        assert "unresolved" in block(f"{setter} EXECUTE s;", "s text := 'DROP TABLE t';"), setter


def test_a_body_in_another_language_is_unresolved() -> None:
    assert ran("DO LANGUAGE plpython3u $$ plpy.execute('DROP TABLE t') $$") == ["unresolved"]
    assert ran("CREATE FUNCTION f() RETURNS int AS 'lib', 'f' LANGUAGE c") == []


def test_a_body_that_cannot_be_read_is_unresolved() -> None:
    assert ran('DO $$ BEGIN DROP TABLE a; DROP TABLE "b; END $$') == ["DROP TABLE a", "unresolved"]


def test_bodies_are_those_of_do_and_create_function() -> None:
    for sql, body in (
        ("DO 'a'", "a"),
        ("CREATE FUNCTION f(a text = 'AS') RETURNS text LANGUAGE plpgsql AS $$b$$", "b"),
        ("CREATE OR REPLACE PROCEDURE p() AS 'c' LANGUAGE plpgsql", "c"),
        ("CREATE FUNCTION f() RETURNS int AS 'd' LANGUAGE internal", None),
        ("CREATE FUNCTION f() RETURNS int RETURN 1", None),
        ("CREATE VIEW v AS SELECT 'x'", None),
        ("COMMENT ON FUNCTION f() IS 'x'", None),
    ):
        (statement,) = statements(sql)
        token = body_of(statement)
        assert (token and token.value) == body, sql
    (statement,) = statements("CREATE FUNCTION f() RETURNS int AS 'd' LANGUAGE PLpgSQL")
    assert language_of(statement) == "plpgsql"


@pytest.mark.parametrize(
    ("sql", "at"),
    [
        ("DO $$ BEGIN DROP TABLE t; END $$", "DROP"),
        ("DO 'BEGIN DROP TABLE t; END'", "DROP"),
        ("DO $a$ BEGIN EXECUTE $b$ DO $c$ BEGIN DROP TABLE t; END $c$ $b$; END $a$", "DROP"),
        ("DO $a$ BEGIN EXECUTE 'DROP TABLE t'; END $a$", "DROP"),
        ("DO 'BEGIN EXECUTE ''DROP TABLE t''; END'", "'BEGIN"),
        ("DO E'BEGIN\\nDROP TABLE t; END'", "E'BEGIN"),
        ("DO $$ BEGIN EXECUTE 'DROP TABLE' || ' t'; END $$", "'DROP"),
        ("DO $$ BEGIN EXECUTE s; END $$", "s;"),
    ],
)
def test_what_is_found_says_where(sql: str, at: str) -> None:
    (statement,) = statements(sql)
    found = next(iter(run_by(statement)))
    assert (found.offset if isinstance(found, Unresolved) else found.start) == sql.index(at)


def test_a_statement_of_many_pieces_ends_where_they_do() -> None:
    sql = "DO $$ BEGIN EXECUTE 'DROP' || ' TABLE t'; END $$"
    (statement,) = statements(sql)
    (found,) = run_by(statement)
    assert isinstance(found, Statement)
    assert sql[found.start : found.end] == "'DROP' || ' TABLE t'"


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("BEGIN RAISE EXCEPTION 'x'; END", True),
        ("BEGIN IF a THEN RAISE 'x'; END IF; END", True),
        ("BEGIN RAISE unique_violation; END", True),
        ("BEGIN RAISE; END", True),
        ("BEGIN ASSERT a; END", True),
        (
            "BEGIN RAISE NOTICE 'EXCEPTION'; RAISE WARNING 'x'; RAISE LOG 'x'; RAISE INFO 'x'; RAISE DEBUG 'x'; END",
            False,
        ),
        ("BEGIN -- RAISE EXCEPTION\n NEW.raise := 'RAISE'; EXCEPTION WHEN OTHERS THEN NULL; END", False),
        ("BEGIN 'unterminated", True),
    ],
)
def test_whether_a_body_raises(body: str, answer: bool) -> None:
    assert raises(body) is answer


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("BEGIN RETURN NULL; END", True),
        ("BEGIN IF a THEN RETURN null::record; END IF; RETURN NEW; END", True),
        ("BEGIN RETURN NEW; END", False),
        ("BEGIN RETURN coalesce(NULL, NEW); -- RETURN NULL\n END", False),
        ("BEGIN /* unterminated", True),
    ],
)
def test_whether_a_body_returns_null(body: str, answer: bool) -> None:
    assert returns_null(body) is answer


def nested(depth: int) -> str:
    sql = "DROP TABLE t;"
    for level in range(depth):
        inner = f"EXECUTE $e{level}${sql}$e{level}$;" if level % 2 else sql
        sql = f"DO $d{level}$ BEGIN {inner} END $d{level}$;"
    return sql


@pytest.mark.parametrize(
    "end", ["::", "COLLATE", "||", "AS", "(", "[", "CASE", "CASE WHEN", "END", "x.", "format(", "ARRAY"]
)
def test_an_expression_may_end_anywhere(end: str) -> None:
    assert executing(f"'SELECT 1' {end}".replace("(", "()")) in ([], ["unresolved"])


def test_nesting_has_no_end() -> None:
    assert ran(nested(100)) == ["DROP TABLE t"]
    assert len(ran(nested(2000))) == 1
    assert executing("(" * 20_000 + "'DROP TABLE t'" + ")" * 20_000) == ["DROP TABLE t"]
    assert executing("CASE WHEN a THEN " * 5000 + "'DROP TABLE t'" + " END" * 5000) == ["DROP TABLE t"]
    assert block("IF a THEN " * 5000 + "DROP TABLE t; " + "END IF; " * 5000) == ["DROP TABLE t"]


def test_a_text_that_grows_without_end_is_unresolved() -> None:
    assert executing("s", "s text := 'DROP TABLE t;';", "s := s || s;" * 100) == ["unresolved"]


quoting = st.sampled_from(
    [
        lambda text: "'" + text.replace("'", "''") + "'",
        lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'",
        lambda text: f"$q$ {text}$q$",
        lambda text: "('" + text.replace("'", "''") + "')::text",
        lambda text: "format('%s', '" + text.replace("'", "''") + "')",
    ]
)
words = st.lists(
    st.sampled_from(
        [
            "DROP",
            "TABLE",
            "t",
            ",",
            "'it''s'",
            '"Q q"',
            "(",
            ")",
            "$x$ ' $x$",
            "1.5",
            "--'\n",
            "/* ; */",
            "\\",
        ]
    ),
    min_size=1,
    max_size=8,
)


@given(words, st.data())
def test_a_text_in_pieces_is_read_as_the_text(tokens: list[str], data: st.DataObject) -> None:
    pieces = [" " + token for token in tokens]
    quoted = [data.draw(quoting)(piece) for piece in pieces]
    assigned = "".join(f"s := s || {piece};\n" for piece in quoted)
    expected = next(
        iter(
            executed(f"BEGIN EXECUTE $whole${''.join(pieces)}$whole$; END", offset_of=lambda offset: offset)
        ),
        None,
    )
    if data.draw(st.booleans()):
        body = f"DECLARE s text := ''; BEGIN {assigned} EXECUTE s; END"
    else:
        body = f"BEGIN EXECUTE {' || '.join(quoted)}; END"
    found = [
        one for one in executed(body, offset_of=lambda offset: offset) if not shown(one).startswith("SELECT")
    ]
    assert [shown(one) for one in found][:1] == ([shown(expected)] if expected else [])


NASTY = """( ) [ ] ; , . = || := :: << >> $1 BEGIN END IF THEN ELSE ELSIF CASE WHEN LOOP FOR IN EXECUTE INTO USING DECLARE
EXCEPTION RETURN QUERY SELECT FROM UNION ARRAY AS format( concat( 'a' x y NULL PERFORM FOREACH WHILE OPEN FETCH GET CALL DO
RAISE CURSOR ORDER COLLATE quote_ident( DISTINCT VALUES CREATE FUNCTION"""


@given(st.lists(st.sampled_from(NASTY.split())))
def test_no_body_makes_it_stumble(tokens: list[str]) -> None:
    for start in ("BEGIN ", "DECLARE "):
        for found in executed(start + " ".join(tokens), offset_of=lambda offset: offset):
            assert isinstance(found, Unresolved) or found.tokens


def test_offsets_count_in_the_outer_text() -> None:
    (statement,) = statements("DO $x$abc$x$")
    body = body_of(statement)
    assert body is not None
    assert offsets_in(body)(2) == len("DO $x$ab")
