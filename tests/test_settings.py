"""Settings: which source wins, and what is refused in which words."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from veza_tasks.errors import ConfigError
from veza_tasks.settings import (
    HostSettings,
    LoadBalancerSettings,
    Loaded,
    NodeSettings,
    Settings,
    knobs,
    load,
    rows,
)

ROOT = Path(__file__).parent.parent
FLEET = """\
veza:
  hosts:
    incus-1:
  nodes:
    backend-api-1: {host: incus-1}
    backend-api-2: {host: incus-1}
  load_balancer: {host: incus-1}
"""


class Project:
    """A directory with a fabfile.yaml in it, the current one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = Path("fabfile.yaml")

    def load(
        self,
        lines: str = "",
        *,
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, object] | None = None,
        text: str | None = None,
        require_fleet: bool = True,
    ) -> Loaded:
        """``lines`` follow a good fleet from line 8 on; ``text`` is a whole file instead."""
        added = "".join(f"  {line}\n" for line in lines.splitlines())
        self.file.write_text(FLEET + added if text is None else text)
        return load(file=self.file, environ=environ or {}, flags=flags or {}, require_fleet=require_fleet)

    def problems(self, lines: str = "", **sources: Any) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as refused:
            self.load(lines, **sources)
        return refused.value.problems

    def problem(self, lines: str = "", **sources: Any) -> str:
        (only,) = self.problems(lines, **sources)
        return only


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def test_the_runbooks_names_and_defaults_are_kept_exactly() -> None:
    defaults = {knob.name.upper(): knob.default for knob in knobs()}
    runbook = {
        "ARTIFACT": None,
        "ROLLBACK_BINARY": None,
        "POOL_BACKEND": "api_pool",
        "CANARY_NODE": "backend-api-2",
        "PEER_NODES": ["backend-api-1"],
        "SLI_WINDOW": 3600,
        "SLI_PROBE_INTERVAL": 30,
        "PROM_URL": "http://prom.lxd:9090",
        "PROM_P95_THRESHOLD_S": 0.5,
        "PROM_ERR_RATE_THRESHOLD": 0.005,
        "HEALTH_PATH": "/api/v1/health",
        "INSTALL_DIR": "/opt/veza/backend-api",
        "FORCE_MIGRATE": False,
    }
    assert {name: defaults[name] for name in runbook} == runbook


def test_flag_beats_environment_beats_file_beats_default(project: Project) -> None:
    def outcome(**sources: Any) -> tuple[float, str]:
        loaded = project.load(**sources)
        return loaded.settings.sli_window, loaded.sources["sli_window"]

    file, environ, flags = "sli_window: 400", {"SLI_WINDOW": "500"}, {"sli_window": "600"}
    assert outcome() == (3600, "default")
    assert outcome(lines=file) == (400, "fabfile.yaml:8")
    assert outcome(lines=file, environ=environ) == (500, "environment SLI_WINDOW")
    assert outcome(lines=file, environ=environ, flags=flags) == (600, "flag --sli-window")


def test_sources_are_known_down_to_the_hosts_keys(project: Project) -> None:
    sources = project.load().sources
    assert sources["nodes.backend-api-2.host"] == "fabfile.yaml:6"
    assert sources["hosts.incus-1.address"] == "default"


@pytest.mark.parametrize("untyped", [None, "", False, [], ()])
def test_a_flag_that_was_not_typed_changes_nothing(project: Project, untyped: object) -> None:
    flags = dict.fromkeys((knob.name for knob in knobs()), untyped)
    assert project.load(flags=flags).settings == project.load().settings


def test_an_empty_variable_is_unset_where_unset_is_the_default(project: Project) -> None:
    loaded = project.load(environ={"ROLLBACK_BINARY": "", "ARTIFACT": "", "SLI_MIN_REQUESTS": ""})
    assert loaded.settings.rollback_binary is None
    assert loaded.sources["rollback_binary"] == "default"


