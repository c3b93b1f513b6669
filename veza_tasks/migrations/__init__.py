"""Runbook step 1: which migrations is this release about to bring, and can the running binary live with them?

Knows nothing of fleets. There are no rules yet, and this says so: whatever is new is refused as not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veza_tasks.migrations.changes import CannotTell, Change, changes, printable

__all__ = ["CannotTell", "Colour", "Finding", "Verdict", "check"]

Colour = Literal["green", "yellow", "red"]


@dataclass(frozen=True)
class Finding:
    """Why a file is not vouched for.

    ``path`` starts at the repository's top and is safe to print: an awkward name is quoted as git does it.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Green: nothing new. Yellow: nothing was compared, or findings are overridden. Red: do not release."""

    colour: Colour
    summary: str
    findings: tuple[Finding, ...] = ()


def check(
    directories: Sequence[str | Path],
    *,
    base: str = "origin/main",
    staged: bool = False,
    cwd: Path,
    forced: bool = False,
) -> Verdict:
    """Judge every file below ``directories`` that is not as it was at the merge base of ``base`` and HEAD.

    ``directories`` start at the top of the git repository around ``cwd`` or are absolute; none at all, or
    the word ``none`` alone, says that there are no migrations. HEAD, the index and the working tree count,
    or, with ``staged``, the index alone. ``forced`` is the runbook's ``FORCE_MIGRATE=1``: it overrides
    findings and still lists them.

    Raises ``CannotTell``, forced or not: nobody can override what nobody has seen.
    """
    names = [str(directory) for directory in directories]
    if names in ([], ["none"]):
        return Verdict("green", "no migrations by configuration")
    compared = changes(names, base=base, staged=staged, cwd=cwd)
    shown = printable(base)
    since = f"{shown} ({compared.merge_base[:12]})"
    if not compared.files:
        if compared.at_head:
            hint = "nothing to compare; name the last release with --base TAG (or MIGRATIONS_BASE=TAG)"
            return Verdict("yellow", f"{hint} (HEAD, {compared.merge_base[:12]}, is already part of {shown})")
        return Verdict("green", f"no migration is new or changed since {since}")
    findings = tuple(Finding(printable(file.path), _reason(file, base=shown)) for file in compared.files)
    files = "1 migration file" if len(findings) == 1 else f"{len(findings)} migration files"
    summary = f"{files} new or changed since {since} and not checked"
    if forced:
        return Verdict("yellow", f"{summary}; overridden by FORCE_MIGRATE=1", findings)
    return Verdict("red", f"{summary}; read them, then override with FORCE_MIGRATE=1", findings)


def _reason(change: Change, *, base: str) -> str:
    match change.kind:
        case "new":
            return f"not checked: new since {base}"
        case "renamed":
            return f"renamed to {printable(change.new_path)}, though {base} has it: history was rewritten"
        case "edited" | "deleted":
            return f"{change.kind}, though {base} has it: history was rewritten"
        case "conflicting":
            return "not checked: in a merge conflict"
