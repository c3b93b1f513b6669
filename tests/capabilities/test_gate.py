"""The gate: judged by a stand-in where time matters, by a real Prometheus where PromQL matters."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from veza_tasks.adapters.prometheus import NoData, Prometheus, Sample
from veza_tasks.capabilities.gate import Green, Probe, Verdict, probe, queries, resolution, watch
from veza_tasks.errors import ConfigError, SliBreached
from veza_tasks.events import Colour, Event, Probed
from veza_tasks.settings import NodeSettings, Settings

NODE = "backend-api-2"
METRIC = "veza_gin_http_request_duration_seconds"


def knobs(**given: object) -> Settings:
    fleet = {
        "hosts": {"incus-1": {}},
        "nodes": {NODE: {"host": "incus-1"}},
        "load_balancer": {"host": "incus-1"},
    }
    return Settings.model_validate({**fleet, **given})


def named(node: str, selector: str | None = None, **given: object) -> Settings:
    """Settings that know the node, unchecked: the gate must not lean on the grammar of names."""
    nodes = {node: NodeSettings.model_construct(host="incus-1", sli_selector=selector)}
    return knobs(**given).model_copy(update={"nodes": nodes})


@dataclass(frozen=True)
class Look:
    """What Prometheus answers during one probe; ``takes`` is how long the whole probe takes, in seconds."""

    age: float | NoData = 5.0
    scrapes: float | NoData = 20.0
    requests: float | NoData = 1000.0
    p95: float | NoData = 0.1
    error_rate: float | NoData = 0.0
    takes: float = 0.0


GOOD = Look()
DARK = Look(age=NoData("no answer from http://prom.lxd:9090: Connection refused"))
IDLE = Look(requests=42)


class VirtualClock:
    """A clock that stands still but for sleeping."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds


class StandIn(Prometheus):
    """A stand-in: each probe gets the next look, the last one for ever. Queries are known by their start."""

    def __init__(self, looks: Sequence[Look], clock: VirtualClock) -> None:
        super().__init__("http://stand-in.invalid", timeout=1)
        self.looks = list(looks)
        self.clock = clock
        self.asked: list[str] = []

    def query(self, promql: str) -> Sample | NoData:
        starts = {
            "time()": "age",
            "max(count_over_time": "scrapes",
            "sum(increase": "requests",
            "histogram_quantile": "p95",
            "(sum(rate": "error_rate",
        }
        [name] = [name for start, name in starts.items() if promql.startswith(start)]
        if name == "age":
            self.look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
            self.clock.time += self.look.takes
        self.asked.append(name)
        answer = getattr(self.look, name)
        return answer if isinstance(answer, NoData) else Sample(answer)


def probed(look: Look, **given: object) -> Probe:
    return probe(StandIn([look], VirtualClock()), knobs(**given), NODE, came_back=math.inf)


@dataclass
class Watched:
    """One watch in virtual time, and everything it did."""

    looks: Sequence[Look]
    settings: Settings
    clock: VirtualClock = field(default_factory=VirtualClock)
    events: list[Event] = field(default_factory=list)
    interrupts: list[float] = field(default_factory=list)
    rotations: list[float] = field(default_factory=list)

    def run(
        self,
        *,
        keep_routed: Callable[[], None] | None = None,
        check_interrupt: Callable[[], None] | None = None,
    ) -> Green:
        start = self.clock.time

        def look(seen: list[float], more: Callable[[], None] | None) -> Callable[[], None]:
            def call() -> None:
                seen.append(self.clock.time - start)
                if more:
                    more()

            return call

        return watch(
            StandIn(self.looks, self.clock),
            self.settings,
            NODE,
            clock=self.clock,
            emit=self.events.append,
            check_interrupt=look(self.interrupts, check_interrupt),
            came_back_at=start - 10,
            keep_routed=look(self.rotations, keep_routed),
        )

    @property
    def probes(self) -> list[Probed]:
        assert all(isinstance(event, Probed) for event in self.events)
        return [event for event in self.events if isinstance(event, Probed)]


def watched(*looks: Look, **given: object) -> Watched:
    return Watched(looks, knobs(**{"sli_window": 300, "sli_probe_interval": 30, **given}))


