"""The judge of last resort: PostgreSQL itself.

A case is applied to a copy of the baseline database the way a deploy does. After each commit everything that the old
binary sends is sent again, as its role, each statement in a transaction of its own that is rolled back. The migration
is a break if something that worked before now fails, returns other columns or types, or misses rows.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from psycopg import pq

from tests.migrations.cases import BASELINE, OLD_BINARY, Case, File
from tests.migrations.postgres import Server, provide

DATABASE = "veza"
_TEMPLATE = "baseline"
_OTHER = "veza_jobs"
_PAUSE = b"***(press return to proceed or enter x and return to cancel)********************\n"
# How psql tells that a file does not bear a transaction around it: it begins or ends its own, or may not run in one.
_OWN_TRANSACTIONS = re.compile(r"(?:ERROR|WARNING):  (?:25001|25P01|2D000):")
_ROWS = re.compile(r"ERROR:  23...:.*SCHEMA NAME:  (\S+)\n.*TABLE NAME:  ([^\n]+)\n", re.DOTALL)
# Statements in one round trip, each a transaction; those after one that fails are sent again.
_TOGETHER = 25
_LEAVES = "bookings, orders, playlists, sessions, flags, devices"

Row = tuple[bytes | None, ...]


class Refused(Exception):
    """PostgreSQL does not apply the case, so it is none."""


class Call(NamedTuple):
    """A statement of the old binary; of a volatile one only columns and types are compared."""

    text: str
    volatile: bool = False


class Result(NamedTuple):
    """What a statement came back with: an error, or columns with their types, rows, number of rows touched."""

    error: str
    columns: tuple[tuple[str, str], ...] = ()
    rows: tuple[Row, ...] = ()
    touched: int = 0


class _OwnTransactions(Exception):
    pass


class _Rows(Exception):
    """Rows of the baseline stand in the way of a migration; where there are none, it is a break or not as ever."""

    def __init__(self, table: str, error: str) -> None:
        super().__init__(error)
        self.table = table


@dataclass(frozen=True)
class Judge:
    """A cluster with the baseline, and what the old binary gets from it, by the tables that were emptied first."""

    server: Server
    pristine: Server
    before: dict[tuple[str, ...], Mapping[Call, Result]]
    shared: list[Row]

    def broken(self, case: Case) -> str:
        """ "" if the old binary lives with it, else the statement that does not and how. Raises `Refused`."""
        unwrapped: set[str] = set()
        emptied: tuple[str, ...] = ()
        while True:
            try:
                before = self.before.get(emptied) or self.before.setdefault(emptied, self._before(emptied))
                with self._database(emptied):
                    found = ""
                    for file in case.deployed():
                        for _ in self._apply(file, wrapped=file.transaction and file.path not in unwrapped):
                            found = found or self._suffering(before)
                    return found
            except _OwnTransactions:
                unwrapped.add(file.path)
            except _Rows as error:
                known = ask(self.server, _TEMPLATE, f"SELECT to_regclass(nullif('{error.table}', ''))")
                table = error.table if known[0][0] else _LEAVES
                if table in emptied:
                    raise Refused(str(error)) from error
                emptied = (*emptied, table)

    def _before(self, emptied: tuple[str, ...]) -> Mapping[Call, Result]:
        with self._database(emptied):
            calls = [*_written(), *_made(self.server)]
            results = {call: after for call, _, after in send(self.server, dict.fromkeys(calls, Result("")))}
        refused = [f"{call.text}: {results[call].error}" for call in _written() if results[call].error]
        assert emptied or not refused, "the old binary never worked: " + "\n".join(refused)
        return {call: result for call, result in results.items() if not result.error}

    @contextmanager
    def _database(self, emptied: tuple[str, ...]) -> Iterator[None]:
        ask(self.server, "postgres", f"CREATE DATABASE {DATABASE} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
        try:
            for table in emptied:
                ask(self.server, DATABASE, f"TRUNCATE {table} CASCADE")
            yield
        finally:
            self._restore()

    def _apply(self, file: File, *, wrapped: bool) -> Iterator[None]:
        """Runs a file and yields after each commit."""
        path = self.server.folder / "migration.sql"
        path.write_bytes(file.data)
        if not wrapped:
            yield from self._step(path, file)
            return
        command = self.server.psql(DATABASE, "-1", "-f", path)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if _OWN_TRANSACTIONS.search(done.stderr.decode()):
            raise _OwnTransactions
        if done.returncode:
            raise _refusal(file, done.stderr.decode())
        yield

    def _step(self, path: Path, file: File) -> Iterator[None]:
        """Statement by statement, as psql cuts them: whenever it is idle outside of a transaction, that was a commit."""
        command = self.server.psql(DATABASE, "-s", "-f", path)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as psql:
            assert psql.stdin
            assert psql.stdout
            assert psql.stderr
            first = True
            for line in psql.stdout:
                if line == _PAUSE:
                    if not first and self._outside_of_a_transaction():
                        yield
                    first = False
                    psql.stdin.write(b"\n")
                    psql.stdin.flush()
            error = psql.stderr.read().decode()
        if psql.returncode:
            raise _refusal(file, error)
        yield

    def _outside_of_a_transaction(self) -> bool:
        states = "SELECT DISTINCT state FROM pg_stat_activity WHERE application_name = 'psql'"
        return ask(self.server, "postgres", states) == [(b"idle",)]

    def _suffering(self, calls: Mapping[Call, Result]) -> str:
        try:
            for call, before, after in send(self.server, calls):
                if worse := _worse(before, after, call):
                    return f"{call.text} -- {worse}"
        except ConnectionError as error:
            return f"connecting -- {error}"
        return ""

    def _restore(self) -> None:
        """Roles, their settings and databases belong to the whole cluster."""
        ask(self.server, "postgres", f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        if _shared(self.server) != self.shared:
            self.server.stop(mode="immediate")
            shutil.rmtree(self.server.folder)
            self.pristine.copy(self.server.folder)
            self.server.start()


def _refusal(file: File, error: str) -> Exception:
    found = _ROWS.search(error)
    if found:
        return _Rows(f'"{found[1]}"."{found[2]}"', error)
    # A domain's own constraint does not say whose rows they are.
    return _Rows("", error) if "ERROR:  23" in error else Refused(f"{file.path}: {error}")


def judge_all(cases: Sequence[Case], folder: Path, *, workers: int = 2) -> dict[str, str | Refused]:
    """What breaks, by case, on a cluster of each worker's own in `folder`. Raises `postgres.Missing`."""
    pristine = Server(provide(), folder / "pristine")
    pristine.make()
    _fill(pristine)
    judges: SimpleQueue[Judge] = SimpleQueue()
    servers = [pristine.copy(folder / str(number)) for number in range(workers)]
    try:
        for server in servers:
            server.start()
            judges.put(Judge(server, pristine, {}, _shared(server)))

        def one(case: Case) -> str | Refused:
            judge = judges.get()
            try:
                return judge.broken(case)
            except Refused as error:
                return error
            finally:
                judges.put(judge)

        with ThreadPoolExecutor(workers) as pool:
            return dict(zip([case.name for case in cases], pool.map(one, cases), strict=True))
    finally:
        for server in servers:
            server.stop(mode="immediate")


