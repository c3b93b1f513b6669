"""The Prometheus adapter against real HTTP: one sure sample, or no data and why."""

from __future__ import annotations

import base64
import json
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from veza_tasks.adapters.prometheus import MAX_BODY, NoData, Prometheus, Sample
from veza_tasks.errors import ConfigError

PATH = "/api/v1/query"


def vector(*values: object, **extra: object) -> dict[str, object]:
    result = [{"metric": {"instance": f"n{i}"}, "value": [1.5, value]} for i, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}, **extra}


def ask(server: HTTPServer, promql: str = "up") -> Sample | NoData:
    with closing(Prometheus(server.url_for(""), timeout=5)) as prometheus:
        return prometheus.query(promql)


def reason(answer: object) -> str:
    assert isinstance(answer, NoData)
    assert answer.reason.isprintable()
    assert len(answer.reason) < 250
    return answer.reason


def test_one_finite_sample_is_an_answer(httpserver: HTTPServer) -> None:
    httpserver.expect_request(PATH, method="POST").respond_with_json(vector("0.25"))
    assert ask(httpserver) == Sample(0.25)


def test_a_scalar_is_an_answer(httpserver: HTTPServer) -> None:
    body = {"status": "success", "data": {"resultType": "scalar", "result": [1, "7"]}}
    httpserver.expect_request(PATH).respond_with_json(body)
    assert ask(httpserver) == Sample(7)


def test_the_query_arrives_as_it_was_given_and_the_path_prefix_is_kept(httpserver: HTTPServer) -> None:
    promql = 'sum(rate(x_count{path!="/a b&c",code=~"5.."}[5m])) or vector(0) + 1 # ü'
    seen: list[str] = []

    def answer(request: Request) -> Response:
        seen.append(request.form["query"])
        return Response(json.dumps(vector("1")))

    httpserver.expect_request("/prometheus" + PATH).respond_with_handler(answer)
    with closing(Prometheus(httpserver.url_for("/prometheus/"), timeout=5)) as prometheus:
        assert prometheus.query(promql) == Sample(1)
    assert seen == [promql]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (vector(), "no series (an empty vector)"),
        (vector("1", "2"), "2 series instead of one"),
        (vector("NaN"), "the value is nan"),
        (vector("+Inf"), "the value is inf"),
        (vector("-Inf"), "the value is -inf"),
        (vector("1_0"), "a series without a number"),
        (vector(1), "a series without a number"),
        (vector("1", warnings=["some blocks are missing"]), "a warning: some blocks are missing"),
        (vector("1", warnings=[], infos=["not a counter"]), "a warning: not a counter"),
        (vector("1", warnings="not even a list"), "neither a vector nor a scalar without doubts"),
        (vector("1", isPartial=True), "without doubts"),
        (
            {"status": "success", "data": {"resultType": "matrix", "result": []}},
            "neither a vector nor a scalar",
        ),
        ({"status": "success", "data": {"resultType": "string", "result": [1, "1"]}}, "neither"),
        ({"status": "success", "data": None}, "neither a vector nor a scalar"),
        ({**vector("1"), "status": "pending"}, "neither a vector nor a scalar"),
        ([], "neither a vector nor a scalar"),
        (None, "neither a vector nor a scalar"),
    ],
)
def test_anything_but_one_sure_sample_is_no_data(httpserver: HTTPServer, body: object, said: str) -> None:
    httpserver.expect_request(PATH).respond_with_json(body)
    assert said in reason(ask(httpserver))


def test_the_error_of_a_bad_query_is_told(httpserver: HTTPServer) -> None:
    body = {
        "status": "error",
        "errorType": "bad_data",
        "error": "1:3: parse error:\n\x1b[31munexpected" + "!" * 999,
    }
    httpserver.expect_request(PATH).respond_with_json(body, status=400)
    assert reason(ask(httpserver)).startswith("HTTP 400 bad_data: 1:3: parse error: [31munexpected!!!")


@pytest.mark.parametrize("status", [200, 401, 403, 503])
def test_a_page_for_people_is_no_data(httpserver: HTTPServer, status: int) -> None:
    page = "<!doctype html>\n<title>Please log in</title>"
    httpserver.expect_request(PATH).respond_with_data(page, status=status, content_type="text/html")
    said = reason(ask(httpserver))
    assert said.startswith(
        f"HTTP {status} and something other than JSON: '<!doctype html> <title>Please log in"
    )


@pytest.mark.parametrize("status", [201, 500, 503])
def test_a_sample_under_another_status_than_200_is_no_data(httpserver: HTTPServer, status: int) -> None:
    httpserver.expect_request(PATH).respond_with_json(vector("1"), status=status)
    assert f"HTTP {status}" in reason(ask(httpserver))


