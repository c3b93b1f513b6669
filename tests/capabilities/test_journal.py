"""Every run on record, here and on the fleet."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.memory import MARK, SLOW_P95, Call, Ending, Fault, Faults, MemoryFleet, digest_of, ending
from veza_tasks.capabilities import journal
from veza_tasks.capabilities.journal import HISTORY, REMEMBERED, Journal, remembered
from veza_tasks.events import Changed, Changing, Event, StepStarted
from veza_tasks.fleet import connect_to_prometheus
from veza_tasks.recipes import history as recipe
from veza_tasks.recipes.release import canary
from veza_tasks.run import Run


def release(fleet: MemoryFleet, version: str = "v2.0.0", **more: Any) -> Ending:
    return ending(fleet.run(artifact=fleet.binary(version), **more), canary)


def lines(fleet: MemoryFleet) -> list[dict[str, Any]]:
    """The lines of the newest journal."""
    newest = max((fleet.folder / "journals").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return list(journal.read(newest))


def on_fleet(fleet: MemoryFleet) -> list[dict[str, Any]]:
    return list(remembered(fleet.world.config["haproxy"].get(MARK + HISTORY, "")))


def history(fleet: MemoryFleet, folder: Path) -> list[dict[str, Any]]:
    return recipe.history(fleet.run(), folder)


def test_each_change_is_on_disk_before_it_is_sent(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def counted(file: int) -> None:
        fsync(file)
        synced.append(file)

    monkeypatch.setattr(os, "fsync", counted)
    told = itertools.count(1)
    wrong: list[Event] = []

    def listener(event: Event) -> None:
        if isinstance(event, Changing):
            written = [line["command"] for line in lines(fleet) if line["event"] == "Changing"]
            if event.command not in written or len(synced) < next(told):
                wrong.append(event)

    fleet.on_event = listener
    assert release(fleet).code == 0
    assert wrong == []


def test_every_change_and_what_came_of_it_every_probe_and_the_end_are_on_record(fleet: MemoryFleet) -> None:
    assert release(fleet).code == 0
    found = lines(fleet)
    kinds = [line["event"] for line in found]
    assert (kinds[0], kinds[-1], found[-1]["code"]) == ("RunStarted", "RunEnded", 0)
    assert found[0]["knobs"]["sli_window"] == 10
    changing = [line["command"] for line in found if line["event"] == "Changing"]
    assert sorted(changing) == sorted(fleet.world.effects)
    assert sorted(line["command"] for line in found if line["event"] == "Changed") == sorted(changing)
    probe = [line for line in found if line["event"] == "Probed"][-1]
    assert (probe["p95_threshold"], probe["colour"]) == (0.5, "green")
    assert any("histogram_quantile" in query and float(answer) > 0 for query, answer in probe["asked"])
    assert {"StepStarted", "StepDone", "Checked", "ArtifactRead"} <= set(kinds)


def test_the_fleet_remembers_who_did_what_how_it_ended_and_how_long_nodes_were_out(
    fleet: MemoryFleet,
) -> None:
    fleet.world.behaviours[digest_of(fleet.binary("v3.0.0"))] = SLOW_P95
    assert release(fleet, accepted={"sli-now": "hot-fix"}, prom_p95_threshold_s=0.06).code == 0
    assert ending(fleet.run(artifact=fleet.binary("v3.0.0", SLOW_P95)), canary).code == 4
    good, bad = on_fleet(fleet)
    assert (good["code"], good["task"], good["who"]) == (0, "canary", "somebody@somewhere")
    assert (good["digest"], good["version"]) == (digest_of(fleet.binary("v2.0.0")), "v2.0.0")
    assert set(good["out"]) == {"backend-api-1", "backend-api-2"}
    assert all(0.2 < seconds < 5 for seconds in good["out"].values())
    assert good["seconds"] > 10
    assert (bad["code"], set(bad["out"])) == (4, {"backend-api-2"})
    assert bad["said"] == f"v3.0.0 ({bad['digest'][:12]}) is not released"


def test_accepted_rows_are_remembered_with_their_reasons(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-1"].checked = False
    assert release(fleet, accepted={"haproxy": "INC-7"}).code == 0
    assert on_fleet(fleet)[0]["accepted"] == {"haproxy": "INC-7"}
    assert release(fleet, accepted={"haproxy": "INC-8"}, force_migrate=True).code == 0
    assert on_fleet(fleet)[1]["accepted"] == {"haproxy": "INC-8", "migrations": "FORCE_MIGRATE=1"}


def test_what_the_fleet_remembers_is_bounded_and_the_newest_stay(fleet: MemoryFleet) -> None:
    many = [{"run": f"old-{number}", "when": "2029"} for number in range(REMEMBERED + 5)]
    fleet.world.config["haproxy"][MARK + HISTORY] = json.dumps(many)
    assert release(fleet).code == 0
    kept = [one["run"] for one in on_fleet(fleet)]
    assert len(kept) == REMEMBERED
    assert kept[-2:] == [f"old-{REMEMBERED + 4}", kept[-1]]


def test_another_machine_sees_the_run_and_this_one_its_steps_too(fleet: MemoryFleet, tmp_path: Path) -> None:
    assert release(fleet).code == 0
    [there] = history(fleet, tmp_path / "elsewhere")
    [here] = history(fleet, fleet.folder / "journals")
    assert (there["journal"], Path(here["journal"]).stem) == (None, here["run"])
    _, rows = recipe.as_rows([there])
    assert rows[0][5] == "done"
    shown = list(recipe.in_words(recipe.steps(fleet.folder / "journals", here["run"])))
    assert shown[0][1] == "RunStarted"
    assert any(what == "Changing" and "set server" in text for _, what, text in shown)


def test_a_run_that_was_killed_has_no_end_on_record(fleet: MemoryFleet) -> None:
    release(fleet)
    path = next((fleet.folder / "journals").glob("*.jsonl"))
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if b"RunEnded" not in line]
    (path.with_name("run-killed.jsonl")).write_bytes(b"".join(kept) + b'{"event": "Cha')
    killed = next(one for one in history(fleet, path.parent) if one["run"] == "run-killed")
    assert killed["code"] is None
    assert recipe.as_rows([killed])[1][0][5] == "no end on record"
    whole = next(one for one in history(fleet, path.parent) if one["run"] == path.stem)
    # What the fleet has forgotten this machine still knows.
    fleet.world.config["haproxy"].clear()
    local = next(one for one in history(fleet, path.parent) if one["run"] == path.stem)
    assert {key: local[key] for key in ("out", "code", "digest", "accepted")} == {
        key: whole[key] for key in ("out", "code", "digest", "accepted")
    }


def test_a_journal_that_cannot_be_made_refuses_before_anything(fleet: MemoryFleet) -> None:
    (fleet.folder / "journals").write_text("a file where the folder should be")
    ended = release(fleet)
    assert (ended.code, fleet.world.effects, fleet.world.profiles) == (3, [], {})
    assert "XDG_STATE_HOME" in ended.text


def fill_disk(run: Run) -> None:
    """Every further write to the journal fails with ENOSPC."""
    written = next(listener for listener in run.emit if isinstance(listener, Journal))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, written._file)
    os.close(full)


@pytest.mark.parametrize(
    ("step", "node", "code"),
    [
        ("stage", "", 3),
        ("drain", "backend-api-2", 3),
        ("push", "backend-api-2", 3),
        ("ready", "backend-api-2", 4),
        ("sli-window", "backend-api-2", 4),
        ("drain", "backend-api-1", 5),
        ("push", "backend-api-1", 5),
    ],
)
def test_a_journal_that_cannot_be_written_stops_before_the_next_change_and_safely(
    fleet: MemoryFleet, step: str, node: str, code: int
) -> None:
    run = fleet.run(artifact=fleet.binary("v2.0.0"))

    def listener(event: Event) -> None:
        if isinstance(event, StepStarted) and (event.step, event.node) == (step, node):
            fill_disk(run)

    fleet.on_event = listener
    ended = ending(run, canary)
    assert ended.code == code
    assert "cannot be written: No space left on device" in f"{ended.text}{fleet.texts()}"
    if code in (3, 4):
        assert (fleet.all_run(fleet.v1), fleet.all_serve(), fleet.drained) == (True, True, [])
    assert fleet.world.profiles == {}
    assert fleet.world.most_out <= 1
    fleet.on_event = lambda event: None
    assert release(fleet).code == 0


def test_a_journal_is_its_owners_alone(fleet: MemoryFleet) -> None:
    release(fleet)
    folder = fleet.folder / "journals"
    assert (folder.stat().st_mode & 0o777, next(folder.iterdir()).stat().st_mode & 0o777) == (0o700, 0o600)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_journal_that_was_cut_or_mangled_is_read_as_far_as_it_goes(noise: bytes, cut: int) -> None:
    path = Path(os.environ["XDG_STATE_HOME"]) / "mangled.jsonl"
    whole = b'{"at": "2030-01-01T00:00:00Z", "event": "Note", "text": "a"}\n' * 5
    path.write_bytes(whole[:cut] + noise + b"\n" + whole)
    found = list(journal.read(path))
    assert len(found) >= 5
    assert list(recipe.in_words(found))


@given(
    st.text(max_size=100)
    | st.recursive(st.none() | st.text(), lambda t: st.lists(t) | st.dictionaries(st.text(), t)).map(
        json.dumps
    )
)
def test_a_history_that_is_not_ours_to_read_is_no_error(mark: str) -> None:
    recipe.as_rows(remembered(mark))


def test_no_secret_enters_the_record(fleet: MemoryFleet, httpserver: HTTPServer, tmp_path: Path) -> None:
    """A Prometheus that answers with the very credentials that it was sent."""
    canary_string = "s3cr3t-canary"

    def echo(request: Request) -> Response:
        return Response(f"not allowed: {request.headers.get('Authorization')} {canary_string}", status=401)

    httpserver.expect_request("/api/v1/query").respond_with_handler(echo)
    (tmp_path / "token").write_text(canary_string)
    ended = release(
        fleet,
        prom_url=httpserver.url_for("/").rstrip("/"),
        prom_bearer_token_file=str(tmp_path / "token"),
        prometheus=connect_to_prometheus,
    )
    assert ended.code == 3
    assert any("Authorization" in dict(request.headers) for request, _ in httpserver.log)
    record = "\n".join(path.read_text() for path in (fleet.folder / "journals").iterdir())
    assert "token" in record
    everything = (
        record
        + json.dumps(fleet.world.config)
        + json.dumps(fleet.world.profiles)
        + fleet.texts()
        + ended.text
    )
    assert canary_string not in everything


def test_a_change_whose_answer_is_lost_is_on_record_as_unknown(fleet: MemoryFleet) -> None:
    at = Call(
        "lb-check of backend-api-2",
        "incus-1",
        "PATCH instances/backend-api-2 user.veza-tasks.drained",
        True,
    )
    faults = Faults(fleet.world, at, Fault.LOST_AFTER)
    assert ending(fleet.run(faults, artifact=fleet.binary("v2.0.0")), canary).code == 0
    assert faults.struck
    outcomes = [event.outcome for event in fleet.events if isinstance(event, Changed)]
    assert any("not known" in outcome for outcome in outcomes)
