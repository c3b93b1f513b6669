"""What is new since the last release, and what the verdict on it is: each case in a real repository."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

import veza_tasks
from veza_tasks.migrations import CannotTell, Choices, Verdict, check
from veza_tasks.migrations.report import one_line
from veza_tasks.migrations.trouble import printable

BREAKS = "ALTER TABLE users DROP COLUMN email;\n"
HARMLESS = "ALTER TABLE users ADD COLUMN mood text;\n"

HOSTILE_NAMES = [
    b"002 two words.sql",
    b"-rf.sql",
    b"new\nline.sql",
    b"tab\there.sql",
    b'quo"te.sql',
    b"it's.sql",
    b"back\\slash.sql",
    b"$(touch gone).sql",
    b":(exclude)x.sql",
    b"*.sql",
    b"latin-\xe9.sql",
    b"\x1b[31mred.sql",
    "right-to-left-\N{RIGHT-TO-LEFT OVERRIDE}lqs.sql".encode(),
    "größe-标签.sql".encode(),
]


def breaks(name: str) -> str:
    """A break of its own for each file: a column that is gone cannot be dropped again."""
    return f"ALTER TABLE users DROP COLUMN c{zlib.crc32(os.fsencode(name))};\n"


class Clone:
    """A work tree with ``origin/main``; ``migrations/001.sql`` and ``002.sql`` are part of it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.migrations = top / "migrations"

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=cwd or self.top, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def write(self, name: str, text: str = "") -> Path:
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or f"-- {name}\n{breaks(name)}")
        return path

    def commit(self, *names: str) -> str:
        for name in names:
            self.write(name)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "work")
        return self.git("rev-parse", "HEAD")

    def check(
        self,
        directories: Sequence[str | Path] = ("migrations",),
        *,
        base: str = "origin/main",
        staged: bool = False,
        forced: bool = False,
    ) -> Verdict:
        return check(directories, base=base, staged=staged, cwd=self.top, forced=forced)


@pytest.fixture(autouse=True)
def _git_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may themselves run inside a hook, and on a machine whose owner has configured git."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Dev")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "dev@example.org")


@pytest.fixture
def upstream(tmp_path: Path) -> Clone:
    top = tmp_path / "upstream"
    top.mkdir()
    upstream = Clone(top)
    upstream.git("init", "--quiet", "--initial-branch", "main")
    upstream.commit("README", "migrations/001.sql", "migrations/002.sql")
    return upstream


@pytest.fixture
def clone(upstream: Clone, tmp_path: Path) -> Clone:
    """On a branch that is one commit, without a migration, ahead of ``origin/main``."""
    upstream.git("clone", "--quiet", str(upstream.top), str(tmp_path / "clone"))
    clone = Clone(tmp_path / "clone")
    clone.git("checkout", "--quiet", "-b", "feature")
    clone.commit("app.go")
    return clone


def paths(verdict: Verdict) -> list[str]:
    """The files with errors, as they are printed, each once."""
    errors = [finding for finding in verdict.findings if finding.level == "error"]
    return sorted({printable(finding.path) for finding in errors})


def rules(verdict: Verdict, path: str) -> list[str]:
    return [f.rule for f in verdict.findings if f.path == path and f.level == "error"]


def reason(verdict: Verdict, path: str) -> str:
    [finding] = [f for f in verdict.findings if f.path == path and f.rule == "history-rewritten"]
    return finding.message


def test_no_new_file_is_green_and_names_the_base(clone: Clone) -> None:
    verdict = clone.check()

    assert verdict.colour == "green"
    assert not verdict.findings
    assert "origin/main" in verdict.summary
    assert clone.git("merge-base", "origin/main", "HEAD")[:12] in verdict.summary


def test_a_committed_new_migration_that_breaks_is_refused(clone: Clone) -> None:
    clone.commit("migrations/003.sql")

    verdict = clone.check()

    assert verdict.colour == "red"
    assert paths(verdict) == ["migrations/003.sql"]
    [finding] = [finding for finding in verdict.findings if finding.level == "error"]
    assert (finding.rule, finding.line, finding.column) == ("drop-column", 2, 19)
    assert "FORCE_MIGRATE=1" in verdict.summary


