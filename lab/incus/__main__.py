"""The command line of `lab.incus`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lab import command_line
from lab.incus import down, fleets, status, up


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.main(
        arguments,
        prog="python -m lab.incus",
        description="A disposable fleet on real Incus.",
        name="lab",
        where="machine",
        up=lambda given: up(given.name, nodes=given.nodes),
        down=down,
        fleets=fleets,
        status=status,
    )


if __name__ == "__main__":
    sys.exit(main())