def _fill(server: Server) -> None:
    server.start()
    try:
        for database in (_TEMPLATE, _OTHER):
            ask(server, "postgres", f"CREATE DATABASE {database}")
        command = server.psql(_TEMPLATE, "-f", BASELINE)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        server.stop()


def _shared(server: Server) -> list[Row]:
    return ask(
        server,
        "postgres",
        "SELECT 'role', to_jsonb(r) - 'oid' FROM pg_authid r UNION ALL SELECT 'member', to_jsonb(m) FROM pg_auth_members m"
        " UNION ALL SELECT 'setting', to_jsonb(s) FROM pg_db_role_setting s"
        " UNION ALL SELECT 'database', to_jsonb(d.*) - 'datfrozenxid' - 'datminmxid' FROM pg_database d ORDER BY 1, 2",
    )


def ask(server: Server, database: str, text: str) -> list[Row]:
    """The rows of one statement, as superuser."""
    connection = _connect(server, database, "postgres")
    try:
        result = _send(connection, text)[-1]
        assert not result.error, f"{text}: {result.error}"
        return list(result.rows)
    finally:
        connection.finish()


def send(server: Server, calls: Mapping[Call, Result]) -> Iterator[tuple[Call, Result, Result]]:
    """All that the old binary sends, with what was there before and what it gets now.

    Raises `ConnectionError` when its role may no longer connect.
    """
    types = {
        int(row[0] or 0): (row[1] or b"").decode()
        for row in ask(server, DATABASE, "SELECT oid, typname FROM pg_type")
    }
    _connect(server, _OTHER, "app").finish()
    connection = _connect(server, DATABASE, "app")
    try:
        waiting = list(calls.items())
        while waiting:
            some = waiting[:_TOGETHER]
            # What a statement left for the end of the transaction counts too.
            texts = (f"BEGIN; {call.text}; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK" for call, _ in some)
            results = _send(connection, "; ".join(texts), types)
            error = results[-1] if results[-1].error else None
            passed = len(results) // 4 if not error else (len(results) - 1) // 4
            for number, (call, before) in enumerate(some[:passed]):
                yield call, before, results[4 * number + 1]
            if error:
                _send(connection, "ROLLBACK")
                yield *some[passed], error
            waiting = waiting[passed + bool(error) :]
    finally:
        connection.finish()


