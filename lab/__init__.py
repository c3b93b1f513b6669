"""Disposable fleets for the demo, the tests and practice. Never imported by `veza_tasks`."""
