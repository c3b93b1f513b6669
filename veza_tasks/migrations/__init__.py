"""Runbook step 1: which migrations is this release about to bring, and can the running binary live with them?

Knows nothing of fleets. During a canary the old binary serves on the new schema: a migration that breaks a statement
which it may send is an error; locks and rewrites, which hurt and pass, are warnings.

Imports are made where they are needed: the command line answers in the time that its interpreter takes to start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from veza_tasks.migrations.configuration import Choices
from veza_tasks.migrations.trouble import CannotTell, printable

if TYPE_CHECKING:
    from pathlib import Path

    from veza_tasks.migrations.changes import Change, Changes, State
    from veza_tasks.migrations.judge import Finding, Options, Source
    from veza_tasks.migrations.suppress import Allowed

__all__ = ["CannotTell", "Choices", "Colour", "Verdict", "check", "check_files"]

Colour = Literal["green", "yellow", "red"]

DEFAULT = Choices()

EXCERPT = 300
"""Characters of a source line that are kept on each side of a finding: a line of INSERTs may be megabytes."""


class Excerpt(NamedTuple):
    """The source line of a finding, or what lies around it: ``text[start:end]`` is the finding's."""

    text: str
    start: int
    end: int
    cut_before: bool
    cut_after: bool


class Verdict(NamedTuple):
    """Green: nothing to object to. Yellow: only warnings, nothing was compared, or FORCE_MIGRATE. Red: do not release.

    ``allowed``: the findings that a comment lets pass. ``excerpts`` has the source line of every finding that has one.
    """

    colour: Colour
    summary: str
    findings: tuple[Finding, ...] = ()
    allowed: tuple[Allowed, ...] = ()
    excerpts: Mapping[Finding, Excerpt] = {}
    forced: bool = False


class _Found(NamedTuple):
    findings: list[Finding]
    allowed: list[Allowed]
    excerpts: dict[Finding, Excerpt]


def check(
    directories: Sequence[str | Path],
    *,
    base: str = "origin/main",
    staged: bool = False,
    cwd: Path,
    forced: bool = False,
    choices: Choices = DEFAULT,
) -> Verdict:
    """Judge every migration below ``directories`` that is not as it was at the merge base of ``base`` and HEAD.

    ``directories`` start at the top of the git repository around ``cwd`` or are absolute; none at all, or
    the word ``none`` alone, says that there are no migrations. HEAD, the index and the working tree count,
    or, with ``staged``, the index alone. All that is new is one release; what the base has is taken for applied.
    ``forced`` is the runbook's ``FORCE_MIGRATE=1``: it overrides findings and still lists them.

    Raises ``CannotTell``, forced or not: nobody can override what nobody has seen.
    """
    names = [str(directory) for directory in directories]
    if names in ([], ["none"]):
        return Verdict("green", "no migrations by configuration")

    from veza_tasks.migrations.changes import changes

    compared = changes(names, base=base, staged=staged, cwd=cwd)
    shown = printable(base)
    since = f"{shown} ({compared.merge_base[:12]})"
    hint = "nothing to compare; name the last release with --base TAG (or MIGRATIONS_BASE=TAG)"
    hint += f" (HEAD, {compared.merge_base[:12]}, is already part of {shown})"
    files = [file for file in compared.files if _is_migration(file)]
    if not files:
        if compared.at_head:
            return Verdict("yellow", hint)
        return Verdict("green", f"no migration is new or changed since {since}")
    for changed in compared.states.values():
        for file in changed:
            if file.kind == "conflicting":
                where = printable(file.path)
                raise CannotTell(f"{where} is in a merge conflict: resolve it first", path=file.path)
    options = choices.options()
    found = _in_states(compared, options)
    found.findings[:0] = _history(files, base=shown, options=options)
    count = "1 migration file" if len(files) == 1 else f"{len(files)} migration files"
    verdict = _verdict(f"{count} new or changed since {since}", found, forced=forced)
    if compared.at_head and verdict.colour == "green":
        return verdict._replace(colour="yellow", summary=f"{verdict.summary}; for the commits, {hint}")
    return verdict


