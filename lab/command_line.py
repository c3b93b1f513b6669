"""The command line that `python -m lab.sandbox` and `python -m lab.incus` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from lab.incus.host import LabError


class Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def directory(self) -> Path: ...


F = TypeVar("F", bound=Named)


def main(
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    name: str,
    where: str,
    up: Callable[[argparse.Namespace], object],
    down: Callable[[str], object],
    fleets: Callable[[], Sequence[F]],
    status: Callable[[F], Mapping[str, str]],
    stand_ins: Sequence[str] = (),
) -> int:
    """Raise, lower and show disposable fleets. `name`: of a fleet that is given none. `where`: what `fleets` looks
    through. `stand_ins`: which programs can be replaced by one. Gives the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    raising = commands.add_parser("up", help="raise a fleet, or repair one")
    raising.add_argument("--nodes", type=int, metavar="N", help="backends (default: as it is, else 2)")
    if stand_ins:
        raising.add_argument(
            "--stand-in",
            action="append",
            default=[],
            choices=stand_ins,
            help="use the stand-in even where the real program is installed",
        )
    lowering = commands.add_parser("down", help="remove a fleet and all it made")
    for command in (raising, lowering):
        command.add_argument("--name", default=name, help="which fleet (default: %(default)s)")
    commands.add_parser(
        "status", help=f"every fleet of this {where}, part by part; ends with 1 unless all serve"
    )
    given = parser.parse_args(arguments)
    try:
        if given.command == "up":
            up(given)
        elif given.command == "down":
            down(given.name)
        else:
            return _show(fleets(), status)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _show(found: Sequence[F], status: Callable[[F], Mapping[str, str]]) -> int:
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
