"""An open-loop load generator: what a release's users would notice.

Requests start on a fixed clock whether or not earlier ones have been answered, and latency counts from the
planned start, so a stalled service cannot slow its own examination down (coordinated omission). It runs in
its own process, which ends by itself after `max_seconds` or when its caller dies.

    with Load("http://198.18.0.10/api/v1/tracks", rate=100) as load:
        ...
        summary = load.stop()

    python -m lab.load URL [--rate 100] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import NamedTuple, Self
from urllib.parse import urlsplit

REQUEST_TIMEOUT = 10.0  # seconds
KEPT_FAILURES = 500  # all are counted, the first ones are told
IDLE_LIMIT = 2.0  # seconds a kept connection may rest: below any proxy's timeout, so that no close is raced
REQUIRED_FILES = 8192  # one socket for each request in flight

Failure = tuple[float, str]


@dataclass(frozen=True)
class Summary:
    """What became of the requests; `sent` = `ok` + `failed`.

    `failures`: when the request started (seconds since the epoch) and what happened, oldest first, at most
    `KEPT_FAILURES`.
    `p50`, `p95`, `max`: seconds until a complete answer of any status; `None` without any answer.
    """

    sent: int
    ok: int
    failed: int
    failures: tuple[Failure, ...]
    p50: float | None
    p95: float | None
    max: float | None

    def __str__(self) -> str:
        latencies = " ".join(
            f"{name} {'-' if value is None else f'{value * 1000:.1f} ms'}"
            for name, value in (("p50", self.p50), ("p95", self.p95), ("max", self.max))
        )
        lines = [f"sent {self.sent} ok {self.ok} failed {self.failed} {latencies}"]
        for when, what in self.failures:
            clock = datetime.fromtimestamp(when).time().isoformat(timespec="milliseconds")
            lines.append(f"{clock} {what}")
        if self.failed > len(self.failures):
            lines.append(f"and {self.failed - len(self.failures)} more")
        return "\n".join(lines)


class Load:
    """Load on `url` for as long as the `with` block lasts; it flows when the block begins.

    `rate`: requests per second. `max_seconds`: it stops by itself then. `timeout`: seconds from the planned
    start of a request to the last byte of its answer. `keep_alive`: reuse connections, else a new one for
    each request. `cookies`: send these and keep what the service sets, like one sticky client (`{}` to begin
    with none); `None` ignores cookies. Raises `ValueError` for a URL that is not plain http, `RuntimeError`
    when the process fails.
    """

    def __init__(
        self,
        url: str,
        *,
        rate: float = 100.0,
        max_seconds: float = 300.0,
        timeout: float = REQUEST_TIMEOUT,
        keep_alive: bool = True,
        cookies: Mapping[str, str] | None = None,
    ) -> None:
        target = Target.of(url)
        # -P: the folder of this file must not shadow the standard library.
        self._command = [sys.executable, "-P", __file__, target.url, "--supervised"]
        self._command += ["--rate", repr(rate), "--seconds", repr(max_seconds), "--timeout", repr(timeout)]
        self._stop_seconds = timeout + 5.0
        if not keep_alive:
            self._command.append("--no-keep-alive")
        if cookies is not None:
            self._command += ["--cookies", json.dumps(dict(cookies))]
        self._process: subprocess.Popen[bytes] | None = None
        self._summary: Summary | None = None

    def __enter__(self) -> Self:
        # Unbuffered, so that reading the first line leaves the rest in the pipe.
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, bufsize=0)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"started\n":
            self._process.communicate(timeout=self._stop_seconds)
            raise RuntimeError(f"the load generator did not start, exit code {self._process.returncode}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Summary:
        """End the load, wait for the answers still due (at most `timeout`), say what came of it.

        Twice is harmless: the second call gives the same summary.
        """
        if self._summary is None:
            if self._process is None:
                raise RuntimeError("the load was never started")
            try:
                # Closes its stdin, which is the sign to stop.
                output, _ = self._process.communicate(timeout=self._stop_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
                raise RuntimeError("the load generator did not stop, it was killed: no summary") from None
            if self._process.returncode != 0:
                raise RuntimeError(f"the load generator failed with exit code {self._process.returncode}")
            fields = json.loads(output)
            fields["failures"] = tuple((when, what) for when, what in fields["failures"])
            self._summary = Summary(**fields)
        return self._summary


class Target(NamedTuple):
    url: str
    authority: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"{url!r} is not a plain http URL")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(url, parts.netloc, parts.hostname, parts.port or 80, path)


class BadAnswer(Exception):
    """The bytes that came back are no complete HTTP answer."""


class Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    free_since: float = 0.0


class Client:
    """Sends the requests and keeps the account."""

    def __init__(
        self, target: Target, *, timeout: float, keep_alive: bool, cookies: Mapping[str, str] | None
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._keep_alive = keep_alive
        self._cookies = None if cookies is None else dict(cookies)
        self._free: list[Connection] = []
        self._latencies: list[float] = []
        self._failures: list[Failure] = []
        self._sent = 0
        self._failed = 0

    async def request(self, planned: float) -> None:
        """One request that should begin at `planned` (loop time); never raises for what the service does."""
        now = asyncio.get_running_loop().time
        when = time.time()
        self._sent += 1
        failure = ""
        try:
            async with asyncio.timeout_at(planned + self._timeout):
                status = await self._exchange()
            self._latencies.append(now() - planned)
            if not 200 <= status < 300:
                failure = f"HTTP {status}"
        except TimeoutError:
            failure = f"no complete answer within {self._timeout:g} s"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, BadAnswer) as error:
            failure = f"{type(error).__name__}: {error}"[:200]
        if failure:
            self._failed += 1
            if self._failed <= KEPT_FAILURES:
                self._failures.append((when, failure))

    def summary(self) -> Summary:
        ordered = sorted(self._latencies)

        def quantile(share: float) -> float | None:
            return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None  # nearest rank

        return Summary(
            sent=self._sent,
            ok=self._sent - self._failed,
            failed=self._failed,
            failures=tuple(sorted(self._failures)),
            p50=quantile(0.5),
            p95=quantile(0.95),
            max=quantile(1.0),
        )

    def close(self) -> None:
        for connection in self._free:
            connection.writer.close()

    async def _exchange(self) -> int:
        connection = await self._connection()
        reusable = False
        try:
            connection.writer.write(self._head())
            status, reusable = await self._answer(connection.reader)
        finally:
            if reusable:
                self._free.append(connection._replace(free_since=asyncio.get_running_loop().time()))
            else:
                connection.writer.close()
        return status

    async def _connection(self) -> Connection:
        while self._free:
            connection = self._free.pop()
            rested = asyncio.get_running_loop().time() - connection.free_since
            broken = connection.reader.at_eof() or connection.reader.exception() is not None
            if rested < IDLE_LIMIT and not broken:
                return connection
            connection.writer.close()
        return Connection(*await asyncio.open_connection(self._target.host, self._target.port))

    def _head(self) -> bytes:
        lines = [
            f"GET {self._target.path} HTTP/1.1",
            f"Host: {self._target.authority}",
            f"Connection: {'keep-alive' if self._keep_alive else 'close'}",
        ]
        if self._cookies:
            lines.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in self._cookies.items()))
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bool]:
        """Status, and whether the connection can be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        words = head[0].split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise BadAnswer(f"status line {head[0]!r}")
        parts = [line.partition(":") for line in head[1:-2]]
        fields = [(name.lower(), value.strip()) for name, _, value in parts]
        headers = dict(fields)
        self._keep_cookies(value for name, value in fields if name == "set-cookie")
        wish = headers.get("connection", "").lower()
        reusable = self._keep_alive and wish != "close" and (words[0] == "HTTP/1.1" or wish == "keep-alive")
        status = int(words[1])
        if "chunked" in headers.get("transfer-encoding", "").lower():
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await reader.readexactly(size + 2)
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass  # trailers
        elif "content-length" in headers:
            await reader.readexactly(int(headers["content-length"]))
        elif status not in (204, 304):
            await reader.read()
            reusable = False
        return status, reusable

    def _keep_cookies(self, values: Iterable[str]) -> None:
        if self._cookies is None:
            return
        for value in values:
            name, _, content = value.partition(";")[0].partition("=")
            self._cookies[name.strip()] = content.strip()


