"""What the linter prints: positions, carets, escapes and shapes."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veza_tasks.migrations import CannotTell, Verdict, check_files
from veza_tasks.migrations.judge import Finding
from veza_tasks.migrations.report import FORMATS, WIDTH, one_line, render, render_trouble, text

ROOT = Path(__file__).parents[2]
JSON = json.loads((ROOT / "docs" / "lint-report.schema.json").read_text())
SARIF = json.loads((Path(__file__).with_name("sarif.schema.json")).read_text())
NASTY = """\
-- veza-lint: allow drop-table because nobody reads it, "quoted", ::error::x, 100%
DROP TABLE "a%b,c:d";
ALTER TABLE "\x1b[31mred\u202e" DROP COLUMN "new
line\x9b";
CREATE INDEX i ON t (a);
"""


def lint(sql: str) -> Verdict:
    return check_files(["-"], stdin=sql.encode())


def drawn(sql: str, rule: str = "drop-column") -> tuple[str, str]:
    """The source line and the line with the carets of the one finding of a rule."""
    lines = text(lint(sql)).splitlines()
    [at] = [number for number, line in enumerate(lines) if f": {rule}: " in line]
    source, carets = lines[at + 1], lines[at + 2]
    assert source.index("|") == carets.index("|")
    return source[source.index("|") + 2 :], carets[carets.index("|") + 2 :]


def width(words: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in words
    )


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("colour", [False, True])
def test_a_terminal_gets_no_line_broken_in_a_word(columns: int, colour: bool) -> None:
    verdict = lint(f"/* {'x' * 90} */ ALTER TABLE users DROP COLUMN nickname, ADD COLUMN mood text NOT NULL;")
    shown = re.sub(r"\033\[[0-9;]*m", "", text(verdict, colour=colour, columns=columns))
    assert all(width(line) <= columns for line in shown.splitlines())
    assert " ".join(shown.split()) == " ".join(text(verdict, columns=columns).split())
    for finding in verdict.findings:
        assert finding.message in " ".join(shown.split())
        assert finding.recipe in " ".join(shown.split())


def underlined(source: str, carets: str) -> str:
    """What stands above the carets on a terminal."""
    start = len(carets) - len(carets.lstrip())
    column, found = 0, ""
    for character in source:
        if start <= column < len(carets):
            found += character
        column += width(character)
    return found


@pytest.mark.parametrize(
    "before",
    [
        "",
        "    ",
        "\t",
        "SELECT 2;\t",
        "  \t\t",
        "/* 標準 */ ",
        "/* e\u0301 */ ",
        "/* \N{GRINNING FACE} */ ",
        "/* \x07\x1b[2J */ ",
        "\u3000"[:0],
    ],
)
def test_carets_stand_under_the_finding_whatever_stands_before_it(before: str) -> None:
    source, carets = drawn(f"SELECT 1;\n{before}ALTER TABLE t DROP COLUMN c; -- after")

    assert underlined(source, carets) == "DROP COLUMN c"
    assert source.isprintable()


def test_carets_under_wide_characters_are_as_wide() -> None:
    source, carets = drawn('ALTER TABLE t DROP COLUMN "標準";')

    assert underlined(source, carets) == 'DROP COLUMN "標準"'
    assert carets.count("^") == width('DROP COLUMN "標準"')


@pytest.mark.parametrize("padding", [50, 90, 200, 1000, 100_000])
@pytest.mark.parametrize("after", [0, 50, 100_000])
def test_a_long_line_is_cut_around_the_finding(padding: int, after: int) -> None:
    source, carets = drawn(f"SELECT '{'x' * padding}'; ALTER TABLE t DROP COLUMN c; SELECT '{'y' * after}';")

    assert underlined(source, carets) == "DROP COLUMN c"
    assert width(source) <= WIDTH + 2
    assert source.startswith("…") == (padding > 60)


def test_of_a_finding_over_several_lines_the_first_is_shown() -> None:
    source, carets = drawn("ALTER TABLE t DROP\n\n  COLUMN c;")

    assert (source, underlined(source, carets)) == ("ALTER TABLE t DROP", "DROP")


def test_lines_and_columns_begin_at_one_and_a_byte_order_mark_is_no_column() -> None:
    [finding] = [f for f in lint("\ufeffDROP TABLE t;").findings if f.rule == "drop-table"]
    assert (finding.line, finding.column) == (1, 1)

    [finding] = [f for f in lint("SELECT 1;\r\n  DROP TABLE t;").findings if f.rule == "drop-table"]
    assert (finding.line, finding.end_line) == (2, 2)
    assert drawn("SELECT 1;\r\n  DROP TABLE t;", "drop-table")[0] == "  DROP TABLE t;"


@given(st.text(max_size=60))
def test_nothing_of_a_migration_acts_on_the_terminal(name: str) -> None:
    quoted = name.replace("\0", "").replace('"', '""') or "x"
    try:
        quoted.encode()
    except UnicodeEncodeError:
        return
    for form in ("text", "github"):
        shown = render(lint(f'ALTER TABLE t DROP COLUMN "{quoted}";'), form)
        assert all(line.isprintable() for line in shown.split("\n"))


def test_colour_is_only_what_was_asked_for_and_can_be_taken_off_again() -> None:
    verdict = lint(NASTY)

    plain, coloured = text(verdict), text(verdict, colour=True)

    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain != coloured


def test_a_clean_verdict_is_one_line_and_an_allowed_finding_another() -> None:
    assert text(lint("SELECT 1;")) == "1 migration file: nothing that the running binary cannot live with\n"

    allowed = text(lint("-- veza-lint: allow drop-table because gone\nDROP TABLE t;")).splitlines()
    assert "<stdin>:2:1: allowed: drop-table: gone" in allowed


def test_one_line_is_what_compilers_print() -> None:
    [finding] = [f for f in lint("DROP TABLE t;").findings if f.rule == "drop-table"]

    assert one_line(finding).startswith("<stdin>:1:1: error: drop-table: ")


VERDICTS = [
    lint(NASTY),
    lint("SELECT 1;"),
    lint("CREATE INDEX i ON t (a);"),
    check_files(["-"], stdin=b"DROP TABLE t;", forced=True),
    Verdict("yellow", "nothing to compare"),
]
TROUBLES = [CannotTell("no git here"), CannotTell.at("a b,c:\x1b%.sql", 3, 4, "unterminated string")]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_json_has_the_documented_shape(verdict: Verdict) -> None:
    document = json.loads(render(verdict, "json"))

    jsonschema.Draft202012Validator(JSON).validate(document)
    assert [found["rule"] for found in document["findings"]] == [f.rule for f in verdict.findings]
    assert [found["reason"] for found in document["suppressed"]] == [a.reason for a in verdict.allowed]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_sarif_has_the_standards_shape(verdict: Verdict) -> None:
    document = json.loads(render(verdict, "sarif"))

    jsonschema.Draft202012Validator(SARIF, format_checker=jsonschema.FormatChecker()).validate(document)
    [run] = document["runs"]
    results = run["results"]
    assert len(results) == len(verdict.findings) + len(verdict.allowed)
    assert sum("suppressions" in result for result in results) == len(verdict.allowed)
    for result in results:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": int(verdict.colour == "red")}]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_nobody_can_tell_has_a_shape_too(trouble: CannotTell) -> None:
    jsonschema.Draft202012Validator(JSON).validate(json.loads(render_trouble(trouble, "json")))
    jsonschema.Draft202012Validator(SARIF).validate(json.loads(render_trouble(trouble, "sarif")))
    assert render_trouble(trouble, "text") == ""
    [annotation] = parsed(render_trouble(trouble, "github"))
    assert annotation["level"] == "error"


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a b/ü.sql", "a%20b/%C3%BC.sql"),
        ("C:/x.sql", "./C%3A/x.sql"),
        ("/m/1.sql", "file:///m/1.sql"),
        ("latin-\udce9.sql", "latin-%E9.sql"),
        ("-.sql", "-.sql"),
    ],
)
def test_a_path_is_a_uri_in_sarif_and_text_elsewhere(path: str, uri: str) -> None:
    finding = lint("DROP TABLE t;").findings[0]._replace(path=path)
    verdict = Verdict("red", "x", (finding,))

    [result] = json.loads(render(verdict, "sarif"))["runs"][0]["results"]

    assert result["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": uri}
    for form in FORMATS:
        render(verdict, form).encode("utf-8")


def parsed(output: str) -> Iterator[dict[str, Any]]:
    """GitHub's workflow commands, read as its runner reads them."""
    for line in output.splitlines():
        if found := re.fullmatch(r"::(error|warning)(?: (.*?))?::(.*)", line):
            properties = dict(pair.split("=", 1) for pair in (found[2] or "").split(",") if pair)
            yield {
                "level": found[1],
                "message": unescaped(found[3]),
                **{key: unescaped(value) for key, value in properties.items()},
            }


def unescaped(value: str) -> str:
    assert not re.search(r"%(?!25|0A|0D|3A|2C)", value)
    return unquote(value)


def test_annotations_survive_names_that_look_like_commands() -> None:
    verdict = lint(NASTY)

    annotations = list(parsed(render(verdict, "github")))

    assert [(a["level"], a["title"]) for a in annotations] == [(f.level, f.rule) for f in verdict.findings]
    for annotation, finding in zip(annotations, verdict.findings, strict=True):
        assert (annotation["file"], annotation["line"]) == (finding.path, str(finding.line))
        assert ("col" in annotation) == (finding.line == finding.end_line)


def test_a_hostile_path_is_no_second_property_of_an_annotation() -> None:
    finding: Finding = lint("DROP TABLE t;").findings[0]._replace(path="a,line=9::b\n::error::c.sql")

    [annotation] = parsed(render(Verdict("red", "x", (finding,)), "github"))

    assert annotation["file"] == "a,line=9::b\n::error::c.sql"
    assert annotation["line"] == "1"
