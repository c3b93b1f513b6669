"""The linter against PostgreSQL, which gives the verdict of every case.

PostgreSQL's verdicts are kept in `cases/verdicts.json`, so that the linter is compared without a server too; the last
test has PostgreSQL judge all of them anew.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.migrations.cases import Case, baseline, cases, compare, judged_on, verdicts
from tests.migrations.cases.replay import judge_all
from tests.migrations.postgres import Missing, provide, scratch

CASES = list(cases())


def test_every_case_has_a_name_of_its_own() -> None:
    names = Counter(case.name for case in CASES)
    assert [name for name, times in names.items() if times > 1] == []
    assert len(names) > 350


def test_the_kept_verdicts_are_of_these_cases() -> None:
    kept = {name: verdict.digest for name, verdict in verdicts().items()}
    assert kept == {case.name: case.digest for case in CASES}, "run python -m tests.migrations.cases"
    assert judged_on() == baseline(), "run python -m tests.migrations.cases"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_linter_agrees_with_postgresql(case: Case) -> None:
    results = [compare(case, verdicts()[case.name], with_history=history) for history in (False, True)]
    for result in filter(None, results):  # some cannot be decided without the migrations that came before
        assert result.alarmed == result.expected, result.said


@pytest.mark.postgres
@pytest.mark.timeout(900)
def test_postgresql_still_judges_as_kept() -> None:
    try:
        provide()
    except Missing as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run PostgreSQL: {error}")
        pytest.skip(str(error))
    with scratch() as folder:
        judged = judge_all(CASES, folder)
    kept = verdicts()
    # How the old binary suffers may be told in other words by another version; whether it does may not.
    assert {
        name: str(said) for name, said in judged.items() if bool(str(said)) != bool(kept[name].broken)
    } == {}
