"""Stand-ins for the programs that veza-tasks calls on an Incus server and inside its instances.

    python standin.py incus DIRECTORY ...
    python standin.py systemctl|systemd-run|journalctl|socat|curl DIRECTORY ...     inside `incus exec`, first in its PATH

Each answers exactly what the adapters send, in the words of Incus 6.0, systemd 252 and socat 1.7, and refuses all
else. DIRECTORY is the fleet's. Imports are few and late: `incus exec` is to start in a fraction of what it costs.
"""

import os
import sys

PROPERTIES = ["MainPID", "NRestarts", "LoadState", "ActiveState", "SubState", "ActiveEnterTimestamp"]
TARGET_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")


class Refusal(Exception):
    """What goes to standard error, and the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def incus(directory: str, arguments: list[str]) -> int:
    match arguments:
        case ["query", "--wait", "--request", method, *data, url] if url.startswith("local:/1.0/"):
            return query(directory, method, data[1] if data else "{}", url.removeprefix("local:/1.0/"))
        case ["exec", target, "--force-noninteractive", "--project", project, "--", *argv] if argv:
            return execute(directory, located(directory, target, project), argv)
        case _:
            raise Refusal(f"Error: the sandbox's stand-in for incus does not know: {' '.join(arguments)}")
    return 0


def listed(directory: str) -> list[dict[str, object]]:
    names = sorted(os.listdir(f"{directory}/instances"))
    return [shown(f"{directory}/instances/{name}") for name in names]


def shown(home: str) -> dict[str, object]:
    """An instance as Incus has it."""
    return {
        "name": os.path.basename(home),
        "status": "Running",
        "architecture": os.uname().machine,
        "location": "none",
        "config": load(home),
    }


def located(directory: str, target: str, project: str) -> str:
    """The directory of an instance."""
    remote, _, instance = target.partition(":")
    if remote != "local":
        raise Refusal(f'Error: The remote "{remote}" doesn\'t exist')
    home = f"{directory}/instances/{instance}"
    known = project == os.path.basename(directory) and instance and TARGET_CHARACTERS.issuperset(instance)
    if not known or not os.path.isdir(home):
        raise Refusal(
            f'Error: Failed to fetch instance "{instance}" in project "{project}": Instance not found'
        )
    return home


def load(home: str) -> dict[str, str]:
    import json

    with open(f"{home}/config.json", encoding="utf-8") as file:
        config: dict[str, str] = json.load(file)
    return config


def query(directory: str, method: str, data: str, asked: str) -> int:
    """Incus's REST API: instances, their user.* keys, and profiles."""
    import json

    path, _, options = asked.partition("?")
    project, _, more = options.removeprefix("project=").partition("&")
    kind, _, name = path.partition("/")
    if project != os.path.basename(directory):
        raise Refusal(f'Error: Failed loading project "{project}": Project not found')
    body = json.loads(data)
    match method, kind, name:
        case "GET", "instances", "" if more == "recursion=1":
            print(json.dumps(listed(directory)))
        case "GET", "instances", name:
            print(json.dumps(shown(located(directory, f"local:{name}", project))))
        case "PATCH", "instances", name:
            configure(located(directory, f"local:{name}", project), body["config"])
        case "POST", "profiles", "":
            create_profile(directory, body)
        case "GET" | "PATCH" | "DELETE", "profiles", name:
            profile(directory, method, name, body)
        case _:
            raise Refusal(f"Error: the sandbox's stand-in for incus does not know: query {method} {asked}")
    return 0


