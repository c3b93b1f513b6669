"""Every way a run can end, and what made it end so.

    ReleaseError                    exit
    ├── ConfigError                  2   settings are wrong; no connection was opened
    ├── Refused                      3   refused or undone; nothing is changed
    │   └── LockHeld                     another run works on this pool
    ├── RolledBack                   4   the canary is back on the last known good binary
    ├── NeedsHuman                   5   a node or peer waits for a human
    ├── RollbackFailed               6   act now
    └── StepFailed                   5   a cause; recipes turn it into one of the above
        ├── FleetError                   a real system did not do as told
        │   ├── Unreachable              nothing was sent
        │   ├── HostKeyRefused           nothing was sent
        │   └── OutcomeUnknown           sent, and no answer: look before deciding
        ├── JournalFailed                no change is made that is not on record
        ├── DrainTimeout
        ├── InstallFailed
        ├── HealthCheckFailed
        ├── NotRouted
        └── SliBreached
    Interrupted                      -   a signal; the recipe decides 3, 4 or 5 by what has changed
    Abandoned (BaseException)        5   the third signal: stop at once
    LockLost (BaseException)         5   somebody else took the fleet over: stop at once, put nothing back

Exit codes answer "what state is the fleet in?". 1 is Invoke's refusal of a mistyped flag, or a bug of ours.
"""

from __future__ import annotations

from collections.abc import Sequence


class ReleaseError(Exception):
    """An ending that the operator must be told about.

    ``state`` says in what state the fleet is left, ``next_command`` what to type next.
    """

    exit_code = 1

    def __init__(self, message: str, *, state: str = "", next_command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.state = state
        self.next_command = next_command


class ConfigError(ReleaseError):
    """Settings are wrong. ``problems`` holds them all, each naming its source."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, next_command: str = "inv config") -> None:
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(self.problems), state="No connection was opened.", next_command=next_command
        )


class Refused(ReleaseError):
    """Refused before any change, or everything was undone."""

    exit_code = 3


class LockHeld(Refused):
    """Another run works on this pool."""


class RolledBack(ReleaseError):
    """The canary is back on the last known good binary and serving."""

    exit_code = 4


class NeedsHuman(ReleaseError):
    """A node or peer is left for a human to look at."""

    exit_code = 5


class RollbackFailed(ReleaseError):
    """The last known good binary could not be brought back. Act now."""

    exit_code = 6


class StepFailed(ReleaseError):
    """A step did not come out as the runbook wants; the cause beneath an ending."""

    exit_code = 5


class FleetError(StepFailed):
    """A real system (SSH, Incus, HAProxy, a node) answered with an error or not at all."""


class Unreachable(FleetError):
    """No connection, or it broke before anything was sent."""


class HostKeyRefused(FleetError):
    """An SSH host key is unknown or has changed. Nothing was sent."""


class OutcomeUnknown(FleetError):
    """A command was sent and no trustworthy answer came back: it may or may not have run."""


class JournalFailed(StepFailed):
    """The journal cannot be written; no change is made that is not on record."""


class DrainTimeout(StepFailed):
    """A node still serves after ``DRAIN_TIMEOUT`` (runbook step 2)."""


class InstallFailed(StepFailed):
    """The binary on the node is not the one that was to be installed (runbook step 3)."""


class HealthCheckFailed(StepFailed):
    """The node did not answer 200 in time, or its process died (runbook step 4)."""


class NotRouted(StepFailed):
    """HAProxy does not route to the node (runbook steps 5 and 6)."""


class SliBreached(StepFailed):
    """A red probe, or no data for too long (runbook step 7)."""


class Interrupted(Exception):
    """A signal asked the run to stop; raised only where stopping is safe."""


class Abandoned(BaseException):
    """The third signal: stop at once, whatever is in hand."""


class LockLost(BaseException):
    """The fleet's lock is not ours any more: whoever has it decides what happens, so that nothing is rolled back by us.

    The text says who has it.
    """
