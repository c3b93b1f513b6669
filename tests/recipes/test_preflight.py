"""The checklist: every row in every colour that it can have, and that nothing is changed by looking."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.memory import INSTALLED, PREVIOUS, Behaviour, Ending, File, MemoryFleet, digest_of, elf, ending
from veza_tasks.adapters.prometheus import EMPTY, NoData
from veza_tasks.errors import ConfigError
from veza_tasks.events import Checked, Colour
from veza_tasks.recipes.preflight import NEVER_ACCEPTED, ROWS, accepted, preflight

GREEN, YELLOW, RED = Colour.GREEN, Colour.YELLOW, Colour.RED
EXPLAINED = '{"run": "r1", "who": "ada@desk", "when": "today", "why": "a release"}'
Change = Callable[[MemoryFleet], None]


def look(fleet: MemoryFleet, **knobs: Any) -> tuple[Ending, dict[str, Checked]]:
    sha256 = str(knobs.pop("sha256", "")) or None
    knobs.setdefault("artifact", fleet.binary("v2.0.0"))
    fleet.events.clear()
    before = len(fleet.world.effects)
    ended = ending(fleet.run(**knobs), lambda run: preflight(run, sha256=sha256), looks=True)
    assert fleet.world.effects[before:] == [], "a look changed something"
    return ended, {event.check: event for event in fleet.events if isinstance(event, Checked)}


def test_on_a_healthy_fleet_every_row_is_green(fleet: MemoryFleet) -> None:
    ended, rows = look(fleet)
    assert ended.code == 0
    assert tuple(rows) == ROWS
    assert {row.colour for row in rows.values()} == {GREEN}
    assert digest_of(fleet.binary("v2.0.0")) in rows["artifact"].detail
    assert "v2.0.0, x86_64" in rows["artifact"].detail
    assert "histogram_quantile(0.95" in rows["sli-data"].detail


def stop_instance(fleet: MemoryFleet) -> None:
    fleet.canary.status = "Stopped"


def stop_unit(fleet: MemoryFleet) -> None:
    fleet.peers[0].process, fleet.peers[0].active = None, "failed"


def stop_unit_and_explain(fleet: MemoryFleet) -> None:
    stop_unit(fleet)
    drain_and_explain(fleet)


def fill_disk(fleet: MemoryFleet) -> None:
    fleet.canary.disk = fleet.canary.disk - fleet.canary.free + 200


def skew_clock(fleet: MemoryFleet) -> None:
    fleet.canary.skew = -30


def other_architecture(fleet: MemoryFleet) -> None:
    fleet.peers[0].architecture = "aarch64"


def no_previous(fleet: MemoryFleet) -> None:
    del fleet.canary.files[PREVIOUS]


def artifact_is_previous(fleet: MemoryFleet) -> None:
    fleet.canary.files[PREVIOUS] = File(digest_of(fleet.binary("v2.0.0")))


def previous_is_older(fleet: MemoryFleet) -> None:
    fleet.canary.files[PREVIOUS] = File(digest_of(fleet.binary("v0.9.0")))


def no_socket(fleet: MemoryFleet) -> None:
    fleet.world.haproxy_answers = False


def no_server(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-1"].name = "other"


def no_checks(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-1"].checked = False


def drain_peer(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-1"].admin = 8


def drain_and_explain(fleet: MemoryFleet) -> None:
    drain_peer(fleet)
    fleet.world.config["backend-api-1"]["user.veza-tasks.drained"] = EXPLAINED


def drain_canary_and_explain(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-2"].admin = 8
    fleet.world.config["backend-api-2"]["user.veza-tasks.drained"] = EXPLAINED


def peer_down(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-1"].up = False


def no_weight(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-1"].weight = 0


def no_prometheus(fleet: MemoryFleet) -> None:
    fleet.world.prometheus = lambda query: NoData("connection refused")


def errors_now(fleet: MemoryFleet) -> None:
    fleet.binary("v1.0.0", Behaviour(error_rate=0.1))
    for machine in fleet.world.machines.values():
        fleet.world.restart(machine)
    fleet.world.advance(12)


def just_started(fleet: MemoryFleet) -> None:
    for machine in fleet.world.machines.values():
        fleet.world.restart(machine)
    fleet.world.advance(2)


def just_started_and_not_scraped(fleet: MemoryFleet) -> None:
    just_started(fleet)
    for machine in fleet.world.machines.values():
        machine.scraped.clear()


def long_up_and_never_scraped(fleet: MemoryFleet) -> None:
    fleet.world.advance(120)
    fleet.world.prometheus = lambda _: NoData(EMPTY)


def mark_game_day(fleet: MemoryFleet) -> None:
    fleet.world.config["haproxy"]["user.veza-tasks.game-day"] = "chaos until noon"


@pytest.mark.parametrize(
    ("change", "row", "colour", "word"),
    [
        (stop_instance, "nodes", RED, "Stopped"),
        (stop_unit, "nodes", RED, "the unit is failed"),
        (stop_unit_and_explain, "nodes", YELLOW, "the unit is failed"),
        (fill_disk, "nodes", RED, "free, twice the artifact"),
        (skew_clock, "nodes", RED, "clock is -30 s off"),
        (other_architecture, "nodes", RED, "is aarch64, the artifact is for x86_64"),
        (no_previous, "last-known-good", RED, "has no /opt/veza/backend-api/veza-api.previous"),
        (artifact_is_previous, "last-known-good", RED, "is the artifact itself"),
        (previous_is_older, "last-known-good", YELLOW, "now runs another binary"),
        (no_socket, "haproxy", RED, "No such file"),
        (no_socket, "capacity", RED, "HAProxy does not answer"),
        (no_server, "haproxy", RED, "has no server backend-api-1"),
        (no_checks, "haproxy", RED, "no health check"),
        (no_server, "pool", RED, "PEER_NODES='backend-api-1 other'"),
        (drain_peer, "states", RED, "not by us"),
        (drain_and_explain, "states", YELLOW, "a release (run r1, ada@desk, today)"),
        (peer_down, "states", RED, "does not serve"),
        (no_weight, "states", RED, "weight 0"),
        (drain_and_explain, "capacity", RED, "no other server than backend-api-2"),
        (drain_canary_and_explain, "capacity", GREEN, "backend-api-1 serves"),
        (no_prometheus, "sli-data", RED, "connection refused"),
        (no_prometheus, "sli-now", RED, "connection refused"),
        (just_started, "sli-data", YELLOW, "of 4 scrapes"),
        (just_started, "sli-now", YELLOW, "cannot tell yet"),
        (just_started_and_not_scraped, "sli-data", YELLOW, "no series"),
        (just_started_and_not_scraped, "sli-now", YELLOW, "cannot tell yet"),
        (long_up_and_never_scraped, "sli-data", RED, "no series"),
        (errors_now, "sli-now", RED, "error rate 0.1"),
        (mark_game_day, "game-day", RED, "chaos until noon"),
    ],
)
def test_each_row_sees_what_is_wrong(
    fleet: MemoryFleet, change: Change, row: str, colour: Colour, word: str
) -> None:
    change(fleet)
    ended, rows = look(fleet)
    assert (rows[row].colour, word in rows[row].detail) == (colour, True), rows[row]
    assert tuple(rows) == ROWS, "all rows are shown, not only the first red one"
    assert ended.code == (3 if any(seen.colour is RED for seen in rows.values()) else 0)


@pytest.mark.parametrize(
    ("knobs", "row", "colour", "word"),
    [
        ({"artifact": None}, "artifact", RED, "no artifact named"),
        ({"artifact": "/nowhere"}, "artifact", RED, "No such file"),
        ({"sha256": "0" * 64}, "artifact", RED, "signed off was 000"),
        ({"rollback_binary": "/nowhere/veza-api"}, "last-known-good", RED, "No such file"),
        ({"rollback_binary": f"{INSTALLED}.old"}, "last-known-good", RED, "has no"),
        ({"rollback_binary": "running"}, "last-known-good", GREEN, "/exe on backend-api-2"),
        ({"game_day_query": "DRILL"}, "game-day", RED, "GAME_DAY_QUERY gives 1 series"),
        ({"game_day_query": "ALERTS"}, "game-day", GREEN, "GAME_DAY_QUERY gives nothing"),
        ({"pool_backend": "web"}, "haproxy", RED, "no pool web"),
        ({"peer_nodes": "none"}, "pool", RED, "backend-api-1 would be left"),
        ({"peer_nodes": "none", "ignored_servers": "backend-api-1"}, "pool", GREEN, "ignored"),
        ({"prom_p95_threshold_s": 0.3}, "sli-data", YELLOW, "interpolated"),
        ({"prom_p95_threshold_s": 0.01}, "sli-now", RED, "p95 0.05 s"),
    ],
)
def test_each_row_follows_its_knobs(
    fleet: MemoryFleet, knobs: dict[str, Any], row: str, colour: Colour, word: str
) -> None:
    ended, rows = look(fleet, **knobs)
    assert (rows[row].colour, word in rows[row].detail) == (colour, True), rows[row]
    assert ended.code == (3 if colour is RED else 0)


def test_the_digest_that_was_signed_off_is_accepted(fleet: MemoryFleet) -> None:
    ended, rows = look(fleet, sha256=digest_of(fleet.binary("v2.0.0")).upper())
    assert (ended.code, "as signed off" in rows["artifact"].detail) == (0, True)


def test_a_local_last_known_good_is_read_here(fleet: MemoryFleet) -> None:
    no_previous(fleet)
    ended, rows = look(fleet, rollback_binary=str(fleet.v1))
    assert (ended.code, rows["last-known-good"].colour) == (0, GREEN)
    assert "(local)" in rows["last-known-good"].detail


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "not an ELF"),
        (b"#!/bin/sh\n", "not an ELF"),
        (b"\x7fELF", "cut short"),
        (elf(b"content")[:-1], "cut short"),
        (elf(b"content", architecture=4711), "architecture we do not know"),
    ],
)
def test_what_cannot_run_on_the_nodes_is_red(fleet: MemoryFleet, content: bytes, word: str) -> None:
    path = fleet.folder / "veza-api-v3"
    path.write_bytes(content)
    ended, rows = look(fleet, artifact=path)
    assert (ended.code, rows["artifact"].colour, word in rows["artifact"].detail) == (3, RED, True)


def test_a_binary_for_another_architecture_is_red_on_each_node(fleet: MemoryFleet) -> None:
    ended, rows = look(fleet, artifact=fleet.binary("v3.0.0", architecture=183))
    assert (ended.code, rows["nodes"].detail.count("the artifact is for aarch64")) == (3, 2)


def test_a_last_known_good_for_another_architecture_is_red(fleet: MemoryFleet) -> None:
    ended, rows = look(fleet, rollback_binary=str(fleet.binary("v0.9.0", architecture=183)))
    assert (ended.code, rows["last-known-good"].colour) == (3, RED)
    assert "is for aarch64, backend-api-2 is x86_64" in rows["last-known-good"].detail


def test_migrations_that_break_the_running_binary_are_red_until_forced(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = fleet.folder / "repository"
    (repository / "migrations").mkdir(parents=True)
    (repository / "migrations" / "0001.sql").write_text("ALTER TABLE tracks DROP COLUMN mood;\n")

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(fleet.folder)}
        command = ["git", *identity, *arguments]
        subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True)

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "base")
    git("tag", "base")
    git("add", ".")
    git("commit", "--quiet", "--message", "a migration")
    monkeypatch.chdir(repository)
    knobs: dict[str, Any] = {"migrations_dir": "migrations", "migrations_base": "base"}

    ended, rows = look(fleet, **knobs)
    assert (ended.code, rows["migrations"].colour) == (3, RED)
    finding = "migrations/0001.sql:1:20: error: drop-column: "
    assert finding in rows["migrations"].detail
    ended, rows = look(fleet, force_migrate=True, **knobs)
    assert (ended.code, rows["migrations"].colour) == (0, YELLOW)
    assert finding in rows["migrations"].detail


def test_an_accepted_row_lets_a_hot_fix_pass_and_shows_the_reason(fleet: MemoryFleet) -> None:
    errors_now(fleet)
    ended, rows = look(fleet, accepted={"sli-now": "this is the fix"})
    assert (ended.code, rows["sli-now"].colour, rows["sli-now"].accepted) == (0, RED, "this is the fix")


def test_an_accepted_row_does_not_cover_another(fleet: MemoryFleet) -> None:
    errors_now(fleet)
    drain_peer(fleet)
    ended, _ = look(fleet, accepted={"sli-now": "this is the fix"})
    assert ended.code == 3
    assert "states" in ended.text


def test_a_red_row_is_told_with_the_way_out_where_there_is_one(fleet: MemoryFleet) -> None:
    errors_now(fleet)
    ended, _ = look(fleet)
    assert "--accept sli-now --reason TEXT" in ended.text
    no_previous(fleet)
    ended, _ = look(fleet)
    assert "--accept" not in ended.text


@pytest.mark.parametrize("row", sorted(NEVER_ACCEPTED))
def test_some_rows_are_never_accepted(row: str) -> None:
    with pytest.raises(ConfigError, match="never accepted"):
        accepted([row], "because")


def test_accepting_wants_a_known_row_and_a_reason() -> None:
    with pytest.raises(ConfigError, match="there is no such row"):
        accepted(["moon-phase"], "because")
    with pytest.raises(ConfigError, match="--reason"):
        accepted(["sli-now"], " ")
    assert accepted(["sli-now"], " because ") == {"sli-now": "because"}


def test_running_means_what_ran_before_an_interrupted_run_of_the_same_artifact(fleet: MemoryFleet) -> None:
    v2, v1 = digest_of(fleet.binary("v2.0.0")), digest_of(fleet.v1)
    kept = f"{Path(INSTALLED).parent}/veza-api.kept"
    fleet.canary.files[f"{kept}/{v1}"] = fleet.canary.files[INSTALLED]
    fleet.canary.files[INSTALLED] = File(v2)
    fleet.world.restart(fleet.canary)
    fleet.world.advance(12)
    ended, rows = look(fleet, rollback_binary="running")
    assert (ended.code, v1 in rows["last-known-good"].detail) == (0, True)
