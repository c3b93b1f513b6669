"""The rules: what each one is about, why, and how to get there without breaking the running binary.

`RULES` is what the documentation shows: reason and recipe with the names of the bad example. `message` fills the same words
with the user's own names. Every bad example fires its rule and no other, every good one is clean; the tests run them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Level = Literal["error", "warning"]


class Rule(NamedTuple):
    """`level` is "error" (breaks a statement of the running binary) or "warning" (locks, and passes)."""

    id: str
    level: Level
    title: str
    why: str
    recipe: str
    bad: str
    good: str


RULES: dict[str, Rule] = {}
_TEMPLATES: dict[str, tuple[str, str]] = {}


def message(rule: str, fields: Mapping[str, str], why: str = "") -> tuple[str, str]:
    """The reason and the recipe of a finding in the user's own names; `why` replaces the rule's own reason."""
    template, recipe = _TEMPLATES[rule]
    return (why or template).format_map(fields), recipe.format_map(fields)


def _rule(
    id: str, level: Level, title: str, why: str, recipe: str, bad: str = "", good: str = "", **example: str
) -> None:
    _TEMPLATES[id] = (why, recipe)
    RULES[id] = Rule(id, level, title, why.format_map(example), recipe.format_map(example), bad, good)


ERROR: Level = "error"
WARNING: Level = "warning"

# What is dropped

_rule(
    "drop-table",
    ERROR,
    "A table that the running binary uses is dropped",
    "Every statement of the running binary that names {table} fails: the table is gone, and its rows "
    "with it.",
    "Expand: release a binary that no longer uses {table}. Contract: drop {table} in the release after "
    "that one.",
    "DROP TABLE invoices;",
    "CREATE TABLE draft_invoices (id bigint);\nDROP TABLE draft_invoices;",
    table="invoices",
)
_rule(
    "drop-column",
    ERROR,
    "A column that the running binary uses is dropped",
    "Every statement of the running binary that names {table}.{column} fails: the column does not exist "
    "any more.",
    "Expand: release a binary that neither reads nor writes {table}.{column} (give it a default or DROP "
    "NOT NULL first, so that an INSERT may leave it out). Contract: drop the column in the release after "
    "that one.",
    "ALTER TABLE users DROP COLUMN nickname;",
    "SET lock_timeout = '5s';\nALTER TABLE users ALTER COLUMN nickname DROP NOT NULL;",
    table="users",
    column="nickname",
)
_rule(
    "drop-view",
    ERROR,
    "A view that the running binary uses is dropped",
    "Every query of the running binary on {name} fails: the {kind} does not exist any more.",
    "Create {name} again, with the columns it had, in the same transaction. To be rid of it: release a "
    "binary that does not use it, and drop it in the release after that one.",
    "DROP VIEW active_users;",
    "DROP VIEW active_users;\n"
    "CREATE VIEW active_users AS SELECT id, name FROM users WHERE active;\n"
    "GRANT SELECT ON active_users TO app;",
    name="active_users",
    kind="view",
)
_rule(
    "drop-type",
    ERROR,
    "A type that the running binary uses is dropped",
    "Every statement of the running binary that casts to {name} fails: the {kind} does not exist any more.",
    "Expand: release a binary that does not name {name}. Contract: drop it in the release after that one.",
    "DROP TYPE mood;",
    "CREATE TYPE mood_v2 AS ENUM ('calm', 'merry');",
    name="mood",
    kind="type",
)
_rule(
    "drop-function",
    ERROR,
    "A function that the running binary calls is dropped",
    "Every call of {name} by the running binary fails: no function of this name takes these arguments "
    "any more.",
    "Use CREATE OR REPLACE FUNCTION, or create {name} with the same arguments and result again in the "
    "same transaction. To be rid of it: release a binary that does not call it, and drop it in the "
    "release after that one.",
    "DROP FUNCTION total(bigint);",
    "DROP FUNCTION total(bigint);\n"
    "CREATE FUNCTION total(bigint) RETURNS numeric LANGUAGE sql AS 'SELECT 1.0';",
    name="total(bigint)",
)
_rule(
    "drop-sequence",
    ERROR,
    "A sequence that the running binary uses is dropped",
    "nextval on {name} by the running binary fails: the sequence is gone, and so is its position.",
    "Expand: release a binary that does not use {name}. Contract: drop it in the release after that one.",
    "DROP SEQUENCE invoice_numbers;",
    "CREATE SEQUENCE receipt_numbers;",
    name="invoice_numbers",
)
_rule(
    "drop-schema",
    ERROR,
    "A schema that the running binary uses is dropped",
    "Every statement of the running binary that names something in schema {name} fails.",
    "Expand: release a binary that uses nothing in {name}. Contract: drop the schema in the release "
    "after that one.",
    "DROP SCHEMA billing CASCADE;",
    "CREATE SCHEMA staging;\nDROP SCHEMA staging;",
    name="billing",
)
_rule(
    "drop-extension",
    ERROR,
    "An extension is dropped",
    "Statements of the running binary that use a function, type or operator of extension {name} fail.",
    "Expand: release a binary, and indexes and defaults, that do without {name}. Contract: drop it in "
    "the release after that one.",
    "DROP EXTENSION pg_trgm;",
    "CREATE EXTENSION IF NOT EXISTS pg_trgm;",
    name="pg_trgm",
)
_rule(
    "drop-object",
    ERROR,
    "A cast, operator, collation, language, server or the like is dropped",
    "Statements of the running binary that rely on {kind} {name} fail.",
    "Expand: release a binary that does without {kind} {name}. Contract: drop it in the release after "
    "that one.",
    "DROP COLLATION german;",
    "CREATE COLLATION german_phonebook (provider = icu, locale = 'de-u-co-phonebk');",
    kind="collation",
    name="german",
)
_rule(
    "drop-role",
    ERROR,
    "A role is dropped, or all that it owns",
    "The running binary cannot log in as {name}, or loses the rights it has through it.",
    "Release a binary that connects as another role first; drop {name} in the release after that one.",
    "DROP ROLE app;",
    "CREATE ROLE app_v2 LOGIN;",
    name="app",
)
_rule(
    "drop-database",
    ERROR,
    "A database is dropped",
    "The running binary loses its data and every connection: database {name} is gone.",
    "A migration is no place for this. Drop {name} by hand once nothing connects to it.",
    "DROP DATABASE shop;",
    "CREATE DATABASE shop_archive;",
    name="shop",
)
_rule(
    "drop-rule",
    ERROR,
    "A rewrite rule is dropped or disabled",
    "Statements of the running binary on {table} are no longer rewritten: without rule {name} they fail "
    "or write elsewhere.",
    "Use CREATE OR REPLACE RULE, or create {name} again in the same transaction.",
    "DROP RULE insert_order ON orders_view;",
    "COMMENT ON RULE insert_order ON orders_view IS 'kept for the running binary';",
    table="orders_view",
    name="insert_order",
)
_rule(
    "drop-policy",
    ERROR,
    "A row security policy is dropped",
    "The running binary no longer sees, or may no longer write, the rows of {table} that policy {name} "
    "let through.",
    "Create a policy that lets at least the same rows through in the same transaction (USING (true) is "
    "sure to), and drop {name} for good once the running binary is gone.",
    "DROP POLICY own_rows ON documents;",
    "CREATE POLICY all_rows ON documents USING (true);",
    table="documents",
    name="own_rows",
)
_rule(
    "drop-unique",
    ERROR,
    "A key that an upsert may rely on is dropped",
    "INSERT ... ON CONFLICT of the running binary on {table} fails if it relies on {name}: no unique or "
    "exclusion constraint matches.",
    "Create the replacement on the same columns first (CREATE UNIQUE INDEX CONCURRENTLY) and swap both "
    "in one transaction. To be rid of {name}: release a binary without that ON CONFLICT, and drop it in "
    "the release after that one. If {name} is no key, a name such as ..._check, ..._fkey or idx_... "
    "tells, and so does git where it has the earlier migrations: use inv lint-migrations.",
    "ALTER TABLE users DROP CONSTRAINT users_email_key;",
    "SET lock_timeout = '5s';\nALTER TABLE users DROP CONSTRAINT users_team_id_fkey;",
    table="users",
    name="users_email_key",
)
_rule(
    "drop-default",
    ERROR,
    "A column loses the default that old INSERTs rely on",
    "An INSERT of the running binary that leaves out {table}.{column} fails, or stores NULL: the column "
    "has no default any more.",
    "Keep the default until the running binary is gone; drop it in the release after the one that always "
    "writes {column}.",
    "ALTER TABLE orders ALTER COLUMN status DROP DEFAULT;",
    "SET lock_timeout = '5s';\nALTER TABLE orders ALTER COLUMN status SET DEFAULT 'open';",
    table="orders",
    column="status",
)
_rule(
    "drop-domain-default",
    ERROR,
    "A domain loses its default",
    "An INSERT of the running binary that leaves out a column of domain {name} stores NULL or fails: the "
    "domain has no default any more.",
    "Keep the default of {name} until the running binary is gone.",
    "ALTER DOMAIN currency DROP DEFAULT;",
    "ALTER DOMAIN currency SET DEFAULT 'EUR';",
    name="currency",
)

# What gets another name or place

_rule(
    "rename-table",
    ERROR,
    "A table, view or sequence gets another name or schema",
    "Every statement of the running binary that names {table} fails: it is called {new} now.",
    "Expand: in the same transaction, CREATE VIEW {table} AS SELECT * FROM {new} (PostgreSQL reads and "
    "writes through it). Contract: drop that view in a release after the binary that uses {new}.",
    "ALTER TABLE users RENAME TO accounts;",
    "SET lock_timeout = '5s';\n"
    "ALTER TABLE users RENAME TO accounts;\n"
    "CREATE VIEW users AS SELECT * FROM accounts;",
    table="users",
    new="accounts",
)
_rule(
    "rename-column",
    ERROR,
    "A column gets another name",
    "Every statement of the running binary that names {table}.{column} fails: the column is called {new} "
    "now.",
    "Expand: add {new} beside {column}, keep both in step with a trigger, fill {new} for the old rows. "
    "Contract: drop {column} in a release after the binary that uses {new} alone.",
    "ALTER TABLE users RENAME COLUMN name TO full_name;",
    "SET lock_timeout = '5s';\nALTER TABLE users ADD COLUMN full_name text;",
    table="users",
    column="name",
    new="full_name",
)
_rule(
    "rename-constraint",
    ERROR,
    "A key that an upsert may name gets another name",
    "INSERT ... ON CONFLICT ON CONSTRAINT {name} of the running binary on {table} fails: the constraint "
    "is called {new} now.",
    "Keep the name until the running binary is gone, or write ON CONFLICT (columns) in the code, release "
    "that, and rename afterwards.",
    "ALTER TABLE users RENAME CONSTRAINT users_email_key TO users_mail_key;",
    "SET lock_timeout = '5s';\nALTER TABLE users RENAME CONSTRAINT users_team_id_fkey TO users_team_fkey;",
    table="users",
    name="users_email_key",
    new="users_mail_key",
)
_rule(
    "rename-enum-value",
    ERROR,
    "A value of an enum gets another name",
    "Statements of the running binary that write or compare {old} fail: enum {name} does not have that "
    "value any more.",
    "Expand: ALTER TYPE {name} ADD VALUE {new}, and release a binary that understands both. Contract: "
    "update the rows once it runs everywhere.",
    "ALTER TYPE order_status RENAME VALUE 'open' TO 'pending';",
    "ALTER TYPE order_status ADD VALUE 'pending';",
    name="order_status",
    old="'open'",
    new="'pending'",
)
_rule(
    "rename-object",
    ERROR,
    "A function, type, schema, role or the like gets another name or schema",
    "Statements of the running binary that name {kind} {name} fail: it is {new} now.",
    "Expand: create {new} beside {name}, and release a binary that uses it. Contract: drop {name} in the "
    "release after that one.",
    "ALTER FUNCTION total(bigint) RENAME TO order_total;",
    "CREATE FUNCTION order_total(bigint) RETURNS numeric LANGUAGE sql AS 'SELECT 1.0';",
    kind="function",
    name="total(bigint)",
    new="order_total",
)

# Columns and types

_rule(
    "alter-column-type",
    ERROR,
    "The type of an existing column is changed",
    "The running binary gets another type for {table}.{column} than its queries were prepared for, and "
    "its writes may not fit.",
    "Expand: add a new column of type {type}, write both, fill it for the old rows, and release a binary "
    "that reads it. Contract: drop {column} in the release after that one.",
    "ALTER TABLE orders ALTER COLUMN total TYPE numeric(12, 2);",
    "SET lock_timeout = '5s';\nALTER TABLE orders ADD COLUMN total_exact numeric(12, 2);",
    table="orders",
    column="total",
    type="numeric(12, 2)",
)
_rule(
    "add-attribute",
    ERROR,
    "A composite type gets another attribute",
    "Values of type {name} that the running binary writes have one field too few, and those it reads one "
    "too many: {column}.",
    "Create a second type with {column}, and move columns and functions over to it with new ones beside "
    "the old.",
    "ALTER TYPE address ADD ATTRIBUTE country text;",
    "CREATE TYPE address_v2 AS (street text, city text, country text);",
    name="address",
    column="country",
)
_rule(
    "drop-attribute",
    ERROR,
    "A composite type loses an attribute",
    "Statements of the running binary that name attribute {column} of {name} fail, and the values are gone.",
    "Create a second type without {column}; drop {name} once no running binary uses it.",
    "ALTER TYPE address DROP ATTRIBUTE city;",
    "CREATE TYPE address_v2 AS (street text);",
    name="address",
    column="city",
)
_rule(
    "alter-attribute",
    ERROR,
    "An attribute of a composite type is renamed or gets another type",
    "The running binary reads and writes attribute {column} of {name} as it was.",
    "Create a second type, and move columns and functions over to it with new ones beside the old.",
    "ALTER TYPE address ALTER ATTRIBUTE city TYPE varchar(80);",
    "CREATE TYPE address_v2 AS (street text, city varchar(80));",
    name="address",
    column="city",
)
_rule(
    "add-required-column",
    ERROR,
    "A new column must be given, and old INSERTs do not know it",
    "Every INSERT of the running binary into {table} fails: it does not know {column}, which is NOT NULL "
    "without a default.",
    "Expand: add {column} with a DEFAULT, or without NOT NULL, and release a binary that writes it. "
    "Contract: fill the old rows, then drop the default or SET NOT NULL in the release after that one.",
    "ALTER TABLE orders ADD COLUMN channel text NOT NULL;",
    "SET lock_timeout = '5s';\nALTER TABLE orders ADD COLUMN channel text NOT NULL DEFAULT 'web';",
    table="orders",
    column="channel",
)
_rule(
    "set-not-null",
    ERROR,
    "An existing column must not be NULL any more",
    "An INSERT or UPDATE of the running binary that leaves {table}.{column} NULL fails.",
    "Release a binary that always writes {column} first, and fill the old rows. SET NOT NULL in the "
    "release after that one.",
    "ALTER TABLE users ALTER COLUMN phone SET NOT NULL;",
    "SET lock_timeout = '5s';\nALTER TABLE users ALTER COLUMN phone SET DEFAULT '';",
    table="users",
    column="phone",
)
_rule(
    "identity-always",
    ERROR,
    "A column can no longer be written explicitly",
    "An INSERT of the running binary that gives a value for {table}.{column} fails: the column is "
    "GENERATED ALWAYS now.",
    "Use GENERATED BY DEFAULT AS IDENTITY until no running binary writes {column}.",
    "ALTER TABLE orders ALTER COLUMN id SET GENERATED ALWAYS;",
    "SET lock_timeout = '5s';\nALTER TABLE orders ALTER COLUMN id SET GENERATED BY DEFAULT;",
    table="orders",
    column="id",
)
_rule(
    "drop-identity",
    ERROR,
    "A column is no longer filled by itself",
    "An INSERT of the running binary that leaves out {table}.{column} fails or stores NULL: nothing "
    "generates the value any more.",
    "Set a DEFAULT that gives the same values in the same transaction, or wait until no running binary "
    "leaves {column} out.",
    "ALTER TABLE orders ALTER COLUMN id DROP IDENTITY;",
    "SET lock_timeout = '5s';\n"
    "ALTER TABLE orders ALTER COLUMN id DROP IDENTITY;\n"
    "ALTER TABLE orders ALTER COLUMN id SET DEFAULT nextval('orders_id_seq');",
    table="orders",
    column="id",
)
_rule(
    "alter-generated",
    ERROR,
    "A generated column changes or is no longer generated",
    "The running binary reads {table}.{column} and relies on PostgreSQL computing it as before.",
    "Add another column for the new expression, and drop {column} once no running binary reads it.",
    "ALTER TABLE orders ALTER COLUMN total DROP EXPRESSION;",
    "SET lock_timeout = '5s';\nALTER TABLE orders ADD COLUMN total_net numeric;",
    table="orders",
    column="total",
)

# New constraints on what the running binary writes

_rule(
    "add-unique",
    ERROR,
    "Existing columns must be unique now",
    "An INSERT or UPDATE of the running binary on {table} that repeats a value of ({columns}) fails, "
    "which it did not before.",
    "Release a binary that never writes duplicates (and knows the error) first; clean up, and add the "
    "key in the release after that one.",
    "CREATE UNIQUE INDEX CONCURRENTLY users_phone_key ON users (phone);",
    "CREATE INDEX CONCURRENTLY idx_users_phone ON users (phone);",
    table="users",
    columns="phone",
)
_rule(
    "add-primary-key",
    ERROR,
    "An existing table gets a primary key",
    "An INSERT or UPDATE of the running binary on {table} that repeats or leaves out ({columns}) fails, "
    "which it did not before.",
    "Release a binary that always writes distinct values first; add the key in the release after that one.",
    "ALTER TABLE events ADD PRIMARY KEY (id);",
    "CREATE INDEX CONCURRENTLY idx_events_id ON events (id);",
    table="events",
    columns="id",
)
_rule(
    "add-exclusion",
    ERROR,
    "Existing rows exclude each other now",
    "An INSERT or UPDATE of the running binary on {table} that conflicts with another row fails, which "
    "it did not before.",
    "Release a binary that keeps to the rule first; add the constraint in the release after that one.",
    "ALTER TABLE bookings ADD CONSTRAINT no_overlap EXCLUDE USING gist (room WITH =, period WITH &&);",
    "CREATE INDEX CONCURRENTLY idx_bookings_period ON bookings USING gist (room, period);",
    table="bookings",
)
_rule(
    "add-foreign-key",
    ERROR,
    "Existing columns must refer to a row now",
    "An INSERT or UPDATE of the running binary on {table} with ({columns}) of no row in {name} fails, "
    "and so may its DELETE there; NOT VALID only spares the rows that exist.",
    "Release a binary that keeps to the rule first; add the foreign key in the release after that one.",
    "ALTER TABLE orders ADD CONSTRAINT orders_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) "
    "NOT VALID;",
    "SET lock_timeout = '5s';\nALTER TABLE orders ADD COLUMN shop_id bigint REFERENCES shops (id) NOT VALID;",
    table="orders",
    columns="user_id",
    name="users",
)
_rule(
    "add-check",
    ERROR,
    "Existing columns must satisfy a condition now",
    "An INSERT or UPDATE of the running binary on {table} that violates {name} fails, which it did not "
    "before; NOT VALID only spares the rows that exist.",
    "Release a binary that keeps to the rule first; add the constraint in the release after that one.",
    "ALTER TABLE orders ADD CONSTRAINT orders_total_check CHECK (total >= 0) NOT VALID;",
    "SET lock_timeout = '5s';\n"
    "ALTER TABLE orders ADD COLUMN discount numeric;\n"
    "ALTER TABLE orders ADD CONSTRAINT orders_discount_check CHECK (discount >= 0) NOT VALID;",
    table="orders",
    name="orders_total_check",
)
_rule(
    "failing-expression",
    ERROR,
    "An index or generated column computes what fails for some values",
    "An INSERT or UPDATE of the running binary on {table} fails where {part} does: {what} computes it from "
    "whatever is written.",
    "Let the expression come to NULL where it cannot be computed: CASE WHEN ... ~ '^[0-9]+$' THEN ... END for a cast, "
    "NULLIF(..., 0) for a divisor. Or make it a column that the new binary fills.",
    "CREATE INDEX CONCURRENTLY users_age ON users (((profile ->> 'age')::int));",
    "CREATE INDEX CONCURRENTLY users_age ON users ((profile ->> 'age'));",
    table="users",
    what="the index users_age",
    part="(profile ->> 'age')::int",
)
_rule(
    "restrict-domain",
    ERROR,
    "A domain allows less than before",
    "Values of domain {name} that the running binary writes may be refused after {what}, which they were "
    "not before.",
    "Release a binary that keeps to the rule first; restrict {name} in the release after that one.",
    "ALTER DOMAIN email ADD CONSTRAINT email_has_at CHECK (VALUE LIKE '%@%') NOT VALID;",
    "CREATE DOMAIN strict_email AS text CHECK (VALUE LIKE '%@%');",
    name="email",
    what="ADD CONSTRAINT",
)
_rule(
    "trigger-refuses",
    ERROR,
    "A trigger refuses or swallows writes",
    "A write of the running binary to {table} fails or has no effect: function {name} of its trigger "
    "raises an exception or returns NULL before a row is written.",
    "Let the trigger warn or correct, until no running binary makes such writes.",
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'closed'; END "
    "$$;\n"
    "CREATE TRIGGER orders_closed BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse();",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); "
    "RETURN NEW; END $$;\n"
    "CREATE TRIGGER orders_touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();",
    table="orders",
    name="refuse",
)
_rule(
    "create-rule",
    ERROR,
    "A rewrite rule is put on an existing table or view",
    "Statements of the running binary on {table} are rewritten by rule {name}: INSERT ... ON CONFLICT "
    "fails, others do something else.",
    "Use a trigger that leaves the old statements as they are, or put the rule on a new view.",
    "CREATE RULE log_orders AS ON INSERT TO orders DO ALSO INSERT INTO order_log DEFAULT VALUES;",
    "CREATE VIEW open_orders AS SELECT id FROM orders;\n"
    "CREATE RULE no_delete AS ON DELETE TO open_orders DO INSTEAD NOTHING;",
    table="orders",
    name="log_orders",
)

# Rows and partitions

_rule(
    "truncate",
    ERROR,
    "All rows of a table are removed",
    "The running binary finds {table} empty: TRUNCATE removes every row.",
    "Delete only rows that no running binary needs, with a condition.",
    "TRUNCATE sessions;",
    "DELETE FROM sessions WHERE expires_at < now();",
    table="sessions",
)
_rule(
    "delete-all",
    ERROR,
    "All rows of a table are deleted",
    "The running binary finds {table} empty: this DELETE has no condition.",
    "Delete only rows that no running binary needs, with a condition.",
    "DELETE FROM sessions;",
    "DELETE FROM sessions WHERE expires_at < now();",
    table="sessions",
)
_rule(
    "detach-partition",
    ERROR,
    "A partition or child table is taken out of its parent",
    "The running binary no longer finds the rows of {name} in {table}, and INSERTs of such rows fail.",
    "Detach {name} once no running binary needs its rows; attach what replaces it in the same transaction.",
    "ALTER TABLE events DETACH PARTITION events_2020;",
    "CREATE TABLE events_2030 PARTITION OF events FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');",
    table="events",
    name="events_2020",
)
_rule(
    "attach-partition",
    ERROR,
    "A table that the running binary writes becomes a partition",
    "An INSERT or UPDATE of the running binary on {name} that lies outside of the bound fails: as a partition "
    "of {table} it takes no other rows.",
    "Attach a new table and copy the rows into it in batches; or release a binary that writes to {name} only "
    "rows within the bound, and attach it in the release after that one.",
    "ALTER TABLE events ATTACH PARTITION old_events DEFAULT;",
    "CREATE TABLE events_2030 (LIKE events INCLUDING ALL);\n"
    "ALTER TABLE events ATTACH PARTITION events_2030 FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');",
    table="events",
    name="old_events",
)
_rule(
    "view-without-data",
    ERROR,
    "A materialized view is left without data",
    "Every query of the running binary on {name} fails: the materialized view has not been populated.",
    "Refresh {name} in the same transaction, or leave out WITH NO DATA.",
    "REFRESH MATERIALIZED VIEW order_totals WITH NO DATA;",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY order_totals;",
    name="order_totals",
)
_rule(
    "alter-sequence",
    ERROR,
    "A sequence is set back or bounded",
    "nextval on {name} by the running binary gives numbers that are taken, or none at all, after {what}.",
    "Leave the sequence as it is, or start a new one above every number in use.",
    "ALTER SEQUENCE invoice_numbers RESTART;",
    "ALTER SEQUENCE invoice_numbers CACHE 20;",
    name="invoice_numbers",
    what="RESTART",
)

# Rights

_rule(
    "row-security",
    ERROR,
    "Row security hides the rows of an existing table",
    "The running binary finds no row in {table} and may write none: row security is on, and no new "
    "policy lets everything through.",
    "In the same transaction, CREATE POLICY ... ON {table} USING (true); narrow it once the running "
    "binary is gone.",
    "ALTER TABLE documents ENABLE ROW LEVEL SECURITY;",
    "SET lock_timeout = '5s';\n"
    "ALTER TABLE documents ENABLE ROW LEVEL SECURITY;\n"
    "CREATE POLICY all_rows ON documents USING (true);",
    table="documents",
)
_rule(
    "restrictive-policy",
    ERROR,
    "A restrictive policy is put on an existing table",
    "The running binary no longer sees, or may no longer write, the rows of {table} that policy {name} "
    "shuts out.",
    "Release a binary that can live with it first; create the policy in the release after that one.",
    "CREATE POLICY own_team ON documents AS RESTRICTIVE USING (team_id = 1);",
    "CREATE POLICY own_team ON documents AS PERMISSIVE USING (team_id = 1);",
    table="documents",
    name="own_team",
)
_rule(
    "alter-policy",
    ERROR,
    "The condition of a row security policy changes",
    "The running binary may no longer see or write the rows of {table} that policy {name} let through.",
    "Create a second permissive policy beside {name}; drop {name} once no running binary needs it.",
    "ALTER POLICY own_rows ON documents USING (owner_id = 1);",
    "CREATE POLICY team_rows ON documents USING (team_id = 1);",
    table="documents",
    name="own_rows",
)
_rule(
    "revoke",
    ERROR,
    "A right that the running binary may need is taken away",
    "Statements of the running binary that need {what} on {name} fail: {role} has lost it.",
    "Release a binary that does without first; revoke in the release after that one. A swap is fine if "
    "the same right is granted again in the same transaction. Name the binary's role in the setting "
    "MIGRATIONS_ROLE, and other roles do not matter.",
    "REVOKE INSERT ON orders FROM app;",
    "GRANT INSERT ON orders TO app;",
    what="INSERT",
    name="orders",
    role="app",
)
_rule(
    "alter-role",
    ERROR,
    "A role or database no longer lets sessions in, or starts them differently",
    "New sessions of the running binary fail or see other objects: {what} on {kind} {name}.",
    "Set up a second role for the new binary, and change {name} once nothing connects with it any more.",
    "ALTER ROLE app NOLOGIN;",
    "ALTER ROLE app SET statement_timeout = '30s';",
    what="NOLOGIN",
    kind="role",
    name="app",
)
_rule(
    "alter-view-options",
    ERROR,
    "A view checks more than before",
    "Statements of the running binary on {table} may be refused: {what} makes the view check the rights "
    "of who reads it, or the rows that are written.",
    "Create a second view with the option, and release a binary that uses it.",
    "ALTER VIEW active_users SET (security_invoker = on);",
    "CREATE VIEW active_users_v2 WITH (security_invoker = on) AS SELECT id FROM users;",
    table="active_users",
    what="security_invoker",
)
_rule(
    "security-invoker",
    ERROR,
    "A function runs with the rights of its caller",
    "Calls of {name} by the running binary may fail: the function no longer has its owner's rights.",
    "Grant the role of the binary what the function needs and release that first, or create a second "
    "function.",
    "ALTER FUNCTION total(bigint) SECURITY INVOKER;",
    "ALTER FUNCTION total(bigint) SECURITY DEFINER;",
    name="total",
)
_rule(
    "ambiguous-function",
    ERROR,
    "A new function makes calls of an old one ambiguous",
    "Calls of {name} by the running binary fail: PostgreSQL cannot choose between it and the new {new}.",
    "Give the new function another name, or no defaults for the arguments that tell the two apart.",
    "",
    "",
    name="total(integer)",
    new="total(integer, text)",
)
_rule(
    "alter-foreign-options",
    ERROR,
    "A foreign table or server points elsewhere",
    "The running binary reads and writes {name} where it was before; the new options may lead elsewhere "
    "or nowhere.",
    "Create a second {kind} with the new options, and release a binary that uses it.",
    "ALTER FOREIGN TABLE rates OPTIONS (SET table_name 'rates_v2');",
    "SET lock_timeout = '5s';\nALTER FOREIGN TABLE rates OPTIONS (SET fetch_size '1000');",
    name="rates",
    kind="foreign table",
)

# What nobody can vouch for

_rule(
    "change-catalogue",
    ERROR,
    "PostgreSQL's own catalogue is written",
    "Nobody can say what the running binary meets after a write to {table}.",
    "Use the ALTER statement that is meant for it.",
    "UPDATE pg_enum SET enumlabel = 'pending' WHERE enumlabel = 'open';",
    "SELECT enumlabel FROM pg_enum;",
    table="pg_enum",
)
_rule(
    "unknown-statement",
    ERROR,
    "An ALTER or DROP that this linter does not know",
    "Nobody can say what {what} does to the statements of the running binary.",
    "Check it by hand. If it is harmless, allow this rule above the statement, with the reason.",
    "ALTER TABLE orders SPLIT PARTITION p INTO (PARTITION p1 DEFAULT);",
    "SET lock_timeout = '5s';\nALTER TABLE orders SET (fillfactor = 90);",
    what="ALTER TABLE ... SPLIT PARTITION",
)
_rule(
    "unresolved-dynamic-sql",
    ERROR,
    "A statement that is only put together when it runs",
    "Nobody can say what the running binary meets after {what}.",
    "Write the statement out, or build it from constants with format(). If it is harmless, allow this "
    "rule above the statement, with the reason.",
    "DO $$ BEGIN EXECUTE (SELECT command FROM todo LIMIT 1); END $$;",
    "DO $$ BEGIN EXECUTE format('COMMENT ON TABLE %I IS %L', 'orders', 'sales'); END $$;",
    what='a statement that is only known when it runs: "?command"',
)
_rule(
    "history-rewritten",
    ERROR,
    "A migration that is already on the base was changed",
    "A migration that was already released was edited, renamed or deleted: databases that have run it "
    "will not run it again, or refuse to start.",
    "Put the file back as it is on the base, and write the change as a new migration.",
)
_rule(
    "unreadable-migration",
    ERROR,
    "A migration that is not SQL",
    "Nobody here can read what this migration does to the statements of the running binary.",
    "Write the migration in SQL, or check it by hand and override with FORCE_MIGRATE=1.",
)
_rule(
    "bad-suppression",
    ERROR,
    "A comment that allows a rule, but not properly",
    "The comment names no known rule, or gives no reason.",
    "Write: -- veza-lint: allow RULE because REASON",
)
_rule(
    "unused-suppression",
    ERROR,
    "A comment allows a rule that finds nothing here",
    "The statement below the comment has no such finding: the comment would hide the next one.",
    "Remove the comment, or the rule from its list.",
)

# Locks and rewrites: they hurt, and pass

_rule(
    "index-not-concurrent",
    WARNING,
    "An index is built while writes have to wait",
    "INSERT, UPDATE and DELETE on {table} wait until the index is built.",
    "CREATE INDEX CONCURRENTLY, outside of a transaction.",
    "CREATE INDEX idx_orders_user ON orders (user_id);",
    "CREATE INDEX CONCURRENTLY idx_orders_user ON orders (user_id);",
    table="orders",
)
_rule(
    "drop-index-not-concurrent",
    WARNING,
    "An index is dropped while everything has to wait",
    "Every statement on the table of {name} waits while the index is dropped.",
    "DROP INDEX CONCURRENTLY, outside of a transaction.",
    "DROP INDEX idx_orders_user;",
    "DROP INDEX CONCURRENTLY idx_orders_user;",
    name="idx_orders_user",
)
_rule(
    "reindex-not-concurrent",
    WARNING,
    "An index is rebuilt while writes have to wait",
    "Writes, and reads that use the index, wait until {what} is done.",
    "REINDEX ... CONCURRENTLY, outside of a transaction.",
    "REINDEX TABLE orders;",
    "REINDEX TABLE CONCURRENTLY orders;",
    what="REINDEX TABLE orders",
)
_rule(
    "table-rewrite",
    WARNING,
    "A table is rewritten while everything has to wait",
    "Every statement on {table} waits until {what} has rewritten it.",
    "Add the column without a default, set the default, and fill the old rows in batches; or do it in a "
    "quiet hour.",
    "SET lock_timeout = '5s';\nALTER TABLE orders ADD COLUMN token uuid DEFAULT gen_random_uuid();",
    "SET lock_timeout = '5s';\n"
    "ALTER TABLE orders ADD COLUMN token uuid;\n"
    "ALTER TABLE orders ALTER COLUMN token SET DEFAULT gen_random_uuid();",
    table="orders",
    what="the new column token",
)
_rule(
    "validate-at-once",
    WARNING,
    "A constraint reads the whole table under a lock",
    "Writes to {table} wait until every row was checked for {name}.",
    "Add it NOT VALID, and VALIDATE CONSTRAINT in a later transaction.",
    "SET lock_timeout = '5s';\n"
    "ALTER TABLE orders ADD COLUMN shop_id bigint;\n"
    "ALTER TABLE orders ADD CONSTRAINT orders_shop_fk FOREIGN KEY (shop_id) REFERENCES shops (id);",
    "SET lock_timeout = '5s';\n"
    "ALTER TABLE orders ADD COLUMN shop_id bigint;\n"
    "ALTER TABLE orders ADD CONSTRAINT orders_shop_fk FOREIGN KEY (shop_id) REFERENCES shops (id) NOT "
    "VALID;",
    table="orders",
    name="orders_shop_fk",
)
_rule(
    "validate-in-same-transaction",
    WARNING,
    "A constraint is validated under the lock that added it",
    "Statements on {table} wait until every row was checked for {name}: the lock of ADD CONSTRAINT is "
    "held until the transaction ends.",
    "VALIDATE CONSTRAINT in a transaction of its own.",
    "SET lock_timeout = '5s';\n"
    "ALTER TABLE orders ADD COLUMN shop_id bigint;\n"
    "ALTER TABLE orders ADD CONSTRAINT orders_shop_fk FOREIGN KEY (shop_id) REFERENCES shops (id) NOT "
    "VALID;\n"
    "ALTER TABLE orders VALIDATE CONSTRAINT orders_shop_fk;",
    "ALTER TABLE orders VALIDATE CONSTRAINT orders_shop_fk;",
    table="orders",
    name="orders_shop_fk",
)
_rule(
    "missing-lock-timeout",
    WARNING,
    "A strong lock is waited for without limit",
    "If a long query runs on {table}, this statement waits for it, and every later statement on {table} "
    "waits behind it.",
    "SET lock_timeout = '5s' at the top of the file, and run the migration again if it gives up.",
    "ALTER TABLE orders ADD COLUMN note text;",
    "SET lock_timeout = '5s';\nALTER TABLE orders ADD COLUMN note text;",
    table="orders",
)
_rule(
    "lock-table",
    WARNING,
    "A table is locked explicitly",
    "Statements on {table} wait until the transaction ends.",
    "Do without LOCK TABLE, or keep the transaction short and set lock_timeout.",
    "SET lock_timeout = '5s';\nLOCK TABLE orders IN ACCESS EXCLUSIVE MODE;",
    "SELECT 1 FROM orders LIMIT 1;",
    table="orders",
)
_rule(
    "owner-changed",
    WARNING,
    "An object gets another owner",
    "If the running binary has its rights on {name} only as the owner, it loses them.",
    "Grant the role of the binary what it needs explicitly before the owner changes.",
    "SET lock_timeout = '5s';\nALTER TABLE orders OWNER TO dba;",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO app;",
    name="orders",
)
_rule(
    "drop-trigger",
    WARNING,
    "A trigger is dropped or disabled",
    "Writes of the running binary to {table} go through, but trigger {name} no longer does its part.",
    "Make sure that no running binary relies on {name}; create what replaces it in the same transaction.",
    "SET lock_timeout = '5s';\nDROP TRIGGER orders_audit ON orders;",
    "COMMENT ON TRIGGER orders_audit ON orders IS 'kept for the running binary';",
    table="orders",
    name="orders_audit",
)
_rule(
    "grants-lost",
    WARNING,
    "An object is made anew, and its grants are gone",
    "If rights on {name} were granted, they went with the old one; unless default privileges give them "
    "again, the running binary fails.",
    "GRANT the same rights on {name} again in the same transaction, or use CREATE OR REPLACE.",
    "DROP VIEW active_users;\nCREATE VIEW active_users AS SELECT id, name FROM users WHERE active;",
    "DROP VIEW active_users;\n"
    "CREATE VIEW active_users AS SELECT id, name FROM users WHERE active;\n"
    "GRANT SELECT ON active_users TO app;",
    name="active_users",
)
_rule(
    "concurrently-in-transaction",
    WARNING,
    "A statement that cannot run in a transaction is in one",
    "{what} fails inside a transaction: the migration will stop here.",
    "Move it to a file of its own, and tell the migration tool to run that without a transaction.",
    "BEGIN;\nCREATE INDEX CONCURRENTLY idx_orders_user ON orders (user_id);\nCOMMIT;",
    "CREATE INDEX CONCURRENTLY idx_orders_user ON orders (user_id);",
    what="CREATE INDEX CONCURRENTLY",
)
