"""A verdict in words: for people, for GitHub's annotations, as JSON, and as SARIF 2.1.0.

Nothing of a migration reaches a terminal as it is: what is no printable character is shown in octal or blanked.
The shape of the JSON is in ``docs/lint-report.schema.json``; keys are added to it, never taken away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import veza_tasks
from veza_tasks.migrations.trouble import CannotTell, printable, visible

if TYPE_CHECKING:
    from veza_tasks.migrations import Excerpt, Verdict
    from veza_tasks.migrations.judge import Finding
    from veza_tasks.migrations.rules import Rule

NAME = "veza-lint-migrations"
JSON_VERSION = 1
WIDTH = 100
"""Columns of a source line that are shown at most."""
TAB = 4

_COLOURS = {"error": "31", "warning": "33", "path": "1", "quiet": "2"}


def render(verdict: Verdict, form: str, *, colour: bool = False, columns: int = 0) -> str:
    """The verdict in one of ``FORMATS``; it ends with a line end. ``columns``: of the terminal, 0 where there is none."""
    if form == "text":
        return text(verdict, colour=colour, columns=columns)
    return {"json": _json, "github": _github, "sarif": _sarif}[form](verdict)


def render_trouble(trouble: CannotTell, form: str) -> str:
    """What to say on standard output, beside the message on standard error, when there is no verdict."""
    shapes: Mapping[str, Callable[[CannotTell], str]] = {
        "text": lambda trouble: "",
        "json": _json_trouble,
        "github": _github_trouble,
        "sarif": _sarif_trouble,
    }
    return shapes[form](trouble)


FORMATS = ("text", "json", "github", "sarif")


def one_line(finding: Finding) -> str:
    """Path, line and column as compilers have them, level, rule and message."""
    return f"{_place(finding)}: {finding.level}: {finding.rule}: {_printed(finding.message)}"


def text(verdict: Verdict, *, colour: bool = False, columns: int = 0) -> str:
    """For people; folded at words where a terminal has so many ``columns``, else a line is as long as it is."""

    def paint(words: str, how: str) -> str:
        return f"\033[{_COLOURS[how]}m{words}\033[0m" if colour and words else words

    lines: list[str] = []
    for finding in verdict.findings:
        place, level = _place(finding), f"{finding.level}: {finding.rule}"
        plain, painted = f"{place}: {level}: ", f"{paint(place, 'path')}: {paint(level, finding.level)}: "
        first, *more = _folded(finding.message, columns, len(plain), 8)
        lines += [painted + first, *more]
        if finding in verdict.excerpts:
            width = min(WIDTH, max(columns - 10, 20)) if columns else WIDTH
            source, caret = _drawn(verdict.excerpts[finding], width)
            number = str(finding.line)
            lines.append(f"{paint(f'{number:>5} |', 'quiet')} {source}")
            lines.append(f"{paint('      |', 'quiet')} {paint(caret, finding.level)}")
        recipe = [line.rstrip() for line in finding.recipe.splitlines() if line.strip()]
        for line in recipe:
            first, *more = _folded(line, columns, 8, 8)
            lines += [f"{paint('      =', 'quiet')} {first}", *more]
        lines.append("")
    for finding, reason in verdict.allowed:
        lines += _folded(f"{_place(finding)}: allowed: {finding.rule}: {reason}", columns, 0, 8)
    lines += _folded(verdict.summary, columns, 0, 0)
    return "\n".join(lines) + "\n"


def explained(rule: Rule, *, columns: int = 0) -> str:
    """One rule in full, for ``--explain``; ``columns`` as for ``render``."""
    parts = [f"{rule.id} ({rule.level}): {rule.title}", ""]
    parts += [*_folded(rule.why, columns, 0, 0), "", *_folded(rule.recipe, columns, 0, 0)]
    if rule.bad:
        parts += ["", "Bad:", *_indented(rule.bad)]
    if rule.good:
        parts += ["", "Good:", *_indented(rule.good)]
    return "\n".join(parts) + "\n"


def listed(rules: Mapping[str, Rule], form: str) -> str:
    """All rules, for ``--list-rules``; the page ``docs/lint-rules.md`` is ``markdown``."""
    if form == "json":
        return _dumped([rule._asdict() for rule in rules.values()])
    if form == "markdown":
        return _page(rules)
    width = max(map(len, rules), default=0)
    return "".join(f"{rule.id:{width}}  {rule.level:7}  {rule.title}\n" for rule in rules.values())


def _place(finding: Finding) -> str:
    return f"{printable(finding.path)}:{finding.line}:{finding.column}"


def _printed(words: str) -> str:
    return visible(" ".join(words.split()))


def _folded(words: str, columns: int, taken: int, margin: int) -> list[str]:
    """Words in lines: ``taken`` columns of the first are, the others get a ``margin``. Without ``columns`` it is one line."""
    words = _printed(words)
    if not columns:
        return [words]
    from textwrap import wrap

    first, *more = wrap(
        words,
        columns,
        initial_indent=" " * taken,
        subsequent_indent=" " * margin,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]
    return [first[taken:], *more]


def _drawn(excerpt: Excerpt, width: int) -> tuple[str, str]:
    """The line, cut to ``width`` columns around the finding, and carets in the columns beneath it."""
    cells = list(_cells(excerpt))
    widths = [_width(cell) for cell in cells]
    start = excerpt.start
    stop = max(excerpt.end, start + 1)
    # As much before the finding as leaves it, or its beginning, in sight.
    first, room = start, max(20, width - min(sum(widths[start:stop]), width * 2 // 3))
    while first > 0 and sum(widths[first - 1 : start]) <= room:
        first -= 1
    last, room = first, width
    while last < len(cells) and room >= widths[last]:
        room -= widths[last]
        last += 1
    before = "…" if first > 0 or excerpt.cut_before else ""
    after = "…" if last < len(cells) or excerpt.cut_after else ""
    line = before + "".join(cells[first:last]) + after
    caret = " " * (len(before) + sum(widths[first:start])) + "^" * max(
        1, sum(widths[start : min(stop, last)])
    )
    return line.rstrip(), caret


def _cells(excerpt: Excerpt) -> Iterator[str]:
    """Each character as it is shown: blanks for a tab, nothing dangerous."""
    column = 0
    for character in excerpt.text:
        cell = character
        if character == "\t":
            cell = " " * (TAB - column % TAB)
        elif character.isspace():
            cell = " "
        elif not character.isprintable():
            cell = "?"
        column += _width(cell)
        yield cell


def _width(cell: str) -> int:
    """Columns on a terminal."""
    if cell.isascii():
        return len(cell)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in cell)


def _indented(example: str) -> list[str]:
    return [f"    {line}".rstrip() for line in example.strip("\n").splitlines()]


def _page(rules: Mapping[str, Rule]) -> str:
    errors = [rule for rule in rules.values() if rule.level == "error"]
    warnings = [rule for rule in rules.values() if rule.level != "error"]
    lines = [
        "# The rules of the migration linter",
        "",
        f"Written by `{NAME} --list-rules --format markdown`; a test holds it up to date and runs every example.",
        "An **error** breaks a statement that the running binary may send. A **warning** locks or rewrites: it hurts",
        "and passes. `--strict` makes errors of warnings, `MIGRATIONS_RULES` sets the level of single rules.",
        "",
        "| Rule | Level | |",
        "| --- | --- | --- |",
        *(f"| [`{rule.id}`](#{rule.id}) | {rule.level} | {rule.title} |" for rule in (*errors, *warnings)),
    ]
    for rule in (*errors, *warnings):
        lines += ["", f"## {rule.id}", "", f"**{rule.level}**: {rule.title}", "", rule.why, "", rule.recipe]
        for title, example in (("Bad:", rule.bad), ("Good:", rule.good)):
            if example:
                lines += ["", title, "", "```sql", *example.strip("\n").splitlines(), "```"]
    return "\n".join(lines) + "\n"


def _dumped(document: object) -> str:
    import json

    return json.dumps(document, indent=2) + "\n"


def _path(path: str) -> str:
    """As it is: JSON escapes what is odd. Bytes that are no UTF-8 cannot be told but quoted."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return printable(path)
    return path


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "path": _path(finding.path),
        "line": finding.line,
        "column": finding.column,
        "end_line": finding.end_line,
        "end_column": finding.end_column,
        "rule": finding.rule,
        "level": finding.level,
        "message": finding.message,
        "recipe": finding.recipe,
    }


