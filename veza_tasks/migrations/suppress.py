"""Comments that let a finding pass: ``-- veza-lint: allow drop-column, rename-table because the binary never reads them``.

The comment stands above the statement, inside it, or behind it on its last line, and holds for that statement alone.
Rules and reason are both mandatory. One that says something else, or allows what does not happen, is a finding itself.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Container, Sequence
from itertools import takewhile
from typing import NamedTuple

from veza_tasks.migrations.judge import Finding, Options, Source
from veza_tasks.migrations.lexer import Comment, statements
from veza_tasks.migrations.rules import RULES
from veza_tasks.migrations.tools import deployed, in_order

MARK = "veza-lint"
"""What a comment for the linter begins with."""

NEVER_ALLOWED = frozenset(
    {"bad-suppression", "unused-suppression", "history-rewritten", "unreadable-migration"}
)
"""Rules about comments and files, which no comment on a statement can let pass."""

NOWHERE = (0, 0)
_LINE_END = re.compile(r"[\n\r]")
_FORM = re.compile(
    rf"{MARK}\s*:\s*allow\s+(?P<rules>[\w-]+(?:\s*,\s*[\w-]+)*)\s+because\b[\s:]*(?P<reason>.*\w.*)",
    re.DOTALL | re.IGNORECASE,
)
_SHAPE = f"-- {MARK}: allow RULE, RULE because REASON"


class Allowed(NamedTuple):
    """A finding that a comment lets pass, and why."""

    finding: Finding
    reason: str


class _Comment(NamedTuple):
    """A comment for us; it holds from ``start`` to ``end``, which is nowhere if there is no statement."""

    comment: Comment
    start: int
    end: int
    rules: tuple[str, ...]
    reason: str
    wrong: str


def sift(
    sources: Sequence[Source], findings: Sequence[Finding], *, options: Options
) -> tuple[list[Finding], list[Allowed]]:
    """What stays of the findings, those about the comments themselves included, and what comments let pass."""
    comments = {
        source.path: _comments(source, options) for source in sources if _may_speak_to_us(source.text)
    }
    if not any(comments.values()):
        return list(findings), []
    starts = {path: [held.start for held in helds] for path, helds in comments.items()}
    used: set[tuple[str, int, str]] = set()
    stay, allowed = [], []
    for finding in findings:
        helds = comments.get(finding.path, [])
        # Spans are those of statements, in order: equal or disjoint.
        at = bisect_right(starts.get(finding.path, []), finding.offset)
        over = takewhile(lambda held, finding=finding: finding.offset < held.end, reversed(helds[:at]))  # type: ignore[misc]
        fitting = [held for held in over if finding.rule in held.rules]
        if fitting:
            used.add((finding.path, fitting[-1].comment.offset, finding.rule))
            allowed.append(Allowed(finding, fitting[-1].reason))
        else:
            stay.append(finding)
    for source in sources:
        place = _counting(source.text)
        for held in sorted(comments.get(source.path, []), key=lambda held: held.comment.offset):
            unused = [rule for rule in held.rules if (source.path, held.comment.offset, rule) not in used]
            unused = [rule for rule in unused if options.levels.get(rule) != "off"]
            span = (*place(held.comment.offset), *place(held.comment.end))
            if held.wrong:
                stay += _about(source.path, held.comment, span, "bad-suppression", held.wrong, options)
            elif unused:
                where = "this statement does not do that" if held.end else "no statement follows"
                said = f"nothing to allow for {', '.join(unused)}: {where}"
                stay += _about(source.path, held.comment, span, "unused-suppression", said, options)
    order = {
        path: number
        for number, path in enumerate(in_order({source.path for source in sources}, tool=options.tool))
    }
    return sorted(stay, key=lambda finding: (order[finding.path], finding.offset)), allowed


def _may_speak_to_us(text: str) -> bool:
    """Whether it is worth to read the comments at all; a spelling that this misses lets nothing pass."""
    return "eza-lint" in text or "EZA-LINT" in text or "eza-Lint" in text


def _comments(source: Source, options: Options) -> list[_Comment]:
    """Those of the parts that a deploy runs: what stands in a down part lets nothing pass and hurts nobody."""
    found = []
    for part in deployed(source.path, source.text, tool=options.tool):
        comments: list[Comment] = []
        spans = [
            (statement.start, statement.end)
            for statement in statements(source.text, start=part.start, end=part.end, comments=comments)
        ]
        ours = [comment for comment in comments if _said(comment).lower().startswith(MARK)]
        at = 0
        for comment in ours:
            while at < len(spans) and spans[at][1] <= comment.offset:
                at += 1
            start, end = _span(source.text, comment, spans, at)
            # Where no statement follows, the start keeps the order and the end holds nothing.
            found.append(_Comment(comment, start if end else part.end, end, *_read(comment, RULES)))
    return found


def _span(text: str, comment: Comment, spans: Sequence[tuple[int, int]], at: int) -> tuple[int, int]:
    """The statement that the comment is about; ``spans[at]`` is the first that does not end before it."""
    if at and not _LINE_END.search(text, spans[at - 1][1], comment.offset):
        another_follows = at < len(spans) and not _LINE_END.search(text, comment.end, spans[at][0])
        return spans[at] if another_follows else spans[at - 1]
    return spans[at] if at < len(spans) else NOWHERE


def _said(comment: Comment) -> str:
    """A comment's words, without what makes it a comment."""
    if comment.text.startswith("--"):
        return comment.text.lstrip("-").strip()
    return re.sub(r"\s*\n[\s*]*", " ", comment.text[2:-2].strip("* \t\r\n"))


def _read(comment: Comment, known: Container[str]) -> tuple[tuple[str, ...], str, str]:
    """Rules, reason, and what is wrong with it if anything."""
    form = _FORM.fullmatch(_said(comment))
    if form is None:
        return (), "", f"a comment for the linter reads `{_SHAPE}`, with at least one rule and a reason"
    rules = tuple(dict.fromkeys(re.split(r"\s*,\s*", form["rules"].lower())))
    for rule in rules:
        if rule not in known:
            return (), "", f"there is no rule {rule}"
        if rule in NEVER_ALLOWED:
            return (), "", f"{rule} is about files and comments: no comment lets it pass"
    return rules, " ".join(form["reason"].split()), ""


def _about(
    path: str, comment: Comment, span: tuple[int, int, int, int], rule: str, said: str, options: Options
) -> list[Finding]:
    level = options.level(rule)
    if level == "off":
        return []
    line, column, end_line, end_column = span
    return [
        Finding(
            path=path,
            line=line,
            column=column,
            end_line=end_line,
            end_column=end_column,
            rule=rule,
            level=level,
            message=said,
            recipe=RULES[rule].recipe,
            offset=comment.offset,
            end=comment.end,
        )
    ]


def _counting(text: str) -> Callable[[int], tuple[int, int]]:
    """Line and column of offsets that never go back, so that every line is counted once; \\n, \\r or both end one."""
    line, start, last = 1, 0, 0

    def place(offset: int) -> tuple[int, int]:
        nonlocal line, start, last
        between = text[last:offset]
        line += between.count("\n") + between.count("\r") - between.count("\r\n")
        if (end := max(between.rfind("\n"), between.rfind("\r"))) >= 0:
            start = last + end + 1
        last = offset
        return line, offset - start + 1

    return place
