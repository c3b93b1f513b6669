"""Programs of the operator's own that are called at certain moments of a run: executables of one folder, by name.

``before-run`` may refuse the run. The others are told what happened; they run beside the release and never hold it up, and
their failure is told and changes nothing about its outcome.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from pathlib import Path

from veza_tasks.errors import ConfigError, Refused
from veza_tasks.events import ArtifactRead, Event, RunEnded, StepDone, StepStarted, Warned
from veza_tasks.run import Run

BEFORE_RUN, AFTER_NODE, ON_ROLLBACK, AFTER_RUN = NAMES = (
    "before-run",
    "after-node",
    "on-rollback",
    "after-run",
)
_SHOWN = 2000
"""Characters of a hook's output that are shown where it fails."""


class Hooks:
    """The hooks of one run. It listens to the run; ``beside`` is where they run, one after the other."""

    def __init__(self, run: Run, *, journal: Path, beside: Executor) -> None:
        """
        Raises:
            ConfigError: the folder is none, or a hook in it cannot be executed.
        """
        self._run = run
        self._beside = beside
        self._pending: list[Future[None]] = []
        self._facts = {
            "RUN": run.id,
            "TASK": run.task,
            "WHO": run.who,
            "POOL": run.settings.pool_backend,
            "JOURNAL": str(journal),
        }
        self._found = _found(run)

    def __call__(self, event: Event) -> None:
        """Take note of what happens, and call what is to be called then."""
        match event:
            case ArtifactRead():
                self._facts |= {"ARTIFACT_SHA256": event.digest, "ARTIFACT_VERSION": event.version}
            case StepDone(step="lb-check"):
                self._later(AFTER_NODE, {"NODE": event.node})
            case StepStarted(step="rollback"):
                self._later(ON_ROLLBACK, {"NODE": event.node})
            case RunEnded():
                end = {
                    "EXIT_CODE": str(event.code),
                    "MESSAGE": event.message,
                    "STATE": event.state,
                    "SECONDS": f"{event.seconds:.1f}",
                }
                self._later(AFTER_RUN, end)

    def before_run(self) -> None:
        """Ask whether the run may begin.

        Raises:
            Refused: the hook says no, or did not answer in time.
        """
        if (program := self._found.get(BEFORE_RUN)) and (complaint := self._call(program, {})):
            raise Refused(
                f"the hook {program} refuses: {complaint}",
                state="Nothing was changed.",
                next_command="what the hook asks for; then the same command again",
            )

    def wait(self) -> None:
        """Let those that were called come to their end, each within ``HOOK_TIMEOUT``."""
        for future in self._pending:
            future.result()

    def _later(self, name: str, facts: Mapping[str, str]) -> None:
        if program := self._found.get(name):
            self._pending.append(self._beside.submit(self._call_and_tell, program, {**self._facts, **facts}))

    def _call_and_tell(self, program: Path, facts: Mapping[str, str]) -> None:
        if complaint := self._call(program, facts):
            self._run.emit(Warned(f"the hook {program} failed: {complaint}"))

    def _call(self, program: Path, facts: Mapping[str, str]) -> str:
        """Why it failed; empty where it did not. It gets a process group of its own, so that Ctrl-C is not for it."""
        limit = self._run.settings.hook_timeout
        environment = {
            f"VEZA_{name}": value.replace("\0", "") for name, value in {**self._facts, **facts}.items()
        }
        try:
            process = subprocess.Popen(
                [program],
                env={**os.environ, **environment, "VEZA_HOOK": program.name},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return f"it cannot be started: {error.strerror or error}"
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"it did not end within {limit:g} s"
        if process.returncode == 0:
            return ""
        words = said.decode(errors="replace").strip()[-_SHOWN:]
        return f"exit status {process.returncode}" + (f": {words}" if words else "")


def _found(run: Run) -> dict[str, Path]:
    folder = run.settings.hooks_dir
    if folder is None:
        return {}
    if not folder.is_dir():
        raise ConfigError([f"hooks_dir {folder} is no folder"])
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    found = {path.name: path.resolve() for path in files if path.name in NAMES}
    if idle := [path for path in found.values() if not os.access(path, os.X_OK)]:
        raise ConfigError([f"the hook {path} is not executable" for path in idle], next_command="chmod +x")
    strangers = [path.name for path in files if path.name not in NAMES and os.access(path, os.X_OK)]
    if strangers:
        run.emit(Warned(f"{folder} holds {', '.join(strangers)}; hooks are called {', '.join(NAMES)}"))
    return found
