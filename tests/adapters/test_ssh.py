"""The SSH adapter against the system's sshd; what sshd never does is done by stand-ins, named as such."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters import sshd as openssh
from tests.adapters.sshd import USER, Sshd, fingerprint, make_key, public, wait_until
from veza_tasks.adapters.host import TIMED_OUT, Held, Reply, quoted
from veza_tasks.adapters.ssh import DEAD_LINK, KEEPALIVE, SshHost
from veza_tasks.errors import FleetError, HostKeyRefused, OutcomeUnknown, Unreachable
from veza_tasks.settings import HostSettings

pytestmark = [
    pytest.mark.skipif(bool(openssh.MISSING), reason=f"OpenSSH is not installed here: {openssh.MISSING}"),
    pytest.mark.timeout(60),
]

SH = Held("node-1", ("sh",))
HOSTILE = [
    "",
    "-n",
    "--",
    "it's",
    '"quoted"',
    "$(exit 9) `id` $HOME ${IFS}",
    "a; exit 9 & b | c > d < e",
    "two\nlines\n",
    "\ttab\\n\\",
    "*?[a]{b,c}~!#%^",
    " spaces  ",
    "Grüße, 世界 🚀",
    "\x01\x7f\x1b[31m",
    "not UTF-8: \udcff",
    "x" * 20_000,
]
ECHO = "import sys, os; sys.stdout.write(' '.join(os.fsencode(a).hex() or '-' for a in sys.argv[1:]))"


@pytest.fixture(autouse=True)
def a_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@pytest.fixture(autouse=True)
def nothing_is_left_behind(a_home_of_its_own: Path) -> Iterator[None]:
    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    threads, files = held()
    yield
    wait_until(lambda: held()[0] <= threads and held()[1] <= files)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of key pairs."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("user", "stranger", "host", "other-host", "jump-host"):
        make_key(folder / name)
    make_key(folder / "stranger-rsa", "rsa")
    make_key(folder / "locked", passphrase="secret")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Sshd]:
    with contextlib.closing(
        Sshd(tmp_path_factory.mktemp("server") / "sshd", keys / "host", keys / "user")
    ) as it:
        yield it


@pytest.fixture(scope="session")
def jump(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Sshd]:
    with contextlib.closing(
        Sshd(tmp_path_factory.mktemp("jump") / "sshd", keys / "jump-host", keys / "user")
    ) as it:
        yield it


class Connect:
    """Makes hosts, and closes them in the end."""

    def __init__(self, known_hosts: Path, key: Path) -> None:
        self.known_hosts = known_hosts
        self._key = key
        self._hosts = contextlib.ExitStack()

    def __call__(
        self,
        port: int | None,
        *,
        address: str = "127.0.0.1",
        user: str | None = USER,
        key: Path | None = Path(),
        known_hosts: Path | None = Path(),
        ssh_config: Path = Path("~/.ssh/config"),
        connect_timeout: float = 5.0,
        margin: float = 5.0,
    ) -> SshHost:
        host = SshHost(
            "incus-1",
            HostSettings(
                address=address,
                port=port,
                user=user,
                key_file=self._key if key == Path() else key,
                known_hosts=self.known_hosts if known_hosts == Path() else known_hosts,
            ),
            connect_timeout=connect_timeout,
            ssh_config=ssh_config,
            margin=margin,
        )
        return self._hosts.enter_context(contextlib.closing(host))

    def close(self) -> None:
        self._hosts.close()


@pytest.fixture
def connect(tmp_path: Path, server: Sshd, keys: Path) -> Iterator[Connect]:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(server.known_hosts_line)
    with contextlib.closing(Connect(known_hosts, keys / "user")) as it:
        yield it


@pytest.fixture
def host(connect: Connect, server: Sshd) -> SshHost:
    return connect(server.port)


@pytest.fixture
def hasty(connect: Connect, server: Sshd) -> SshHost:
    """A host that gives up half a second after a command's timeout."""
    return connect(server.port, margin=0.5, connect_timeout=2)


@pytest.fixture
def way(tmp_path: Path, server: Sshd, jump: Sshd, keys: Path) -> Path:
    """An OpenSSH configuration: ``target`` behind ``jump``, both keys known."""
    known_hosts = tmp_path / "configured_known_hosts"
    known_hosts.write_text(server.known_hosts_line + jump.known_hosts_line)
    (tmp_path / "agent.sock").touch()
    config = tmp_path / "ssh_config"
    config.write_text(
        f"""
Host jump
  HostName 127.0.0.1
  Port {jump.port}
Host target
  HostName 127.0.0.1
  Port {server.port}
  ProxyJump jump
Host *
  User {USER}
  IdentityFile {tmp_path / "not-there"}
  IdentityFile {keys / "user"}
  UserKnownHostsFile {known_hosts}
  ForwardAgent {tmp_path / "agent.sock"}
"""
    )
    return config


