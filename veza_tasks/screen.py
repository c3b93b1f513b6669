"""What the operator sees: rich on a terminal, plain timestamped lines everywhere else.

A release never waits for its screen and never ends because of it. Events are queued where they happen and
drawn by one thread of the screen's own, so that recipes may emit from any thread and from signal handlers,
and so that a terminal stopped with Ctrl-S or a pager that nobody scrolls cannot hold up a rollback. A reader
that went away (``| head``, a closed terminal) silences the screen and nothing else.

rich is imported when the first event or error is drawn on a terminal: a table is printed without it.
"""

from __future__ import annotations

import os
import re
import select
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import zip_longest
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol, Self, TextIO, cast

from veza_tasks.clock import Clock, SystemClock
from veza_tasks.errors import ReleaseError
from veza_tasks.events import (
    Checked,
    Colour,
    Event,
    Note,
    Planned,
    Probed,
    Recorded,
    StepBroke,
    StepDone,
    StepStarted,
    Uploading,
    Waiting,
    Warned,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_REFRESH = 0.25
"""Seconds between two drawings of the live lines."""

_WAIT_SPACING = 10.0
"""Least seconds between two plain lines about one wait."""

_READABLE = 24
"""A column folded to fewer characters than this is unreadable; the table becomes one block per row."""

_ASCII = str.maketrans("✓✗▸·━─", "+x>-=-")

_VERDICT = {Colour.GREEN: "green", Colour.YELLOW: "yellow", Colour.RED: "red", Colour.GREY: "no data"}
_MARK = {Colour.GREEN: "✓", Colour.YELLOW: "!", Colour.RED: "✗", Colour.GREY: "?"}
_STYLE = {Colour.GREEN: "green", Colour.YELLOW: "yellow", Colour.RED: "bold red", Colour.GREY: "dim"}

_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor movement (ECMA-48 CSI)
    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x00-\x1f\x7f-\x9f]*(?:\x07|\x1b\\|\x9c)"  # titles, links (OSC …)
    r"|\x1b[ -/]*[0-~]"
)
_LINE_END = re.compile(r"\r\n|[\r\n\v\f\x85\u2028\u2029]")


def printable(text: str) -> str:
    """``text`` from anywhere, made harmless to a terminal and to a log: no control character but ``\\n``.

    Escape sequences go as a whole, then every control (C0, C1) and format character (bidi overrides,
    zero-width) that is left; a lone surrogate becomes U+FFFD; tabs become spaces; blank lines go.
    """
    lines = _LINE_END.split(_ESCAPE_SEQUENCE.sub("", text))
    clean = ("".join(map(_harmless, line.expandtabs())).rstrip() for line in lines)
    return "\n".join(line for line in clean if line)


def _harmless(character: str) -> str:
    match unicodedata.category(character):
        case "Cc" | "Cf":
            return ""
        case "Cs":
            return "\ufffd"
        case _:
            return character


