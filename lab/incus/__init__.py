"""Disposable fleets of real parts on one machine: Incus containers, HAProxy, Prometheus, OpenSSH.

    python -m lab.incus up [--name NAME] [--nodes N]
    python -m lab.incus status
    python -m lab.incus down [--name NAME]

Needs root on Debian 12, Debian 13 or Ubuntu 24.04; installs what is missing with apt.
"""

from lab.incus.fleet import Fleet, status
from lab.incus.host import LabError
from lab.incus.machine import check
from lab.incus.raising import down, find, fleets, up

__all__ = ["Fleet", "LabError", "check", "down", "find", "fleets", "status", "up"]
