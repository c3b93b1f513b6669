"""Disposable fleets of local processes: no root, nothing but Python packages, Linux.

    python -m lab.sandbox up [--name NAME] [--nodes N]
    python -m lab.sandbox status
    python -m lab.sandbox down [--name NAME]

HAProxy and the backends are real. So are OpenSSH and Prometheus where they are installed; else they are stand-ins, and
said to be. Incus and systemd always are.
"""

from lab.incus.host import LabError
from lab.sandbox.fleet import Fleet, status
from lab.sandbox.raising import STAND_INS, down, find, fleets, up

__all__ = ["STAND_INS", "Fleet", "LabError", "down", "find", "fleets", "status", "up"]