def test_a_redirect_is_not_followed(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/login").respond_with_json(vector("1"))
    headers = {"Location": httpserver.url_for("/login?token=hunter2")}
    httpserver.expect_request(PATH).respond_with_data("", status=302, headers=headers)
    said = reason(ask(httpserver))
    assert "HTTP 302, a redirect" in said
    assert "/login" in said
    assert "hunter2" not in said
    assert [request.path for request, _ in httpserver.log] == [PATH]


def test_a_body_without_end_is_not_read_to_its_end(httpserver: HTTPServer) -> None:
    def answer(_: Request) -> Response:
        return Response(b" " * 65536 for _ in range(10 * MAX_BODY // 65536))

    httpserver.expect_request(PATH).respond_with_handler(answer)
    assert "more than" in reason(ask(httpserver))


def test_a_server_that_is_down_is_no_data() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with closing(Prometheus(f"http://127.0.0.1:{port}", timeout=5)) as prometheus:
        said = reason(prometheus.query("up"))
    assert said == f"no answer from http://127.0.0.1:{port}: [Errno 111] Connection refused"


def test_an_unknown_host_is_no_data() -> None:
    with closing(Prometheus("http://prom.invalid:9090", timeout=5)) as prometheus:
        assert "no answer from http://prom.invalid:9090" in reason(prometheus.query("up"))


@contextmanager
def drip(what: bytes) -> Iterator[str]:
    """A server that answers ten bytes a second, each well within any socket timeout, and then no more."""
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for byte in what:
                if stop.wait(0.1):
                    return
                connection.sendall(bytes([byte]))
            stop.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        stop.set()
        thread.join(5)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 500, id="headers"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_slow_answer_ends_with_the_timeout(what: bytes) -> None:
    with drip(what) as url, closing(Prometheus(url, timeout=0.5)) as prometheus:
        began = time.monotonic()
        said = reason(prometheus.query("up"))
        assert time.monotonic() - began < 1.5
    assert said.startswith("no answer from http://127.0.0.1:")


def test_a_slow_body_ends_with_the_timeout_and_the_next_query_is_free(httpserver: HTTPServer) -> None:
    def slow(_: Request) -> Response:
        def body() -> Iterator[bytes]:
            for _ in range(10):
                yield b" "
                time.sleep(0.1)

        return Response(body())

    httpserver.expect_oneshot_request(PATH).respond_with_handler(slow)
    httpserver.expect_request(PATH).respond_with_json(vector("1"))
    with closing(Prometheus(httpserver.url_for(""), timeout=0.5)) as prometheus:
        began = time.monotonic()
        assert "within 0.5 s" in reason(prometheus.query("up"))
        assert time.monotonic() - began < 1
        time.sleep(1)  # the test's server answers one request at a time
        assert prometheus.query("up") == Sample(1)


def test_a_connection_is_kept_open_between_queries() -> None:
    ports = []

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            ports.append(self.client_address[1])
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(vector("1")).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with closing(Prometheus(f"http://127.0.0.1:{server.server_port}", timeout=5)) as prometheus:
            assert [prometheus.query("up") for _ in range(3)] == [Sample(1)] * 3
        server.shutdown()
    assert len(ports) == 3
    assert len(set(ports)) == 1


def authorization(server: HTTPServer) -> list[str | None]:
    seen: list[str | None] = []

    def answer(request: Request) -> Response:
        seen.append(request.headers.get("Authorization"))
        return Response(json.dumps(vector("1")))

    server.expect_request(PATH).respond_with_handler(answer)
    return seen


def test_a_password_is_sent_as_basic_and_read_anew_for_each_query(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    seen = authorization(httpserver)
    file = tmp_path / "password"
    file.write_text("pä ss:1\n")
    with closing(Prometheus(httpserver.url_for(""), timeout=5, user="ops", password_file=file)) as prometheus:
        assert prometheus.query("up") == Sample(1)
        file.write_text("rotated")
        assert prometheus.query("up") == Sample(1)
        file.unlink()
        assert str(file) in reason(prometheus.query("up"))
    expected = ["ops:pä ss:1", "ops:rotated"]
    assert seen == ["Basic " + base64.b64encode(each.encode()).decode() for each in expected]


def test_a_bearer_token_is_sent(httpserver: HTTPServer, tmp_path: Path) -> None:
    seen = authorization(httpserver)
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    with closing(Prometheus(httpserver.url_for(""), timeout=5, bearer_token_file=file)) as prometheus:
        assert prometheus.query("up") == Sample(1)
    assert seen == ["Bearer t0ken"]


def test_netrc_never_speaks_for_us(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {httpserver.host} login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen = authorization(httpserver)
    assert ask(httpserver) == Sample(1)
    file = tmp_path / "token"
    file.write_text("t0ken")
    with closing(Prometheus(httpserver.url_for(""), timeout=5, bearer_token_file=file)) as prometheus:
        assert prometheus.query("up") == Sample(1)
    assert seen == [None, "Bearer t0ken"]


def test_a_page_that_repeats_the_credentials_does_not_leak_them(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2")

    def echo(request: Request) -> Response:
        return Response(f"You sent {request.headers['Authorization']} (hunter2)", status=401)

    httpserver.expect_request(PATH).respond_with_handler(echo)
    with closing(Prometheus(httpserver.url_for(""), timeout=5, user="ops", password_file=file)) as prometheus:
        said = reason(prometheus.query("up"))
    assert "You sent Basic *** (***)" in said


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a self-signed certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prom")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path / "prom.pem"
    file.write_bytes(private + signed.public_bytes(pem))
    return file


def test_a_certificate_is_trusted_only_by_the_ca_file(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with HTTPServer("127.0.0.1", ssl_context=context) as server:
        server.expect_request(PATH).respond_with_json(vector("1"))
        assert "CERTIFICATE_VERIFY_FAILED" in reason(ask(server))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())  # must not win over PROM_CA_FILE
        with closing(Prometheus(server.url_for(""), timeout=5, ca_file=certificate)) as prometheus:
            assert prometheus.query("up") == Sample(1)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("prom.lxd:9090", "not an http(s) URL"),
        ("ftp://prom.lxd", "not an http(s) URL"),
        ("http://", "not an http(s) URL"),
        ("http://[::1", "not an http(s) URL"),
        ("http://prom.lxd:port", "not an http(s) URL"),
        ("http://prom.lxd/?tenant=1", "must end with a path"),
    ],
)
def test_an_unusable_url_is_refused_at_once(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match="PROM_URL") as caught:
        Prometheus(url, timeout=5)
    assert said in str(caught.value)


def test_a_password_in_the_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="PROM_PASSWORD_FILE") as caught:
        Prometheus("http://ops:hunter2@prom.lxd", timeout=5)
    assert "hunter2" not in str(caught.value)


def test_unusable_files_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Prometheus("http://prom.lxd", timeout=5, bearer_token_file=tmp_path / "t", ca_file=tmp_path / "ca")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "PROM_BEARER_TOKEN_FILE",
        "PROM_CA_FILE",
    ]


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"line\nline", b"\xff\xfe", b"t\x00"])
def test_an_unusable_token_is_refused_without_repeating_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="PROM_BEARER_TOKEN_FILE") as caught:
        Prometheus("http://prom.lxd", timeout=5, bearer_token_file=file)
    assert "line" not in str(caught.value)
    assert "words" not in str(caught.value)


