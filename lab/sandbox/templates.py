"""The files a sandbox consists of, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

POOL_BACKEND = "api_pool"
HEALTH_PATH = "/api/v1/health"


def haproxy(
    socket: Path, *, bind: str, servers: Mapping[str, str], backend: Sequence[str] = (), server: str = ""
) -> str:
    """`bind` and `servers` (by name): address:port. `backend`: further lines of the pool. `server`: further words on
    every server line, `{name}` being the server's name."""
    extra = "".join(f"    {line}\n" for line in backend)
    lines = "".join(
        f"    server {name} {address} check {server.replace('{name}', name)}".rstrip() + "\n"
        for name, address in servers.items()
    )
    return f"""\
global
    stats socket "{socket}" mode 600 level admin expose-fd listeners
    stats timeout 30s
    hard-stop-after 60s
    maxconn 1000

defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout queue 5s
    timeout http-request 10s
    timeout http-keep-alive 30s
    retries 3
    option redispatch 1

frontend api
    bind {bind}
    default_backend {POOL_BACKEND}

backend {POOL_BACKEND}
    balance roundrobin
    option httpchk GET {HEALTH_PATH}
    http-check expect status 200
{extra}    default-server inter 1s fall 3 rise 2
{lines}"""


def prometheus(targets: Mapping[str, str]) -> str:
    """`targets`: the label `instance` to address:port. Also read by the stand-in: JSON is YAML."""
    static = [{"targets": [address], "labels": {"instance": name}} for name, address in targets.items()]
    return json.dumps(
        {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "backend-api", "static_configs": static}],
        },
        indent=1,
    )


def sshd(directory: Path, *, address: str, port: int) -> str:
    return f"""\
ListenAddress {address}
Port {port}
HostKey "{directory}/host_key"
PidFile none
AuthorizedKeysFile "{directory}/id_ed25519.pub"
AuthenticationMethods publickey
PermitRootLogin prohibit-password
# PAM needs root, and so do its checks.
UsePAM no
# The directory may lie below one that everybody can write to.
StrictModes no
PrintMotd no
MaxSessions 100
MaxStartups 100
# A login shell level: bash would read ~/.bashrc for every command otherwise.
SetEnv SHLVL=1
"""


def fleet_file(
    directory: Path,
    *,
    name: str,
    address: str,
    port: int,
    user: str,
    incus_command: Sequence[str],
    nodes: Mapping[str, Mapping[str, str]],
    socket: Path,
    lb_url: str,
    prom_url: str,
) -> str:
    first, canary, *others = nodes
    node_lines = "".join(f"    {node}: {json.dumps(own)}\n" for node, own in nodes.items())
    return f"""\
# A disposable fleet (python -m lab.sandbox up --name {name}); written anew by every `up`.
veza:
  hosts:
    incus-1:
      address: {address}
      port: {port}
      user: {json.dumps(user)}
      key_file: {json.dumps(f"{directory}/id_ed25519")}
      known_hosts: {json.dumps(f"{directory}/known_hosts")}
      incus_command: {json.dumps(list(incus_command))}      # a stand-in
      project: {name}
      remote: local
  nodes:
{node_lines}  load_balancer: {{host: incus-1, instance: haproxy, socket: {json.dumps(str(socket))}, url: "{lb_url}"}}
  pool_backend: {POOL_BACKEND}
  canary_node: {canary}
  peer_nodes: [{", ".join([first, *others])}]
  prom_url: {prom_url}
  migrations_dir: none
  ssh_config: {json.dumps(f"{directory}/ssh_config")}      # empty: the user's own knows nothing of the lab
  sli_window_floor: 0          # the lab only: production keeps 300
  sli_window: 15
  sli_probe_interval: 1
  sli_range: 15
"""
