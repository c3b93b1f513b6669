"""Incus, through its own client on the Incus server. Source: Incus 6.0 client, ``incus --help``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

from veza_tasks.adapters.host import Command, Held, Host, Progress, Reply, ensure
from veza_tasks.errors import FleetError
from veza_tasks.settings import HostSettings

MARK = "user.veza-tasks."
"""Prefix of the keys that we write on instances and profiles."""
_PROFILE_EXISTS = "The profile already exists"
_NO_PROFILE = "Profile not found"


@dataclass(frozen=True)
class Instance:
    """An Incus instance; ``marks`` are its ``user.veza-tasks.*`` keys without the prefix."""

    name: str
    status: str
    architecture: str
    marks: Mapping[str, str]


class Incus:
    """The instances of one project on one Incus server (or cluster)."""

    def __init__(self, host: Host, settings: HostSettings, *, timeout: float) -> None:
        self.host = host
        self._client = settings.incus_command
        self._project = settings.project
        self._remote = settings.remote
        self._timeout = timeout

    def instances(self) -> dict[str, Instance]:
        """All instances by name.

        Raises:
            FleetError: the client failed or did not speak JSON.
        """
        reply = self._query("GET", "instances", more="&recursion=1")
        if reply.status:
            raise FleetError(f"{self.host.name}: the instances could not be listed: {reply.complaint}")
        try:
            return {entry["name"]: _instance(entry) for entry in json.loads(reply.out)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FleetError(f"{self.host.name}: Incus did not answer with instances: {error!r}") from None

    def read_mark(self, instance: str, key: str) -> str:
        """One mark as it is now; empty where it is not set.

        Raises:
            FleetError: the client failed or did not speak JSON.
        """
        reply = self._query("GET", f"instances/{instance}")
        if reply.status:
            raise FleetError(f"{self.host.name}: could not read {MARK}{key} of {instance}: {reply.complaint}")
        try:
            return _instance(json.loads(reply.out)).marks.get(key, "")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FleetError(f"{self.host.name}: {instance} makes no sense: {error!r}") from None

    def mark(self, instance: str, key: str, value: str) -> None:
        """Write ``user.veza-tasks.KEY`` on an instance.

        Raises:
            FleetError: it could not be written.
        """
        self._configure(instance, key, value, effect=f"incus config set {instance} {MARK}{key}={value}")

    def unmark(self, instance: str, key: str) -> None:
        """Remove ``user.veza-tasks.KEY`` from an instance; absent is fine.

        Raises:
            FleetError: it could not be removed.
        """
        self._configure(instance, key, "", effect=f"incus config unset {instance} {MARK}{key}")

    def execute(
        self, instance: str, argv: Command, *, effect: str = "", timeout: float | None = None
    ) -> Reply:
        """Run a command in an instance, through a shell that is held open there (one ``incus exec`` costs 45 ms)."""
        return self.host.shell(self._shell(instance), argv, effect=effect, timeout=timeout or self._timeout)

    def profile(self, name: str) -> dict[str, str] | None:
        """A profile's ``user.veza-tasks.*`` keys without the prefix; None where there is no such profile.

        Raises:
            FleetError: that could not be found out.
        """
        reply = self._query("GET", f"profiles/{quote(name, safe='')}")
        if reply.status and _NO_PROFILE in reply.err:
            return None
        if reply.status:
            raise FleetError(f"{self.host.name}: could not read profile {name}: {reply.complaint}")
        try:
            return _marks(json.loads(reply.out)["config"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FleetError(f"{self.host.name}: profile {name} makes no sense: {error!r}") from None

    def create_profile(self, name: str, keys: Mapping[str, str]) -> bool:
        """Create a profile with ``user.veza-tasks.*`` keys; False where there is one already. Incus does that atomically,
        in a cluster too.

        Raises:
            FleetError: it was refused for another reason.
            OutcomeUnknown: the answer was lost.
        """
        body = {"name": name, "config": _keys(keys)}
        reply = self._query("POST", "profiles", body, effect=f"incus profile create {name}")
        if reply.status and _PROFILE_EXISTS in reply.err:
            return False
        if reply.status:
            raise FleetError(f"{self.host.name}: could not create profile {name}: {reply.complaint}")
        return True

    def mark_profile(self, name: str, keys: Mapping[str, str]) -> bool:
        """Set ``user.veza-tasks.*`` keys of a profile, leaving its others; False where there is no such profile.

        Raises:
            FleetError: they could not be set.
            OutcomeUnknown: the answer was lost; again does no harm.
        """
        return self._change_profile("PATCH", name, {"config": _keys(keys)})

    def delete_profile(self, name: str) -> bool:
        """Delete a profile; False where there is none.

        Raises:
            FleetError: it is still there.
            OutcomeUnknown: the answer was lost.
        """
        return self._change_profile("DELETE", name)

    def _change_profile(self, method: str, name: str, body: Mapping[str, object] | None = None) -> bool:
        effect = f"incus profile {'delete' if method == 'DELETE' else 'set'} {name}"
        reply = self._query(method, f"profiles/{quote(name, safe='')}", body, effect=effect)
        if reply.status and _NO_PROFILE in reply.err:
            return False
        if reply.status:
            raise FleetError(f"{self.host.name}: {effect}: {reply.complaint}")
        return True

    def open_ahead(self, instances: Sequence[str]) -> None:
        """Open the connection, and the shells in these instances, before they are needed."""
        self.host.open_ahead([self._shell(instance) for instance in instances])

    def send(
        self,
        instance: str,
        argv: Command,
        stdin: BinaryIO,
        *,
        effect: str,
        timeout: float,
        progress: Progress,
    ) -> Reply:
        """Stream ``stdin`` into a command. The exit status proves nothing: a cut stream ends well."""
        return self.host.run(
            self._exec(instance, argv), stdin=stdin, effect=effect, timeout=timeout, progress=progress
        )

    def hand_over(
        self, source: str, argv: Command, target: str, into: Command, *, effect: str, timeout: float
    ) -> Reply:
        """Pipe a command's output in one instance into a command in another, on the host."""
        return self.host.run(
            self._exec(source, argv), into=self._exec(target, into), effect=effect, timeout=timeout
        )

    def _configure(self, instance: str, key: str, value: str, *, effect: str) -> None:
        replies: list[Reply] = []
        body = {"config": {MARK + key: value}}  # an empty value is no key

        def change() -> Reply:
            replies.append(self._query("PATCH", f"instances/{instance}", body, effect=effect))
            return replies[-1]

        def came_true() -> bool:
            # The client's exit status is true; only a lost answer has to be looked up.
            return bool(replies and replies[-1].status == 0) or self.read_mark(instance, key) == value

        if not ensure(change, came_true):
            raise FleetError(
                f"{self.host.name}: could not write {MARK}{key} on {instance}: {replies[-1].complaint}"
            )

    def _query(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        more: str = "",
        effect: str = "",
    ) -> Reply:
        """Incus's REST API through its client: half as slow as the client's other commands.

        ``--project`` is not for it; the project is in the URL.
        """
        data = ["--data", json.dumps(body)] if body is not None else []
        url = f"{self._remote}:/1.0/{path}?project={quote(self._project, safe='')}{more}"
        argv = [*self._client, "query", "--wait", "--request", method, *data, url]
        return self.host.run(argv, effect=effect, timeout=self._timeout)

    def _shell(self, instance: str) -> Held:
        return Held(instance, tuple(self._exec(instance, ["sh"])))

    def _target(self, instance: str) -> str:
        return f"{self._remote}:{instance}"

    def _argv(self, *arguments: str) -> list[str]:
        # INCUS_PROJECT in somebody's profile would silently retarget us.
        return [*self._client, *arguments, "--project", self._project]

    def _exec(self, instance: str, argv: Command) -> list[str]:
        return [*self._argv("exec", self._target(instance), "--force-noninteractive"), "--", *argv]


def _instance(entry: Mapping[str, object]) -> Instance:
    config = entry.get("config") or {}
    if not isinstance(config, Mapping):
        raise TypeError("config is not a table")
    return Instance(
        name=str(entry["name"]),
        status=str(entry["status"]),
        architecture=str(entry["architecture"]),
        marks=_marks(config),
    )


def _marks(config: Mapping[str, object]) -> dict[str, str]:
    return {key.removeprefix(MARK): str(value) for key, value in config.items() if key.startswith(MARK)}


def _keys(marks: Mapping[str, str]) -> dict[str, str]:
    return {MARK + key: value for key, value in marks.items()}
