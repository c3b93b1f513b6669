"""The artifact: a local binary, looked at once and known by its sha256 from then on. Source: elf(5)."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from veza_tasks.adapters.node import BINARY
from veza_tasks.errors import Refused

# e_machine → the name that Incus gives the architecture.
ARCHITECTURES = {
    3: "i686",
    21: "ppc64le",
    22: "s390x",
    40: "armv7l",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
}
EXECUTABLE_TYPES = (2, 3)
LOADED, EXECUTABLE = 1, 1


@dataclass(frozen=True)
class Release:
    """A binary as the nodes know it: its sha256 and, where known, its version."""

    digest: str
    version: str = "unknown"

    def __str__(self) -> str:
        return f"{self.version} ({self.digest[:12]})"


@dataclass(frozen=True)
class Artifact:
    """A local binary; ``size`` in bytes, ``architecture`` in Incus's words (``x86_64``)."""

    path: Path
    size: int
    architecture: str
    release: Release


def read_artifact(path: Path, *, sha256: str | None = None) -> Artifact:
    """Look at a local binary; ``sha256`` pins what was signed off.

    Raises:
        Refused: it is missing, not an executable for Linux, cut short, or not what was signed off.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            architecture = _architecture(file.read(1 << 16), size)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise Refused(f"{path}: {error}") from None
    except (struct.error, IndexError, OverflowError):
        raise Refused(f"{path}: cut short, or not what its header says") from None
    if sha256 and digest != sha256.lower():
        raise Refused(f"{path}: sha256 is {digest}, signed off was {sha256.lower()}")
    return Artifact(path, size, architecture, Release(digest, version_of(path.name)))


def version_of(name: str) -> str:
    """The version in a file name such as ``veza-api-v1.0.10``; ``unknown`` where there is none."""
    match = re.fullmatch(rf"{re.escape(BINARY)}-([A-Za-z0-9][A-Za-z0-9._+-]{{0,63}})", name)
    return match[1] if match else "unknown"


def _architecture(head: bytes, size: int) -> str:
    if head[:4] != b"\x7fELF":
        raise ValueError("not an ELF executable (a script or an archive cannot be released)")
    wide, little = head[4] == 2, head[5] == 1
    order = "<" if little else ">"
    kind, machine = struct.unpack_from(f"{order}HH", head, 16)
    entry, table, sections = struct.unpack_from(f"{order}QQQ" if wide else f"{order}III", head, 24)
    entry_size, entries, section_size, section_count = struct.unpack_from(
        f"{order}HHHH", head, 54 if wide else 42
    )
    if kind not in EXECUTABLE_TYPES or not entry:
        raise ValueError("an ELF file, but not a program (a library or an object file?)")
    if sections + section_size * section_count > size:
        raise ValueError(
            f"cut short: {size} bytes, but its section table ends at {sections + section_size * section_count}"
        )
    executable = False
    for number in range(entries):
        at = table + number * entry_size
        if wide:
            segment, flags, offset, _, _, filled = struct.unpack_from(f"{order}IIQQQQ", head, at)
        else:
            segment, offset, _, _, filled, _, flags = struct.unpack_from(f"{order}IIIIIII", head, at)
        if offset + filled > size:
            raise ValueError(f"cut short: {size} bytes, but a segment ends at {offset + filled}")
        executable |= segment == LOADED and bool(flags & EXECUTABLE)
    if not executable:
        raise ValueError("an ELF file without executable code")
    if machine not in ARCHITECTURES:
        raise ValueError(f"an ELF program for an architecture we do not know (e_machine {machine})")
    return ARCHITECTURES[machine]
