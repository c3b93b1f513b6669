-- case: table
DROP TABLE sessions;
-- case: table-if-exists
DROP TABLE IF EXISTS sessions;
-- case: table-qualified-cascade
DROP TABLE public.users CASCADE;
-- case: table-quoted
DROP TABLE "Legacy Orders";
-- case: table-second-of-a-list
CREATE TABLE shelves (id integer);
DROP TABLE shelves, public."sessions";
-- case: table-if-exists-missing-and-present
DROP TABLE IF EXISTS no_such_table, sessions;
-- case: table-recreated
DROP TABLE sessions;
CREATE TABLE sessions (token text PRIMARY KEY, user_id bigint NOT NULL, ip inet, expires_at timestamptz, data jsonb);
-- case: table-renamed-then-dropped
ALTER TABLE sessions RENAME TO sessions_old;
DROP TABLE sessions_old;
-- case: table-other-schema
DROP TABLE audit.entries;
-- case: partition
DROP TABLE events_2025;
-- case: foreign-table
DROP FOREIGN TABLE countries;
-- case: foreign-table-if-exists
DROP FOREIGN TABLE IF EXISTS public.countries RESTRICT;
-- case: view
DROP VIEW track_stats;
-- case: view-list
DROP VIEW IF EXISTS active_users, contacts CASCADE;
-- case: view-recreated-the-same
DROP VIEW track_stats;
CREATE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
-- case: view-recreated-with-one-more-column
DROP VIEW active_users;
CREATE VIEW active_users AS SELECT id, email, username, display_name, bio FROM users WHERE deleted_at IS NULL;
-- case: view-recreated-in-other-transactions
BEGIN;
DROP VIEW track_stats;
COMMIT;
BEGIN;
CREATE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
COMMIT;
-- case: view-recreated-in-one-explicit-transaction
BEGIN;
DROP VIEW track_stats;
CREATE OR REPLACE VIEW public.track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
COMMIT;
-- case: view-recreated-without-a-column
-- needs: history
DROP VIEW active_users;
CREATE VIEW active_users AS SELECT id, email, username FROM users WHERE deleted_at IS NULL;
-- case: materialized-view
DROP MATERIALIZED VIEW top_tracks;
-- case: materialized-view-recreated
DROP MATERIALIZED VIEW IF EXISTS top_tracks;
CREATE MATERIALIZED VIEW top_tracks AS SELECT id, title, plays FROM tracks;
-- case: materialized-view-recreated-with-its-index
DROP MATERIALIZED VIEW top_tracks;
CREATE MATERIALIZED VIEW top_tracks AS SELECT id, title, plays FROM tracks;
CREATE UNIQUE INDEX top_tracks_by_id ON top_tracks (id);
-- case: materialized-view-recreated-empty
DROP MATERIALIZED VIEW top_tracks;
CREATE MATERIALIZED VIEW top_tracks AS SELECT id, title, plays FROM tracks WITH NO DATA;
-- case: materialized-view-recreated-as-a-view
DROP MATERIALIZED VIEW top_tracks;
CREATE VIEW top_tracks AS SELECT id, title, plays FROM tracks;
-- case: materialized-view-refreshed
REFRESH MATERIALIZED VIEW top_tracks;
-- case: materialized-view-refreshed-concurrently
REFRESH MATERIALIZED VIEW CONCURRENTLY top_tracks;
-- case: materialized-view-emptied
REFRESH MATERIALIZED VIEW top_tracks WITH NO DATA;
-- case: materialized-view-emptied-and-filled
REFRESH MATERIALIZED VIEW top_tracks WITH NO DATA;
REFRESH MATERIALIZED VIEW top_tracks WITH DATA;
-- case: sequence
DROP SEQUENCE invoice_number_seq CASCADE;
-- case: sequence-quoted
DROP SEQUENCE IF EXISTS "Ticket Numbers";
-- case: type-enum
DROP TYPE track_status CASCADE;
-- case: type-composite
DROP TYPE address CASCADE;
-- case: type-range
DROP TYPE IF EXISTS price_span;
-- case: type-range-recreated
DROP TYPE price_span;
CREATE TYPE price_span AS RANGE (subtype = numeric);
-- case: domain
DROP DOMAIN email_address CASCADE;
-- case: function-with-arguments
DROP FUNCTION slugify(text);
-- case: function-without-arguments
DROP FUNCTION user_count;
-- case: function-empty-parentheses
DROP FUNCTION IF EXISTS public.user_count();
-- case: function-with-argument-names
DROP FUNCTION slugify(input text);
-- case: function-second-of-a-list
CREATE FUNCTION fresh() RETURNS integer LANGUAGE sql AS 'SELECT 1';
DROP FUNCTION fresh(), slugify(text);
-- case: function-recreated
DROP FUNCTION slugify(text);
CREATE FUNCTION slugify(input text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower(replace(input, ' ', '-')) $$;
-- case: function-recreated-as-a-procedure
DROP FUNCTION slugify(text);
CREATE PROCEDURE slugify(input text) LANGUAGE sql AS $$ SELECT 1 $$;
-- case: function-recreated-as-an-aggregate
DROP FUNCTION slugify(text);
CREATE AGGREGATE slugify(text) (SFUNC = textcat, STYPE = text);
-- case: procedure-recreated-as-a-function
DROP PROCEDURE touch_user(bigint);
CREATE FUNCTION touch_user(who bigint) RETURNS void LANGUAGE sql AS 'UPDATE users SET login_count = login_count + 1 WHERE id = who';
-- case: routine-recreated
DROP ROUTINE slugify(text);
CREATE FUNCTION slugify(input text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower(replace(input, ' ', '-')) $$;
-- case: aggregate-recreated
DROP AGGREGATE product(numeric);
CREATE AGGREGATE product(numeric) (SFUNC = numeric_mul, STYPE = numeric, INITCOND = '1');
-- case: function-recreated-with-another-result
-- needs: history
DROP FUNCTION user_count();
CREATE FUNCTION user_count() RETURNS integer LANGUAGE sql STABLE AS 'SELECT count(*)::integer FROM users';
-- case: function-recreated-with-one-more-argument
DROP FUNCTION slugify(text);
CREATE FUNCTION slugify(input text, glue text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT replace(input, ' ', glue) $$;
-- case: function-recreated-with-an-optional-argument
DROP FUNCTION user_count();
CREATE FUNCTION user_count(only_active boolean DEFAULT false) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM users';
-- case: function-recreated-without-its-argument-default
-- needs: history
DROP FUNCTION track_price(bigint, numeric);
CREATE FUNCTION track_price(track bigint, discount numeric) RETURNS numeric LANGUAGE sql AS
    'SELECT price - discount FROM tracks WHERE id = track';
-- case: routine
DROP ROUTINE slugify(text);
-- case: procedure
DROP PROCEDURE touch_user(bigint);
-- case: procedure-recreated
DROP PROCEDURE IF EXISTS touch_user;
CREATE PROCEDURE touch_user(who bigint) LANGUAGE sql AS 'UPDATE users SET login_count = login_count + 1 WHERE id = who';
-- case: aggregate
DROP AGGREGATE product(numeric);
-- case: schema
DROP SCHEMA audit CASCADE;
-- case: schema-list
CREATE SCHEMA fresh;
DROP SCHEMA IF EXISTS fresh, billing CASCADE;
-- case: extension
DROP EXTENSION hstore;
-- case: extension-cascade
DROP EXTENSION IF EXISTS pg_trgm CASCADE;
-- case: cast
DROP CAST (bigint AS track_ref);
-- case: cast-if-exists
DROP CAST IF EXISTS (bigint AS public.track_ref) RESTRICT;
-- case: operator
DROP OPERATOR =~= (text, text);
-- case: collation
DROP COLLATION german;
-- case: text-search-configuration
DROP TEXT SEARCH CONFIGURATION titles;
-- case: server
DROP SERVER files CASCADE;
-- case: rule-that-makes-a-view-writable
DROP RULE contacts_update ON contacts;
-- case: owned
DROP OWNED BY app;
-- case: role
DROP ROLE app_billing;
-- case: role-as-user
DROP USER IF EXISTS app_billing;
-- case: role-as-group
DROP GROUP app_billing;
-- case: database
DROP DATABASE veza_jobs;
-- case: trigger
DROP TRIGGER users_updated_at ON users;
-- case: statistics
CREATE STATISTICS users_country_age ON country, age FROM users;
DROP STATISTICS users_country_age;
-- case: publication
CREATE PUBLICATION everything FOR ALL TABLES;
DROP PUBLICATION everything;
-- case: new-table
CREATE TABLE shelves (id integer);
DROP TABLE shelves;
-- case: new-table-cascade
CREATE TABLE shelves (id integer PRIMARY KEY);
CREATE VIEW shelf_ids AS SELECT id FROM shelves;
DROP TABLE public.shelves CASCADE;
-- case: new-table-if-not-exists-is-old
CREATE TABLE IF NOT EXISTS sessions (token text);
DROP TABLE sessions;
-- case: new-table-as-select
CREATE TABLE users_copy AS SELECT id, email FROM users;
DROP TABLE users_copy;
-- case: new-table-by-select-into
SELECT id, email INTO users_copy FROM users;
DROP TABLE users_copy;
-- case: new-table-like
CREATE TABLE users_copy (LIKE users INCLUDING ALL);
DROP TABLE users_copy;
-- case: new-table-unlogged
CREATE UNLOGGED TABLE cache (k text);
DROP TABLE cache;
-- case: new-table-in-a-new-schema
CREATE SCHEMA fresh CREATE TABLE shelves (id integer);
DROP TABLE fresh.shelves;
DROP SCHEMA fresh;
-- case: new-table-same-name-in-another-schema
CREATE TABLE audit.sessions (id integer);
DROP TABLE sessions;
-- case: new-table-in-another-schema
CREATE TABLE audit.sessions (id integer);
DROP TABLE audit.sessions;
-- case: new-table-quoted-like-an-old-one
CREATE TABLE "Sessions" (id integer);
DROP TABLE "Sessions";
-- case: new-table-quoted-but-the-old-one-dropped
CREATE TABLE "Sessions" (id integer);
DROP TABLE Sessions;
-- case: temporary-table
CREATE TEMP TABLE work (id integer) ON COMMIT DROP;
DROP TABLE work;
-- case: temporary-table-that-may-be-missing
DROP TABLE IF EXISTS pg_temp.work;
-- case: temporary-table-shadowing
CREATE TEMP TABLE sessions (id integer);
DROP TABLE sessions;
-- case: temporary-table-shadowing-dropped-twice
CREATE TEMP TABLE sessions (id integer);
DROP TABLE sessions;
DROP TABLE sessions;
-- case: temporary-table-shadowing-qualified
CREATE TEMP TABLE sessions (id integer);
DROP TABLE public.sessions;
-- case: new-view
CREATE VIEW names AS SELECT username FROM users;
DROP VIEW names;
-- case: new-or-replaced-view-is-old
CREATE OR REPLACE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
DROP VIEW track_stats;
-- case: new-function
CREATE FUNCTION fresh(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';
DROP FUNCTION fresh(integer);
-- case: new-overload
CREATE FUNCTION slugify(integer) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
DROP FUNCTION slugify(integer);
-- case: old-overload
CREATE FUNCTION slugify(integer) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
DROP FUNCTION slugify(text);
-- case: new-type
CREATE TYPE mood AS ENUM ('ok');
DROP TYPE mood;
-- case: new-sequence
CREATE SEQUENCE fresh_seq;
DROP SEQUENCE fresh_seq;
-- case: new-schema
CREATE SCHEMA fresh;
CREATE TABLE fresh.t (id integer);
DROP SCHEMA fresh CASCADE;
-- case: new-extension
CREATE EXTENSION citext;
DROP EXTENSION citext;
-- case: new-role
CREATE ROLE passing;
DROP ROLE passing;
-- case: new-domain
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
DROP DOMAIN positive;
-- case: new-aggregate
CREATE AGGREGATE total(integer) (SFUNC = int4pl, STYPE = integer);
DROP AGGREGATE total(integer);
-- case: new-index
CREATE INDEX idx_fresh ON users (age);
DROP INDEX idx_fresh;
-- case: in-a-string
INSERT INTO flags (key, value) VALUES ('hint', 'DROP TABLE users;');
-- case: in-a-comment-block
/*
DROP TABLE users;
*/
SELECT 1;
-- case: in-a-dollar-string
COMMENT ON TABLE users IS $note$DROP TABLE users; -- later$note$;
-- case: owner-by-reassign
REASSIGN OWNED BY reporting TO postgres;
-- case: table-rebuilt-with-its-rows
-- why: copied
CREATE TABLE sessions_new (LIKE sessions INCLUDING ALL);
INSERT INTO sessions_new SELECT * FROM sessions;
DROP TABLE sessions;
ALTER TABLE sessions_new RENAME TO sessions;
-- case: function-of-a-trigger-with-its-trigger
-- needs: history
DROP FUNCTION set_updated_at() CASCADE;
