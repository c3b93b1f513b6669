-- case: plain
ALTER TABLE users DROP COLUMN bio;
-- case: without-the-word-column
ALTER TABLE users DROP bio;
-- case: lower-case-over-lines
alter
table
  users
drop
  column bio
;
-- case: if-exists
ALTER TABLE IF EXISTS users DROP COLUMN IF EXISTS bio;
-- case: only
ALTER TABLE ONLY users DROP COLUMN bio RESTRICT;
-- case: star
ALTER TABLE users * DROP COLUMN bio;
-- case: qualified
ALTER TABLE public.users DROP COLUMN bio;
-- case: fully-quoted
ALTER TABLE "public"."users" DROP COLUMN "bio";
-- case: quoted-mixed-case
ALTER TABLE "Legacy Orders" DROP COLUMN "Customer Name";
-- case: unicode-escapes
ALTER TABLE U&"us\0065rs" DROP COLUMN U&"bi!006f" UESCAPE '!';
-- case: folded-upper-case
ALTER TABLE USERS DROP COLUMN BIO;
-- case: cascade
ALTER TABLE users DROP COLUMN display_name CASCADE;
-- case: second-of-two-actions
ALTER TABLE users ADD COLUMN about text, DROP COLUMN bio;
-- case: last-of-many-actions
ALTER TABLE users ALTER COLUMN age SET STATISTICS 10, ADD a numeric(3, 1) DEFAULT 1.0, ADD b text DEFAULT ',', DROP bio;
-- case: comments-between-words
ALTER /* a */ TABLE -- b
users /* c /* nested */ */ DROP -- d
COLUMN bio;
-- case: other-schema
ALTER TABLE audit.entries DROP COLUMN actor;
-- case: search-path
SET search_path TO audit;
ALTER TABLE entries DROP COLUMN actor;
-- case: missing-column-if-exists
-- why: drop-column
ALTER TABLE users DROP COLUMN IF EXISTS never_there;
-- case: keyword-column
ALTER TABLE flags DROP COLUMN begin;
-- case: column-called-type
ALTER TABLE flags DROP COLUMN type;
-- case: column-called-position-without-column
ALTER TABLE flags DROP position;
-- case: generated-column
ALTER TABLE tracks DROP COLUMN title_length;
-- case: partitioned
ALTER TABLE events DROP COLUMN payload;
-- case: inherited-child
ALTER TABLE media_audio DROP COLUMN bitrate;
-- case: recreated
-- why: drop-column
ALTER TABLE users DROP COLUMN bio;
ALTER TABLE users ADD COLUMN bio text;
-- case: recreated-in-one-statement
-- why: drop-column
ALTER TABLE users DROP COLUMN bio, ADD COLUMN bio text;
-- case: after-copy-to-a-new-column
ALTER TABLE playlists ADD COLUMN remark text;
UPDATE playlists SET remark = note;
ALTER TABLE playlists DROP COLUMN note;
-- case: through-a-view
-- needs: history
DROP VIEW active_users;
CREATE VIEW active_users AS SELECT id, email, username FROM users WHERE deleted_at IS NULL;
-- case: foreign-table
ALTER FOREIGN TABLE countries DROP COLUMN name;
-- case: foreign-table-through-alter-table
ALTER TABLE countries DROP COLUMN name;
-- case: attribute
ALTER TYPE address DROP ATTRIBUTE zip;
-- case: attribute-if-exists-cascade
ALTER TYPE public.address DROP ATTRIBUTE IF EXISTS zip CASCADE;
-- case: dropped-table-wins-over-its-column
CREATE TABLE shelf (id bigint, name text);
ALTER TABLE shelf DROP COLUMN name;
-- case: new-column
ALTER TABLE users ADD COLUMN nick text, ADD COLUMN nick2 text;
ALTER TABLE users DROP COLUMN nick;
-- case: new-column-quoted-differently
ALTER TABLE users ADD COLUMN "Nick" text;
ALTER TABLE public.users DROP COLUMN "Nick";
-- case: quoted-old-beside-new
-- why: drop-column
ALTER TABLE users ADD COLUMN "BIO" text;
ALTER TABLE users DROP COLUMN bio;
-- case: temporary-table
CREATE TEMP TABLE work AS SELECT id, bio FROM users;
ALTER TABLE work DROP COLUMN bio;
-- case: temporary-table-shadows-an-old-one
CREATE TEMPORARY TABLE users (id bigint, bio text);
ALTER TABLE users DROP COLUMN bio;
-- case: in-a-string
COMMENT ON TABLE users IS 'ALTER TABLE users DROP COLUMN bio;';
-- case: in-a-line-comment
-- ALTER TABLE users DROP COLUMN bio;
SELECT 1;
-- case: in-a-block-comment
/* ALTER TABLE users DROP COLUMN bio; */
SELECT 1;
-- case: in-an-identifier
ALTER TABLE users ADD COLUMN "DROP COLUMN bio" text;
-- case: in-a-function-that-nobody-calls
CREATE FUNCTION later() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE users DROP COLUMN bio;
END $$;
-- case: rolled-back
BEGIN;
ALTER TABLE users DROP COLUMN bio;
ROLLBACK;
-- case: rolled-back-to-a-savepoint
BEGIN;
SAVEPOINT before;
ALTER TABLE users DROP COLUMN bio;
ROLLBACK TO SAVEPOINT before;
COMMIT;
-- case: savepoint-released
BEGIN;
SAVEPOINT before;
ALTER TABLE users DROP COLUMN bio;
RELEASE SAVEPOINT before;
COMMIT;
-- case: drop-not-null-is-not-drop-column
ALTER TABLE users ALTER COLUMN username DROP NOT NULL;
-- case: drop-expression
ALTER TABLE tracks ALTER COLUMN title_length DROP EXPRESSION;
-- case: column-named-column
ALTER TABLE users ADD COLUMN "column" text;
ALTER TABLE users DROP COLUMN "column";
