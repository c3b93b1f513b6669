"""From the text of migrations to what their statements do, in two processes when there are many.

Reading takes most of the time, and what one file says does not depend on another: a second process reads the last files of
a large set while the first one judges those before. What comes out is the same, in the same order.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from veza_tasks.migrations.actions import Action
from veza_tasks.migrations.grammar import actions
from veza_tasks.migrations.judge.findings import Source
from veza_tasks.migrations.lexer import Unreadable, statements
from veza_tasks.migrations.tools import Part, deployed

Acts = Sequence[Action]
"""What one statement does."""

FEWEST_FILES, FEWEST_CHARACTERS = 200, 150_000
"""From which on a second process pays: it takes some 30 ms to start it and to take over what it has read."""
MOST_CHARACTERS = 4_000_000
"""That the second process reads: it has to hold what they say."""
SHARE = 0.46
"""Of all characters that the second process reads: the first one judges, too."""
_NEW = tuple.__new__


class Section(NamedTuple):
    """A part of a file that a deploy runs, and its ``transaction`` as ``Part`` has it.

    ``read`` starts from the beginning at every call; what it gives raises ``Unreadable`` where the text is.
    """

    transaction: bool | None
    read: Callable[[], Iterator[Acts]]


@contextmanager
def sections_of_each(sources: Sequence[Source], tool: str) -> Iterator[Iterator[Iterable[Section]]]:
    """The sections of each file, in the files' order."""
    share = _share(sources)
    if not share:
        yield (_sections(source, tool) for source in sources)
        return
    mine, others = sources[:-share], sources[-share:]
    second = _Second(others, tool)

    def each() -> Iterator[Iterable[Section]]:
        yield from (_sections(source, tool) for source in mine)
        yield from second.answer() or (_sections(source, tool) for source in others)

    try:
        yield each()
    finally:
        second.end()


def _sections(source: Source, tool: str) -> Iterator[Section]:
    for part in deployed(source.path, source.text, tool=tool):
        yield Section(part.transaction, partial(_read, source.text, part))


def _read(text: str, part: Part) -> Iterator[Acts]:
    for statement in statements(text, start=part.start, end=part.end):
        yield tuple(actions(statement))


def _share(sources: Sequence[Source]) -> int:
    """How many of the last files a second process should read."""
    size = sum(len(source.text) for source in sources)
    if len(sources) < FEWEST_FILES or size < FEWEST_CHARACTERS or not _may_fork():
        return 0
    left = min(size * SHARE, MOST_CHARACTERS)
    for count, source in enumerate(reversed(sources)):
        left -= len(source.text)
        if left < 0:
            return count
    return 0


def _may_fork() -> bool:
    """Not with threads: one of them may hold a lock, which nobody would release in the second process."""
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return False
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (processors or 1) > 1


class _Second:
    """A second process, which reads files and says what is in them."""

    def __init__(self, sources: Sequence[Source], tool: str) -> None:
        readable, writable = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _tell(sources, tool, writable)
        os.close(writable)
        self.pipe = os.fdopen(readable, "rb")

    def answer(self) -> list[list[Section]]:
        """Nothing if anything went wrong there: who reads the files anew will see what."""
        import pickle

        told = self.pipe.read()
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        if status:
            return []
        return [[Section(how, partial(_again, *read)) for how, *read in file] for file in pickle.loads(told)]

    def end(self) -> None:
        self.pipe.close()
        if self.pid:
            import signal

            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _tell(sources: Sequence[Source], tool: str, pipe: int) -> None:
    """Ends the process, whatever happens: what called for it goes on in the first one."""
    status = 1
    try:
        import pickle

        class Pickler(pickle.Pickler):
            def reducer_override(self, found: object) -> Any:
                """Named tuples are made again by tuple's own constructor: theirs takes five times as long."""
                return (_NEW, (type(found), tuple(found))) if isinstance(found, tuple) else NotImplemented

        read = [[_all_of(section) for section in _sections(source, tool)] for source in sources]
        with os.fdopen(pipe, "wb") as file:
            Pickler(file, pickle.HIGHEST_PROTOCOL).dump(read)
        status = 0
    finally:
        os._exit(status)


_Read = tuple[bool | None, list[Acts], tuple[int, str] | None]
"""A section's transaction, what its statements do, and where and why it cannot be read any further."""


def _all_of(section: Section) -> _Read:
    found: list[Acts] = []
    try:
        found.extend(section.read())
    except Unreadable as error:
        return section.transaction, found, (error.offset, error.what)
    return section.transaction, found, None


def _again(found: list[Acts], unreadable: tuple[int, str] | None) -> Iterator[Acts]:
    yield from found
    if unreadable:
        raise Unreadable(*unreadable)