def test_a_new_migration_that_the_running_binary_can_live_with_is_no_error(clone: Clone) -> None:
    clone.write("migrations/003.sql", f"SET lock_timeout = '2s';\n{HARMLESS}")
    clone.commit()

    verdict = clone.check()

    assert (verdict.colour, verdict.findings) == ("green", ())
    assert "1 migration file new or changed since origin/main" in verdict.summary


def test_a_warning_alone_is_yellow_and_an_error_when_strict(clone: Clone) -> None:
    clone.write("migrations/003.sql", "CREATE INDEX users_email ON users (email);\n")
    clone.commit()

    verdict = clone.check()
    assert verdict.colour == "yellow"
    assert {finding.level for finding in verdict.findings} == {"warning"}
    strict = check(["migrations"], cwd=clone.top, choices=Choices(strict=True))
    assert strict.colour == "red"


def test_what_the_base_has_is_history_and_what_is_new_is_one_release(clone: Clone) -> None:
    clone.write("migrations/003.sql", "CREATE TABLE moods (id bigint, name text);\n")
    clone.write("migrations/004.sql", "ALTER TABLE moods DROP COLUMN name;\n")
    clone.commit()
    assert paths(clone.check()) == []

    clone.git("update-ref", "refs/remotes/origin/main", "HEAD")
    clone.commit("app2.go")
    clone.write("migrations/005.sql", "ALTER TABLE moods DROP COLUMN id;\n")
    assert paths(clone.check()) == ["migrations/005.sql"]


def test_the_index_is_read_and_not_the_working_tree_when_a_commit_is_judged(clone: Clone) -> None:
    clone.write("migrations/003.sql", BREAKS)
    clone.git("add", "--all")
    clone.write("migrations/003.sql", HARMLESS)
    assert rules(clone.check(staged=True), "migrations/003.sql") == ["drop-column"]

    clone.git("add", "--all")
    clone.write("migrations/003.sql", BREAKS)
    assert clone.check(staged=True).colour != "red"


def test_what_another_state_has_is_told_once_and_says_so(clone: Clone) -> None:
    clone.write("migrations/003.sql", BREAKS)
    clone.commit()
    clone.write("migrations/003.sql", HARMLESS)

    errors = [finding for finding in clone.check().findings if finding.level == "error"]

    assert [(finding.path, finding.rule) for finding in errors] == [("migrations/003.sql", "drop-column")]
    assert errors[0].message.endswith("(as the index has it)")
    clone.write("migrations/003.sql", BREAKS)
    assert [
        finding.message.endswith(")") for finding in clone.check().findings if finding.level == "error"
    ] == [False]


@pytest.mark.parametrize(
    "name",
    ["README.md", ".gitkeep", "embed.go", "migrate_test.go", "__init__.py", "atlas.sum", "002.sql.bak"],
)
def test_what_is_no_migration_neither_alarms_nor_counts(clone: Clone, name: str) -> None:
    clone.commit(f"migrations/{name}")
    clone.write(f"migrations/{name}", "edited")

    assert clone.check().summary.startswith("no migration is new or changed")


@pytest.mark.parametrize(
    "name",
    [
        "003_backfill.go",
        "0003_backfill.py",
        "20260101120000_backfill.rb",
        "1605111464989-Backfill.ts",
        "V3__backfill.java",
        "ae1027a6acf0_backfill.py",
        "Version20260101.php",
        "003_backfill.sql.j2",
        "db.changelog-1.xml",
    ],
)
def test_a_migration_that_is_a_program_cannot_be_vouched_for(clone: Clone, name: str) -> None:
    clone.commit(f"migrations/{name}")

    assert rules(clone.check(), f"migrations/{name}") == ["unreadable-migration"]


def test_a_migration_that_is_a_link_cannot_be_vouched_for(clone: Clone) -> None:
    (clone.migrations / "003.sql").symlink_to("../elsewhere.sql")
    assert rules(clone.check(), "migrations/003.sql") == ["unreadable-migration"]

    clone.git("add", "--all")
    assert rules(clone.check(staged=True), "migrations/003.sql") == ["unreadable-migration"]


