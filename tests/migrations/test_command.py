"""``veza-lint-migrations`` and ``python -m veza_tasks.migrations``, in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from veza_tasks.migrations import configuration
from veza_tasks.migrations.report import listed
from veza_tasks.migrations.rules import RULES

ROOT = Path(__file__).parents[2]
BREAKS = "ALTER TABLE users DROP COLUMN email;\n"
LOCKS = "CREATE INDEX users_email ON users (email);\n"
HARMLESS = "SELECT 1;\n"


def command(
    *arguments: str | bytes, cwd: Path, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "PYTHONDONTWRITEBYTECODE") if name in os.environ
    }
    done = subprocess.run(
        [sys.executable, "-m", "veza_tasks.migrations", *arguments],
        cwd=cwd,
        env={**kept, "HOME": str(cwd), "PYTHONPATH": str(ROOT), **environment},
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bad.sql").write_text(BREAKS)
    (tmp_path / "slow.sql").write_text(LOCKS)
    (tmp_path / "good.sql").write_text(HARMLESS)
    return tmp_path


def test_exit_codes_are_clean_findings_and_cannot_tell(folder: Path) -> None:
    assert command("good.sql", cwd=folder).returncode == 0
    assert command("slow.sql", cwd=folder).returncode == 0
    assert command("--strict", "slow.sql", cwd=folder).returncode == 1
    assert command("bad.sql", "good.sql", cwd=folder).returncode == 1
    assert command("nowhere.sql", cwd=folder).returncode == 2
    assert command("--nonsense", "good.sql", cwd=folder).returncode == 2


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"SELECT 1;\nSELECT 'x", "2:8"),
        (b'SELECT 1; SELECT "x', "1:18"),
        (b"/* /* */", "1:1"),
        (b"DO $a$ BEGIN", "1:4"),
        ("SELECT 'ü".encode() + b"\xff'", "1:10"),
        (b"\xef\xbb\xbf\n\xc3", "2:1"),
        ("SELECT 1;".encode("utf-16"), "1:1"),
        (b"SELECT 1\0;", "1:9"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place_and_nothing_is_called_clean(
    folder: Path, content: bytes, place: str
) -> None:
    (folder / "odd.sql").write_bytes(content)

    refused = command("good.sql", "odd.sql", cwd=folder)

    assert refused.returncode == 2
    assert refused.stderr.startswith(f"cannot tell: odd.sql:{place}: ")
    assert refused.stdout == ""


def test_a_folder_is_what_is_below_it_as_one_release(folder: Path) -> None:
    (folder / "set" / "deep").mkdir(parents=True)
    (folder / "set" / "001.sql").write_text("CREATE TABLE fresh (a int, b int);\n")
    (folder / "set" / "deep" / "002.SQL").write_text("ALTER TABLE fresh DROP COLUMN b;\n")
    (folder / "set" / "README.md").write_text("DROP TABLE users;")
    assert command("set", cwd=folder).returncode == 0

    (folder / "set" / "003_seed.py").write_text("")
    refused = command("set", cwd=folder)
    assert refused.returncode == 1
    assert "set/003_seed.py:1:1: error: unreadable-migration: " in refused.stdout


def test_a_folder_without_migrations_is_no_clean_one(folder: Path) -> None:
    (folder / "empty").mkdir()

    assert command("empty", cwd=folder).returncode == 2


def test_a_file_is_looked_at_once_however_often_it_is_named(folder: Path) -> None:
    said = command("bad.sql", "./bad.sql", ".", cwd=folder).stdout

    assert said.count("drop-column: ") == 1
    assert said.splitlines()[-1].startswith("3 migration files: ")


def test_standard_input_is_a_file(folder: Path) -> None:
    refused = command("-", cwd=folder, stdin=BREAKS.encode())

    assert refused.returncode == 1
    assert refused.stdout.startswith("<stdin>:1:19: error: drop-column: ")
    assert command("-", "--staged", cwd=folder, stdin=b"").returncode == 2


def test_the_tool_and_the_role_may_be_named(folder: Path) -> None:
    (folder / "goose.sql").write_text(f"-- +goose Up\n{HARMLESS}-- +goose Down\n{BREAKS}")
    assert command("goose.sql", cwd=folder).returncode == 0
    assert command("--tool", "plain", "goose.sql", cwd=folder).returncode == 1
    assert command("--tool", "gouse", "goose.sql", cwd=folder).returncode == 2

    (folder / "revoke.sql").write_text("REVOKE SELECT ON users FROM reporting;")
    assert command("revoke.sql", cwd=folder).returncode == 1
    assert command("--application-role", "app", "revoke.sql", cwd=folder).returncode == 0


def test_force_migrate_passes_and_still_tells_everything(folder: Path) -> None:
    forced = command("bad.sql", cwd=folder, FORCE_MIGRATE="1")

    assert forced.returncode == 0
    assert "error: drop-column: " in forced.stdout
    assert "overridden by FORCE_MIGRATE=1" in forced.stdout
    assert command("nowhere.sql", cwd=folder, FORCE_MIGRATE="1").returncode == 2


@pytest.mark.parametrize("form", ["json", "sarif", "github"])
def test_every_format_says_what_text_says(folder: Path, form: str) -> None:
    refused = command("--format", form, "bad.sql", cwd=folder)

    assert refused.returncode == 1
    assert "drop-column" in refused.stdout
    if form != "github":
        json.loads(refused.stdout)
    troubled = command("--format", form, "nowhere.sql", cwd=folder)
    assert troubled.returncode == 2
    assert "nowhere.sql" in troubled.stdout
    assert "nowhere.sql" in troubled.stderr


def test_rules_are_listed_and_explained(folder: Path) -> None:
    assert command("--list-rules", cwd=folder).stdout.count("\n") == len(RULES)
    assert [
        rule["id"] for rule in json.loads(command("--list-rules", "--format", "json", cwd=folder).stdout)
    ] == list(RULES)
    explained = command("--explain", "drop-column", cwd=folder)
    assert explained.returncode == 0
    assert RULES["drop-column"].recipe in explained.stdout
    unknown = command("--explain", "drop-colum", cwd=folder)
    assert unknown.returncode == 2
    assert "did you mean drop-column?" in unknown.stderr


def test_the_page_of_rules_is_up_to_date() -> None:
    page = (ROOT / "docs" / "lint-rules.md").read_text()
    assert page == listed(RULES, "markdown"), "python -m veza_tasks.migrations --list-rules --format markdown"


EXAMPLES = [rule for rule in RULES.values() if rule.bad]


def lint_example(sql: str, folder: Path) -> list[str]:
    found = json.loads(command("--format", "json", "-", cwd=folder, stdin=sql.encode()).stdout)
    return [finding["rule"] for finding in found["findings"]]


@pytest.mark.parametrize("rule", EXAMPLES, ids=lambda rule: rule.id)
def test_the_bad_example_of_a_rule_fires_it_and_the_good_one_is_clean(rule: object, tmp_path: Path) -> None:
    from veza_tasks.migrations import check_files
    from veza_tasks.migrations.rules import Rule

    assert isinstance(rule, Rule)
    levels = {"missing-lock-timeout"} - {rule.id}  # other examples need not repeat the advice of this one
    bad = check_files(["-"], stdin=rule.bad.encode())
    assert {finding.rule for finding in bad.findings} - levels == {rule.id}
    good = check_files(["-"], stdin=rule.good.encode())
    assert {finding.rule for finding in good.findings} - levels == set()


def test_rules_without_an_example_are_those_that_take_more_than_one_file_of_sql() -> None:
    assert {rule.id for rule in RULES.values() if not rule.bad} == {
        "ambiguous-function",
        "history-rewritten",
        "unreadable-migration",
        "bad-suppression",
        "unused-suppression",
    }


def on_a_terminal(*arguments: str, cwd: Path, **environment: str) -> str:
    """What the command prints to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "veza_tasks.migrations", *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not read:
            break
        said += read
    os.close(ours)
    process.wait(timeout=60)
    return said.decode()


