"""Whatever Incus, HAProxy or a node answers, what comes out of an adapter is an answer or a ``FleetError``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory import World
from veza_tasks.adapters.haproxy import LoadBalancer, State
from veza_tasks.adapters.host import Command, Held, Progress, Reply
from veza_tasks.adapters.incus import Incus
from veza_tasks.adapters.node import Node
from veza_tasks.capabilities.rotation import explain
from veza_tasks.errors import FleetError
from veza_tasks.settings import HostSettings, Settings


class Answering:
    """A host that answers everything with what it was given, in turn."""

    name = "incus-1"

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)

    def _next(self) -> Reply:
        return Reply(0, self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])

    def run(
        self,
        argv: Command,
        *,
        into: Command = (),
        stdin: BinaryIO | None = None,
        effect: str = "",
        timeout: float,
        progress: Progress | None = None,
    ) -> Reply:
        return self._next()

    def shell(self, held: Held, argv: Command, *, effect: str = "", timeout: float) -> Reply:
        return self._next()

    def open_ahead(self, programs: Sequence[Held]) -> None:
        pass

    def close(self) -> None:
        pass


def incus(*answers: str) -> Incus:
    return Incus(Answering(*answers), HostSettings(), timeout=1)


def balancer(*answers: str) -> LoadBalancer:
    return LoadBalancer(
        incus(*answers), instance="haproxy", socket="/s", url="http://x", pool="api_pool", timeout=1, get=str
    )


def node(*answers: str) -> Node:
    settings = Settings.model_validate({"hosts": {"h": {}}, "nodes": {"n": {"host": "h"}}})
    return Node(settings.node("n"), incus(*answers), timeout=1)


def answer_or_fleet_error(look: Callable[[], object]) -> None:
    try:
        look()
    except FleetError as error:
        if not error.message:
            raise AssertionError("it does not say why") from error


anything = st.text(max_size=200)
WORLD = World(["backend-api-1", "backend-api-2"])
POOL = WORLD.prompt("show servers state api_pool") + WORLD.prompt("show stat api_pool 6 -1")
FACTS = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=7\nNRestarts=0\nActiveEnterTimestamp=@9\n"
LOOKED = f"{FACTS}installed={'a' * 64}@1\nrunning=@1\nnow=1900000000\nfree=1000\nhttp=200\n"


def damaged(text: str) -> st.SearchStrategy[str]:
    """The text, cut, or with something else in the middle."""
    return st.tuples(st.integers(0, len(text)), st.integers(0, 30), st.text(max_size=20)).map(
        lambda given: text[: given[0]] + given[2] + text[given[0] + given[1] :]
    ) | st.integers(0, len(text)).map(lambda size: text[:size])


def test_what_is_whole_is_understood() -> None:
    assert set(balancer(POOL).pool().servers) == {"backend-api-1", "backend-api-2"}
    seen = node(LOOKED).look()
    assert seen.installed == seen.running == "a" * 64
    assert node(LOOKED).health().http == 200


@given(anything | damaged(POOL))
def test_of_haproxy(answer: str) -> None:
    answer_or_fleet_error(balancer(answer).pool)


@given(anything | damaged(LOOKED))
def test_of_a_node(answer: str) -> None:
    answer_or_fleet_error(node(answer).look)
    answer_or_fleet_error(node(answer).health)
    assert node(answer).digest("/x") in (None, answer[:64])


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "status", "architecture", "config", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(anything | nested.map(json.dumps) | nested.map(lambda entry: json.dumps([entry])))
def test_of_incus(answer: str) -> None:
    answer_or_fleet_error(incus(answer).instances)


@given(anything | nested.map(json.dumps))
def test_a_mark_that_is_not_ours_to_read_is_shown_as_it_stands(mark: str) -> None:
    assert explain(mark) == mark or "(run " in explain(mark)


@pytest.mark.parametrize("answer", ["No such server.", "Permission denied", "Unknown command: 'set'"])
def test_haproxys_complaint_about_a_change_is_an_error(answer: str) -> None:
    with pytest.raises(FleetError, match=answer.split(":")[0]):
        balancer(answer, POOL).set_state("backend-api-1", State.READY)