def test_a_repeatable_migration_may_be_edited_and_is_judged_again(upstream: Clone, clone: Clone) -> None:
    upstream.write("migrations/R__views.sql", "CREATE OR REPLACE VIEW v AS SELECT 1 AS a;\n")
    upstream.commit()
    clone.git("fetch", "--quiet")
    clone.git("merge", "--quiet", "--no-edit", "origin/main")

    clone.write("migrations/R__views.sql", "DROP VIEW v;\n")

    assert rules(clone.check(), "migrations/R__views.sql") == ["drop-view"]


@pytest.mark.parametrize("content", [b"SELECT 'x", b"SELECT '\xff';", b"S\0E\0"])
def test_a_new_file_that_cannot_be_read_is_named_with_line_and_column(clone: Clone, content: bytes) -> None:
    (clone.migrations / "003.sql").write_bytes(b"SELECT 1;\n" + content)

    with pytest.raises(CannotTell, match=r"migrations/003\.sql:2:\d+: ") as refusal:
        clone.check(forced=True)

    assert (refusal.value.path, refusal.value.line) == ("migrations/003.sql", 2)


def test_what_the_base_has_need_not_be_readable(upstream: Clone, clone: Clone) -> None:
    (upstream.migrations / "000.sql").write_bytes(b"SELECT '\xff")
    upstream.commit()
    clone.git("fetch", "--quiet")
    clone.git("merge", "--quiet", "--no-edit", "origin/main")
    clone.commit("migrations/003.sql")

    assert paths(clone.check()) == ["migrations/003.sql"]


def test_a_change_of_permissions_is_no_edit(clone: Clone) -> None:
    (clone.migrations / "001.sql").chmod(0o755)
    clone.commit()

    assert clone.check().colour == "green"


def test_a_staged_new_migration_is_refused(clone: Clone) -> None:
    clone.write("migrations/003.sql")
    clone.git("add", "--all")

    assert paths(clone.check()) == paths(clone.check(staged=True)) == ["migrations/003.sql"]


def test_an_untracked_migration_is_refused_in_the_working_tree_and_no_part_of_the_index(clone: Clone) -> None:
    clone.write("migrations/2026/deep/003.sql")

    assert paths(clone.check()) == ["migrations/2026/deep/003.sql"]
    assert clone.check(staged=True).colour == "green"


def test_a_migration_that_is_only_announced_to_the_index_is_refused(clone: Clone) -> None:
    clone.write("migrations/003.sql")
    clone.git("add", "--intent-to-add", "migrations/003.sql")

    assert paths(clone.check()) == ["migrations/003.sql"]


def test_an_ignored_file_is_no_migration(clone: Clone) -> None:
    clone.write(".git/info/exclude", "draft*\n")
    clone.write("migrations/draft.sql")

    assert clone.check().summary.startswith("no migration is new")


def test_files_beside_the_folder_do_not_count(clone: Clone) -> None:
    clone.commit("migrations.sql", "migrations-old/003.sql", "db/migrations/003.sql")

    assert clone.check().colour == "green"


def test_a_migration_committed_and_then_deleted_without_a_commit_still_ships_with_head(clone: Clone) -> None:
    clone.commit("migrations/003.sql")
    clone.git("rm", "--quiet", "migrations/003.sql")

    assert paths(clone.check()) == ["migrations/003.sql"]
    assert clone.check(staged=True).colour == "green", "the commit in the making takes it back"


@pytest.mark.parametrize("where", ["working tree", "index", "HEAD"])
def test_a_migration_of_the_base_that_was_edited_is_a_finding(clone: Clone, where: str) -> None:
    clone.write("migrations/001.sql", "DROP TABLE users;\n")
    if where == "HEAD":
        clone.commit()
    elif where == "index":
        clone.git("add", "--all")

    verdict = clone.check()

    assert verdict.colour == "red"
    assert reason(verdict, "migrations/001.sql").startswith("edited")


def test_an_edit_that_is_staged_and_undone_in_the_working_tree_is_a_finding(clone: Clone) -> None:
    before = (clone.migrations / "001.sql").read_text()
    clone.write("migrations/001.sql", "DROP TABLE users;\n")
    clone.git("add", "--all")
    clone.write("migrations/001.sql", before)

    assert paths(clone.check()) == paths(clone.check(staged=True)) == ["migrations/001.sql"]


def test_a_touched_file_is_no_edit(clone: Clone) -> None:
    clone.git("config", "diff.autoRefreshIndex", "false")
    os.utime(clone.migrations / "001.sql", (0, 0))

    assert clone.check().colour == "green"


