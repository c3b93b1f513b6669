-- case: do-drop-column
DO $$
BEGIN
    ALTER TABLE users DROP COLUMN bio;
END $$;
-- case: do-single-quoted
DO 'BEGIN ALTER TABLE users DROP COLUMN bio; END';
-- case: do-escape-string
DO E'BEGIN\n  ALTER TABLE users ALTER COLUMN age TYPE bigint;\nEND';
-- case: do-language-first
DO LANGUAGE plpgsql $body$ BEGIN DROP TABLE sessions; END $body$;
-- case: do-language-last-quoted
DO $body$ BEGIN DROP TABLE sessions; END $body$ LANGUAGE 'plpgsql';
-- case: do-doubled-quotes
DO 'BEGIN
    COMMENT ON TABLE users IS ''it''''s'';
    ALTER TABLE users RENAME COLUMN bio TO about;
END';
-- case: do-in-a-condition
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM information_schema.columns WHERE table_name = 'users' AND column_name = 'bio') THEN
        ALTER TABLE users DROP COLUMN bio;
    END IF;
END $$;
-- case: do-in-an-else
DO $$
BEGIN
    IF to_regclass('users') IS NULL THEN
        RAISE NOTICE 'none';
    ELSIF false THEN
        NULL;
    ELSE
        ALTER TABLE users ALTER COLUMN role DROP DEFAULT;
    END IF;
END $$;
-- case: do-in-an-exception-handler
DO $$
DECLARE
    n integer := 0;
BEGIN
    PERFORM 1 / n;
EXCEPTION WHEN division_by_zero THEN
    DROP TABLE flags;
END $$;
-- case: do-after-a-label-and-a-loop
DO $$
<<outer>>
DECLARE i integer;
BEGIN
    FOR i IN 1..2 LOOP
        EXECUTE 'ALTER TABLE IF EXISTS sessions RENAME TO logins';
    END LOOP;
END $$;
-- case: do-case-statement
DO $$
BEGIN
    CASE current_setting('server_version_num')::integer > 0
        WHEN true THEN TRUNCATE sessions;
        ELSE NULL;
    END CASE;
END $$;
-- case: do-nested-block
DO $$
BEGIN
    BEGIN
        CREATE TABLE shelves (id integer);
        DROP VIEW track_stats;
    EXCEPTION WHEN duplicate_table THEN NULL;
    END;
END $$;
-- case: do-healed
DO $$
BEGIN
    ALTER TABLE users ALTER COLUMN role DROP DEFAULT;
    ALTER TABLE users ALTER COLUMN role SET DEFAULT 'artist';
END $$;
-- case: do-healed-outside
DO $$ BEGIN DROP VIEW track_stats; END $$;
CREATE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
-- case: do-new-table-inside-then-altered
DO $$ BEGIN CREATE TABLE shelves (id integer); ALTER TABLE shelves DROP COLUMN id; END $$;
ALTER TABLE shelves ADD COLUMN n integer NOT NULL;
-- case: do-creates-an-enum-if-missing
DO $$
BEGIN
    CREATE TYPE mood AS ENUM ('ok', 'bad');
EXCEPTION
    WHEN duplicate_object THEN NULL;
END $$;
ALTER TABLE users ADD COLUMN IF NOT EXISTS mood mood NOT NULL DEFAULT 'ok';
-- case: do-adds-a-column-if-missing
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'nick') THEN
        ALTER TABLE users ADD COLUMN nick text;
    END IF;
END $$;
-- case: do-only-raises-notices
DO $$ BEGIN RAISE NOTICE 'DROP TABLE users; %', 1; RAISE INFO 'ok'; END $$;
-- case: do-comments-and-strings
DO $$
DECLARE
    hint text := 'DROP TABLE users';
BEGIN
    -- ALTER TABLE users DROP COLUMN bio;
    /* DROP TABLE users; */
    PERFORM length(hint);
END $$;
-- case: do-sql-keyword-variables
DO $$
DECLARE
    drop_it boolean := false;
    "table" text := 'users';
BEGIN
    IF drop_it THEN RAISE NOTICE '%', "table"; END IF;
END $$;
-- case: do-updates-in-batches
-- why: update-is-a-write
DO $$
DECLARE n integer;
BEGIN
    LOOP
        UPDATE playlists SET note = '' WHERE id IN (SELECT id FROM playlists WHERE note IS NULL LIMIT 1);
        GET DIAGNOSTICS n = ROW_COUNT;
        EXIT WHEN n = 0;
    END LOOP;
END $$;
-- case: execute-literal
DO $$ BEGIN EXECUTE 'ALTER TABLE users DROP COLUMN bio'; END $$;
-- case: execute-dollar-literal
DO $$ BEGIN EXECUTE $q$ALTER TABLE users DROP COLUMN "bio"$q$; END $$;
-- case: execute-two-statements
DO $$ BEGIN EXECUTE 'CREATE TABLE shelves (id integer); DROP TABLE sessions;'; END $$;
-- case: execute-concatenated
DO $$ BEGIN EXECUTE 'ALTER TABLE ' || 'users' || ' DROP' || ' COLUMN bio'; END $$;
-- case: execute-concatenated-quote-ident
DO $$ BEGIN EXECUTE 'DROP TABLE ' || quote_ident('Legacy Orders'); END $$;
-- case: execute-format
DO $$ BEGIN EXECUTE format('ALTER TABLE %I.%I DROP COLUMN %I', 'public', 'users', 'bio'); END $$;
-- case: execute-format-positional
DO $$ BEGIN EXECUTE format('ALTER TABLE %2$I ALTER COLUMN %1$I DROP DEFAULT', 'role', 'users'); END $$;
-- case: execute-format-literal
DO $$ BEGIN EXECUTE format('COMMENT ON TABLE users IS %L', 'DROP TABLE users; it''s'); END $$;
-- case: execute-format-on-new-table
DO $$
BEGIN
    CREATE TABLE shelves (id integer);
    EXECUTE format('ALTER TABLE %I ADD COLUMN %I text NOT NULL', 'shelves', 'name');
END $$;
-- case: execute-variable
DO $$
DECLARE
    statement text := 'ALTER TABLE users DROP COLUMN bio';
BEGIN
    EXECUTE statement;
END $$;
-- case: execute-variable-assigned
DO $$
DECLARE
    what text;
    statement text;
BEGIN
    what := 'sessions';
    statement := 'DROP TABLE ' || what;
    EXECUTE statement;
END $$;
-- case: execute-harmless-variable
DO $$
DECLARE
    statement CONSTANT text := 'CREATE INDEX idx_users_age ON users (age)';
BEGIN
    EXECUTE statement;
END $$;
-- case: execute-into-using
DO $$
DECLARE n bigint;
BEGIN
    EXECUTE 'SELECT count(*) FROM users WHERE age > $1' INTO n USING 5;
END $$;
-- case: execute-create-index-format
DO $$ BEGIN EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %I (%I)', 'idx_users_age', 'users', 'age'); END $$;
-- case: execute-over-rows-drops
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT table_name FROM information_schema.columns WHERE column_name = 'bio' AND table_schema = 'public' LOOP
        EXECUTE format('ALTER TABLE %I DROP COLUMN bio', r.table_name);
    END LOOP;
END $$;
-- case: execute-over-rows-drops-tables
DO $$
DECLARE t text;
BEGIN
    FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'audit' LOOP
        EXECUTE 'DROP TABLE audit.' || quote_ident(t) || ' CASCADE';
    END LOOP;
END $$;
-- case: execute-over-rows-grants
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('GRANT SELECT ON %I TO reporting', r.tablename);
    END LOOP;
END $$;
-- case: execute-over-rows-adds-a-nullable-column
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['users', 'tracks'] LOOP
        EXECUTE format('ALTER TABLE %I ADD COLUMN region text', t);
    END LOOP;
END $$;
-- case: execute-over-rows-adds-a-required-column
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['flags', 'bookings'] LOOP
        EXECUTE format('TRUNCATE %I', t);
        EXECUTE format('ALTER TABLE %I ADD COLUMN region text NOT NULL', t);
    END LOOP;
END $$;
-- case: execute-unresolved
-- why: unresolved
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT value AS command FROM flags WHERE value LIKE 'COMMENT %' LOOP
        EXECUTE r.command;
    END LOOP;
END $$;
-- case: execute-over-rows-whole-statements
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT 'ANALYZE ' || quote_ident(tablename) AS command FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE r.command;
    END LOOP;
END $$;
-- case: execute-unresolved-setting
-- why: unresolved
DO $$ BEGIN EXECUTE coalesce(current_setting('app.ddl', true), 'SELECT 1'); END $$;
-- case: execute-do-in-execute
DO $outer$
BEGIN
    EXECUTE 'DO $inner$ BEGIN EXECUTE ''DROP TABLE sessions''; END $inner$';
END $outer$;
-- case: execute-do-in-execute-harmless
DO $outer$
BEGIN
    EXECUTE 'DO $inner$ BEGIN EXECUTE ''COMMENT ON TABLE users IS ''''DROP TABLE users''''''; END $inner$';
END $outer$;
-- case: execute-select-drop-text
DO $$ DECLARE t text; BEGIN EXECUTE 'SELECT ''DROP TABLE users''' INTO t; END $$;
-- case: gexec
SELECT 'ALTER TABLE users DROP COLUMN bio' \gexec
-- case: gset-and-variable
\set what bio
ALTER TABLE users DROP COLUMN :what;
-- case: called-function
CREATE FUNCTION migrate() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE users DROP COLUMN bio;
END $$;
SELECT migrate();
DROP FUNCTION migrate();
-- case: called-function-or-replace-in-pg-temp
CREATE OR REPLACE FUNCTION pg_temp.migrate() RETURNS void AS $$
BEGIN
    DROP TABLE sessions;