def test_numbers_below_their_thresholds_are_green() -> None:
    seen = probed(GOOD)
    assert seen.verdict is Verdict.GREEN
    assert seen.colour is Colour.GREEN
    assert seen.detail == "p95 0.1 s, threshold 0.5 s; error rate 0, threshold 0.005; 1000 requests in 300 s"


@pytest.mark.parametrize("p95", [0.5, 0.742, 9.0])
def test_a_p95_at_or_above_its_threshold_is_red(p95: float) -> None:
    seen = probed(replace(GOOD, p95=p95))
    assert seen.verdict is Verdict.RED
    assert seen.detail == f"p95 {p95:g} s, threshold 0.5 s"


@pytest.mark.parametrize("rate", [0.005, 0.2, 1.0])
def test_an_error_rate_at_or_above_its_threshold_is_red(rate: float) -> None:
    seen = probed(replace(GOOD, error_rate=rate))
    assert seen.verdict is Verdict.RED
    assert seen.detail == f"error rate {rate:g}, threshold 0.005"


def test_both_breaches_are_named() -> None:
    assert probed(replace(GOOD, p95=1, error_rate=1)).detail.count("threshold") == 2


def test_thresholds_of_the_settings_are_used() -> None:
    assert probed(replace(GOOD, p95=0.7), prom_p95_threshold_s=0.8).verdict is Verdict.GREEN
    assert probed(replace(GOOD, error_rate=0.04), prom_err_rate_threshold=0.05).verdict is Verdict.GREEN


@pytest.mark.parametrize("name", ["age", "scrapes", "requests", "p95", "error_rate"])
@pytest.mark.parametrize("answer", [NoData("the value is nan"), -1.0])
def test_no_answer_to_any_query_is_grey_and_names_it(name: str, answer: NoData | float) -> None:
    look = replace(GOOD, **{name: answer})  # type: ignore[arg-type]  # the names are Look's own
    seen = probed(look)
    assert seen.verdict is Verdict.NO_DATA
    assert seen.colour is Colour.GREY
    assert seen.detail.startswith(f"no data: {name.replace('_', ' ')}: ")
    assert seen.asked[-1].name == name


def test_an_old_sample_is_no_data() -> None:
    seen = probed(replace(GOOD, age=61))
    assert seen.verdict is Verdict.NO_DATA
    assert seen.detail == "no data: the newest sample is 61 s old, PROM_MAX_AGE is 60 s"
    assert probed(replace(GOOD, age=60)).verdict is Verdict.GREEN


def test_too_few_scrapes_wait_for_more_and_are_not_no_data() -> None:
    seen = probed(replace(GOOD, scrapes=3, p95=9))
    assert seen.verdict is Verdict.WAITING
    assert seen.colour is Colour.GREY
    assert seen.detail == "3 of 4 scrapes in 300 s"


def test_too_few_requests_wait_for_more_even_when_they_look_bad() -> None:
    seen = probed(Look(requests=199.9, p95=9, error_rate=1))
    assert seen.verdict is Verdict.WAITING
    assert seen.detail == "199 of 200 requests in 300 s"


def test_a_probe_keeps_every_query_with_its_answer() -> None:
    ask = queries(knobs(), NODE, came_back=math.inf)
    seen = probed(GOOD)
    assert {asked.name: asked.promql for asked in seen.asked} == {
        name: getattr(ask, name) for name in ("age", "scrapes", "requests", "p95", "error_rate")
    }
    assert seen.number("requests") == 1000
    assert seen.asked[0].answer == Sample(5)


def test_a_dark_prometheus_is_asked_once_per_probe() -> None:
    assert [asked.name for asked in probed(DARK).asked] == ["age"]


@given(
    age=st.floats(0, 1e9),
    scrapes=st.floats(0, 1e6),
    requests=st.floats(0, 1e9),
    p95=st.floats(0, 100),
    error_rate=st.floats(0, 2),
)
def test_green_takes_fresh_samples_scrapes_requests_and_both_numbers_below(
    age: float, scrapes: float, requests: float, p95: float, error_rate: float
) -> None:
    seen = probed(Look(age, scrapes, requests, p95, error_rate))
    holds = age <= 60 and scrapes >= 4 and requests >= 200 and p95 < 0.5 and error_rate < 0.005
    assert (seen.verdict is Verdict.GREEN) == holds


