-- case: lock-timeout
SET lock_timeout = '2s';
SET LOCAL statement_timeout = 0;
ALTER TABLE users ADD COLUMN nick text;
-- case: storage-options
ALTER TABLE users SET (fillfactor = 80), SET (autovacuum_vacuum_scale_factor = 0.01);
-- case: statistics-target
ALTER TABLE users ALTER COLUMN country SET STATISTICS 500, ALTER COLUMN bio SET STORAGE EXTERNAL, ALTER bio SET COMPRESSION pglz;
-- case: attribute-options
ALTER TABLE users ALTER COLUMN country SET (n_distinct = 50), ALTER country RESET (n_distinct);
-- case: replica-identity
ALTER TABLE users REPLICA IDENTITY FULL;
-- case: comment-on
COMMENT ON COLUMN users.bio IS NULL;
-- case: statistics-object
CREATE STATISTICS users_country_age (dependencies) ON country, age FROM users;
-- case: publication
CREATE PUBLICATION everything FOR TABLE users, tracks;
-- case: unlogged-and-back
ALTER TABLE sessions SET UNLOGGED;
ALTER TABLE sessions SET LOGGED;
-- case: tablespace
ALTER TABLE sessions SET TABLESPACE pg_default;
-- case: cluster-on
ALTER TABLE users CLUSTER ON users_pkey, SET WITHOUT CLUSTER;
-- case: vacuum-full
VACUUM FULL sessions;
-- case: enable-extension
CREATE EXTENSION IF NOT EXISTS citext;
-- case: create-table-with-everything
CREATE TABLE plans (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    price numeric(10, 2) NOT NULL CHECK (price >= 0),
    owner bigint NOT NULL REFERENCES users (id),
    EXCLUDE USING gist (int8range(id, id, '[]') WITH &&)
);
CREATE UNIQUE INDEX ON plans (lower(name));
ALTER TABLE plans ALTER COLUMN price TYPE integer, DROP COLUMN owner, ADD COLUMN note text NOT NULL;
ALTER TABLE plans RENAME COLUMN name TO title;
TRUNCATE plans;
-- case: create-table-if-not-exists-new
CREATE TABLE IF NOT EXISTS plans (id bigint PRIMARY KEY, name text NOT NULL);
CREATE INDEX IF NOT EXISTS plans_name_idx ON plans (name);
-- case: create-table-partition-of-new
CREATE TABLE plays (at date) PARTITION BY LIST (at);
-- case: create-table-of-type
CREATE TABLE homes OF address (street NOT NULL);
ALTER TABLE homes ALTER COLUMN city SET NOT NULL;
-- case: create-table-as-then-alter
CREATE TABLE copies AS TABLE users WITH NO DATA;
ALTER TABLE copies DROP COLUMN bio, ALTER COLUMN age SET NOT NULL, ADD PRIMARY KEY (id);
-- case: create-view-over-new
CREATE TABLE plans (id bigint);
CREATE VIEW all_plans AS SELECT id FROM plans;
DROP VIEW all_plans;
DROP TABLE plans;
-- case: empty-file
-- nothing to do
-- case: only-semicolons
;;
;
-- case: select
SELECT count(*) FROM users;
-- case: show-and-set
SHOW search_path;
SET client_min_messages TO warning;
RESET client_min_messages;
-- case: discard
DISCARD PLANS;
-- case: notify
NOTIFY deployed, 'DROP TABLE users';
-- case: explain
EXPLAIN DELETE FROM sessions;
-- case: checkpoint
CHECKPOINT;
-- case: security-label-like-comment
COMMENT ON FUNCTION slugify(text) IS E'it\'s fine; DROP TABLE users;';
-- case: column-named-like-a-drop
ALTER TABLE users ADD COLUMN "drop table users" text, ADD COLUMN drop_column boolean NOT NULL DEFAULT false;
-- case: table-named-like-keywords
CREATE TABLE "alter table users drop column bio" ("select" integer);
DROP TABLE "alter table users drop column bio";
-- case: volatile-default
ALTER TABLE playlists ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid();
-- case: deferred-constraints
SET CONSTRAINTS ALL DEFERRED;
-- case: drop-not-null-and-default-set
ALTER TABLE orders ALTER COLUMN quantity DROP NOT NULL, ALTER COLUMN quantity SET DEFAULT 2;
-- case: view-owner
ALTER VIEW active_users OWNER TO postgres;
