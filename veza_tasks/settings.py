"""The settings: one frozen, typed object, and where each of its values came from.

Flag beats environment beats ``fabfile.yaml`` beats default. The knobs of the runbook keep their names: upper
case in the environment, lower case in the file and here, with dashes as flags. All times are float seconds.

Importing this module costs pydantic's import, as much as Invoke's own: ``tasks.py`` does so inside tasks.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo

from veza_tasks.errors import ConfigError
from veza_tasks.migrations import CannotTell, configuration

RUNNING = "running"
"""``ROLLBACK_BINARY=running``: go back to what the node ran when the run began."""

Place = tuple[str, ...]
"""Where a value stands: ``("sli_window",)`` or ``("nodes", "backend-api-1", "host")``."""


@dataclass(frozen=True)
class Wanted:
    """What a setting takes: ``kind`` for tables, ``words`` to end the sentence of an error."""

    kind: str
    words: str
    path: bool = False


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd])")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 30 * 86400.0


def _number(value: object) -> object:
    # Python counts True as 1 and reads 1_000, 010 and nan; who writes these means something else.
    if isinstance(value, bool) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        raise ValueError("not a number")
    return value


def _seconds(value: object) -> object:
    if isinstance(value, str) and 0 < len(value) < 40 and not _DURATION_PART.sub("", value):
        return sum(float(count) * _DURATION_UNITS[unit] for count, unit in _DURATION_PART.findall(value))
    return _number(value)


def _switch(value: object) -> object:
    text = str(value).lower() if isinstance(value, bool | int | str) else ""
    if text not in ("1", "true", "0", "false"):
        raise ValueError("not a switch")
    return text in ("1", "true")


def _text(value: object) -> object:
    if isinstance(value, str) and (
        not value.strip() or any(unicodedata.category(c)[0] == "C" for c in value)
    ):
        raise ValueError("empty, or holds control characters")
    return value


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text) if word]


def _list(value: object) -> object:
    # The word none is the empty list, so that an empty variable need not mean anything.
    if isinstance(value, str):
        words = _words(value)
        if not words:
            raise ValueError("empty")
        return [] if words == ["none"] else words
    return value


def _command(value: object) -> object:
    words = shlex.split(value) if isinstance(value, str) else value
    if not words:
        raise ValueError("empty")
    return words


def _base_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = urlsplit(value)
    extras = "@" in parts.netloc or "?" in value or "#" in value
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or extras:
        raise ValueError("not a base URL")
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("holds blanks or control characters")
    return value.rstrip("/")


def _directory(value: object) -> object:
    if isinstance(value, str) and (
        value[:1] != "/" or value[1:2] in ("", "/") or os.path.normpath(value) != value
    ):
        raise ValueError("not an absolute, normalised path below /")
    return _text(value)


_NAME = Wanted("name", "a name of at most 63 letters, digits and _.:@-, beginning with a letter or digit")
_INCUS_NAME = Wanted("name", "a name of at most 63 letters, digits and -, beginning with a letter")
_LIST_WORDS = "a list, or text separated by spaces or commas, or the word none"
_DURATION_WORDS = 'seconds or text such as "5m", "1h", "1.5s", "250ms"'
_UPTO = Field(le=_LONGEST, allow_inf_nan=False)
_WHOLE = Wanted("whole number", "a whole number of 1 or more")
_PATH = Wanted("path", "a path without control characters", path=True)
_URL = Wanted("URL", "an http or https URL with a host, without user, password, query and fragment")
_DIRECTORY = Wanted(
    "directory", "an absolute path below / without control characters, '.', '..' and trailing '/'"
)
_TEXT = Wanted("text", "text that is not empty and has no control characters")

DurationOrZero = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0),
    _UPTO,
    Wanted("duration", f"{_DURATION_WORDS}, from 0 to 30d"),
]
Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0),
    _UPTO,
    Wanted("duration", f"{_DURATION_WORDS}, above 0 up to 30d"),
]
Threshold = Annotated[
    float,
    BeforeValidator(_number),
    Field(gt=0, allow_inf_nan=False),
    Wanted("number", "a finite number above 0"),
]
Ratio = Annotated[
    float,
    BeforeValidator(_number),
    Field(ge=1e-9, lt=1, allow_inf_nan=False),
    Wanted("ratio", "a number above 0 and below 1 (0.005 is 0.5 %)"),
]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1, le=10**9), _WHOLE]
OptionalCount = Annotated[Count | None, _WHOLE]
Port = Annotated[int, BeforeValidator(_number), Field(ge=1, le=65535)]
OptionalPort = Annotated[Port | None, Wanted("port", "a port from 1 to 65535")]
Switch = Annotated[bool, BeforeValidator(_switch), Wanted("switch", "1, 0, true or false")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,62}$"), _NAME]
OptionalName = Annotated[Name | None, _NAME]
IncusName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,62}$"), _INCUS_NAME]
Names = Annotated[
    tuple[Name, ...], BeforeValidator(_list), Wanted("names", f"{_LIST_WORDS}; each {_NAME.words}")
]
IncusNames = Annotated[
    tuple[IncusName, ...], BeforeValidator(_list), Wanted("names", f"{_LIST_WORDS}; each {_INCUS_NAME.words}")
]
Address = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9:][A-Za-z0-9_.:%-]{0,252}$"),
    Wanted("address", "a host name, an IP address or a Host of the SSH configuration"),
]
OptionalText = Annotated[str | None, BeforeValidator(_text), _TEXT]
FilePath = Annotated[Path, BeforeValidator(_text), _PATH]
OptionalPath = Annotated[Path | None, BeforeValidator(_text), _PATH]
Folders = Annotated[tuple[FilePath, ...], BeforeValidator(_list), Wanted("folders", _LIST_WORDS)]
LastKnownGood = Annotated[
    str | None, BeforeValidator(_text), Wanted("path or running", f"a path or the word {RUNNING}", path=True)
]
Url = Annotated[str, BeforeValidator(_base_url), _URL]
OptionalUrl = Annotated[str | None, BeforeValidator(_base_url), _URL]
UrlPath = Annotated[
    str,
    Field(pattern=r"^/[A-Za-z0-9._~%!$&()*+,;=:@/-]*$"),
    Wanted("URL path", "a path that begins with / and has no blanks, quotes, ? or #"),
]
Directory = Annotated[str, BeforeValidator(_directory), _DIRECTORY]
OptionalDirectory = Annotated[str | None, BeforeValidator(_directory), _DIRECTORY]
MetricName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_:][A-Za-z0-9_:]*$"),
    Wanted("metric name", "letters, digits, _ and :, not a digit first"),
]
Revision = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9@][!-~]*$"),
    Wanted("git revision", "a git revision, such as origin/main or v1.0.9"),
]
Command = Annotated[
    tuple[Annotated[str, BeforeValidator(_text)], ...],
    BeforeValidator(_command),
    Wanted("command", "a list of words, or text quoted as in a shell"),
]
MigrationTool = Annotated[
    str, BeforeValidator(configuration.tool), Wanted("tool", configuration.wanted("migrations_tool"))
]
LintLevels = Annotated[
    tuple[str, ...],
    BeforeValidator(configuration.levels),
    Wanted("levels", configuration.wanted("migrations_rules")),
]
Scope = Annotated[Literal["canary", "service"], Wanted("canary or service", "canary or service")]
DeadMan = Annotated[
    Literal["on", "off"],
    # YAML reads on and off as booleans.
    BeforeValidator(lambda value: ("off", "on")[value] if isinstance(value, bool) else value),
    Wanted("on or off", "on or off"),
]
DrainPolicy = Annotated[Literal["abort", "close"], Wanted("abort or close", "abort or close")]


def seconds(text: str) -> float:
    """A duration such as ``90`` or ``5m``, in seconds.

    Raises:
        ValueError: it is none.
    """
    try:
        return TypeAdapter(DurationOrZero).validate_python(text)
    except ValidationError:
        raise ValueError(f"{text!r}; wanted {_DURATION_WORDS}, from 0 to 30d") from None


def _knob(default: object, help_line: str, *, unit: str = "", file_only: bool = False) -> Any:
    return Field(default, description=help_line, json_schema_extra={"unit": unit, "file_only": file_only})


class Table(BaseModel):
    """A table of the file: frozen, and without room for keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HostSettings(Table):
    """One Incus server, reached by SSH. What is not given here comes from ``SSH_CONFIG``."""

    address: Address = _knob("", "what SSH connects to; default: the host's name here")
    user: OptionalName = _knob(None, "SSH user")
    port: OptionalPort = _knob(None, "SSH port")
    key_file: OptionalPath = _knob(None, "SSH private key; default: the agent's")
    known_hosts: OptionalPath = _knob(None, "file that holds the host's key; default: OpenSSH's own files")
    incus_command: Command = _knob(("incus",), "the Incus client on the host, such as sudo -n incus")
    project: Name = _knob("default", "Incus project of the instances")
    remote: Name = _knob("local", "Incus remote of the instances, as the client on the host knows it")


