"""The files a lab fleet consists of, as text: what runs where, and the fleet file that names it all."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import artifacts

INSTALL_DIR = "/opt/veza/backend-api"
UNIT = "veza-backend-api"
POOL_BACKEND = "api_pool"
ADMIN_SOCKET = "/run/haproxy/admin.sock"
HEALTH_PATH = "/api/v1/health"


def unit() -> str:
    return f"""\
[Unit]
Description=Veza backend API
StartLimitIntervalSec=0

[Service]
Type=simple
ExecStart={shlex.join(artifacts.start_command(f"{INSTALL_DIR}/veza-api"))}
Restart=always
RestartSec=100ms

[Install]
WantedBy=multi-user.target
"""


def haproxy(servers: Mapping[str, str], *, backend: Sequence[str], server: str) -> str:
    """`servers`: name to address. `backend`: more lines of the pool. `server`: more words on every server
    line, in which `{name}` stands for the server's name."""
    extra = "".join(f"    {line}\n" for line in backend)
    lines = "".join(
        f"    server {name} {address}:8080 check {server.replace('{name}', name)}".rstrip() + "\n"
        for name, address in servers.items()
    )
    return f"""\
global
    user haproxy
    group haproxy
    stats socket {ADMIN_SOCKET} mode 660 level admin expose-fd listeners
    stats timeout 30s
    hard-stop-after 60s

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
    bind :80
    default_backend {POOL_BACKEND}

backend {POOL_BACKEND}
    balance roundrobin
    option httpchk GET {HEALTH_PATH}
    http-check expect status 200
{extra}    default-server inter 1s fall 3 rise 2
{lines}"""


def prometheus(servers: Mapping[str, str]) -> str:
    targets = "".join(
        f"      - {{targets: ['{address}:8080'], labels: {{instance: '{name}:8080'}}}}\n"
        for name, address in servers.items()
    )
    return f"""\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: backend-api
    static_configs:
{targets}"""


def sshd(directory: Path, *, port: int, root_is_locked: bool) -> str:
    # Without PAM sshd refuses an account with a locked password (Ubuntu's root); with it sessions are slow.
    return f"""\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/id_ed25519.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM {"yes" if root_is_locked else "no"}
# The directory may lie below one that everybody can write to.
StrictModes no
PrintMotd no
MaxSessions 100
MaxStartups 100
Subsystem sftp internal-sftp
# A login shell level: bash would read ~/.bashrc for every command otherwise.
SetEnv SHLVL=1
"""


def fleet_file(
    directory: Path, *, name: str, port: int, nodes: Sequence[str], lb_url: str, prom_url: str
) -> str:
    canary, peers = nodes[1], [nodes[0], *nodes[2:]]
    node_lines = "".join(f"    {node}: {{host: incus-1}}\n" for node in nodes)
    return f"""\
# A disposable fleet (python -m lab.incus up --name {name}); written anew by every `up`.
veza:
  hosts:
    incus-1:
      address: 127.0.0.1
      port: {port}
      user: root
      key_file: {directory}/id_ed25519
      known_hosts: {directory}/known_hosts
      incus_command: incus
      project: {name}
      remote: local
  nodes:
{node_lines}  load_balancer: {{host: incus-1, instance: haproxy, socket: {ADMIN_SOCKET}, url: "{lb_url}"}}
  pool_backend: {POOL_BACKEND}
  canary_node: {canary}
  peer_nodes: [{", ".join(peers)}]
  prom_url: {prom_url}
  migrations_dir: none
  sli_window_floor: 0          # the lab only: production keeps 300
  sli_window: 15
  sli_probe_interval: 1
  sli_range: 15
"""
