"""`python -m tests.migrations.cases` has PostgreSQL judge what is new or changed; with `lint` the linter is compared."""

from __future__ import annotations

import sys
import time

from tests.migrations.cases import Verdict, baseline, cases, compare, judged_on, verdicts, write
from tests.migrations.cases.replay import Refused, judge_all
from tests.migrations.postgres import scratch


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def judge() -> int:
    kept = verdicts() if judged_on() == baseline() else {}
    everything = list(cases())
    fresh = [case for case in everything if case.name not in kept or kept[case.name].digest != case.digest]
    started = time.monotonic()
    with scratch() as folder:
        broken = judge_all(fresh, folder)
    computed = {case.name: kept[case.name] for case in everything if case not in fresh} | {
        case.name: Verdict(case.digest, said) for case in fresh if isinstance(said := broken[case.name], str)
    }
    write(computed)
    for name, said in broken.items():
        if isinstance(said, Refused):
            say(f"{name}: PostgreSQL refuses it: {said}")
    breaks = sum(computed[case.name].breaks(case) for case in everything if case.name in computed)
    say(f"{len(computed)} cases, {breaks} breaks, {time.monotonic() - started:.0f} s, baseline {baseline()}")
    return len(everything) - len(computed)


def lint() -> int:
    judged = verdicts()
    wrong = 0
    for with_history in (False, True):
        compared = (
            compare(case, judged[case.name], with_history=with_history)
            for case in cases()
            if case.name in judged
        )
        results = [result for result in compared if result]
        hits = sum(result.expected and result.alarmed for result in results)
        alarms = sum(result.alarmed for result in results)
        breaks = sum(result.expected for result in results)
        say(
            f"{'with' if with_history else 'without'} history: {len(results)} cases, "
            f"precision {hits / max(1, alarms):.4f}, recall {hits / max(1, breaks):.4f}"
        )
        for result in results:
            if result.expected != result.alarmed:
                wrong += 1
                say(f"  {'missed' if result.expected else 'false alarm'}: {result.case.name}: {result.said}")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(lint() if sys.argv[1:] == ["lint"] else judge()))