@pytest.mark.parametrize("how", ["rm", "git rm", "commit"])
def test_a_migration_of_the_base_that_was_deleted_is_a_finding(clone: Clone, how: str) -> None:
    (clone.migrations / "001.sql").unlink()
    if how != "rm":
        clone.git("add", "--all")
    if how == "commit":
        clone.commit()

    assert reason(clone.check(), "migrations/001.sql").startswith("deleted")


def test_deleting_the_whole_folder_is_a_finding_for_each_file(clone: Clone) -> None:
    clone.git("rm", "-r", "--quiet", "migrations")

    for staged in (False, True):
        assert paths(clone.check(staged=staged)) == ["migrations/001.sql", "migrations/002.sql"]


def test_a_renamed_migration_is_named_with_its_old_and_its_new_name(clone: Clone) -> None:
    clone.git("config", "diff.renames", "false")
    clone.git("mv", "migrations/002.sql", "migrations/002b.sql")
    clone.commit()

    verdict = clone.check()

    assert paths(verdict) == ["migrations/002.sql", "migrations/002b.sql"]
    assert reason(verdict, "migrations/002.sql").startswith("renamed to migrations/002b.sql")
    assert rules(verdict, "migrations/002b.sql") == ["drop-column"]


def test_a_migration_moved_out_of_the_folder_is_a_finding(clone: Clone) -> None:
    clone.git("mv", "migrations/002.sql", "002.sql")

    assert reason(clone.check(), "migrations/002.sql").startswith("deleted")


def test_a_migration_replaced_by_a_link_is_a_finding(clone: Clone) -> None:
    (clone.migrations / "001.sql").unlink()
    (clone.migrations / "001.sql").symlink_to("002.sql")

    assert paths(clone.check()) == ["migrations/001.sql"]


def test_in_a_merge_conflict_nobody_can_tell(clone: Clone) -> None:
    clone.commit("migrations/003.sql")
    clone.git("checkout", "--quiet", "-b", "other", "origin/main")
    clone.write("migrations/003.sql", "-- another\n")
    clone.commit()
    subprocess.run(["git", "merge", "--quiet", "feature"], cwd=clone.top, capture_output=True, check=False)

    for staged in (False, True):
        with pytest.raises(CannotTell, match=r"migrations/003\.sql is in a merge conflict"):
            clone.check(staged=staged)


def test_what_others_merged_since_the_branch_began_is_not_ours(upstream: Clone, clone: Clone) -> None:
    upstream.commit("migrations/003.sql")
    upstream.git("rm", "--quiet", "migrations/001.sql")
    upstream.commit()
    clone.git("fetch", "--quiet")

    assert clone.check().colour == "green"


@pytest.mark.parametrize("directory", ["migrations", "."])
def test_every_hostile_name_is_found_and_printed_as_one_safe_line(clone: Clone, directory: str) -> None:
    if directory == ".":
        clone.git("checkout", "--quiet", "-B", "feature", "origin/main")
    clone.git("config", "core.quotePath", "true")
    for name in HOSTILE_NAMES:
        (clone.migrations / os.fsdecode(name)).write_text(breaks(os.fsdecode(name)))
    untracked = clone.check([directory])
    clone.commit()
    committed = clone.check([directory])

    assert len(paths(untracked)) == len(HOSTILE_NAMES)
    assert committed == untracked
    for line in map(one_line, committed.findings):
        assert line.isprintable()
        line.encode("utf-8")
    assert "migrations/größe-标签.sql" in paths(committed)
    assert "migrations/002 two words.sql" in paths(committed)
    assert '"migrations/new\\012line.sql"' in paths(committed)
    assert '"migrations/latin-\\351.sql"' in paths(committed)
    assert not (clone.top / "gone").exists()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_folder_with_a_hostile_name_is_looked_into(clone: Clone, name: bytes) -> None:
    folder = os.fsdecode(name)
    (clone.top / folder).mkdir()
    (clone.top / folder / "003.sql").write_text(BREAKS)

    for _ in ("untracked", "committed"):
        verdict = clone.check([folder])
        assert len(paths(verdict)) == 1
        clone.commit()


