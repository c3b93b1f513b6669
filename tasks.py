"""Canary releases of backend-api: `inv --list`, `inv --help TASK`, and README.md.

Names, flags, help and exit codes; the recipes are in veza_tasks/recipes. Nothing heavy is imported before a task needs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from invoke import Collection, Context, Exit, task

from veza_tasks.errors import ConfigError, NeedsHuman, Refused, ReleaseError
from veza_tasks.events import Note

if TYPE_CHECKING:
    from veza_tasks.run import Run
    from veza_tasks.screen import Screen
    from veza_tasks.settings import Loaded

# Pydantic would look through every installed package for plugins, which takes as long as a step; we have none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

HELP = {
    "fleet": "the file that names the fleet and sets the knobs (default: fabfile.yaml beside tasks.py, or $FLEET)",
    "plan": "look at the real fleet and print each change instead of making it",
    "accept": "let this red row of preflight pass; repeatable, wants --reason",
    "reason": "why rows are accepted; shown and recorded",
    "artifact": "the signed-off binary to release",
    "sha256": "refuse the artifact unless it has this sha256",
    "rollback_binary": "last known good: a path (under INSTALL_DIR: on the node, else local) or 'running' "
    "(default: the node's veza-api.previous)",
    "node": "the node, such as backend-api-2",
    "canary_node": "the node that gets the new binary first (default backend-api-2)",
    "peer_nodes": "the nodes that follow, separated by spaces or commas (default backend-api-1)",
    "max_unavailable": "how many peers may be out of rotation at a time (default 1)",
    "sli_window": "how long the canary must stay green, in seconds or as 5m, 1h (default 3600, at least 300)",
    "sli_probe_interval": "time from probe to probe, in seconds (default 30)",
    "prom_url": "Prometheus (default http://prom.lxd:9090)",
    "drain_timeout": "how long a drained node may go on serving, in seconds (default 60)",
    "drain_policy": "after DRAIN_TIMEOUT: abort (put it back and stop) or close (cut its sessions) (default abort)",
    "rewatch": "watch the SLI window again although this binary has a green record",
    "unproven": "roll a binary without a green record; the value is the reason",
    "at_once": "emergency: all nodes in parallel and in place, without draining; users see errors",
    "yes": "do not ask",
    "wait": "if another run works on this pool, wait so many seconds (or 5m) for it to end (default 0)",
    "force": "emergency: break another run's lock; it stops at its next change",
    "resume": "finish the release that was broken off",
    "undo": "take it back: the last known good binary everywhere, and every node of ours in rotation",
    "run": "the run's id, as inv history and inv status show it",
    "json": "machine-readable output",
    "base": "compare with this git revision, such as the last release's tag (default origin/main)",
    "staged": "look at the index alone, as a pre-commit hook does",
    "path": "a migration or a folder of them, linted as it stands; with --base or --staged, what git has for new of it; "
    "repeatable (default: what is new in MIGRATIONS_DIR)",
    "tool": "the migration tool: goose, dbmate, sql-migrate, golang-migrate, sqlx, flyway, plain (default auto)",
    "application_role": "the backend's database role: what is revoked from others is no break",
    "strict": "take warnings for errors",
    "format": "text, json, github or sarif (default text)",
    "explain": "say why a rule is there and what to do instead; lint nothing",
}


NO_KNOBS: Mapping[str, object] = {}
Body = TypeVar("Body", bound=Callable[..., None])


def _task(*flags: str, iterable: tuple[str, ...] = ()) -> Callable[[Body], Body]:
    """A task with long flags only: derived short ones change meaning as flags come and go. Help is from ``HELP``."""
    wanted = {flag: HELP[flag] for flag in (*flags, "fleet")}
    made: Callable[[Body], Body] = task(help=wanted, auto_shortflags=False, iterable=iterable)
    return made


@_task(
    "artifact",
    "rollback_binary",
    "sha256",
    "accept",
    "reason",
    "canary_node",
    "peer_nodes",
    "prom_url",
    iterable=("accept",),
)
def preflight(
    c: Context,
    artifact: str = "",
    rollback_binary: str = "",
    sha256: str = "",
    accept: list[str] | None = None,
    reason: str = "",
    canary_node: str = "",
    peer_nodes: str = "",
    prom_url: str = "",
    fleet: str = "",
) -> None:
    """Look at everything a release relies on; changes nothing."""
    knobs = _given(
        artifact=artifact,
        rollback_binary=rollback_binary,
        canary_node=canary_node,
        peer_nodes=peer_nodes,
        prom_url=prom_url,
    )
    with _run(c, fleet, accept=accept, reason=reason, knobs=knobs) as run:
        from veza_tasks.recipes.preflight import preflight

        preflight(run, sha256=sha256 or None)


@_task("node", "wait", "plan", "drain_timeout", "drain_policy")
def drain(
    c: Context,
    node: str,
    wait: str = "",
    plan: bool = False,
    drain_timeout: str = "",
    drain_policy: str = "",
    fleet: str = "",
) -> None:
    """Take a node out of rotation and wait until idle (step 2)."""
    with _run(
        c,
        fleet,
        changes="drain",
        wait=wait,
        plan=plan,
        knobs=_given(drain_timeout=drain_timeout, drain_policy=drain_policy),
    ) as run:
        from veza_tasks.recipes.single import drain

        drain(run, run.fleet.node(node))


@_task("node", "wait", "plan")
def ready(c: Context, node: str, wait: str = "", plan: bool = False, fleet: str = "") -> None:
    """Put a drained node back, once it is healthy (steps 4 to 6)."""
    with _run(c, fleet, changes="ready", node=node, wait=wait, plan=plan) as run:
        from veza_tasks.recipes.single import ready

        ready(run, run.fleet.node(node))


@_task("node", "artifact", "sha256", "wait", "plan")
def push(
    c: Context,
    node: str,
    artifact: str = "",
    sha256: str = "",
    wait: str = "",
    plan: bool = False,
    fleet: str = "",
) -> None:
    """Install a binary on a drained node, restart (steps 3, 4)."""
    with _run(
        c, fleet, changes="push", node=node, wait=wait, plan=plan, knobs=_given(artifact=artifact)
    ) as run:
        from veza_tasks.recipes.single import push

        push(run, run.fleet.node(node), sha256=sha256 or None)


@_task(
    "artifact",
    "rollback_binary",
    "sha256",
    "canary_node",
    "peer_nodes",
    "max_unavailable",
    "sli_window",
    "sli_probe_interval",
    "prom_url",
    "drain_timeout",
    "drain_policy",
    "accept",
    "reason",
    "rewatch",
    "wait",
    "plan",
    iterable=("accept",),
)
def canary(
    c: Context,
    artifact: str = "",
    rollback_binary: str = "",
    sha256: str = "",
    canary_node: str = "",
    peer_nodes: str = "",
    max_unavailable: str = "",
    sli_window: str = "",
    sli_probe_interval: str = "",
    prom_url: str = "",
    drain_timeout: str = "",
    drain_policy: str = "",
    accept: list[str] | None = None,
    reason: str = "",
    rewatch: bool = False,
    wait: str = "",
    plan: bool = False,
    fleet: str = "",
) -> None:
    """Release a binary: canary, SLI window, peers (steps 1 to 8).

    Rolls the canary back by itself when anything turns red.
    """
    knobs = _given(
        artifact=artifact,
        rollback_binary=rollback_binary,
        canary_node=canary_node,
        peer_nodes=peer_nodes,
        max_unavailable=max_unavailable,
        sli_window=sli_window,
        sli_probe_interval=sli_probe_interval,
        prom_url=prom_url,
        drain_timeout=drain_timeout,
        drain_policy=drain_policy,
    )
    with _run(
        c, fleet, changes="canary", wait=wait, plan=plan, accept=accept, reason=reason, knobs=knobs
    ) as run:
        from veza_tasks.recipes.release import canary

        canary(run, sha256=sha256 or None, rewatch=rewatch)


@_task(
    "artifact",
    "rollback_binary",
    "sha256",
    "peer_nodes",
    "max_unavailable",
    "accept",
    "reason",
    "unproven",
    "wait",
    "plan",
    iterable=("accept",),
)
def roll_peers(
    c: Context,
    artifact: str = "",
    rollback_binary: str = "",
    sha256: str = "",
    peer_nodes: str = "",
    max_unavailable: str = "",
    accept: list[str] | None = None,
    reason: str = "",
    unproven: str = "",
    wait: str = "",
    plan: bool = False,
    fleet: str = "",
) -> None:
    """Release a proven binary to the peers alone (step 8)."""
    knobs = _given(
        artifact=artifact,
        rollback_binary=rollback_binary,
        peer_nodes=peer_nodes,
        max_unavailable=max_unavailable,
    )
    with _run(
        c, fleet, changes="roll-peers", wait=wait, plan=plan, accept=accept, reason=reason, knobs=knobs
    ) as run:
        from veza_tasks.recipes.release import roll_peers

        roll_peers(run, sha256=sha256 or None, unproven=unproven)


@_task("rollback_binary", "at_once", "force", "yes", "wait", "plan")
def rollback_all(
    c: Context,
    rollback_binary: str = "",
    at_once: bool = False,
    force: bool = False,
    yes: bool = False,
    wait: str = "",
    plan: bool = False,
    fleet: str = "",
) -> None:
    """Bring every node back to its last known good binary."""
    with _run(
        c,
        fleet,
        changes="rollback-all",
        wait=wait,
        breaks="*" if force else "",
        plan=plan,
        knobs=_given(rollback_binary=rollback_binary),
    ) as run:
        from veza_tasks.recipes.rollback import rollback_all, ways

        found = ways(run)
        rows = [(way.node.name, way.runs, way.action) for way in found]
        screen = _screen(run)
        screen.show_table("rollback-all", ("node", "runs", "would go"), rows)
        if not (yes or plan or all(way.is_there for way in found)):
            how = "at once and in place" if at_once else "one after the other, with drain"
            _confirm(screen, f"Roll back {how}", "inv rollback-all --yes")
        rollback_all(run, found, at_once=at_once)


@_task("json")
def status(c: Context, json: bool = False, fleet: str = "") -> None:
    """What each node runs, whether it serves, who is at work."""
    with _run(c, fleet) as run:
        from veza_tasks.recipes.status import as_rows, lock_holder, status

        found = status(run)
        holder = lock_holder(run)
        if json:
            nodes = [node.as_json() for node in found]
            _print_json({"lock": asdict(holder) if holder else None, "nodes": nodes})
        else:
            _screen(run).show_table("status", *as_rows(found))
            if holder:
                run.emit(Note(f"locked: {holder.told(run.clock.now())}"))
        if any(node.problems for node in found):
            raise NeedsHuman(
                "; ".join(f"{node.node}: {problem}" for node in found for problem in node.problems)
            )


@_task("resume", "undo", "artifact", "rollback_binary", "yes", "plan")
def recover(
    c: Context,
    resume: bool = False,
    undo: bool = False,
    artifact: str = "",
    rollback_binary: str = "",
    yes: bool = False,
    plan: bool = False,
    fleet: str = "",
) -> None:
    """After a crash: what is left undone, and the way on or back."""
    from veza_tasks.recipes import recover as recipe

    with _run(c, fleet, knobs=_given(rollback_binary=rollback_binary)) as run:
        if resume and undo:
            raise ConfigError(["--resume and --undo are two ways; take one"], next_command="inv recover")
        found = recipe.look(run)
        screen = _screen(run)
        if not found.differences:
            run.emit(Note("nothing runs, and nothing is left undone"))
            return
        rows = [(one.where, one.what, one.cure) for one in found.differences]
        screen.show_table("recover", ("where", "what is", "next"), rows)
        if not (resume or undo):
            return
        recipe.check_dead(run, found.holder)
        given = _given(artifact=artifact, rollback_binary=rollback_binary)
        knobs = {**recipe.knobs_of(found.last, _journals()), **given}
        sha256 = recipe.check_resumable(found.last, str(knobs.get("artifact", ""))) if resume else ""
        if not (yes or plan):
            _confirm(
                screen, "Finish the release" if resume else "Take it back", "the same command with --yes"
            )
    dead = found.holder.run if found.holder else ""
    with _run(
        c, fleet, changes="canary" if resume else "recover", breaks=dead, plan=plan, knobs=knobs
    ) as run:
        if resume:
            from veza_tasks.recipes.release import canary

            canary(run, sha256=sha256)
        else:
            recipe.undo(run, found.last)


@_task("run", "json")
def history(c: Context, run: str = "", json: bool = False, fleet: str = "") -> None:
    """Which runs there were, from any machine; one step by step."""
    from veza_tasks.recipes import history as recipe

    journals = _journals()
    with _run(c, fleet) as here:
        if run:
            lines = recipe.steps(journals, run)
            if json:
                _print_json(lines)
            else:
                _screen(here).show_table(f"run {run}", ("s", "what", ""), list(recipe.in_words(lines)))
            return
        found = recipe.history(here, journals)
        if json:
            _print_json(found)
        else:
            _screen(here).show_table("history", *recipe.as_rows(found))


@_task("run", "yes")
def unlock(c: Context, run: str = "", yes: bool = False, fleet: str = "") -> None:
    """Take the lock from a run that died, after a look."""
    with _run(c, fleet) as here:
        from veza_tasks.recipes.status import as_rows, status
        from veza_tasks.recipes.unlock import held_by, unlock

        held = held_by(here, run)
        screen = _screen(here)
        screen.show_table("status", *as_rows(status(here)))
        here.emit(Note(held.told(here.clock.now())))
        if not yes:
            _confirm(screen, "Take the lock from this run", f"inv unlock --run {run} --yes")
        unlock(here, held)
        here.emit(Note("unlocked; next: inv status, then the command that this run did not finish"))


@_task("json")
def config(c: Context, json: bool = False, fleet: str = "") -> None:
    """Every knob, its value, and where the value comes from."""
    with _exit_codes(None):
        from veza_tasks.settings import rows

        found = rows(_load(c, fleet))
        if json:
            _print_json([{"knob": name, "value": value, "source": source} for name, value, source in found])
        else:
            width = max(len(name) for name, _, _ in found)
            for name, value, source in found:
                print(f"{name:{width}}  {_plain(value)}  ({source})")


@_task(
    "path",
    "base",
    "staged",
    "tool",
    "application_role",
    "strict",
    "format",
    "explain",
    iterable=("path",),
)
def lint_migrations(
    c: Context,
    path: list[str] | None = None,
    base: str = "",
    staged: bool = False,
    tool: str = "",
    application_role: str = "",
    strict: bool = False,
    format: str = "text",
    explain: str = "",
    fleet: str = "",
) -> None:
    """Refuse migrations that the old binary cannot bear (step 1)."""
    with _exit_codes(None):
        from veza_tasks.migrations import CannotTell, command, report

        try:
            if format not in report.FORMATS:
                raise CannotTell(f"--format is {format!r}; wanted {', '.join(report.FORMATS)}")
            if explain:
                command.write(sys.stdout, command.explain(explain))
                return
            from veza_tasks.settings import lint_choices

            knobs = _given(
                migrations_base=base,
                migrations_tool=tool,
                migrations_role=application_role,
                migrations_strict=strict,
            )
            settings = _load(c, fleet, require_fleet=False, knobs=knobs).settings
            verdict = command.judge(
                path or [],
                directories=[str(folder) for folder in settings.migrations_dir],
                base=settings.migrations_base,
                against_git=bool(base or staged),
                staged=staged,
                forced=settings.force_migrate,
                choices=lint_choices(settings),
            )
        except CannotTell as error:
            if format in report.FORMATS:
                command.write(sys.stdout, report.render_trouble(error, format))
            raise ConfigError([str(error)], next_command="inv --help lint-migrations") from None
        colour = command.in_colour(sys.stdout, os.environ)
        columns = command.columns(sys.stdout)
        command.write(sys.stdout, report.render(verdict, format, colour=colour, columns=columns))
        if verdict.colour == "red":
            raise Refused(
                "the running binary cannot live with these migrations",
                state="Nothing was changed.",
                next_command="inv lint-migrations --explain RULE; or FORCE_MIGRATE=1, once you have read them",
            )


ns = Collection(
    preflight,
    drain,
    ready,
    push,
    canary,
    roll_peers,
    rollback_all,
    status,
    history,
    recover,
    unlock,
    config,
    lint_migrations,
)


def _given(**knobs: object) -> Mapping[str, object]:
    """The flags that were given; the others leave the environment and the file their say."""
    return {name: value for name, value in knobs.items() if value not in ("", None, [])}


def _load(
    c: Context, fleet: str, *, require_fleet: bool = True, knobs: Mapping[str, object] = NO_KNOBS
) -> Loaded:
    from veza_tasks.settings import load

    _refuse_lookalikes(c)
    named = fleet or os.environ.get("FLEET", "")
    file = Path(named).expanduser() if named else Path(__file__).with_name("fabfile.yaml")
    return load(file=file, environ=os.environ, flags=knobs, require_fleet=require_fleet)


def _refuse_lookalikes(c: Context) -> None:
    """Invoke's own flags that look like ours and do something else.

    Raises:
        ConfigError: ``--dry`` (it would blank shell commands and still do all the rest) or ``--config``.
    """
    problems = []
    if c.config.run.dry:
        problems.append(
            "--dry is Invoke's own and would still change the fleet; use --plan after the task's name."
        )
    if getattr(c.config, "_runtime_path", None):
        problems.append(
            "--config (-f, INVOKE_RUNTIME_CONFIG) is Invoke's own; use --fleet FILE after the task's name."
        )
    if problems:
        raise ConfigError(problems, next_command="inv --help canary")


@contextmanager
def _run(
    c: Context,
    fleet: str,
    *,
    changes: str = "",
    node: str = "",
    plan: bool = False,
    wait: str = "",
    breaks: str = "",
    accept: list[str] | None = None,
    reason: str = "",
    knobs: Mapping[str, object] = NO_KNOBS,
) -> Iterator[Run]:
    """Everything a recipe needs, and every way out of it with its exit code.

    ``changes`` is the task's name if it changes the fleet: then it holds the lock and is on record. ``node`` must be of the
    fleet.
    """
    from veza_tasks.screen import open_screen

    with open_screen(sys.stdout, environ=os.environ) as screen, _exit_codes(screen):
        settings = _load(c, fleet, knobs=knobs).settings
        if node:
            settings.node(node)
        seconds = _seconds(wait)

        from veza_tasks.clock import SystemClock
        from veza_tasks.events import Listeners
        from veza_tasks.fleet import Fleet
        from veza_tasks.recipes.operation import endings, operation
        from veza_tasks.run import Run, new_run_id, operator
        from veza_tasks.signals import Signals

        clock = SystemClock()
        emit = Listeners(screen)
        allowed: Mapping[str, str] = {}
        if accept:
            from veza_tasks.recipes.preflight import accepted

            allowed = accepted(accept, reason)
        reached = Fleet(settings, emit=emit, plan=plan)
        reached.open_ahead()
        try:
            with Signals(emit) as signals:
                run = Run(
                    id=new_run_id(clock),
                    who=operator(),
                    task=changes,
                    settings=settings,
                    fleet=reached,
                    clock=clock,
                    emit=emit,
                    signals=signals,
                    plan=plan,
                    accepted=allowed,
                )
                around = (
                    operation(run, journals=_journals(), wait=seconds, breaks=breaks)
                    if changes
                    else endings(run)
                )
                with around:
                    yield run
        finally:
            reached.close()


def _journals() -> Path:
    from veza_tasks.capabilities.journal import folder

    return folder(os.environ)


def _seconds(text: str) -> float:
    """The value of ``--wait``.

    Raises:
        ConfigError: it is no duration.
    """
    from veza_tasks.settings import seconds

    try:
        return seconds(text) if text else 0.0
    except ValueError as error:
        raise ConfigError([f"--wait: {error}"], next_command="inv --help canary") from None


@contextmanager
def _exit_codes(screen: Screen | None) -> Iterator[None]:
    try:
        yield
    except ReleaseError as error:
        if screen is None:
            print(f"{error.message}\n{error.state}\nNext: {error.next_command}", file=sys.stderr)
        else:
            screen.show_error(error)
        raise Exit(code=error.exit_code) from None


def _screen(run: Run) -> Screen:
    from veza_tasks.screen import Screen

    return next(listener for listener in run.emit if isinstance(listener, Screen))


def _confirm(screen: Screen, question: str, without_asking: str) -> None:
    screen.flush()
    try:
        answer = input(f"{question}? [y/N] ") if sys.stdin.isatty() else ""
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise Refused("not confirmed", state="Nothing was changed.", next_command=without_asking)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
