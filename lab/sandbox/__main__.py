"""The command line of `lab.sandbox`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lab import command_line
from lab.sandbox import STAND_INS, down, fleets, status, up


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.main(
        arguments,
        prog="python -m lab.sandbox",
        description="A disposable fleet of local processes.",
        name="sandbox",
        where="checkout",
        up=lambda given: up(given.name, nodes=given.nodes, stand_ins=given.stand_in),
        down=down,
        fleets=fleets,
        status=status,
        stand_ins=STAND_INS,
    )


if __name__ == "__main__":
    sys.exit(main())
