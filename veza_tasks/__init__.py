"""Canary releases of backend-api for fleets of Incus containers behind HAProxy."""

__version__ = "0.1.0"