@pytest.fixture
def behind(connect: Connect, way: Path) -> SshHost:
    """The host ``target`` as the OpenSSH configuration has it."""
    return connect(None, address="target", user=None, key=None, known_hosts=None, ssh_config=way)


@contextlib.contextmanager
def lasting(*, at_most: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < at_most


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between opening and reading
        return False


def say_hello(host: SshHost) -> str:
    return host.run(["echo", "hello"], timeout=5).out


def type_in(command: str | None, tmp_path: Path) -> None:
    """Do what an error said, answering yes to every question."""
    assert command
    yes = tmp_path / "yes"
    yes.write_text("#!/bin/sh\necho yes\n")
    yes.chmod(0o755)
    environment = {**os.environ, "SSH_ASKPASS": str(yes), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["sh", "-c", command], check=True, env=environment, stdin=subprocess.DEVNULL, timeout=20)


# Host keys


def test_a_known_host_key_is_let_in(host: SshHost) -> None:
    assert say_hello(host) == "hello\n"


def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_what_to_type(
    connect: Connect, server: Sshd, tmp_path: Path
) -> None:
    connect.known_hosts.write_text("")
    host = connect(server.port)
    with pytest.raises(HostKeyRefused) as refused:
        host.run(["touch", str(tmp_path / "ran")], effect="touch", timeout=5)
    assert fingerprint(server.host_key) in refused.value.message
    assert f"[127.0.0.1]:{server.port} is unknown" in refused.value.message
    assert not (tmp_path / "ran").exists()

    type_in(refused.value.next_command, tmp_path)
    assert say_hello(host) == "hello\n"


def test_a_changed_host_key_is_refused_and_named_old_and_new(
    connect: Connect, server: Sshd, keys: Path, tmp_path: Path
) -> None:
    connect.known_hosts.write_text(f"[127.0.0.1]:{server.port} {public(keys / 'other-host')}\n")
    host = connect(server.port)
    with pytest.raises(HostKeyRefused, match="HAS CHANGED") as refused:
        host.run(["touch", str(tmp_path / "ran")], effect="touch", timeout=5)
    assert fingerprint(server.host_key) in refused.value.message
    assert fingerprint(keys / "other-host") in refused.value.message
    assert not (tmp_path / "ran").exists()

    type_in(refused.value.next_command, tmp_path)
    with pytest.raises(HostKeyRefused, match="is unknown"):
        say_hello(host)


def test_hashed_known_hosts_are_understood(connect: Connect, server: Sshd) -> None:
    hash_names = ["ssh-keygen", "-H", "-f", str(connect.known_hosts)]
    subprocess.run(hash_names, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert "127.0.0.1" not in connect.known_hosts.read_text()
    assert say_hello(connect(server.port)) == "hello\n"


@pytest.mark.parametrize(
    "content", [b"[127.0.0.1]:1 ssh-ed25519 AAAAA\n", b"\xff\xfe\n"], ids=["base64", "text"]
)
def test_known_hosts_that_cannot_be_read_are_named(connect: Connect, server: Sshd, content: bytes) -> None:
    connect.known_hosts.write_bytes(content)
    with pytest.raises(HostKeyRefused, match="known_hosts cannot be read"):
        say_hello(connect(server.port))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_key_that_is_known_is_asked_for_where_the_host_has_several(
    connect: Connect, keys: Path, tmp_path: Path, kind: str
) -> None:
    second = make_key(tmp_path / "host_key", kind)
    with contextlib.closing(
        Sshd(tmp_path / "sshd", keys / "host", keys / "user", f"HostKey {second}")
    ) as both:
        connect.known_hosts.write_text(f"[127.0.0.1]:{both.port} {public(second)}\n")
        host = connect(both.port)
        assert say_hello(host) == "hello\n"
        host.close()


# Jump hosts


def test_openssh_configuration_leads_through_the_jump_host(behind: SshHost, jump: Sshd) -> None:
    assert say_hello(behind) == "hello\n"
    assert jump.sessions()


def test_several_jump_hosts_are_visited_in_their_order(
    behind: SshHost, way: Path, jump: Sshd, server: Sshd, keys: Path, tmp_path: Path
) -> None:
    way.write_text(
        f"Host second\n  HostName 127.0.0.1\n  Port {server.port}\n{way.read_text()}  ProxyJump jump\n"
    )
    way.write_text(way.read_text().replace("ProxyJump jump", "ProxyJump jump,second", 1))
    assert say_hello(behind) == "hello\n"
    assert behind._connection
    assert behind._connection.gateway.port == server.port
    assert behind._connection.gateway.gateway.port == jump.port
    assert behind._connection.gateway.gateway.gateway is False


def test_no_jump_host_is_no_jump_host(behind: SshHost, way: Path) -> None:
    way.write_text(f"Host target\n  ProxyJump none\n{way.read_text()}")
    assert say_hello(behind) == "hello\n"
    assert behind._connection
    assert behind._connection.gateway is False


@pytest.mark.parametrize("which", ["jump", "server"])
def test_an_unknown_key_on_either_hop_is_refused(
    behind: SshHost, jump: Sshd, server: Sshd, tmp_path: Path, which: str
) -> None:
    unknown, other = (jump, server) if which == "jump" else (server, jump)
    (tmp_path / "configured_known_hosts").write_text(other.known_hosts_line)
    with pytest.raises(HostKeyRefused, match="is unknown") as refused:
        say_hello(behind)
    assert fingerprint(unknown.host_key) in refused.value.message
    assert ("jump host" in refused.value.message) is (which == "jump")

    type_in(refused.value.next_command, tmp_path)
    assert say_hello(behind) == "hello\n"


@pytest.mark.parametrize("which", ["jump", "server"])
def test_a_changed_key_on_either_hop_is_refused(
    behind: SshHost, jump: Sshd, server: Sshd, keys: Path, tmp_path: Path, which: str
) -> None:
    changed, other = (jump, server) if which == "jump" else (server, jump)
    line = f"[127.0.0.1]:{changed.port} {public(keys / 'other-host')}\n"
    (tmp_path / "configured_known_hosts").write_text(line + other.known_hosts_line)
    with pytest.raises(HostKeyRefused, match="HAS CHANGED") as refused:
        say_hello(behind)
    assert ("jump host" in refused.value.message) is (which == "jump")


def test_a_jump_host_that_never_answers_is_given_up_in_time(
    connect: Connect, way: Path, jump: Sshd, black_hole: int
) -> None:
    way.write_text(way.read_text().replace(f"Port {jump.port}", f"Port {black_hole}"))
    host = connect(
        None, address="target", user=None, key=None, known_hosts=None, ssh_config=way, connect_timeout=0.5
    )
    with lasting(at_most=4), pytest.raises(Unreachable, match=r"jump host.*no answer within 0\.5 s"):
        say_hello(host)


def test_a_target_that_never_answers_behind_its_jump_host_is_given_up_in_time(
    connect: Connect, way: Path, server: Sshd, black_hole: int
) -> None:
    way.write_text(way.read_text().replace(f"Port {server.port}", f"Port {black_hole}"))
    host = connect(
        None, address="target", user=None, key=None, known_hosts=None, ssh_config=way, connect_timeout=0.5
    )
    with lasting(at_most=5), pytest.raises(Unreachable, match=r"no answer within 0\.5 s"):
        say_hello(host)


def test_a_jump_host_that_dies_is_a_broken_connection(behind: SshHost, jump: Sshd, tmp_path: Path) -> None:
    with (
        interrupted(tmp_path, lambda: jump.signal_sessions(signal.SIGKILL)) as script,
        pytest.raises(OutcomeUnknown),
    ):
        behind.run(script, effect="something", timeout=3)
    assert say_hello(behind) == "hello\n"


@pytest.mark.parametrize("hops", [1, 2])
def test_the_socket_sends_at_once_and_notices_a_dead_link(request: pytest.FixtureRequest, hops: int) -> None:
    host: SshHost = request.getfixturevalue("host" if hops == 1 else "behind")
    say_hello(host)
    connection = host._connection
    assert connection
    sock = (connection if hops == 1 else connection.gateway).transport.sock
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == DEAD_LINK * 1000


# Reaching it


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def test_a_port_where_nobody_listens_is_unreachable(connect: Connect) -> None:
    with lasting(at_most=4), pytest.raises(Unreachable, match=r"incus-1: no SSH connection to .*@127.0.0.1"):
        say_hello(connect(openssh.free_port()))


def test_a_server_that_never_says_a_word_is_given_up_in_time(connect: Connect, black_hole: int) -> None:
    with lasting(at_most=4), pytest.raises(Unreachable, match=r"no answer within 0\.5 s"):
        say_hello(connect(black_hole, connect_timeout=0.5))


def test_an_address_that_does_not_exist_is_unreachable(connect: Connect) -> None:
    with pytest.raises(Unreachable, match="no SSH connection"):
        say_hello(connect(22, address="no-such-host.invalid"))


@pytest.mark.parametrize("key", ["stranger", "stranger-rsa"])
def test_keys_that_the_server_does_not_want_are_told_from_a_broken_network(
    connect: Connect, server: Sshd, keys: Path, key: str
) -> None:
    with pytest.raises(Unreachable, match="refused our keys") as refused:
        say_hello(connect(server.port, key=keys / key))
    assert refused.value.next_command.startswith("ssh ")


def test_having_no_key_at_all_is_no_broken_network(connect: Connect, server: Sshd) -> None:
    with pytest.raises(Unreachable, match="refused our keys"):
        say_hello(connect(server.port, key=None))


def test_a_key_file_that_is_not_there_is_named(connect: Connect, server: Sshd, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no-such-key"):
        say_hello(connect(server.port, key=tmp_path / "no-such-key"))


def test_a_key_with_a_passphrase_needs_the_agent(
    connect: Connect, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(Sshd(tmp_path / "sshd", keys / "host", keys / "locked")) as server:
        connect.known_hosts.write_text(server.known_hosts_line)
        with pytest.raises(Unreachable, match="has a passphrase") as refused:
            say_hello(connect(server.port, key=keys / "locked"))
        assert refused.value.next_command == "ssh-add"

        unlocked = tmp_path / "unlocked"
        shutil.copy(keys / "locked", unlocked)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "secret", "-N", "", "-f", str(unlocked)], check=True)
        with openssh.agent(tmp_path, unlocked) as sock:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
            for key in (keys / "locked", None):
                host = connect(server.port, key=key)
                assert say_hello(host) == "hello\n"
                host.close()


def test_an_openssh_configuration_that_is_not_there_is_named(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no-such-config"):
        say_hello(connect(None, ssh_config=tmp_path / "no-such-config"))


def test_nobodys_fabric_settings_change_where_we_go(host: SshHost, a_home_of_its_own: Path) -> None:
    (a_home_of_its_own / ".fabric.yaml").write_text("gateway: nobody@nowhere.invalid\nuser: nobody\n")
    assert say_hello(host) == "hello\n"


def test_failures_are_raised_and_not_also_printed(keys: Path, black_hole: int, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from veza_tasks.adapters.ssh import SshHost
from veza_tasks.errors import Unreachable
from veza_tasks.settings import HostSettings
settings = HostSettings(address="127.0.0.1", port=int(sys.argv[1]), key_file=sys.argv[2])
try:
    SshHost("incus-1", settings, connect_timeout=0.5, ssh_config=Path("~/.ssh/config")).run(["true"], timeout=1)
except Unreachable:
    print("raised")
"""
    argv = [sys.executable, "-c", script, str(black_hole), str(keys / "user")]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=20, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert (done.stdout, done.stderr) == ("raised\n", "")


# Commands


Execute = Callable[..., Reply]


@pytest.fixture(params=["run", "shell"])
def execute(request: pytest.FixtureRequest, host: SshHost) -> Execute:
    """A command of its own, and one in a held shell."""
    return host.run if request.param == "run" else lambda argv, **options: host.shell(SH, argv, **options)


@pytest.mark.parametrize("status", [0, 1, 3, 126, 255])
def test_the_exit_status_comes_back(execute: Execute, status: int) -> None:
    reply = execute(["sh", "-c", f"exit {status}"], timeout=5)
    assert reply.status == status


def test_a_command_that_does_not_exist_has_status_127(host: SshHost) -> None:
    assert host.run(["no-such-command"], timeout=5).status == 127
    assert host.shell(SH, ["no-such-command"], timeout=5).status == 127
    assert host.shell(SH, ["exit", "3"], timeout=5).status == 127
    assert host.shell(SH, ["echo", "still here"], timeout=5).out == "still here\n"


def test_both_outputs_are_kept_apart_and_complete(execute: Execute) -> None:
    reply = execute(["sh", "-c", "printf 'o1 '; printf 'e1 ' >&2; printf o2; printf e2 >&2"], timeout=5)
    assert reply == Reply(0, "o1 o2", "e1 e2")


def test_megabytes_on_both_outputs_do_not_block_each_other(execute: Execute) -> None:
    # More than the 2 MiB window that a channel's two outputs share.
    half = "head -c 3000000 /dev/zero | tr '\\0' "
    reply = execute(["sh", "-c", f"{half} e >&2; {half} o; {half} e >&2"], timeout=15)
    assert (reply.status, reply.out, reply.err) == (0, "o" * 3_000_000, "e" * 6_000_000)


def test_output_that_is_not_text_is_no_error(execute: Execute) -> None:
    assert execute(["printf", r"\377\0ok"], timeout=5).out == "\ufffd\0ok"


def test_hostile_arguments_arrive_byte_for_byte(execute: Execute) -> None:
    reply = execute([sys.executable, "-c", ECHO, *HOSTILE], timeout=5)
    assert reply.err == ""
    assert reply.out.split() == [os.fsencode(argument).hex() or "-" for argument in HOSTILE]


def test_an_argument_that_would_be_cut_short_is_refused(execute: Execute) -> None:
    with pytest.raises(ValueError, match="NUL"):
        execute(["echo", "a\0b"], timeout=5)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=150, deadline=None)
@given(arguments=st.lists(words, max_size=8), more=st.lists(words, max_size=3))
def test_whatever_is_quoted_comes_out_of_a_real_shell_unchanged(
    arguments: list[str], more: list[str]
) -> None:
    line = quoted(
        ["printf", "%s\\0", "x", *arguments],
        into=["sh", "-c", "cat; printf '%s\\0' \"$@\"", "sh", "y", *more],
    )
    out = subprocess.run(["sh", "-c", line], check=True, capture_output=True).stdout
    assert out.decode().split("\0")[:-1] == ["x", *arguments, "y", *more]


def test_a_pipe_feeds_the_second_command_and_gives_its_status(host: SshHost) -> None:
    reply = host.run(["echo", "a  b"], into=["sh", "-c", "tr a-z A-Z; exit 5"], timeout=5)
    assert (reply.status, reply.out) == (5, "A  B\n")


def test_a_command_reads_nothing_of_what_is_sent_to_the_shell(execute: Execute) -> None:
    assert execute(["cat"], timeout=5) == Reply(0)


def test_a_failing_command_leaves_the_held_shell_usable(host: SshHost) -> None:
    pid = host.shell(SH, PARENTS_PARENT, timeout=5).out
    for script in ("exit 3", "kill -TERM $$", "exec 1>&-; echo lost", "set -e; false"):
        host.shell(SH, ["sh", "-c", script], timeout=5)
    assert host.shell(SH, PARENTS_PARENT, timeout=5).out == pid


def test_thirty_megabytes_arrive_byte_for_byte_with_progress(host: SshHost, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(30_000_000)
    seen: list[int] = []
    receive = ["sh", "-c", 'cat >"$1"', "sh", str(tmp_path / "received")]
    reply = host.run(receive, stdin=BytesIO(data), effect="upload", timeout=30, progress=seen.append)
    assert reply.status == 0
    assert hashlib.sha256((tmp_path / "received").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert seen == sorted(seen)
    assert seen[-1] == len(data)
    assert len(seen) > 20


def test_a_program_that_ends_during_an_upload_tells_why(host: SshHost) -> None:
    complain = ["sh", "-c", "head -c 100000 >/dev/null; echo disk full >&2; exit 28"]
    reply = host.run(complain, stdin=BytesIO(bytes(30_000_000)), effect="upload", timeout=10)
    assert (reply.status, reply.err) == (28, "disk full\n")


def test_a_program_that_talks_back_during_an_upload_does_not_block_it(host: SshHost) -> None:
    reply = host.run(["cat"], stdin=BytesIO(b"x" * 10_000_000), effect="upload", timeout=20)
    assert len(reply.out) == 10_000_000


def test_output_held_open_by_a_child_is_not_waited_for(host: SshHost) -> None:
    with lasting(at_most=5):
        assert host.run(["sh", "-c", "sleep 9 & echo started"], timeout=10) == Reply(0, "started\n")


# Time


def test_a_command_over_its_time_is_ended_and_said_to_be(execute: Execute, tmp_path: Path) -> None:
    script = 'echo $$ >"$1"; sleep 30'
    with lasting(at_most=4):
        reply = execute(["sh", "-c", script, "sh", str(tmp_path / "pid")], effect="sleep", timeout=0.5)
    assert reply.status == TIMED_OUT
    assert reply.complaint == "it did not end in time"
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert execute(["echo", "usable"], timeout=5).out == "usable\n"


def test_a_command_that_will_not_end_is_killed_and_said_to_be(execute: Execute) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
    with lasting(at_most=6):
        assert execute(stubborn, effect="loop", timeout=0.5).status == TIMED_OUT
    assert execute(["echo", "usable"], timeout=5).out == "usable\n"


def test_a_frozen_server_is_given_up_in_time_and_left_for_a_new_connection(
    hasty: SshHost, server: Sshd
) -> None:
    calls: list[Callable[[], Reply]] = [
        lambda: hasty.run(["true"], effect="an effect", timeout=0.5),
        lambda: hasty.shell(SH, ["true"], effect="an effect", timeout=0.5),
    ]
    for call in calls:
        call()
        server.signal_sessions(signal.SIGSTOP)
        try:
            # 2 s to find that the connection opens no session, or 1 s for the answer that does not come.
            with lasting(at_most=6), contextlib.suppress(OutcomeUnknown):
                call()
        finally:
            server.signal_sessions(signal.SIGCONT)
        assert say_hello(hasty) == "hello\n"


def test_an_upload_to_a_frozen_server_is_given_up_in_time(
    hasty: SshHost, server: Sshd, tmp_path: Path
) -> None:
    def freeze(sent: int) -> None:
        server.signal_sessions(signal.SIGSTOP)

    data = BytesIO(bytes(100_000_000))
    try:
        with lasting(at_most=6), pytest.raises(OutcomeUnknown, match="'upload'"):
            hasty.run(["sh", "-c", "cat >/dev/null"], stdin=data, effect="upload", timeout=1, progress=freeze)
    finally:
        server.signal_sessions(signal.SIGCONT)


def test_a_waiting_command_does_not_cut_off_the_one_before_it(hasty: SshHost) -> None:
    with ThreadPoolExecutor() as pool:
        hasty.shell(SH, ["true"], timeout=5)
        long = pool.submit(hasty.shell, SH, ["sleep", "1.5"], effect="restart", timeout=5)
        time.sleep(0.2)
        with pytest.raises(Unreachable, match="was not sent"):
            hasty.shell(SH, ["echo", "hello"], timeout=0.2)
        assert long.result().status == 0


# Losing it


PARENTS_PARENT = ["sh", "-c", 'cut -d" " -f4 "/proc/$PPID/stat"']
"""Gives the process id of what runs ``timeout``: in a held shell, the shell."""


@contextlib.contextmanager
def interrupted(tmp_path: Path, interrupt: Callable[[], object]) -> Iterator[list[str]]:
    """Gives a command that notes that it runs, and is interrupted the first time."""
    notes = tmp_path / "notes"
    script = 'echo ran >>"$1"; [ "$(wc -l <"$1")" -gt 1 ] || sleep 2; echo done'

    def watch() -> None:
        wait_until(lambda: notes.exists() and notes.stat().st_size)
        interrupt()

    with ThreadPoolExecutor() as pool:
        watching = pool.submit(watch)
        yield ["sh", "-c", script, "sh", str(notes)]
        watching.result()


def test_a_change_that_is_cut_off_is_unknown_and_not_repeated(
    request: pytest.FixtureRequest, execute: Execute, server: Sshd, tmp_path: Path
) -> None:
    say_hello(request.getfixturevalue("host"))
    with (
        interrupted(tmp_path, lambda: server.signal_sessions(signal.SIGKILL)) as script,
        lasting(at_most=5),
        pytest.raises(OutcomeUnknown, match="it is not known whether 'restart veza' ran"),
    ):
        execute(script, effect="restart veza", timeout=3)
    assert (tmp_path / "notes").read_text() == "ran\n"
    assert execute(["echo", "usable"], timeout=5).out == "usable\n"


def test_a_read_that_is_cut_off_is_repeated_in_silence(
    execute: Execute, server: Sshd, tmp_path: Path
) -> None:
    with interrupted(tmp_path, lambda: server.signal_sessions(signal.SIGKILL)) as script:
        assert execute(script, timeout=3).out == "done\n"
    assert (tmp_path / "notes").read_text() == "ran\nran\n"


def is_connected(host: SshHost) -> bool:
    return bool(host._connection and host._connection.is_connected)


def test_a_connection_that_died_in_between_is_replaced_without_doubt(
    host: SshHost, execute: Execute, server: Sshd
) -> None:
    for _ in range(3):
        assert execute(["echo", "hello"], effect="an effect", timeout=5).out == "hello\n"
        server.signal_sessions(signal.SIGKILL)
        wait_until(lambda: not is_connected(host))


def test_a_command_ended_by_a_signal_is_unknown(host: SshHost) -> None:
    with pytest.raises(OutcomeUnknown, match="a signal ended it"):
        host.run(["sh", "-c", "kill -9 $$"], effect="an effect", timeout=5)
    assert say_hello(host) == "hello\n"


def test_a_held_shell_that_died_is_reopened(host: SshHost) -> None:
    first = int(host.shell(SH, PARENTS_PARENT, timeout=5).out)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_alive(first))
    time.sleep(1)  # sshd has yet to tell us; sent before that, a change would rightly be called unknown
    second = int(host.shell(SH, PARENTS_PARENT, effect="an effect", timeout=5).out)
    assert second != first


def test_a_held_shell_ends_with_us(host: SshHost) -> None:
    shell = int(host.shell(SH, PARENTS_PARENT, timeout=5).out)
    host.close()
    wait_until(lambda: not is_alive(shell))


def test_a_held_shell_that_dies_under_a_change_is_unknown(host: SshHost) -> None:
    kill_shell = ["sh", "-c", 'kill -9 "$(cut -d" " -f4 "/proc/$PPID/stat")"']
    with pytest.raises(OutcomeUnknown, match="node-1 on incus-1"):
        host.shell(SH, kill_shell, effect="an effect", timeout=5)
    assert host.shell(SH, ["echo", "usable"], timeout=5).out == "usable\n"


def test_a_program_that_cannot_be_held_open_says_why_and_nothing_was_sent(host: SshHost) -> None:
    stopped = Held("node-1", ("sh", "-c", "echo 'Error: Instance is not running' >&2; exit 1"))
    with pytest.raises(Unreachable, match="did not start: Error: Instance is not running"):
        host.shell(stopped, ["true"], effect="an effect", timeout=5)


def test_more_held_programs_than_sshd_allows_sessions_take_turns(host: SshHost) -> None:
    nodes = [Held(f"node-{number}", ("sh", "-c", f"exec sh # {number}")) for number in range(14)]
    for _ in range(2):
        for node in nodes:
            assert (
                host.shell(node, ["echo", node.where], effect="an effect", timeout=5).out == f"{node.where}\n"
            )


def test_eight_threads_share_one_connection_and_get_their_own_answers(host: SshHost, server: Sshd) -> None:
    before = set(server.sessions())

    def work(number: int) -> bool:
        held = SH if number % 2 else Held("node-2", ("sh", "-e"))
        for turn in range(12):
            text = f"{number}/{turn}"
            if host.shell(held, ["echo", text], timeout=10).out != f"{text}\n":
                return False
            if turn % 4 == 0 and host.run(["echo", text], timeout=10).out != f"{text}\n":
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(set(server.sessions()) - before) == 1


def test_what_is_opened_ahead_is_what_is_used(host: SshHost, server: Sshd) -> None:
    before = set(server.sessions())
    host.open_ahead([SH])
    shell = int(host.shell(SH, PARENTS_PARENT, timeout=5).out)
    assert say_hello(host) == "hello\n"
    assert int(host.shell(SH, PARENTS_PARENT, timeout=5).out) == shell
    assert len(set(server.sessions()) - before) == 1


def test_what_fails_ahead_of_time_is_told_once_to_whoever_needs_it(connect: Connect, black_hole: int) -> None:
    host = connect(black_hole, connect_timeout=1)
    host.open_ahead([SH])
    with lasting(at_most=1.9), pytest.raises(Unreachable, match="no answer within 1 s"):
        say_hello(host)


def test_an_unknown_host_key_met_ahead_of_time_is_refused(connect: Connect, server: Sshd) -> None:
    connect.known_hosts.write_text("")
    host = connect(server.port)
    host.open_ahead([SH])
    with pytest.raises(HostKeyRefused, match="is unknown"):
        say_hello(host)


def test_a_connection_opened_ahead_and_never_used_is_closed(host: SshHost, server: Sshd) -> None:
    before = set(server.sessions())
    host.open_ahead([SH])
    host.close()
    with pytest.raises(Unreachable, match="closed by us"):
        say_hello(host)
    wait_until(lambda: set(server.sessions()) <= before)


CUT_CABLE = """
import subprocess, sys, threading, time
from pathlib import Path
from tests.adapters.sshd import USER, Sshd
from veza_tasks.adapters.ssh import SshHost
from veza_tasks.errors import OutcomeUnknown
from veza_tasks.settings import HostSettings
keys, folder = map(Path, sys.argv[1:])
link = lambda state: subprocess.run(["ip", "link", "set", "lo", state], check=True)
link("up")
sshd = Sshd(folder / "sshd", keys / "host", keys / "user")
(folder / "cut_known_hosts").write_text(sshd.known_hosts_line)
settings = HostSettings(
    address="127.0.0.1", port=sshd.port, user=USER, key_file=keys / "user", known_hosts=folder / "cut_known_hosts"
)
host = SshHost("incus-1", settings, connect_timeout=5, ssh_config=Path("~/.ssh/config"))
host.run(["true"], timeout=5)
threading.Timer(0.5, link, ["down"]).start()
started = time.monotonic()
try:
    host.run(["sleep", "25"], effect="an effect", timeout=25)
except OutcomeUnknown:
    print(time.monotonic() - started)
finally:
    link("up")
    host.close()
    sshd.close()
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root has a cable to cut")
def test_a_cut_cable_is_noticed_long_before_the_commands_deadline(keys: Path, tmp_path: Path) -> None:
    path = os.getcwd()
    argv = ["unshare", "--net", sys.executable, "-c", CUT_CABLE, str(keys), str(tmp_path)]
    done = subprocess.run(
        argv, check=True, capture_output=True, text=True, timeout=50, env={**os.environ, "PYTHONPATH": path}
    )
    assert DEAD_LINK - 1 < float(done.stdout) < DEAD_LINK + KEEPALIVE + 5


# What sshd never does


class StandIn(paramiko.ServerInterface):
    """A stand-in for a broken SSH server: lets everybody in, or never answers one kind of request."""

    def __init__(self, silent_about: str) -> None:
        self._silent_about = silent_about
        self.released = threading.Event()

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self._answer("login", paramiko.common.AUTH_SUCCESSFUL)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return self._answer("session", paramiko.common.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._answer("exec", 0)
        return False

    def _answer(self, about: str, answer: int) -> int:
        if about == self._silent_about:
            self.released.wait(20)
        return answer


@contextlib.contextmanager
def stand_in(connect: Connect, keys: Path, silent_about: str) -> Iterator[int]:
    host_key = paramiko.Ed25519Key.from_private_key_file(str(keys / "host"))
    behaviour = StandIn(silent_about)
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        connect.known_hosts.write_text(f"[127.0.0.1]:{port} {public(keys / 'host')}\n")

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    transport = paramiko.Transport(listening.accept()[0])
                    transports.append(transport)
                    transport.add_server_key(host_key)
                    transport.start_server(event=threading.Event(), server=behaviour)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield port
        finally:
            behaviour.released.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for transport in transports:
                transport.close()


@pytest.mark.parametrize(
    ("silent_about", "error"), [("login", Unreachable), ("session", Unreachable), ("exec", OutcomeUnknown)]
)
def test_a_server_that_falls_silent_is_given_up_in_time(
    connect: Connect, keys: Path, silent_about: str, error: type[FleetError]
) -> None:
    with stand_in(connect, keys, silent_about) as port:
        host = connect(port, connect_timeout=0.5)
        with (
            lasting(at_most=5),
            pytest.raises(error, match=r"no answer within 0\.5 s|Timeout opening channel"),
        ):
            host.run(["true"], effect="an effect", timeout=1)
        with lasting(at_most=5), pytest.raises(Unreachable):
            host.shell(SH, ["true"], effect="an effect", timeout=1)
        host.close()


def test_a_server_that_refuses_to_run_commands_is_told_from_a_broken_one(
    connect: Connect, keys: Path
) -> None:
    with stand_in(connect, keys, "") as port:
        host = connect(port)
        with lasting(at_most=4), pytest.raises(Unreachable, match="refuses to run commands"):
            host.run(["true"], effect="an effect", timeout=1)
        host.close()


def test_what_a_held_program_costs(host: SshHost, capsys: pytest.CaptureFixture[str]) -> None:
    def median(call: Callable[[], object]) -> float:
        def measure() -> float:
            started = time.perf_counter()
            call()
            return time.perf_counter() - started

        call()
        return 1000 * statistics.median(measure() for _ in range(40))

    shell = median(lambda: host.shell(SH, ["true"], timeout=5))
    run = median(lambda: host.run(["true"], timeout=5))
    with capsys.disabled():
        sys.stdout.write(f"\n  one call: shell {shell:.1f} ms, run {run:.1f} ms\n")
    # Nagle's algorithm against a delayed acknowledgement alone costs 40 ms.
    assert shell < 30