class NodeSettings(Table):
    """One Incus instance that runs the backend. What is missing here comes from the knob of the same name."""

    host: Name = _knob("", "the host that it runs on; must be given")
    server: Name = _knob("", "its name in the HAProxy pool; default: the node's name")
    install_dir: OptionalDirectory = _knob(None, "where its veza-api lies")
    health_url: OptionalUrl = _knob(None, "base URL of its health check, seen from inside the instance")
    sli_selector: OptionalText = _knob(None, "PromQL label matchers of its series, for those on instance")


class LoadBalancerSettings(Table):
    """The HAProxy in front of the nodes, itself in an Incus instance."""

    host: Name = _knob("", "the host that it runs on; must be given")
    instance: IncusName = _knob("haproxy", "the Incus instance that runs HAProxy")
    socket: Directory = _knob("/run/haproxy/admin.sock", "HAProxy's admin socket inside the instance")
    url: Url = _knob("http://haproxy.lxd", "base URL of what clients use")


@dataclass(frozen=True)
class Node:
    """One node with everything resolved. ``health_url`` is complete, ``HEALTH_PATH`` included."""

    name: str
    host: str
    server: str
    install_dir: str
    health_url: str
    sli_selector: str | None
    unit: str


class Settings(Table):
    """Everything that may be set; times in seconds. :func:`load` also checks the parts against each other.

    Source of the runbook's names and defaults: its table "Configuration knobs" and its steps 4, 6 and 7.
    """

    artifact: OptionalPath = _knob(None, "the signed-off binary to release")
    rollback_binary: LastKnownGood = _knob(
        None,
        "last known good: a path (under INSTALL_DIR: on the node), or running; default: veza-api.previous",
    )
    force_migrate: Switch = _knob(False, "go on although the migration check refuses")

    pool_backend: Name = _knob("api_pool", "the HAProxy backend whose servers the nodes are")
    canary_node: IncusName = _knob("backend-api-2", "the node that gets the new binary first")
    peer_nodes: IncusNames = _knob(("backend-api-1",), "the nodes that follow a proven canary, in order")
    ignored_servers: Names = _knob(
        (), "servers of the pool that are neither canary nor peer and are left alone"
    )
    max_unavailable: Count = _knob(1, "how many peers may be out of rotation at a time", unit="nodes")

    sli_window: DurationOrZero = _knob(3600.0, "how long the canary is watched; 300 at least", unit="s")
    sli_window_floor: DurationOrZero = _knob(
        300.0, "the least SLI_WINDOW that is accepted", unit="s", file_only=True
    )
    sli_probe_interval: Duration = _knob(30.0, "time from one probe to the next", unit="s")
    prom_p95_threshold_s: Threshold = _knob(0.5, "p95 latency from which a probe is red; the SLO", unit="s")
    prom_err_rate_threshold: Ratio = _knob(
        0.005, "share of 5xx from which a probe is red; the SLO", unit="ratio"
    )
    sli_scope: Scope = _knob("canary", "judge the canary's own series, or the whole service's")
    sli_range: Duration = _knob(
        300.0, "range of the rates, cut to the time since the node came back", unit="s"
    )
    sli_metric: MetricName = _knob(
        "veza_gin_http_request_duration_seconds", "the histogram of request durations"
    )
    sli_min_requests: OptionalCount = _knob(
        None, "fewer requests give no verdict; default: 1 / PROM_ERR_RATE_THRESHOLD", unit="requests"
    )
    sli_no_data_probes: Count = _knob(3, "this many probes in a row without data are red", unit="probes")
    sli_p95_query: OptionalText = _knob(
        None, "PromQL for the p95; {node} and {range} are filled in", unit="s"
    )
    sli_err_query: OptionalText = _knob(None, "PromQL for the error rate; as above", unit="ratio")
    game_day_query: OptionalText = _knob(None, "PromQL that gives series only while a game day is on")

    prom_url: Url = _knob("http://prom.lxd:9090", "Prometheus, with its path prefix if it has one")
    prom_timeout: Duration = _knob(10.0, "deadline of one query", unit="s")
    prom_max_age: Duration = _knob(60.0, "age up to which a sample counts as fresh", unit="s")
    prom_user: OptionalText = _knob(None, "user for basic authentication")
    prom_password_file: OptionalPath = _knob(None, "file that holds the password of PROM_USER")
    prom_bearer_token_file: OptionalPath = _knob(None, "file that holds a bearer token")
    prom_ca_file: OptionalPath = _knob(None, "CA certificates for PROM_URL; default: those of requests")

    install_dir: Directory = _knob("/opt/veza/backend-api", "where veza-api lies on the nodes")
    unit: Name = _knob("veza-backend-api", "the systemd unit that runs it")
    kept_binaries: Count = _knob(3, "how many replaced binaries a node keeps", unit="binaries")
    health_url: Url = _knob(
        "http://127.0.0.1:8080", "base URL of the health check, seen from inside the node"
    )
    health_path: UrlPath = _knob(
        "/api/v1/health", "path of the health checks, on the node and through HAProxy"
    )
    health_timeout: Duration = _knob(60.0, "how long a restarted node may take to answer 200", unit="s")
    health_settle: DurationOrZero = _knob(1.0, "how long its process must then live on unchanged", unit="s")

    drain_timeout: Duration = _knob(60.0, "how long a drained node may go on serving", unit="s")
    drain_policy: DrainPolicy = _knob("abort", "then put the node back and stop, or close its sessions")
    deadman: DeadMan = _knob(
        "on", "while a canary is unproven its node goes back by itself if it does not hear from us"
    )
    ready_timeout: Duration = _knob(60.0, "how long HAProxy may take to see a healthy node up", unit="s")
    lb_timeout: Duration = _knob(
        10.0, "how long until a request through HAProxy has reached the node", unit="s"
    )

    migrations_dir: Folders = _knob(
        (Path("migrations"),), "folders of schema migrations in the current git repository, or none"
    )
    migrations_base: Revision = _knob("origin/main", "migrations that this git revision lacks are new")
    migrations_tool: MigrationTool = _knob(
        "auto", "the tool that runs them, if not to be told by names and markers; inv --help lint-migrations"
    )
    migrations_role: OptionalText = _knob(
        None, "the backend's database role: rights of others may be revoked"
    )
    migrations_rules: LintLevels = _knob((), "levels of single rules, RULE=error, RULE=warning or RULE=off")
    migrations_strict: Switch = _knob(False, "take the linter's warnings for errors")

    ssh_config: FilePath = _knob(Path("~/.ssh/config"), "OpenSSH client configuration for the hosts")
    connect_timeout: Duration = _knob(10.0, "deadline of opening an SSH connection", unit="s")
    command_timeout: Duration = _knob(30.0, "deadline of one remote command", unit="s")
    upload_timeout: Duration = _knob(600.0, "deadline of one upload", unit="s")

    hooks_dir: OptionalPath = _knob(None, "folder of programs that are called before, during and after a run")
    hook_timeout: Duration = _knob(30.0, "deadline of one of them", unit="s")

    hosts: Annotated[dict[Name, HostSettings], Wanted("table", "a table of hosts by name")] = _knob(
        {}, "the Incus servers"
    )
    nodes: Annotated[dict[IncusName, NodeSettings], Wanted("table", "a table of nodes by name")] = _knob(
        {}, "the Incus instances that run the backend"
    )
    load_balancer: LoadBalancerSettings = _knob(LoadBalancerSettings(), "the HAProxy in front of the nodes")

    @field_validator("hosts", "nodes", mode="before")
    @classmethod
    def _accept_bare_names(cls, tables: object) -> object:
        # `incus-1:` with nothing behind it is how YAML writes a host that needs no settings.
        return {k: {} if v is None else v for k, v in tables.items()} if isinstance(tables, dict) else tables

    @field_validator("hosts")
    @classmethod
    def _fill_addresses(cls, hosts: dict[str, HostSettings]) -> dict[str, HostSettings]:
        return {name: own.model_copy(update={"address": own.address or name}) for name, own in hosts.items()}

    @field_validator("nodes")
    @classmethod
    def _fill_servers(cls, nodes: dict[str, NodeSettings]) -> dict[str, NodeSettings]:
        return {name: own.model_copy(update={"server": own.server or name}) for name, own in nodes.items()}

    @property
    def release_nodes(self) -> list[Node]:
        """The canary, then the peers, in the order in which they are released."""
        return [self.node(name) for name in (self.canary_node, *self.peer_nodes)]

    @property
    def min_requests(self) -> int:
        """How many requests a verdict needs: among fewer, a single error would be above the threshold."""
        return self.sli_min_requests or math.ceil(1 / self.prom_err_rate_threshold)

    def node(self, name: str) -> Node:
        """The node with everything resolved. Raises ConfigError, naming the nearest known node."""
        if name not in self.nodes:
            raise ConfigError([f"{_shown(name)} is not under nodes{_nearest(name, self.nodes)}"])
        own = self.nodes[name]
        return Node(
            name=name,
            host=own.host,
            server=own.server,
            install_dir=own.install_dir or self.install_dir,
            health_url=(own.health_url or self.health_url) + self.health_path,
            sli_selector=own.sli_selector,
            unit=self.unit,
        )


