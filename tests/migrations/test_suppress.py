"""Comments that let a finding pass, and comments that fail to."""

from __future__ import annotations

import pytest

from veza_tasks.migrations import Choices, Verdict, check_files

DROP = "ALTER TABLE t DROP COLUMN c;"
ALLOW = "-- veza-lint: allow drop-column because v7 stopped reading it"


def lint(sql: str, *rules: str, strict: bool = False) -> Verdict:
    choices = Choices(rules=("missing-lock-timeout=off", *rules), strict=strict)
    return check_files(["-"], stdin=sql.encode(), choices=choices)


def errors(verdict: Verdict) -> list[tuple[str, int]]:
    return [(finding.rule, finding.line) for finding in verdict.findings if finding.level == "error"]


@pytest.mark.parametrize(
    "sql",
    [
        f"{ALLOW}\n{DROP}",
        f"{ALLOW}\n-- and another comment\n\n/* and one more */ {DROP}",
        f"SELECT 1;\n{ALLOW}\n{DROP}\nSELECT 2;",
        f"{DROP} {ALLOW}",
        f"ALTER TABLE t\n  DROP COLUMN c; {ALLOW}\n{DROP.replace('DROP', 'ADD').replace(';', ' text;')}",
        f"ALTER TABLE t\n  {ALLOW}\n  DROP COLUMN c;",
        f"SELECT 1; /* veza-lint: allow drop-column because so it is */ {DROP}",
        f"/*\n * veza-lint: allow drop-column\n * because v7 stopped\n * reading it\n */\n{DROP}",
        f"-- VEZA-LINT : Allow DROP-COLUMN BECAUSE of v7\n{DROP}",
        f"--veza-lint:allow drop-column because: v7\n{DROP}",
        f"-- veza-lint: allow drop-column because x\r\n{DROP}\r\n",
        f"-- veza-lint: allow drop-column because of DO\nDO $$ BEGIN {DROP} END $$;",
    ],
)
def test_a_comment_above_inside_or_behind_lets_the_statement_pass(sql: str) -> None:
    verdict = lint(sql)

    assert errors(verdict) == []
    assert [passed.finding.rule for passed in verdict.allowed] == ["drop-column"]
    assert all(passed.reason for passed in verdict.allowed)
    assert "1 allowed by comment" in verdict.summary


def test_the_reason_is_kept_word_for_word() -> None:
    [passed] = lint(f"{ALLOW}\n{DROP}").allowed
    assert passed.reason == "v7 stopped reading it"


def test_it_holds_for_one_statement_alone() -> None:
    assert errors(lint(f"{ALLOW}\n{DROP}\n{DROP.replace(' c', ' d')}")) == [("drop-column", 3)]
    assert errors(lint(f"{DROP} {ALLOW}\n{DROP.replace(' c', ' d')}")) == [("drop-column", 2)]


def test_it_holds_for_every_such_action_of_the_statement() -> None:
    verdict = lint(f"{ALLOW}\nALTER TABLE t DROP COLUMN a, DROP COLUMN b;")

    assert errors(verdict) == []
    assert len(verdict.allowed) == 2


def test_another_rule_of_the_same_statement_stays() -> None:
    verdict = lint(f"{ALLOW}\nALTER TABLE t DROP COLUMN a, ALTER COLUMN b TYPE text;")
    assert [rule for rule, _ in errors(verdict)] == ["alter-column-type"]

    both = ALLOW.replace("drop-column", "drop-column, alter-column-type")
    assert errors(lint(f"{both}\nALTER TABLE t DROP COLUMN a, ALTER COLUMN b TYPE text;")) == []


def test_two_comments_add_up() -> None:
    more = "-- veza-lint: allow alter-column-type because the binary casts"
    verdict = lint(f"{ALLOW}\n{more}\nALTER TABLE t DROP COLUMN a, ALTER COLUMN b TYPE text;")

    assert errors(verdict) == []
    assert {passed.reason for passed in verdict.allowed} == {"v7 stopped reading it", "the binary casts"}