def _connect(server: Server, database: str, user: str) -> pq.abc.PGconn:
    connection = pq.PGconn.connect(server.conninfo(database, user).encode())
    if connection.status != pq.ConnStatus.OK:
        message = connection.get_error_message().rpartition("FATAL:  ")[2].strip()
        connection.finish()
        raise ConnectionError(message)
    connection.notice_handler = None
    return connection


def _send(connection: pq.abc.PGconn, text: str, types: Mapping[int, str] | None = None) -> list[Result]:
    """The results of all statements in one round trip; an error is the last."""
    connection.send_query(text.encode())
    results = []
    while result := connection.get_result():
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        columns = range(result.nfields)
        results.append(
            Result(
                f"{state} {message}" if result.status == pq.ExecStatus.FATAL_ERROR else "",
                tuple(
                    ((result.fname(c) or b"").decode(), (types or {}).get(result.ftype(c), ""))
                    for c in columns
                ),
                tuple(tuple(result.get_value(row, c) for c in columns) for row in range(result.ntuples)),
                result.command_tuples or 0,
            )
        )
    return results


def _worse(before: Result, after: Result, call: Call) -> str:
    """What the old binary would notice."""
    if after.error:
        return after.error
    if after.columns != before.columns:
        return f"returns {after.columns}, was {before.columns}"
    if not call.volatile and (lost := Counter(before.rows) - Counter(after.rows)):
        return f"misses {next(iter(lost))}"
    if after.touched < before.touched:
        return f"{after.touched} rows instead of {before.touched}"
    return ""


def _written() -> Iterator[Call]:
    volatile = False
    for line in OLD_BINARY.read_text().splitlines():
        if line.startswith("--"):
            volatile = line == "-- volatile"
        else:
            yield Call(line.removesuffix(";"), volatile)
            volatile = False


# Values that a column's type alone does not tell; {} is the number of the row.
_FITTING = {
    "users.email": "'generated{}@veza.example'",
    "orders.status": "'new'",
    "orders.contact": "'a@b'",
    "orders.user_id": "1",
    "tracks.artist_id": "1",
    "tracks.duration_ms": "5",
    "bookings.during": "'[2040-01-0{},2040-01-0{}]'",
    "events.happened_on": "'2026-02-02'",
    "events_2025.happened_on": "'2025-02-02'",
    "events_2026.happened_on": "'2026-02-02'",
    "events_rest.happened_on": "'2035-02-02'",
    "playlist_tracks.playlist_id": "'00000000-0000-0000-0000-000000000002'",
    "playlist_tracks.track_id": "{}",
}
# By type: a value that fits (a unique column gets the row's number in it), then the bounds of what it takes.
_VALUES: Mapping[str, tuple[str, ...]] = {
    "int4": ("{}", "0", "-1", "2147483647"),
    "int8": ("{}", "0", "-1", "9223372036854775807"),
    "numeric": ("1.5", "0", "-99999999.99"),
    "bool": ("true", "false"),
    "text": ("'v{}'", "''", "repeat('x', 3000)", "'Ünïcode '' \\ 🎵'"),
    "varchar": ("'v{}'", "''", "repeat('x', 10)"),
    "bpchar": ("'de'", "''"),
    "jsonb": ("'{{}}'", "'null'", "'[1]'"),
    "timestamptz": ("'2026-01-01'", "'infinity'", "'-infinity'"),
    "date": ("'2026-01-01'", "'infinity'", "'1900-01-01'"),
    "uuid": ("'00000000-0000-0000-0000-{:012d}'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"),
    "inet": ("'10.0.0.1'", "'::1'"),
    "_text": ("'{{a}}'", "'{{}}'", "'{{NULL}}'"),
    "address": ("'(a,b,c)'", "'(,,)'"),
    "user_role": ("'artist'", "'listener'", "'admin'"),
    "track_status": ("'draft'", "'published'", "'hidden'"),
    "tstzrange": ("'[2040-01-0{},2040-01-0{}]'", "'empty'"),
}


