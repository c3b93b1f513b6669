"""The program inside every lab artifact: a small HTTP/1.1 backend, its faults fixed at build time.

It answers like the real backend as far as a release can see: `/api/v1/health`, `/api/v1/tracks`, `/metrics`
with the histogram `veza_gin_http_request_duration_seconds`, graceful SIGTERM. `/api/v1/slow?seconds=N` holds
a request for N seconds. Every reply names the version in `X-Veza-Version`.

Only cheap imports: `http.server` or `asyncio` alone would take longer than the whole start does now.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import sys
import threading
import time
from bisect import bisect_left
from contextlib import suppress

HEALTH = "/api/v1/health"
TRACKS = "/api/v1/tracks"
SLOW = "/api/v1/slow"
METRICS = "/metrics"

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # Go client: prometheus.DefBuckets
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
}
JSON = "application/json"
MAX_HEAD = 65536  # bytes of request line and headers
MAX_HOLD = 600.0  # seconds that /api/v1/slow may hold a request
STOP_DEADLINE = 60.0  # seconds for requests in flight after SIGTERM; systemd kills at 90


class Histogram:
    """`veza_gin_http_request_duration_seconds` by method, path and status."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, int], list[int]] = {}
        self._sums: dict[tuple[str, str, int], float] = {}

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        key = (method, path, status)
        with self._lock:
            self._counts.setdefault(key, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, seconds)] += 1
            self._sums[key] = self._sums.get(key, 0.0) + seconds

    def render(self) -> str:
        """All series in the Prometheus text format 0.0.4."""
        name = "veza_gin_http_request_duration_seconds"
        lines = [f"# HELP {name} Duration of HTTP requests in seconds.", f"# TYPE {name} histogram"]
        with self._lock:
            for key in sorted(self._counts):
                method, path, status = key
                labels = f'method="{method}",path="{path}",status="{status}"'
                running = 0
                for bound, count in zip((*BUCKETS, None), self._counts[key], strict=True):
                    running += count
                    le = "+Inf" if bound is None else format(bound, "g")
                    lines.append(f'{name}_bucket{{{labels},le="{le}"}} {running}')
                lines.append(f"{name}_sum{{{labels}}} {self._sums[key]!r}")
                lines.append(f"{name}_count{{{labels}}} {running}")
        return "\n".join(lines) + "\n"


