"""The hook as a stranger gets it: the real pre-commit clones this repository, installs it, and runs it on a commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(900)


class Work:
    """A scratch repository whose commits go through pre-commit."""

    def __init__(self, top: Path, home: Path) -> None:
        self.top = top
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        identity = {
            f"GIT_{who}_{what}": "x@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        self.environment = {**kept, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "PRE_COMMIT_HOME": str(home)}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        top.mkdir(parents=True, exist_ok=True)
        self.run("git", "init", "--quiet", "--initial-branch", "main")

    def run(self, *command: str, fails: bool = False) -> str:
        done = subprocess.run(
            command, cwd=self.top, env=self.environment, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{said}"
        return said

    def commit(self, name: str, text: str, *, fails: bool = False) -> str:
        (self.top / name).parent.mkdir(exist_ok=True)
        (self.top / name).write_text(text)
        self.run("git", "add", "--all")
        return self.run("git", "commit", "--message", name, fails=fails)


def published(top: Path, home: Path) -> Work:
    """This repository as it stands, committed, so that it can be cloned: on a clean clone that is HEAD."""
    work = Work(top, home)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in map(os.fsdecode, listed.stdout.split(b"\0")[:-1]):
        if (ROOT / name).is_file():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, top / name)
    work.run("git", "add", "--all", "--force")
    work.run("git", "commit", "--quiet", "--message", "as it stands")
    return work


def product(top: Path, home: Path, hook: object) -> Work:
    """A product with one released migration, and the hook installed."""
    made = Work(top, home)
    made.commit("migrations/001.sql", "CREATE TABLE users (id bigint PRIMARY KEY, email text);\n")
    made.run("git", "update-ref", "refs/remotes/origin/main", "HEAD")
    made.commit(".pre-commit-config.yaml", yaml.safe_dump({"repos": [hook]}))
    made.run("pre-commit", "install", "--install-hooks")
    return made


def refuses_bad_and_takes_good(product: Work) -> None:
    refused = product.commit("migrations/002.sql", "ALTER TABLE users DROP COLUMN email;\n", fails=True)
    assert re.search(r"lint.migrations\.\.\.\.\.", refused)
    assert "migrations/002.sql:1:19: error: drop-column: " in refused
    assert "Traceback" not in refused

    product.commit("migrations/002.sql", "ALTER TABLE users ADD COLUMN mood text;\n")
    assert "002.sql" in product.run("git", "show", "--stat", "HEAD")

    (product.top / "migrations" / "001.sql").unlink()
    rewritten = product.commit("README", "x", fails=True)
    assert "migrations/001.sql:1:1: error: history-rewritten: " in rewritten


@pytest.mark.registry
def test_a_bad_migration_is_refused_by_the_real_pre_commit_and_a_good_one_is_not(tmp_path: Path) -> None:
    home = tmp_path / "pre-commit"
    ours = published(tmp_path / "veza-tasks", home)
    revision = ours.run("git", "rev-parse", "HEAD").strip()
    hook = {"repo": str(ours.top), "rev": revision, "hooks": [{"id": "lint-migrations"}]}
    refuses_bad_and_takes_good(product(tmp_path / "product", home, hook))


def test_the_two_lines_of_the_readme_do_the_same_where_veza_tasks_is_checked_out(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    [lines] = re.findall(r"^- repo: local\n  hooks: .*$", readme, re.MULTILINE)
    [hook] = yaml.safe_load(lines)
    entry = hook["hooks"][0]["entry"]
    here = entry.replace("../veza-tasks/.venv/bin/inv", f"{sys.executable} -m invoke")
    hook["hooks"][0]["entry"] = here.replace("../veza-tasks", str(ROOT))
    assert hook["hooks"][0]["entry"].startswith(f"{sys.executable} -m invoke -r {ROOT} ")
    refuses_bad_and_takes_good(product(tmp_path / "product", tmp_path / "pre-commit", hook))