def test_colour_is_for_terminals_and_not_with_no_color(folder: Path) -> None:
    assert "\x1b[31m" in on_a_terminal("bad.sql", cwd=folder)
    assert "\x1b" not in on_a_terminal("bad.sql", cwd=folder, NO_COLOR="1")
    assert "\x1b" not in on_a_terminal("bad.sql", cwd=folder, TERM="dumb")
    assert "\x1b" not in on_a_terminal("--format", "json", "bad.sql", cwd=folder)
    assert "\x1b" not in command("bad.sql", cwd=folder).stdout


def test_a_terminal_without_unicode_gets_escapes_and_no_traceback(folder: Path) -> None:
    (folder / "wide.sql").write_text(f'/* {"標" * 100} */ ALTER TABLE "ü" DROP COLUMN "標";')

    said = command("wide.sql", cwd=folder, PYTHONIOENCODING="ascii")

    assert said.returncode == 1
    assert "\\u" in said.stdout


def test_a_reader_that_leaves_early_gets_no_traceback(folder: Path) -> None:
    (folder / "many.sql").write_text(BREAKS * 5000)
    pipe = f"{sys.executable} -m veza_tasks.migrations many.sql | head -1"

    done = subprocess.run(
        ["/bin/sh", "-c", pipe],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == ""
    assert "drop-column" in done.stdout


def test_a_name_that_is_no_utf8_is_printed_as_git_does_it(folder: Path) -> None:
    name = os.fsencode(folder) + b"/latin-\xe9.sql"
    with open(name, "w") as file:
        file.write(BREAKS)

    refused = command(b"latin-\xe9.sql", cwd=folder)

    assert refused.returncode == 1
    assert refused.stdout.startswith('"latin-\\351.sql":1:19: ')


def test_it_loads_neither_invoke_nor_what_invoke_needs(folder: Path) -> None:
    script = (
        "import sys; from veza_tasks.migrations.command import main; main(['good.sql']); "
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert "sqlparse" in loaded
    assert not loaded & {
        "invoke",
        "fabric",
        "paramiko",
        "requests",
        "rich",
        "pydantic",
        "yaml",
        "subprocess",
        "json",
    }


# Configuration


def test_settings_come_from_pyproject_and_from_fabfile_which_beats_it_and_from_the_environment_and_flags(
    folder: Path,
) -> None:
    assert command("slow.sql", cwd=folder).returncode == 0
    (folder / "pyproject.toml").write_text(
        '[tool.veza-lint-migrations.rules]\nindex-not-concurrent = "error"\n'
    )
    assert command("slow.sql", cwd=folder).returncode == 1
    (folder / "fabfile.yaml").write_text("veza:\n  migrations_rules: {index-not-concurrent: off}\n")
    assert command("slow.sql", cwd=folder).returncode == 0
    assert command("slow.sql", cwd=folder, MIGRATIONS_RULES="index-not-concurrent=error").returncode == 1
    assert command("slow.sql", cwd=folder, MIGRATIONS_RULES="none", MIGRATIONS_STRICT="0").returncode == 0
    assert (
        command("slow.sql", "--strict", cwd=folder, MIGRATIONS_RULES="none", MIGRATIONS_STRICT="0").returncode
        == 1
    )


def test_both_files_are_found_from_below_and_not_beyond_the_repository(folder: Path) -> None:
    (folder / "fabfile.yaml").write_text("veza:\n  migrations_strict: 1\n")
    below = folder / "db" / "migrations"
    below.mkdir(parents=True)
    (below / "slow.sql").write_text(LOCKS)

    assert command("slow.sql", cwd=below).returncode == 1
    (folder / "db" / ".git").mkdir()
    assert command("slow.sql", cwd=below).returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "pyproject.toml",
            "[tool.veza-lint-migrations]\ntol = 'goose'",
            "tol is not a setting of the linter",
        ),
        (
            "pyproject.toml",
            "[tool.veza-lint-migrations]\ntool = 'gouse'",
            "migrations_tool is 'gouse'; wanted one of auto",
        ),
        ("pyproject.toml", "[tool.veza-lint-migrations", "not valid TOML"),
        ("pyproject.toml", "[tool]\nveza-lint-migrations = 3", "is no table"),
        ("fabfile.yaml", "veza:\n  migrations_rules: {drop-colum: off}", "did you mean drop-column?"),
        (
            "fabfile.yaml",
            "veza:\n  migrations_rules: {drop-column: mild}",
            "migrations_rules is {'drop-column': 'mild'}",
        ),
        ("fabfile.yaml", "veza:\n  migrations_strict: maybe", "migrations_strict is 'maybe'; wanted 1, 0"),
        ("fabfile.yaml", "veza:\n  migrations_strict: [", "not valid YAML"),
        ("fabfile.yaml", "veza:\n  migrations_foo: 1", "migrations_foo is not a setting"),
    ],
)
def test_wrong_settings_are_refused_by_both_commands(
    folder: Path, name: str, content: str, said: str
) -> None:
    (folder / name).write_text(content)

    refused = command("good.sql", cwd=folder)
    assert refused.returncode == 2
    assert said in refused.stderr

    inv = [sys.executable, "-m", "invoke", "-r", str(ROOT), "lint-migrations", "--path", "good.sql"]
    also = [*inv, "--fleet", name] if name == "fabfile.yaml" else inv
    told = subprocess.run(also, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 2
    assert name in told.stderr or "migrations_" in told.stderr


@pytest.mark.parametrize(
    "variable", ["MIGRATIONS_TOOL", "MIGRATIONS_RULES", "MIGRATIONS_STRICT", "FORCE_MIGRATE"]
)
def test_nonsense_in_the_environment_is_refused(folder: Path, variable: str) -> None:
    refused = command("good.sql", cwd=folder, **{variable: "nonsense"})  # type: ignore[arg-type]

    assert refused.returncode == 2
    assert f"environment {variable}: " in refused.stderr


def test_both_commands_have_the_same_knobs_and_defaults() -> None:
    from veza_tasks.settings import knobs

    theirs = {knob.name: knob.default for knob in knobs() if re.match("migrations_|force_migrate", knob.name)}
    ours = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in configuration.KNOBS.items()
    }
    assert ours == theirs