def lint_choices(settings: Settings) -> configuration.Choices:
    """The linter's share of the settings."""
    return configuration.Choices(
        tool=settings.migrations_tool,
        role=settings.migrations_role or "",
        rules=settings.migrations_rules,
        strict=settings.migrations_strict,
    )


_SECTIONS: Mapping[str, type[Table]] = {
    "hosts": HostSettings,
    "nodes": NodeSettings,
    "load_balancer": LoadBalancerSettings,
}


@dataclass(frozen=True)
class Knob:
    """One row of the table behind ``inv config``, ``--help`` and the README. ``default`` is JSON-able."""

    name: str
    type: str
    unit: str
    default: Any
    help: str
    file_only: bool


@dataclass(frozen=True)
class Loaded:
    """Settings, and by dotted name the source of each value: ``default``, ``fabfile.yaml:12``,
    ``environment SLI_WINDOW`` or ``flag --sli-window``."""

    settings: Settings
    sources: Mapping[str, str]


def knobs() -> list[Knob]:
    """Every knob, in the order of the file's groups. Hosts, nodes and load balancer are no knobs."""
    defaults = Settings().model_dump(mode="json")
    return [
        Knob(
            name=name,
            type=_wanted(info).kind,
            unit=_extra(info, "unit"),
            default=_plain(defaults[name]),
            help=info.description or "",
            file_only=_extra(info, "file_only"),
        )
        for name, info in _knob_fields().items()
    ]


