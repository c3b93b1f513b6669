"""What each migration tool runs in a deploy, and in what order: by the tools' own rules."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veza_tasks.migrations.tools import TOOLS, Part, deployed, in_order, runs_again


def runs(text: str, *, path: str = "20260101_a.sql", tool: str = "auto") -> str:
    return "|".join(text[start:end].strip() for start, end, _ in deployed(path, text, tool=tool))


def transactions(text: str, *, path: str = "20260101_a.sql", tool: str = "auto") -> list[bool | None]:
    return [part.transaction for part in deployed(path, text, tool=tool)]


GOOSE = "-- +goose Up\nup;\n-- +goose Down\ndown;\n"
DBMATE = "-- migrate:up\nup;\n-- migrate:down\ndown;\n"
SQL_MIGRATE = "-- +migrate Up\nup;\n-- +migrate Down\ndown;\n"


@pytest.mark.parametrize("tool", ["auto", "goose"])
class TestGoose:
    @pytest.mark.parametrize(
        "text",
        [
            GOOSE,
            GOOSE.replace("\n", "\r\n"),
            "\ufeff" + GOOSE,
            "--+goose up\nup;\n--   +GOOSE".replace("GOOSE", "goose") + "   DOWN  \ndown;",
            "\n-- a comment\n  -- and another\n" + GOOSE,
            "-- +goose ENVSUB ON\n" + GOOSE,
            "-- +goose Up\nup;\n",
            "-- +goose Up\nup;\n-- +goose Down\n-- +goose StatementBegin\ndown;\n-- +goose StatementEnd\n",
            "-- +goose Up\nup;\n-- Down: nothing\n-- +goose Down\ndown;",
        ],
    )
    def test_only_up_runs(self, tool: str, text: str) -> None:
        assert runs(text, tool=tool).split("\n")[0].strip() == "up;"
        assert "down;" not in runs(text, tool=tool)

    def test_semicolons_between_statement_begin_and_end_are_up(self, tool: str) -> None:
        text = "-- +goose Up\n-- +goose StatementBegin\na; b;\n-- +goose StatementEnd\nc;\n-- +goose Down\nd;"
        assert "a; b;" in runs(text, tool=tool)
        assert "c;" in runs(text, tool=tool)
        assert "d;" not in runs(text, tool=tool)

    def test_its_parser_knows_no_strings(self, tool: str) -> None:
        text = "-- +goose Up\nSELECT '\n-- +goose Down\n'; DROP TABLE t;"
        assert runs(text, tool=tool) == "SELECT '"

    @pytest.mark.parametrize(
        "text",
        [
            "-- +goose Down\ndown;\n-- +goose Up\nup;\n",
            "SELECT 1;\n" + GOOSE,
            "/* a block comment */\n" + GOOSE,
            GOOSE + "-- +goose Up\nmore;\n",
            GOOSE + "-- +goose Down\nmore;\n",
            "-- +goose Up\nup;\n -- +goose Down\ndown;\n",
            "-- +goose Up\nup;\n-- +goose Down now\ndown;\n",
            "-- +goose Up\nup;\n-- see +goose\n-- +goose Down\ndown;\n",
            "-- +goose Up\n-- +goose StatementBegin\nup;\n-- +goose Down\ndown;\n",
            "-- +goose StatementEnd\n" + GOOSE,
            "-- +goose Down\ndown;\n",
        ],
    )
    def test_what_it_refuses_is_taken_whole(self, tool: str, text: str) -> None:
        assert deployed("1_a.sql", text, tool=tool) == [Part(0, len(text), None)]

    def test_a_file_is_a_transaction_unless_it_says_otherwise(self, tool: str) -> None:
        assert transactions(GOOSE, tool=tool) == [True]
        assert transactions("-- +goose NO TRANSACTION\n" + GOOSE, tool=tool) == [False]
        assert transactions("-- +goose Up\n-- +goose no transaction\nup;", tool=tool) == [False]


@pytest.mark.parametrize("tool", ["auto", "dbmate"])
class TestDbmate:
    @pytest.mark.parametrize(
        "text",
        [
            DBMATE,
            DBMATE.replace("\n", "\r\n"),
            "\ufeff" + DBMATE,
            "--migrate:up\nup;\n--   migrate:down   \ndown;",
            "-- comment\n\n" + DBMATE,
            "-- migrate:up foo:bar\nup;\n-- migrate:down foo\ndown;",
            "-- migrate:up\nup;\n  -- migrate:down\n-- Migrate:down\n-- migrate:downs\n-- migrate:down\ndown;",
        ],
    )
    def test_only_up_runs(self, tool: str, text: str) -> None:
        assert "up;" in runs(text, tool=tool)
        assert "down;" not in runs(text, tool=tool)

    def test_pairs_may_follow_each_other(self, tool: str) -> None:
        text = DBMATE + "-- migrate:up transaction:false\nsecond;\n-- migrate:down\ndown;\n"
        assert runs(text, tool=tool) == "-- migrate:up\nup;|-- migrate:up transaction:false\nsecond;"
        assert transactions(text, tool=tool) == [True, False]

    @pytest.mark.parametrize(
        ("options", "transaction"),
        [
            (" transaction:false", False),
            ("\ttransaction:false  x:y", False),
            (" transaction:true", True),
            (" transaction:FALSE", True),
            (" transaction: false", True),
            (" transaction:false:x", True),
            (" transaction:false transaction:true", True),
            ("\n-- transaction:false", True),
        ],
    )
    def test_options_stand_on_the_marker_s_line(self, tool: str, options: str, transaction: bool) -> None:
        text = f"-- migrate:up{options}\nup;\n-- migrate:down\n"
        assert transactions(text, tool=tool) == [transaction]

    @pytest.mark.parametrize(
        "text",
        [
            "-- migrate:up\nup;\n",
            "-- migrate:down\ndown;\n-- migrate:up\nup;\n-- migrate:down\n",
            "SELECT 1;\n" + DBMATE,
            DBMATE + "-- migrate:down\nmore;\n",
            "-- migrate:up\nup;\n-- migrate:up\nmore;\n-- migrate:down\n",
        ],
    )
    def test_what_it_refuses_is_taken_whole(self, tool: str, text: str) -> None:
        assert deployed("1_a.sql", text, tool=tool) == [Part(0, len(text), None)]


@pytest.mark.parametrize("tool", ["auto", "sql-migrate"])
class TestSqlMigrate:
    @pytest.mark.parametrize(
        ("text", "up"),
        [
            (SQL_MIGRATE, "up;"),
            (SQL_MIGRATE.replace("\n", "\r\n"), "up;"),
            ("\ufeff" + SQL_MIGRATE, "up;"),
            ("-- +migrate Down\ndown;\n-- +migrate Up\nup;\n", "up;"),
            (SQL_MIGRATE + SQL_MIGRATE, "up;|up;"),
            ("-- +migrate Up\nup;\n-- +migrate down\nstill;\n", "up;\n-- +migrate down\nstill;"),
            ("-- +migrate Up\nup;\n --  +migrate Down\nstill;\n", "up;\n --  +migrate Down\nstill;"),
            ("-- +migrate Up\nup;\n--+migrate Down\nstill;\n", "up;\n--+migrate Down\nstill;"),
            ("/* a block */\n" + SQL_MIGRATE, "up;"),
            ("ignored;\n" + SQL_MIGRATE, "up;"),
            ("-- +migrate Down\ndown;\n", ""),
        ],
    )
    def test_sections_alternate(self, tool: str, text: str, up: str) -> None:
        assert runs(text, tool=tool).replace("\r", "") == up

    def test_one_notransaction_counts_for_the_file(self, tool: str) -> None:
        text = SQL_MIGRATE + "-- +migrate Up notransaction\nup;\n"
        assert transactions(text, tool=tool) == [False, False]
        assert transactions("-- +migrate Up\nup;\n-- +migrate Down notransaction\n", tool=tool) == [True]

    @pytest.mark.parametrize(
        "text", ["-- +migrate \nup;", "-- +migrate Up\n-- +migrate StatementBegin\nup;", "up;"]
    )
    def test_what_it_refuses_is_taken_whole(self, tool: str, text: str) -> None:
        assert deployed("1_a.sql", text, tool=tool) == [Part(0, len(text), None)]


class TestFileNames:
    @pytest.mark.parametrize(
        ("tool", "name", "runs_it"),
        [
            ("golang-migrate", "1_a.up.sql", True),
            ("golang-migrate", "000001_a.down.sql", False),
            ("golang-migrate", "1_a.down.up.sql", True),
            ("golang-migrate", "1_a.up.down.sql", False),
            ("golang-migrate", "notes.sql", True),
            (
                "golang-migrate",
                "a.down.sql",
                True,
            ),  # without a number it does not run at all: nobody can place it
            ("sqlx", "1_a.sql", True),
            ("sqlx", "1_a.up.sql", True),
            ("sqlx", "1_a.down.sql", False),
            ("flyway", "V1__a.sql", True),
            ("flyway", "V1.2_3__a.sql", True),
            ("flyway", "U1__a.sql", False),
            ("flyway", "U1.2__a.SQL", False),
            ("flyway", "u1__a.sql", True),
            ("flyway", "B5__a.sql", False),
            ("flyway", "B5.sql", False),
            ("flyway", "R__a.sql", True),
            ("flyway", "Users.sql", True),
            ("flyway", "beforeMigrate.sql", True),
            ("flyway", "afterMigrate__grants.sql", True),
            ("flyway", "beforeClean.sql", False),
            ("flyway", "afterEachUndo__x.sql", False),
            ("auto", "1_a.up.sql", True),
            ("auto", "1_a.down.sql", False),
            ("auto", "a.down.sql", False),
            ("auto", "2026_a/down.sql", False),
            ("auto", "2026_a/up.sql", True),
            ("auto", "U1__a.sql", False),
            ("auto", "U1.sql", True),
            ("auto", "B1__a.sql", False),
            ("auto", "beforeClean.sql", False),
            ("auto", "1_scale_down.sql", True),
            ("auto", "1_down.up.sql", True),
            ("auto", "Update__a.sql", True),
            ("plain", "1_a.down.sql", True),
        ],
    )
    def test_a_name_that_says_down_runs_nothing(self, tool: str, name: str, runs_it: bool) -> None:
        assert bool(deployed(f"db/migrations/{name}", "DROP TABLE t;", tool=tool)) is runs_it

    def test_a_file_is_one_transaction_as_far_as_it_can(self) -> None:
        for tool in ("golang-migrate", "flyway", "plain", "auto"):
            assert transactions("up;", tool=tool) == [None]
        assert transactions("up;", tool="sqlx") == [True]

    def test_sqlx_reads_no_transaction_at_the_very_start(self) -> None:
        assert transactions("-- no-transaction\nup;", tool="sqlx") == [False]
        assert transactions("-- no-transaction\nup;") == [False]
        assert transactions("\n-- no-transaction\nup;", tool="sqlx") == [True]

    def test_a_tool_that_reads_names_reads_no_markers(self) -> None:
        for tool in ("golang-migrate", "sqlx", "flyway", "plain"):
            for text in (GOOSE, DBMATE, SQL_MIGRATE):
                assert runs(text, path="V1_a.up.sql", tool=tool) == text.strip()


class TestAuto:
    @pytest.mark.parametrize(
        "text",
        [
            "-- Down: drop it\nup;",
            "-- this goes Up, then Down\nup;",
            "SELECT '\n-- migrate:down\n';\nup;",
            "SELECT '\n-- +migrate Up\n-- +migrate Down\n'; up;",
            "/*\n-- +migrate Up\n-- +migrate Down\n*/ up;",
            "SELECT $$\n-- +migrate Down\n$$; up;",
            "SELECT '\n-- +goose Up\n-- +goose Down\n'; up;",
            "/*\n-- migrate:up\n-- migrate:down\n*/ up;",
        ],
    )
    def test_no_marker_hides_a_statement_of_a_file_without_a_tool(self, text: str) -> None:
        assert runs(text) == text

    def test_the_markers_of_two_tools_run_what_either_would(self) -> None:
        both = "-- migrate:up\n-- +goose Up\nup;\n-- +goose Down\n-- migrate:down\ndown;\n"
        assert "up;" in runs(both)
        assert "down;" not in runs(both)
        assert transactions(both) == [True]
        apart = "-- migrate:up\n-- +goose Up\na;\n-- migrate:down\nb;\n-- +goose Down\nc;\n"
        assert "b;" in runs(apart)
        assert "c;" not in runs(apart)

    @given(
        st.lists(
            st.sampled_from(
                [
                    *(
                        "-- +goose Up\n",
                        "-- +goose Down\n",
                        "-- migrate:up\n",
                        "-- migrate:down\n",
                        "a;\n",
                        "\n",
                    ),
                    *(
                        "-- +migrate Up\n",
                        "-- +migrate Down\n",
                        "-- +goose StatementBegin\n",
                        "-- b\n",
                        "'\n",
                    ),
                    *("/*\n", "*/\n", "\ufeff", " ", "\r", "-- +goose StatementEnd\n", "$$\n"),
                ]
            )
        )
    )
    def test_parts_lie_in_the_text_one_after_another(self, lines: list[str]) -> None:
        text = "".join(lines)
        for tool in TOOLS:
            position = 0
            for start, end, _ in deployed("1_a.sql", text, tool=tool):
                assert position <= start <= end <= len(text)
                position = end


ORDERS = {
    "goose": ["1_a.sql", "2_b.sql", "10_a.sql", "20260101000000_z.sql"],
    "golang-migrate": ["1_a.up.sql", "002_b.up.sql", "10_a.up.sql"],
    "sqlx": ["1_a.sql", "2_b.up.sql", "10_a.sql"],
    "sql-migrate": ["1-a.sql", "2.sql", "10.sql", "A.sql", "a.sql"],
    "dbmate": ["10_a.sql", "1_a.sql", "2_b.sql"],
    "flyway": [
        *(
            "beforeMigrate.sql",
            "beforeMigrate__a.sql",
            "V0.9__a.sql",
            "V1__b.sql",
            "V1.1__a.sql",
            "V1_2__a.sql",
        ),
        *(
            "V1.10__a.sql",
            "V2.sql",
            "V0010__a.sql",
            "afterVersioned.sql",
            "R__A.sql",
            "R__a_b.sql",
            "R__b.sql",
        ),
        "afterMigrate.sql",
    ],
    "auto": ["1_a.sql", "V2__b.sql", "3_a.sql", "10_a.sql", "schema.sql", "R__views.sql", "afterMigrate.sql"],
    "plain": ["1.sql", "2.sql", "10.sql", "B.sql", "a.sql"],
}


@pytest.mark.parametrize("tool", ORDERS)
def test_files_run_in_the_tool_s_own_order(tool: str) -> None:
    for seed in range(5):
        shuffled = [f"db/{name}" for name in ORDERS[tool]]
        random.Random(seed).shuffle(shuffled)
        assert in_order(shuffled, tool=tool) == [f"db/{name}" for name in ORDERS[tool]]


def test_the_number_counts_whatever_the_folder() -> None:
    assert in_order(["a/2_x.sql", "b/1_x.sql", "a/1_x.sql"]) == ["a/1_x.sql", "b/1_x.sql", "a/2_x.sql"]


def test_where_all_files_have_one_name_the_folder_counts() -> None:
    paths = ["m/2_a/up.sql", "m/10_a/up.sql", "m/1_a/up.sql", "m/2_a/down.sql"]
    assert in_order(paths) == ["m/1_a/up.sql", "m/2_a/down.sql", "m/2_a/up.sql", "m/10_a/up.sql"]


def test_numbers_may_be_as_long_as_they_like() -> None:
    assert in_order(["9" * 5000 + ".sql", "1" + "0" * 5000 + ".sql"])[0].startswith("9")


@given(st.lists(st.text(alphabet="0129_VRU.ab/sql", max_size=12)), st.sampled_from(TOOLS))
def test_the_order_is_that_of_the_set_not_of_the_list(paths: list[str], tool: str) -> None:
    ordered = in_order(paths, tool=tool)
    assert sorted(ordered) == sorted(paths)
    assert in_order(reversed(paths), tool=tool) == ordered


def test_an_unknown_tool_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of auto, goose"):
        deployed("a.sql", "", tool="liquibase")
    with pytest.raises(ValueError, match="no migration tool"):
        in_order([], tool="liquibase")


def test_only_flyway_s_repeatables_and_callbacks_may_be_edited_later() -> None:
    assert runs_again("db/R__views.sql")
    assert runs_again("afterMigrate.sql", tool="flyway")
    assert not runs_again("V1__a.sql", tool="flyway")
    assert not runs_again("R__views.sql", tool="goose")


def test_a_large_file_is_read_at_once() -> None:
    text = "-- +goose Up\n" + "INSERT INTO t VALUES (1);\n" * 200_000 + "-- +goose Down\n"
    assert deployed("1_a.sql", text) == [Part(12, len(text) - 15, True)]