@pytest.mark.parametrize(
    "variable", ["PEER_NODES", "SLI_WINDOW", "FORCE_MIGRATE", "PROM_URL", "MIGRATIONS_DIR"]
)
def test_an_empty_variable_never_quietly_means_a_default(project: Project, variable: str) -> None:
    problem = project.problem(environ={variable: ""})
    assert problem.startswith(f"environment {variable}: {variable.lower()} is ''; wanted ")


@pytest.mark.parametrize("text", ["a b", "a,b", " a ,  b,", "a\nb"])
def test_peers_are_separated_by_spaces_or_commas(project: Project, text: str) -> None:
    fleet = FLEET.replace("backend-api-1", "a").replace("load_b", "  b: {host: incus-1}\n  load_b")
    assert project.load(text=fleet, environ={"PEER_NODES": text}).settings.peer_nodes == ("a", "b")


def test_the_word_none_is_the_empty_list(project: Project) -> None:
    loaded = project.load("migrations_dir: none", environ={"PEER_NODES": "none"})
    assert loaded.settings.migrations_dir == ()
    assert loaded.settings.peer_nodes == ()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("300", 300),
        ("5m", 300),
        ("1h", 3600),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("1d", 86400),
        ('"3e2"', 300),
        ('"400"', 400),
        ("400.5", 400.5),
        ("400500ms", 400.5),
    ],
)
def test_durations_are_seconds_or_prometheus_text(project: Project, written: str, seconds: float) -> None:
    assert project.load(f"sli_window: {written}").settings.sli_window == seconds


@pytest.mark.parametrize(
    "written",
    [
        "soon",
        "-300",
        "5 m",
        "m5",
        "5M",
        ".inf",
        ".nan",
        "nan",
        "inf",
        "1e999",
        "true",
        "31d",
        "6:00",
        "0o777",
        "0777",
        "1_000",
        "[300]",
        "{s: 300}",
        "",
        "٣٠٠",
        "300\u200b",
        "'9" + "9" * 5000 + "'",
    ],
)
def test_anything_else_is_no_duration(project: Project, written: str) -> None:
    problem = project.problem(f"sli_window: {written}")
    assert problem.startswith("fabfile.yaml:8: sli_window is ")
    assert 'wanted seconds or text such as "5m"' in problem


@pytest.mark.parametrize(("written", "switch"), [("1", True), ("0", False), ("true", True), ("FALSE", False)])
def test_switches_are_1_0_true_or_false(project: Project, written: str, switch: bool) -> None:
    assert project.load(f"force_migrate: {written}").settings.force_migrate is switch
    assert project.load(environ={"FORCE_MIGRATE": written}).settings.force_migrate is switch


@pytest.mark.parametrize(
    "written", ["yes", "no", "on", "off", "y", "2", "1.0", "", "[true]", "01", "'true '"]
)
def test_anything_else_is_no_switch(project: Project, written: str) -> None:
    assert "wanted 1, 0, true or false" in project.problem(f"force_migrate: {written}")


@pytest.mark.parametrize("knob", ["prom_p95_threshold_s", "prom_err_rate_threshold"])
@pytest.mark.parametrize(
    "written", ["0", "-0.5", "nan", ".nan", "inf", ".inf", "1e999", "true", "half", "1e-400"]
)
def test_thresholds_are_finite_and_positive(project: Project, knob: str, written: str) -> None:
    assert project.problem(f"{knob}: {written}").startswith(f"fabfile.yaml:8: {knob} is ")
    assert project.problem(environ={knob.upper(): written}).startswith(
        f"environment {knob.upper()}: {knob} is "
    )