def test_a_green_window_is_probed_on_schedule_and_summed_up() -> None:
    run = watched(GOOD, replace(GOOD, p95=0.3), replace(GOOD, error_rate=0.004), GOOD, sli_window=100)
    green = run.run()
    assert [event.elapsed for event in run.probes] == [30, 60, 90, 100]
    assert run.clock.time == 1100
    assert (green.probes, green.worst_p95, green.worst_error_rate) == (4, 0.3, 0.004)
    assert green.last is not None
    assert green.last.verdict is Verdict.GREEN


def test_the_default_window_of_an_hour_has_120_probes() -> None:
    run = watched(GOOD, sli_window=3600)
    assert run.run().probes == 120
    assert run.probes[-1].elapsed == 3600


def test_each_probe_is_told_with_its_numbers() -> None:
    run = watched(replace(GOOD, p95=0.2), sli_window=30)
    run.run()
    [told] = run.events
    assert isinstance(told, Probed)
    assert [told.asked[number][1] for number in (2, 3)] == ["1000.0", "0.2"]
    assert [replace(told, asked=())] == [
        Probed(
            NODE,
            Colour.GREEN,
            "p95 0.2 s, threshold 0.5 s; error rate 0, threshold 0.005; 1000 requests in 40 s",
            elapsed=30,
            window=30,
            requests=1000,
            p95=0.2,
            p95_threshold=0.5,
            error_rate=0,
            error_rate_threshold=0.005,
        )
    ]


def test_the_first_red_probe_ends_the_watch() -> None:
    run = watched(GOOD, replace(GOOD, p95=0.9), GOOD)
    with pytest.raises(SliBreached, match=r"backend-api-2 is breached: p95 0\.9 s, threshold 0\.5 s"):
        run.run()
    assert [event.colour for event in run.probes] == [Colour.GREEN, Colour.RED]


def test_three_probes_without_data_in_a_row_end_the_watch_and_are_worded_so() -> None:
    run = watched(GOOD, DARK, DARK, DARK, GOOD)
    with pytest.raises(SliBreached, match=r"unknown, 3 probes in a row: no data: age: .*Connection refused"):
        run.run()
    assert len(run.probes) == 4


def test_a_green_probe_ends_a_row_without_data() -> None:
    assert watched(DARK, DARK, GOOD, DARK, DARK, GOOD).run().probes == 10


def test_a_waiting_probe_ends_a_row_without_data() -> None:
    assert watched(DARK, DARK, IDLE, DARK, DARK, GOOD).run().probes == 10


def test_the_row_without_data_has_the_length_of_the_knob() -> None:
    run = watched(DARK, sli_no_data_probes=1)
    with pytest.raises(SliBreached, match="1 probes in a row"):
        run.run()


def test_a_window_that_ends_without_traffic_is_not_green_and_says_what_to_change() -> None:
    run = watched(GOOD, IDLE)
    with pytest.raises(SliBreached, match=r"too little traffic, 42 of 200 requests") as caught:
        run.run()
    assert len(run.probes) == 10
    assert all(knob in caught.value.message for knob in ("SLI_MIN_REQUESTS", "SLI_RANGE", "SLI_WINDOW"))


def test_a_window_that_ends_with_too_few_scrapes_is_not_green() -> None:
    with pytest.raises(SliBreached, match=r"too few scrapes, 2 of 4 scrapes .*SLI_RANGE"):
        watched(replace(GOOD, scrapes=2)).run()


def test_a_window_that_ends_without_data_is_not_green() -> None:
    with pytest.raises(SliBreached, match=r"without a green verdict: no data: age"):
        watched(*[GOOD] * 9, DARK).run()


def test_a_window_of_zero_asks_nothing() -> None:
    run = watched(DARK, sli_window=0)
    assert run.run() == Green(NODE, 0)
    assert run.clock.time == 1000
    assert run.events == []


def test_a_slow_probe_skips_what_it_overran_and_shifts_nothing() -> None:
    run = watched(replace(GOOD, takes=70), GOOD, sli_window=200)
    run.run()
    # Asked at 30, answered at 100: 60 and 90 are gone, 120 is not.
    assert run.rotations[-1] == 200
    assert len(run.probes) == 5
    assert run.clock.time == 1200


