-- case: new-table-in-an-earlier-file
-- file: 0001_shelves.sql
CREATE TABLE shelves (id integer, name text);
-- file: 0002_shelves.sql
ALTER TABLE shelves DROP COLUMN name, ALTER COLUMN id TYPE bigint;
-- file: 0003_shelves.sql
DROP TABLE shelves;
-- case: new-column-in-an-earlier-file
-- file: 0001_nick.sql
ALTER TABLE users ADD COLUMN nick text;
-- file: 0002_nick.sql
ALTER TABLE users RENAME COLUMN nick TO nickname;
-- file: 0003_nick.sql
ALTER TABLE public."users" DROP COLUMN nickname;
-- case: new-column-made-required-later
-- file: 0001_nick.sql
ALTER TABLE users ADD COLUMN nick text;
-- file: 0002_nick.sql
UPDATE users SET nick = '';
ALTER TABLE users ALTER COLUMN nick SET NOT NULL;
-- case: healed-by-a-later-file
-- file: 0001_drop.sql
DROP VIEW track_stats;
-- file: 0002_create.sql
CREATE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
-- case: default-in-an-earlier-file
-- file: 0001_nick.sql
ALTER TABLE playlists ADD COLUMN tone text DEFAULT '';
-- file: 0002_nick.sql
ALTER TABLE playlists ALTER COLUMN tone SET NOT NULL;
-- case: default-dropped-in-a-later-file
-- file: 0001_nick.sql
ALTER TABLE playlists ADD COLUMN tone text NOT NULL DEFAULT '';
-- file: 0002_nick.sql
ALTER TABLE playlists ALTER COLUMN tone DROP DEFAULT;
-- case: break-in-the-second-of-three
-- file: 0001_a.sql
CREATE TABLE shelves (id integer);
-- file: 0002_b.sql
ALTER TABLE orders DROP COLUMN note;
-- file: 0003_c.sql
CREATE INDEX idx_shelves ON shelves (id);
-- case: function-defined-and-called-later
-- file: 0001_function.sql
CREATE FUNCTION migrate() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE sessions; END $$;
-- file: 0002_call.sql
SELECT migrate();
-- case: renamed-and-dropped-later
-- file: 0001_rename.sql
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT * FROM lists;
-- file: 0002_drop.sql
DROP VIEW playlists;
-- case: renamed-with-a-view-then-its-column-behind-the-view
-- file: 0001_rename.sql
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT * FROM lists;
-- file: 0002_column.sql
ALTER TABLE lists RENAME COLUMN note TO remark;
-- case: renamed-old-table-is-still-old
-- file: 0001_rename.sql
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT * FROM lists;
-- file: 0002_column.sql
DROP VIEW playlists;
ALTER TABLE lists DROP COLUMN note;
CREATE VIEW playlists AS SELECT id, owner_id, name, public, position, cover_url FROM lists;
-- case: two-innocent-files
-- file: 0001_a.sql
ALTER TABLE users ADD COLUMN a text;
-- file: 0002_b.sql
CREATE INDEX CONCURRENTLY users_a_idx ON users (a);
-- case: search-path-in-one-file
CREATE SCHEMA fresh;
SET search_path TO fresh, public;
CREATE TABLE users (id integer, bio text);
ALTER TABLE users DROP COLUMN bio;
-- case: search-path-local
CREATE SCHEMA fresh;
CREATE TABLE fresh.users (id integer, bio text);
SET LOCAL search_path = fresh;
ALTER TABLE users DROP COLUMN bio;
-- case: search-path-by-set-config
SELECT pg_catalog.set_config('search_path', '', false);
ALTER TABLE public.users DROP COLUMN bio;
-- case: search-path-by-set-config-innocent
SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.shelves (id integer NOT NULL);
ALTER TABLE ONLY public.shelves ADD CONSTRAINT shelves_pkey PRIMARY KEY (id);
-- case: transaction-per-statement-group
BEGIN;
ALTER TABLE users ADD COLUMN nick text;
COMMIT;
UPDATE playlists SET position = 0 WHERE position IS NULL AND false;
BEGIN;
CREATE INDEX idx_users_nick ON users (nick);
COMMIT;
-- case: transaction-explicit-heals
BEGIN;
ALTER TABLE orders ALTER COLUMN status DROP DEFAULT;
ALTER TABLE orders ALTER COLUMN status SET DEFAULT 'new';
COMMIT;
-- case: transaction-explicit-then-healed-outside
BEGIN;
ALTER TABLE orders ALTER COLUMN status DROP DEFAULT;
COMMIT;
ALTER TABLE orders ALTER COLUMN status SET DEFAULT 'new';
-- case: transaction-concurrently-splits-the-file
DROP VIEW track_stats;
CREATE INDEX CONCURRENTLY idx_users_age ON users (age);
CREATE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
-- case: transaction-rollback-then-real-work
BEGIN;
DROP TABLE sessions;
ROLLBACK;
BEGIN;
ALTER TABLE users ADD COLUMN nick text;
COMMIT;
-- case: transaction-savepoints-nested
BEGIN;
SAVEPOINT a;
ALTER TABLE users DROP COLUMN bio;
SAVEPOINT b;
DROP TABLE sessions;
ROLLBACK TO b;
RELEASE b;
ROLLBACK TO SAVEPOINT a;
ALTER TABLE users ADD COLUMN nick text;
COMMIT;
-- case: transaction-savepoint-rolled-back-partly
BEGIN;
ALTER TABLE users DROP COLUMN bio;
SAVEPOINT a;
DROP TABLE sessions;
ROLLBACK WORK TO a;
COMMIT;
-- case: transaction-savepoint-rolled-back-the-healing
BEGIN;
DROP VIEW track_stats;
SAVEPOINT a;
CREATE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
ROLLBACK TO a;
COMMIT;
-- case: transaction-end-for-commit
BEGIN;
DROP TABLE sessions;
END;
-- case: transaction-rolled-back-creation
BEGIN;
CREATE TABLE audit.sessions (id integer);
ROLLBACK;
BEGIN;
DROP TABLE sessions;
COMMIT;
-- case: transaction-rolled-back-creation-means-old
BEGIN;
CREATE TEMP TABLE sessions (id integer);
ROLLBACK;
BEGIN;
DROP TABLE sessions;
COMMIT;
-- case: view-chain-recreated
DROP VIEW IF EXISTS published_tracks;
DROP VIEW active_users;
ALTER TABLE users ADD COLUMN nick text;
CREATE VIEW active_users AS SELECT id, email, username, display_name, nick FROM users WHERE deleted_at IS NULL;
CREATE VIEW published_tracks AS SELECT id, title, status FROM tracks WHERE status = 'published';
-- case: expand-step
ALTER TABLE users ADD COLUMN full_name text;
CREATE FUNCTION copy_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.full_name := coalesce(NEW.full_name, NEW.display_name);
    RETURN NEW;
END $$;
CREATE TRIGGER users_copy_name BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION copy_name();
-- case: contract-step
DROP TRIGGER users_updated_at ON users;
ALTER TABLE users DROP COLUMN updated_at;
-- case: dump-style-new-table
SET statement_timeout = 0;
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.plans (
    id integer NOT NULL,
    name character varying(255) NOT NULL
);
ALTER TABLE public.plans OWNER TO postgres;
CREATE SEQUENCE public.plans_id_seq AS integer START WITH 1 INCREMENT BY 1 NO MINVALUE NO MAXVALUE CACHE 1;
ALTER SEQUENCE public.plans_id_seq OWNED BY public.plans.id;
ALTER TABLE ONLY public.plans ALTER COLUMN id SET DEFAULT nextval('public.plans_id_seq'::regclass);
ALTER TABLE ONLY public.plans ADD CONSTRAINT plans_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX plans_name_key ON public.plans USING btree (name);
REVOKE ALL ON TABLE public.plans FROM PUBLIC;
-- case: dump-style-old-table
SELECT pg_catalog.set_config('search_path', '', false);
ALTER TABLE ONLY public.devices ALTER COLUMN name SET NOT NULL;