def test_several_folders_are_looked_into_and_each_must_exist(clone: Clone) -> None:
    clone.commit("migrations/003.sql", "billing/migrations/001.sql")

    both = clone.check(["migrations", "./billing/../billing/migrations/", "migrations"])
    assert paths(both) == ["billing/migrations/001.sql", "migrations/003.sql"]
    with pytest.raises(CannotTell, match=r"no folder shop/migrations in the repository .*MIGRATIONS_DIR"):
        clone.check(["migrations", "shop/migrations"])


def test_folders_start_at_the_top_of_the_repository_whatever_the_current_directory(clone: Clone) -> None:
    clone.commit("billing/001.sql", "migrations/003.sql")
    clone.write("migrations/004.sql")
    clone.git("config", "diff.relative", "true")

    verdict = check(["migrations", str(clone.top / "billing")], cwd=clone.top / "billing")

    assert paths(verdict) == ["billing/001.sql", "migrations/003.sql", "migrations/004.sql"]


def test_a_work_tree_reached_through_a_link_is_the_same_one(clone: Clone, tmp_path: Path) -> None:
    clone.commit("migrations/003.sql")
    (tmp_path / "link").symlink_to(clone.top)

    for folder in ("migrations", clone.migrations, tmp_path / "link" / "migrations"):
        assert paths(check([folder], cwd=tmp_path / "link")) == ["migrations/003.sql"]


def test_head_at_the_base_is_yellow_and_asks_for_the_last_release(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "-B", "feature", "origin/main")

    verdict = clone.check()

    assert verdict.colour == "yellow"
    assert verdict.summary.startswith("nothing to compare; name the last release with --base TAG")


def test_head_behind_the_base_is_yellow_too(upstream: Clone, clone: Clone) -> None:
    clone.git("checkout", "--quiet", "-B", "feature", "origin/main")
    upstream.commit("migrations/003.sql")
    clone.git("fetch", "--quiet")

    assert clone.check().colour == "yellow"


def test_head_at_the_base_with_an_uncommitted_migration_is_red(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "-B", "feature", "origin/main")
    clone.write("migrations/003.sql")

    assert clone.check().colour == "red"


def test_the_last_release_named_as_base_is_compared_with(clone: Clone) -> None:
    clone.commit("migrations/003.sql")
    clone.git("tag", "--annotate", "--message", "release", "v1.0.9")
    clone.commit("migrations/004.sql")

    verdict = clone.check(base="v1.0.9")

    assert paths(verdict) == ["migrations/004.sql"]
    assert "v1.0.9" in verdict.summary


@pytest.mark.parametrize("none", [["none"], []])
def test_no_migrations_by_configuration_is_green_even_without_a_repository(
    tmp_path: Path, none: list[str]
) -> None:
    verdict = check(none, cwd=tmp_path)

    assert (verdict.colour, verdict.summary) == ("green", "no migrations by configuration")


def test_force_migrate_is_yellow_says_so_and_still_lists_every_finding(clone: Clone) -> None:
    clone.commit("migrations/003.sql")
    clone.git("rm", "--quiet", "migrations/001.sql")

    verdict = clone.check(forced=True)

    assert verdict.colour == "yellow"
    assert "overridden by FORCE_MIGRATE=1" in verdict.summary
    assert verdict.findings == clone.check().findings
    assert paths(verdict) == ["migrations/001.sql", "migrations/003.sql"]


def test_force_migrate_without_findings_changes_nothing(clone: Clone) -> None:
    assert clone.check(forced=True) == clone.check()


def test_force_migrate_does_not_override_what_nobody_can_tell(clone: Clone) -> None:
    with pytest.raises(CannotTell):
        clone.check(["nowhere"], forced=True)


def test_outside_a_repository_nobody_can_tell(tmp_path: Path) -> None:
    with pytest.raises(CannotTell, match=r"is in no git work tree .*MIGRATIONS_DIR=none"):
        check(["migrations"], cwd=tmp_path)


def test_a_bare_repository_has_no_work_tree_to_look_at(upstream: Clone, tmp_path: Path) -> None:
    upstream.git("clone", "--quiet", "--bare", str(upstream.top), str(tmp_path / "bare"))

    with pytest.raises(CannotTell, match="is in no git work tree"):
        check(["migrations"], cwd=tmp_path / "bare")


