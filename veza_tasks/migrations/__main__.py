"""``python -m veza_tasks.migrations``."""

from veza_tasks.migrations.command import entry

if __name__ == "__main__":
    entry()