def rows(loaded: Loaded) -> list[tuple[str, Any, str]]:
    """Name, JSON-able value and source of every setting. Of secrets, settings hold only the files' paths."""
    named = {".".join(place): value for place, value in _leaves(loaded.settings.model_dump(mode="json"))}
    return [(name, _plain(value), loaded.sources[name]) for name, value in named.items()]


def load(
    *, file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object], require_fleet: bool = True
) -> Loaded:
    """Merge the sources and check the outcome. Opens no connection.

    ``flags`` go by knob name; ``None``, ``""``, ``False`` and ``[]`` are what Invoke passes for a flag
    that was not typed: "not given". An exported but empty environment variable is "not given" for a knob
    that is unset by default, such as ``ROLLBACK_BINARY=``; for any other it is refused: ``PEER_NODES=`` must
    not quietly be the default. Relative paths are relative to the file that holds them, else to the current
    directory.

    ``require_fleet=False`` is for what touches no fleet: the linter in a repository without ``fabfile.yaml``.

    Raises ConfigError with every problem found, each one sentence that begins with its source.
    """
    try:
        given = _Given(Path.cwd())
    except OSError as error:
        raise ConfigError([f"The current directory cannot be read: {error.strerror}."]) from error
    if file is not None:
        given.read_file(file)
    given.read_project()
    given.read_environment(environ)
    given.read_flags(flags)
    settings = given.validate()
    for sentence, *names in _conflicts(settings, file=file, require_fleet=require_fleet):
        given.conflict(sentence, names)
    if given.problems:
        raise ConfigError(given.problems)
    places = [place for place, _ in _leaves(settings.model_dump(mode="json"))]
    return Loaded(settings, {".".join(place): given.sources.get(place, "default") for place in places})


