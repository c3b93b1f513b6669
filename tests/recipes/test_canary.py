"""The release: what ends where, on a fleet in memory under load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.memory import (
    CRASH,
    ERRORS_20,
    FOLDER,
    GOOD,
    HEALTH_500,
    INSTALLED,
    KEPT,
    PREVIOUS,
    SLOW_BOOT,
    SLOW_P95,
    Behaviour,
    Ending,
    File,
    Killed,
    MemoryFleet,
    digest_of,
    ending,
)
from veza_tasks.adapters.prometheus import NoData
from veza_tasks.events import Event, Planned, Probed, StepDone, StepStarted, Warned
from veza_tasks.recipes.release import canary, roll_peers


def release(fleet: MemoryFleet, version: str = "v2.0.0", behaviour: Behaviour = GOOD, **more: Any) -> Ending:
    rewatch = bool(more.pop("rewatch", False))
    fleet.events.clear()
    run = fleet.run(artifact=fleet.binary(version, behaviour), **more)
    return ending(run, lambda run: canary(run, rewatch=rewatch))


def roll(fleet: MemoryFleet, version: str = "v2.0.0", *, unproven: str = "", **more: Any) -> Ending:
    fleet.events.clear()
    run = fleet.run(artifact=fleet.binary(version), **more)
    return ending(run, lambda run: roll_peers(run, unproven=unproven))


def steps(fleet: MemoryFleet) -> list[tuple[str, str]]:
    return [(event.step, event.node) for event in fleet.events if isinstance(event, StepStarted)]


def at_step(fleet: MemoryFleet, step: str, node: str, action: object) -> None:
    """Do something once, as a step begins."""
    waiting = [action]

    def listen(event: Event) -> None:
        if isinstance(event, StepStarted) and (event.step, event.node) == (step, node) and waiting:
            waiting.pop()()  # type: ignore[operator]

    fleet.on_event = listen


def peers_untouched(fleet: MemoryFleet) -> bool:
    return all(
        peer.installed == peer.running == digest_of(fleet.v1) and peer.process and peer.process.started == 0
        for peer in fleet.peers
    )


def drained_by_somebody(fleet: MemoryFleet, name: str) -> None:
    fleet.world.servers[name].admin = 8


# Good releases


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_a_good_release_reaches_every_node_and_loses_no_request(fleet: MemoryFleet, nodes: int) -> None:
    fleet = MemoryFleet(fleet.folder, nodes=nodes, rate=300)
    assert release(fleet).code == 0
    assert fleet.all_run(fleet.binary("v2.0.0"))
    assert fleet.all_serve()
    assert (fleet.world.failed, fleet.world.most_out, fleet.drained) == (0, 1, [])


def test_the_steps_are_the_runbooks_in_its_order(fleet: MemoryFleet) -> None:
    release(fleet)
    on_a_node = ["drain", "push", "health", "ready", "lb-check"]
    assert steps(fleet) == [
        ("preflight", ""),
        ("stage", ""),
        *((step, "backend-api-2") for step in ["guard", *on_a_node, "sli-window"]),
        *((step, "backend-api-1") for step in on_a_node),
    ]


def test_the_pipelines_previous_binary_is_never_touched(fleet: MemoryFleet) -> None:
    previous = {machine: machine.files[PREVIOUS] for machine in fleet.world.machines.values()}
    release(fleet)
    release(fleet, "v3.0.0", CRASH)
    assert all(machine.files[PREVIOUS] is file for machine, file in previous.items())


def test_a_slow_boot_loses_no_request(fleet: MemoryFleet) -> None:
    """Three seconds are three failed checks: HAProxy calls the server down, and up again only after two good ones."""
    assert release(fleet, behaviour=SLOW_BOOT).code == 0
    assert (fleet.world.failed, fleet.world.most_out, fleet.all_serve()) == (0, 1, True)


def test_with_slowstart_a_warming_server_counts_as_serving(fleet: MemoryFleet) -> None:
    fleet.world.slowstart = 30
    assert release(fleet, behaviour=SLOW_BOOT).code == 0
    assert fleet.world.failed == 0


def test_with_a_hash_balance_the_state_is_the_proof(fleet: MemoryFleet) -> None:
    fleet.world.algorithm = "source"
    fleet.world.rate = 0
    assert release(fleet, accepted=dict.fromkeys(["sli-data", "sli-now"], "idle"), sli_window=0).code == 0
    said = [
        event.detail for event in fleet.events if isinstance(event, StepDone) and event.step == "lb-check"
    ]
    assert any("HAProxy's state is the proof" in detail for detail in said)


def test_without_traffic_our_own_requests_show_that_the_node_serves(fleet: MemoryFleet) -> None:
    fleet.world.rate = 0
    assert release(fleet, accepted=dict.fromkeys(["sli-data", "sli-now"], "idle"), sli_window=0).code == 0
    assert fleet.all_run(fleet.binary("v2.0.0"))


def test_the_same_release_again_touches_nothing(fleet: MemoryFleet) -> None:
    release(fleet)
    machines = fleet.world.machines.values()
    before = [
        (machine.files[INSTALLED], machine.files[INSTALLED].changed, machine.process) for machine in machines
    ]
    assert release(fleet).code == 0
    after = [
        (machine.files[INSTALLED], machine.files[INSTALLED].changed, machine.process) for machine in machines
    ]
    assert after == before
    assert "drain" not in [step for step, _ in steps(fleet)]


def test_a_file_that_is_installed_and_does_not_run_yet_is_started(fleet: MemoryFleet) -> None:
    content = fleet.binary("v2.0.0")
    fleet.canary.files[INSTALLED] = File(digest_of(content), 100)
    old = fleet.canary.process
    assert release(fleet).code == 0
    assert fleet.canary.process is not old
    assert fleet.canary.running == digest_of(content)


def test_the_same_binary_under_another_inode_is_no_reason_to_restart(fleet: MemoryFleet) -> None:
    release(fleet)
    process = fleet.canary.process
    fleet.canary.files[INSTALLED] = File(fleet.canary.installed, 126)
    assert release(fleet).code == 0
    assert fleet.canary.process is process


def test_kept_binaries_are_bounded_and_the_way_back_is_among_them(fleet: MemoryFleet) -> None:
    for number in range(2, 9):
        assert release(fleet, f"v{number}.0.0").code == 0
    for machine in fleet.world.machines.values():
        kept = [path.removeprefix(f"{KEPT}/") for path in machine.files if path.startswith(f"{KEPT}/")]
        binaries = {name for name in kept if not name.endswith(".version")}
        assert {digest_of(fleet.binary("v7.0.0")), digest_of(fleet.v1)} >= binaries - {
            digest_of(fleet.binary(f"v{number}.0.0")) for number in (4, 5, 6)
        }
        assert digest_of(fleet.binary("v7.0.0")) in binaries
        assert len(binaries) <= 3 + 2
        assert {name.removesuffix(".version") for name in kept} - binaries <= {machine.installed}
    assert digest_of(fleet.v1) in {path.removeprefix(f"{KEPT}/") for path in fleet.canary.files}


# Bad releases


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (HEALTH_500, "500 instead of 200"),
        (CRASH, "the process died"),
        (Behaviour(boot=100), "no 200"),
        (Behaviour(lives=0.3), "the process died"),
        (ERRORS_20, "error rate 0.2"),
        (SLOW_P95, "p95 0.8 s"),
        (Behaviour(lives=4), "the process died in the window"),
    ],
    ids=[
        "health-500",
        "crash",
        "never boots",
        "dies while it settles",
        "errors-20",
        "slow-p95",
        "dies in the window",
    ],
)
def test_a_bad_release_is_rolled_back_and_no_peer_is_touched(
    fleet: MemoryFleet, behaviour: Behaviour, why: str
) -> None:
    fleet.knobs["health_settle"] = 1
    ended = release(fleet, behaviour=behaviour)
    assert ended.code == 4
    assert ended.error is not None
    assert why in str(ended.error.__cause__)
    assert fleet.canary.running == fleet.canary.installed == digest_of(fleet.v1)
    assert fleet.all_serve()
    assert peers_untouched(fleet)
    assert fleet.marks == {}


@pytest.mark.parametrize("behaviour", [HEALTH_500, CRASH, ERRORS_20, SLOW_P95])
def test_a_bad_release_loses_no_request_on_its_way_out_and_back(
    fleet: MemoryFleet, behaviour: Behaviour
) -> None:
    release(fleet, behaviour=behaviour)
    assert (fleet.world.failed, fleet.world.most_out) == (0, 1)


def test_death_at_start_is_noticed_at_once(fleet: MemoryFleet) -> None:
    began = fleet.world.time
    release(fleet, behaviour=CRASH)
    assert fleet.world.time - began < 2


def test_a_process_that_ends_well_at_once_is_dead_too(fleet: MemoryFleet) -> None:
    """A unit without ``Restart=`` is then inactive, and nothing will ever answer."""

    def ends() -> None:
        fleet.canary.process, fleet.canary.active, fleet.canary.sub = None, "inactive", "dead"
        fleet.canary.starts_again_at = float("inf")

    at_step(fleet, "health", "backend-api-2", ends)
    began = fleet.world.time
    assert release(fleet).code == 4
    assert fleet.world.time - began < 2


def test_the_first_red_probe_puts_the_old_binary_back(fleet: MemoryFleet) -> None:
    release(fleet, behaviour=ERRORS_20, sli_window=3600, sli_probe_interval=30)
    probes = [event for event in fleet.events if isinstance(event, Probed)]
    assert [probe.colour for probe in probes] == ["red"]


def test_a_good_release_after_a_bad_one_is_not_judged_by_its_errors(fleet: MemoryFleet) -> None:
    assert release(fleet, behaviour=ERRORS_20).code == 4
    assert release(fleet, "v3.0.0", accepted={"sli-now": "the fix"}).code == 0


def test_no_data_for_too_long_is_red(fleet: MemoryFleet) -> None:
    at_step(
        fleet,
        "sli-window",
        "backend-api-2",
        lambda: setattr(fleet.world, "prometheus", lambda _: NoData("down")),
    )
    ended = release(fleet, sli_window=100)
    assert (ended.code, "3 probes in a row" in str(ended.error and ended.error.__cause__)) == (4, True)


def test_a_short_gap_in_the_data_is_borne(fleet: MemoryFleet) -> None:
    def gap() -> None:
        fleet.world.prometheus = lambda _: NoData("down")
        fleet.world.after(12, lambda: setattr(fleet.world, "prometheus", lambda _: None))

    at_step(fleet, "sli-window", "backend-api-2", gap)
    assert release(fleet, sli_window=30).code == 0


def test_too_little_traffic_by_the_end_of_the_window_is_red(fleet: MemoryFleet) -> None:
    at_step(fleet, "sli-window", "backend-api-2", lambda: setattr(fleet.world, "rate", 2.0))
    ended = release(fleet)
    assert (ended.code, "too little traffic" in str(ended.error and ended.error.__cause__)) == (4, True)


def test_a_window_of_an_hour_is_watched_to_its_end(fleet: MemoryFleet) -> None:
    began = fleet.world.time
    assert release(fleet, sli_window=3600, sli_probe_interval=30).code == 0
    assert sum(isinstance(event, Probed) for event in fleet.events) == 120
    assert 3600 < fleet.world.time - began < 3610


# What else may happen


def test_somebody_elses_drain_is_red_and_never_undone(fleet: MemoryFleet) -> None:
    for name in ("backend-api-1", "backend-api-2"):
        fleet = MemoryFleet(fleet.folder, nodes=3)
        drained_by_somebody(fleet, name)
        assert release(fleet).code == 3
        assert release(fleet, accepted={"states": "they know"}).code in (3, 5)
        assert fleet.world.servers[name].admin == 8
        assert name not in fleet.marks
        assert fleet.world.machines[name].running == digest_of(fleet.v1)


def test_a_drain_that_is_explained_is_taken_on(fleet: MemoryFleet) -> None:
    drained_by_somebody(fleet, "backend-api-2")
    note = json.dumps({"run": "r1", "who": "ada", "when": "today", "why": "a release"})
    fleet.world.config["backend-api-2"]["user.veza-tasks.drained"] = note
    assert release(fleet).code == 0
    assert (fleet.all_serve(), fleet.drained) == (True, [])


def test_a_canary_that_somebody_drains_in_the_window_goes_back_and_is_left_out(fleet: MemoryFleet) -> None:
    def somebody() -> None:
        fleet.world.after(3, lambda: drained_by_somebody(fleet, "backend-api-2"))

    at_step(fleet, "sli-window", "backend-api-2", somebody)
    ended = release(fleet)
    assert ended.code == 5
    assert "somebody else took it out" in ended.text
    assert fleet.canary.running == digest_of(fleet.v1)
    assert fleet.world.servers["backend-api-2"].admin == 8
    assert peers_untouched(fleet)


@pytest.mark.parametrize("step", ["drain", "push", "health"])
@pytest.mark.parametrize("node", ["backend-api-1", "backend-api-2"])
def test_a_reload_of_haproxy_that_forgets_the_drain_is_put_right(
    fleet: MemoryFleet, step: str, node: str
) -> None:
    def reload() -> None:
        fleet.world.after(0.03, fleet.world.reload_haproxy)

    fleet.world.servers[node].sessions_until = [fleet.world.time + 1]
    fleet.knobs["health_settle"] = 0.5
    at_step(fleet, step, node, reload)
    assert release(fleet).code == 0
    assert any("put back into rotation" in event.text for event in fleet.events if isinstance(event, Warned))
    assert fleet.all_serve()


@pytest.mark.parametrize("step", ["ready", "lb-check", "sli-window"])
def test_a_reload_of_haproxy_later_on_changes_nothing(fleet: MemoryFleet, step: str) -> None:
    at_step(fleet, step, "backend-api-2", fleet.world.reload_haproxy)
    assert release(fleet).code == 0
    assert (fleet.world.failed, fleet.all_serve()) == (0, True)


@pytest.mark.parametrize(("seconds", "code"), [(10, 0), (50, 4), (200, 6)])
def test_a_load_balancer_out_of_reach_in_the_window_is_borne_for_a_while(
    fleet: MemoryFleet, seconds: float, code: int
) -> None:
    """Then the canary goes back as soon as the load balancer answers; if it does not, a human is called."""

    def gone() -> None:
        fleet.world.haproxy_answers = False
        fleet.world.after(seconds, lambda: setattr(fleet.world, "haproxy_answers", True))

    at_step(fleet, "sli-window", "backend-api-2", lambda: fleet.world.after(3, gone))
    assert release(fleet, sli_window=60).code == code
    assert (fleet.world.failed, peers_untouched(fleet)) == (0, code != 0)
    fleet.world.advance(seconds)
    fleet.on_event = lambda event: None
    assert release(fleet, sli_window=60).code == 0
    assert (fleet.all_run(fleet.binary("v2.0.0")), fleet.all_serve(), fleet.drained) == (True, True, [])


def test_a_drain_that_never_empties_is_undone(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-2"].sticky = True
    ended = release(fleet)
    assert (ended.code, fleet.all_serve(), fleet.marks) == (3, True, {})
    assert fleet.canary.running == digest_of(fleet.v1)
    assert fleet.world.failed == 0


def test_clients_bound_by_a_cookie_are_moved_on_if_that_is_the_policy(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-2"].sticky = True
    assert release(fleet, drain_policy="close").code == 0
    assert fleet.all_run(fleet.binary("v2.0.0"))


def test_a_long_request_is_waited_for(fleet: MemoryFleet) -> None:
    fleet.world.servers["backend-api-2"].sessions_until = [fleet.world.time + 20]
    assert release(fleet).code == 0
    assert fleet.world.failed == 0


def test_a_truncated_upload_is_noticed_and_nothing_is_drained(fleet: MemoryFleet) -> None:
    fleet.canary.cut_uploads_at = 50
    ended = release(fleet)
    assert ended.code == 3
    assert "did not arrive whole" in ended.text
    assert (fleet.world.most_out, fleet.all_run(fleet.v1)) == (0, True)
    assert not [path for path in fleet.canary.files if "arriving" in path]


def test_a_full_disk_is_noticed_and_nothing_is_drained(fleet: MemoryFleet) -> None:
    fleet.canary.disk -= fleet.canary.free - 60
    ended = release(fleet, accepted={"nodes": "let us see"})
    assert ended.code == 3
    assert "No space left" in ended.text
    assert (fleet.world.most_out, fleet.all_run(fleet.v1)) == (0, True)
    assert not [path for path in fleet.canary.files if "arriving" in path]


def test_the_last_known_good_may_be_what_runs_here_though_a_peer_runs_something_else(
    fleet: MemoryFleet,
) -> None:
    other = fleet.binary("v1.5.0")
    fleet.peers[0].files[INSTALLED] = File(digest_of(other), 126)
    fleet.world.restart(fleet.peers[0])
    fleet.world.advance(12)
    fleet.world.failed = 0
    assert release(fleet, rollback_binary="running").code == 0


def test_each_node_may_have_a_previous_binary_of_its_own(fleet: MemoryFleet) -> None:
    fleet.peers[0].files[PREVIOUS] = File(digest_of(fleet.binary("v0.9.0")), 126)
    assert release(fleet).code == 0


@pytest.mark.parametrize("where", ["local", "on the node", "running"])
def test_rollback_goes_to_the_named_binary(fleet: MemoryFleet, where: str) -> None:
    good = fleet.binary("v1.0.0") if where == "running" else fleet.binary("v0.9.0")
    fleet.canary.files[f"{FOLDER}/veza-api.good"] = File(digest_of(good), 126)
    named = {"local": str(good), "on the node": f"{FOLDER}/veza-api.good", "running": "running"}[where]
    del fleet.canary.files[PREVIOUS]
    assert release(fleet, behaviour=HEALTH_500, rollback_binary=named).code == 4
    assert fleet.canary.running == digest_of(good)


def test_a_target_that_is_unhealthy_too_is_left_out_and_not_tried_again(fleet: MemoryFleet) -> None:
    bad = fleet.binary("v0.9.0", HEALTH_500)
    ended = release(fleet, behaviour=HEALTH_500, rollback_binary=str(bad))
    assert ended.code == 6
    assert fleet.canary.running == digest_of(bad)
    assert fleet.drained == ["backend-api-2"]
    assert not fleet.serves(fleet.canary)
    assert peers_untouched(fleet)
    assert sum("systemctl restart" in effect for effect in fleet.world.effects) == 2


def test_if_nobody_else_is_up_the_old_binary_is_put_back_in_place(fleet: MemoryFleet) -> None:
    def peer_dies() -> None:
        fleet.peers[0].process, fleet.peers[0].active = None, "failed"

    at_step(fleet, "sli-window", "backend-api-2", peer_dies)
    ended = release(fleet, behaviour=ERRORS_20)
    assert ended.code == 4
    assert fleet.canary.running == digest_of(fleet.v1)
    assert fleet.serves(fleet.canary)
    assert any("in place" in event.text for event in fleet.events if isinstance(event, Warned))
    assert fleet.world.servers["backend-api-2"].admin == 0


# The record of a green window


def test_a_green_window_is_recorded_and_not_watched_twice(fleet: MemoryFleet) -> None:
    release(fleet)
    record = json.loads(fleet.marks["backend-api-2"]["proven"])
    assert (record["digest"], record["window"]) == (digest_of(fleet.binary("v2.0.0")), 10)
    assert record["accepted"] == {}
    assert release(fleet).code == 0
    skipped = [e.detail for e in fleet.events if isinstance(e, StepDone) and e.step == "sli-window"]
    assert "skipped" in skipped[0]
    assert not any(isinstance(event, Probed) for event in fleet.events)


def test_a_forced_migration_check_and_accepted_rows_are_recorded_with_the_green_window(
    fleet: MemoryFleet,
) -> None:
    release(fleet, force_migrate=True, accepted={"states": "they know"})
    record = json.loads(fleet.marks["backend-api-2"]["proven"])
    assert record["accepted"] == {"states": "they know", "migrations": "FORCE_MIGRATE=1"}


@pytest.mark.parametrize(
    "stricter", [{"sli_window": 20}, {"prom_p95_threshold_s": 0.4}, {"prom_err_rate_threshold": 0.004}]
)
def test_a_looser_record_is_not_enough(fleet: MemoryFleet, stricter: dict[str, Any]) -> None:
    release(fleet)
    assert release(fleet, sli_min_requests=200, **stricter).code == 0
    assert any(isinstance(event, Probed) for event in fleet.events)


def test_rewatch_watches_again(fleet: MemoryFleet) -> None:
    release(fleet)
    assert release(fleet, rewatch=True).code == 0
    assert any(isinstance(event, Probed) for event in fleet.events)


def test_another_digest_clears_the_record(fleet: MemoryFleet) -> None:
    release(fleet)
    assert release(fleet, "v3.0.0", ERRORS_20).code == 4
    assert fleet.marks == {}


@pytest.mark.parametrize("odd", ["not json", "[]", "7", '"text"', "null", '{"digest": 1}', "{"])
def test_a_record_that_is_not_ours_to_read_proves_nothing(fleet: MemoryFleet, odd: str) -> None:
    fleet.world.config["backend-api-2"]["user.veza-tasks.proven"] = odd
    assert roll(fleet).code == 3
    assert release(fleet).code == 0
    assert any(isinstance(event, Probed) for event in fleet.events)


# The peers


def test_peers_get_only_what_is_proven(fleet: MemoryFleet) -> None:
    ended = roll(fleet)
    assert (ended.code, "no green record" in ended.text) == (3, True)
    assert fleet.all_run(fleet.v1)
    assert roll(fleet, unproven="Sev-2").code == 0
    assert fleet.peers[0].running == digest_of(fleet.binary("v2.0.0"))
    assert any("Sev-2" in event.text for event in fleet.events if isinstance(event, Warned))


def test_a_failing_peer_stops_the_run_and_stays_out_and_the_same_command_finishes(fleet: MemoryFleet) -> None:
    fleet = MemoryFleet(fleet.folder, nodes=3)
    v2 = fleet.binary("v2.0.0")

    def breaks() -> None:
        fleet.world.behaviours[digest_of(v2)] = CRASH

    at_step(fleet, "push", "backend-api-1", breaks)
    ended = release(fleet)
    first, last = fleet.peers
    assert ended.code == 5
    assert "the same command again" in ended.text
    assert fleet.drained == ["backend-api-1"]
    assert (first.installed, last.running) == (digest_of(v2), digest_of(fleet.v1))
    assert fleet.serves(fleet.canary)
    assert fleet.serves(last)
    assert fleet.world.failed == 0

    fleet.on_event = lambda event: None
    assert release(fleet).code == 0
    assert (fleet.all_run(v2), fleet.all_serve(), fleet.drained) == (True, True, [])


def test_the_only_peer_may_fail_and_the_same_command_finishes(fleet: MemoryFleet) -> None:
    v2 = fleet.binary("v2.0.0")
    at_step(
        fleet,
        "push",
        "backend-api-1",
        lambda: fleet.world.behaviours.update({digest_of(v2): Behaviour(health=500)}),
    )
    assert release(fleet).code == 5
    fleet.on_event = lambda event: None
    fleet.binary("v2.0.0")
    fleet.world.restart(fleet.peers[0])
    assert release(fleet).code == 0
    assert (fleet.all_run(v2), fleet.all_serve(), fleet.world.failed) == (True, True, 0)


def test_a_peer_that_haproxy_does_not_take_back_stays_out(fleet: MemoryFleet) -> None:
    fleet = MemoryFleet(fleet.folder, nodes=3)

    def weightless() -> None:
        fleet.world.servers["backend-api-1"].weight = 0

    at_step(fleet, "ready", "backend-api-1", weightless)
    assert release(fleet).code == 5
    assert fleet.drained == ["backend-api-1"]
    assert fleet.world.servers["backend-api-1"].admin == 8


def test_a_marked_peer_that_is_out_comes_first(fleet: MemoryFleet) -> None:
    fleet = MemoryFleet(fleet.folder, nodes=4)
    drained_by_somebody(fleet, "backend-api-4")
    fleet.world.config["backend-api-4"]["user.veza-tasks.drained"] = "{}"
    assert roll(fleet, unproven="a test").code == 0
    assert [node for step, node in steps(fleet) if step == "push"] == [
        f"backend-api-{number}" for number in (4, 1, 3)
    ]
    assert fleet.world.most_out == 1


def test_no_peer_is_taken_out_while_the_canary_is(fleet: MemoryFleet) -> None:
    fleet = MemoryFleet(fleet.folder, nodes=3)
    drained_by_somebody(fleet, "backend-api-2")
    fleet.world.config["backend-api-2"]["user.veza-tasks.drained"] = "{}"
    ended = roll(fleet, unproven="a test")
    assert (ended.code, "no further node is taken out" in ended.text) == (3, True)
    assert fleet.world.most_out == 1


@pytest.mark.parametrize(("many", "out"), [(1, 1), (2, 2), (3, 3)])
def test_never_more_peers_are_out_than_allowed(fleet: MemoryFleet, many: int, out: int) -> None:
    fleet = MemoryFleet(fleet.folder, nodes=5)
    assert release(fleet, max_unavailable=many, sli_min_requests=50).code == 0
    assert 1 <= fleet.world.most_out <= out
    assert (fleet.all_run(fleet.binary("v2.0.0")), fleet.world.failed) == (True, 0)


# The plan


@pytest.mark.parametrize("recipe", [release, roll])
def test_a_plan_reads_all_and_changes_nothing(fleet: MemoryFleet, recipe: object) -> None:
    unproven = {"unproven": "a test"} if recipe is roll else {}
    assert recipe(fleet, plan=True, **unproven).code == 0  # type: ignore[operator]
    assert fleet.world.effects == []
    assert (fleet.all_run(fleet.v1), fleet.marks, fleet.world.most_out) == (True, {}, 0)
    planned = [(event.where, event.command) for event in fleet.events if isinstance(event, Planned)]
    for name in ["backend-api-1"] if recipe is roll else ["backend-api-1", "backend-api-2"]:
        commands = [
            command for where, command in planned if name in (where, *command.replace("/", " ").split())
        ]
        for word in ("state drain", "install", "systemctl restart", "state ready"):
            assert any(word in command for command in commands), (name, word)


def test_a_plan_on_a_node_that_is_down_promises_to_start_it(fleet: MemoryFleet) -> None:
    """What an earlier run left out and down is what this run would bring back."""
    fleet.canary.process, fleet.canary.active = None, "failed"
    drained_by_somebody(fleet, "backend-api-2")
    fleet.world.config["backend-api-2"]["user.veza-tasks.drained"] = "{}"
    assert release(fleet, plan=True).code == 0
    assert fleet.world.effects == []


def test_a_proven_release_that_is_put_back_by_hand_is_released_again_and_stays(fleet: MemoryFleet) -> None:
    v2 = fleet.binary("v2.0.0")
    assert ending(fleet.run(artifact=v2), canary).code == 0
    fleet.canary.files[INSTALLED] = File(digest_of(fleet.v1), 10)  # by hand; the record stays
    fleet.world.restart(fleet.canary)
    fleet.world.advance(8)
    assert ending(fleet.run(artifact=v2), canary).code == 0
    fleet.world.advance(1000)
    assert fleet.canary.running == digest_of(v2)


def killed_in_the_window(fleet: MemoryFleet) -> Path:
    v2 = fleet.binary("v2.0.0")

    def die(event: Event) -> None:
        if isinstance(event, Probed):
            raise Killed

    fleet.on_event = die
    assert ending(fleet.run(artifact=v2, sli_window=60), canary).code == -9
    fleet.on_event = lambda event: None
    fleet.world.profiles.clear()
    return v2


def test_without_a_switch_of_its_own_a_dead_runs_one_does_not_act_in_the_middle(fleet: MemoryFleet) -> None:
    v2 = killed_in_the_window(fleet)
    assert ending(fleet.run(artifact=v2, deadman="off", sli_window=200), canary).code == 0
    assert fleet.all_run(v2)


def test_no_peer_gets_what_the_canary_is_about_to_take_back(fleet: MemoryFleet) -> None:
    v2 = killed_in_the_window(fleet)
    ended = ending(fleet.run(artifact=v2), lambda run: roll_peers(run, unproven="in a hurry"))
    assert (ended.code, "about to go back" in ended.text) == (3, True)
    assert all(peer.installed == digest_of(fleet.v1) for peer in fleet.peers)


def test_running_names_what_ran_before_an_unproven_release_that_was_left(fleet: MemoryFleet) -> None:
    v2 = killed_in_the_window(fleet)
    assert fleet.canary.process
    fleet.canary.process.behaviour = SLOW_P95
    ended = ending(fleet.run(artifact=v2, rollback_binary="running"), canary)
    assert (ended.code, fleet.canary.running) == (4, digest_of(fleet.v1))