def check_files(
    paths: Iterable[str], *, stdin: bytes = b"", forced: bool = False, choices: Choices = DEFAULT
) -> Verdict:
    """Judge files as they stand, folders with what is below them, and ``-``, which is ``stdin``, as one release.

    No git is asked, so nothing is known of what was applied before. Raises ``CannotTell``.
    """
    from veza_tasks.migrations.judge import Source
    from veza_tasks.migrations.sources import STDIN, decoded, expand, language, read_bytes

    options = choices.options()
    named = list(paths)
    sources, strangers = [], []
    for path in expand(named):
        if path == "-":
            sources.append(Source(STDIN, decoded(stdin, path=STDIN)))
        elif language(path) == "program" and path not in named:
            strangers.append(path)
        else:
            sources.append(Source(path, decoded(read_bytes(path, shown=path), path=path)))
    found = _judged(sources, (), options)
    found.findings[:0] = [finding for path in strangers for finding in _unreadable(path, "", options)]
    count = len(sources) + len(strangers)
    return _verdict("1 migration file" if count == 1 else f"{count} migration files", found, forced=forced)


def _verdict(what: str, found: _Found, *, forced: bool) -> Verdict:
    errors = sum(finding.level == "error" for finding in found.findings)
    warnings = len(found.findings) - errors
    parts = [_count(errors, "error")] if errors else []
    parts += [_count(warnings, "warning")] if warnings else []
    parts += [f"{len(found.allowed)} allowed by comment"] if found.allowed else []
    said = ", ".join(parts) or "nothing that the running binary cannot live with"
    colour: Colour = "yellow" if warnings else "green"
    if errors:
        colour = "yellow" if forced else "red"
        said += (
            "; overridden by FORCE_MIGRATE=1" if forced else "; mend them, or override with FORCE_MIGRATE=1"
        )
    return Verdict(
        colour,
        f"{what}: {said}",
        tuple(found.findings),
        tuple(found.allowed),
        found.excerpts,
        bool(errors and forced),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _judged(sources: Sequence[Source], history: Sequence[Source], options: Options) -> _Found:
    """What there is to say about one release. Raises ``CannotTell``."""
    from veza_tasks.migrations import judge
    from veza_tasks.migrations.suppress import sift

    if not sources:
        return _Found([], [], {})
    try:
        everything = judge.lint(sources, options=options, history=history)
        findings, allowed = sift(sources, everything, options=options)
    except judge.CannotTell as error:
        raise CannotTell.at(error.path, error.line, error.column, error.what) from error
    texts = {source.path: source.text for source in sources}
    shown = (*findings, *(passed.finding for passed in allowed))
    return _Found(findings, allowed, {finding: _excerpt(texts[finding.path], finding) for finding in shown})


def _excerpt(text: str, finding: Finding) -> Excerpt:
    first = finding.offset - (finding.column - 1)
    start, end = max(first, finding.offset - EXCERPT), min(len(text), finding.offset + EXCERPT)
    ends = [
        at for at in (text.find("\n", finding.offset, end), text.find("\r", finding.offset, end)) if at >= 0
    ]
    cut_after = not ends and end < len(text)
    end = min(ends, default=end)
    stop = max(min(finding.end, end), finding.offset)
    return Excerpt(text[start:end], finding.offset - start, stop - start, start > first, cut_after)


def _in_states(compared: Changes, options: Options) -> _Found:
    """Judge what is new as the working tree has it, as the index has it, and as HEAD has it, where they differ."""
    repository, merge_base = compared.repository, compared.merge_base
    applied = {
        path: blob
        for path, blob in repository.files(compared.folders, at=merge_base).items()
        if _written_in(path) == "sql"
    }
    contents = repository.contents(
        [
            *applied.values(),
            *(change.blob for state in compared.states.values() for change in state if _is_sql(change)),
        ]
    )
    history = _sources({path: contents[blob] for path, blob in applied.items()}, strict=False)
    found = _Found([], [], {})
    judged: list[Mapping[str, bytes]] = []
    told: set[tuple[str, str, str]] = set()
    for state, changed in compared.states.items():
        files = {
            change.path: contents[change.blob] if change.blob else repository.on_disk(change.path)
            for change in changed
            if _is_sql(change)
        }
        new = [] if files in judged else [_judged(_sources(files), history, options)]
        judged.append(files)
        strangers = [change for change in changed if _ships(change) and not _is_sql(change)]
        new.append(_Found([f for c in strangers for f in _unreadable(c.path, c.mode, options)], [], {}))
        for each in new:
            _add(found, each, told, state=state, first=len(judged) == 1)
    return found


def _add(found: _Found, more: _Found, told: set[tuple[str, str, str]], *, state: State, first: bool) -> None:
    """What another state has to say beyond what is told already; the state is named, for the file reads otherwise."""
    where = "" if first else f" (as {'the index' if state == 'index' else state} has it)"

    def placed(finding: Finding) -> Finding:
        return finding._replace(message=finding.message + where)

    def is_new(finding: Finding) -> bool:
        key = (finding.path, finding.rule, finding.message)
        return first or key not in told

    findings = [finding for finding in more.findings if is_new(finding)]
    allowed = [passed for passed in more.allowed if is_new(passed.finding)]
    shown = [*findings, *(passed.finding for passed in allowed)]
    found.findings.extend(placed(finding) for finding in findings)
    found.allowed.extend(passed._replace(finding=placed(passed.finding)) for passed in allowed)
    found.excerpts.update({placed(f): more.excerpts[f] for f in shown if f in more.excerpts})
    told.update((finding.path, finding.rule, finding.message) for finding in shown)


def _sources(files: Mapping[str, bytes], *, strict: bool = True) -> list[Source]:
    from veza_tasks.migrations.judge import Source
    from veza_tasks.migrations.sources import decoded

    if strict:
        return [Source(path, decoded(content, path=path)) for path, content in files.items()]
    return [Source(path, content.decode("utf-8-sig", errors="replace")) for path, content in files.items()]


def _written_in(path: str) -> str:
    from veza_tasks.migrations.sources import language

    return language(path)


def _is_migration(change: Change) -> bool:
    return bool(_written_in(change.path)) or change.mode == "160000"


def _ships(change: Change) -> bool:
    return change.kind in ("new", "edited") and _is_migration(change)


def _is_sql(change: Change) -> bool:
    from veza_tasks.migrations.changes import REGULAR

    return _ships(change) and _written_in(change.path) == "sql" and change.mode in REGULAR


def _history(files: Iterable[Change], *, base: str, options: Options) -> list[Finding]:
    from veza_tasks.migrations.tools import runs_again

    said = []
    for file in files:
        if file.kind == "renamed":
            what = f"renamed to {printable(file.new_path)}, though {base} has it: history was rewritten"
        elif file.kind == "deleted" or (
            file.kind == "edited" and not runs_again(file.path, tool=options.tool)
        ):
            what = f"{file.kind}, though {base} has it: history was rewritten"
        else:
            continue
        said += _about_file(file.path, "history-rewritten", what, options)
    return said


def _unreadable(path: str, mode: str, options: Options) -> list[Finding]:
    what = {"120000": "a symbolic link", "160000": "another repository"}.get(mode, "no plain SQL")
    return _about_file(path, "unreadable-migration", f"is {what}: nobody here can read what it does", options)


def _about_file(path: str, rule: str, said: str, options: Options) -> list[Finding]:
    from veza_tasks.migrations.judge import Finding
    from veza_tasks.migrations.rules import RULES

    level = options.level(rule)
    if level == "off":
        return []
    return [Finding(os.fspath(path), 1, 1, 1, 1, rule, level, said, RULES[rule].recipe, 0, 0)]