# Through Invoke


def inv(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "invoke", "-r", str(ROOT), "lint-migrations", *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_through_invoke_the_report_is_the_same_and_the_exit_code_is_the_runbooks(folder: Path) -> None:
    refused = inv("--path", "bad.sql", "--path", "slow.sql", cwd=folder)

    assert refused.returncode == 3
    assert refused.stdout == command("bad.sql", "slow.sql", cwd=folder).stdout
    assert "FORCE_MIGRATE=1" in refused.stderr
    assert inv("--path", "slow.sql", cwd=folder).returncode == 0
    assert inv("--path", "slow.sql", "--strict", cwd=folder).returncode == 3
    assert inv("--path", "nowhere.sql", cwd=folder).returncode == 2
    assert inv("--path", "bad.sql", cwd=folder, FORCE_MIGRATE="1").returncode == 0
    assert json.loads(inv("--path", "bad.sql", "--format", "json", cwd=folder).stdout)["colour"] == "red"
    assert inv("--path", "bad.sql", "--format", "xml", cwd=folder).returncode == 2


def test_through_invoke_a_rule_is_explained(folder: Path) -> None:
    assert (
        inv("--explain", "drop-column", cwd=folder).stdout
        == command("--explain", "drop-column", cwd=folder).stdout
    )
    assert inv("--explain", "drop-colum", cwd=folder).returncode == 2


# In a repository


def git(cwd: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    top = tmp_path / "repository"
    (top / "migrations").mkdir(parents=True)
    (top / "migrations" / "001.sql").write_text("CREATE TABLE users (id bigint, email text);\n")
    git(top, "init", "--quiet")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message", "x")
    git(top, "tag", "v1")
    (top / "README").write_text("x")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message", "y")
    return top


def test_without_a_file_git_is_asked_as_through_invoke(repository: Path) -> None:
    assert command("--base", "v1", cwd=repository).returncode == 0
    assert command(cwd=repository).returncode == 2
    (repository / "migrations" / "002.sql").write_text(BREAKS)

    ours = command("--base", "v1", cwd=repository)
    theirs = inv("--base", "v1", cwd=repository)
    assert (ours.returncode, theirs.returncode) == (1, 3)
    assert ours.stdout == theirs.stdout
    assert "migrations/002.sql:1:19: error: drop-column" in ours.stdout
    assert command("--staged", cwd=repository, MIGRATIONS_BASE="v1").returncode == 0


def test_paths_with_a_base_are_what_git_has_for_new_of_them(repository: Path) -> None:
    (repository / "migrations" / "002.sql").write_text(BREAKS)
    (repository / "billing").mkdir()
    (repository / "billing" / "001.sql").write_text(BREAKS)

    def told(*paths: str) -> set[str]:
        named = [word for path in paths for word in ("--path", path)]
        said = command("--base", "v1", "--format", "json", *named, cwd=repository)
        return {finding["path"] for finding in json.loads(said.stdout)["findings"]}

    assert told("billing") == {"billing/001.sql"}
    assert told("migrations/001.sql") == set()
    assert told("migrations/002.sql", "billing") == {"migrations/002.sql", "billing/001.sql"}
    assert command("--path", "migrations/001.sql", cwd=repository).returncode == 0
    assert command("--path", "none", cwd=repository).returncode == 0


def test_a_changed_history_is_an_error_in_every_format(repository: Path) -> None:
    (repository / "migrations" / "001.sql").write_text("CREATE TABLE users (id bigint);\n")

    for form in ("text", "json", "github", "sarif"):
        refused = command("--base", "v1", "--format", form, cwd=repository)
        assert refused.returncode == 1
        assert "history-rewritten" in refused.stdout
