"""CREATE, in all its forms that matter to the old binary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from veza_tasks.migrations.actions import (
    Action,
    CreateDomain,
    CreateFunction,
    CreateIndex,
    CreateObject,
    CreateTable,
    CreateTrigger,
    CreateType,
    CreateView,
    Membership,
    Name,
    Policy,
    Query,
    Tokens,
    Unbounded,
)
from veza_tasks.migrations.columns import default_of
from veza_tasks.migrations.cursor import (
    IDENTIFIERS,
    NOWHERE,
    Cursor,
    arguments_of,
    cast_name,
    kind_after,
    operator_name,
    split,
    type_name,
    whole,
)
from veza_tasks.migrations.lexer import Statement
from veza_tasks.migrations.queries import query

# CREATE


def create(cursor: Cursor, statement: Statement) -> Iterator[Action]:
    replace = cursor.accept("OR", "REPLACE")
    temporary = False
    while word := cursor.any_of("GLOBAL", "LOCAL", "TEMP", "TEMPORARY", "UNLOGGED", "RECURSIVE", "CONSTRAINT", "TRUSTED",
                                "PROCEDURAL", "DEFAULT"):  # fmt: skip
        temporary = temporary or word in ("TEMP", "TEMPORARY")
    head = cursor.peek()
    cursor.at += 1
    match head:
        case "TABLE":
            yield _create_table(cursor, "table", temporary)
            if cursor.words[cursor.at - 1] == "AS":
                yield from query(cursor, statement)
        case "FOREIGN" if cursor.accept("TABLE"):
            yield _create_table(cursor, "foreign table", False)
        case "FOREIGN":
            cursor.accept("DATA", "WRAPPER")
            yield CreateObject(
                *whole(cursor), "foreign-data wrapper", Name("", cursor.identifier()), None, True
            )
        case "VIEW":
            yield _create_view(cursor, "view", temporary, replace)
        case "MATERIALIZED":
            cursor.accept("VIEW")
            yield _create_view(cursor, "materialized view", False, replace)
            yield from query(cursor, statement)
        case "UNIQUE":
            cursor.accept("INDEX")
            yield from _create_index(cursor, True)
        case "INDEX":
            yield from _create_index(cursor, False)
        case "FUNCTION" | "PROCEDURE" | "AGGREGATE":
            yield _create_function(cursor, statement, head.lower(), replace)
        case "TRIGGER":
            yield _create_trigger(cursor)
        case "POLICY":
            yield policy(cursor, alter=False)
        case "RULE":
            rule = Name("", cursor.identifier())
            cursor.accept("AS", "ON")
            cursor.at += 1
            cursor.accept("TO")
            yield CreateObject(*whole(cursor), "rule", rule, cursor.name(), not replace)
        case "SCHEMA":
            yield from _create_schema(cursor, statement)
        case "TYPE":
            yield _create_type(cursor)
        case "DOMAIN":
            yield _create_domain(cursor)
        case "SEQUENCE":
            certain = not cursor.if_not_exists()
            name = cursor.name()
            yield CreateObject(
                *whole(cursor), "sequence", Name("pg_temp", name.name) if temporary else name, None, certain
            )
        case "ROLE" | "USER" | "GROUP":
            if head == "USER" and cursor.accept("MAPPING"):
                return
            yield CreateObject(*whole(cursor), "role", Name("", cursor.identifier()), None, True)
            for clause in cursor.until(";"):
                if clause.word == "IN":
                    yield from _in_role(cursor)
                    break
        case "DATABASE" | "TABLESPACE":
            yield Unbounded(*whole(cursor), f"CREATE {head}")
            yield CreateObject(*whole(cursor), head.lower(), Name("", cursor.identifier()), None, True)
        case "CAST":
            yield CreateObject(*whole(cursor), "cast", Name("", cast_name(cursor)), None, True)
        case "OPERATOR" | "TEXT":
            kind = kind_after(cursor, head)
            name = Name("", operator_name(cursor)) if kind == "operator" else cursor.name()
            yield CreateObject(*whole(cursor), kind, name, None, True)
        case "EXTENSION" | "COLLATION" | "CONVERSION" | "LANGUAGE" | "SERVER":
            certain = not (cursor.if_not_exists() or replace)
            yield CreateObject(*whole(cursor), head.lower(), cursor.name(), None, certain)
        case _:
            pass


def _in_role(cursor: Cursor) -> Iterator[Action]:
    again = Cursor(cursor.tokens)
    again.at = 2
    member = again.identifier()
    again.until("IN")
    if again.accept("IN") and again.any_of("ROLE", "GROUP"):
        yield Membership(*whole(cursor), True, tuple(again.names()), (member,))


def _create_table(cursor: Cursor, kind: str, temporary: bool) -> CreateTable:
    start, end = whole(cursor)
    unsure = cursor.if_not_exists()
    name = cursor.name()
    complete = True
    like: Name | None = None
    if cursor.accept("PARTITION", "OF") or cursor.accept("OF"):
        complete = False
        like = cursor.name()
    definition = cursor.group()
    drops_on_commit = False
    while not cursor.done:
        if cursor.accept("ON", "COMMIT"):
            drops_on_commit = cursor.accept("DROP")
        elif cursor.accept("AS"):
            complete = False
            break
        elif cursor.accept("INHERITS"):
            complete = False
        else:
            cursor.skip()
    return CreateTable(start, end, kind, name, temporary, unsure, definition, complete, like, drops_on_commit)


def _create_view(cursor: Cursor, kind: str, temporary: bool, replace: bool) -> CreateView:
    start, end = whole(cursor)
    unsure = cursor.if_not_exists()
    name = cursor.name()
    columns = [Cursor(item).identifier() for item in cursor.items()]
    if cursor.accept("USING"):
        cursor.identifier()
    options: set[str] = set()
    if cursor.accept("WITH"):
        options.update(view_options(cursor.items()))
    if cursor.accept("TABLESPACE"):
        cursor.identifier()
    cursor.accept("AS")
    first = cursor.at
    last = cursor.size
    words = cursor.words
    populated = True
    if words[-2:] == ["CHECK", "OPTION"]:
        options.add("check_option")
        last -= 3 if words[-3:-2] == ["WITH"] else 4
    elif words[-3:] == ["WITH", "NO", "DATA"]:
        populated = False
        last -= 3
    elif words[-2:] == ["WITH", "DATA"]:
        last -= 2
    query = _view_query(cursor.tokens[first:last], columns)
    return CreateView(
        start, end, kind, name, temporary, replace, unsure, query, frozenset(options), populated
    )


def view_options(items: Iterable[Tokens]) -> Iterator[str]:
    """The options of a view that take something from who reads or writes it."""
    for item in items:
        option = Cursor(item)
        name = option.identifier()
        value = option.string().lower() if option.accept("=") else "true"
        if name == "check_option" or (
            name == "security_invoker" and value in ("true", "on", "1", "yes", "t", "y")
        ):
            yield name


_NOT_PLAIN = frozenset(
    [
        "WHERE",
        "JOIN",
        "GROUP",
        "HAVING",
        "WINDOW",
        "UNION",
        "INTERSECT",
        "EXCEPT",
        "LIMIT",
        "OFFSET",
        "FETCH",
        "DISTINCT",
        "TABLESAMPLE",
        "NATURAL",
        "CROSS",
        "ORDER",
    ]
)


def _view_query(tokens: Tokens, renamed: list[str]) -> Query:
    while len(tokens) > 2 and tokens[0].text == "(" and tokens[-1].text == ")":
        tokens = tokens[1:-1]
    cursor = Cursor(tokens)
    unknown = Query(None, None, False, False)
    if cursor.accept("TABLE"):
        return Query(cursor.name(), None, True, not renamed and cursor.done)
    if not cursor.accept("SELECT"):
        return unknown
    plain = cursor.peek() not in ("DISTINCT", "FOR")
    cursor.accept("ALL")
    first = cursor.at
    cursor.until("FROM", "WHERE", "UNION", "GROUP")
    items = split(cursor.tokens[first : cursor.at])
    source = None
    alias = ""
    if cursor.accept("FROM"):
        cursor.accept("ONLY")
        source = cursor.name()
        if cursor.peek() == "(":  # a function
            source = None
        cursor.accept("*")
        cursor.accept("AS")
        if not cursor.done and cursor.peek() not in _NOT_PLAIN and cursor.peek() != ",":
            alias = cursor.identifier()
        if cursor.peek() == "ORDER":
            cursor.until("LIMIT", "OFFSET", "FETCH", "UNION")
        plain = plain and cursor.done and source is not None
    else:
        plain = False
    if source is None or not source.name:
        source = None
    everything = False
    columns: dict[str, str] | None = {}
    for position, item in enumerate(items):
        texts = [token.text for token in item]
        if texts and texts[-1] == "*":
            everything = True
            continue
        column = Cursor(item)
        name = column.name()
        simple = bool(name.name) and (
            not name.schema or name.schema in (alias, source.name if source else "")
        )
        output = name.name
        if column.peek() == "(" or not name.name or column.peek() in ("::", "["):
            simple = False
        if (
            len(item) > 1
            and item[-1].kind in IDENTIFIERS
            and (
                item[-2].word == "AS"
                or (item[-2].kind in IDENTIFIERS and len(item) > 1 and item[-2].text != ".")
            )
        ):
            output = item[-1].name
            simple = simple and (column.done or column.peek() == "AS" or column.at == len(item) - 1)
        elif not simple or not column.done:
            simple = False
            output = ""
        if position < len(renamed):
            output = renamed[position]
        if output and columns is not None:
            columns[output] = name.name if simple else ""
        else:
            columns = None
    if everything and renamed:
        everything = False
        columns = None
    return Query(source if plain else None, columns, everything, plain)


def _create_index(cursor: Cursor, unique: bool) -> Iterator[Action]:
    start, end = whole(cursor)
    concurrently = cursor.accept("CONCURRENTLY")
    if concurrently:
        yield Unbounded(start, end, "CREATE INDEX CONCURRENTLY")
    unsure = cursor.if_not_exists()
    name = "" if cursor.peek() == "ON" else cursor.identifier()
    cursor.accept("ON")
    cursor.accept("ONLY")
    table = cursor.name()
    if cursor.accept("USING"):
        cursor.identifier()
    elements = tuple(cursor.items())
    distinct = True
    predicate: Tokens = ()
    while not cursor.done:
        if cursor.accept("NULLS", "NOT", "DISTINCT"):
            distinct = False
        elif cursor.accept("WHERE"):
            predicate = cursor.tokens[cursor.at :]
            break
        else:
            cursor.skip()
    yield CreateIndex(start, end, name, table, unique, concurrently, unsure, elements, predicate, distinct)


def _create_function(cursor: Cursor, statement: Statement, kind: str, replace: bool) -> CreateFunction:
    name = cursor.name()
    items = cursor.items()
    arguments = (
        () if kind == "aggregate" and items and "=" in [t.text for t in items[0]] else arguments_of(items)
    )
    returns = ""
    definer = False
    while not cursor.done:
        if cursor.accept("RETURNS"):
            if cursor.accept("TABLE"):
                columns = [Cursor(item) for item in cursor.items()]
                returns = "table(" + ",".join(f"{c.identifier()} {type_name(c).name}" for c in columns) + ")"
            elif cursor.peek() == "NULL":
                continue
            else:
                many = cursor.peek() == "SETOF"
                returns = ("setof " if many else "") + type_name(cursor).name
        elif cursor.accept("SECURITY", "DEFINER"):
            definer = True
        elif cursor.accept("BEGIN", "ATOMIC"):
            break
        else:
            cursor.skip()
    if not returns:
        returns = ",".join(argument.type for argument in arguments if argument.mode in ("OUT", "INOUT"))
    return CreateFunction(*whole(cursor), kind, name, replace, arguments, returns, definer, statement)


def _create_trigger(cursor: Cursor) -> CreateTrigger:
    start, end = whole(cursor)
    name = cursor.identifier()
    timing = cursor.any_of("BEFORE", "AFTER", "INSTEAD")
    cursor.accept("OF")
    columns: list[str] = []
    events = []
    while not cursor.done and cursor.peek() != "ON":
        events.append(cursor.any_of("INSERT", "UPDATE", "DELETE", "TRUNCATE"))
        if cursor.accept("OF"):
            columns = cursor.names()
        if not cursor.accept("OR"):
            break
    cursor.accept("ON")
    table = cursor.name()
    each_row = False
    condition: Tokens = ()
    function = NOWHERE
    while not cursor.done:
        if cursor.accept("FOR"):
            cursor.accept("EACH")
            each_row = cursor.accept("ROW")
        elif cursor.accept("WHEN"):
            condition = cursor.group()
        elif cursor.accept("EXECUTE"):
            cursor.any_of("FUNCTION", "PROCEDURE")
            function = cursor.name()
            break
        else:
            cursor.skip()
    of = tuple(columns) if events == ["UPDATE"] else ()
    return CreateTrigger(start, end, name, table, function, timing, tuple(events), each_row, of, condition)


def policy(cursor: Cursor, *, alter: bool) -> Policy:
    start, end = whole(cursor)
    if alter:
        cursor.if_exists()
    name = cursor.identifier()
    cursor.accept("ON")
    table = cursor.name()
    permissive = True
    command = "ALL"
    roles: tuple[str, ...] = ()
    using: Tokens = ()
    check: Tokens = ()
    new_name = ""
    while not cursor.done:
        if cursor.accept("AS"):
            permissive = cursor.peek() != "RESTRICTIVE"
        elif cursor.accept("FOR"):
            command = cursor.any_of("ALL", "SELECT", "INSERT", "UPDATE", "DELETE") or "ALL"
        elif cursor.accept("RENAME", "TO"):
            new_name = cursor.identifier()
        elif cursor.accept("TO"):
            roles = tuple(cursor.names())
        elif cursor.accept("USING"):
            using = cursor.group()
        elif cursor.accept("WITH", "CHECK"):
            check = cursor.group()
        else:
            cursor.skip()
    return Policy(start, end, alter, name, table, permissive, command, roles, using, check, new_name)


def _create_schema(cursor: Cursor, statement: Statement) -> Iterator[Action]:

    from veza_tasks.migrations.grammar import actions  # its elements are statements, which are read there

    unsure = cursor.if_not_exists()
    name = "" if cursor.peek() == "AUTHORIZATION" else cursor.identifier()
    if cursor.accept("AUTHORIZATION"):
        role = cursor.identifier()
        name = name or role
    elements = cursor.at
    end = cursor.end(elements)
    yield CreateObject(cursor.offset(0), end, "schema", Name("", name), None, not unsure)
    while elements < cursor.size:
        cursor.at = elements + 1
        while not cursor.done and not (
            cursor.peek() in ("CREATE", "GRANT")
            and cursor.words[cursor.at - 1] not in ("SELECT", ",", ".", "AS")
        ):
            cursor.skip()
        part = statement._replace(tokens=cursor.tokens[elements : cursor.at])
        yield from actions(part, schema=name)
        elements = cursor.at


def _create_type(cursor: Cursor) -> CreateType:
    name = cursor.name()
    labels: tuple[str, ...] | None = None
    if cursor.accept("AS", "ENUM"):
        labels = tuple(token.value for item in cursor.items() for token in item[:1])
    return CreateType(*whole(cursor), name, labels)


def _create_domain(cursor: Cursor) -> CreateDomain:
    start, end = whole(cursor)
    name = cursor.name()
    cursor.accept("AS")
    base = type_name(cursor)
    not_null = False
    default: Tokens | None = None
    checks: list[Tokens] = []
    while not cursor.done:
        if cursor.accept("NOT", "NULL"):
            not_null = True
        elif cursor.accept("DEFAULT"):
            default = default_of(cursor)
        elif cursor.accept("CHECK"):
            checks.append(cursor.group())
        else:
            cursor.skip()
    return CreateDomain(start, end, name, base, not_null, default, tuple(checks))
