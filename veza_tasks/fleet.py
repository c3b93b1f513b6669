"""The fleet as settings name it: every adapter, wired once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from veza_tasks.adapters.haproxy import LoadBalancer, get_over_http
from veza_tasks.adapters.host import GuardedHost, Host
from veza_tasks.adapters.incus import Incus
from veza_tasks.adapters.node import Node
from veza_tasks.events import Emit
from veza_tasks.settings import Settings

if TYPE_CHECKING:
    from veza_tasks.adapters.prometheus import Prometheus

Connect = Callable[[str, Settings], Host]
"""Gives the host of this name; nothing is sent before it is first used."""


def connect_with_ssh(name: str, settings: Settings) -> Host:
    """The real thing: one Fabric connection per Incus host."""
    from veza_tasks.adapters.ssh import SshHost

    return SshHost(
        name, settings.hosts[name], connect_timeout=settings.connect_timeout, ssh_config=settings.ssh_config
    )


def connect_to_prometheus(settings: Settings) -> Prometheus:
    """The Prometheus at ``PROM_URL``.

    Raises:
        ConfigError: the URL or a credentials file cannot be used.
    """
    from veza_tasks.adapters.prometheus import Prometheus

    return Prometheus(
        settings.prom_url,
        timeout=settings.prom_timeout,
        user=settings.prom_user,
        password_file=settings.prom_password_file,
        bearer_token_file=settings.prom_bearer_token_file,
        ca_file=settings.prom_ca_file,
    )


class Fleet:
    """All hosts, nodes and the load balancer named in ``fabfile.yaml``. Under ``plan`` no change passes.

    ``connect``, ``get`` (a client's request to the load balancer) and ``prometheus`` are the ways to the outside.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        emit: Emit,
        plan: bool = False,
        connect: Connect = connect_with_ssh,
        get: Callable[[str], str] = get_over_http,
        prometheus: Callable[[Settings], Prometheus] = connect_to_prometheus,
    ) -> None:
        self._settings = settings
        self._prometheus = prometheus
        self._connect = connect
        self._bare = {name: connect(name, settings) for name in settings.hosts}
        self._late: list[Host] = []
        self.hosts = {name: GuardedHost(host, emit, plan=plan) for name, host in self._bare.items()}
        timeout = settings.command_timeout
        self.incus = {
            name: Incus(host, settings.hosts[name], timeout=timeout) for name, host in self.hosts.items()
        }
        self.nodes = {
            name: Node(node, self.incus[node.host], timeout=timeout)
            for name, node in ((name, settings.node(name)) for name in settings.nodes)
        }
        balancer = settings.load_balancer
        self.load_balancer = LoadBalancer(
            self.incus[balancer.host],
            instance=balancer.instance,
            socket=balancer.socket,
            url=balancer.url,
            pool=settings.pool_backend,
            timeout=timeout,
            get=get,
        )

    @property
    def for_records(self) -> Incus:
        """Incus on the load balancer's host, for what a run keeps there about itself: that is no change of the fleet.

        After ``close`` it is on a new connection: an abandoned run still gives its lock back.
        """
        name = self._settings.load_balancer.host
        if self._bare:
            host = self._bare[name]
        else:
            self._late = self._late or [self._connect(name, self._settings)]
            host = self._late[0]
        return Incus(host, self._settings.hosts[name], timeout=self._settings.command_timeout)

    @property
    def changed(self) -> bool:
        """Whether any change was sent to the fleet since it was opened."""
        return any(host.changes for host in self.hosts.values())

    @property
    def planned(self) -> int:
        """How many changes ``--plan`` has announced so far."""
        return sum(host.planned for host in self.hosts.values())

    @property
    def canary(self) -> Node:
        return self.nodes[self._settings.canary_node]

    @property
    def peers(self) -> list[Node]:
        return [self.nodes[name] for name in self._settings.peer_nodes]

    @property
    def released_to(self) -> list[Node]:
        """The canary, then the peers, in the order in which a release reaches them."""
        return [self.canary, *self.peers]

    def node(self, name: str) -> Node:
        """A node by name.

        Raises:
            ConfigError: the fleet has no such node; names the nearest.
        """
        return self.nodes[self._settings.node(name).name]

    @cached_property
    def prometheus(self) -> Prometheus:
        return self._prometheus(self._settings)

    def open_ahead(self) -> None:
        """Connect to all hosts in the background: what a release speaks to is ready when it is needed."""
        balancer = self.load_balancer
        for incus in self.incus.values():
            instances = [node.name for node in self.released_to if node.incus is incus]
            incus.open_ahead([balancer.instance] * (balancer.incus is incus) + instances)

    def close(self) -> None:
        self._bare.clear()
        for host in (*self.hosts.values(), *self._late):
            host.close()
        self._late.clear()
