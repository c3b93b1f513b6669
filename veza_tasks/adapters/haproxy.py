"""HAProxy's runtime API, over ``incus exec … socat``, and its front door over HTTP.

Source: HAProxy management guide, section 9.3 ("Unix Socket commands"). The runtime API has no status codes and socat exits
0 on errors: a non-blank answer to a change is an error, and every change is read back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntFlag, StrEnum

from veza_tasks.adapters.host import Reply, ensure
from veza_tasks.adapters.incus import Incus
from veza_tasks.errors import FleetError

ASK = 'printf "%s\\n" "$1" | socat -t 5 - "UNIX-CONNECT:$2"'
"""Asks the runtime API ``$1`` on the socket ``$2``; several commands are separated by semicolons."""

STATES = "1\n# be_id"
"""How the answer to ``show servers state`` begins: its version, then its columns."""

SERVING = (1, 2)
"""Operational states of a server that gets requests: 1 warming up (``slowstart``), 2 running."""


class Admin(IntFlag):
    """Bits of ``srv_admin_state`` (management guide, "show servers state")."""

    MAINT = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
    DRAIN = 0x08 | 0x10


class State(StrEnum):
    """Administrative states that ``set server … state`` takes."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True)
class Server:
    """One server of the pool. ``sessions`` and ``queued`` are now, ``total`` since HAProxy's worker started."""

    name: str
    operational: int
    admin: int
    weight: int
    sessions: int
    queued: int
    total: int
    status: str
    checked: bool

    @property
    def state(self) -> State:
        if self.admin & Admin.MAINT:
            return State.MAINT
        return State.DRAIN if self.admin & Admin.DRAIN else State.READY

    @property
    def serves(self) -> bool:
        """Whether HAProxy sends it new requests."""
        return self.admin == 0 and self.weight > 0 and self.operational in SERVING

    @property
    def idle(self) -> bool:
        """Whether it has no request in hand. Idle keep-alive connections are no traffic."""
        return self.sessions == 0 and self.queued == 0

    def __str__(self) -> str:
        return f"{self.state}, {self.status}, weight {self.weight}, {self.sessions + self.queued} sessions"


@dataclass(frozen=True)
class Pool:
    """A HAProxy backend and its servers by name, as they were at one moment."""

    name: str
    algorithm: str
    servers: Mapping[str, Server]

    def server(self, name: str) -> Server:
        """One of them.

        Raises:
            FleetError: the pool has no such server.
        """
        try:
            return self.servers[name]
        except KeyError:
            raise FleetError(f"HAProxy's pool {self.name} has no server {name}") from None

    @property
    def hashed(self) -> bool:
        """Whether the algorithm may never send one client's requests to a given server."""
        return self.algorithm.partition("(")[0] not in (
            "roundrobin",
            "static-rr",
            "leastconn",
            "random",
            "first",
            "",
        )


def get_over_http(url: str) -> str:
    """GET on a connection of its own; gives the status code, or what went wrong, as text."""
    import requests  # a tenth of a second, in which the fleet can be connected to

    try:
        reply = requests.get(url, timeout=(2.0, 5.0), allow_redirects=False, headers={"Connection": "close"})
    except requests.RequestException as error:
        return f"no answer ({type(error).__name__})"
    return str(reply.status_code)