def _json(verdict: Verdict) -> str:
    return _dumped(
        {
            "version": JSON_VERSION,
            "colour": verdict.colour,
            "summary": verdict.summary,
            "forced": verdict.forced,
            "findings": [_as_json(finding) for finding in verdict.findings],
            "suppressed": [{**_as_json(finding), "reason": reason} for finding, reason in verdict.allowed],
        }
    )


def _json_trouble(trouble: CannotTell) -> str:
    place = {"path": _path(trouble.path), "line": trouble.line, "column": trouble.column}
    return _dumped({"version": JSON_VERSION, "cannot_tell": {"message": trouble.message, **place}})


def _github(verdict: Verdict) -> str:
    """Workflow commands (GitHub Docs, "Workflow commands for GitHub Actions")."""
    lines = [_annotation(finding) for finding in verdict.findings]
    if verdict.colour == "yellow" and not any(finding.level == "warning" for finding in verdict.findings):
        lines.append(f"::warning::{_data(verdict.summary)}")
    else:
        lines.append(_printed(verdict.summary))
    return "\n".join(lines) + "\n"


def _annotation(finding: Finding) -> str:
    where = {"file": finding.path, "line": finding.line}
    if finding.end_line > finding.line:
        where["endLine"] = finding.end_line  # columns mean something within one line only
    else:
        where |= {"col": finding.column, "endColumn": max(finding.end_column, finding.column)}
    where["title"] = finding.rule
    message = finding.message + (f"\n{finding.recipe}" if finding.recipe else "")
    return f"::{finding.level} {','.join(f'{k}={_property(v)}' for k, v in where.items())}::{_data(message)}"


