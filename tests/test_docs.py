"""The documents say what is: held against the tasks, the settings, the errors, the recipes and the tests themselves."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke import Program
from invoke.exceptions import ParseError
from invoke.parser import Parser

import tasks
from veza_tasks import errors
from veza_tasks.recipes import preflight, release
from veza_tasks.settings import knobs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
DOCUMENTS = ["README.md", "docs/runbook.md", "docs/safety.md", "docs/hooks.md", "CHANGELOG.md"]
KNOBS = {knob.name: knob for knob in knobs()}
STEPS = 8
"""Numbered steps of the runbook."""


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next heading of its rank or above."""
    level = title.partition(" ")[0]
    after = text.split(f"\n{title}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a section's tables, without headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]
    rules = [at for at, row in enumerate(cells) if set(row[0]) == {"-"}]
    return [row for at, row in enumerate(cells) if at not in rules and at + 1 not in rules]


def code(text: str) -> list[str]:
    """Code spans outside fenced blocks."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [span.strip() for _, span in re.findall(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", prose)]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)


def typed() -> Iterator[str]:
    """Every command line that starts ``inv``, perhaps behind assignments, in examples and in prose."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        shown = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
        spans = code(text) + [
            found for hook in blocks(text, "yaml") for found in re.findall(r"entry: \S*(inv .*?)}", hook)
        ]
        for line in [*shown, *spans]:
            command, _, comment = line.partition(" # ")
            for part in (command.split(" | ")[0], *re.split(r"[;:] ", comment)):
                if re.match(r"(?:[A-Z_]+=\S* )*inv(?= |$)", part.strip()):
                    yield part.strip()


def texts_of_the_program() -> list[str]:
    """Every literal of the package, the fixed parts of f-strings included."""
    sources = [*ROOT.glob("veza_tasks/**/*.py"), ROOT / "tasks.py"]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def functions_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def knob_table() -> str:
    def default(value: object) -> str:
        if value in (None, []):
            return ""
        said = " ".join(value) if isinstance(value, list) else str(value).lower() if value is False else value
        return f"`{said}`"

    lines = ["| Knob | Default | Unit | What it is |", "| --- | --- | --- | --- |"]
    for knob in knobs():
        name = f"`{knob.name}` (file only)" if knob.file_only else f"`{knob.name.upper()}`"
        lines.append(f"| {name} | {default(knob.default)} | {knob.unit} | {knob.help} |")
    return "\n".join(lines)


def test_the_readme_has_every_knob_with_its_default_and_unit() -> None:
    table = re.search(r"<!-- knobs: .*? -->\n(.*?)<!-- /knobs -->", README, re.DOTALL)
    assert table
    assert table[1].strip() == knob_table(), f"the table should be:\n\n{knob_table()}\n"


def test_every_task_is_documented_and_nothing_else_is() -> None:
    documented = [name for row in rows(section(README, "## Tasks")) for name in code(row[0])]
    assert sorted(documented) == sorted(tasks.ns.task_names)


def test_every_make_target_is_documented_and_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    named = {name for line in (README, RUNBOOK) for name in re.findall(r"(?:`|^)make ([a-z-]+)", line, re.M)}
    assert named == targets


def test_exit_codes_are_those_of_the_errors() -> None:
    documented = {row[0]: code(row[2]) for row in rows(section(README, "## Exit codes"))}
    actual: dict[str, set[str]] = {"0": set()}
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.ReleaseError) and not issubclass(error, errors.StepFailed):
            actual.setdefault(str(error.exit_code), set()).add(name)
    assert {number: set(names) for number, names in documented.items()} == actual
    assert [row[0] for row in rows(section(RUNBOOK, "## Running it again"))] == list(documented)


def test_every_preflight_row_is_documented_in_order_with_what_to_do() -> None:
    documented = rows(section(RUNBOOK, "## Pre-flight checklist"))
    assert sorted(code(row[0])[0] for row in documented) == sorted(preflight.ROWS)
    never = {code(row[0])[0] for row in documented if "Never accepted" in row[1]}
    assert never == preflight.NEVER_ACCEPTED
    assert all(row[2] for row in documented)


def test_the_numbered_steps_are_the_recipes_functions_in_its_order() -> None:
    numbered = {
        int(found[1]): name
        for name, function in inspect.getmembers(release, inspect.isfunction)
        if function.__module__ == release.__name__ and (found := re.match(r"(\d)\. ", function.__doc__ or ""))
    }
    documented = rows(section(README, "## The runbook and where its steps are"))
    titles = [row[0] for row in documented]
    assert [title.partition(".")[0] for title in titles] == [str(number + 1) for number in range(STEPS)]
    assert [code(row[3])[0] for row in documented[1:]] == [numbered[step] for step in range(2, STEPS + 1)]
    assert code(documented[0][3]) == [preflight.preflight.__name__]
    assert re.findall(r"^### (.*)$", section(RUNBOOK, "## What happens, in order"), re.MULTILINE) == titles


