"""Which files are migrations, and their text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal

from veza_tasks.migrations.trouble import CannotTell, printable

STDIN = "<stdin>"
"""The path of what comes from standard input, asked for as ``-``."""

_SQL = re.compile(r"\.(sql|psql|pgsql|ddl)$", re.IGNORECASE)
_TEMPLATE = re.compile(r"\.(sql|psql|pgsql|ddl)\.\w+$|\.(sql|psql|pgsql|ddl)(j2|tmpl)$", re.IGNORECASE)
_PROGRAM = re.compile(
    r"\.(py|go|rb|js|mjs|cjs|ts|mts|cts|php|java|kt|kts|scala|groovy|clj|ex|exs|cs|fs|pl|sh|bash|rs|xml|ya?ml)$",
    re.IGNORECASE,
)
_VERSIONED = re.compile(
    r"([VRUB]?[0-9]|R__|Version[0-9]|[0-9a-f]{10,}_|m_?[0-9]{6})|.*changelog", re.IGNORECASE
)
"""How the names of migrations begin in Flyway, Alembic, Django, Rails, Knex, Doctrine, Yii, Ecto; and Liquibase's."""
_NO_MIGRATION = re.compile(r"\.sql\.(conf|bak|orig|rej|swp|md|txt)$", re.IGNORECASE)

Language = Literal["sql", "program", ""]


def language(path: str) -> Language:
    """What a migration is written in: SQL, a program that nobody here reads, or nothing: it is none.

    A program counts as a migration when its name bears a version, so that ``embed.go`` and ``README.md`` do not.
    """
    name = os.path.basename(path)
    if _SQL.search(name):
        return "sql"
    if _TEMPLATE.search(name) and not _NO_MIGRATION.search(name):
        return "program"
    return "program" if _PROGRAM.search(name) and _VERSIONED.match(name) and "_test." not in name else ""


def expand(paths: Iterable[str]) -> Iterator[str]:
    """Files as they are named, folders as the migrations below them. Each file once.

    Raises ``CannotTell`` for a folder without any, or one that cannot be read.
    """
    seen: set[str] = set()
    real_folder = cache(os.path.realpath)  # which most files have in common

    def real(file: str) -> str:
        folder, name = os.path.split(file)
        return os.path.realpath(file) if os.path.islink(file) else os.path.join(real_folder(folder), name)

    for path in paths:
        found = [path]
        if path != "-" and os.path.isdir(path):
            found = sorted(_below(path))
            if not found:
                raise CannotTell(f"{printable(path)}: no migration in this folder: name the files", path=path)
        for file in found:
            place = file if file == "-" else real(file)
            if place not in seen:
                seen.add(place)
                yield file


def _below(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        where = os.fsdecode(error.filename or folder)
        raise CannotTell(f"{printable(where)}: cannot be read: {error.strerror}", path=where) from error

    for holder, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if name != ".git")
        yield from (os.path.join(holder, name) for name in names if language(name))


def read_bytes(path: str | os.PathLike[str], *, shown: str) -> bytes:
    """Raises ``CannotTell``."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotTell(f"{printable(shown)}: cannot be read: {reason}", path=shown) from error


def decoded(content: bytes, *, path: str) -> str:
    """The text, without a byte order mark. Raises ``CannotTell`` where it is no UTF-8, or holds a NUL."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text: byte 0x{content[error.start]:02x}: save it as UTF-8"
        raise _at(path, content, error.start, what) from error
    if "\0" in text:
        what = "a NUL byte, which PostgreSQL does not take: save it as UTF-8"
        raise _at(path, content, content.index(b"\0"), what)
    return text


def _at(path: str, content: bytes, offset: int, what: str) -> CannotTell:
    start = content.rfind(b"\n", 0, offset) + 1
    column = len(content[start:offset].decode("utf-8", errors="replace")) + 1
    return CannotTell.at(path, content.count(b"\n", 0, offset) + 1, column, what)
