"""What git says has happened to the migration files since the last release.

Git is asked with argument lists, ``-z`` answers and literal pathspecs, in the caller's own environment: in a
hook that is where ``GIT_DIR`` and ``GIT_INDEX_FILE`` stand. Configuration that could hide a change or invent
one is overruled. What git cannot answer is never taken for "nothing new".
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veza_tasks.migrations.sources import language, read_bytes
from veza_tasks.migrations.trouble import CannotTell, printable, visible

GIT_TIMEOUT = 120.0  # seconds for one git command: a cold work tree on a network disk takes its time

Kind = Literal["new", "edited", "deleted", "renamed", "conflicting"]

_KINDS: dict[str, Kind] = {"A": "new", "D": "deleted", "R": "renamed", "U": "conflicting"}

_DIFF = (
    *("-c", "diff.autoRefreshIndex=true", "diff", "--raw", "--no-abbrev", "-z", "--find-renames=90%"),
    *("--no-relative", "--ignore-submodules=none", "--no-ext-diff", "--no-textconv", "--no-color"),
)


State = Literal["working tree", "index", "HEAD"]
REGULAR = ("100644", "100755")
"""Git's modes of a file that holds its own content: no symbolic link, no repository."""


@dataclass(frozen=True)
class Change:
    """One file that is not as it was; ``new_path`` is set for a rename only.

    Paths start at the repository's top; bytes that are not UTF-8 are surrogates, so ``open`` finds the file.
    ``mode`` and ``blob`` are git's of the new content; no blob: the content is what the working tree has.
    """

    path: str
    kind: Kind
    new_path: str = ""
    mode: str = ""
    blob: str = ""


@dataclass(frozen=True)
class Changes:
    """All that changed below the migration folders since ``merge_base`` (a full commit id), sorted by path.

    ``at_head``: the merge base is HEAD itself, so no commit was compared. ``states`` tells apart what stands
    where; ``files`` has each file once, as the first state to differ has it.
    """

    repository: Repository
    folders: tuple[str, ...]
    merge_base: str
    at_head: bool
    states: dict[State, tuple[Change, ...]]

    @property
    def files(self) -> tuple[Change, ...]:
        found: dict[str, Change] = {}
        for state in self.states.values():
            for change in state:
                found.setdefault(change.path, change)
        return tuple(found[path] for path in sorted(found))


def changes(directories: Sequence[str], *, base: str, staged: bool, cwd: Path) -> Changes:
    """Compare migration folders, or single files, with the merge base of ``base`` and HEAD, in ``cwd``'s repository.

    Looks at HEAD, the index and the working tree (untracked files too, unless ignored), or, with ``staged``,
    at the index alone: what a commit is about to record. ``directories`` start at its top or are absolute.

    Raises ``CannotTell``.
    """
    for knob, text in (("--base", base), *(("MIGRATIONS_DIR", name) for name in directories)):
        if not _can_be_a_name(text):
            raise CannotTell(f"{knob} holds {text!r}, which names nothing: correct it")
    repository = Repository.around(cwd)
    folders = [repository.folder(name) for name in directories]
    merge_base, head = repository.merge_base(base)
    states = repository.changes(folders, since=merge_base, staged=staged)
    found = {change.path for state in states.values() for change in state}
    for name, folder in zip(directories, folders, strict=True):
        seen = any(path == folder or path.startswith(folder + "/") for path in found)
        if not seen and not repository.has_folder(folder, at=merge_base):
            raise CannotTell(
                f"no folder {printable(name)} in the repository {repository.shown}: name it from the "
                "repository's top with MIGRATIONS_DIR=…, or say that there are none with MIGRATIONS_DIR=none"
            )
    return Changes(repository, tuple(folders), merge_base, merge_base == head, states)


