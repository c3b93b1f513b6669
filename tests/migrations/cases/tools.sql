-- case: goose-down-drops
-- file: 00001_nick.sql
-- +goose Up
ALTER TABLE users ADD COLUMN nick text;
-- +goose Down
ALTER TABLE users DROP COLUMN nick;
DROP TABLE sessions;
-- case: goose-up-drops
-- file: 00001_bio.sql
-- +goose Up
ALTER TABLE users DROP COLUMN bio;

-- +goose Down
ALTER TABLE users ADD COLUMN bio text;
-- case: goose-lower-case-and-spaces
-- file: 00001_nick.sql
--   +goose   up
ALTER TABLE users ADD COLUMN nick text;
--	+goose down
DROP TABLE sessions;
-- case: goose-statement-begin
-- file: 00001_trigger.sql
-- +goose Up
-- +goose StatementBegin
DO $$
BEGIN
    ALTER TABLE users DROP COLUMN bio;
END $$;
-- +goose StatementEnd
-- +goose Down
-- +goose StatementBegin
SELECT 1;
-- +goose StatementEnd
-- case: goose-statement-begin-innocent
-- file: 00001_trigger.sql
-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION later() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE sessions;
END $$;
-- +goose StatementEnd
-- +goose Down
DROP FUNCTION later();
-- case: goose-no-transaction
-- file: 00001_index.sql
-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY idx_users_age ON users (age);
-- +goose Down
DROP INDEX CONCURRENTLY idx_users_age;
-- case: goose-no-transaction-healed-too-late
-- file: 00001_view.sql
-- +goose NO TRANSACTION
-- +goose Up
DROP VIEW track_stats;
CREATE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
-- +goose Down
SELECT 1;
-- case: goose-one-transaction-heals
-- file: 00001_view.sql
-- +goose Up
DROP VIEW track_stats;
CREATE VIEW track_stats AS
    SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
-- +goose Down
SELECT 1;
-- case: goose-word-down-in-prose
-- file: 00001_bio.sql
-- +goose Up
-- Break it Down
-- Down
-- case: goose-word-down-in-prose-then-a-drop
-- file: 00001_bio.sql
-- +goose Up
-- slows Down nobody
SELECT ' Down ';
DROP TABLE sessions;
-- +goose Down
SELECT 1;
-- case: goose-several-files
-- file: 00001_a.sql
-- +goose Up
CREATE TABLE shelves (id integer);
-- +goose Down
DROP TABLE shelves;
-- file: 00002_b.sql
-- +goose Up
ALTER TABLE shelves ADD COLUMN n integer NOT NULL;
-- +goose Down
ALTER TABLE shelves DROP COLUMN n;
-- case: goose-several-files-down-of-the-first-is-not-run
-- file: 00001_a.sql
-- +goose Up
SELECT 1;
-- +goose Down
CREATE TABLE sessions (id integer);
-- file: 00002_b.sql
-- +goose Up
DROP TABLE sessions;
-- +goose Down
SELECT 1;
-- case: goose-without-down
-- file: 00001_a.sql
-- +goose Up
DROP TABLE sessions;
-- case: dbmate
-- file: 20260101000000_nick.sql
-- migrate:up
ALTER TABLE users ADD COLUMN nick text;

-- migrate:down
ALTER TABLE users DROP COLUMN bio;
-- case: dbmate-up-drops
-- file: 20260101000000_bio.sql
-- migrate:up
ALTER TABLE users DROP COLUMN bio;

-- migrate:down
ALTER TABLE users ADD COLUMN bio text;
-- case: dbmate-no-transaction
-- file: 20260101000000_index.sql
-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY idx_users_age ON users (age);

-- migrate:down transaction:false
DROP INDEX CONCURRENTLY idx_users_age;
-- case: dbmate-no-transaction-healed-too-late
-- file: 20260101000000_default.sql
-- migrate:up transaction:false
ALTER TABLE orders ALTER COLUMN status DROP DEFAULT;
ALTER TABLE orders ALTER COLUMN status SET DEFAULT 'new';
-- migrate:down
SELECT 1;
-- case: dbmate-marker-in-the-middle-of-a-line
-- file: 20260101000000_x.sql
-- migrate:up
SELECT 1; -- migrate:down
DROP TABLE sessions;
-- migrate:down
SELECT 1;
-- case: sql-migrate
-- file: 20260101-nick.sql
-- +migrate Up
ALTER TABLE users ADD COLUMN nick text;