def test_a_probe_that_overruns_the_window_is_followed_by_a_last_one() -> None:
    run = watched(*[GOOD] * 9, replace(GOOD, takes=40), GOOD, sli_window=310)
    assert run.run().probes == 11
    assert run.clock.time == 1340


@hypothesis_settings(deadline=None)
@given(
    window=st.floats(0.1, 500),
    interval=st.floats(0.1, 100),
    takes=st.lists(st.floats(0, 50), min_size=1, max_size=20),
)
def test_whatever_the_probes_take_the_last_one_is_at_or_after_the_end(
    window: float, interval: float, takes: list[float]
) -> None:
    looks = [replace(GOOD, takes=each) for each in takes]
    run = watched(*looks, GOOD, sli_window=window, sli_probe_interval=interval)
    green = run.run()
    assert run.clock.time >= 1000 + window
    assert 1 <= green.probes <= math.ceil(window / interval) + 1
    assert run.clock.time <= 1000 + window + max(takes) * 2


def test_signals_and_rotation_are_looked_at_every_second_and_right_before_each_probe() -> None:
    run = watched(GOOD, sli_window=90)
    run.run()
    assert run.interrupts == run.rotations
    gaps = [after - before for before, after in zip(run.rotations, run.rotations[1:], strict=False)]
    assert max(gaps) <= 1
    assert {0, 30, 60, 90} <= set(run.rotations)


def test_what_the_looks_raise_ends_the_watch_at_once() -> None:
    class GoneError(Exception):
        pass

    def raise_it() -> None:
        if run.clock.time >= 1042:
            raise GoneError

    for hook in ("keep_routed", "check_interrupt"):
        run = watched(GOOD)
        with pytest.raises(GoneError):
            run.run(**{hook: raise_it})
        assert run.clock.time == 1042
        assert len(run.probes) == 1


def test_queries_look_back_no_further_than_to_the_return_into_rotation() -> None:
    assert queries(knobs(), NODE, came_back=math.inf).seconds == 300
    assert queries(knobs(), NODE, came_back=45.9).seconds == 45
    assert queries(knobs(), NODE, came_back=0).seconds == 1
    assert queries(knobs(sli_range=0.5), NODE, came_back=10).seconds == 1


def test_the_queries_are_those_of_the_runbook_about_the_canarys_own_users() -> None:
    ask = queries(knobs(), NODE, came_back=60)
    own = 'instance=~"backend-api-2([.:].*)?"'
    users = f'{own},path!="/api/v1/health"'
    assert ask.age == f"time() - max(timestamp({METRIC}_count{{{own}}}))"
    assert ask.scrapes == f"max(count_over_time({METRIC}_count{{{own}}}[60s])) or vector(0)"
    assert ask.requests == f"sum(increase({METRIC}_count{{{users}}}[60s])) or vector(0)"
    assert ask.p95 == f"histogram_quantile(0.95, sum by (le) (rate({METRIC}_bucket{{{users}}}[60s])))"
    assert ask.error_rate == (
        f'(sum(rate({METRIC}_count{{{users},status=~"5.."}}[60s])) or vector(0))'
        f" / sum(rate({METRIC}_count{{{users}}}[60s]))"
    )


def test_service_scope_asks_about_all_instances() -> None:
    ask = queries(knobs(sli_scope="service"), NODE, came_back=60)
    assert "instance" not in f"{ask}"
    assert ask.age == f"time() - max(timestamp({METRIC}_count{{}}))"


def test_a_selector_replaces_the_instance_matcher() -> None:
    ask = queries(named(NODE, 'pod="b-2", job=~"api|web"'), NODE, came_back=60)
    assert "instance" not in f"{ask}"
    assert f'{METRIC}_count{{pod="b-2", job=~"api|web",path!="/api/v1/health"}}' in ask.requests


@pytest.mark.parametrize(
    "selector", ["", "pod", 'pod="b"}', 'pod="b" or vector(0)', 'pod="b', "pod=`b`", '{pod="b"}', 'pod="a"b"']
)
def test_a_selector_that_is_none_is_refused(selector: str) -> None:
    with pytest.raises(ConfigError, match=r"nodes\.backend-api-2\.sli_selector"):
        queries(named(NODE, selector), NODE, came_back=60)