END $$ LANGUAGE plpgsql;
SELECT pg_temp.migrate();
-- case: called-function-by-perform
CREATE FUNCTION migrate() RETURNS void LANGUAGE plpgsql AS 'BEGIN DROP TABLE sessions; END';
DO $$ BEGIN PERFORM migrate(); END $$;
-- case: called-function-through-another
CREATE FUNCTION inner_step() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE sessions; END $$;
CREATE FUNCTION outer_step() RETURNS void LANGUAGE sql AS 'SELECT inner_step()';
SELECT * FROM outer_step();
-- case: called-sql-function
CREATE FUNCTION purge() RETURNS void LANGUAGE sql AS 'DELETE FROM sessions';
SELECT purge();
-- case: called-procedure
CREATE PROCEDURE migrate() LANGUAGE plpgsql AS $$ BEGIN ALTER TABLE users RENAME TO people; END $$;
CALL migrate();
-- case: called-in-an-insert
CREATE FUNCTION migrate() RETURNS text LANGUAGE plpgsql AS $$ BEGIN DROP TABLE sessions; RETURN 'k'; END $$;
INSERT INTO flags (key) SELECT migrate();
-- case: called-with-arguments-for-execute
CREATE FUNCTION drop_it(t text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('DROP TABLE %I', t); END $$;
SELECT drop_it('sessions');
-- case: called-harmless
CREATE FUNCTION add_index() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE INDEX idx_users_age ON users (age); END $$;
SELECT add_index();
DROP FUNCTION add_index();
-- case: not-called
CREATE FUNCTION cleanup() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE IF EXISTS sessions; TRUNCATE users; END $$;
-- case: not-called-but-mentioned
CREATE FUNCTION cleanup() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE sessions; END $$;
COMMENT ON FUNCTION cleanup() IS 'SELECT cleanup()';
GRANT EXECUTE ON FUNCTION cleanup() TO reporting;
-- case: not-called-execute-unresolved-inside
CREATE FUNCTION run(t text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE t; END $$;
-- case: called-as-trigger-only
CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM flags WHERE key = NEW.token; RETURN NEW; END $$;
CREATE TRIGGER sessions_tidy AFTER INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION tidy();
-- case: do-commit-inside
DO $$
BEGIN
    ALTER TABLE users ADD COLUMN nick text;
    COMMIT;
    ALTER TABLE users DROP COLUMN bio;
    COMMIT;
END $$;
-- case: drops-what-it-may-have-made
DO $$
DECLARE t text;
BEGIN
    FOR t IN SELECT tablename FROM pg_tables WHERE tablename = 'devices' UNION ALL SELECT 'spare' LOOP
        IF t = 'spare' THEN
            EXECUTE format('CREATE TABLE %I (id int)', t);
        END IF;
        EXECUTE format('DROP TABLE %I', t);
    END LOOP;
END $$;
