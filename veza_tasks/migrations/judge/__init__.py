"""What the old binary meets at the end of each transaction of a set of migrations.

The statements of a release are carried out, in the tool's order, on what is known of the schema. A break that the same
transaction heals (drop and create again, rename and a view of the old name) is none; one that a later transaction heals
still was one; what is rolled back never happened. What was made in the set is unknown to the old binary: anything may be
done to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from veza_tasks.migrations.actions import Action, Transaction, Unbounded, Unknown
from veza_tasks.migrations.dynamic import Unresolved
from veza_tasks.migrations.grammar import actions
from veza_tasks.migrations.judge.findings import CannotTell, Finding, Options, Source, told
from veza_tasks.migrations.judge.handlers import HANDLERS
from veza_tasks.migrations.judge.session import commit, unknown
from veza_tasks.migrations.judge.state import State
from veza_tasks.migrations.lexer import Unreadable, statements
from veza_tasks.migrations.tools import Part, deployed, in_order

__all__ = ["CannotTell", "Finding", "Options", "Source", "lint"]

Acts = Sequence[Action]
"""What one statement does."""

_KEPT = 10_000
"""Actions that are kept when a part is read ahead; one with more is read again, if it may not be one transaction."""

_MAY_STAND_ALONE = r"concurrently|vacuum|reindex|database|tablespace|subscription|system|begin|start"
"""A word of each statement that no transaction block takes, and of those that open one."""


def lint(
    sources: Sequence[Source], *, options: Options | None = None, history: Sequence[Source] = ()
) -> list[Finding]:
    """What is wrong with the migrations of one release, in the order in which the tool runs them.

    `history`, the migrations that were applied before, only tells what the named things are; it is never found fault with.
    Raises CannotTell.
    """
    state = State(options or Options())
    before, new = (list(_ordered(files, state.options.tool)) for files in (history, sources))
    if before:
        _learn(state, before)
    for source in new:
        _file(state, source)
    return told(state.sources, state.found.values(), state.options)


def _ordered(sources: Sequence[Source], tool: str) -> Iterator[Source]:
    if len(sources) < 2:
        yield from sources
        return
    named: dict[str, list[Source]] = {}
    for source in sources:
        named.setdefault(source.path, []).append(source)
    for path in in_order(named, tool=tool):
        yield from named[path]


def _learn(state: State, history: Sequence[Source]) -> None:
    state.learning = True
    for source in history:
        try:
            _file(state, source)
        except CannotTell:
            state.schema.undo(0)
    state.schema.now_old()
    state.learning = False


def _file(state: State, source: Source) -> None:
    state.sources.append(source)
    here = len(state.sources) - 1
    state.lock_timeout = {}
    state.locking = []
    for part in deployed(source.path, source.text, tool=state.options.tool):
        state.source = here
        try:
            _part(state, source.text, part)
        except Unreadable as error:
            raise state.cannot_tell(error.offset, error.what) from error
    state.source = here
    state.schema.path.clear()
    state.schema.forget_temporary(at_commit=False)
    state.settle_lock_timeout(here)


def _part(state: State, text: str, part: Part) -> None:
    rest = _read(text, part)
    if part.transaction is not None:
        _run(state, rest, block=part.transaction)
        return
    kept: list[Acts] = []
    block = _is_one_transaction(rest, kept, text)
    _run(state, chain(kept, rest) if kept else _read(text, part), block=block)


def _read(text: str, part: Part) -> Iterator[Acts]:
    for statement in statements(text, start=part.start, end=part.end):
        yield tuple(actions(statement))


def _is_one_transaction(rest: Iterator[Acts], kept: list[Acts], text: str) -> bool:
    """Whether nothing in a part has to stand outside of a transaction. What was read is kept, or nothing if it is too much."""
    count = 0
    for number, acts in enumerate(rest):
        count += len(acts)
        if count <= _KEPT:
            kept.append(acts)
        elif kept:
            if not re.search(_MAY_STAND_ALONE, text, re.IGNORECASE):
                kept.append(acts)
                return True
            kept.clear()
        for act in acts:
            if isinstance(act, Unbounded) or (
                number and isinstance(act, Transaction) and act.verb == "begin"
            ):
                return False
            if isinstance(act, Transaction) and act.verb in ("begin", "commit", "rollback"):
                return True
    return True


def _run(state: State, read: Iterable[Acts], *, block: bool) -> None:
    """Carries out statement after statement, and all that they run."""
    state.in_block = block
    state.savepoints.clear()
    state.running.clear()
    for acts in read:
        for act in acts:
            HANDLERS[type(act)](state, act)
        if state.running:
            _run_others(state)
        if not state.in_block:
            commit(state)
    commit(state)
    state.in_block = False


def _run_others(state: State) -> None:
    """What a statement runs, what that runs, and so on."""
    running = state.running
    while running:
        inner, source = running[-1]
        found = next(inner, None)
        if found is None:
            running.pop()
            continue
        again, state.source = state.source, source
        if isinstance(found, Unresolved):
            unknown(state, Unknown(found.offset, found.offset + 1, found.what, dynamic=True))
        else:
            for act in actions(found):
                HANDLERS[type(act)](state, act)
        state.source = again