class _Column(NamedTuple):
    name: str
    required: bool
    nullable: bool
    given: bool
    unique: bool
    default: bool


def _made(server: Server) -> Iterator[Call]:
    """Of every table: all read; rows inserted in full, with the least, with each column omitted that has a default and NULL
    in each that may be; each column written with the bounds of its type; deleted."""
    rows = ask(
        server,
        DATABASE,
        """
        SELECT a.attrelid::regclass::text, c.relname, quote_ident(a.attname), coalesce(b.typname, t.typname),
            a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', NOT a.attnotnull, a.atthasdef OR a.attidentity <> '',
            a.attgenerated = '' AND a.attidentity <> 'a',
            EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey)
                    AND (i.indisunique OR i.indisexclusion)), a.attname
        FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)
        WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND c.relnamespace > 16000 OR
            c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0
        ORDER BY c.oid, a.attnum
        """,
    )
    tables: dict[str, list[_Column]] = {}
    values: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in rows:
        table, bare, name, kind, required, nullable, default, given, unique, plain = (
            (cell or b"").decode() for cell in row
        )
        tables.setdefault(table, []).append(
            _Column(name, required == "t", nullable == "t", given == "t", unique == "t", default == "t")
        )
        first, *bounds = _VALUES[kind]
        fitting = _FITTING.get(f"{bare}.{plain}", first)
        values[table, name] = (fitting if unique == "t" else fitting.replace("{}", "1"), *bounds)
    for table, columns in tables.items():
        yield Call(f"SELECT {', '.join(column.name for column in columns)} FROM {table}")
        writable = [column for column in columns if column.given]
        insert = partial(_insert, table, values)
        yield insert(writable)
        yield insert([column for column in writable if column.required])
        empty = not ask(server, DATABASE, f"SELECT FROM {table} LIMIT 1")
        for column in writable:
            if column.nullable:
                yield insert(writable, {column.name: "NULL"})
            if column.default:
                yield insert([other for other in writable if other != column])
            bounds = [value.format(7, 8) for value in values[table, column.name]]
            if empty:
                yield from (insert(writable, {column.name: bound}) for bound in bounds[1:])
                continue
            where = (
                f" WHERE {column.name} = (SELECT min({column.name}) FROM {table})" if column.unique else ""
            )
            for bound in (*bounds, *(["NULL"] if column.nullable else [])):
                yield Call(f"UPDATE {table} SET {column.name} = {bound}{where}")
        yield Call(f"DELETE FROM {table}")


def _insert(
    table: str,
    values: Mapping[tuple[str, str], tuple[str, ...]],
    columns: Sequence[_Column],
    other: Mapping[str, str] = {},
) -> Call:
    """Two rows that are alike but for what is unique; `other` has values in place of those that fit."""
    rows = (
        ", ".join(
            other.get(column.name, values[table, column.name][0].format(*[number] * 2)) for column in columns
        )
        for number in _numbers(table)
    )
    names = ", ".join(column.name for column in columns)
    return Call(f"INSERT INTO {table} ({names}) VALUES {', '.join(f'({row})' for row in rows)}")


def _numbers(table: str) -> tuple[int, int]:
    return (1, 3) if table == "playlist_tracks" else (7, 8) if table == "bookings" else (900007, 900008)
