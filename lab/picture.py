"""A picture of a terminal: runs a command in a real one (tmux) and writes the screen that it leaves as SVG.

    python -m lab.picture docs/canary.svg -- inv canary --artifact /tmp/veza-api-v1.0.10

The README's pictures are runs on a fleet of `lab.incus` (FLEET names its file) under `lab.load`.
"""

from __future__ import annotations

import argparse
import io
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 110
LINES = 200
"""Taller than any run: nothing scrolls away, and blank lines at the end are cut."""
ENDED = "exit code "
LOOK_INTERVAL = 0.2  # seconds


def screen_of(command: Sequence[str], *, limit: float) -> str:
    """What the terminal shows after the command and its exit code, colours as ANSI sequences.

    `limit`: seconds. Raises `TimeoutError` when it still runs then; it is ended.
    """
    tmux = ("tmux", "-L", f"picture-{time.monotonic_ns()}", "-f", "/dev/null")
    script = f"{shlex.join(command)}; printf '{ENDED}%s\\n' $?; read -r _"
    size = ("-x", str(COLUMNS), "-y", str(LINES))
    subprocess.run([*tmux, "new-session", "-d", *size, "sh", "-c", script], check=True)
    try:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            time.sleep(LOOK_INTERVAL)
            capture = [*tmux, "capture-pane", "-e", "-p"]
            screen = subprocess.run(capture, check=True, capture_output=True, text=True).stdout
            if f"\n{ENDED}" in screen:
                return screen.rstrip()
        raise TimeoutError(f"{shlex.join(command)} still runs after {limit:g} s")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def svg(command: Sequence[str], screen: str) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {shlex.join(command)}", style="bold"), soft_wrap=True)
    console.print(Text.from_ansi(screen), soft_wrap=True)
    return console.export_svg(title="veza-tasks", unique_id="screen")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.picture", description="A terminal's screen as SVG.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds (default: %(default)g)")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    given.file.write_text(svg(given.command, screen_of(given.command, limit=given.limit)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
