"""Programs of the operator's own, called before, during and after a run."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from tests.memory import SLOW_P95, Ending, MemoryFleet, digest_of, ending
from veza_tasks.events import Warned
from veza_tasks.recipes.release import canary

EXAMPLES = Path(__file__).parents[2] / "docs" / "hooks"


def hook(fleet: MemoryFleet, name: str, body: str, *, mode: int = 0o755) -> Path:
    path = fleet.folder / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


def release(fleet: MemoryFleet, version: str = "v2.0.0", **more: Any) -> Ending:
    knobs = {"artifact": fleet.binary(version), "hooks_dir": str(fleet.folder / "hooks"), **more}
    return ending(fleet.run(**knobs), canary)


def warnings(fleet: MemoryFleet) -> str:
    return "\n".join(event.text for event in fleet.events if isinstance(event, Warned))


def writes(fleet: MemoryFleet) -> str:
    """A script that appends what it is told to a file."""
    return f'env | grep ^VEZA_ | sort >>"{fleet.folder}/told"; echo >>"{fleet.folder}/told"'


def told(fleet: MemoryFleet) -> list[dict[str, str]]:
    """What the hooks were told, in order."""
    blocks = (fleet.folder / "told").read_text().strip().split("\n\n")
    return [
        dict(line.split("=", 1) for line in block.splitlines() if line.startswith("VEZA_"))
        for block in blocks
    ]


def test_each_is_called_in_its_moment_with_what_it_needs(fleet: MemoryFleet) -> None:
    for name in ("before-run", "after-node", "on-rollback", "after-run"):
        hook(fleet, name, writes(fleet))
    assert release(fleet).code == 0
    calls = told(fleet)
    assert [(call["VEZA_HOOK"], call.get("VEZA_NODE")) for call in calls] == [
        ("before-run", None),
        ("after-node", "backend-api-2"),
        ("after-node", "backend-api-1"),
        ("after-run", None),
    ]
    last = calls[-1]
    assert (last["VEZA_EXIT_CODE"], last["VEZA_MESSAGE"], last["VEZA_WHO"]) == (
        "0",
        "done",
        "somebody@somewhere",
    )
    assert last["VEZA_ARTIFACT_SHA256"] == digest_of(fleet.binary("v2.0.0"))
    assert Path(last["VEZA_JOURNAL"]).is_file()


def test_a_rollback_is_told_and_so_is_how_it_ended(fleet: MemoryFleet) -> None:
    for name in ("on-rollback", "after-run"):
        hook(fleet, name, writes(fleet))
    fleet.binary("v3.0.0", SLOW_P95)
    assert (
        ending(
            fleet.run(artifact=fleet.folder / "veza-api-v3.0.0", hooks_dir=str(fleet.folder / "hooks")),
            canary,
        ).code
        == 4
    )
    back, after = told(fleet)
    assert (back["VEZA_HOOK"], back["VEZA_NODE"]) == ("on-rollback", "backend-api-2")
    assert after["VEZA_EXIT_CODE"] == "4"
    assert "is not released" in after["VEZA_MESSAGE"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo the change window is closed; exit 7", "the change window is closed"),
        ("sleep 60", "0.3 s"),
        ("exit 1", "1"),
    ],
)
def test_one_before_the_run_may_refuse_it(fleet: MemoryFleet, body: str, said: str) -> None:
    hook(fleet, "before-run", body)
    ended = release(fleet, hook_timeout=0.3)
    assert (ended.code, fleet.world.effects, fleet.world.profiles) == (3, [], {})
    assert said in ended.text


@pytest.mark.parametrize("name", ["after-node", "after-run"])
def test_one_that_fails_later_is_told_and_changes_nothing(fleet: MemoryFleet, name: str) -> None:
    path = hook(fleet, name, "echo oh no >&2; exit 3")
    assert release(fleet).code == 0
    assert f"the hook {path} failed: exit status 3: oh no" in warnings(fleet)
    assert fleet.all_run(fleet.binary("v2.0.0"))


def test_one_that_hangs_is_killed_with_its_children_and_holds_nothing_up(fleet: MemoryFleet) -> None:
    pid = fleet.folder / "pid"
    hook(fleet, "after-node", f'sleep 300 & echo $! >"{pid}"; wait')
    began = time.monotonic()
    assert release(fleet, hook_timeout=0.5).code == 0
    assert time.monotonic() - began < 10
    assert "did not end within 0.5 s" in warnings(fleet)
    child = Path(f"/proc/{pid.read_text().strip()}/cmdline")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while child.read_bytes():  # a zombie has none
            assert time.monotonic() - began < 20
            time.sleep(0.01)


def test_one_that_cannot_be_started_is_told(fleet: MemoryFleet) -> None:
    hook(fleet, "after-run", "").write_text("#!/nonesuch\n")
    assert release(fleet).code == 0
    assert "it cannot be started" in warnings(fleet)


def test_what_looks_like_a_hook_and_is_none_is_told_before_anything(fleet: MemoryFleet) -> None:
    hook(fleet, "before-run", "exit 0", mode=0o644)
    ended = release(fleet)
    assert (ended.code, "is not executable" in ended.text, fleet.world.effects) == (2, True, [])
    shutil.rmtree(fleet.folder / "hooks")
    assert (release(fleet).code, fleet.world.profiles) == (2, {})
    hook(fleet, "afterrun", "exit 0")
    assert release(fleet).code == 0
    assert "afterrun; hooks are called before-run, after-node" in warnings(fleet)


def test_a_plan_calls_none(fleet: MemoryFleet) -> None:
    hook(fleet, "before-run", "exit 1")
    run = fleet.run(artifact=fleet.binary("v2.0.0"), hooks_dir=str(fleet.folder / "hooks"), plan=True)
    assert ending(run, canary).code == 0


def test_the_chat_example_says_who_released_what_and_how_it_ended(
    fleet: MemoryFleet, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/hooks/abc", method="POST").respond_with_data("ok")
    monkeypatch.setenv("CHAT_WEBHOOK_URL", httpserver.url_for("/hooks/abc"))
    (fleet.folder / "hooks").mkdir()
    for name in ("after-run", "on-rollback"):
        shutil.copy(EXAMPLES / "chat-webhook", fleet.folder / "hooks" / name)
    fleet.binary("v3.0.0", SLOW_P95)
    bad = fleet.run(artifact=fleet.folder / "veza-api-v3.0.0", hooks_dir=str(fleet.folder / "hooks"))
    assert ending(bad, canary).code == 4
    assert warnings(fleet) == ""
    back, after = [json.loads(request.data)["text"] for request, _ in httpserver.log]
    assert back.startswith("canary of v3.0.0 on api_pool by somebody@somewhere: backend-api-2 is going back")
    assert after.startswith("canary of v3.0.0 on api_pool by somebody@somewhere: exit 4: v3.0.0")


def test_the_grafana_example_marks_each_node(
    fleet: MemoryFleet, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    httpserver.expect_request(
        "/api/annotations", method="POST", headers={"Authorization": "Bearer t0ken"}
    ).respond_with_json({"id": 1})
    (tmp_path / "token").write_text("t0ken\n")
    monkeypatch.setenv("GRAFANA_URL", httpserver.url_for("").rstrip("/"))
    monkeypatch.setenv("GRAFANA_TOKEN_FILE", str(tmp_path / "token"))
    (fleet.folder / "hooks").mkdir()
    shutil.copy(EXAMPLES / "grafana-annotation", fleet.folder / "hooks" / "after-node")
    assert release(fleet).code == 0
    assert warnings(fleet) == ""
    sent = [json.loads(request.data) for request, _ in httpserver.log]
    assert [one["tags"] for one in sent] == [
        ["veza-tasks", "canary", node] for node in ("backend-api-2", "backend-api-1")
    ]
    assert abs(sent[0]["time"] / 1000 - time.time()) < 60
