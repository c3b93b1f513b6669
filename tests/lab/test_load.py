"""The load generator's account must be right: it is the witness of "zero failed client requests"."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.load import Load

ROOT = Path(__file__).parents[2]


class Service:
    """A local HTTP service; `answer(number)` gives status and extra headers of the number-th request."""

    def __init__(self, answer: Callable[[int], tuple[int, dict[str, str]]]) -> None:
        self.requests = 0
        self.connections: set[tuple[str, int]] = set()
        self.cookies: list[str | None] = []
        self.lock = threading.Lock()
        service = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with service.lock:
                    service.requests += 1
                    number = service.requests
                    service.connections.add(self.client_address)
                    service.cookies.append(self.headers["Cookie"])
                status, headers = answer(number)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"ok\n")

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/api/v1/tracks"


@contextmanager
def serving(answer: Callable[[int], tuple[int, dict[str, str]]] = lambda _: (200, {})) -> Iterator[Service]:
    service = Service(answer)
    thread = threading.Thread(target=service.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        service.server.shutdown()
        service.server.server_close()
        thread.join()


@contextmanager
def raw_server(reply: bytes, *, hold: float = 0.0) -> Iterator[str]:
    """Sends `reply` on each connection whatever is asked, then closes after `hold` seconds."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.recv(65536)
                sock.sendall(reply)
                time.sleep(hold)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_three_failures_of_a_hundred_are_counted_as_three_with_time_and_reason() -> None:
    began = time.time()
    failing = (10, 50, 90)
    with (
        serving(lambda number: (503 if number in failing else 200, {})) as service,
        Load(service.url, rate=100, max_seconds=1) as load,
    ):
        time.sleep(1.2)
        summary = load.stop()

    assert (summary.sent, summary.ok, summary.failed) == (100, 97, 3)
    assert [what for _, what in summary.failures] == ["HTTP 503"] * 3
    assert all(began < when < time.time() for when, _ in summary.failures)
    assert service.requests == 100


def test_a_service_that_is_down_fails_every_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with Load(f"http://127.0.0.1:{port}/", rate=50, max_seconds=0.4) as load:
        time.sleep(0.6)
        summary = load.stop()

    assert (summary.sent, summary.ok, summary.failed) == (20, 0, 20)
    assert all("ConnectionRefusedError" in what for _, what in summary.failures)
    assert summary.p50 is None


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(b"", "IncompleteReadError", id="closed-without-an-answer"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "IncompleteReadError", id="cut-short"
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "BadAnswer", id="not-http"),
        pytest.param(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "HTTP 302", id="redirect"),
    ],
)
def test_an_answer_that_is_no_complete_2xx_is_a_failure(reply: bytes, reason: str) -> None:
    with raw_server(reply) as url, Load(url, rate=20, max_seconds=0.2, keep_alive=False) as load:
        time.sleep(0.4)
        summary = load.stop()

    assert (summary.sent, summary.failed) == (4, 4)
    assert all(reason in what for _, what in summary.failures)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="chunks"
        ),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", id="until-close"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="no-content"),
    ],
)
def test_every_way_to_frame_a_body_is_understood(reply: bytes) -> None:
    with raw_server(reply) as url, Load(url, rate=20, max_seconds=0.2) as load:
        time.sleep(0.4)
        summary = load.stop()

    assert (summary.sent, summary.failed) == (4, 0)


def test_a_stalled_service_does_not_slow_the_load_down_and_its_stall_is_in_the_latency() -> None:
    stalled = time.monotonic() + 1.0

    def answer(_: int) -> tuple[int, dict[str, str]]:
        time.sleep(max(0.0, stalled - time.monotonic()))
        return 200, {}

    with serving(answer) as service, Load(service.url, rate=50, max_seconds=1.2) as load:
        time.sleep(0.6)
        waiting = service.requests
        summary = load.stop()

    assert waiting > 15
    assert summary.failed == 0
    assert summary.max is not None
    assert summary.max > 0.5


def test_keep_alive_reuses_connections_and_without_it_each_request_has_its_own() -> None:
    used = []
    for keep_alive in (True, False):
        with serving() as service, Load(service.url, rate=50, max_seconds=0.6, keep_alive=keep_alive) as load:
            time.sleep(0.8)
            assert load.stop().failed == 0
        used.append(len(service.connections))

    assert used[0] < 10
    assert used[1] == 30


def test_a_sticky_client_sends_back_the_cookie_it_was_given() -> None:
    with (
        serving(lambda _: (200, {"Set-Cookie": "SERVERID=backend-api-2; path=/"})) as service,
        Load(service.url, rate=20, max_seconds=0.3, cookies={"session": "1"}) as load,
    ):
        time.sleep(0.4)
        load.stop()

    assert service.cookies[0] == "session=1"
    assert set(service.cookies[1:]) == {"session=1; SERVERID=backend-api-2"}


def test_without_cookies_none_are_kept() -> None:
    with (
        serving(lambda _: (200, {"Set-Cookie": "SERVERID=backend-api-2"})) as service,
        Load(service.url, rate=20, max_seconds=0.3) as load,
    ):
        time.sleep(0.4)
        load.stop()

    assert set(service.cookies) == {None}


def test_load_flows_when_the_block_begins_and_ends_with_it() -> None:
    with serving() as service:
        with Load(service.url, rate=100, max_seconds=60) as load:
            time.sleep(0.2)
            flowing = service.requests
        summary = load.stop()
        after = service.requests
        time.sleep(0.2)

        assert flowing > 5
        assert service.requests == after == summary.sent


def test_the_generator_ends_when_its_caller_is_killed() -> None:
    script = (
        "import sys, time\nfrom lab.load import Load\nwith Load(sys.argv[1], rate=50):\n    time.sleep(60)\n"
    )
    with serving() as service:
        caller = subprocess.Popen([sys.executable, "-c", script, service.url], cwd=ROOT)
        deadline = time.monotonic() + 10
        while service.requests < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        caller.kill()
        caller.wait()
        time.sleep(0.3)
        after = service.requests
        time.sleep(0.3)

        assert after >= 5
        assert service.requests == after


def test_an_answer_later_than_the_timeout_is_a_failure() -> None:
    with raw_server(b"", hold=0.5) as url, Load(url, rate=10, max_seconds=0.2, timeout=0.3) as load:
        time.sleep(0.3)
        summary = load.stop()

    assert [what for _, what in summary.failures] == ["no complete answer within 0.3 s"] * 2


def test_only_plain_http_urls_are_taken() -> None:
    with pytest.raises(ValueError, match="not a plain http URL"):
        Load("https://127.0.0.1/")


def test_the_command_prints_the_summary_and_exits_1_when_requests_failed() -> None:
    with serving(lambda number: (500 if number == 2 else 200, {})) as service:
        command = [sys.executable, "-m", "lab.load", service.url, "--rate", "20", "--seconds", "0.2"]
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stdout.startswith("sent 4 ok 3 failed 1 p50 ")
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} HTTP 500$", done.stdout, re.MULTILINE)