def test_a_warning_may_be_allowed_too() -> None:
    comment = "-- veza-lint: allow index-not-concurrent because the table is tiny"
    verdict = lint(f"{comment}\nCREATE INDEX i ON t (a);")

    assert (verdict.colour, verdict.findings) == ("green", ())
    assert lint(f"{comment}\nCREATE INDEX i ON t (a);", strict=True).colour == "green"


@pytest.mark.parametrize(
    "comment",
    [
        "-- veza-lint: allow drop-column",
        "-- veza-lint: allow drop-column because",
        "-- veza-lint: allow drop-column because   !?",
        "-- veza-lint: allow drop-column, because v7",
        "-- veza-lint: allow because v7",
        "-- veza-lint: allow drop-colum because v7",
        "-- veza-lint: allow drop-column drop-table because v7",
        "-- veza-lint: allow all because v7",
        "-- veza-lint: ignore drop-column because v7",
        "-- veza-lint allow drop-column because v7",
        "-- veza-lint-ignore drop-column",
        "-- veza-lint:",
        "-- veza-lint: allow bad-suppression because v7",
        "-- veza-lint: allow history-rewritten because v7",
    ],
)
def test_a_comment_that_is_not_well_formed_is_a_finding_and_lets_nothing_pass(comment: str) -> None:
    verdict = lint(f"{comment}\n{DROP}")

    assert errors(verdict) == [("bad-suppression", 1), ("drop-column", 2)]
    assert verdict.allowed == ()


@pytest.mark.parametrize(
    "sql",
    [
        f"{ALLOW}\nSELECT 1;",
        f"{ALLOW}\n",
        f"{DROP}\n{ALLOW}",
        f"{ALLOW}\nSELECT 1;\n{DROP}",
        ALLOW.replace("drop-column", "drop-column, rename-table") + f"\n{DROP}",
    ],
)
def test_a_comment_that_allows_nothing_is_a_finding(sql: str) -> None:
    assert [rule for rule, _ in errors(lint(sql)) if rule != "drop-column"] == ["unused-suppression"]


def test_an_unused_rule_is_named_and_those_in_use_are_not() -> None:
    verdict = lint(ALLOW.replace("drop-column", "drop-column, rename-table") + f"\n{DROP}")
    [finding] = [finding for finding in verdict.findings if finding.rule == "unused-suppression"]

    assert "rename-table" in finding.message
    assert "drop-column" not in finding.message


def test_of_two_comments_for_the_same_one_is_unused() -> None:
    assert errors(lint(f"{ALLOW}\n{ALLOW}\n{DROP}")) == [("unused-suppression", 2)]


def test_a_rule_that_is_off_needs_no_comment_and_suffers_one() -> None:
    assert errors(lint(f"{ALLOW}\n{DROP}", "drop-column=off")) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT '-- veza-lint: nonsense';",
        "-- see veza-lint: it is nice\nSELECT 1;",
        "SELECT $$\n-- veza-lint: nonsense\n$$;",
        "-- +goose Up\nSELECT 1;\n-- +goose Down\n-- veza-lint: nonsense\nDROP TABLE t;",
    ],
)
def test_what_is_no_comment_for_us_is_left_alone(sql: str) -> None:
    assert errors(lint(sql)) == []


def test_a_comment_inside_a_string_lets_nothing_pass() -> None:
    assert errors(lint(f"SELECT '\n{ALLOW}\n';\n{DROP}")) == [("drop-column", 4)]


def test_findings_about_comments_have_the_comments_place_and_a_level() -> None:
    [finding] = lint("SELECT 1;\n  -- veza-lint: allow x\n").findings

    assert (finding.line, finding.column, finding.end_column) == (2, 3, 24)
    assert lint("-- veza-lint: x", "bad-suppression=off").findings == ()
    assert lint("-- veza-lint: x", "bad-suppression=warning").colour == "yellow"
    assert lint("-- veza-lint: x", "bad-suppression=warning", strict=True).colour == "red"
