"""HAProxy's own word on who is in rotation, taken from outside its container and without disturbing what is measured."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Self

from lab.incus import Fleet, LabError
from lab.incus.fleet import LOAD_BALANCER
from lab.incus.templates import ADMIN_SOCKET, POOL_BACKEND

SAMPLE_EVERY = 0.01  # seconds


class AdminSocket:
    """HAProxy's runtime API in its container, from the host's side: /proc/PID/root crosses into the container (proc(5)),
    so that no client program and no daemon stands in between."""

    def __init__(self, pid: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(5.0)
        self._socket.connect(f"/proc/{pid}/root{ADMIN_SOCKET}")
        self.ask("prompt")

    def ask(self, command: str) -> str:
        self._socket.sendall(f"{command}\n".encode())
        answer = b""
        while not answer.endswith(b"\n> "):
            received = self._socket.recv(65536)
            if not received:
                raise LabError(f"HAProxy closed its admin socket during {command!r}")
            answer += received
        return answer[:-3].decode()

    def set_state(self, server: str, state: str) -> None:
        complaint = self.ask(f"set server {POOL_BACKEND}/{server} state {state}").strip()
        if complaint:
            raise LabError(f"HAProxy: {complaint}")

    def serving(self) -> dict[str, bool]:
        """Whether HAProxy sends new requests to each server (management guide 9.3, "show servers state")."""
        _, header, *rows = self.ask(f"show servers state {POOL_BACKEND}").strip().splitlines()
        fields = header.removeprefix("# ").split()
        servers = (dict(zip(fields, row.split(), strict=False)) for row in rows)
        return {
            server["srv_name"]: server["srv_admin_state"] == "0"
            and server["srv_op_state"] in ("1", "2")
            and server["srv_uweight"] != "0"
            for server in servers
        }

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def sampled(fleet: Fleet) -> Iterator[Callable[[], tuple[dict[str, float], float]]]:
    """Sample the rotation in a process of its own; call what it gives to end that, for the seconds out of rotation by
    server and the samples per second."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    sampler = context.Process(target=_sample, args=(container_pid(fleet), theirs), daemon=True)
    sampler.start()
    theirs.close()
    ours.recv()

    def stop() -> tuple[dict[str, float], float]:
        ours.send(None)
        found: tuple[dict[str, float], float] = ours.recv()
        return found

    try:
        yield stop
    finally:
        ours.close()
        sampler.join(5.0)


def _sample(pid: int, caller: Connection) -> None:
    out: dict[str, float] = defaultdict(float)
    with AdminSocket(pid) as haproxy:
        was, samples = haproxy.serving(), 0
        began = then = time.monotonic()
        caller.send(None)
        try:
            while not caller.poll(SAMPLE_EVERY):
                serving, now = haproxy.serving(), time.monotonic()
                for server in serving:
                    # From the first sample that finds it out until the first that finds it back.
                    out[server] += 0.0 if was[server] else now - then
                was, then = serving, now
                samples += 1
        except EOFError:
            return  # the caller is gone
        caller.send((dict(out), samples / (then - began)))


def container_pid(fleet: Fleet) -> int:
    """The first process of HAProxy's container, as the host numbers it."""
    return int(fleet.instances()[LOAD_BALANCER]["state"]["pid"])
