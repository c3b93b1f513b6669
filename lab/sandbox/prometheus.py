"""A stand-in for Prometheus where there is none: scrapes as configured, answers instant queries in a part of PromQL.

    python prometheus.py CONFIG ADDRESS:PORT

It knows `/api/v1/query`, selectors with matchers and a range, rate, increase, count_over_time, timestamp,
histogram_quantile, time, vector, sum, count, min, max, avg with `by`, the operators + - * / > < >= <= == != without
`bool`, and `or`; what it does not know is refused as `bad_data`, never guessed. Every answer names it in the header
`Server`. Rates are extrapolated as Prometheus does (promql/functions.go, extrapolatedRate).
"""

from __future__ import annotations

import json
import math
import operator
import re
import sys
import threading
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NAME = "veza-lab-stand-in-for-prometheus"
LOOKBACK = 300.0  # seconds, --query.lookback-delta
KEPT = 900  # samples of each series, a quarter of an hour
STALE = math.nan  # a series that was not there any more

Labels = frozenset[tuple[str, str]]
Samples = list[tuple[float, float]]
Vector = list[tuple[Labels, float]]
Value = float | Vector
Matchers = list[tuple[str, str, str]]


class Unanswerable(Exception):
    """The query is wrong, or beyond this stand-in."""


class Store:
    """The samples of every series."""

    def __init__(self) -> None:
        self._series: dict[Labels, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._lock = threading.Lock()

    def add(self, at: float, values: dict[Labels, float]) -> None:
        with self._lock:
            for labels, value in values.items():
                self._series[labels].append((at, value))

    def select(self, matchers: Matchers) -> list[tuple[Labels, Samples]]:
        tests = [matcher(*each) for each in matchers]
        with self._lock:
            found = [(labels, list(samples)) for labels, samples in self._series.items()]
        return [(labels, samples) for labels, samples in found if all(test(dict(labels)) for test in tests)]


def matcher(name: str, kind: str, wanted: str) -> Callable[[dict[str, str]], bool]:
    if kind in ("=", "!="):
        return lambda labels: (labels.get(name, "") == wanted) == (kind == "=")
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise Unanswerable(f"{wanted!r}: {error}") from None
    return lambda labels: bool(pattern.fullmatch(labels.get(name, ""))) == (kind == "=~")


class Scraper:
    """Scrapes one target for ever."""

    def __init__(self, store: Store, target: str, labels: dict[str, str], interval: float) -> None:
        self._store = store
        self._url = f"http://{target}/metrics"
        self._labels = {"instance": target, **labels}
        self._interval = interval
        self._seen: set[Labels] = set()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def run(self) -> None:
        while True:
            began = time.time()
            up = frozenset({"__name__": "up", **self._labels}.items())
            try:
                with self._opener.open(self._url, timeout=self._interval) as answer:
                    values = dict(parse_text(answer.read().decode(), self._labels))
            except (OSError, ValueError):
                values, works = {}, 0.0
            else:
                works = 1.0
            self._store.add(began, dict.fromkeys(self._seen - values.keys(), STALE) | values | {up: works})
            self._seen = set(values)
            time.sleep(max(0.0, began + self._interval - time.time()))


SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


def parse_text(text: str, more: dict[str, str]) -> Iterator[tuple[Labels, float]]:
    """The text format 0.0.4. Raises ValueError."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            found = SAMPLE.fullmatch(line.strip())
            if not found:
                raise ValueError(line)
            name, labels, value = found.groups()
            own = {key: unescaped(value) for key, value in LABEL.findall(labels or "")}
            yield frozenset({"__name__": name, **own, **more}.items()), float(value)


ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))", re.IGNORECASE)


def unescaped(text: str) -> str:
    """Go's string escapes, as far as PromQL texts have them."""
    letters = {"n": "\n", "t": "\t", "r": "\r"}
    return ESCAPE.sub(lambda m: letters.get(m[4], m[4]) if m[4] else chr(int(m[1] or m[2] or m[3], 16)), text)


TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)(?![\w.])|(?P<word>[a-zA-Z_:][\w:]*)"
    r'|(?P<text>"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\')|(?P<range>\[\s*\d+(?:ms|[smhd])\s*\])'
    r"|(?P<operator>=~|!~|!=|==|>=|<=|[-+*/<>=(){},]))\s*"
)
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BINARY: list[dict[str, Callable[[float, float], float | bool]]] = [
    {
        ">": operator.gt,
        "<": operator.lt,
        ">=": operator.ge,
        "<=": operator.le,
        "==": operator.eq,
        "!=": operator.ne,
    },
    {"+": operator.add, "-": operator.sub},
    {
        "*": operator.mul,
        "/": lambda a, b: a / b if b else math.nan if not a or math.isnan(a) else math.copysign(math.inf, a),
    },
]
AGGREGATE: dict[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "count": len,
    "min": min,
    "max": max,
    "avg": lambda values: math.fsum(values) / len(values),
}