def test_credentials_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s")
    with pytest.raises(ConfigError, match="belong together"):
        Prometheus("http://prom.lxd", timeout=5, user="ops")
    with pytest.raises(ConfigError, match="belong together"):
        Prometheus("http://prom.lxd", timeout=5, password_file=file)
    with pytest.raises(ConfigError, match="both given"):
        Prometheus("http://prom.lxd", timeout=5, user="ops", password_file=file, bearer_token_file=file)


def test_series_gives_all_of_them_and_none_is_an_answer(httpserver: HTTPServer) -> None:
    httpserver.expect_oneshot_request(PATH).respond_with_json(vector("1", "NaN"))
    httpserver.expect_oneshot_request(PATH).respond_with_json(vector())
    httpserver.expect_oneshot_request(PATH).respond_with_data("<html>")
    with closing(Prometheus(httpserver.url_for(""), timeout=5)) as prometheus:
        rows = prometheus.series("ALERTS")
        assert not isinstance(rows, NoData)
        assert [labels for labels, _ in rows] == [{"instance": "n0"}, {"instance": "n1"}]
        assert rows[0][1] == 1
        assert math.isnan(rows[1][1])
        assert prometheus.series("ALERTS") == []
        assert isinstance(prometheus.series("ALERTS"), NoData)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["success", "NaN", "1"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["status", "data"]), inner),
    max_leaves=8,
)
ALMOST = st.fixed_dictionaries(
    {
        "status": st.just("success") | JSON,
        "data": JSON
        | st.fixed_dictionaries(
            {
                "resultType": st.sampled_from(["vector", "scalar"]) | JSON,
                "result": JSON | st.lists(JSON | st.fixed_dictionaries({"metric": JSON, "value": JSON})),
            }
        ),
    },
    optional={"warnings": JSON, "infos": JSON, "errorType": JSON, "error": JSON},
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=(JSON | ALMOST).map(json.dumps).map(str.encode) | st.binary())
def test_no_body_whatever_raises(httpserver: HTTPServer, body: bytes) -> None:
    httpserver.clear()
    httpserver.expect_request(PATH).respond_with_data(body)
    answer = ask(httpserver)
    assert isinstance(answer, NoData) or math.isfinite(answer.value)
    if isinstance(answer, NoData):
        reason(answer)


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 50_000, b"9" * 10_000, b'"\xff"', b"\xef\xbb\xbf{}"]
)
def test_a_body_made_to_break_a_parser_is_no_data(httpserver: HTTPServer, body: bytes) -> None:
    httpserver.expect_request(PATH).respond_with_data(body)
    reason(ask(httpserver))


def test_a_query_that_is_not_unicode_is_no_data(httpserver: HTTPServer) -> None:
    reason(ask(httpserver, 'up{instance="\ud800"}'))