def test_whole_queries_can_be_replaced_and_only_node_and_range_are_filled_in() -> None:
    own = 'x{i="{node}",j="{range}{other}"}[{range}] {{node}}'
    ask = queries(named("a.b", sli_p95_query=own, sli_err_query=own), "a.b", came_back=60)
    assert ask.p95 == ask.error_rate == 'x{i="a\\\\.b",j="60s{other}"}[60s] {a\\\\.b}'
    assert ask.requests.startswith("sum(increase")


def test_a_node_cannot_name_a_placeholder() -> None:
    ask = queries(named("{range}", sli_p95_query='"{node}"'), "{range}", came_back=60)
    assert ask.p95 == '"\\\\{range\\\\}"'


def unquoted(promql: str) -> tuple[str, list[str]]:
    """A query without its strings, and the strings as Prometheus reads them (Go's string syntax)."""
    strings: list[str] = []

    def take(found: re.Match[str]) -> str:
        inside = re.sub(r"\\U([0-9a-f]{8})|\\(.)", lambda c: chr(int(c[1], 16)) if c[1] else c[2], found[1])
        strings.append(inside)
        return '""'

    return re.sub(r'"((?:[^"\\\n]|\\[^\n])*)"', take, promql), strings


@given(node=st.text(min_size=1))
def test_no_node_name_breaks_out_of_its_string(node: str) -> None:
    ask = queries(named(node), node, came_back=60)
    plain = queries(knobs(), NODE, came_back=60)
    for name in ("age", "scrapes", "requests", "p95", "error_rate"):
        rest, strings = unquoted(getattr(ask, name))
        assert rest == unquoted(getattr(plain, name))[0]
        assert re.fullmatch(strings[0], node)
        assert re.fullmatch(strings[0], f"{node}:8080")
        assert not re.fullmatch(strings[0], f"{node}2")
        assert getattr(ask, name).isascii()


@given(selector=st.text() | st.from_regex(r'[a-z]+="[^"]*"[},)]?', fullmatch=True))
def test_a_selector_is_refused_or_stays_between_its_braces(selector: str) -> None:
    try:
        ask = queries(named(NODE, selector), NODE, came_back=60)
    except ConfigError:
        return
    rest, _ = unquoted(ask.age)
    assert re.fullmatch(rf"time\(\) - max\(timestamp\({METRIC}_count\{{[^{{}}()#]*\}}\)\)", rest)


@dataclass
class Backend:
    """A scrape target whose traffic is a function of time: ``rate`` is per second, the others are shares."""

    rate: float = 200.0
    errors: float = 0.0
    slow: float = 0.0
    bounds: tuple[float, ...] = (0.1, 0.5, 1.0)
    started: float = field(default_factory=time.time)
    up: bool = True
    timestamp: float | None = None

    def metrics(self) -> str:
        lines = [f"# TYPE {METRIC} histogram"]
        at = f" {int(self.timestamp * 1000)}" if self.timestamp else ""
        seconds = time.time() - self.started

        def histogram(path: str, status: int, rate: float) -> None:
            labels = f'method="GET",path="{path}",status="{status}"'
            count = int(rate * seconds)
            fast = int(count * (1 - self.slow))
            for bound in self.bounds:
                below = count if bound > 0.5 else fast
                lines.append(f'{METRIC}_bucket{{{labels},le="{bound}"}} {below}{at}')
            lines.append(f'{METRIC}_bucket{{{labels},le="+Inf"}} {count}{at}')
            lines.append(f"{METRIC}_count{{{labels}}} {count}{at}")

        histogram("/api/v1/health", 200, 5)
        if self.rate:
            histogram("/api/v1/tracks", 200, self.rate * (1 - self.errors))
        if self.errors:
            histogram("/api/v1/tracks", 500, self.rate * self.errors)
        return "\n".join(lines) + "\n"


