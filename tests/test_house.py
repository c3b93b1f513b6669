"""The house as it was designed: who may import whom, what is cheap to call, and how remote commands are made."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "veza_tasks"
GROUND = {"settings", "errors", "events", "clock"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that is imported anywhere in a file, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> int | None:
    """How high a module of ours stands: the ground is 0; ``None`` for what is not ours and for the package itself."""
    parts = module.split(".")
    if parts[0] != "veza_tasks" or len(parts) < 2:
        return None
    if parts[1] in GROUND:
        return 0
    if parts[1] in ("fleet", "run", "signals"):
        return 2
    return {"adapters": 1, "capabilities": 3, "recipes": 4, "screen": 5}.get(parts[1])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = room(name_of(path))
    for imported in imports(path):
        above = room(imported)
        assert own is None or above is None or above <= own, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", [path for path in MODULES if "migrations" in path.parts], ids=name_of)
def test_the_linter_is_a_house_of_its_own(path: Path) -> None:
    """And for a commit hook: it needs no more than sqlparse, and a YAML parser where a fabfile.yaml speaks of it."""
    ours = {name for name in imports(path) if name.startswith("veza_tasks.")}
    assert all(name.startswith("veza_tasks.migrations") for name in ours)
    others = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"veza_tasks"}
    assert others <= ({"yaml"} if path.stem == "configuration" else {"sqlparse"})


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("fabric", {"veza_tasks.adapters.ssh"}),
        ("paramiko", {"veza_tasks.adapters.ssh"}),
        ("requests", {"veza_tasks.adapters.haproxy", "veza_tasks.adapters.prometheus"}),
        ("rich", {"veza_tasks.screen"}),
        ("lab", set()),
        ("invoke", set()),
    ],
)
def test_each_real_system_is_spoken_to_in_one_place(library: str, homes: set[str]) -> None:
    users = {
        name_of(path) for path in MODULES if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users <= homes


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_f_string_becomes_a_command_and_no_environment_is_passed(path: Path) -> None:
    """Fabric joins ``env=`` unquoted, and an f-string would be quoted by nobody."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        # A hook is a program of ours; nothing joins its environment into a line.
        if "migrations" not in path.parts and path.stem != "hooks":
            assert "env" not in {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"
        if name in ("run", "sudo", "shell", "system", "popen", "Popen"):
            texts = [argument for argument in node.args if isinstance(argument, ast.JoinedStr)]
            assert not texts, f"{path}:{node.lineno}"
            assert not any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords)


@pytest.mark.parametrize("module", ["node", "deadman"])
def test_scripts_for_nodes_take_all_that_varies_as_parameters(module: str) -> None:
    """Only constants, of the module or of the other, may stand in a script; they are there before any input is."""
    tree = ast.parse((PACKAGE / "adapters" / f"{module}.py").read_text())
    constants = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    } | {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "veza_tasks.adapters.node"
        for alias in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.JoinedStr):
            used = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
            assert used <= constants


HEAVY = ("fabric", "paramiko", "requests", "rich")


@pytest.mark.parametrize(
    "arguments",
    [["--list"], ["--help", "canary"], ["config"], ["lint-migrations", "--path", "none"]],
    ids=" ".join,
)
def test_what_needs_no_fleet_loads_none_of_the_heavy_libraries(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom invoke.main import program\n"
        f"try:\n    program.run(['inv', *{arguments!r}])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"loaded = sorted(set({HEAVY!r}) & set(sys.modules))\nassert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "screen"], ids=name_of)
def test_no_error_is_swallowed_and_only_the_screen_prints(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: bare except"
            assert not all(isinstance(line, ast.Pass) for line in node.body), f"{path}:{node.lineno}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            raise AssertionError(f"{path}:{node.lineno} prints")