class LoadBalancer:
    """One HAProxy. State is re-read on every call and never remembered: a reload forgets drains."""

    def __init__(
        self,
        incus: Incus,
        *,
        instance: str,
        socket: str,
        url: str,
        pool: str,
        timeout: float,
        get: Callable[[str], str],
    ) -> None:
        self.instance = instance
        self.incus = incus
        self.pool_name = pool
        self.url = url.rstrip("/")
        self._socket = socket
        self._show = f"show servers state {pool};show stat {pool} 6 -1"
        self._timeout = timeout
        self._get = get

    def pool(self) -> Pool:
        """The pool as HAProxy sees it now.

        Raises:
            FleetError: HAProxy knows no such pool, or its answer makes no sense.
        """
        return self._pool(self._ask(self._show).out)

    def server(self, name: str) -> Server:
        """One server of the pool as it is now. Errors as ``pool`` and ``Pool.server``."""
        return self.pool().server(name)

    def set_state(self, name: str, state: State) -> None:
        """Set a server's administrative state and read it back (runbook steps 2 and 5)."""
        self._change(
            f"set server {self.pool_name}/{name} state {state}",
            lambda pool: name in pool.servers and pool.servers[name].state is state,
        )

    def close_sessions(self, name: str) -> None:
        """Cut the sessions that a server still has. Their clients see a broken connection."""
        self._change(f"shutdown sessions server {self.pool_name}/{name}", lambda pool: True)

    def get(self, path: str) -> str:
        """GET through the load balancer as a client would; gives the status code, or what went wrong, as text."""
        return self._get(self.url + path)

    def _server(self, name: str, row: Mapping[str, str], states: Mapping[str, Mapping[str, str]]) -> Server:
        try:
            state = states[name]
            return Server(
                name=name,
                operational=int(state["srv_op_state"]),
                admin=int(state["srv_admin_state"]),
                weight=int(state["srv_uweight"]),
                sessions=int(row["scur"] or 0),
                queued=int(row["qcur"] or 0),
                total=int(row["stot"] or 0),
                status=row["status"],
                checked=bool(row["check_status"]),
            )
        except (KeyError, ValueError) as error:
            raise FleetError(
                f"{self.instance}: the state of {self.pool_name}/{name} makes no sense: {error!r}"
            ) from None

    def _ask(self, command: str, *, effect: str = "") -> Reply:
        """Commands on a connection of their own: one that is kept stays with the old worker when HAProxy is reloaded."""
        argv = ["sh", "-c", ASK, "sh", command, self._socket]
        reply = self.incus.execute(self.instance, argv, effect=effect, timeout=self._timeout)
        if reply.status:
            raise FleetError(
                f"{self.instance}: the admin socket {self._socket} does not answer: {reply.complaint}"
            )
        return reply

    def _change(self, command: str, came_true: Callable[[Pool], bool]) -> None:
        """Make a change and read the pool back, on one connection. A lost answer is looked up and, if need be, sent again."""
        read_back: list[Pool] = []

        def change() -> Reply:
            reply = self._ask(f"{command};{self._show}", effect=command)
            if not reply.planned:
                complaint, begins, states = reply.out.partition(STATES)
                if complaint.strip():
                    said = " ".join(complaint.split())
                    raise FleetError(f"{self.instance}: HAProxy answered to {command!r}: {said}")
                read_back.append(self._pool(begins + states))
            return reply

        if not ensure(change, lambda: came_true(read_back.pop() if read_back else self.pool())):
            raise FleetError(f"{self.instance}: HAProxy took {command!r} and did not do it")

    def _pool(self, answer: str) -> Pool:
        states, begins, stats = answer.partition("\n# pxname,")
        if STATES not in states:
            raise FleetError(f"{self.instance}: no pool {self.pool_name}: {' '.join(states.split())[:200]}")
        try:
            rows = {row.get("svname", ""): row for row in _csv(begins + stats)}
        except csv.Error as error:
            raise FleetError(f"{self.instance}: `show stat` did not answer with CSV: {error}") from None
        by_name = _states(states)
        return Pool(
            name=self.pool_name,
            algorithm=rows.pop("BACKEND", {}).get("algo", ""),
            servers={name: self._server(name, row, by_name) for name, row in rows.items()},
        )


def _states(text: str) -> dict[str, Mapping[str, str]]:
    """The rows of ``show servers state`` by server name; their header begins with ``# be_id``."""
    lines = text[text.index(STATES) + len(STATES) - len("be_id") :].splitlines()
    names = lines[0].split()
    rows = [dict(zip(names, line.split(), strict=False)) for line in lines[1:] if line]
    return {row.get("srv_name", ""): row for row in rows}


def _csv(text: str) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(text.strip().removeprefix("# ")), restval="")