@dataclass
class _Given:
    """What the sources say, merged, and what is wrong with it."""

    here: Path
    label: str = ""
    tree: dict[str, Any] = field(default_factory=dict)
    sources: dict[Place, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    wrong: set[Place] = field(default_factory=set)

    def read_file(self, file: Path) -> None:
        self.label = str(file.relative_to(self.here) if file.is_relative_to(self.here) else file)
        lines = _Lines(self.label)
        content = lines.read(file)
        self.problems += lines.problems
        self.sources = {
            place[1:]: line for place, line in lines.sources.items() if place[0] == "veza" and place[1:]
        }
        top = content if isinstance(content, dict) else {"veza": content}
        for key in (key for key in top if key != "veza"):
            known = key in Settings.model_fields
            advice = "it belongs under veza:" if known else "all settings stand under veza:"
            self.problems.append(f"{lines.sources[key,]}: {_shown(key)} is not known at the top; {advice}.")
        veza = top.get("veza")
        if isinstance(veza, dict):
            self.tree = _anchored_table(Settings, veza, file.absolute().parent)
        elif veza is not None:
            self.problems.append(
                f"{self.label}: the settings are {_shown(veza)}; wanted a table under veza:."
            )
        if self.problems and not self.tree:
            # Nothing could be made of the file, so do not go on about what it lacks.
            self.wrong |= {(section,) for section in _SECTIONS}

    def read_project(self) -> None:
        """The linter's table in the ``pyproject.toml`` around the current directory; the fleet's file beats it."""
        try:
            path, table = configuration.pyproject()
        except CannotTell as error:
            self.problems.append(str(error))
            return
        for name, value in table.items():
            if name not in self.tree:
                self.put(name, value, path)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        known = {name.upper(): (name, info) for name, info in _knob_fields().items()}
        for variable, value in environ.items():
            if variable in known:
                name, info = known[variable]
                if _extra(info, "file_only"):
                    self.problems.append(f"environment {variable}: only the file can set it; unset it.")
                elif value or info.default is not None:
                    self.put(name, value, f"environment {variable}")
            elif re.fullmatch(r"[A-Z0-9]+_[A-Z0-9_]{1,60}", variable):
                # A mistyped variable would silently change nothing. The same first word and nearly the same
                # letters are a typo; PGCONNECT_TIMEOUT beside CONNECT_TIMEOUT is not.
                kin = [name for name in known if name.split("_")[0] == variable.split("_")[0]]
                if near := difflib.get_close_matches(variable, kin, n=1, cutoff=0.9):
                    self.problems.append(f"environment {variable}: not a setting; did you mean {near[0]}?")

    def read_flags(self, flags: Mapping[str, object]) -> None:
        for name, value in flags.items():
            source = "flag --" + name.replace("_", "-")
            info = Settings.model_fields.get(name)
            if value is None or value is False or value in ("", [], ()):
                continue
            if info is None:
                self.problems.append(f"{source}: not a setting{_nearest(name, _knob_fields())}")
            elif name in _SECTIONS or _extra(info, "file_only"):
                self.problems.append(f"{source}: only the file can set it.")
            else:
                self.put(name, value, source)

    def put(self, name: str, value: object, source: str) -> None:
        self.tree[name] = _anchored(Settings.model_fields[name], value, self.here)
        self.sources[name,] = source

    def validate(self) -> Settings:
        """The settings; wrong values are noted and left at their defaults, so that all others are checked."""
        for name, info in _knob_fields().items():
            if info.default is not None:
                self.tree.setdefault(name, _anchored(info, info.default, self.here))
        try:
            return Settings.model_validate(self.tree)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False):
                self.refuse(detail["loc"], detail["input"], unknown=detail["type"] == "extra_forbidden")
        return Settings.model_validate(self.tree)

    def refuse(self, loc: tuple[int | str, ...], value: object, *, unknown: bool) -> None:
        by_name = loc[0] in ("hosts", "nodes")
        depth = 3 if by_name else 2 if loc[0] in _SECTIONS else 1
        place = tuple(str(part) for part in loc[:depth] if part != "[key]")
        table = _SECTIONS[place[0]] if len(place) > 1 else Settings
        info = None if by_name and len(place) == 2 else table.model_fields.get(place[-1])
        wanted = _wanted(info)
        if "[key]" in loc:
            wanted = _NAME if place[0] == "hosts" else _INCUS_NAME
        name = ".".join(place)
        name = name if name.isprintable() and len(name) < 200 else _shown(name)
        if unknown:
            self.problems.append(
                f"{self.source(place)}: {name} is not a setting{_nearest(place[-1], table.model_fields)}"
            )
        else:
            self.problems.append(f"{self.source(place)}: {name} is {_shown(value)}; wanted {wanted.words}.")

        holder: Any = self.tree
        for part in place[:-1]:
            holder = holder.get(part, {})
        found = holder.pop(place[-1], None)
        if by_name and len(place) == 2 and found is not None and "[key]" not in loc:
            # It still is a host or node by that name: those who name it are not to blame.
            holder[place[-1]] = {}
        self.wrong.add(place[:1] if "[key]" in loc else place)

    def conflict(self, sentence: str, names: list[str]) -> None:
        """Blame the first value that somebody wrote; say nothing where a value concerned is itself wrong."""
        about = [tuple(name.split(".")) for name in names]
        if not any(place[: len(wrong)] == wrong for place in about for wrong in self.wrong):
            sources = [self.source(place) for place in about]
            blamed = next((source for source in sources if source != "default"), "default")
            self.problems.append(f"{blamed}: {sentence}")

    def source(self, place: Place) -> str:
        prefixes = (place[:length] for length in range(len(place), 0, -1))
        known = next((self.sources[prefix] for prefix in prefixes if prefix in self.sources), "")
        return known or (self.label if place[0] in _SECTIONS else "") or "default"