def test_an_error_rate_is_a_ratio_not_a_percentage(project: Project) -> None:
    assert "below 1 (0.005 is 0.5 %)" in project.problem("prom_err_rate_threshold: 5")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("pool_backend: 'api pool'", "pool_backend is 'api pool'; wanted a name of at most 63 letters"),
        ("pool_backend: api;x", "pool_backend is 'api;x'"),
        ("pool_backend: 12", "pool_backend is 12;"),
        ("canary_node: api_2", "canary_node is 'api_2'; wanted a name of at most 63 letters, digits and -,"),
        ("peer_nodes: ['$(reboot)']", "peer_nodes is '$(reboot)'"),
        ("peer_nodes: {a: b}", "peer_nodes is a table"),
        ("unit: -x", "unit is '-x'"),
        ('unit: "x\\n"', "unit is 'x\\n'"),
        ("health_path: health", "health_path is 'health'"),
        ("health_path: '/a\"b'", "health_path is '/a\"b'"),
        ("install_dir: opt/veza", "install_dir is 'opt/veza'"),
        ("install_dir: /", "install_dir is '/'"),
        ("install_dir: //opt", "install_dir is '//opt'"),
        ("install_dir: /opt/", "install_dir is '/opt/'"),
        ("install_dir: /opt/../etc", "install_dir is '/opt/../etc'"),
        ('install_dir: "/opt/\\e[31m"', "install_dir is '/opt/\\x1b[31m'"),
        ("prom_url: prom.lxd:9090", "prom_url is 'prom.lxd:9090'"),
        ("prom_url: file:///etc/passwd", "prom_url is "),
        ("prom_url: 'http://'", "prom_url is 'http://'"),
        ("prom_url: http://prom:99999", "prom_url is "),
        ("prom_url: 'http://[::1'", "prom_url is "),
        ("prom_url: http://prom/?a=b", "prom_url is "),
        ("sli_metric: 'up{}'", "sli_metric is 'up{}'"),
        ("sli_scope: Canary", "sli_scope is 'Canary'; wanted canary or service."),
        ("drain_policy: kill", "drain_policy is 'kill'; wanted abort or close."),
        ("sli_no_data_probes: 0", "sli_no_data_probes is 0; wanted a whole number"),
        ("sli_no_data_probes: 1.5", "sli_no_data_probes is 1.5"),
        ("kept_binaries: true", "kept_binaries is true"),
        ("migrations_base: --output=x", "migrations_base is '--output=x'"),
        ('sli_p95_query: "a\\0b"', "sli_p95_query is 'a\\x00b'"),
        ("artifact: ''", "artifact is ''; wanted a path"),
        ('artifact: "a\\tb"', "artifact is 'a\\tb'; wanted a path"),
        ("artifact: [a]", "artifact is a list; wanted a path"),
    ],
)
def test_a_wrong_value_is_shown_with_its_line_and_what_is_wanted(
    project: Project, line: str, complaint: str
) -> None:
    problem = project.problem(line)
    assert problem.startswith(f"fabfile.yaml:8: {complaint}")
    assert "; wanted " in problem
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("hosts: {incus-1: {port: 0}}", "hosts.incus-1.port is 0; wanted a port from 1 to 65535."),
        ("hosts: {incus-1: {address: -oProxyCommand=x}}", "hosts.incus-1.address is '-oProxyCommand=x'"),
        ("hosts: {incus-1: {user: 'a b'}}", "hosts.incus-1.user is 'a b'"),
        ('hosts: {incus-1: {incus_command: "\'"}}', 'hosts.incus-1.incus_command is "\'"'),
        ("hosts: {incus-1: {incus_command: ''}}", "hosts.incus-1.incus_command is ''"),
        ("hosts: {incus-1: 7}", "hosts.incus-1 is 7; wanted a table"),
        ("hosts: {incus-1: {adress: x}}", "hosts.incus-1.adress is not a setting; did you mean address?"),
        ("hosts: {incus-1: , 'a b': }", "hosts.a b is 'a b'; wanted a name of at most 63"),
        ("hosts: [incus-1]", "hosts is a list; wanted a table of hosts by name."),
        ("nodes: {n: {host: incus-1, sever: x}}", "nodes.n.sever is not a setting; did you mean server?"),
        ("nodes: {n: {host: incus-1, install_dir: x}}", "nodes.n.install_dir is 'x'"),
        ("nodes: 5", "nodes is 5; wanted a table of nodes by name."),
        ("load_balancer: {host: incus-1, url: x}", "load_balancer.url is 'x'; wanted an http"),
        (
            "load_balancer: {host: incus-1, sock: /x}",
            "load_balancer.sock is not a setting; did you mean socket?",
        ),
        ("load_balancer:", "load_balancer is nothing; wanted a table"),
    ],
)
def test_hosts_nodes_and_load_balancer_are_held_to_their_keys(
    project: Project, table: str, complaint: str
) -> None:
    tables = {
        "hosts": "hosts: {incus-1: }",
        "nodes": "nodes: {n: {host: incus-1}}",
        "load_balancer": "load_balancer: {host: incus-1}",
        "canary_node": "canary_node: n",
        "peer_nodes": "peer_nodes: []",
    }
    tables[table.split(":")[0]] = table
    text = "veza:\n" + "".join(f"  {line}\n" for line in tables.values())
    line = 2 + list(tables).index(table.split(":")[0])
    assert project.problem(text=text).startswith(f"fabfile.yaml:{line}: {complaint}")


