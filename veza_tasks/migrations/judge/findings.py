"""What goes in and what comes out: migration files, how to judge them, and what is wrong with them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from veza_tasks.migrations.rules import RULES, Level, message


class Source(NamedTuple):
    """One migration file: its path decides on tool and order."""

    path: str
    text: str


class Finding(NamedTuple):
    """1-based line and column; the end column is exclusive. `offset` and `end` count characters from the file's start."""

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    rule: str
    level: Level
    message: str
    recipe: str
    offset: int
    end: int


class Options(NamedTuple):
    """`application_role`: the running binary's, so that what other roles lose does not matter. `levels`: by rule id."""

    tool: str = "auto"
    application_role: str = ""
    levels: Mapping[str, Literal["error", "warning", "off"]] = {}
    strict: bool = False

    def level(self, rule: str) -> Literal["error", "warning", "off"]:
        """What a finding of this rule is: as configured, else the rule's own; with `strict` no warning is left."""
        level = self.levels.get(rule, RULES[rule].level)
        return "error" if self.strict and level == "warning" else level


class CannotTell(Exception):
    """Nobody can vouch for a file that PostgreSQL itself could not read. Line and column are 1-based."""

    def __init__(self, path: str, line: int, column: int, what: str) -> None:
        super().__init__(f"{path}:{line}:{column}: {what}")
        self.path = path
        self.line = line
        self.column = column
        self.what = what

    @classmethod
    def at(cls, source: Source, offset: int, what: str) -> CannotTell:
        return cls(source.path, *_place(_line_starts(source.text), offset), what)


class Placed(Protocol):
    """What stands somewhere in a file: an action, most of the time."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class Pending(NamedTuple):
    """A finding, unless its transaction heals it or rolls it back. `about`: what is needed to see whether it does."""

    rule: str
    fields: dict[str, str]
    source: int
    start: int
    end: int
    about: Any = None
    why: str = ""  # instead of the rule's own reason
    unproven: str = ""  # what the set made, but IF NOT EXISTS


_UNPROVEN = " IF NOT EXISTS does not show that {name} is new; if it is, leave IF NOT EXISTS out."


def told(sources: Sequence[Source], found: Iterable[Pending], options: Options) -> list[Finding]:
    """The findings in the order of the files and of what stands in them."""
    findings = []
    lines: dict[int, list[int]] = {}
    for pending in sorted(found, key=lambda p: (p.source, p.start, p.end, p.rule)):
        level = options.level(pending.rule)
        if level == "off":
            continue
        path, text = sources[pending.source]
        if pending.source not in lines:
            lines[pending.source] = _line_starts(text)
        starts = lines[pending.source]
        start = min(pending.start, len(text))
        end = max(start, min(pending.end, len(text)))
        place = (*_place(starts, start), *_place(starts, end))
        why, recipe = message(pending.rule, pending.fields, pending.why)
        if pending.unproven:
            why += _UNPROVEN.format(name=pending.unproven)
        findings.append(Finding(path, *place, pending.rule, level, why, recipe, start, end))
    return findings


def _line_starts(text: str) -> list[int]:
    """Where lines start: after \\n, \\r or both, as editors count them."""
    starts = [0]
    at = 0
    if "\r" not in text:
        while (at := text.find("\n", at) + 1) > 0:
            starts.append(at)
        return starts
    for at, character in enumerate(text):
        if character == "\n" or (character == "\r" and text[at + 1 : at + 2] != "\n"):
            starts.append(at + 1)
    return starts


def _place(starts: list[int], offset: int) -> tuple[int, int]:
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1