def test_a_current_directory_that_is_gone_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CannotTell, match=r"git does not run in .*/gone"):
        check(["migrations"], cwd=tmp_path / "gone")


def test_a_machine_without_git_is_told_to_install_it(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(clone.top))

    with pytest.raises(CannotTell, match="install git"):
        clone.check()


def test_a_repository_without_a_commit_cannot_be_compared(tmp_path: Path) -> None:
    Clone(tmp_path).git("init", "--quiet")
    (tmp_path / "migrations").mkdir()

    with pytest.raises(CannotTell, match="is no commit yet"):
        check(["migrations"], cwd=tmp_path)


@pytest.mark.parametrize(
    "base", ["v9", "--all", "--since=yesterday", "HEAD:migrations", "a..b", "a b", "v1\x1b[2J"]
)
def test_a_base_that_is_no_commit_is_refused_in_one_printable_line(clone: Clone, base: str) -> None:
    with pytest.raises(
        CannotTell, match=r"is unknown in .*type `git fetch --tags`, or .*--base TAG"
    ) as refusal:
        clone.check(base=base)

    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("blank", ["", " ", "a\0b", "\ud800"])
def test_text_that_names_nothing_is_refused(clone: Clone, blank: str) -> None:
    with pytest.raises(CannotTell, match="MIGRATIONS_DIR holds"):
        clone.check(["migrations", blank])
    with pytest.raises(CannotTell, match="--base holds"):
        clone.check(base=blank)


def test_the_command_named_for_a_missing_base_brings_it(upstream: Clone, tmp_path: Path) -> None:
    upstream.git("checkout", "--quiet", "-b", "feature")
    upstream.commit("migrations/003.sql")
    single = ["clone", "--quiet", "--single-branch", "--branch", "feature"]
    upstream.git(*single, str(upstream.top), str(tmp_path / "clone"))
    clone = Clone(tmp_path / "clone")

    run_what_it_says(clone, "origin/main is unknown")

    assert paths(clone.check()) == ["migrations/003.sql"]


@pytest.mark.parametrize("base_is_there", [False, True])
def test_the_command_named_for_a_shallow_clone_completes_it(
    upstream: Clone, tmp_path: Path, base_is_there: bool
) -> None:
    upstream.git("checkout", "--quiet", "-b", "feature")
    upstream.commit("migrations/003.sql")
    upstream.commit("app.go")
    shallow = ["clone", "--quiet", "--depth", "1", "--branch", "feature"]
    upstream.git(*shallow, upstream.top.as_uri(), str(tmp_path / "clone"))
    clone = Clone(tmp_path / "clone")
    if base_is_there:
        clone.git("fetch", "--quiet", "--depth", "1", "origin", "main:refs/remotes/origin/main")

    run_what_it_says(clone, "a shallow clone" if base_is_there else "origin/main is unknown")

    assert paths(clone.check()) == ["migrations/003.sql"]


def run_what_it_says(clone: Clone, problem: str) -> None:
    with pytest.raises(CannotTell, match=problem) as refusal:
        clone.check()
    command = re.search(r"type `git (.*)`", str(refusal.value))
    assert command is not None
    clone.git(*shlex.split(command[1]))


def test_histories_without_a_common_commit_cannot_be_compared(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "--orphan", "fresh")
    clone.commit()

    with pytest.raises(CannotTell, match="no common commit"):
        clone.check()


@pytest.mark.parametrize("name", ["../upstream/migrations", "/", "/etc", "migrations/../.."])
def test_a_folder_outside_the_repository_is_refused(clone: Clone, name: str) -> None:
    with pytest.raises(CannotTell, match="outside the repository"):
        clone.check([name])


def test_a_file_is_no_folder(clone: Clone) -> None:
    with pytest.raises(CannotTell, match="no folder README"):
        clone.check(["README"])


def test_a_folder_behind_a_link_is_refused_with_the_folder_to_name(clone: Clone) -> None:
    clone.commit("db/sql/001.sql")
    (clone.top / "linked").symlink_to("db")

    with pytest.raises(CannotTell, match=r"symbolic link.* db/sql$"):
        clone.check(["linked/sql"])


