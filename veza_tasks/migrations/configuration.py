"""Settings of the linter for who does not come through Invoke: flags, environment, ``fabfile.yaml``, ``pyproject.toml``.

Names and meanings are those of the knobs ``MIGRATIONS_*`` and ``FORCE_MIGRATE``, and the one before beats the one
after. Both files are looked for from the current directory up to the top of the repository. Of ``fabfile.yaml``
only these knobs are read, so that a commit hook needs neither pydantic nor, without them, a YAML parser.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from veza_tasks.migrations.trouble import CannotTell

if TYPE_CHECKING:
    from veza_tasks.migrations.judge import Options

TABLE = "veza-lint-migrations"
"""The linter's table below ``tool`` in ``pyproject.toml``; its keys are the knobs' names after ``migrations_``."""

KNOBS = {
    "migrations_dir": ("migrations",),
    "migrations_base": "origin/main",
    "migrations_tool": "auto",
    "migrations_role": None,
    "migrations_rules": (),
    "migrations_strict": False,
    "force_migrate": False,
}
"""Every knob of the linter and its default."""

LEVELS = ("error", "warning", "off")


class Choices(NamedTuple):
    """How to judge. ``rules`` are words such as ``missing-lock-timeout=off``."""

    tool: str = "auto"
    role: str = ""
    rules: tuple[str, ...] = ()
    strict: bool = False

    def options(self) -> Options:
        from veza_tasks.migrations.judge import Options

        levels: Any = dict(word.split("=") for word in self.rules)
        return Options(tool=self.tool, application_role=self.role, levels=levels, strict=self.strict)


class Configuration(NamedTuple):
    """What the knobs say. No directory: no migrations."""

    directories: tuple[str, ...]
    base: str
    forced: bool
    choices: Choices


def wanted(name: str) -> str:
    """What a knob takes, to end the sentence of an error."""
    if name == "migrations_tool":
        from veza_tasks.migrations.tools import TOOLS

        return f"one of {', '.join(TOOLS)}"
    return {
        "migrations_dir": "a list of folders, or text separated by spaces or commas, or the word none",
        "migrations_base": "a git revision, such as origin/main or v1.0.9",
        "migrations_role": "the name of a database role",
        "migrations_rules": f"a table or list of rule=level with the levels {', '.join(LEVELS)}, or the word none",
    }.get(name, "1, 0, true or false")


def words(value: object) -> tuple[str, ...]:
    """A list, or text separated by blanks or commas; the word none is the empty list. Raises ``ValueError``."""
    if isinstance(value, str):
        found = tuple(word for word in re.split(r"[\s,]+", value) if word)
        if not found:
            raise ValueError("empty")
        return () if found == ("none",) else found
    if isinstance(value, list | tuple) and all(isinstance(word, str) and word.strip() for word in value):
        return tuple(value)
    raise ValueError("no list")


def levels(value: object) -> tuple[str, ...]:
    """``{rule: level}``, or words ``rule=level``. Raises ``ValueError``; whether there is such a rule is not asked."""
    if isinstance(value, Mapping):
        value = [f"{rule}={level}" for rule, level in value.items()]
    found = words(value)
    if not all(re.fullmatch(rf"[a-z][a-z0-9-]*=({'|'.join(LEVELS)})", word) for word in found):
        raise ValueError("not rule=level")
    if len({word.split("=")[0] for word in found}) < len(found):
        raise ValueError("a rule stands twice")
    return found


def tool(value: object) -> str:
    """Raises ``ValueError``."""
    from veza_tasks.migrations.tools import TOOLS

    if value not in TOOLS:
        raise ValueError("no tool that is known")
    return str(value)


def unknown_rules(found: tuple[str, ...]) -> list[str]:
    """Those of ``rule=level`` that no rule bears, as the end of a sentence with the nearest."""
    if not found:
        return []
    from difflib import get_close_matches

    from veza_tasks.migrations.rules import RULES

    said = []
    for name in (word.split("=")[0] for word in found):
        if name not in RULES:
            near = get_close_matches(name, RULES, n=1)
            said.append(f"{name!r}, which is no rule" + (f"; did you mean {near[0]}?" if near else "."))
    return said


def read(*, environ: Mapping[str, str], flags: Mapping[str, object], asks_git: bool = True) -> Configuration:
    """``flags`` go by the knobs' names; None, False and empty ones were not typed.

    Where git is not asked, folders and base do not matter, and a ``fabfile.yaml`` that sets no more is not parsed.

    Raises ``CannotTell`` with every problem, a line each.
    """
    problems: list[str] = []
    values: dict[str, Any] = dict(KNOBS)
    for label, found in (
        *_files(problems, asks_git),
        *(
            (f"environment {name.upper()}", {name: environ[name.upper()]})
            for name in KNOBS
            if name.upper() in environ
        ),
        *(
            (f"flag --{name.removeprefix('migrations_')}", {name: value})
            for name, value in flags.items()
            if value
        ),
    ):
        for name, value in found.items():
            if value == "" and KNOBS[name] is None:
                continue
            try:
                values[name] = _READERS[name](value)
            except ValueError:
                problems.append(f"{label}: {name} is {value!r}; wanted {wanted(name)}.")
    problems += [f"migrations_rules has {what}" for what in unknown_rules(values["migrations_rules"])]
    if problems:
        raise CannotTell("\n".join(problems))
    return Configuration(
        directories=values["migrations_dir"],
        base=values["migrations_base"],
        forced=values["force_migrate"],
        choices=Choices(
            tool=values["migrations_tool"],
            role=values["migrations_role"] or "",
            rules=values["migrations_rules"],
            strict=values["migrations_strict"],
        ),
    )


def pyproject() -> tuple[str, Mapping[str, object]]:
    """The nearest ``pyproject.toml`` with our table, and that table by the knobs' names; no file is ``""``.

    Raises ``CannotTell``.
    """
    for path in _upwards("pyproject.toml"):
        text = _text(path)
        if TABLE not in re.sub(rf'^{TABLE} *= *".*', "", text, flags=re.MULTILINE):  # the name of a script
            continue
        import tomllib

        try:
            tools = tomllib.loads(text).get("tool", {})
        except tomllib.TOMLDecodeError as error:
            raise CannotTell(f"{path}: not valid TOML: {error}.") from error
        if isinstance(tools, dict) and TABLE in tools:
            return path, _known(path, tools[TABLE], prefix="migrations_")
    return "", {}


def _files(problems: list[str], asks_git: bool) -> list[tuple[str, Mapping[str, object]]]:
    found = []
    for look in (pyproject, lambda: _fabfile(asks_git)):
        try:
            found.append(look())
        except CannotTell as error:
            problems.append(str(error))
    return found


def _fabfile(asks_git: bool) -> tuple[str, Mapping[str, object]]:
    wanted = r"migrations_|force_migrate" if asks_git else r"migrations_(?!(dir|base)\b)|force_migrate"
    for path in _upwards("fabfile.yaml"):
        text = _text(path)
        if not re.search(rf"^[^#\n]*({wanted})", text, re.MULTILINE):
            return path, {}
        import yaml

        try:
            document = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as error:
            raise CannotTell(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from error
        tree = _plain(document, depth=0)
        veza = tree.get("veza") if isinstance(tree, dict) else None
        ours = (
            {k: v for k, v in veza.items() if k.startswith("migrations_")} if isinstance(veza, dict) else {}
        )
        if isinstance(veza, dict) and "force_migrate" in veza:
            ours["force_migrate"] = veza["force_migrate"]
        return path, _known(path, ours)
    return "", {}


def _plain(node: Any, *, depth: int) -> object:
    """Texts, lists and tables of a YAML node: every scalar as it is written, so that off is no truth value."""
    if depth > 4 or node is None:
        return ""
    if node.id == "mapping":
        return {str(key.value): _plain(value, depth=depth + 1) for key, value in node.value}
    if node.id == "sequence":
        return [_plain(item, depth=depth + 1) for item in node.value]
    return str(node.value)


def _known(path: str, table: object, *, prefix: str = "") -> Mapping[str, object]:
    if not isinstance(table, dict):
        raise CannotTell(f"{path}: {TABLE} is no table.")
    named = {prefix + str(key).replace("-", "_"): value for key, value in table.items()}
    if unknown := sorted(set(named) - set(KNOBS)):
        known = ", ".join(name.removeprefix(prefix) for name in KNOBS if name.startswith(prefix))
        raise CannotTell(
            f"{path}: {unknown[0].removeprefix(prefix)} is not a setting of the linter; it has {known}."
        )
    return named


def _upwards(name: str) -> list[str]:
    """Where files of that name stand, the nearest first, up to the top of the repository."""
    found, folder = [], os.getcwd()
    while True:
        if os.path.isfile(path := os.path.join(folder, name)):
            found.append(os.path.relpath(path))
        parent = os.path.dirname(folder)
        if parent == folder or os.path.lexists(os.path.join(folder, ".git")):
            return found
        folder = parent


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise CannotTell(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeError as error:
        raise CannotTell(f"{path}: not UTF-8 text.") from error


def _switch(value: object) -> bool:
    text = str(value).lower()
    if text not in ("1", "true", "0", "false"):
        raise ValueError("not a switch")
    return text in ("1", "true")


def _line(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("no text")
    return value


_READERS: Mapping[str, Callable[[object], object]] = {
    "migrations_dir": words,
    "migrations_base": _line,
    "migrations_tool": tool,
    "migrations_role": _line,
    "migrations_rules": levels,
    "migrations_strict": _switch,
    "force_migrate": _switch,
}