def test_unknown_keys_name_the_nearest_known_one(project: Project) -> None:
    assert project.problems(
        "sli_windows: 600\nSLI_WINDOW: 600\nxyzzy: 1\nsli_window: 300", flags={"canry_node": "x"}
    ) == (
        "flag --canry-node: not a setting; did you mean canary_node?",
        "fabfile.yaml:8: sli_windows is not a setting; did you mean sli_window?",
        "fabfile.yaml:9: SLI_WINDOW is not a setting; did you mean sli_window?",
        "fabfile.yaml:10: xyzzy is not a setting.",
    )


def test_a_knob_outside_veza_is_pointed_inside(project: Project) -> None:
    text = FLEET + "sli_window: 600\nother: 1\n"
    assert project.problems(text=text) == (
        "fabfile.yaml:8: 'sli_window' is not known at the top; it belongs under veza:.",
        "fabfile.yaml:9: 'other' is not known at the top; all settings stand under veza:.",
    )


def test_a_mistyped_variable_is_noticed_and_a_strangers_is_not(project: Project) -> None:
    environ = {
        "SLI_WINDOWS": "600",
        "PEER_NODE": "x",
        "PGCONNECT_TIMEOUT": "3",
        "PROMPT_COMMAND": "x",
        "UNITS": "1",
    }
    assert project.problems(environ=environ) == (
        "environment SLI_WINDOWS: not a setting; did you mean SLI_WINDOW?",
        "environment PEER_NODE: not a setting; did you mean PEER_NODES?",
    )


def test_only_the_file_lowers_the_floor_of_the_window(project: Project) -> None:
    assert project.problem(environ={"SLI_WINDOW": "299"}) == (
        "environment SLI_WINDOW: sli_window is 299 s, below the floor of 300 s; "
        "only sli_window_floor in the file lowers it."
    )
    assert project.problem("sli_window: 0").startswith("fabfile.yaml:8: sli_window is 0 s, below the floor")
    assert project.load("sli_window_floor: 0\nsli_window: 0").settings.sli_window == 0
    environ = {"SLI_WINDOW_FLOOR": "0"}
    assert project.problem(environ=environ).startswith(
        "environment SLI_WINDOW_FLOOR: only the file can set it"
    )
    flags = {"sli_window_floor": "0"}
    assert project.problem(flags=flags) == "flag --sli-window-floor: only the file can set it."


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("peer_nodes: [backend-api-2]", "peer_nodes has 'backend-api-2', which is the canary_node."),
        ("peer_nodes: [backend-api-1, backend-api-1]", "peer_nodes has 'backend-api-1' more than once."),
        (
            "canary_node: backend-ap-2",
            "canary_node has 'backend-ap-2', which is not under nodes; did you mean backend-api-2?",
        ),
        ("peer_nodes: [x]", "peer_nodes has 'x', which is not under nodes."),
        (
            "ignored_servers: [backend-api-1]",
            "ignored_servers has 'backend-api-1', the server of backend-api-1",
        ),
        ("sli_probe_interval: 2h", "sli_probe_interval is 7200 s, longer than the sli_window of 3600 s."),
        ("artifact: x\nrollback_binary: ./x", "rollback_binary is the artifact"),
        ("prom_password_file: x", "prom_user and prom_password_file go together; one is missing."),
        ("prom_user: x", "prom_user and prom_password_file go together; one is missing."),
        (
            "prom_user: x\nprom_bearer_token_file: t",
            "prom_user and prom_bearer_token_file exclude each other.",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(project: Project, lines: str, complaint: str) -> None:
    source, _, sentence = project.problem(lines).partition(": ")
    assert sentence.startswith(complaint)
    assert source in ("fabfile.yaml:8", "fabfile.yaml:9")


def test_a_contradiction_blames_what_somebody_wrote(project: Project) -> None:
    problem = project.problem("sli_window_floor: 0", environ={"SLI_WINDOW": "15"})
    assert problem.startswith("environment SLI_WINDOW: sli_probe_interval is 30 s, longer than")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "2: {host: incus-1}",
            "2: {host: incus1}",
            "6: nodes.backend-api-2.host is 'incus1', which is not under hosts; did you mean incus-1?",
        ),
        ("2: {host: incus-1}", "2:", "6: nodes.backend-api-2 names no host; wanted host: NAME"),
        (
            "balancer: {host: incus-1}",
            "balancer: {host: lb}",
            "7: load_balancer.host is 'lb', which is not under hosts.",
        ),
        ("balancer: {host: incus-1}", "balancer: {}", "7: load_balancer names no host"),
        (
            "2: {host: incus-1}",
            "2: {host: incus-1, server: backend-api-1}",
            "6: nodes.backend-api-2 and nodes.backend-api-1 are both server 'backend-api-1' of the pool.",
        ),
    ],
)
def test_a_fleet_that_does_not_hang_together_is_refused(
    project: Project, old: str, new: str, complaint: str
) -> None:
    assert project.problem(text=FLEET.replace(old, new)).startswith(f"fabfile.yaml:{complaint}")


