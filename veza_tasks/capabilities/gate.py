"""What turns probes into a verdict: runbook step 7, the SLI monitor.

A probe is one look at the canary's own series. It is green only if fresh samples, enough scrapes and enough
requests stand behind numbers that are below their thresholds; "no data" and "too early or too little traffic
to tell" are two further verdicts, and neither is ever green.

Series are taken from the Go client's histogram ``SLI_METRIC``, labels ``path`` and ``status``; requests of
``HEALTH_PATH`` are counted as scrapes but never as traffic, or HAProxy's checks alone would carry a window.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from veza_tasks.adapters.prometheus import NoData, Prometheus, Sample
from veza_tasks.clock import Clock
from veza_tasks.errors import ConfigError, SliBreached
from veza_tasks.events import Colour, Emit, Probed

if TYPE_CHECKING:
    from veza_tasks.settings import Settings

MIN_SCRAPES = 4
"""rate() needs two samples; from four on one late or lost scrape does not bend it."""

LOOK_INTERVAL = 1.0
"""Seconds between looks at the rotation and at signals while waiting for the next probe."""


class Verdict(StrEnum):
    """What a probe says. Only ``GREEN`` lets a release go on."""

    GREEN = "green"
    RED = "red"
    NO_DATA = "no data"
    WAITING = "waiting"
    """Prometheus answers, and there are too few scrapes or requests to judge by (yet)."""


_COLOURS = {Verdict.GREEN: Colour.GREEN, Verdict.RED: Colour.RED}


@dataclass(frozen=True)
class Queries:
    """The resolved PromQL of one probe, all at the same moment; ``seconds`` is the range they look back."""

    seconds: int
    age: str
    scrapes: str
    requests: str
    p95: str
    error_rate: str


@dataclass(frozen=True)
class Asked:
    """One query as it was sent, and what came back; ``name`` is its field in ``Queries``."""

    name: str
    promql: str
    answer: Sample | NoData


@dataclass(frozen=True)
class Probe:
    """One look at the SLIs. Queries after the one that settled the verdict were not asked."""

    verdict: Verdict
    detail: str
    asked: tuple[Asked, ...]

    @property
    def colour(self) -> Colour:
        return _COLOURS.get(self.verdict, Colour.GREY)

    def number(self, name: str) -> float | None:
        """The answer to a query, None where there is none: seconds, counts, or a ratio for the error rate."""
        for asked in self.asked:
            if asked.name == name and isinstance(asked.answer, Sample):
                return asked.answer.value
        return None


@dataclass(frozen=True)
class Green:
    """A window that ended green. The worst values (seconds, ratio) are over all probes that had them."""

    node: str
    window: float
    probes: int = 0
    worst_p95: float | None = None
    worst_error_rate: float | None = None
    last: Probe | None = None


def queries(settings: Settings, node: str, *, came_back: float) -> Queries:
    """The queries about a node that came back into rotation ``came_back`` seconds ago (or ``math.inf``).

    They look back ``SLI_RANGE``, but never past that moment: a good release after a bad one must not be
    judged by the bad one's errors. Raises ConfigError for an ``sli_selector`` that PromQL cannot take.
    """
    seconds = max(1, int(min(settings.sli_range, came_back)))
    matchers = _matchers(settings, node)
    users = [*matchers, f'path!="{_quoted(settings.health_path)}"']
    over = f"[{seconds}s]"
    count, bucket = f"{settings.sli_metric}_count", f"{settings.sli_metric}_bucket"
    failed = _select(count, [*users, 'status=~"5.."'])
    p95 = f"histogram_quantile(0.95, sum by (le) (rate({_select(bucket, users)}{over})))"
    # No 5xx series yet means no errors; requests are proven by a query of their own before this one is asked.
    error_rate = f"(sum(rate({failed}{over})) or vector(0)) / sum(rate({_select(count, users)}{over}))"
    return Queries(
        seconds=seconds,
        age=f"time() - max(timestamp({_select(count, matchers)}))",
        scrapes=f"max(count_over_time({_select(count, matchers)}{over})) or vector(0)",
        requests=f"sum(increase({_select(count, users)}{over})) or vector(0)",
        p95=_filled(settings.sli_p95_query, node, seconds) or p95,
        error_rate=_filled(settings.sli_err_query, node, seconds) or error_rate,
    )


def probe(prometheus: Prometheus, settings: Settings, node: str, *, came_back: float) -> Probe:
    """One look at the SLIs of a node that came back into rotation ``came_back`` seconds ago."""
    ask = queries(settings, node, came_back=came_back)
    asked: list[Asked] = []

    def number(name: str, promql: str) -> float | None:
        answer = prometheus.query(promql)
        if isinstance(answer, Sample) and answer.value < 0:
            answer = NoData(f"{answer.value:g} is below zero")
        asked.append(Asked(name, promql, answer))
        return answer.value if isinstance(answer, Sample) else None

    def settled(verdict: Verdict, detail: str) -> Probe:
        return Probe(verdict, detail, tuple(asked))

    def no_data() -> Probe:
        last = asked[-1]
        reason = last.answer.reason if isinstance(last.answer, NoData) else ""
        return settled(Verdict.NO_DATA, f"no data: {last.name.replace('_', ' ')}: {reason}")

    if (age := number("age", ask.age)) is None:
        return no_data()
    if age > settings.prom_max_age:
        oldest = f"PROM_MAX_AGE is {settings.prom_max_age:g} s"
        return settled(Verdict.NO_DATA, f"no data: the newest sample is {age:.0f} s old, {oldest}")
    if (scrapes := number("scrapes", ask.scrapes)) is None:
        return no_data()
    if scrapes < MIN_SCRAPES:
        return settled(Verdict.WAITING, f"{scrapes:.0f} of {MIN_SCRAPES} scrapes in {ask.seconds} s")
    if (requests := number("requests", ask.requests)) is None:
        return no_data()
    if requests < settings.min_requests:
        # Rounded down: "200 of 200 requests" would not explain why it waits.
        seen, wanted = math.floor(requests), settings.min_requests
        return settled(Verdict.WAITING, f"{seen} of {wanted} requests in {ask.seconds} s")
    if (p95 := number("p95", ask.p95)) is None:
        return no_data()
    if (error_rate := number("error_rate", ask.error_rate)) is None:
        return no_data()
    slow = f"p95 {p95:.4g} s, threshold {settings.prom_p95_threshold_s:g} s"
    failing = f"error rate {error_rate:.4g}, threshold {settings.prom_err_rate_threshold:g}"
    breached = []
    if not p95 < settings.prom_p95_threshold_s:
        breached.append(slow)
    if not error_rate < settings.prom_err_rate_threshold:
        breached.append(failing)
    if breached:
        return settled(Verdict.RED, "; ".join(breached))
    return settled(Verdict.GREEN, f"{slow}; {failing}; {requests:.0f} requests in {ask.seconds} s")


def watch(
    prometheus: Prometheus,
    settings: Settings,
    node: str,
    *,
    clock: Clock,
    emit: Emit,
    check_interrupt: Callable[[], None],
    came_back_at: float,
    keep_routed: Callable[[], None],
) -> Green:
    """Probe for ``SLI_WINDOW`` seconds; return if the window ends green (runbook step 7).

    The first probe comes after one ``SLI_PROBE_INTERVAL``, the last one at the very end of the window; a slow
    probe does not shift the others: those that it overran are skipped. ``came_back_at`` is on
    ``clock.monotonic``. ``check_interrupt`` and ``keep_routed`` are called every second between probes and
    end the watch by raising. A window of 0 returns at once, unprobed.

    Raises SliBreached for the first red probe, for ``SLI_NO_DATA_PROBES`` without data in a row, and for a
    window whose last probe is not green. A probe that waits for traffic ends a row without data, because
    Prometheus did answer.
    """
    window, interval = settings.sli_window, settings.sli_probe_interval
    start = clock.monotonic()
    green = Green(node, window)
    tick = without_data = 0
    due = 0.0
    while due < window:
        tick = max(tick + 1, math.ceil((clock.monotonic() - start) / interval))
        due = min(tick * interval, window)
        _wait(start + due, clock=clock, look=(check_interrupt, keep_routed))
        now = clock.monotonic()
        last = probe(prometheus, settings, node, came_back=now - came_back_at)
        emit(_event(settings, node, last, elapsed=now - start))
        if last.verdict is Verdict.RED:
            raise SliBreached(f"The SLI of {node} is breached: {last.detail}.")
        without_data = without_data + 1 if last.verdict is Verdict.NO_DATA else 0
        if without_data >= settings.sli_no_data_probes:
            raise SliBreached(f"The SLI of {node} is unknown, {without_data} probes in a row: {last.detail}.")
        green = Green(
            node,
            window,
            probes=green.probes + 1,
            worst_p95=_worst(green.worst_p95, last.number("p95")),
            worst_error_rate=_worst(green.worst_error_rate, last.number("error_rate")),
            last=last,
        )
    if green.last is not None and green.last.verdict is not Verdict.GREEN:
        raise SliBreached(_without_verdict(node, window, green.last))
    return green


def resolution(prometheus: Prometheus, settings: Settings, node: str) -> tuple[str, ...] | NoData:
    """Why the histogram is too coarse for ``PROM_P95_THRESHOLD_S``, one sentence each; empty if it is not.

    histogram_quantile never answers more than the highest finite bucket, and interpolates within a bucket.
    Nothing is asked where ``SLI_P95_QUERY`` replaces the histogram.
    """
    if settings.sli_p95_query:
        return ()
    metric, threshold = f"{settings.sli_metric}_bucket", settings.prom_p95_threshold_s
    rows = prometheus.series(f"count by (le) ({_select(metric, _matchers(settings, node))})")
    if isinstance(rows, NoData):
        return rows
    try:
        bounds = sorted(bound for labels, _ in rows if math.isfinite(bound := float(labels["le"])))
    except (KeyError, ValueError):
        return NoData(f"{metric} has a bucket without a number in its label le")
    if not bounds:
        return NoData(f"{metric} has no finite bucket")
    if bounds[-1] < threshold:
        highest = f"The highest finite bucket of {metric} is {bounds[-1]:g} s"
        return (f"{highest}: p95 can never reach {threshold:g} s, so a slow release would pass.",)
    if threshold not in bounds:
        below = max((bound for bound in bounds if bound < threshold), default=0.0)
        above = min(bound for bound in bounds if bound > threshold)
        missing = f"No bucket of {metric} ends at the threshold of {threshold:g} s"
        return (f"{missing}: p95 is interpolated between {below:g} s and {above:g} s.",)
    return ()


def _wait(until: float, *, clock: Clock, look: tuple[Callable[[], None], ...]) -> None:
    while True:
        for each in look:
            each()
        left = until - clock.monotonic()
        if left <= 0:
            return
        clock.sleep(min(left, LOOK_INTERVAL))


def _event(settings: Settings, node: str, probe: Probe, *, elapsed: float) -> Probed:
    return Probed(
        node=node,
        colour=probe.colour,
        detail=probe.detail,
        elapsed=elapsed,
        window=settings.sli_window,
        requests=probe.number("requests"),
        p95=probe.number("p95"),
        p95_threshold=settings.prom_p95_threshold_s,
        error_rate=probe.number("error_rate"),
        error_rate_threshold=settings.prom_err_rate_threshold,
        waiting=probe.verdict is Verdict.WAITING,
        asked=tuple((asked.promql, _raw(asked.answer)) for asked in probe.asked),
    )


def _raw(answer: Sample | NoData) -> str:
    return repr(answer.value) if isinstance(answer, Sample) else answer.reason


def _without_verdict(node: str, window: float, last: Probe) -> str:
    ends = f"The window of {window:g} s on {node} ends without a green verdict"
    if last.verdict is Verdict.NO_DATA:
        return f"{ends}: {last.detail}."
    if last.number("requests") is None:
        return f"{ends}: too few scrapes, {last.detail}. Raise SLI_RANGE or SLI_WINDOW, or scrape more often."
    cure = "Lower SLI_MIN_REQUESTS, or raise SLI_RANGE or SLI_WINDOW"
    return f"{ends}: too little traffic, {last.detail}. {cure}."


def _worst(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


_MATCHER = r"""\s*[a-zA-Z_][a-zA-Z0-9_]*\s*(?:=~|!~|!=|=)\s*(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')\s*"""
_SELECTOR = re.compile(rf"{_MATCHER}(?:,{_MATCHER})*")


def _matchers(settings: Settings, node: str) -> list[str]:
    if settings.sli_scope == "service":
        return []
    selector = settings.node(node).sli_selector
    if selector is None:
        return [f'instance=~"{_pattern(node)}([.:].*)?"']
    if not _SELECTOR.fullmatch(selector):
        wanted = 'label matchers, such as pod="backend-api-2"'
        raise ConfigError([f"nodes.{node}.sli_selector: {selector!r} is not a list of {wanted}."])
    return [selector]


def _select(metric: str, matchers: list[str]) -> str:
    return f"{metric}{{{','.join(matchers)}}}"


def _filled(query: str | None, node: str, seconds: int) -> str | None:
    """A query of the operator's own. All braces but ``{node}`` and ``{range}`` are PromQL's."""
    if query is None:
        return None
    values = {"{node}": _pattern(node), "{range}": f"{seconds}s"}
    return re.sub(r"\{node\}|\{range\}", lambda found: values[found[0]], query)


def _pattern(text: str) -> str:
    """A name as the inside of a PromQL string that holds an RE2 expression (Go's ``regexp.QuoteMeta``)."""
    return _quoted(re.sub(r"[\\.+*?()|\[\]{}^$]", r"\\\g<0>", text))


def _quoted(text: str) -> str:
    """The inside of a double-quoted PromQL string (Go's rules), in plain ASCII."""
    return "".join(_CHARACTERS.get(c) or (c if " " <= c <= "~" else f"\\U{ord(c):08x}") for c in text)


_CHARACTERS = {'"': '\\"', "\\": "\\\\"}