def test_a_folder_in_another_repository_is_refused(upstream: Clone, clone: Clone) -> None:
    clone.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(upstream.top), "schema")
    clone.commit()

    for name in ("schema", "schema/migrations"):
        with pytest.raises(CannotTell, match=r"is in another repository, .*/schema: go there"):
            clone.check([name])


def test_a_repository_nested_in_the_folder_is_a_finding(clone: Clone) -> None:
    Clone(clone.top).git("clone", "--quiet", str(clone.top), "migrations/nested")

    assert paths(clone.check()) == ["migrations/nested/"]


def test_a_warning_of_git_about_what_it_cannot_read_is_not_taken_for_nothing_new(clone: Clone) -> None:
    (clone.migrations / ".gitignore").symlink_to(".gitignore")

    with pytest.raises(CannotTell, match=r"git cannot compare .*\.gitignore"):
        clone.check()


def test_a_damaged_index_cannot_be_compared(clone: Clone) -> None:
    clone.write(".git/index", "no index at all")

    with pytest.raises(CannotTell, match="git cannot compare"):
        clone.check()


def test_pathspec_switches_of_the_environment_hide_nothing(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone.commit("migrations/003.sql")
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "0")
    assert clone.check().colour == "red"

    monkeypatch.setenv("GIT_ICASE_PATHSPECS", "1")
    with pytest.raises(CannotTell):
        clone.check()


def test_looking_stages_nothing_and_writes_nothing_but_what_git_remembers_of_file_times(clone: Clone) -> None:
    clone.write("migrations/003.sql")
    os.utime(clone.migrations / "001.sql", (0, 0))

    def everything() -> tuple[str, dict[Path, bytes]]:
        index = clone.top / ".git" / "index"
        files = [path for path in clone.top.rglob("*") if path.is_file() and path != index]
        return clone.git("ls-files", "--stage"), {path: path.read_bytes() for path in files}

    before = everything()
    clone.check()
    clone.check(staged=True)

    assert everything() == before


def install_hook(clone: Clone) -> None:
    """A real pre-commit hook, which refuses a commit that brings a migration."""
    program = (
        "import sys; from pathlib import Path; from veza_tasks.migrations import check; "
        "verdict = check(['migrations'], staged=True, cwd=Path.cwd()); "
        "print(*[f.path for f in verdict.findings if f.level == 'error'], file=sys.stderr); "
        "sys.exit(verdict.colour == 'red')"
    )
    hook = clone.top / ".git" / "hooks" / "pre-commit"
    source = Path(veza_tasks.__file__).parent.parent
    arguments = ["env", f"PYTHONPATH={source}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", program]
    hook.write_text(f"#!/bin/sh\nexec {shlex.join(arguments)}\n")
    hook.chmod(0o755)


def commit(*arguments: str, cwd: Path) -> tuple[int, str]:
    command = ["git", "commit", "--quiet", "--message", "work", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def test_in_a_hook_the_commit_in_the_making_is_judged(clone: Clone) -> None:
    install_hook(clone)
    clone.write("migrations/003.sql")
    clone.write("app.go", "package main\n")

    assert commit("--all", cwd=clone.top) == (0, ""), "an untracked migration is no part of the commit"
    clone.git("add", "--all")
    assert commit(cwd=clone.top) == (1, "migrations/003.sql")


def test_in_a_hook_a_commit_of_named_files_is_judged_by_its_own_index(clone: Clone) -> None:
    install_hook(clone)
    clone.write("app.go", "package main\n")
    clone.write("migrations/003.sql")
    clone.git("add", "--all")
    (clone.top / "cmd").mkdir()

    assert commit("app.go", cwd=clone.top) == (0, ""), "the migration stays behind in the real index"
    assert commit("../migrations/003.sql", cwd=clone.top / "cmd") == (1, "migrations/003.sql")


def test_in_a_hook_of_a_linked_work_tree_its_own_index_is_judged(clone: Clone, tmp_path: Path) -> None:
    install_hook(clone)
    clone.git("worktree", "add", "--quiet", "-b", "second", str(tmp_path / "second"))
    second = Clone(tmp_path / "second")

    second.write("app.go", "package main\n")
    assert commit("--all", cwd=second.top) == (0, "")
    second.write("migrations/003.sql")
    second.git("add", "--all")
    assert commit(cwd=second.top) == (1, "migrations/003.sql")