def test_all_problems_are_reported_together(project: Project) -> None:
    text = (
        FLEET.replace("1}\n  load", "1, port: 5}\n  load") + "  peer_nodes: [backend-api-2]\n  prom_url: x\n"
    )
    problems = project.problems(
        text=text,
        environ={"SLI_WINDOW": "10", "FORCE_MIGRATE": "maybe"},
        flags={"prom_p95_threshold_s": "nan"},
    )
    assert [problem.split(" is ")[0].split(" has ")[0] for problem in problems] == [
        "environment FORCE_MIGRATE: force_migrate",
        "flag --prom-p95-threshold-s: prom_p95_threshold_s",
        "fabfile.yaml:9: prom_url",
        "fabfile.yaml:6: nodes.backend-api-2.port",
        "fabfile.yaml:8: peer_nodes",
        "environment SLI_WINDOW: sli_window",
        "environment SLI_WINDOW: sli_probe_interval",
    ]


def test_one_wrong_value_is_one_problem(project: Project) -> None:
    assert len(project.problems("canary_node: 'a b'")) == 1
    assert len(project.problems(text=FLEET.replace("  nodes:\n", "  nodes: 5\n  ignored:\n"))) == 2
    assert (
        project.problem(text=FLEET.replace("incus-1:\n", "'incus 1':\n    incus-1: \n")).count("incus 1") == 2
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("veza: [", "fabfile.yaml:1: not valid YAML: "),
        ("veza: {}\n---\nveza: {}", "fabfile.yaml:2: not valid YAML: "),
        ("veza: \0", "fabfile.yaml: not valid YAML: "),
        ("\tveza:", "fabfile.yaml:1: not valid YAML: "),
        ("veza: hello", "fabfile.yaml: the settings are 'hello'; wanted a table under veza:."),
        ("- veza", "fabfile.yaml: the settings are a list; wanted a table under veza:."),
        ("[" * 600, "fabfile.yaml: nested too deeply."),
        ("? [a]\n: b", "fabfile.yaml:1: a list or table cannot be a key."),
        (
            "veza: !!python/object/apply:os.system [reboot]",
            "fabfile.yaml:1: the tag 'tag:yaml.org,2002:python",
        ),
        ("veza: &a {hosts: *a}", "fabfile.yaml:1: is used again by an alias"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused_in_one_sentence(
    project: Project, text: str, complaint: str
) -> None:
    assert project.problems(text=text)[0].startswith(complaint)


def test_a_file_that_cannot_be_read_is_refused_without_more_complaints(project: Project) -> None:
    with pytest.raises(ConfigError) as refused:
        load(file=Path("nowhere.yaml"), environ={}, flags={})
    assert refused.value.problems == ("nowhere.yaml: cannot be read: No such file or directory.",)
    project.file.write_bytes(b"veza: \xff")
    with pytest.raises(ConfigError) as refused:
        load(file=project.file, environ={}, flags={})
    assert refused.value.problems == ("fabfile.yaml: not UTF-8 text.",)


def test_a_key_given_twice_is_refused(project: Project) -> None:
    problem = project.problem("sli_window: 600\nsli_window: 700")
    assert problem == "fabfile.yaml:9: 'sli_window' stands twice, first at fabfile.yaml:8."


def test_an_empty_file_lacks_a_fleet(project: Project) -> None:
    problems = project.problems(text="veza:\n")
    assert [problem.split(" ")[1] for problem in problems] == ["hosts", "nodes", "load_balancer"]
    assert all(problem.startswith("fabfile.yaml: ") for problem in problems)


def test_without_a_file_the_fleet_is_unknown_and_the_rest_is_default(project: Project) -> None:
    with pytest.raises(ConfigError) as refused:
        load(file=None, environ={}, flags={})
    (problem,) = refused.value.problems
    assert "there is no fabfile.yaml; write one" in problem
    assert refused.value.exit_code == 2
    lint = load(file=None, environ={"MIGRATIONS_DIR": "db/a db/b"}, flags={}, require_fleet=False)
    assert lint.settings.migrations_dir == (Path("db/a"), Path("db/b"))


def test_relative_paths_follow_the_place_where_they_are_written(project: Project) -> None:
    (project.directory / "deploy").mkdir()
    file = project.directory / "deploy" / "fabfile.yaml"
    text = FLEET.replace("incus-1:\n", "incus-1: {key_file: keys/id, known_hosts: ../known_hosts}\n")
    file.write_text(text + "  artifact: out/veza-api\n  migrations_dir: [a, /b]\n  rollback_binary: old\n")
    from_file = load(file=file, environ={}, flags={}).settings
    here = project.directory
    assert from_file.artifact == here / "deploy/out/veza-api"
    assert from_file.rollback_binary == str(here / "deploy/old")
    assert from_file.migrations_dir == (Path("a"), Path("/b"))
    assert from_file.hosts["incus-1"].key_file == here / "deploy/keys/id"
    assert from_file.hosts["incus-1"].known_hosts == here / "known_hosts"
    typed = load(file=file, environ={"ROLLBACK_BINARY": "old"}, flags={"artifact": "./new"}).settings
    assert (typed.rollback_binary, typed.artifact) == (str(here / "old"), here / "new")
    assert load(file=file, environ={}, flags={}).sources["artifact"] == "deploy/fabfile.yaml:8"


def test_home_is_expanded_and_running_is_a_word_not_a_path(project: Project) -> None:
    loaded = project.load("rollback_binary: running\nartifact: ~/veza-api")
    assert loaded.settings.rollback_binary == "running"
    assert loaded.settings.artifact == Path.home() / "veza-api"
    assert loaded.settings.ssh_config == Path.home() / ".ssh/config"


def test_a_password_in_a_url_is_refused_and_not_repeated(project: Project) -> None:
    for url in (
        "http://deploy:hunter2@prom.lxd",
        "http://deploy:hun@ter2@prom",
        "deploy:hunter2@prom",
        "x:hunter2 @y",
    ):
        problem = project.problem(environ={"PROM_URL": url})
        assert "ter2" not in problem
        assert "wanted an http or https URL" in problem
    problem = project.problem("prom_password: hunter2")
    assert problem == "fabfile.yaml:8: prom_password is not a setting; did you mean prom_password_file?"


def test_braces_in_queries_stay_as_they_are(project: Project) -> None:
    query = 'sum(rate(x{instance="{node}",a=~"b{2}"}[{range}]))'
    assert project.load(environ={"SLI_ERR_QUERY": query}).settings.sli_err_query == query


def test_a_node_is_resolved_from_its_own_keys_and_the_knobs(project: Project) -> None:
    own = (
        "{host: incus-1, server: s1, install_dir: /srv, health_url: 'http://10.0.0.1:81/', sli_selector: a=b}"
    )
    text = FLEET.replace("backend-api-1: {host: incus-1}", f"backend-api-1: {own}") + "  health_path: /up\n"
    found = project.load(text=text).settings
    assert [node.name for node in found.release_nodes] == ["backend-api-2", "backend-api-1"]
    canary, peer = found.release_nodes
    assert (canary.server, canary.install_dir) == ("backend-api-2", "/opt/veza/backend-api")
    assert (canary.health_url, canary.sli_selector) == ("http://127.0.0.1:8080/up", None)
    assert (peer.server, peer.install_dir, peer.health_url) == ("s1", "/srv", "http://10.0.0.1:81/up")
    assert (peer.sli_selector, peer.unit, peer.host) == ("a=b", "veza-backend-api", "incus-1")
    with pytest.raises(ConfigError, match="'backend-api-3' is not under nodes; did you mean backend-api-2"):
        found.node("backend-api-3")


def test_a_host_is_reached_by_its_name_with_the_plain_client_unless_told(project: Project) -> None:
    assert project.load().settings.hosts["incus-1"].address == "incus-1"
    text = FLEET.replace("incus-1:\n", "incus-1: {incus_command: \"sudo -n 'incus x'\", address: '::1'}\n")
    host = project.load(text=text).settings.hosts["incus-1"]
    assert host.incus_command == ("sudo", "-n", "incus x")
    assert (host.address, host.project, host.remote) == ("::1", "default", "local")


def test_a_verdict_needs_as_many_requests_as_one_error_weighs(project: Project) -> None:
    assert project.load().settings.min_requests == 200
    assert project.load("prom_err_rate_threshold: 0.003").settings.min_requests == 334
    assert project.load("sli_min_requests: 7").settings.min_requests == 7


def test_settings_cannot_be_changed(project: Project) -> None:
    loaded = project.load()
    with pytest.raises(ValueError, match="frozen"):
        loaded.settings.sli_window = 1.0
    with pytest.raises(ValueError, match="frozen"):
        loaded.settings.hosts["incus-1"].port = 1


def test_rows_are_json_with_a_source_each(project: Project) -> None:
    found = rows(project.load("rollback_binary: running\nsli_range: 1.5s", flags={"artifact": "x"}))
    assert json.loads(json.dumps(found)) == [list(row) for row in found]
    by_name = {name: (value, source) for name, value, source in found}
    assert by_name["sli_range"] == (1.5, "fabfile.yaml:9")
    assert by_name["sli_window"] == (3600, "default")
    assert by_name["artifact"] == (str(project.directory / "x"), "flag --artifact")
    assert by_name["nodes.backend-api-1.host"] == ("incus-1", "fabfile.yaml:5")
    assert set(by_name) >= {knob.name for knob in knobs()}


def test_every_knob_has_a_type_and_a_help_line_and_durations_a_unit() -> None:
    for knob in knobs():
        assert all((knob.type, knob.help.isprintable(), knob.help)), knob
        assert knob.type != "duration" or knob.unit == "s", knob
    assert json.dumps([knob.default for knob in knobs()])


def test_the_production_default_loads_and_sets_nothing_but_the_runbooks_values() -> None:
    loaded = load(file=ROOT / "fabfile.yaml", environ={}, flags={})
    defaults = Settings()
    for knob in knobs():
        if knob.type not in ("path", "paths"):
            assert getattr(loaded.settings, knob.name) == getattr(defaults, knob.name), knob.name
    assert [node.name for node in loaded.settings.release_nodes] == ["backend-api-2", "backend-api-1"]


def test_every_knob_and_key_appears_in_the_production_default_and_its_shown_value_is_the_default() -> None:
    text = (ROOT / "fabfile.yaml").read_text()
    for knob in knobs():
        shown = re.search(rf"^  (?:# )?{knob.name}: +([^#\n]*)", text, re.MULTILINE)
        assert shown, knob.name
        if knob.default is not None:
            assert yaml.safe_load(shown[1]) == knob.default, knob.name
    for table in (HostSettings, NodeSettings, LoadBalancerSettings):
        for key in table.model_fields:
            assert re.search(rf"\b{key}\b", text), key


def test_its_commented_lines_load_too(project: Project) -> None:
    text = (ROOT / "fabfile.yaml").read_text()
    for knob in knobs():
        excluded = knob.name in ("prom_bearer_token_file", "sli_p95_query", "sli_err_query")
        if not excluded:
            text = re.sub(rf"^  # ({knob.name}: )", r"  \1", text, flags=re.MULTILINE)
    project.load(text=text)


def test_reading_settings_loads_no_ssh_http_or_screen() -> None:
    code = "import sys, veza_tasks.settings; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"fabric", "invoke", "paramiko", "requests", "rich"} & set(loaded.stdout.split())


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["incus-1", "n", "none"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
names = [knob.name for knob in knobs()]
keys = {
    "hosts": list(HostSettings.model_fields),
    "nodes": list(NodeSettings.model_fields),
    "load_balancer": list(LoadBalancerSettings.model_fields),
}


def table(section: str) -> st.SearchStrategy[object]:
    return st.dictionaries(st.sampled_from([*keys[section], "x"]), anything, max_size=4) | anything


sections = st.fixed_dictionaries(
    {},
    optional={
        "hosts": st.dictionaries(st.sampled_from(["incus-1", "a b", ""]), table("hosts")) | anything,
        "nodes": st.dictionaries(st.sampled_from(["n", "m", "a b"]), table("nodes")) | anything,
        "load_balancer": table("load_balancer"),
    },
)
trees = st.builds(dict.__or__, st.dictionaries(st.sampled_from(names), anything, max_size=4), sections)
quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load_or_refuse(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> None:
    problems: tuple[str, ...] = ()
    try:
        found = rows(load(file=file, environ=environ, flags=flags))
    except ConfigError as refused:
        problems = refused.problems
        assert problems
    else:
        json.dumps(found, allow_nan=False)
    assert all(problem.isprintable() and len(problem) < 1000 for problem in problems)


@quick
@given(tree=trees)
def test_no_tree_of_values_gives_a_traceback(project: Project, tree: Any) -> None:
    project.file.write_text(yaml.safe_dump({"veza": tree}))
    load_or_refuse(project.file, {}, {})


@quick
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="veza:hosts nodes{}[]&*!|>\n -'\"#,?", max_size=80).map(str.encode),
    )
)
def test_no_bytes_in_the_file_give_a_traceback(project: Project, data: bytes) -> None:
    project.file.write_bytes(data)
    load_or_refuse(project.file, {}, {})


@quick
@given(
    environ=st.dictionaries(
        st.sampled_from([name.upper() for name in names]), st.text(max_size=30), max_size=5
    ),
    flags=st.dictionaries(st.sampled_from([*names, "hosts", "x"]), anything, max_size=5),
)
def test_no_environment_and_no_flags_give_a_traceback(
    project: Project, environ: dict[str, str], flags: dict[str, object]
) -> None:
    project.file.write_text(FLEET)
    load_or_refuse(project.file, environ, flags)


@pytest.mark.parametrize(
    ("one", "other"), list(itertools.combinations(["canary_node", "sli_window", "hosts", "prom_user"], 2))
)
def test_two_wrong_values_are_both_reported(project: Project, one: str, other: str) -> None:
    wrong = {"canary_node": "'a b'", "sli_window": "soon", "hosts": "5", "prom_user": "''"}
    tree = yaml.safe_load(FLEET)["veza"]
    tree |= {name: yaml.safe_load(wrong[name]) for name in (one, other)}
    problems = project.problems(text=yaml.safe_dump({"veza": tree}))
    assert sorted(problem.split()[1] for problem in problems) == sorted([one, other])