async def generate(client: Client, *, rate: float, seconds: float, supervised: bool) -> None:
    """Start `rate` requests per second for `seconds`, then await every answer.

    INT and TERM stop it earlier, as does the end of stdin when it is `supervised`.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for wish in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(wish, stop.set)
    if supervised:
        loop.add_reader(sys.stdin.fileno(), stop.set)  # nothing is ever written to it: readable means closed
    began = loop.time()
    async with asyncio.TaskGroup() as due:
        for number in range(round(rate * seconds)):
            planned = began + number / rate
            await asyncio.sleep(planned - loop.time())  # gives way even when late, so that a stop is seen
            if stop.is_set():
                break
            due.create_task(client.request(planned))
            if number == 0 and supervised:
                await asyncio.sleep(0)
                print("started", flush=True)
        if supervised:
            # Closed, it stays readable: no spinning while answers are due.
            loop.remove_reader(sys.stdin.fileno())
    client.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.load", description="Open-loop HTTP load. Exits 1 when a request failed."
    )
    parser.add_argument("url", metavar="URL")
    parser.add_argument(
        "--rate", type=float, default=100.0, help="requests per second (default: %(default)g)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: %(default)g)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=REQUEST_TIMEOUT,
        help="seconds for one request (default: %(default)g)",
    )
    parser.add_argument("--no-keep-alive", action="store_true", help="a new connection for each request")
    parser.add_argument(
        "--cookies", type=json.loads, metavar="JSON", help="be one sticky client; {} begins without cookies"
    )
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)  # how Load runs this
    given = parser.parse_args(arguments)
    try:
        target = Target.of(given.url)
    except ValueError as error:
        parser.error(str(error))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = REQUIRED_FILES if most == resource.RLIM_INFINITY else min(REQUIRED_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    client = Client(target, timeout=given.timeout, keep_alive=not given.no_keep_alive, cookies=given.cookies)
    asyncio.run(generate(client, rate=given.rate, seconds=given.seconds, supervised=given.supervised))
    summary = client.summary()
    if given.supervised:
        with suppress(BrokenPipeError):  # the caller is gone
            os.write(sys.stdout.fileno(), json.dumps(asdict(summary)).encode())
        return 0
    print(summary)
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main())