class Query:
    """One evaluation at one moment: a recursive descent through the expression, computing as it goes."""

    def __init__(self, store: Store, text: str, at: float) -> None:
        self._store = store
        self._at = at
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            found = TOKEN.match(text, position)
            if not found or not found.lastgroup:
                raise Unanswerable(f"cannot read {text[position : position + 20]!r}")
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            position = found.end()
        self._tokens.append(("end", ""))

    def value(self) -> Value:
        result = self._either()
        if self._tokens[0][0] != "end":
            raise Unanswerable(f"unexpected {self._tokens[0][1]!r}")
        return result

    def _either(self) -> Value:
        left = self._binary(0)
        while self._take("or"):
            right = self._binary(0)
            if isinstance(left, float) or isinstance(right, float):
                raise Unanswerable("`or` takes vectors")
            known = {nameless(labels) for labels, _ in left}
            left = left + [row for row in right if nameless(row[0]) not in known]
        return left

    def _binary(self, level: int) -> Value:
        if level == len(BINARY):
            return self._unary()
        left = self._binary(level + 1)
        while self._tokens[0][1] in BINARY[level] and self._tokens[0][0] == "operator":
            name = self._next()
            left = combined(BINARY[level][name], left, self._binary(level + 1), filters=level == 0)
        return left

    def _unary(self) -> Value:
        if self._take("-"):
            return combined(operator.mul, -1.0, self._unary(), filters=False)
        kind, token = self._tokens[0]
        if kind == "number":
            return float(self._next())
        if self._take("("):
            inner = self._either()
            self._expect(")")
            return inner
        if token == "{" or (kind == "word" and self._tokens[1][1] not in ("(", "by")):
            return [(labels, value) for labels, _, value in self._instant(self._selector())]
        if kind != "word":
            raise Unanswerable(f"unexpected {token or 'end'!r}")
        return self._call(self._next())

    def _call(self, name: str) -> Value:
        if name in AGGREGATE:
            return self._aggregate(name)
        self._expect("(")
        result: Value
        match name:
            case "time":
                result = self._at
            case "vector":
                result = [(frozenset(), self._scalar())]
            case "timestamp":
                result = [(nameless(labels), at) for labels, at, _ in self._instant(self._selector())]
            case "rate" | "increase" | "count_over_time":
                result = self._over_range(name)
            case "histogram_quantile":
                quantile = self._scalar()
                self._expect(",")
                result = list(quantiles(quantile, self._vector()))
            case _:
                raise Unanswerable(f"{name}() is beyond this stand-in")
        self._expect(")")
        return result

    def _aggregate(self, name: str) -> Vector:
        by = self._labels() if self._take("by") else None
        self._expect("(")
        rows = self._vector()
        self._expect(")")
        if by is None:
            by = self._labels() if self._take("by") else set()
        groups: dict[Labels, list[float]] = defaultdict(list)
        for labels, value in rows:
            groups[frozenset(pair for pair in labels if pair[0] in by)].append(value)
        return [(labels, float(AGGREGATE[name](values))) for labels, values in groups.items()]

    def _labels(self) -> set[str]:
        self._expect("(")
        names = set()
        while not self._take(")"):
            names.add(self._next())
            self._take(",")
        return names

    def _over_range(self, function: str) -> Vector:
        matchers = self._selector()
        kind, text = self._tokens.pop(0)
        if kind != "range":
            raise Unanswerable(f"{function}() takes a range")
        number, unit = re.fullmatch(r"\[\s*(\d+)(\w+)\s*\]", text).groups()  # type: ignore[union-attr]
        seconds = int(number) * UNITS[unit]
        result = []
        for labels, samples in self._store.select(matchers):
            inside = [s for s in samples if self._at - seconds < s[0] <= self._at and not math.isnan(s[1])]
            if function == "count_over_time" and inside:
                result.append((nameless(labels), float(len(inside))))
            elif function != "count_over_time" and len(inside) > 1:
                grown = increase(inside, self._at - seconds, self._at)
                result.append((nameless(labels), grown / seconds if function == "rate" else grown))
        return result

    def _instant(self, matchers: Matchers) -> Iterator[tuple[Labels, float, float]]:
        for labels, samples in self._store.select(matchers):
            newest = next((s for s in reversed(samples) if s[0] <= self._at), None)
            if newest and newest[0] > self._at - LOOKBACK and not math.isnan(newest[1]):
                yield labels, *newest

    def _selector(self) -> Matchers:
        matchers = []
        if self._tokens[0][0] == "word":
            matchers.append(("__name__", "=", self._next()))
        if self._take("{"):
            while not self._take("}"):
                name, kind = self._next(), self._next()
                if kind not in ("=", "!=", "=~", "!~") or self._tokens[0][0] != "text":
                    raise Unanswerable(f"not a matcher: {name} {kind}")
                matchers.append((name, kind, unescaped(self._next()[1:-1])))
                self._take(",")
        if not matchers:
            raise Unanswerable("a selector was expected")
        return matchers

    def _vector(self) -> Vector:
        value = self._either()
        if isinstance(value, float):
            raise Unanswerable("a vector was expected, not a scalar")
        return value

    def _scalar(self) -> float:
        value = self._either()
        if not isinstance(value, float):
            raise Unanswerable("a scalar was expected, not a vector")
        return value

    def _next(self) -> str:
        return self._tokens.pop(0)[1] if len(self._tokens) > 1 else ""

    def _take(self, text: str) -> bool:
        taken = self._tokens[0][1] == text and self._tokens[0][0] != "text"
        if taken:
            self._tokens.pop(0)
        return taken

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise Unanswerable(f"{text!r} was expected before {self._tokens[0][1]!r}")