@dataclass
class _Lines:
    """YAML to plain values, with the line of each. Here yes, on, 010, 1:30 and 1_000 are text."""

    label: str
    sources: dict[Place, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def read(self, file: Path) -> Any:
        try:
            node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            return None if node is None else self.value(node, ())
        except OSError as error:
            self.problems.append(f"{self.label}: cannot be read: {error.strerror}.")
        except UnicodeError:
            self.problems.append(f"{self.label}: not UTF-8 text.")
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            self.problems.append(f"{self.label}{line}: not valid YAML: {error.problem or error.context}.")
        except yaml.YAMLError as error:
            self.problems.append(f"{self.label}: not valid YAML: {' '.join(str(error).split())}.")
        except RecursionError:
            self.problems.append(f"{self.label}: nested too deeply.")
        return None

    def value(self, node: yaml.Node, place: Place) -> Any:
        if id(node) in self.seen:
            # Unfolded, aliases could make a small file endless; and the line blamed would be the wrong one.
            self.problems.append(
                f"{self.line(node)}: is used again by an alias; write the value out instead."
            )
            return None
        self.seen.add(id(node))
        if not re.fullmatch(
            r"tag:yaml\.org,2002:(str|null|bool|int|float|timestamp|value|merge|seq|map)", node.tag
        ):
            self.problems.append(f"{self.line(node)}: the tag {_shown(node.tag)} is not supported.")
        if isinstance(node, yaml.MappingNode):
            return self.table(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, place) for item in node.value]
        return _scalar(node) if isinstance(node, yaml.ScalarNode) else None

    def table(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in node.value:
            inner = (*place, str(key.value))
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(f"{self.line(key)}: a list or table cannot be a key.")
            elif key.value in table:
                self.problems.append(
                    f"{self.line(key)}: {_shown(key.value)} stands twice, first at {self.sources[inner]}."
                )
            else:
                self.sources[inner] = self.line(key)
                table[key.value] = self.value(value, inner)
        return table

    def line(self, node: yaml.Node) -> str:
        return f"{self.label}:{node.start_mark.line + 1}"


def _scalar(node: yaml.ScalarNode) -> bool | int | float | str | None:
    text = str(node.value)
    if node.style is not None or node.tag.endswith(":str"):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("", "~", "null"):
        return None
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,30}", text):
        return float(text)
    return text


