"""Prometheus's HTTP API, instant queries only, and no opinion about what the numbers mean.

Either there is an answer without any doubt or there is ``NoData``: an HTML login page, a redirect, a warning,
a partial result, NaN, an empty vector or two series are all the same third state, never zero.
(https://prometheus.io/docs/prometheus/latest/querying/api/)
"""

from __future__ import annotations

import base64
import json
import math
import queue
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from veza_tasks.errors import ConfigError

MAX_BODY = 1024 * 1024
"""Bytes; one sample needs 200. A longer answer is no answer to a question of ours."""

_DOUBTS = ("warnings", "infos", "isPartial")
"""What an answer carries when it may be wrong or incomplete; the last is VictoriaMetrics's."""

_NUMBER = re.compile(r"NaN|[+-]?(Inf|[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?)")
"""What Prometheus writes; float() would also take "1_0" and "infinity"."""

Row = tuple[Mapping[str, str], float]
"""A series' labels and its value, which may be NaN or infinite."""


EMPTY = "no series (an empty vector)"
"""The reason where Prometheus answered, and knows nothing of what was asked."""


@dataclass(frozen=True)
class Sample:
    """One finite number."""

    value: float


@dataclass(frozen=True)
class NoData:
    """Nothing to judge by; ``reason`` is one printable sentence that holds no secret."""

    reason: str