class RealPrometheus:
    """Prometheus, scraping backends of ours four times a second as ``NAME:8080``."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.backends = {
            NODE: Backend(),
            # A name that only begins like the canary's must not count for it.
            f"{NODE}2": Backend(errors=1),
            "failing": Backend(errors=0.2),
            "slow": Backend(slow=0.1),
            "capped": Backend(slow=0.2, bounds=(0.1, 0.25)),
            "coarse": Backend(bounds=(0.1, 1.0)),
            "idle": Backend(rate=0),
            "redeployed": Backend(errors=0.5),
            "vanishing": Backend(),
            "down": Backend(up=False),
            "old": Backend(timestamp=time.time() - 120),
            "rarely": Backend(),
        }
        backends = self.backends

        class Target(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                backend = backends[self.path.removeprefix("/")]
                self.send_response(200 if backend.up else 503)
                self.end_headers()
                self.wfile.write(backend.metrics().encode())

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        self.target = ThreadingHTTPServer(("127.0.0.1", 0), Target)
        threading.Thread(target=self.target.serve_forever, daemon=True).start()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"

        def job(name: str, interval: str) -> dict[str, object]:
            labels = {"instance": f"{name}:8080", "pod": f"pod-{name}", "__metrics_path__": f"/{name}"}
            static = [{"targets": [f"127.0.0.1:{self.target.server_port}"], "labels": labels}]
            return {
                "job_name": name,
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "static_configs": static,
            }

        config = {"scrape_configs": [job(name, "1s" if name == "rarely" else "250ms") for name in backends]}
        (directory / "prometheus.yml").write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [
                binary,
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=error",
            ],
            stdout=(log := (directory / "log").open("w")),
            stderr=log,
        )
        log.close()
        self.prometheus = Prometheus(self.url, timeout=10)

    def wait_scraped(self) -> None:
        """Until targets have been scraped four times; Prometheus takes 5 s to look at them at all."""
        deadline = time.monotonic() + 60
        scraped = 'count(count_over_time(up{instance!="rarely:8080"}[1m]) >= 4)'
        while self.prometheus.query(scraped) != Sample(len(self.backends) - 1):
            assert self.process.poll() is None, "Prometheus ended"
            assert time.monotonic() < deadline, "Prometheus does not scrape"
            time.sleep(0.1)

    def close(self) -> None:
        self.prometheus.close()
        self.process.terminate()
        self.process.wait(30)
        self.target.shutdown()
        self.target.server_close()

    def probe(self, node: str, *, came_back: float = 3.0, **given: object) -> Probe:
        return probe(self.prometheus, named(node, None, **given), node, came_back=came_back)

    def coarseness(self, node: str, **given: object) -> tuple[str, ...]:
        said = resolution(self.prometheus, named(node, None, **given), node)
        assert not isinstance(said, NoData)
        return said


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus binary on PATH (apt-get install prometheus)")
    with closing(RealPrometheus(binary, tmp_path_factory.mktemp("prometheus"))) as real:
        real.wait_scraped()
        real.backends["vanishing"].up = False
        real.backends["redeployed"].__dict__.update(errors=0.0, started=time.time())
        time.sleep(3.5)
        yield real


def test_a_good_release_is_green_and_no_5xx_series_yet_means_zero_errors(real: RealPrometheus) -> None:
    seen = real.probe(NODE)
    assert seen.verdict is Verdict.GREEN, seen
    assert seen.number("error_rate") == 0
    assert seen.number("requests") == pytest.approx(600, rel=0.2)
    assert seen.number("p95") == pytest.approx(0.095, rel=0.1)
    age = seen.number("age")
    assert age is not None
    assert 0 <= age < 2
    assert seen.number("scrapes") == pytest.approx(12, abs=3)


def test_errors_are_red(real: RealPrometheus) -> None:
    seen = real.probe("failing")
    assert seen.verdict is Verdict.RED, seen
    assert seen.number("error_rate") == pytest.approx(0.2, rel=0.1)
    assert "error rate" in seen.detail


def test_a_slow_tail_is_red(real: RealPrometheus) -> None:
    seen = real.probe("slow")
    assert seen.verdict is Verdict.RED, seen
    assert seen.number("p95") == pytest.approx(0.75, rel=0.1)
    assert seen.number("error_rate") == 0


def test_health_checks_alone_are_no_traffic(real: RealPrometheus) -> None:
    seen = real.probe("idle")
    assert seen.verdict is Verdict.WAITING, seen
    assert seen.detail == "0 of 200 requests in 3 s"


def test_a_good_release_after_a_bad_one_is_not_judged_by_its_errors(real: RealPrometheus) -> None:
    came_back = time.time() - real.backends["redeployed"].started
    seen = real.probe("redeployed", came_back=came_back, sli_min_requests=100)
    assert seen.verdict is Verdict.GREEN, seen
    assert real.probe("redeployed", came_back=math.inf).verdict is Verdict.RED


@pytest.mark.parametrize("node", ["vanishing", "down", "nobody"])
def test_a_node_that_is_not_scraped_is_no_data(real: RealPrometheus, node: str) -> None:
    seen = real.probe(node)
    assert seen.verdict is Verdict.NO_DATA, seen
    assert seen.detail == "no data: age: no series (an empty vector)"


def test_a_sample_that_an_exporter_dates_back_is_no_data(real: RealPrometheus) -> None:
    seen = real.probe("old")
    assert seen.verdict is Verdict.NO_DATA, seen
    assert "PROM_MAX_AGE" in seen.detail


def test_the_first_scrapes_are_waited_for(real: RealPrometheus) -> None:
    seen = real.probe("rarely", came_back=2)
    assert seen.verdict is Verdict.WAITING, seen
    assert re.fullmatch(r"[0-2] of 4 scrapes in 2 s", seen.detail)
    # Not one scrape yet since the node came back is the same, and not "no data".
    assert real.probe("rarely", came_back=0).verdict is Verdict.WAITING


def test_service_scope_sees_the_errors_of_all(real: RealPrometheus) -> None:
    assert real.probe(NODE, sli_scope="service").verdict is Verdict.RED


def test_a_selector_picks_the_series(real: RealPrometheus) -> None:
    settings = named("any", f'pod="pod-{NODE}"')
    assert probe(real.prometheus, settings, "any", came_back=3).verdict is Verdict.GREEN


def test_replaced_queries_are_asked(real: RealPrometheus) -> None:
    own = f'sum(rate({METRIC}_count{{instance=~"{{node}}:.*"}}[{{range}}]))'
    seen = real.probe(NODE, sli_p95_query=own)
    assert seen.verdict is Verdict.RED
    assert seen.number("p95") == pytest.approx(205, rel=0.1)
    seen = real.probe(NODE, sli_err_query="sum(no_such_metric)")
    assert seen.detail == "no data: error rate: no series (an empty vector)"
    seen = real.probe(NODE, sli_err_query="sum(")
    assert seen.detail.startswith("no data: error rate: HTTP 400 bad_data: ")


def test_a_histogram_too_coarse_for_the_threshold_is_told(real: RealPrometheus) -> None:
    assert real.coarseness(NODE) == ()
    assert real.coarseness(NODE, prom_p95_threshold_s=1) == ()
    assert real.coarseness("nobody", sli_p95_query="x") == ()
    [said] = real.coarseness("capped")
    assert "highest finite bucket" in said
    # The trap it warns of: 20 % of the requests are slow, and p95 says 0.25 s.
    assert real.probe("capped").number("p95") == 0.25
    [said] = real.coarseness("coarse")
    assert "interpolated between 0.1 s and 1 s" in said
    assert isinstance(resolution(real.prometheus, named("nobody"), "nobody"), NoData)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(node=st.text(min_size=1).filter(lambda node: not re.fullmatch(r"[a-z0-9-]+", node)))
def test_no_node_name_makes_a_query_that_a_real_prometheus_refuses(real: RealPrometheus, node: str) -> None:
    ask = queries(named(node), node, came_back=60)
    assert real.prometheus.query(ask.scrapes) == Sample(0)


def test_a_window_is_watched_to_its_green_end(real: RealPrometheus) -> None:
    class RealClock(VirtualClock):
        def monotonic(self) -> float:
            return time.monotonic()

        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

    events: list[Event] = []
    green = watch(
        real.prometheus,
        named(NODE, sli_window=2, sli_probe_interval=0.5),
        NODE,
        clock=RealClock(),
        emit=events.append,
        check_interrupt=lambda: None,
        came_back_at=time.monotonic() - 5,
        keep_routed=lambda: None,
    )
    assert green.probes == 4
    assert [event.colour for event in events if isinstance(event, Probed)] == [Colour.GREEN] * 4
