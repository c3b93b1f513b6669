"""Lab artifacts: real ELF binaries of any size, made without a compiler.

An artifact is a copy of a Python interpreter, padding, and a zip at the very end that holds `lab/backend.py`
with version and faults baked in. The interpreter runs the zip that is appended to itself (zip files are read
from their end: `zipimport`, Python manual), so `/proc/PID/exe` is the artifact, exactly as with a compiled
backend.

    python -m lab.artifacts DIR [--interpreter P] [--size-mib N]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import struct
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1024 * 1024
DEFAULT_SIZE = 40 * MIB  # a typical stripped Go backend
AARCH64 = 183  # ELF e_machine, <elf.h> EM_AARCH64

_BACKEND = Path(__file__).with_name("backend.py")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's oldest date: the bytes must not depend on the day of the build


@dataclass(frozen=True)
class Variant:
    """How a release behaves; the fields are the keyword arguments of `lab.backend.main`.

    `boot_seconds` is the wait before it listens, on top of the interpreter's own start (0.03 to 0.05 s).
    `error_every` and `slow_every` count user requests: every how many-th fails, or takes 0.9 to 1.0 s.
    """

    name: str
    health_status: int = 200
    error_every: int = 0
    slow_every: int = 0
    boot_seconds: float = 0.1
    crash: bool = False


GOOD = Variant("good")
HEALTH_500 = Variant("health-500", health_status=500)
ERRORS_20 = Variant("errors-20", error_every=5)
SLOW_P95 = Variant("slow-p95", slow_every=10)
CRASH = Variant("crash", crash=True)
SLOW_BOOT = Variant("slow-boot", boot_seconds=3.0)

RELEASES: dict[str, Variant] = {
    "v1.0.8": GOOD,
    "v1.0.9": GOOD,
    "v1.0.10": GOOD,
    "v1.0.11": HEALTH_500,
    "v1.0.12": ERRORS_20,
    "v1.0.13": SLOW_P95,
    "v1.0.14": CRASH,
    "v1.0.15": SLOW_BOOT,
    "v1.0.16": GOOD,
}


def start_command(path: Path | str) -> list[str]:
    """The command line that starts an installed artifact; for `ExecStart=` join it with spaces.

    No `-I` and no `-E`: local processes need `PYTHONHOME`. `-S -s -P` keep site packages and the working
    directory out.
    """
    return [str(path), "-S", "-s", "-P", str(path)]


def start_environment() -> dict[str, str]:
    """What an artifact made from this very interpreter needs in its environment, wherever the artifact lies.

    A copied interpreter cannot find its library by its own location. Not needed where the interpreter belongs
    to the distribution (`/usr/bin/python3.11` falls back to `/usr`).
    """
    return {"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": os.path.join(sys.base_prefix, "lib")}


def build(
    variant: Variant,
    version: str,
    directory: Path,
    *,
    interpreter: Path,
    size: int = DEFAULT_SIZE,
) -> Path:
    """Write `directory/veza-api-<version>`, mode 0755; the same inputs give the same bytes.

    `interpreter`: a CPython 3.11 or later, as the nodes have it (links are followed). `size`: bytes; an
    interpreter that does not fit makes the artifact larger. Raises `ValueError` when the interpreter is not
    an ELF file, `OSError` when files cannot be read or written.
    """
    program = _elf(interpreter.resolve())
    archive = _archive(variant, version)
    padding = max(0, size - len(program) - len(archive))
    # Expanded from a hash: incompressible, the same everywhere, different for each release.
    filler = hashlib.shake_128(f"{version} {variant}".encode()).digest(padding)
    directory.mkdir(parents=True, exist_ok=True)
    return _write(directory / f"veza-api-{version}", program, filler, archive)


def build_all(directory: Path, *, interpreter: Path, size: int = DEFAULT_SIZE) -> dict[str, Path]:
    """Every release of `RELEASES`, by version. Errors as `build`."""
    return {
        version: build(variant, version, directory, interpreter=interpreter, size=size)
        for version, variant in RELEASES.items()
    }


def with_machine(path: Path, e_machine: int, out: Path) -> Path:
    """Copy an artifact to `out` as if compiled for another architecture.

    `e_machine`: a number of <elf.h>, such as `AARCH64`. Raises `ValueError` when `path` is not an ELF file.
    """
    program = _elf(path)
    machine = struct.pack("<H" if program[5] == 1 else ">H", e_machine)  # e_ident[EI_DATA]: 1 = little-endian
    return _write(out, program[:18], machine, program[20:])


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _elf(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:4] != b"\x7fELF":
        raise ValueError(f"{path} is not an ELF binary; name the interpreter itself, not a wrapper script")
    return content


def _archive(variant: Variant, version: str) -> bytes:
    arguments = asdict(variant) | {"version": version}
    del arguments["name"]
    start = f"import sys\n\nimport backend\n\nsys.exit(backend.main(**{arguments!r}))\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, not deflated: nothing to unpack at start
        for name, text in (("__main__.py", start), ("backend.py", _BACKEND.read_text(encoding="utf-8"))):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return buffer.getvalue()


def _write(path: Path, *parts: bytes) -> Path:
    # A rename, because the old file of that name may be running (ETXTBSY) or being uploaded.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            for part in parts:
                file.write(part)
        new.chmod(0o755)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.artifacts", description="Build every lab release.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument(
        "--interpreter",
        type=Path,
        default=Path(sys.executable),
        metavar="P",
        help="the nodes' Python interpreter (default: this one)",
    )
    parser.add_argument(
        "--size-mib",
        type=int,
        default=DEFAULT_SIZE // MIB,
        metavar="N",
        help="size of each artifact in MiB (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    built = build_all(given.directory, interpreter=given.interpreter, size=given.size_mib * MIB)
    for version, path in built.items():
        print(f"{path.name:<18} {RELEASES[version].name:<11} {sha256(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