class Backend:
    """What the program answers. Each number is a fault; its default is none.

    `error_every` and `slow_every`: every how many-th user request gets a 500, or takes 0.9 to 1.0 s. Health
    checks and scrapes are no user requests.
    """

    def __init__(
        self, *, version: str, health_status: int = 200, error_every: int = 0, slow_every: int = 0
    ) -> None:
        self.version = version
        self._health_status = health_status
        self._error_every = error_every
        self._slow_every = slow_every
        self._user_requests = itertools.count(1)  # next() is atomic under the interpreter lock
        self._histogram = Histogram()

    def respond(self, method: str, target: str) -> tuple[int, str, bytes]:
        """Status, content type and body; counts the request in the histogram, scrapes excepted."""
        path, _, query = target.partition("?")
        if method not in ("GET", "HEAD"):
            return 405, JSON, b'{"error":"only GET and HEAD"}\n'
        if path == METRICS:
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics()
        began = time.perf_counter()
        status, body = self._route(path, query)
        label = path if path in (HEALTH, TRACKS, SLOW) else "unmatched"
        self._histogram.observe(method, label, status, time.perf_counter() - began)
        return status, JSON, (body + "\n").encode()

    def _route(self, path: str, query: str) -> tuple[int, str]:
        if path == HEALTH:
            state = "ok" if self._health_status == 200 else "broken"
            return self._health_status, f'{{"status":"{state}","version":"{self.version}"}}'
        if path not in (TRACKS, SLOW):
            return 404, '{"error":"no such path"}'
        number = next(self._user_requests)
        if self._error_every and number % self._error_every == 0:
            return 500, '{"error":"deliberate"}'
        if self._slow_every and number % self._slow_every == 0:
            time.sleep(0.9 + 0.01 * (number // self._slow_every % 10))
        if path == SLOW:
            return hold(query)
        return 200, '{"tracks":[{"id":1,"title":"Lorem"},{"id":2,"title":"Ipsum"}]}'

    def _metrics(self) -> bytes:
        build = f'# TYPE veza_build_info gauge\nveza_build_info{{version="{self.version}"}} 1\n'
        return (self._histogram.render() + build).encode()


def hold(query: str) -> tuple[int, str]:
    try:
        seconds = float(query.partition("seconds=")[2].partition("&")[0])
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= MAX_HOLD:
        return 400, f'{{"error":"seconds must be a number from 0 to {MAX_HOLD:g}"}}'
    time.sleep(seconds)
    return 200, f'{{"held":{seconds!r}}}'


class Connection:
    """One accepted socket. `busy` from the first byte of a request until its reply is sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.busy = False

    def idle(self) -> bool:
        if self.busy:
            return False
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # nothing there yet (EAGAIN), or nobody
            return True


class Server:
    """One thread per connection; `stop` behaves like Go's `Server.Shutdown`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._connections: set[Connection] = set()
        self._changed = threading.Condition()
        self._stopping = False

    def accept_all(self, listener: socket.socket) -> None:
        """Take every connection that waits in the queue of this non-blocking listener."""
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock)
            with self._changed:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def stop(self) -> bool:
        """Close idle connections, wait for requests in flight; False when the deadline comes first."""
        with self._changed:
            self._stopping = True
            for connection in self._connections:
                if connection.idle():
                    shut(connection.sock)
            return self._changed.wait_for(lambda: not self._connections, STOP_DEADLINE)

    def _serve(self, connection: Connection) -> None:
        try:
            self._answer_all(connection)
        except OSError:
            pass  # the client went away in mid-request: nobody is left to tell
        finally:
            connection.sock.close()
            with self._changed:
                self._connections.discard(connection)
                self._changed.notify_all()

    def _answer_all(self, connection: Connection) -> None:
        received = b""
        while True:
            # A look before the read: stop() must see a request in the socket or in `busy`, never in neither.
            if not received and not connection.sock.recv(1, socket.MSG_PEEK):
                return
            with self._changed:
                connection.busy = True
            while b"\r\n\r\n" not in received:
                chunk = connection.sock.recv(MAX_HEAD)
                if not chunk or len(received) > MAX_HEAD:
                    return
                received += chunk
            head, _, received = received.partition(b"\r\n\r\n")
            last = self._answer(connection.sock, head.decode("latin-1"))
            with self._changed:
                connection.busy = False
                if last or self._stopping:
                    return

    def _answer(self, sock: socket.socket, head: str) -> bool:
        """Send one reply; True when the connection ends with it."""
        lines = head.split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            method, protocol = "GET", "HTTP/1.0"
            status, kind, body = 400, JSON, b'{"error":"not HTTP/1"}\n'
        else:
            method, target, protocol = words
            status, kind, body = self._backend.respond(method, target)
        wish = [line[11:].strip().lower() for line in lines if line.lower().startswith("connection:")]
        # A body is never read, so a connection that may carry one ends here.
        last = self._stopping or status in (400, 405) or "close" in wish
        last = last or (protocol == "HTTP/1.0" and "keep-alive" not in wish)
        reply = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\n"
            f"Content-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"X-Veza-Version: {self._backend.version}\r\n"
            f"Connection: {'close' if last else 'keep-alive'}\r\n\r\n"
        )
        sock.sendall(reply.encode() + (b"" if method == "HEAD" else body))
        return last


def shut(sock: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        sock.shutdown(socket.SHUT_RDWR)


def log(text: str) -> None:
    sys.stderr.write(f"veza-api: {text}\n")
    sys.stderr.flush()


def main(
    *,
    version: str,
    health_status: int = 200,
    error_every: int = 0,
    slow_every: int = 0,
    boot_seconds: float = 0.0,
    crash: bool = False,
) -> int:
    """Serve on `VEZA_LISTEN` (default `0.0.0.0:8080`) until SIGTERM or SIGINT.

    Returns the exit code: 0 stopped as asked, 1 no listener or requests left behind, 2 for a deliberate
    `crash`.
    """
    if crash:
        log(f"panic: deliberate crash at start, version {version}")
        return 2
    time.sleep(boot_seconds)
    address = os.environ.get("VEZA_LISTEN", "0.0.0.0:8080")
    host, _, port = address.rpartition(":")
    try:
        listener = socket.create_server((host, int(port)), backlog=1024)
    except (OSError, ValueError, OverflowError) as error:
        log(f"cannot listen on {address}: {error}")
        return 1
    listener.setblocking(False)
    wake, signalled = socket.socketpair()
    signalled.setblocking(False)
    signal.set_wakeup_fd(signalled.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # the byte on the wake-up socket is what counts
    log(f"listening on {address} version {version}")

    backend = Backend(
        version=version, health_status=health_status, error_every=error_every, slow_every=slow_every
    )
    server = Server(backend)
    ready = select.poll()
    ready.register(listener, select.POLLIN)
    ready.register(wake, select.POLLIN)
    while wake.fileno() not in [descriptor for descriptor, _ in ready.poll()]:
        server.accept_all(listener)
    server.accept_all(listener)  # who already waits in the queue is served too
    listener.close()
    if not server.stop():
        log(f"requests still in flight after {STOP_DEADLINE:g} s, gone with the process")
        return 1
    log(f"stopped, version {version}")
    return 0