def _anchored_table(table: type[Table], values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    anchored = {name: _anchored(table.model_fields.get(name), value, base) for name, value in values.items()}
    if table is Settings and isinstance(hosts := anchored.get("hosts"), dict):
        anchored["hosts"] = {
            name: _anchored_table(HostSettings, host, base) if isinstance(host, dict) else host
            for name, host in hosts.items()
        }
    return anchored


def _anchored(info: FieldInfo | None, value: object, base: Path) -> object:
    """A path made absolute. All else as it is: what is no path, validation refuses."""
    wanted = _wanted(info)
    if not wanted.path or value == RUNNING:
        return value
    text = str(value) if isinstance(value, Path) else value
    if not isinstance(text, str) or not text.strip() or not text.isprintable():
        return value
    return os.path.normpath(os.path.join(base, os.path.expanduser(text)))


Conflict = tuple[str, *tuple[str, ...]]
"""A sentence, and the dotted names of the values concerned, the likeliest culprit first."""


def _conflicts(s: Settings, *, file: Path | None, require_fleet: bool) -> Iterator[Conflict]:
    if require_fleet:
        yield from _missing(s, file=file)
    yield from _wrong_names(s)
    if s.sli_window < s.sli_window_floor:
        sentence = f"sli_window is {s.sli_window:g} s, below the floor of {s.sli_window_floor:g} s"
        yield f"{sentence}; only sli_window_floor in the file lowers it.", "sli_window", "sli_window_floor"
    if 0 < s.sli_window < s.sli_probe_interval:
        sentence = f"sli_probe_interval is {s.sli_probe_interval:g} s, longer than the sli_window"
        yield f"{sentence} of {s.sli_window:g} s.", "sli_probe_interval", "sli_window"
    if s.artifact is not None and s.rollback_binary == str(s.artifact):
        yield "rollback_binary is the artifact; wanted what to go back to.", "rollback_binary", "artifact"
    if s.prom_user and s.prom_bearer_token_file:
        sentence = "prom_user and prom_bearer_token_file exclude each other."
        yield sentence, "prom_bearer_token_file", "prom_user"
    elif bool(s.prom_user) != bool(s.prom_password_file):
        sentence = "prom_user and prom_password_file go together; one is missing."
        yield sentence, "prom_user", "prom_password_file"


def _missing(s: Settings, *, file: Path | None) -> Iterator[Conflict]:
    if file is None:
        sentence = (
            "there is no fabfile.yaml; write one with hosts, nodes and load_balancer under veza:, for example"
        )
        yield f"{sentence} after the commented fabfile.yaml of veza-tasks.", "hosts"
        return
    if not s.hosts:
        yield "hosts is missing; write for example hosts: {incus-1: {address: incus-1.lxd}}.", "hosts"
    if not s.nodes:
        yield "nodes is missing; write for example nodes: {backend-api-1: {host: incus-1}}.", "nodes"
    if not s.load_balancer.host:
        sentence = "load_balancer names no host; write for example load_balancer: {host: incus-1}."
        yield sentence, "load_balancer.host"


def _wrong_names(s: Settings) -> Iterator[Conflict]:
    for name, node in s.nodes.items():
        if not node.host:
            yield (
                f"nodes.{name} names no host; wanted host: NAME, one of those under hosts.",
                f"nodes.{name}.host",
            )
    named_hosts = {f"nodes.{name}.host": node.host for name, node in s.nodes.items()}
    named_hosts["load_balancer.host"] = s.load_balancer.host
    for place, host in named_hosts.items():
        if host and host not in s.hosts:
            yield f"{place} is {host!r}, which is not under hosts{_nearest(host, s.hosts)}", place, "hosts"

    by_server: dict[str, str] = {}
    for name, node in s.nodes.items():
        other = by_server.setdefault(node.server, name)
        if other != name:
            sentence = f"nodes.{name} and nodes.{other} are both server {node.server!r} of the pool."
            yield sentence, f"nodes.{name}.server", f"nodes.{other}.server"

    if s.nodes:
        for knob, names in (("canary_node", [s.canary_node]), ("peer_nodes", s.peer_nodes)):
            for name in dict.fromkeys(names):
                yield from _wrong_member(s, knob, name)
    for what in configuration.unknown_rules(s.migrations_rules):
        yield f"migrations_rules has {what}", "migrations_rules"
    if s.canary_node in s.peer_nodes:
        yield f"peer_nodes has {s.canary_node!r}, which is the canary_node.", "peer_nodes", "canary_node"
    for name in dict.fromkeys(name for name in s.peer_nodes if s.peer_nodes.count(name) > 1):
        yield f"peer_nodes has {name!r} more than once.", "peer_nodes"


def _wrong_member(s: Settings, knob: str, name: str) -> Iterator[Conflict]:
    if name not in s.nodes:
        yield f"{knob} has {name!r}, which is not under nodes{_nearest(name, s.nodes)}", knob, "nodes"
    elif s.nodes[name].server in s.ignored_servers:
        sentence = f"ignored_servers has {s.nodes[name].server!r}, the server of {name} of {knob}."
        yield sentence, "ignored_servers", knob, f"nodes.{name}.server"


def _knob_fields() -> dict[str, FieldInfo]:
    return {name: info for name, info in Settings.model_fields.items() if name not in _SECTIONS}


def _wanted(info: FieldInfo | None) -> Wanted:
    found = [item for item in info.metadata if isinstance(item, Wanted)] if info else []
    return found[0] if found else Wanted("table", "a table, key: value")


def _extra(info: FieldInfo, key: str) -> Any:
    return info.json_schema_extra[key] if isinstance(info.json_schema_extra, dict) else None


def _leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    else:
        yield place, value


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name."""
    near = difflib.get_close_matches(name[:100].lower(), known, n=1)
    return f"; did you mean {near[0]}?" if near else "."


def _shown(value: object) -> str:
    """The offending value: printable, short, and without the password that someone wrote into a URL."""
    if isinstance(value, str):
        before, at, after = value.rpartition("@")
        text = f"***@{after}" if at and ":" in before else value
        return repr(text if len(text) <= 120 else text[:117] + "...")
    if isinstance(value, bool | int | float):
        return str(value).lower()[:120]
    words = {type(None): "nothing", list: "a list", dict: "a table"}
    return words.get(type(value), type(value).__name__)
