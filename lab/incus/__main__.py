"""The command line of `lab.incus`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lab.incus import LabError, down, fleets, status, up


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.incus", description="A disposable fleet on real Incus."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    raising = commands.add_parser("up", help="raise a fleet, or repair one")
    raising.add_argument("--nodes", type=int, metavar="N", help="backends (default: as it is, else 2)")
    lowering = commands.add_parser("down", help="remove a fleet and all it made")
    for command in (raising, lowering):
        command.add_argument("--name", default="lab", help="which fleet (default: %(default)s)")
    commands.add_parser(
        "status", help="every fleet of this machine, part by part; ends with 1 unless all serve"
    )
    given = parser.parse_args(arguments)
    try:
        if given.command == "up":
            up(given.name, nodes=given.nodes)
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