@dataclass(frozen=True)
class Repository:
    """The git work tree around a folder. ``top`` and ``cwd`` are real paths.

    Git runs in ``cwd``, never in ``top``: a hook may have exported a ``GIT_DIR`` that is relative to it.
    """

    cwd: Path
    top: Path

    @classmethod
    def around(cls, cwd: Path) -> Repository:
        """Raises ``CannotTell`` outside a work tree, in a bare repository, or where git refuses to look."""
        here = Path(os.path.realpath(cwd))
        answer = _git("rev-parse", "--show-toplevel", cwd=here)
        if answer.returncode != 0:
            raise CannotTell(
                f"{printable(here)} is in no git work tree ({_complaint(answer)}): "
                "go to the clone with the migrations, or say that there are none with MIGRATIONS_DIR=none"
            )
        top = Path(os.path.realpath(os.fsdecode(answer.stdout.removesuffix(b"\n"))))
        if not here.is_relative_to(top):
            raise CannotTell(f"{printable(here)} lies outside the work tree {printable(top)}: go there")
        return cls(here, top)

    @property
    def shown(self) -> str:
        return printable(self.top)

    def folder(self, name: str) -> str:
        """A configured folder as git names it: from the top, without ``.``, ``..`` or a slash at the end.

        Raises ``CannotTell`` where git would not see what the migration tool sees: outside the work tree,
        behind a symbolic link, inside a submodule or another clone.
        """
        path = Path(os.path.normpath(self.top / name))
        tops = [holder for holder in (path, *path.parents) if os.path.realpath(holder) == str(self.top)]
        if not tops:
            raise CannotTell(f"{printable(name)} lies outside the repository {self.shown}: go to its own")
        path = self.top / path.relative_to(tops[0])  # an absolute name may lead to the top through a link
        if (real := Path(os.path.realpath(path))) != path:
            raise CannotTell(
                f"{printable(name)} in {self.shown} goes through a symbolic link, which git does not follow: "
                f"set MIGRATIONS_DIR to the folder itself, {printable(os.path.relpath(real, self.top))}"
            )
        for holder in (path, *path.parents):
            if holder == self.top:
                break
            if os.path.lexists(holder / ".git"):
                raise CannotTell(f"{printable(name)} is in another repository, {printable(holder)}: go there")
        return "" if path == self.top else str(path.relative_to(self.top))

    def has_folder(self, folder: str, *, at: str) -> bool:
        """Whether the folder, or the SQL file of that name, is on disk or in the commit."""
        if os.path.isdir(self.top / folder):
            return True
        if language(folder) == "sql" and (os.path.isfile(self.top / folder) or self.files([folder], at=at)):
            return True
        return _git("cat-file", "-t", f"{at}:{folder}", cwd=self.cwd).stdout == b"tree\n"

    def merge_base(self, base: str) -> tuple[str, str]:
        """The commit ids of the merge base of ``base`` and HEAD, and of HEAD. Raises ``CannotTell``."""
        head = self._commit("HEAD")
        if not head:
            raise CannotTell(f"HEAD of {self.shown} is no commit yet: make the first one")
        tip = self._commit(base)
        if not tip:
            raise CannotTell(
                f"{printable(base)} is unknown in {self.shown}: {self._fetch(base)}, "
                "or name the last release with --base TAG (or MIGRATIONS_BASE=TAG)"
            )
        answer = _git("merge-base", tip, head, cwd=self.cwd)
        if answer.returncode != 0:
            what = f"{printable(base)} and HEAD have no common commit in {self.shown}"
            if self._is_shallow():
                raise CannotTell(f"{what}, a shallow clone: {self._fetch(base)}")
            raise CannotTell(f"{what}: name the last release with --base TAG (or MIGRATIONS_BASE=TAG)")
        return os.fsdecode(answer.stdout).strip(), head

    def changes(self, folders: Sequence[str], *, since: str, staged: bool) -> dict[State, tuple[Change, ...]]:
        """Every difference from the commit ``since``, by where it stands.

        HEAD is compared too: a migration that was committed, then deleted without a commit, ships with it.
        """
        paths = ("--", *(os.path.relpath(self.top / folder, self.cwd) for folder in folders))
        comparisons: dict[State, tuple[str, ...]] = {"index": (*_DIFF, "--cached", since)}
        if not staged:
            comparisons = {"working tree": (*_DIFF, since), **comparisons, "HEAD": (*_DIFF, since, "HEAD")}
        found: dict[State, tuple[Change, ...]] = {
            state: tuple(_parse_raw(self._ask(*comparison, *paths).stdout))
            for state, comparison in comparisons.items()
        }
        if not staged:
            answer = self._ask("ls-files", "--others", "--exclude-standard", "--full-name", "-z", *paths)
            if answer.stderr:  # a folder or ignore file it could not read is a warning to git, exit 0
                raise self._unanswered(answer)
            names = (os.fsdecode(path) for path in answer.stdout.split(b"\0") if path)
            found["working tree"] += tuple(Change(name, "new", mode=self._mode(name)) for name in names)
        return found

    def files(self, folders: Sequence[str], *, at: str) -> dict[str, str]:
        """The regular files below the folders in a commit: path to blob."""
        paths = [folder for folder in folders if folder]
        answer = self._ask(
            "ls-tree", "-r", "-z", "--full-tree", at, *([] if "" in folders else ["--", *paths])
        )
        found = {}
        for entry in answer.stdout.split(b"\0")[:-1]:
            what, _, path = entry.partition(b"\t")
            mode, _, blob = os.fsdecode(what).split(" ")
            if mode in REGULAR:
                found[os.fsdecode(path)] = blob
        return found

    def contents(self, blobs: Iterable[str]) -> dict[str, bytes]:
        """What the blobs hold. Raises ``CannotTell``, also where a partial clone lacks one and cannot fetch it."""
        wanted = [blob for blob in dict.fromkeys(blobs) if blob]
        if not wanted:
            return {}
        answer = _git("cat-file", "--batch", cwd=self.cwd, given="".join(f"{blob}\n" for blob in wanted))
        if answer.returncode != 0:
            raise self._unanswered(answer)
        found, rest = {}, memoryview(answer.stdout)
        for blob in wanted:
            head, _, _ = bytes(rest[:200]).partition(b"\n")
            fields = head.split(b" ")
            if len(fields) != 3 or fields[1] != b"blob":
                raise CannotTell(f"git has no content {blob} in {self.shown}: type `git fsck`, or fetch it")
            start, size = len(head) + 1, int(fields[2])
            found[blob] = bytes(rest[start : start + size])
            rest = rest[start + size + 1 :]
        return found

    def on_disk(self, path: str) -> bytes:
        """A file of the working tree. Raises ``CannotTell``."""
        return read_bytes(self.top / path, shown=path)

    def _mode(self, path: str) -> str:
        full = self.top / path
        if full.is_symlink():
            return "120000"
        return "100644" if full.is_file() else "160000"

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        answer = _git(*arguments, cwd=self.cwd)
        if answer.returncode != 0:
            raise self._unanswered(answer)
        return answer

    def _unanswered(self, answer: subprocess.CompletedProcess[bytes]) -> CannotTell:
        what = f"git cannot compare the migrations of {self.shown}"
        return CannotTell(f"{what} ({_complaint(answer)}): mend that first")

    def _commit(self, revision: str) -> str:
        answer = _git("rev-parse", "--verify", "--quiet", revision + "^{commit}", cwd=self.cwd)
        return os.fsdecode(answer.stdout).strip() if answer.returncode == 0 else ""

    def _is_shallow(self) -> bool:
        return _git("rev-parse", "--is-shallow-repository", cwd=self.cwd).stdout == b"true\n"

    def _fetch(self, base: str) -> str:
        """What to type to bring ``base`` and its history here, even into a clone of a single branch."""
        command = ["git", "fetch", *(["--unshallow"] if self._is_shallow() else [])]
        remote, _, branch = base.partition("/")
        if branch and remote in os.fsdecode(_git("remote", cwd=self.cwd).stdout).splitlines():
            command += [remote, f"+{branch}:refs/remotes/{remote}/{branch}"]
        else:
            command += ["--tags"]
        return f"type `{printable(shlex.join(command))}`"


