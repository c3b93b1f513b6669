"""The lab's artifacts: what they are on disk and how each variant behaves as a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab.artifacts import (
    AARCH64,
    CRASH,
    ERRORS_20,
    GOOD,
    HEALTH_500,
    MIB,
    SLOW_BOOT,
    SLOW_P95,
    Variant,
    build,
    build_all,
    sha256,
    start_command,
    start_environment,
    with_machine,
)

INTERPRETER = Path(sys.executable)

Start = Callable[..., "Running"]


class Running:
    def __init__(self, process: subprocess.Popen[str], port: int, path: Path) -> None:
        self.process = process
        self.port = port
        self.path = path

    def get(self, target: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def until_listening(self, deadline: float = 10.0) -> float:
        began = time.monotonic()
        while time.monotonic() - began < deadline:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
                return time.monotonic() - began
            time.sleep(0.005)
        raise TimeoutError(f"no listener on port {self.port} within {deadline} s")

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=10)[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def start_one(variant: Variant, *, port: int | None = None) -> Running:
        path = build(variant, "v9.9.9", tmp_path, interpreter=INTERPRETER, size=1 * MIB)
        port = port or free_port()
        environment = start_environment() | {"VEZA_LISTEN": f"127.0.0.1:{port}"}
        process = subprocess.Popen(start_command(path), env=environment, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return Running(process, port, path)

    yield start_one
    for process in running:
        process.kill()
        process.communicate()


def test_the_same_inputs_give_the_same_bytes_and_each_release_differs(tmp_path: Path) -> None:
    first = build_all(tmp_path / "one", interpreter=INTERPRETER, size=1 * MIB)
    second = build_all(tmp_path / "two", interpreter=INTERPRETER, size=1 * MIB)

    digests = [sha256(path) for path in first.values()]
    assert digests == [sha256(path) for path in second.values()]
    assert len(set(digests)) == len(digests)


def test_an_artifact_is_an_executable_elf_of_the_size_asked_for(tmp_path: Path) -> None:
    size = INTERPRETER.resolve().stat().st_size + 3 * MIB

    path = build(GOOD, "v1.0.10", tmp_path, interpreter=INTERPRETER, size=size)

    assert path.name == "veza-api-v1.0.10"
    assert path.stat().st_size == size
    assert path.stat().st_mode & 0o777 == 0o755
    assert path.read_bytes()[:4] == b"\x7fELF"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_wrapper_script_is_refused_as_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "python3"
    script.write_text("#!/bin/sh\nexec python3\n")

    with pytest.raises(ValueError, match="not an ELF binary"):
        build(GOOD, "v1.0.10", tmp_path / "out", interpreter=script)


def test_a_wrong_architecture_copy_differs_only_in_its_machine_and_does_not_start(tmp_path: Path) -> None:
    path = build(GOOD, "v1.0.10", tmp_path, interpreter=INTERPRETER, size=1 * MIB)

    foreign = with_machine(path, AARCH64 if os.uname().machine == "x86_64" else 62, tmp_path / "foreign")

    ours, theirs = path.read_bytes(), foreign.read_bytes()
    assert [i for i in range(len(ours)) if ours[i] != theirs[i]] in ([18], [18, 19])
    with pytest.raises(OSError, match="Exec format error"):
        subprocess.run(start_command(foreign))


def test_the_running_process_is_the_artifact_and_names_its_version(start: Start) -> None:
    api = start(GOOD)
    api.until_listening()

    status, body = api.get("/api/v1/health")

    assert (status, json.loads(body)["version"]) == (200, "v9.9.9")
    assert Path(f"/proc/{api.process.pid}/exe").resolve() == api.path.resolve()


def test_requests_are_counted_by_path_and_status_and_scrapes_are_not(start: Start) -> None:
    api = start(GOOD)
    api.until_listening()
    for target in ("/api/v1/tracks", "/api/v1/tracks", "/api/v1/health", "/nowhere", "/metrics"):
        api.get(target)

    lines = api.get("/metrics")[1].splitlines()

    name = "veza_gin_http_request_duration_seconds"
    counts = [line for line in lines if line.startswith(f"{name}_count")]
    assert counts == [
        f'{name}_count{{method="GET",path="/api/v1/health",status="200"}} 1',
        f'{name}_count{{method="GET",path="/api/v1/tracks",status="200"}} 2',
        f'{name}_count{{method="GET",path="unmatched",status="404"}} 1',
    ]
    assert f'{name}_bucket{{method="GET",path="/api/v1/tracks",status="200",le="+Inf"}} 2' in lines
    assert 'veza_build_info{version="v9.9.9"} 1' in lines


def test_health_500_fails_its_health_check_only(start: Start) -> None:
    api = start(HEALTH_500)
    api.until_listening()

    assert (api.get("/api/v1/health")[0], api.get("/api/v1/tracks")[0]) == (500, 200)


def test_errors_20_fails_every_fifth_user_request_and_no_health_check(start: Start) -> None:
    api = start(ERRORS_20)
    api.until_listening()

    assert [api.get("/api/v1/tracks")[0] for _ in range(10)] == [200, 200, 200, 200, 500] * 2
    assert {api.get("/api/v1/health")[0] for _ in range(10)} == {200}


def test_slow_p95_delays_one_user_request_in_ten_by_nearly_a_second(start: Start) -> None:
    api = start(SLOW_P95)
    api.until_listening()

    took = []
    for _ in range(10):
        began = time.monotonic()
        assert api.get("/api/v1/tracks")[0] == 200
        took.append(time.monotonic() - began)

    assert max(took[:9]) < 0.5 < 0.9 <= took[9]


def test_crash_logs_one_line_and_exits_2(start: Start) -> None:
    api = start(CRASH)

    output = api.process.communicate(timeout=10)[1]

    assert api.process.returncode == 2
    assert len(output.splitlines()) == 1
    assert "panic" in output


def test_slow_boot_listens_after_three_seconds(start: Start) -> None:
    api = start(SLOW_BOOT)

    assert 3.0 <= api.until_listening() < 5.0


def test_a_taken_port_is_one_log_line_and_exit_1(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        api = start(GOOD, port=taken.getsockname()[1])
        output = api.process.communicate(timeout=10)[1]

    assert api.process.returncode == 1
    assert len(output.splitlines()) == 1
    assert "cannot listen" in output


def test_sigterm_finishes_the_request_in_flight_and_closes_idle_connections(start: Start) -> None:
    api = start(GOOD)
    api.until_listening()
    idle = http.client.HTTPConnection("127.0.0.1", api.port, timeout=5)
    idle.request("GET", "/api/v1/tracks")
    idle.getresponse().read()
    answers: list[tuple[int, str]] = []
    slow = threading.Thread(target=lambda: answers.append(api.get("/api/v1/slow?seconds=1")))
    slow.start()
    time.sleep(0.3)

    api.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", api.port))
    assert idle.sock is not None
    assert idle.sock.recv(1) == b""
    slow.join(5)

    assert answers == [(200, '{"held":1.0}\n')]
    assert api.process.wait(5) == 0


@pytest.mark.parametrize("query", ["", "?seconds=x", "?seconds=-1", "?seconds=nan", "?seconds=1e9"])
def test_slow_refuses_what_is_no_sane_duration(start: Start, query: str) -> None:
    api = start(GOOD)
    api.until_listening()

    assert api.get(f"/api/v1/slow{query}")[0] == 400


def test_nonsense_on_the_wire_is_answered_400_and_the_next_client_is_served(start: Start) -> None:
    api = start(GOOD)
    api.until_listening()

    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as sock:
        sock.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 ")

    assert api.get("/api/v1/health")[0] == 200


def test_pipelined_requests_are_all_answered_in_order(start: Start) -> None:
    api = start(GOOD)
    api.until_listening()

    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as sock:
        sock.sendall(
            b"GET /api/v1/tracks HTTP/1.1\r\n\r\nHEAD /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        received = b""
        while chunk := sock.recv(4096):
            received += chunk

    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"404"]
    assert received.endswith(b"\r\n\r\n")