def configure(home: str, keys: dict[str, str]) -> None:
    """Set keys; an empty value unsets."""
    import fcntl

    if strange := [key for key in keys if not key.startswith("user.")]:
        raise Refusal(f"Error: Invalid config: Unknown configuration key: {strange[0]}")
    with open(f"{home}/config.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        config = {key: value for key, value in {**load(home), **keys}.items() if value}
        write(f"{home}/config.new", config)
        os.replace(f"{home}/config.new", f"{home}/config.json")


def create_profile(directory: str, body: dict[str, object]) -> None:
    """A profile is a file, whose creation is as atomic as a row of Incus's database."""
    from urllib.parse import quote

    os.makedirs(f"{directory}/profiles", exist_ok=True)
    file = f"{directory}/profiles/{quote(str(body['name']), safe='')}"
    new = f"{file}.{os.getpid()}"
    write(new, body)
    try:
        os.link(new, file)
    except FileExistsError:
        text = f'Error: Error inserting "{body["name"]}" into database: The profile already exists'
        raise Refusal(text) from None
    finally:
        os.unlink(new)


def profile(directory: str, method: str, quoted: str, body: dict[str, dict[str, str]]) -> None:
    import fcntl
    import json

    file = f"{directory}/profiles/{quoted}"
    with open(f"{directory}/profiles.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with open(file, encoding="utf-8") as opened:
                found = json.load(opened)
        except FileNotFoundError:
            raise Refusal("Error: Profile not found") from None
        if method == "GET":
            print(json.dumps(found))
        elif method == "PATCH":
            found["config"] |= body["config"]
            write(f"{file}.new", found)
            os.replace(f"{file}.new", file)
        else:
            os.unlink(file)


def write(path: str, content: object) -> None:
    import json

    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def execute(directory: str, home: str, argv: list[str]) -> int:
    os.chdir(f"{home}/root")
    # posix_spawnp() searches the PATH of its caller.
    os.environ["PATH"] = f"{directory}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": f"{home}/root",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "USER": "root",
        "VEZA_LAB_INSTANCE": os.path.basename(home),
    }
    try:
        pid = os.posix_spawnp(argv[0], argv, environment)
    except FileNotFoundError:
        raise Refusal("Error: Command not found", 127) from None
    except PermissionError:
        raise Refusal("Error: Command not executable", 126) from None
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


def systemctl(directory: str, arguments: list[str]) -> int:
    unit = arguments[-1]
    match [word for word in arguments[:-1] if word != "--"]:
        case ["show", "--timestamp=unix", wanted] if wanted.startswith("--property="):
            show(directory, unit, wanted.removeprefix("--property=").split(","), named=True)
        case ["show", "--property=LoadState" as wanted] if not unit.endswith(".timer"):
            show(directory, unit, [wanted.removeprefix("--property=")], named=True)
        case ["show", wanted, "--value"] if wanted.startswith("--property="):
            show(directory, unit, wanted.removeprefix("--property=").split(","), named=False)
        case ["is-active"] | ["is-active", "--quiet"] if not unit.endswith(".timer"):
            state = asked(directory, "show", unit).partition("ActiveState=")[2].split("\n")[0]
            if "--quiet" not in arguments:
                print(state)
            return 0 if state == "active" else 3
        case ["reset-failed"]:
            pass  # this init counts anew at every manual restart
        case ["enable" | "disable" | "is-enabled" as verb, *options] if set(options) <= {
            "--quiet",
            "--no-reload",
            "--force",
        }:
            sys.stdout.write(asked(directory, verb, os.path.basename(unit)))
        case ["list-units" | "is-active" | "stop" | "show" as verb, *_] if unit.endswith(".timer"):
            sys.stdout.write(asked(directory, f"{verb} timers", unit))
        case ["start" | "stop" | "restart" | "reload" as verb]:
            asked(directory, verb, unit)
        case ["kill", signal] if signal.startswith("--signal="):
            asked(directory, "kill", unit, signal.removeprefix("--signal="))
        case _:
            raise Refusal(f"the sandbox's stand-in for systemctl does not know: {' '.join(arguments)}")
    return 0


def systemd_run(directory: str, arguments: list[str]) -> int:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    known = {"--property=Type=oneshot", "--property=Restart=on-failure", "--property=RestartSec=10s"}
    match arguments[:end]:
        case ["--quiet", "--collect", name, seconds, accuracy, *properties] if (
            name.startswith("--unit=")
            and seconds.startswith("--on-active=")
            and accuracy.startswith("--timer-property=AccuracySec=")
            and set(properties) <= known
        ):
            argv = arguments[end + 1 :]
            asked(directory, "timer", name.partition("=")[2], seconds.partition("=")[2], *argv)
        case _:
            raise Refusal(f"the sandbox's stand-in for systemd-run does not know: {' '.join(arguments)}")
    return 0


def show(directory: str, unit: str, wanted: list[str], *, named: bool) -> None:
    unknown = set(wanted) - set(PROPERTIES)
    if unknown:
        raise Refusal(f"the sandbox's stand-in for systemctl does not know: {', '.join(sorted(unknown))}")
    for line in asked(directory, "show", unit).splitlines():
        name, _, value = line.partition("=")
        if name in wanted:
            print(line if named else value)


def asked(directory: str, verb: str, unit: str, *more: str) -> str:
    """The answer of the fleet's init to a request about a unit of this instance."""
    return request(
        directory, verb, os.environ.get("VEZA_LAB_INSTANCE", ""), unit.removesuffix(".service"), *more
    )


def request(directory: str, *words: str) -> str:
    """Ask the fleet's init, see `lab/sandbox/init.py`."""
    import _socket  # socket itself costs 20 ms

    with open(f"{directory}/slot", encoding="ascii") as file:
        name = f"\0veza-lab-sandbox-{file.read().strip()}"
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(name)
    except ConnectionRefusedError:
        raise Refusal("Failed to connect to bus: Connection refused") from None
    connection.sendall(("\0".join(words) + "\n").encode())
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    connection.close()
    status, _, text = answer.decode().partition("\n")
    if status != "0":
        raise Refusal(text, int(status or 1))
    return text


def journalctl(directory: str, arguments: list[str]) -> int:
    match arguments:
        case ["--unit", unit, "--lines", count, "--no-pager", "--output", "cat"] if "/" not in unit:
            path = (
                f"{directory}/instances/{os.environ['VEZA_LAB_INSTANCE']}/{unit.removesuffix('.service')}.log"
            )
        case _:
            raise Refusal(f"the sandbox's stand-in for journalctl does not know: {' '.join(arguments)}")
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as log:
            log.seek(max(0, os.path.getsize(path) - 65536))
            sys.stdout.writelines(log.readlines()[-int(count) :])
    return 0


def socat(_: str, arguments: list[str]) -> int:
    import _socket
    import select

    match arguments:
        case ["-t", "5", "-", address] if address.startswith("UNIX-CONNECT:"):
            path = address.removeprefix("UNIX-CONNECT:")
        case _:
            raise Refusal(f"the sandbox's stand-in for socat does not know: {' '.join(arguments)}")
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        peer.connect(path)
    except OSError as error:
        raise Refusal(
            f'socat[{os.getpid()}] E connect(5, AF=1 "{path}", {len(path) + 2}): {error.strerror}'
        ) from None
    reading: list[int] = [0, peer.fileno()]
    while True:
        # Once its input has ended socat waits so long for more (socat(1), -t).
        ready = select.select(reading, [], [], None if 0 in reading else 5.0)[0]
        if peer.fileno() in ready:
            data = peer.recv(65536)
            if not data:
                return 0
            os.write(1, data)
        elif 0 in ready:
            data = os.read(0, 65536)
            if data:
                peer.sendall(data)
            else:
                reading.remove(0)
                peer.shutdown(_socket.SHUT_WR)
        elif not ready:
            return 0


def curl(_: str, arguments: list[str]) -> int:
    import _socket

    match arguments:
        case [
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--noproxy",
            "*",
            "--max-time",
            limit,
            "--",
            url,
        ]:
            host, _, path = url.removeprefix("http://").partition("/")
            address, _, port = host.partition(":")
        case _:
            raise Refusal(f"the sandbox's stand-in for curl does not know: {' '.join(arguments)}", 2)
    answer = b""
    try:
        connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        connection.settimeout(float(limit))
        connection.connect((address, int(port or 80)))
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        while b"\r\n" not in answer and (chunk := connection.recv(65536)):
            answer += chunk
    except OSError as error:
        print("000", end="")
        return 28 if isinstance(error, TimeoutError) else 7
    words = answer.split()
    print(words[1].decode() if answer.startswith(b"HTTP/1.") and len(words) > 1 else "000", end="")
    return 0 if words else 52


PROGRAMS = {
    "incus": incus,
    "systemctl": systemctl,
    "systemd-run": systemd_run,
    "journalctl": journalctl,
    "socat": socat,
    "curl": curl,
}


def main() -> int:
    try:
        status = PROGRAMS[sys.argv[1]](sys.argv[2], sys.argv[3:])
        sys.stdout.flush()
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return refusal.status
    return status


if __name__ == "__main__":
    sys.exit(main())
