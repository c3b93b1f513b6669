"""Which runs there were, from the fleet's own list and the journals of this machine; and what happened in one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from veza_tasks.capabilities import journal, lock
from veza_tasks.capabilities.journal import HISTORY, remembered
from veza_tasks.errors import FleetError, Refused
from veza_tasks.events import Warned
from veza_tasks.run import Run

OUTCOMES = {
    0: "done",
    1: "a bug",
    2: "settings",
    3: "refused or undone",
    4: "rolled back",
    5: "left for a human",
    6: "ROLLBACK FAILED",
}


def history(run: Run, journals: Path) -> list[dict[str, Any]]:
    """A summary of each run, oldest first: those on the fleet, and those that only this machine knows of.

    ``code`` is None where no end is on record; ``journal`` is the file on this machine, if it has one. A fleet that does not
    answer is told, and what is here is given all the same.
    """
    files = {path.stem: path for path in sorted(journals.glob("*.jsonl"))}
    found: dict[str, dict[str, Any]] = {}
    try:
        records = run.fleet.for_records
        found = {one["run"]: one for one in remembered(records.read_mark(_balancer(run), HISTORY))}
        if holder := lock.holder(records, lock.lock_name(run.settings)):
            said = f"running: {holder.told(run.clock.now())}"
            found[holder.run] = {
                "run": holder.run,
                "task": holder.task,
                "who": holder.who,
                "when": holder.since,
                "digest": holder.artifact,
                "code": None,
                "said": said,
            }
    except FleetError as error:
        run.emit(Warned(f"{error.message}; only what this machine knows"))
    for name in [name for name in files if name not in found][-journal.REMEMBERED :]:
        if summary := _summary(files[name], run.settings.pool_backend):
            found[name] = summary
    for name, one in found.items():
        one["journal"] = str(files[name]) if name in files else None
    return sorted(found.values(), key=lambda one: str(one.get("when", "")))


def as_rows(found: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column titles and rows for people."""
    columns = ("run", "when", "task", "who", "artifact", "outcome", "took", "out of rotation", "accepted")

    def row(one: Mapping[str, Any]) -> tuple[str, ...]:
        code = one.get("code")
        outcome = OUTCOMES.get(code, f"exit {code}") if isinstance(code, int) else "no end on record"
        said = str(one.get("said") or "")
        digest = str(one.get("digest") or "")[:12]
        out, accepted = one.get("out") or {}, one.get("accepted") or {}
        return (
            str(one["run"]),
            str(one.get("when", "?")),
            str(one.get("task", "?")),
            str(one.get("who", "?")),
            f"{one.get('version') or 'unknown'} ({digest})" if digest else "-",
            outcome if code == 0 or not said else f"{outcome}: {said}",
            f"{one['seconds']:g} s" if isinstance(one.get("seconds"), int | float) else "-",
            "\n".join(f"{node} {'still' if s is None else f'{s:g} s'}" for node, s in out.items()) or "-",
            "\n".join(f"{check}: {reason}" for check, reason in accepted.items()) or "-",
        )

    return columns, [row(one) for one in found]


def steps(journals: Path, wanted: str) -> list[dict[str, Any]]:
    """Every line of one run's journal.

    Raises:
        Refused: this machine has no journal of it.
    """
    path = journals / f"{wanted}.jsonl"
    if Path(wanted).name != wanted or not path.is_file():
        raise Refused(
            f"there is no journal of run {wanted!r} in {journals}",
            state="Nothing was changed.",
            next_command="inv history    # says who ran it: the journal lies on that machine",
        )
    return list(journal.read(path))


def in_words(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Time (seconds since the run began), kind and text of each line of a journal."""
    began: datetime | None = None
    for line in lines:
        try:
            at = datetime.fromisoformat(str(line.get("at")))
        except ValueError:
            continue
        began = began or at
        yield f"{(at - began).total_seconds():.3f}", str(line["event"]), _text(line)


def _text(line: Mapping[str, Any]) -> str:
    where = " of ".join(str(line[key]) for key in ("step", "node") if line.get(key))
    match line["event"]:
        case "RunStarted":
            return f"{line.get('task')} by {line.get('who')}, pid {line.get('pid')}"
        case "RunEnded":
            return "\n".join(
                str(line[key]) for key in ("code", "message", "state", "next_command") if line.get(key) != ""
            )
        case "Changing":
            return f"{line.get('where')}: {line.get('command')}"
        case "Changed":
            return f"{line.get('where')}: {line.get('outcome')}"
        case "Probed":
            asked = line.get("asked") or []
            return "\n".join(
                [f"{line.get('colour')}: {line.get('detail')}", *(f"{q} = {a}" for q, a in asked)]
            )
        case "Checked":
            accepted = f" (accepted: {line['accepted']})" if line.get("accepted") else ""
            return f"{line.get('check')}: {line.get('colour')}{accepted}: {line.get('detail')}"
        case "ArtifactRead":
            return f"{line.get('version')} ({str(line.get('digest'))[:12]})"
        case "Note" | "Warned":
            return str(line.get("text"))
        case _:
            detail = f": {line['detail']}" if line.get("detail") else ""
            return f"{where}{detail}"


def _summary(path: Path, pool: str) -> dict[str, Any] | None:
    """What a journal says of its run; None where it is of another pool or cannot be read."""
    try:
        lines = list(journal.read(path))
    except OSError:
        return None
    started = next((line for line in lines if line["event"] == "RunStarted"), None)
    if started is None or started.get("pool") != pool:
        return None
    ended = next((line for line in lines if line["event"] == "RunEnded"), {})
    artifact = next((line for line in lines if line["event"] == "ArtifactRead"), {})
    return {
        "run": path.stem,
        "task": started.get("task"),
        "who": started.get("who"),
        "when": str(started.get("at", ""))[:19] + "Z",
        "digest": artifact.get("digest", ""),
        "version": artifact.get("version", ""),
        "code": ended.get("code"),
        "said": str(ended.get("message", "")).partition("\n")[0],
        "seconds": round(ended["seconds"], 1) if "seconds" in ended else None,
        "out": _out(lines),
        "accepted": {
            str(line.get("check")): str(line["accepted"])
            for line in lines
            if line["event"] == "Checked" and line.get("accepted")
        },
    }


def _out(lines: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Seconds out of rotation by node; None for one that was still out at the end."""
    out: dict[str, float | None] = {}
    since: dict[str, datetime] = {}
    for line in lines:
        if line["event"] not in ("OutOfRotation", "InRotation"):
            continue
        node, at = str(line.get("node")), datetime.fromisoformat(str(line.get("at")))
        if line["event"] == "OutOfRotation":
            since.setdefault(node, at)
        elif node in since:
            out[node] = round((out.get(node) or 0.0) + (at - since.pop(node)).total_seconds(), 1)
    return out | dict.fromkeys(since)


def _balancer(run: Run) -> str:
    return run.settings.load_balancer.instance
