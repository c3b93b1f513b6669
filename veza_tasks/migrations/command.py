"""The linter's own command, ``veza-lint-migrations``: as ``inv lint-migrations``, without Invoke and what it brings.

Exit codes: 0 nothing to object to (warnings allowed), 1 findings, 2 nobody can tell.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from veza_tasks.migrations import configuration
from veza_tasks.migrations.report import FORMATS, NAME, explained, listed, render, render_trouble
from veza_tasks.migrations.trouble import CannotTell

if TYPE_CHECKING:
    from veza_tasks.migrations import Verdict

CLEAN, FINDINGS, CANNOT_TELL = 0, 1, 2


def entry() -> None:
    """The console script."""
    gc.disable()  # what it reads and finds holds no cycles, and it ends soon
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has left, such as `head`: not even the interpreter's own flush may complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = CANNOT_TELL
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def main(arguments: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> int:
    """Raises ``SystemExit`` with 2 for a mistyped flag and 0 for ``--help``, as argparse does."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.list_rules or given.explain:
        return _tell_rules(parser, given)
    if given.format == "markdown":
        parser.error("--format markdown is for --list-rules")
    try:
        verdict = _verdict(given, environ)
    except CannotTell as trouble:
        write(sys.stdout, render_trouble(trouble, given.format))
        write(sys.stderr, f"cannot tell: {trouble.message}\n")
        return CANNOT_TELL
    colour = in_colour(sys.stdout, environ)
    write(sys.stdout, render(verdict, given.format, colour=colour, columns=columns(sys.stdout)))
    return FINDINGS if verdict.colour == "red" else CLEAN


def judge(
    paths: Sequence[str],
    *,
    directories: Sequence[str],
    base: str,
    against_git: bool,
    staged: bool,
    forced: bool,
    choices: configuration.Choices,
) -> Verdict:
    """Named files and folders as they stand; or, where none is named or ``against_git``, what git has for new.

    Raises ``CannotTell``.
    """
    from veza_tasks.migrations import check, check_files

    if paths and not against_git and list(paths) != ["none"]:
        stdin = sys.stdin.buffer.read() if "-" in paths else b""
        return check_files(paths, stdin=stdin, forced=forced, choices=choices)
    from pathlib import Path

    return check(
        paths or directories or ["none"],
        base=base,
        staged=staged,
        cwd=Path.cwd(),
        forced=forced,
        choices=choices,
    )


def in_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Only on a terminal, and not where NO_COLOR (no-color.org) or TERM=dumb asks for none."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int:
    """Of the terminal; 0 where there is none, and nothing is folded."""
    if not stream.isatty():
        return 0
    from shutil import get_terminal_size

    return get_terminal_size().columns


def explain(rule: str) -> str:
    """Raises ``CannotTell`` for an unknown rule, naming the nearest."""
    from veza_tasks.migrations.rules import RULES

    if rule not in RULES:
        raise CannotTell(f"--explain {configuration.unknown_rules((rule,))[0]}")
    return explained(RULES[rule], columns=columns(sys.stdout))


def _verdict(given: argparse.Namespace, environ: Mapping[str, str]) -> Verdict:
    settings = configuration.read(
        environ=environ,
        flags={
            "migrations_tool": given.tool,
            "migrations_role": given.application_role,
            "migrations_strict": given.strict,
            "migrations_base": given.base,
        },
        asks_git=bool(given.base or given.staged or not (given.file or given.path)),
    )
    if given.file and given.path:
        raise CannotTell("name files as arguments or with --path, not both")
    if "-" in (*given.path, *given.file) and (given.base or given.staged):
        raise CannotTell("standard input (-) is no file of git's: name it alone")
    return judge(
        [*given.file, *given.path],
        directories=settings.directories,
        base=settings.base,
        against_git=bool(given.base or given.staged),
        staged=given.staged,
        forced=settings.forced,
        choices=settings.choices,
    )


def _tell_rules(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from veza_tasks.migrations.rules import RULES

    try:
        if given.explain:
            write(sys.stdout, explain(given.explain))
        else:
            if given.format not in ("text", "json", "markdown"):
                parser.error("--list-rules comes as text, json or markdown")
            write(sys.stdout, listed(RULES, given.format))
    except CannotTell as trouble:
        write(sys.stderr, f"{trouble.message}\n")
        return CANNOT_TELL
    return CLEAN


class _Help(argparse.HelpFormatter):
    """Of a given width: argparse asks the terminal as soon as a flag is added, and loads what it takes to ask."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=int(columns) - 2 if columns.isdecimal() else 98)


def _parser() -> argparse.ArgumentParser:
    from veza_tasks.migrations.tools import TOOLS

    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Refuse schema migrations that the running binary cannot live with.",
        epilog="Exit status: 0 nothing to object to (warnings allowed), 1 findings, 2 cannot tell. Settings also "
        f"come from {', '.join(name.upper() for name in configuration.KNOBS)} in the environment, from fabfile.yaml "
        f"(below veza:, in lower case) and from pyproject.toml ([tool.{configuration.TABLE}]: dir, base, tool, role, "
        "rules, strict).",
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument(
        "file",
        nargs="*",
        metavar="FILE",
        help="a migration, a folder of them, or - for standard input: linted as they stand, as one release "
        "(default: what git has for new since the merge base)",
    )
    parser.add_argument("--path", action="append", default=[], help="the same as FILE; repeatable")
    parser.add_argument(
        "--base", default="", metavar="REV", help="compare with this git revision (default origin/main)"
    )
    parser.add_argument(
        "--staged", action="store_true", help="look at the index alone, as a pre-commit hook does"
    )
    parser.add_argument(
        "--tool", default="", choices=TOOLS, help="the migration tool (default auto: by name and markers)"
    )
    parser.add_argument(
        "--application-role",
        default="",
        metavar="ROLE",
        help="the running binary's database role: what is revoked from others is no break",
    )
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument(
        "--format",
        default="text",
        choices=(*FORMATS, "markdown"),
        help="default text; markdown is for --list-rules",
    )
    parser.add_argument(
        "--explain", default="", metavar="RULE", help="why a rule is there, and what to do instead"
    )
    parser.add_argument("--list-rules", action="store_true", help="every rule with its level")
    return parser


def write(stream: TextIO, words: str) -> None:
    """What the stream's encoding lacks is escaped: a report must not end in a traceback."""
    encoding = stream.encoding or "utf-8"
    stream.write(words.encode(encoding, "backslashreplace").decode(encoding))