def _can_be_a_name(text: str) -> bool:
    """Whether the operating system takes the text as an argument at all, and it is not blank."""
    try:
        return bool(text.strip()) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _parse_raw(answer: bytes) -> Iterator[Change]:
    """``:mode mode blob blob STATUS``, NUL, path, NUL, and after a rename a second path.

    git-diff(1), "raw output format", with ``-z``; a blob of zeros is content that git has not looked at.
    """
    fields = iter(answer.split(b"\0")[:-1])
    for what in fields:
        old_mode, mode, old_blob, blob, status = os.fsdecode(what).lstrip(":").split(" ")
        kind = _KINDS.get(status[:1], "edited")
        path = os.fsdecode(next(fields))
        known = blob if blob.strip("0") else ""
        if kind == "renamed":
            new_path = os.fsdecode(next(fields))
            yield Change(path, kind, new_path)
            yield Change(new_path, "new", mode=mode, blob=known)
        elif not (kind == "edited" and known == old_blob and {mode, old_mode} <= set(REGULAR)):
            yield Change(path, kind, mode=mode, blob=known)  # a change of permissions alone is none


def _git(*arguments: str, cwd: Path, given: str = "") -> subprocess.CompletedProcess[bytes]:
    """Raises ``CannotTell`` where git does not run or end; its exit status is the caller's to judge."""
    command = ["git", "--literal-pathspecs", *arguments]
    try:
        return subprocess.run(
            command, cwd=cwd, input=given.encode(), capture_output=True, timeout=GIT_TIMEOUT, check=False
        )
    except OSError as error:
        where = f"{printable(cwd)} ({error.strerror})"
        raise CannotTell(f"git does not run in {where}: install git, or go to the clone") from error
    except subprocess.TimeoutExpired as error:
        what = f"git {shlex.join(arguments)} in {printable(cwd)}"
        raise CannotTell(f"{visible(what)} did not end within {GIT_TIMEOUT:g} s: try it by hand") from error


def _complaint(answer: subprocess.CompletedProcess[bytes]) -> str:
    """What git said, on one line."""
    words = visible(" ".join(os.fsdecode(answer.stderr).split()))
    return words or f"exit status {answer.returncode}"