def nameless(labels: Labels) -> Labels:
    return frozenset(pair for pair in labels if pair[0] != "__name__")


def combined(
    apply: Callable[[float, float], float | bool], left: Value, right: Value, *, filters: bool
) -> Value:
    """A binary operator: between vectors one to one on all labels; comparisons filter."""
    if isinstance(left, float) and isinstance(right, float):
        if filters:
            raise Unanswerable("comparisons of scalars need `bool`, which is beyond this stand-in")
        return float(apply(left, right))
    pairs: Iterable[tuple[Labels, float, float, float]]
    if isinstance(left, float):
        assert not isinstance(right, float)
        pairs = [(labels, value, left, value) for labels, value in right]
    elif isinstance(right, float):
        pairs = [(labels, value, value, right) for labels, value in left]
    else:
        others = {nameless(labels): value for labels, value in right}
        known = [(labels, value) for labels, value in left if nameless(labels) in others]
        pairs = [(labels, value, value, others[nameless(labels)]) for labels, value in known]
    if filters:
        return [(labels, kept) for labels, kept, a, b in pairs if apply(a, b)]
    return [(nameless(labels), float(apply(a, b))) for labels, _, a, b in pairs]


def increase(samples: Samples, start: float, end: float) -> float:
    """How much a counter grew from `start` to `end`, extrapolated from at least two samples within."""
    (first_at, first), (last_at, _) = samples[0], samples[-1]
    grown = math.fsum(b - a if b >= a else b for (_, a), (_, b) in pairwise(samples))
    sampled = last_at - first_at
    average = sampled / (len(samples) - 1)
    before, after = first_at - start, end - last_at
    if before >= average * 1.1:
        before = average / 2
    if grown > 0 and first >= 0:
        before = min(before, sampled * first / grown)  # a counter does not come from below zero
    if after >= average * 1.1:
        after = average / 2
    return grown * (sampled + before + after) / sampled