class Prometheus:
    """One Prometheus, or what speaks its API (Thanos, Mimir and VictoriaMetrics, whose path prefix is kept).

    ``timeout`` bounds a whole query in seconds: name lookup, connection, headers and body. Credential files
    are read anew for each query, so a rotated token is picked up. Proxies come from the environment;
    ``~/.netrc`` is not used.

    Raises ConfigError for a URL that cannot be used, for credentials that do not belong together and for
    files that cannot be read. After that nothing but ``NoData`` tells of trouble.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        user: str | None = None,
        password_file: Path | None = None,
        bearer_token_file: Path | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._credentials = _Credentials(user, password_file, bearer_token_file)
        problems = [*_url_problems(url), *self._credentials.problems(), *_ca_problems(ca_file)]
        if problems:
            raise ConfigError(problems)
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._verify: bool | str = str(ca_file) if ca_file else True
        self._session = requests.Session()

    def close(self) -> None:
        self._session.close()

    def query(self, promql: str) -> Sample | NoData:
        """The value of an expression that yields one series (or a scalar) with a finite value."""
        rows = self.series(promql)
        if isinstance(rows, NoData):
            return rows
        if len(rows) != 1:
            return NoData(f"{len(rows)} series instead of one" if rows else EMPTY)
        [(_, value)] = rows
        return Sample(value) if math.isfinite(value) else NoData(f"the value is {value}")

    def series(self, promql: str) -> list[Row] | NoData:
        """Every series of an expression; an empty list is an answer, and for an alert query the good one."""
        answers: queue.SimpleQueue[list[Row] | NoData | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._ask(promql))
            except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
                answers.put(error)

        # The timeouts of requests bound one socket operation each, and none bounds the name lookup: a server
        # that drips a byte a second would hold a release for ever. A daemon thread holds up nobody.
        threading.Thread(target=ask, name="prometheus", daemon=True).start()
        try:
            answer = answers.get(timeout=self._timeout)
        except queue.Empty:
            return NoData(f"no answer from {self._url} within {self._timeout:g} s")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ask(self, promql: str) -> list[Row] | NoData:
        deadline = time.monotonic() + self._timeout
        try:
            header, secrets = self._credentials.read()
        except ConfigError as error:
            return NoData(error.problems[0])

        # An auth of our own, even an empty one, keeps requests from sending what ~/.netrc has for the host.
        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if header:
                request.headers["Authorization"] = header
            return request

        try:
            # POST, because no cache on the way answers it with an old sample, and long queries fit.
            with self._session.post(
                f"{self._url}/api/v1/query",
                data={"query": promql.encode(), "timeout": f"{self._timeout:g}s"},
                auth=sign,
                timeout=self._timeout,
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = bytearray()
                for chunk in response.iter_content(64 * 1024):
                    body += chunk
                    if len(body) > MAX_BODY:
                        return NoData(f"HTTP {response.status_code} with more than {MAX_BODY} bytes")
                    if time.monotonic() > deadline:  # nobody listens any more
                        return NoData("too slow")
        except (requests.RequestException, OSError, ValueError) as error:
            return NoData(f"no answer from {self._url}: {_excerpt(str(_innermost(error)), secrets)}")
        if response.is_redirect:
            target = response.headers["location"].partition("?")[0]
            return NoData(f"HTTP {response.status_code}, a redirect to {_excerpt(target, secrets)!r}")
        return _rows(response.status_code, bytes(body), secrets)


class _Credentials:
    """Basic or bearer authorization from files, or none."""

    def __init__(self, user: str | None, password_file: Path | None, bearer_token_file: Path | None) -> None:
        self._user = user
        self._password_file = password_file
        self._bearer_token_file = bearer_token_file

    def problems(self) -> tuple[str, ...]:
        """What is wrong with them, one sentence each, without their content."""
        if (self._user is None) != (self._password_file is None):
            return ("PROM_USER and PROM_PASSWORD_FILE belong together, and only one of them is given.",)
        if self._user is not None and self._bearer_token_file is not None:
            return ("PROM_USER and PROM_BEARER_TOKEN_FILE are both given, and only one can be sent.",)
        if self._user is not None and ":" in self._user:
            return ("PROM_USER must not contain a colon (RFC 7617).",)
        try:
            self.read()
        except ConfigError as error:
            return error.problems
        return ()

    def read(self) -> tuple[str | None, tuple[str, ...]]:
        """The Authorization header, and what of it must never be shown. Raises ConfigError."""
        if self._bearer_token_file is not None:
            token = _read_secret("PROM_BEARER_TOKEN_FILE", self._bearer_token_file)
            if not re.fullmatch(rb"[!-~]+", token):
                problem = "holds what cannot stand in an HTTP header"
                raise ConfigError([f"PROM_BEARER_TOKEN_FILE: {self._bearer_token_file} {problem}."])
            return f"Bearer {token.decode()}", (token.decode(),)
        if self._user is not None and self._password_file is not None:
            password = _read_secret("PROM_PASSWORD_FILE", self._password_file)
            basic = base64.b64encode(self._user.encode() + b":" + password).decode()
            return f"Basic {basic}", (basic, password.decode(errors="replace"))
        return None, ()


def _read_secret(knob: str, path: Path) -> bytes:
    try:
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError([f"{knob}: {path} cannot be read: {error.strerror}."]) from error
    if not secret:
        raise ConfigError([f"{knob}: {path} is empty."])
    return secret


def _url_problems(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return [f"PROM_URL: {url!r} is not an http(s) URL with a host."]
    if parts.username is not None:
        return ["PROM_URL holds credentials; give PROM_USER and PROM_PASSWORD_FILE instead."]
    if parts.query or parts.fragment:
        return [f"PROM_URL: {url!r} must end with a path; /api/v1/query is added to it."]
    return []


def _ca_problems(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        return [f"PROM_CA_FILE: {path} is not a readable PEM file: {error.strerror or error}."]
    return []


def _rows(status: int, body: bytes, secrets: tuple[str, ...]) -> list[Row] | NoData:
    """The series in an answer of the API, or what came back instead."""
    shown = repr(_excerpt(body.decode(errors="replace"), secrets))
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        return NoData(f"HTTP {status} and something other than JSON: {shown}")
    doubts = isinstance(answer, dict) and any(answer.get(key) for key in _DOUBTS)
    match answer:
        case {"status": "error", "errorType": str(kind), "error": str(text)}:
            return NoData(f"HTTP {status} {_excerpt(kind, secrets)}: {_excerpt(text, secrets)}")
        case {"warnings": [str(text), *_]} | {"infos": [str(text), *_]}:
            return NoData(f"the answer carries a warning: {_excerpt(text, secrets)}")
        case {"status": "success", "data": {"resultType": "vector", "result": list(found)}} if not doubts:
            pass
        case {"status": "success", "data": {"resultType": "scalar", "result": value}} if not doubts:
            found = [{"metric": {}, "value": value}]
        case _:
            return NoData(f"HTTP {status} and neither a vector nor a scalar without doubts: {shown}")
    if status != 200:
        return NoData(f"HTTP {status} with an answer: {shown}")
    rows: list[Row] = []
    for row in found:
        match row:
            case {"metric": dict(labels), "value": [_, str(number)]} if _NUMBER.fullmatch(number) and all(
                isinstance(label, str) for label in labels.values()
            ):
                rows.append((labels, float(number)))
            case _:
                return NoData(f"a series without a number: {shown}")
    return rows


def _innermost(error: BaseException) -> BaseException:
    """ "Connection refused" rather than the nest of wrappers around it."""
    inner = error.__cause__ or error.__context__
    return error if inner is None else _innermost(inner)


def _excerpt(text: str, secrets: tuple[str, ...]) -> str:
    """The first 80 printable characters, on one line."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:80]
