from __future__ import annotations

import fcntl
import io
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veza_tasks import errors
from veza_tasks.events import (
    Checked,
    Colour,
    Event,
    Note,
    Planned,
    Probed,
    StepBroke,
    StepDone,
    StepStarted,
    Uploading,
    Waiting,
    Warned,
)
from veza_tasks.screen import Screen, open_screen, printable

REPOSITORY = Path(__file__).resolve().parents[1]
TERMINAL = {"TERM": "xterm-256color"}
STAMP = "2026-11-23T14:03:07Z "
NODE = "backend-api-2"


class StillClock:
    """Stands still until told to move on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 14, 3, 7, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Pty:
    """A real terminal of 80x24 characters; ``seen`` is what reached it."""

    def __init__(self, *, columns: int = 80) -> None:
        self.master, descriptor = os.openpty()
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self.seen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self.master, 65536):
                self.seen += data
        except OSError:  # the other side is closed
            pass

    def text(self) -> str:
        """All that was shown, without escape sequences; call it when the screen is closed."""
        self.stream.close()
        self._reader.join(5)
        os.close(self.master)
        return re.sub(r"\x1b\[[0-?]*[@-~]", "", self.seen.decode()).replace("\r", "")


@pytest.fixture
def pty() -> Iterator[Pty]:
    pty = Pty()
    yield pty
    pty.stream.close()


def plain(*events: Event, clock: StillClock | None = None) -> list[str]:
    stream = io.StringIO()
    with open_screen(stream, environ={}, clock=clock or StillClock()) as screen:
        for event in events:
            screen(event)
    return stream.getvalue().splitlines()


def an_error() -> errors.ReleaseError:
    try:
        try:
            raise OSError("no route to host")
        except OSError as cause:
            raise errors.SliBreached("p95 is 0.731 s") from cause
    except errors.SliBreached as cause:
        error = errors.RolledBack("back on 1.0.9", state="All serve 1.0.9.", next_command="inv status")
        error.__cause__ = cause
        return error


def probe(colour: Colour, elapsed: float, *, p95: float | None = 0.123) -> Probed:
    return Probed(
        NODE, colour, "", elapsed, 3600, requests=1234, p95=p95, p95_threshold=0.5,
        error_rate=0.0012, error_rate_threshold=0.005,
    )  # fmt: skip


@given(st.text(st.characters(codec=None)))
def test_printable_leaves_no_control_character_but_the_newline(text: str) -> None:
    kinds = {unicodedata.category(character) for character in printable(text).replace("\n", "")}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("p95 über 0.5 s, 日本", "p95 über 0.5 s, 日本"),
        ("\x1b[1;31mred\x1b[0m \x9b2Jgone", "red gone"),
        ("\x1b]0;a title\x07text \x1b]8;;http://evil\x1b\\link", "text link"),
        ("\x1b]never closed", "never closed"),
        ("user\u202etxt.exe zero\u200bwidth", "usertxt.exe zerowidth"),
        ("10%\r50%\r\n\n100%\n", "10%\n50%\n100%"),
        ("a\tb", "a       b"),
        ("not \udcff UTF-8", "not \ufffd UTF-8"),
    ],
)
def test_printable_takes_the_sequence_and_leaves_the_text(raw: str, expected: str) -> None:
    assert printable(raw) == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (StepStarted("drain", NODE), "step drain backend-api-2: started"),
        (StepStarted("preflight"), "step preflight: started"),
        (StepDone("drain", NODE, "0 sessions", 0.31), "step drain backend-api-2: done in 0.3 s: 0 sessions"),
        (StepBroke("drain", NODE, seconds=60), "step drain backend-api-2: failed after 60.0 s"),
        (Waiting("drain", NODE, "7 sessions", 3.2, 60), "wait drain backend-api-2: 7 sessions, 3 of 60 s"),
        (Uploading("incus-1", "veza-api", 9, 9), "upload incus-1: veza-api, 9 bytes"),
        (Planned("incus-1", "incus exec a -- true"), "would: incus-1: incus exec a -- true"),
        (Checked("pool", Colour.GREEN, "2 servers"), "check pool: green: 2 servers"),
        (Checked("sli-now", Colour.RED, "1 %", "hot-fix"), "check sli-now: red, accepted (hot-fix): 1 %"),
        (Checked("sli-data", Colour.GREY, "empty"), "check sli-data: no data: empty"),
        (
            probe(Colour.GREEN, 120),
            f"probe {NODE}: green at 120 of 3600 s: p95 0.123 < 0.5 s, errors 0.12 < 0.5 %, 1234 requests",
        ),
        (
            Probed(NODE, Colour.GREY, "HTTP 502", 30, 300),
            f"probe {NODE}: no data at 30 of 300 s: HTTP 502",
        ),
        (Note("taking over"), "note: taking over"),
        (Warned("HAProxy was reloaded"), "warning: HAProxy was reloaded"),
    ],
)
def test_each_event_is_one_timestamped_line_when_piped(event: Event, expected: str) -> None:
    assert plain(event) == [STAMP + expected]


def test_a_value_at_its_threshold_is_not_shown_as_below_it() -> None:
    assert "p95 0.5 >= 0.5 s" in plain(probe(Colour.RED, 30, p95=0.5))[0]


def test_remote_text_cannot_forge_a_plain_line() -> None:
    lines = plain(Warned(f"log:\n{STAMP}step drain backend-api-2: done in 0.1 s"), Note("next"))
    assert [line for line in lines if line.startswith(STAMP)] == [lines[0], lines[2]]
    assert lines[1].startswith("    ")


def test_a_wait_is_told_every_ten_seconds_when_piped() -> None:
    stream, clock = io.StringIO(), StillClock()
    with open_screen(stream, environ={}, clock=clock) as screen:
        screen(StepStarted("drain", NODE))
        for _ in range(100):
            clock.sleep(0.25)
            screen(Waiting("drain", NODE, "7 sessions", clock.seconds, 60))
    waits = [line for line in stream.getvalue().splitlines() if " wait " in line]
    assert [wait.rpartition(", ")[2] for wait in waits] == ["10 of 60 s", "20 of 60 s"]


def test_an_upload_is_told_once_when_piped_and_again_when_sent_anew() -> None:
    once = [Uploading("incus-1", "veza-api", sent, 9) for sent in (0, 3, 9, 9)]
    assert len(plain(*once)) == 1
    assert len(plain(*once, *once)) == 2


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {}, {**TERMINAL, "NO_COLOR": "1"}])
def test_a_terminal_without_colour_gets_plain_lines(pty: Pty, environ: dict[str, str]) -> None:
    with open_screen(pty.stream, environ=environ, clock=StillClock()) as screen:
        screen(StepDone("drain", NODE, "0 sessions", 0.3))
        screen.show_error(an_error())
    assert pty.text().startswith(STAMP + "step drain")
    assert b"\x1b" not in pty.seen


def test_a_terminal_gets_steps_checks_and_changes_as_lines(pty: Pty) -> None:
    with open_screen(pty.stream, environ=TERMINAL, clock=StillClock()) as screen:
        screen(Checked("last-known-good", Colour.YELLOW, "not what the node runs " * 5))
        screen(Checked("sli-now", Colour.RED, "1 % errors", "hot-fix"))
        screen(StepDone("drain", NODE, "0 sessions", 0.3))
        screen(StepBroke("watch", NODE, "first red probe", 900))
        screen(Planned("incus-1", "incus exec backend-api-2 -- " + "x" * 100))
    text = pty.text()
    assert max(map(len, text.splitlines()[:5])) <= 80
    assert "! last-known-good yellow  not what" in text
    assert f"\n{' ' * 26}" in text
    assert f"✗ sli-now         red     1 % errors\n{' ' * 26}accepted: hot-fix" in text
    assert "✓ drain backend-api-2 · 0 sessions  0.3 s\n" in text
    assert "✗ watch backend-api-2 · first red probe  15:00\n" in text
    assert f"would: incus-1  incus exec backend-api-2 -- {'x' * 100}\n" in text


def test_a_terminal_shows_waits_uploads_and_the_window_live_in_80_columns(pty: Pty) -> None:
    clock = StillClock()
    with open_screen(pty.stream, environ=TERMINAL, clock=clock) as screen:
        screen(StepStarted("drain", NODE))
        screen(Waiting("drain", NODE, "7 sessions", 3, 60))
        screen(Uploading("incus-1", "veza-api", 0, 40 * 2**20))
        clock.sleep(2)
        screen(Uploading("incus-1", "veza-api", 10 * 2**20, 40 * 2**20))
        screen(probe(Colour.GREEN, 1800))
        screen.flush()
    text = pty.text()
    assert "▸ drain backend-api-2 · 7 sessions  5.0 s of 60 s" in text
    assert "━━━───────── incus-1 · veza-api  10.0 MiB of 40.0 MiB  5.0 MiB/s" in text
    window = "30:00/60:00 green · p95 0.123 < 0.5 s · errors 0.12 < 0.5 % · 1234 req"
    assert [line for line in text.splitlines() if window in line and len(line) == 80]
    assert pty.seen.rfind(b"\x1b[?25h") > pty.seen.rfind(b"\x1b[?25l")  # the cursor is back


def test_a_terminal_keeps_a_line_when_the_verdict_changes(pty: Pty) -> None:
    with open_screen(pty.stream, environ=TERMINAL, clock=StillClock()) as screen:
        for at, colour in enumerate([Colour.GREY, Colour.GREY, Colour.GREEN, Colour.GREEN, Colour.RED]):
            screen(probe(colour, at * 30))
    marks = re.findall(r"([?✓✗]) probe", pty.text())
    assert marks == ["?", "✓", "✗"]


def test_a_step_that_ended_is_not_live_any_more(pty: Pty) -> None:
    with open_screen(pty.stream, environ=TERMINAL, clock=StillClock()) as screen:
        screen(StepStarted("stage"))
        screen(Uploading("incus-1", "veza-api", 3, 9))
        screen.flush()
        screen(StepBroke("stage", detail="connection lost"))
        screen(Note("after"))
    _, stage, after = pty.text().partition("✗ stage · connection lost")
    assert stage
    assert "veza-api" not in after


def test_markup_in_texts_is_shown_not_obeyed(pty: Pty) -> None:
    markup = "[bold]not bold[/bold] [/] :smile: [link=http://evil]x[/link]"
    with open_screen(pty.stream, environ=TERMINAL) as screen:
        screen(Note(markup))
        screen(StepStarted("drain", markup))
        screen.flush()
        screen.show_error(errors.Refused(markup))
    assert pty.text().count(markup) >= 2
    assert markup in plain(Note(markup))[0]


@settings(deadline=None)
@given(st.text(max_size=40))
def test_hostile_text_is_drawn_on_a_terminal_without_a_fault(text: str) -> None:
    pty = Pty()
    with open_screen(pty.stream, environ=TERMINAL) as screen:
        screen(Waiting("drain", text, text, 1, 2))
        screen.flush()
        screen(Checked(text, Colour.RED, text, text))
        screen.show_table(text, ["a", "b"], [[text, "x" * 100]])
        screen.show_error(errors.NeedsHuman(text or "?", state=text))
    assert "screen: " not in pty.text()


def test_an_error_tells_causes_state_next_command_and_exit_code(pty: Pty) -> None:
    stream = io.StringIO()
    with open_screen(stream, environ={}, clock=StillClock()) as screen:
        screen.show_error(an_error())
    assert stream.getvalue().splitlines() == [
        STAMP + "error: rolled back: back on 1.0.9",
        STAMP + "error: because: p95 is 0.731 s",
        STAMP + "error: because: OSError: no route to host",
        STAMP + "error: state: All serve 1.0.9.",
        STAMP + "error: next: inv status",
        STAMP + "error: exit: 4",
    ]
    with open_screen(pty.stream, environ=TERMINAL) as screen:
        screen.show_error(an_error())
    assert pty.text().splitlines() == [
        "✗ rolled back: back on 1.0.9",
        "  because  p95 is 0.731 s",
        "  because  OSError: no route to host",
        "  state    All serve 1.0.9.",
        "  next     inv status",
        "  exit     4",
    ]


def test_all_causes_of_a_parallel_failure_are_told() -> None:
    group = ExceptionGroup("two nodes", [errors.DrainTimeout("node a"), errors.InstallFailed("node b")])
    error = errors.NeedsHuman("stopped")
    error.__cause__ = group
    stream = io.StringIO()
    with open_screen(stream, environ={}) as screen:
        screen.show_error(error)
    assert "because: node a" in stream.getvalue()
    assert "because: node b" in stream.getvalue()


def test_an_error_shown_after_the_screen_is_closed_is_still_shown() -> None:
    stream = io.StringIO()
    with open_screen(stream, environ={}) as screen:
        pass
    screen.show_error(an_error())
    assert "error: exit: 4" in stream.getvalue()


@settings(deadline=None)
@given(st.lists(st.lists(st.text("abc ", max_size=90), min_size=4, max_size=4), max_size=4))
def test_a_table_on_80_columns_loses_nothing(rows: list[list[str]]) -> None:
    pty = Pty()
    with open_screen(pty.stream, environ=TERMINAL) as screen:
        screen.show_table("title", ["one", "two", "three", "four"], rows)
    text = pty.text()
    assert max(map(len, text.splitlines())) <= 80
    for letter in "abc":
        assert text.count(letter) == sum(cell.count(letter) for row in rows for cell in row)


def test_a_table_is_aligned_text_when_piped() -> None:
    stream = io.StringIO()
    with open_screen(stream, environ={}) as screen:
        screen.show_table(
            "fleet", ["node", "health"], [["backend-api-1", "green"], ["b", "no data\nHTTP 502"]]
        )
        screen.show_table("marks", ["node", "mark"], [])
    assert stream.getvalue().splitlines() == [
        "fleet",
        "node           health",
        "backend-api-1  green",
        "b              no data",
        "               HTTP 502",
        "marks",
        "node  mark",
        "(none)",
    ]


def test_a_table_too_wide_for_the_terminal_becomes_a_block_per_row(pty: Pty) -> None:
    with open_screen(pty.stream, environ=TERMINAL) as screen:
        screen.show_table("", ["node", "installed", "running"], [["a" * 30, "b" * 30, "c" * 30]] * 2)
    block = [f"node       {'a' * 30}", f"installed  {'b' * 30}", f"running    {'c' * 30}"]
    assert pty.text().splitlines() == [*block, "", *block]


@pytest.mark.parametrize("environ", [TERMINAL, {}])
def test_a_stream_that_cannot_encode_gets_ascii(environ: dict[str, str]) -> None:
    master, descriptor = os.openpty()
    stream = os.fdopen(descriptor, "w", encoding="ascii")
    with open_screen(stream, environ=environ) as screen:
        screen(StepDone("drain", NODE, "Größe 1 · 日", 0.3))
    seen = re.sub(rb"\x1b\[[0-?]*[@-~]", b"", os.read(master, 4096))
    stream.close()
    os.close(master)
    assert b"drain backend-api-2" in seen
    assert b"Gr??e 1 - ?" in seen


def test_lines_of_several_threads_stay_whole_and_in_each_thread_s_order() -> None:
    stream = io.StringIO()
    with open_screen(stream, environ={}) as screen:
        threads = [threading.Thread(target=emit_many, args=(screen, name)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    told = [line.rpartition("note: ")[2].split() for line in stream.getvalue().splitlines()]
    for name in "abcd":
        assert [int(number) for who, number in told if who == name] == list(range(200))


def emit_many(screen: Screen, name: str) -> None:
    for number in range(200):
        screen(Note(f"{name} {number}"))


def test_a_signal_handler_may_emit_while_the_main_thread_emits() -> None:
    stream, handled = io.StringIO(), 0
    with open_screen(stream, environ={}) as screen:

        def handle(number: int, frame: object) -> None:
            nonlocal handled
            handled += 1
            screen(Warned("signal"))

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            while handled < 50:
                screen(Note("work"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert stream.getvalue().count("warning: signal") == handled


def test_a_terminal_that_hangs_up_does_not_break_the_run() -> None:
    master, descriptor = os.openpty()
    with (
        os.fdopen(descriptor, "w", encoding="utf-8") as stream,
        open_screen(stream, environ=TERMINAL) as screen,
    ):
        screen(StepStarted("drain", NODE))
        screen.flush()
        os.close(master)
        for _ in range(20):
            screen(Waiting("drain", NODE, "7 sessions", 1, 60))
            screen(Note("still here"))
        screen.flush()
        screen.show_error(an_error())


def test_a_reader_that_does_not_read_holds_up_nothing() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    stream = os.fdopen(writer, "w", encoding="utf-8")
    started = time.monotonic()
    with open_screen(stream, environ={}, close_timeout=0.2) as screen:
        for number in range(1000):
            screen(Note(f"line {number}"))
    assert time.monotonic() - started < 3
    os.close(reader)  # lets the stuck write go
    stream.close()


@pytest.mark.parametrize("ending", ["| head -1", "| true", ">&-", "> /dev/full", "| cat"])
def test_the_exit_code_is_true_whatever_becomes_of_the_output(ending: str) -> None:
    script = (
        "import os, sys\n"
        "from veza_tasks.events import Note\n"
        "from veza_tasks.screen import open_screen\n"
        "with open_screen(sys.stdout, environ=os.environ) as screen:\n"
        "    for number in range(20000):\n"
        "        screen(Note(f'line {number}'))\n"
        "sys.exit(4)\n"
    )
    line = f'"$0" -c "$1" {ending}; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, script],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (4, b"")


def test_a_stream_closed_under_the_screen_silences_it_only() -> None:
    stream: TextIO = io.StringIO()
    with open_screen(stream, environ={}) as screen:
        stream.close()
        screen(Note("nobody hears this"))
    with open_screen(None, environ={}) as screen:
        screen(Note("nor this"))


def test_a_descriptor_that_was_given_to_another_file_is_not_written_to(tmp_path: Path) -> None:
    stream = (tmp_path / "output").open("w")
    with open_screen(stream, environ={}) as screen:
        descriptor = stream.fileno()
        stream.close()
        with (tmp_path / "journal").open("w") as journal:
            assert journal.fileno() == descriptor
            screen(Note("not for the journal"))
            screen.flush()
    assert (tmp_path / "journal").read_text() == ""


def test_a_table_on_a_terminal_is_printed_without_importing_rich() -> None:
    script = (
        "import sys, time\n"
        "from veza_tasks.screen import open_screen\n"
        "with open_screen(sys.stdout, environ={'TERM': 'xterm'}) as screen:\n"
        "    screen.show_table('config', ['knob', 'value'], [['sli_window', '3600']])\n"
        "    time.sleep(0.5)\n"
        "sys.exit('rich' in sys.modules)\n"
    )
    master, descriptor = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdout=descriptor,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(descriptor)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"sli_window  3600" in os.read(master, 4096)
    os.close(master)