def quantiles(quantile: float, rows: Vector) -> Iterator[tuple[Labels, float]]:
    """histogram_quantile(): linear within a bucket, and never above the highest finite bound."""
    groups: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, value in rows:
        bound = dict(labels).get("le")
        if bound is not None:
            others = frozenset(pair for pair in nameless(labels) if pair[0] != "le")
            groups[others].append((float(bound.replace("+Inf", "inf")), value))
    for labels, buckets in groups.items():
        buckets.sort()
        total = buckets[-1][1]
        if len(buckets) < 2 or buckets[-1][0] != math.inf or not total > 0:
            yield labels, math.nan
            continue
        rank = quantile * total
        index = next(i for i, (_, count) in enumerate(buckets) if count >= rank)
        if index == len(buckets) - 1:
            yield labels, buckets[-2][0]
            continue
        low, below = buckets[index - 1] if index else (0.0, 0.0)
        high, count = buckets[index]
        yield labels, low + (high - low) * (rank - below) / (count - below)


def rendered(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value).removesuffix(".0")


class Handler(BaseHTTPRequestHandler):
    """`/api/v1/query` by GET and POST, `/-/ready`; the rest is 404."""

    server_version = NAME
    sys_version = ""
    protocol_version = "HTTP/1.1"
    store: Store

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/-/ready":
            self._send(200, {"status": "success", "data": NAME})
        elif parts.path == "/api/v1/query":
            self._query(parse_qs(parts.query))
        else:
            self._send(
                404, {"status": "error", "errorType": "not_found", "error": f"{NAME}: no {parts.path}"}
            )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.path += ("&" if "?" in self.path else "?") + body
        self.do_GET()

    def _query(self, fields: dict[str, list[str]]) -> None:
        try:
            at = float(fields["time"][0]) if "time" in fields else time.time()
            value = Query(self.store, fields.get("query", [""])[0], at).value()
        except (Unanswerable, ValueError) as error:
            self._send(400, {"status": "error", "errorType": "bad_data", "error": f"{NAME}: {error}"})
            return
        if isinstance(value, float):
            data: dict[str, object] = {"resultType": "scalar", "result": [at, rendered(value)]}
        else:
            rows = [{"metric": dict(labels), "value": [at, rendered(number)]} for labels, number in value]
            data = {"resultType": "vector", "result": rows}
        self._send(200, {"status": "success", "data": data})

    def _send(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a log line for every probe helps nobody."""


def main() -> int:
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    interval = float(config["global"]["scrape_interval"].removesuffix("s"))
    host, _, port = sys.argv[2].rpartition(":")
    Handler.store = Store()
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    for job in config["scrape_configs"]:
        for group in job["static_configs"]:
            for target in group["targets"]:
                labels = {"job": job["job_name"], **group["labels"]}
                scraper = Scraper(Handler.store, target, labels, interval)
                threading.Thread(target=scraper.run, daemon=True).start()
    print(f"{NAME} on {sys.argv[2]}: a part of PromQL, {KEPT} samples of each series", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
