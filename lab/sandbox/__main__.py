"""The command line of `lab.sandbox`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lab.sandbox import STAND_INS, LabError, down, fleets, status, up


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.sandbox", description="A disposable fleet of local processes."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    raising = commands.add_parser("up", help="raise a fleet, or repair one")
    raising.add_argument("--nodes", type=int, metavar="N", help="backends (default: as it is, else 2)")
    raising.add_argument(
        "--stand-in",
        action="append",
        default=[],
        choices=STAND_INS,
        help="use the stand-in even where the real program is installed",
    )
    lowering = commands.add_parser("down", help="remove a fleet and all it made")
    for command in (raising, lowering):
        command.add_argument("--name", default="sandbox", help="which fleet (default: %(default)s)")
    commands.add_parser(
        "status", help="every fleet of this checkout, part by part; ends with 1 unless all serve"
    )
    given = parser.parse_args(arguments)
    try:
        if given.command == "up":
            up(given.name, nodes=given.nodes, stand_ins=given.stand_in)
        elif given.command == "down":
            down(given.name)
        else:
            return _status()
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _status() -> int:
    found = fleets()
    if not found:
        print("no fleet")
        return 1
    serving = True
    for fleet in found:
        print(f"{fleet.name}  {fleet.directory}")
        for part, state in status(fleet).items():
            print(f"  {part:<15} {state}")
            serving = serving and state.startswith("ok")
    return 0 if serving else 1


if __name__ == "__main__":
    sys.exit(main())
