"""The one exception of this house, and names that are safe to print."""

from __future__ import annotations

import os


class CannotTell(Exception):
    """Nobody can say whether the migrations are harmless. The message says what, where, and what to type.

    ``path``, ``line`` and ``column`` (1-based) are set where it is one place in one file that cannot be read.
    """

    def __init__(self, message: str, *, path: str = "", line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.line = line
        self.column = column

    @classmethod
    def at(cls, path: str, line: int, column: int, what: str) -> CannotTell:
        said = f"{printable(path)}:{line}:{column}: {visible(what)}"
        return cls(said, path=path, line=line, column=column)


def printable(name: str | os.PathLike[str]) -> str:
    """A name that is safe on any terminal: as it is, or quoted, odd bytes in octal, as git does it."""
    text = os.fspath(name)
    if text.isprintable() and not {'"', "\\"} & set(text):
        return text
    return '"' + "".join(_octal(c) if c in '"\\' else visible(c) for c in text) + '"'


def visible(text: str) -> str:
    """The text with every character that a terminal might act upon in octal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _octal(c) for c in text)


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