-- +migrate Down
ALTER TABLE users DROP COLUMN nick;
DROP TABLE sessions;
-- case: sql-migrate-down-first
-- file: 20260101-bio.sql
-- +migrate Down
ALTER TABLE users ADD COLUMN bio text;

-- +migrate Up
ALTER TABLE users DROP COLUMN bio;
-- case: sql-migrate-down-first-innocent
-- file: 20260101-bio.sql
-- +migrate Down
DROP TABLE sessions;

-- +migrate Up
CREATE TABLE shelves (id integer);
-- case: sql-migrate-up-again-after-down
-- file: 20260101-nick.sql
-- +migrate Up
ALTER TABLE users ADD COLUMN nick text;
-- +migrate Down
ALTER TABLE users DROP COLUMN nick;
-- +migrate Up
DROP TABLE sessions;
-- case: sql-migrate-notransaction
-- file: 20260101-index.sql
-- +migrate Up notransaction
CREATE INDEX CONCURRENTLY idx_users_age ON users (age);
-- +migrate Down
DROP INDEX idx_users_age;
-- case: sql-migrate-statement-begin
-- file: 20260101-do.sql
-- +migrate Up
-- +migrate StatementBegin
DO $$ BEGIN DROP TABLE sessions; END $$;
-- +migrate StatementEnd
-- +migrate Down
SELECT 1;
-- case: golang-migrate
-- file: 000001_nick.up.sql
ALTER TABLE users ADD COLUMN nick text;
-- file: 000001_nick.down.sql
ALTER TABLE users DROP COLUMN bio;
-- case: golang-migrate-up-drops
-- file: 000001_bio.down.sql
ALTER TABLE users ADD COLUMN bio text;
-- file: 000001_bio.up.sql
ALTER TABLE users DROP COLUMN bio;
-- case: golang-migrate-order
-- file: 000009_shelves.up.sql
CREATE TABLE shelves (id integer);
-- file: 000009_shelves.down.sql
DROP TABLE shelves;
-- file: 000010_shelves_name.up.sql
ALTER TABLE shelves ADD COLUMN name text NOT NULL;
-- file: 000010_shelves_name.down.sql
ALTER TABLE shelves DROP COLUMN name;
-- case: numbers-without-zeros-in-order
-- file: 2_shelves.up.sql
CREATE TABLE shelves (id integer);
-- file: 10_shelves_name.up.sql
ALTER TABLE shelves RENAME TO racks;
-- case: sqlx-reversible
-- file: 20260101000000_nick.up.sql
ALTER TABLE users ADD COLUMN nick text;
-- file: 20260101000000_nick.down.sql
DROP TABLE sessions;
-- case: sqlx-no-transaction
-- file: 20260101000000_index.sql
-- no-transaction
CREATE INDEX CONCURRENTLY idx_users_age ON users (age);
-- case: flyway-versioned
-- file: V1__nick.sql
ALTER TABLE users ADD COLUMN nick text;
-- file: V2__bio.sql
ALTER TABLE users DROP COLUMN bio;
-- case: flyway-undo
-- file: V1_1__nick.sql
ALTER TABLE users ADD COLUMN nick text;
-- file: U1_1__nick.sql
ALTER TABLE users DROP COLUMN nick;
DROP TABLE sessions;
-- case: flyway-order-of-versions
-- file: V2__shelves.sql
CREATE TABLE shelves (id integer, name text);
-- file: V10__shelves_name.sql
ALTER TABLE shelves ALTER COLUMN name SET NOT NULL;
-- case: flyway-order-of-dotted-versions
-- file: V1.2__shelves.sql
CREATE TABLE shelves (id integer, name text);
-- file: V1.10__shelves_name.sql
ALTER TABLE shelves DROP COLUMN name;
-- case: flyway-repeatable-runs-last
-- file: V1__stats.sql
CREATE VIEW stats AS SELECT count(*) AS n FROM users;
-- file: R__a_stats.sql
CREATE OR REPLACE VIEW stats AS SELECT count(*) AS n, 1 AS one FROM users;
-- case: flyway-repeatable-drops
-- file: R__stats.sql
DROP VIEW IF EXISTS track_stats;
-- case: plain-file-with-the-word-down
-- file: 0001_scale_down.sql
DROP TABLE sessions;
-- case: plain-file-called-down
-- file: 0001_countdown.up.sql
ALTER TABLE users ADD COLUMN nick text;
-- case: rails-like-comment
-- file: 0001_x.sql
-- Down migration: DROP TABLE sessions;
ALTER TABLE users ADD COLUMN nick text;