def test_steps_bear_the_names_that_the_screen_shows() -> None:
    for row in rows(section(README, "## The runbook and where its steps are")):
        function = code(row[3])[0]
        source = inspect.getsource(getattr(release, function, None) or preflight.preflight)
        shown = re.findall(r"run\.step\(\"([a-z-]+)\"", source)
        assert code(row[1]) == shown, f"step {row[0]}"


@pytest.mark.parametrize("line", sorted(set(typed())))
def test_every_command_line_names_a_task_and_flags_that_exist(line: str) -> None:
    words = shlex.split(line)
    while words[0] != "inv":
        knob, _, _ = words.pop(0).partition("=")
        assert knob.lower() in KNOBS or knob == "FLEET"
    try:
        # As Invoke does it: its own flags first, then tasks and theirs.
        core = Parser(initial=Program().initial_context, ignore_unknown=True).parse_argv(words[1:])
        Parser(contexts=tasks.ns.to_contexts()).parse_argv(core.unparsed)
    except ParseError as error:
        pytest.fail(f"{line}: {error}")
    assert core[0].args["help"].value in (None, *tasks.ns.task_names)


def test_flags_in_prose_exist() -> None:
    known = {flag for context in tasks.ns.to_contexts() for flag in context.flags}
    known |= set(Program().initial_context.flags)
    for document in DOCUMENTS:
        spans = code((ROOT / document).read_text())
        used = {word for span in spans if span.startswith("--") for word in span.split() if word[:2] == "--"}
        assert used <= known, document


def test_knobs_in_prose_exist() -> None:
    shape = re.compile(
        r"(?:SLI|PROM|HEALTH|DRAIN|LB|PEER|READY|MIGRATIONS|KEPT|POOL|INSTALL|CANARY|ROLLBACK)_[A-Z0-9_]+"
    )
    for document in DOCUMENTS:
        used = {found for span in code((ROOT / document).read_text()) for found in shape.findall(span)}
        assert {name.lower() for name in used} <= set(KNOBS), document


def test_defaults_in_the_runbook_are_the_defaults() -> None:
    said = re.findall(r"`([A-Z][A-Z0-9_]+)` \((\d[\d.]*)(?: s)?[,)]", RUNBOOK)
    assert len(said) > 5
    for name, value in said:
        assert float(value) == KNOBS[name.lower()].default, name


@pytest.mark.parametrize("name", sorted(tasks.HELP.keys() & KNOBS.keys()))
def test_a_flags_help_has_the_knobs_default_and_unit(name: str) -> None:
    knob, said = KNOBS[name], tasks.HELP[name]
    default = re.search(r"\(default ([^,) ]+)", said)
    plain = " ".join(knob.default) if isinstance(knob.default, list) else knob.default
    if isinstance(plain, str | int | float):
        assert default is not None, f"{name} has the default {plain}, its help names none"
    if default is not None and plain is not None:
        assert default[1] == str(plain)
    if knob.unit == "s":
        assert "in seconds" in said


def test_named_files_exist() -> None:
    for document in DOCUMENTS:
        for span in code((ROOT / document).read_text()):
            if (
                re.fullmatch(r"(?:veza_tasks|lab|tests|benchmarks|docs)/[\w./-]*", span)
                and "INCIDENT" not in span
            ):
                assert (ROOT / span).exists(), f"{document}: {span}"


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        base = (ROOT / document).parent
        for target in re.findall(r"\]\((?!https?://)([^)]+)\)", (ROOT / document).read_text()):
            name, _, anchor = target.partition("#")
            file = base / name if name else ROOT / document
            assert file.exists(), f"{document}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in slugs, f"{document}: {target}"


def test_troubleshooting_quotes_what_the_program_says() -> None:
    program = texts_of_the_program()
    for row in rows(section(README, "## Troubleshooting")):
        for quoted in code(row[0]):
            for part in filter(None, (part.strip() for part in quoted.split("…"))):
                assert any(part in text for text in program), part


def test_every_promise_names_a_test_that_exists() -> None:
    promises = re.search(r"<!-- promises -->\n(.*?)<!-- /promises -->", README, re.DOTALL)
    assert promises
    items = [item for item in re.split(r"^- ", promises[1], flags=re.MULTILINE) if item.strip()]
    assert items
    for item in items:
        named = re.findall(r"\[`(test_\w+)`\]\((tests/[\w/]+\.py)\)", item)
        assert named, f"no test holds: {item.strip()}"
        for test, file in named:
            assert test in functions_in(ROOT / file), f"{file} has no {test}"


def test_every_fault_of_the_safety_page_names_a_test_that_exists() -> None:
    faults = rows(section((ROOT / "docs" / "safety.md").read_text(), "## Faults and tests"))
    assert len(faults) > 5
    for fault in faults:
        named = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", fault[2])
        assert named, f"no test holds: {fault[0]}"
        for test, file in named:
            assert test in functions_in(ROOT / file), f"{file} has no {test}"