def _github_trouble(trouble: CannotTell) -> str:
    where = (
        f" file={_property(trouble.path)},line={trouble.line},col={trouble.column}" if trouble.line else ""
    )
    return f"::error{where}::{_data(trouble.message)}\n"


def _data(value: str) -> str:
    lines = (visible(line) for line in value.splitlines())
    return "%0A".join(line.replace("%", "%25") for line in lines)


def _property(value: object) -> str:
    shown = _path(str(value)).replace("%", "%25")
    for character in "\r\n:,":
        shown = shown.replace(character, f"%{ord(character):02X}")
    return visible(shown)


def _sarif(verdict: Verdict) -> str:
    from veza_tasks.migrations.rules import RULES

    used = dict.fromkeys([f.rule for f in verdict.findings] + [f.rule for f, _ in verdict.allowed])
    index = {rule: number for number, rule in enumerate(used)}
    results = [_result(finding, index) for finding in verdict.findings]
    for finding, reason in verdict.allowed:
        suppression = {"kind": "inSource", "status": "accepted", "justification": reason}
        results.append({**_result(finding, index), "suppressions": [suppression]})
    rules = [_descriptor(RULES[rule]) for rule in used]
    invocation = {"executionSuccessful": True, "exitCode": 1 if verdict.colour == "red" else 0}
    return _dumped(_log(rules, results, invocation))


def _sarif_trouble(trouble: CannotTell) -> str:
    notification: dict[str, Any] = {"level": "error", "message": {"text": trouble.message}}
    if trouble.path:
        place: dict[str, Any] = {"artifactLocation": {"uri": _uri(trouble.path)}}
        if trouble.line:
            place["region"] = {"startLine": trouble.line, "startColumn": trouble.column}
        notification["locations"] = [{"physicalLocation": place}]
    invocation = {"executionSuccessful": False, "exitCode": 2, "toolExecutionNotifications": [notification]}
    return _dumped(_log([], [], invocation))


def _log(rules: list[Any], results: list[Any], invocation: dict[str, Any]) -> dict[str, Any]:
    driver = {"name": NAME, "semanticVersion": veza_tasks.__version__, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "invocations": [invocation],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return {"$schema": schema, "version": "2.1.0", "runs": [run]}


def _descriptor(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.recipe or rule.why},
        "defaultConfiguration": {"level": rule.level},
    }


def _result(finding: Finding, index: Mapping[str, int]) -> dict[str, Any]:
    region = {
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": finding.end_line,
        "endColumn": finding.end_column,
    }
    message = finding.message + (f"\n\n{finding.recipe}" if finding.recipe else "")
    return {
        "ruleId": finding.rule,
        "ruleIndex": index[finding.rule],
        "level": finding.level,
        "message": {"text": message},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": _uri(finding.path)}, "region": region}}
        ],
    }


def _uri(path: str) -> str:
    """A URI reference, relative to where the command ran or to the repository's top; RFC 3986, byte by byte."""
    from urllib.parse import quote

    name = quote(os.fsencode(path))
    if os.path.isabs(path):
        return f"file://{name}"
    return f"./{name}" if ":" in path.partition("/")[0] else name
