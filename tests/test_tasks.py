"""The command line as an operator types it: `inv …` in a process of its own. No fleet is needed for any of these."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = (
    "canary",
    "config",
    "drain",
    "history",
    "lint-migrations",
    "preflight",
    "push",
    "ready",
    "recover",
    "roll-peers",
    "rollback-all",
    "status",
    "unlock",
)
CHANGING = ("canary", "drain", "push", "ready", "recover", "roll-peers", "rollback-all")


def inv(
    *arguments: str, cwd: Path = ROOT, columns: int = 80, **environment: str
) -> subprocess.CompletedProcess[str]:
    wanted = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name in wanted}
    return subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=cwd,
        env={**kept, "COLUMNS": str(columns), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fleet_file(folder: Path, *, extra: str = "", address: str = "127.0.0.1") -> str:
    file = folder / "fleet.yaml"
    file.write_text(
        f"""
veza:
  hosts:
    incus-1: {{address: {address}, port: 1}}
  nodes:
    backend-api-1: {{host: incus-1}}
    backend-api-2: {{host: incus-1}}
  load_balancer: {{host: incus-1}}
  prom_url: http://127.0.0.1:1
  connect_timeout: 2
  migrations_dir: none
{extra}"""
    )
    return str(file)


def test_the_list_names_every_task_on_one_line_of_eighty_columns_each() -> None:
    listed = inv("--list", columns=80).stdout.splitlines()
    tasks = dict(line.split(maxsplit=1) for line in listed[1:] if line)

    assert tuple(sorted(tasks)) == TASKS
    assert all(described.endswith(".") for described in tasks.values())


@pytest.mark.parametrize("task", TASKS)
def test_every_flag_of_a_task_has_help(task: str) -> None:
    shown = inv("--help", task, columns=200)

    assert shown.returncode == 0
    flags = [line for line in shown.stdout.splitlines() if line.strip().startswith("-")]
    assert flags
    assert all(len(line.split(maxsplit=1)) == 2 for line in flags), flags
    assert all(line.strip().startswith("--") for line in flags), "short flags are derived, and change meaning"


@pytest.mark.parametrize("task", CHANGING)
def test_every_task_that_changes_something_has_a_plan(task: str) -> None:
    assert "--plan" in inv("--help", task).stdout


def test_a_mistyped_flag_is_invokes_own_refusal() -> None:
    refused = inv("canary", "--artifcat", "x")

    assert refused.returncode == 1
    assert "No idea what '--artifcat' is!" in refused.stderr


@pytest.mark.parametrize("task", ["canary", "status", "config", "lint-migrations"])
def test_invokes_own_dry_run_is_refused_and_names_plan(task: str) -> None:
    refused = inv("--dry", task)

    assert refused.returncode == 2
    assert "--plan" in refused.stdout + refused.stderr


def test_invokes_own_config_flag_is_refused_and_names_fleet(tmp_path: Path) -> None:
    refused = inv("-f", fleet_file(tmp_path), "status")

    assert refused.returncode == 2
    assert "--fleet FILE" in refused.stdout


def test_all_wrong_settings_are_told_at_once_and_no_connection_is_opened(tmp_path: Path) -> None:
    file = fleet_file(tmp_path, extra="  sli_windw: 300\n  canary_node: backend-api-1\n", address="192.0.2.1")
    refused = inv(
        "canary", "--fleet", file, "--sli-window", "20", SLI_PROBE_INTERVAL="soon", PROM_P95_THRESHOLD_S="nan"
    )

    assert refused.returncode == 2
    assert "sli_windw is not a setting; did you mean sli_window?" in refused.stdout
    assert "flag --sli-window: sli_window is 20 s, below the floor of 300 s" in refused.stdout
    assert "environment SLI_PROBE_INTERVAL" in refused.stdout
    assert "environment PROM_P95_THRESHOLD_S" in refused.stdout
    assert "backend-api-1" in refused.stdout
    assert "No connection was opened." in refused.stdout


def test_a_typo_in_a_nodes_name_names_the_nearest(tmp_path: Path) -> None:
    refused = inv("drain", "backend-ap-1", "--fleet", fleet_file(tmp_path))

    assert refused.returncode == 2
    assert "did you mean backend-api-1?" in refused.stdout


def test_a_node_must_be_named() -> None:
    refused = inv("drain")

    assert refused.returncode == 1
    assert "'node'" in refused.stderr


def test_an_unreachable_host_is_a_red_row_among_all_others_and_nothing_is_changed(tmp_path: Path) -> None:
    artifact = tmp_path / "veza-api-v1.0.10"
    artifact.write_bytes(Path(sys.executable).resolve().read_bytes())
    refused = inv("canary", "--artifact", str(artifact), "--fleet", fleet_file(tmp_path))

    assert refused.returncode == 3
    assert "check artifact: green: v1.0.10" in refused.stdout
    assert "check hosts: red: incus-1: no SSH connection" in refused.stdout
    assert "check game-day: " in refused.stdout
    assert "Nothing was changed." in refused.stdout


def test_a_single_step_on_an_unreachable_host_changed_nothing(tmp_path: Path) -> None:
    refused = inv("drain", "backend-api-1", "--fleet", fleet_file(tmp_path))

    assert refused.returncode == 3
    assert "no SSH connection" in refused.stdout
    assert "Nothing was changed." in refused.stdout


@pytest.mark.parametrize(
    ("accepted", "said"),
    [
        (("--accept", "artifact", "--reason", "x"), "this row is never accepted"),
        (("--accept", "sli-nwo", "--reason", "x"), "there is no such row"),
        (("--accept", "sli-now"), "--accept wants a --reason"),
    ],
)
def test_what_may_not_be_accepted_is_a_configuration_error(
    tmp_path: Path, accepted: tuple[str, ...], said: str
) -> None:
    refused = inv("preflight", "--fleet", fleet_file(tmp_path), *accepted)

    assert refused.returncode == 2
    assert said in refused.stdout


def test_config_tells_every_value_and_its_source(tmp_path: Path) -> None:
    file = fleet_file(tmp_path)
    told = inv("config", "--json", "--fleet", file, SLI_WINDOW="1h", DRAIN_TIMEOUT="5")
    found = {row["knob"]: (row["value"], row["source"]) for row in json.loads(told.stdout)}

    assert found["sli_window"] == (3600, "environment SLI_WINDOW")
    assert found["drain_timeout"] == (5, "environment DRAIN_TIMEOUT")
    assert found["prom_url"] == ("http://127.0.0.1:1", f"{file}:9")
    assert found["pool_backend"] == ("api_pool", "default")


def test_the_fleet_file_may_come_from_the_environment(tmp_path: Path) -> None:
    told = inv("config", FLEET=fleet_file(tmp_path))

    assert told.returncode == 0
    assert "http://127.0.0.1:1" in told.stdout


def test_the_repositorys_own_fabfile_is_the_default() -> None:
    told = inv("config", "--json")
    found = {row["knob"]: row["source"] for row in json.loads(told.stdout)}

    assert told.returncode == 0
    assert found["hosts.incus-1.incus_command"].startswith("fabfile.yaml:")


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_lint_migrations_refuses_what_the_running_binary_cannot_live_with(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "001.sql").write_text("SELECT 1;")
    git(tmp_path, "init")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "x")
    git(tmp_path, "tag", "v1")
    linted = ("-r", str(ROOT), "lint-migrations", "--base", "v1")

    (tmp_path / "README").write_text("x")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "y")
    assert inv(*linted, cwd=tmp_path).returncode == 0

    (tmp_path / "migrations" / "002.sql").write_text("ALTER TABLE t ADD COLUMN d text;")
    assert inv(*linted, cwd=tmp_path).returncode == 0

    (tmp_path / "migrations" / "002.sql").write_text("ALTER TABLE t DROP COLUMN c;")
    refused = inv(*linted, cwd=tmp_path)
    assert refused.returncode == 3
    assert "migrations/002.sql" in refused.stdout

    forced = inv(*linted, cwd=tmp_path, FORCE_MIGRATE="1")
    assert forced.returncode == 0
    assert "migrations/002.sql" in forced.stdout

    unknown = inv(*linted[:-1], "v2", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "v2" in unknown.stderr