class Screen:
    """Takes events, errors and tables, and draws them in the order they came. Use as a context manager."""

    def __init__(self, face: _Face, clock: Clock, *, close_timeout: float) -> None:
        self._face = face
        self._clock = clock
        self._close_timeout = close_timeout
        # SimpleQueue.put is reentrant: a signal handler may emit while the main thread is emitting.
        self._drawings: SimpleQueue[_Drawing | None] = SimpleQueue()
        # A daemon: a write that is stuck in a stopped terminal must not keep the process alive.
        self._thread = threading.Thread(target=self._draw_all, name="screen", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Show ``event``; returns at once."""
        if isinstance(event, Recorded):
            return
        event, when, now = _printable_event(event), self._clock.now(), self._clock.monotonic()
        self._put(lambda face: face.event(event, when, now))

    def show_error(self, error: ReleaseError) -> None:
        """Show what happened and why, the state of the fleet, what to type next, and the exit code."""
        account, when = _account(error), self._clock.now()
        self._put(lambda face: face.error(account, when))

    def show_table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show ``rows`` whole: on a terminal too narrow for the columns, as one block of lines per row."""
        self._put(lambda face: face.table(title, columns, rows))

    def flush(self) -> None:
        """Wait until all that came so far is drawn, at most ``close_timeout`` seconds: before a question."""
        drawn = threading.Event()
        self._put(lambda face: face.refresh())
        self._put(lambda face: drawn.set())
        drawn.wait(self._close_timeout)

    def close(self) -> None:
        """Draw what is left, for at most ``close_timeout`` seconds, and give the terminal back."""
        self._drawings.put(None)
        self._thread.join(self._close_timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, drawing: _Drawing) -> None:
        if self._thread.is_alive():
            self._drawings.put(drawing)
        else:  # closed already: the last word, most likely an error, is still said
            self._draw(drawing)

    def _draw_all(self) -> None:
        due = 0.0
        while True:
            try:
                drawing = self._drawings.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                self._draw(lambda face: face.refresh())
                due = time.monotonic() + _REFRESH
                continue
            if drawing is None:
                self._draw(lambda face: face.close())
                return
            self._draw(drawing)

    def _draw(self, drawing: _Drawing) -> None:
        try:
            drawing(self._face)
        except Exception as error:  # noqa: BLE001 - said aloud; must not darken the rest of the run
            self._face.output.write(f"screen: {error!r}\n")
            if isinstance(self._face, _Terminal):
                self._face = _Plain(self._face.output)
                self._draw(drawing)


def open_screen(
    stream: TextIO | None,
    *,
    environ: Mapping[str, str],
    clock: Clock | None = None,
    close_timeout: float = 5.0,
) -> Screen:
    """A screen on ``stream``: live on a terminal, plain when piped, with ``NO_COLOR`` or on a dumb terminal.

    ``stream`` is ``None`` where the process was started with it closed (``>&-``). ``close_timeout`` in
    seconds, for what is still to be drawn when the screen closes.
    """
    output = _Output(stream)
    clock = clock or SystemClock()
    able = environ.get("TERM", "dumb") not in ("", "dumb", "unknown") and not environ.get("NO_COLOR")
    face: _Face = _Terminal(output, clock, environ) if output.is_terminal and able else _Plain(output)
    return Screen(face, clock, close_timeout=close_timeout)


class _Output:
    """A stream that cannot break a run: what it cannot encode is replaced, a lost reader silences it.

    A broken pipe (``| head``), a hung-up terminal (EIO after SIGHUP) or a full disk under a redirection is no
    reason to leave a node drained; the journal has it all. The file descriptor is written to directly: text
    stuck in ``sys.stdout`` would fail once more when Python flushes it on exit, and make the exit code 120.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lost = stream is None or stream.closed
        self._descriptor: int | None = None
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.is_terminal = False
        try:
            "✓━".encode(self.encoding)
            self._ascii = False
        except UnicodeEncodeError:
            self._ascii = True
        if stream is None or self._lost:
            return
        self.is_terminal = stream.isatty()
        try:
            self._descriptor = stream.fileno()
            stream.flush()
        except OSError:  # no descriptor (StringIO), or already broken, which the first write finds out
            pass

    def write(self, text: str) -> int:
        # A closed stream's descriptor may by now be somebody else's: an SSH socket, the journal.
        self._lost = self._lost or self._stream is None or self._stream.closed
        if not self._lost:
            try:
                self._send((text.translate(_ASCII) if self._ascii else text).encode(self.encoding, "replace"))
            except (OSError, ValueError):  # ValueError: closed just now
                self._lost = True
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal, now."""
        try:
            columns, lines = os.get_terminal_size(self._descriptor if self._descriptor is not None else -1)
        except OSError:
            return 80, 24
        return columns or 80, lines or 24

    def _send(self, data: bytes) -> None:
        assert self._stream is not None
        if self._descriptor is None:
            self._stream.write(data.decode(self.encoding))
            return
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # some programs leave the terminal they share non-blocking
                room = select.poll()
                room.register(self._descriptor, select.POLLOUT)
                room.poll()


class _Face(Protocol):
    """How things look. Called from one thread at a time; texts are printable already, except in tables."""

    output: _Output

    def event(self, event: Event, when: datetime, now: float) -> None:
        """``when`` on the wall clock, ``now`` on the monotonic one, both taken where the event happened."""

    def error(self, account: Sequence[tuple[str, str]], when: datetime) -> None: ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...

    def refresh(self) -> None: ...

    def close(self) -> None: ...


_Drawing = Callable[[_Face], None]


class _Plain:
    """Timestamped lines for logs and grep. Further lines of a text are indented, lest they pass for ours."""

    def __init__(self, output: _Output) -> None:
        self.output = output
        self._said: dict[tuple[str, str], float] = {}
        self._uploaded: set[tuple[str, str]] = set()

    def event(self, event: Event, when: datetime, now: float) -> None:
        text = self._text(event, now)
        if text:
            self._line(text, when)

    def error(self, account: Sequence[tuple[str, str]], when: datetime) -> None:
        for label, text in account:
            self._line(f"error: {label}: {text}", when)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.output.write("\n".join(_table(title, columns, rows, width=None)) + "\n")

    def refresh(self) -> None:
        """Nothing here is live."""

    def close(self) -> None:
        """Nothing to give back."""

    def _line(self, text: str, when: datetime) -> None:
        stamp = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.output.write(f"{stamp} {_indented(text)}\n")

    def _text(self, event: Event, now: float) -> str:
        match event:
            case StepStarted():
                self._said[event.step, event.node] = now
                return f"step {_named(event)}: started"
            case StepDone() | StepBroke():
                end = "done in" if isinstance(event, StepDone) else "failed after"
                detail = f": {event.detail}" if event.detail else ""
                return f"step {_named(event)}: {end} {event.seconds:.1f} s{detail}"
            case Waiting():
                key = (event.step, event.node)
                if now - self._said.get(key, -_WAIT_SPACING) < _WAIT_SPACING:
                    return ""
                self._said[key] = now
                return f"wait {_named(event)}: {event.what}, {event.elapsed:.0f} of {event.limit:.0f} s"
            case Uploading():
                if not _just_uploaded(event, self._uploaded):
                    return ""
                return f"upload {event.host}: {event.name}, {event.total} bytes"
            case Planned():
                return f"would: {event.where}: {event.command}"
            case Checked():
                accepted = f", accepted ({event.accepted})" if event.accepted else ""
                return f"check {event.check}: {_VERDICT[event.colour]}{accepted}: {event.detail}"
            case Probed():
                text = f"{_verdict(event)} at {event.elapsed:.0f} of {event.window:.0f} s"
                return ": ".join((f"probe {event.node}", text, ", ".join(_values(event))))
            case Note():
                return f"note: {event.text}"
            case Warned():
                return f"warning: {event.text}"
            case _:
                return str(event)


@dataclass(frozen=True)
class _Running:
    """A step in hand; ``since`` on the monotonic clock, ``limit`` in seconds, 0 for none."""

    since: float
    what: str = ""
    limit: float = 0.0


_Styled = tuple[str, str]
"""A text and its rich style."""


class _Terminal:
    """Lines that stay, and under them the live ones: running steps, uploads, the SLI window."""

    def __init__(self, output: _Output, clock: Clock, environ: Mapping[str, str]) -> None:
        self.output = output
        self._clock = clock
        self._environ = environ
        self._open = True
        self._rich: Console | None = None
        self._live: Live | None = None
        self._running: dict[tuple[str, str], _Running] = {}
        self._uploading: dict[tuple[str, str], tuple[float, Uploading]] = {}
        self._uploaded: set[tuple[str, str]] = set()
        self._probed: dict[str, tuple[float, Probed]] = {}

    def event(self, event: Event, when: datetime, now: float) -> None:
        match event:
            case StepStarted():
                self._running[event.step, event.node] = _Running(now)
            case StepDone() | StepBroke():
                self._ended(event.step, event.node)
                mark = ("✓ ", "green") if isinstance(event, StepDone) else ("✗ ", "bold red")
                self._keep([mark], _detailed(_named(event), event.detail) + f"  {_seconds(event.seconds)}")
            case Waiting():
                running = _Running(now - event.elapsed, event.what, event.limit)
                self._running[event.step, event.node] = running
            case Uploading() if _just_uploaded(event, self._uploaded):
                self._uploading.pop((event.host, event.name), None)
                text = f"upload {event.host} · {event.name}  {_mebibytes(event.total)}"
                self._keep([("✓ ", "green")], text)
            case Uploading() if event.sent < event.total:
                key = (event.host, event.name)
                since, _ = self._uploading.get(key, (now, event))
                self._uploading[key] = (since, event)
            case Planned():
                # Not folded by us: what is copied from the terminal should be what would be sent.
                self._keep([("would: ", "cyan")], _indented(f"{event.where}  {event.command}"), fold=False)
            case Checked():
                accepted = f"\naccepted: {event.accepted}" if event.accepted else ""
                style = _STYLE[event.colour]
                verdict = f"{_VERDICT[event.colour]:<7} "
                head = [(f"{_MARK[event.colour]} ", style), (f"{event.check:<15} ", ""), (verdict, style)]
                self._keep(head, event.detail + accepted)
            case Probed():
                before = self._probed[event.node][1].colour if event.node in self._probed else Colour.GREEN
                self._probed[event.node] = (now - event.elapsed, event)
                if event.colour != before:
                    mark = (f"{_MARK[event.colour]} ", _STYLE[event.colour])
                    text = f"probe {event.node} · {_verdict(event)} at {_minutes(event.elapsed)}"
                    self._keep([mark], " · ".join((text, *_values(event))))
            case Note():
                self._keep([("  ", "")], event.text)
            case Warned():
                self._keep([("! ", "yellow")], event.text)
            case _:
                self._keep([("  ", "")], str(event))

    def error(self, account: Sequence[tuple[str, str]], when: datetime) -> None:
        (kind, message), *rest = account
        self._keep([(f"✗ {kind}: ", "bold red")], message)
        for label, text in rest:
            self._keep([(f"  {label:<8} ", "bold")], text, fold=label != "next")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        text = "\n".join(_table(title, columns, rows, width=self.output.size()[0]))
        if self._live is None:
            self.output.write(text + "\n")
        else:
            self._keep([], text, fold=False)

    def refresh(self) -> None:
        blocks = self._live_blocks() if self._open else []
        if not blocks and self._live is None:
            return

        from rich.live import Live
        from rich.text import Text

        frame = Text("\n").join(blocks)
        if self._live is None:
            self._live = Live(
                console=self._console(),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._console()
        self._live.update(frame, refresh=True)
        if not blocks:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        self._open = False
        self.refresh()

    def _ended(self, step: str, node: str) -> None:
        """What was live because of this step is so no longer, an upload that broke off included."""
        self._running.pop((step, node), None)
        self._probed = {key: value for key, value in self._probed.items() if node not in ("", key)}
        self._uploading = {key: value for key, value in self._uploading.items() if node not in ("", key[0])}

    def _live_blocks(self) -> list[Text]:
        now = self._clock.monotonic()
        steps = (_progress(key, running, now) for key, running in self._running.items())
        blocks = [self._block([("▸ ", "cyan")], step) for step in steps]
        for since, upload in self._uploading.values():
            rate = upload.sent / (now - since) if now > since else 0.0
            text = f"{upload.host} · {upload.name}  {_mebibytes(upload.sent)} of {_mebibytes(upload.total)}"
            bar = _bar(upload.sent, upload.total, width=12)
            blocks.append(self._block([(f"  {bar} ", "cyan")], f"{text}  {_mebibytes(rate)}/s"))
        for since, probe in self._probed.values():
            clock = f"{_minutes(min(now - since, probe.window))}/{_minutes(probe.window)} "
            verdict = f"{_verdict(probe)} · "
            values = " · ".join(_values(probe)).replace("requests", "req")  # or 80 columns do not hold it
            room = self.output.size()[0] - len(clock + verdict + values) - 3
            bar = _bar(min(now - since, probe.window), probe.window, width=max(5, room))
            head = [(f"  {bar} ", "cyan"), (clock, ""), (verdict, _STYLE[probe.colour])]
            blocks.append(self._block(head, values))
        return blocks

    def _keep(self, head: Sequence[_Styled], body: str, *, fold: bool = True) -> None:
        """A line that stays. Not folded, what is copied from the terminal is what would be typed or sent."""
        from rich.text import Text

        self.refresh()
        line = self._block(head, body) if fold else Text.assemble(*head, body)
        self._console().print(line, soft_wrap=True)

    def _block(self, head: Sequence[_Styled], body: str) -> Text:
        """``body`` folded to the terminal beside ``head``. Never markup: ``[red]`` stays as it is."""
        from rich.text import Text

        start = Text.assemble(*head)
        room = max(8, self.output.size()[0] - start.cell_len)
        lines = Text(body).wrap(self._console(), room, overflow="fold")
        return start + Text("\n" + " " * start.cell_len).join(lines)

    def _console(self) -> Console:
        from rich.console import Console, ConsoleDimensions

        if self._rich is None:
            file = cast("IO[str]", self.output)
            self._rich = Console(file=file, force_terminal=True, highlight=False, _environ=self._environ)
        self._rich.size = ConsoleDimensions(*self.output.size())
        return self._rich


def _printable_event(event: Event) -> Event:
    """Every text of ``event`` made printable, in one place, whoever draws it."""
    texts = {field.name: getattr(event, field.name) for field in fields(event)}
    return replace(event, **{name: printable(text) for name, text in texts.items() if type(text) is str})


def _account(error: ReleaseError) -> list[tuple[str, str]]:
    """Label and text of each thing to say about ``error``: its kind and message first, the exit code last."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    told = [(kind, error.message), *(("because", _message(cause)) for cause in _causes(error))]
    told += [("state", error.state), ("next", error.next_command), ("exit", str(error.exit_code))]
    return [(label, text) for label, raw in told if (text := printable(raw))]


def _message(error: BaseException) -> str:
    return error.message if isinstance(error, ReleaseError) else f"{type(error).__name__}: {error}"


def _causes(error: BaseException) -> list[BaseException]:
    """What lies beneath ``error``, nearest first, as a traceback would chain it; each once."""
    found: list[BaseException] = []
    beneath = [error]
    while beneath:
        current = beneath.pop(0)
        inner = list(current.exceptions) if isinstance(current, BaseExceptionGroup) else []
        cause = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        new = [one for one in (*inner, cause) if one is not None and one is not error and one not in found]
        found += new
        beneath += new
    return found


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None
) -> list[str]:
    """The table as lines; to fit ``width`` the widest column is folded, or each row becomes a block."""
    cells = [[printable(cell).split("\n") for cell in row] for row in (columns, *rows)]
    widths = [max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)]
    heading = [printable(title)] if title else []
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        widest = widths.index(max(widths))
        room = width - (sum(widths) - widths[widest]) - 2 * (len(widths) - 1)
        if room < _READABLE:
            return heading + _blocks(cells, width)
        widths[widest] = room
        for row in cells:
            row[widest] = _folded(row[widest], room)
    lines = [
        "  ".join(part.ljust(size) for part, size in zip(parts, widths, strict=True)).rstrip()
        for row in cells
        for parts in zip_longest(*row, fillvalue="")
    ]
    return heading + lines + ([] if rows else ["(none)"])


def _blocks(cells: Sequence[Sequence[Sequence[str]]], width: int) -> list[str]:
    columns, *rows = cells
    names = [" ".join(name) for name in columns]
    indent = max(map(len, names)) + 2
    lines: list[str] = []
    for row in rows:
        lines += [""] if lines else []
        for name, cell in zip(names, row, strict=True):
            first, *further = _folded(cell, max(_READABLE, width - indent))
            lines.append(f"{name:<{indent}}{first}".rstrip())
            lines += [" " * indent + line for line in further]
    return lines


def _folded(lines: Sequence[str], width: int) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, width, break_on_hyphens=False) or [""]]


def _just_uploaded(event: Uploading, uploaded: set[tuple[str, str]]) -> bool:
    """Whether ``event`` is the first that says so; a file sent anew may finish anew."""
    key = (event.host, event.name)
    if event.sent < event.total:
        uploaded.discard(key)
        return False
    if key in uploaded:
        return False
    uploaded.add(key)
    return True


def _verdict(probe: Probed) -> str:
    return "waiting" if probe.waiting else _VERDICT[probe.colour]


def _values(probe: Probed) -> list[str]:
    """The numbers against their thresholds; the probe's own words where it has no verdict."""
    if probe.p95 is None or probe.error_rate is None:
        return [probe.detail]
    return [
        _against("p95", probe.p95, probe.p95_threshold, "s"),
        _against("errors", probe.error_rate * 100, probe.error_rate_threshold * 100, "%"),
        *([] if probe.requests is None else [f"{probe.requests:.0f} requests"]),
    ]


def _against(name: str, value: float, threshold: float, unit: str) -> str:
    return f"{name} {value:.3g} {'<' if value < threshold else '>='} {threshold:.3g} {unit}"


def _named(event: StepStarted | StepDone | StepBroke | Waiting) -> str:
    return f"{event.step} {event.node}".rstrip()


def _detailed(text: str, detail: str) -> str:
    return f"{text} · {detail}" if detail else text


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")


def _progress(key: tuple[str, str], running: _Running, now: float) -> str:
    limit = f" of {_seconds(running.limit)}" if running.limit else ""
    return f"{_detailed(' '.join(key).rstrip(), running.what)}  {_seconds(now - running.since)}{limit}"


def _bar(done: float, total: float, *, width: int) -> str:
    full = round(width * min(1.0, done / total)) if total else width
    return "━" * full + "─" * (width - full)


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else _minutes(seconds)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
