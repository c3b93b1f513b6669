-- case: plain
ALTER TABLE users ALTER COLUMN age TYPE bigint;
-- case: without-the-word-column
ALTER TABLE users ALTER age TYPE bigint;
-- case: set-data-type
ALTER TABLE users ALTER COLUMN age SET DATA TYPE bigint;
-- case: using
ALTER TABLE users ALTER COLUMN age TYPE text USING age::text;
-- case: widened-varchar
-- why: retype
ALTER TABLE playlists ALTER COLUMN cover_url TYPE varchar(500);
-- case: varchar-to-text
ALTER TABLE playlists ALTER COLUMN cover_url TYPE text;
-- case: narrowed-varchar
ALTER TABLE playlists ALTER COLUMN cover_url TYPE varchar(5);
-- case: same-type
-- why: retype
ALTER TABLE users ALTER COLUMN bio TYPE text;
-- case: same-type-new-collation
-- why: retype
ALTER TABLE flags ALTER COLUMN value TYPE text COLLATE german;
-- case: widened-numeric
-- why: retype
ALTER TABLE tracks ALTER COLUMN price TYPE numeric(14, 2);
-- case: rescaled-numeric
ALTER TABLE tracks ALTER COLUMN price TYPE numeric(14, 4);
-- case: timestamptz-to-timestamp
ALTER TABLE playlist_tracks ALTER COLUMN added_at TYPE timestamp USING added_at AT TIME ZONE 'UTC';
-- case: jsonb-to-json
ALTER TABLE sessions ALTER COLUMN data TYPE json;
-- case: text-to-enum
ALTER TABLE flags ALTER COLUMN type TYPE user_role USING 'admin';
-- case: if-exists-only-quoted
ALTER TABLE IF EXISTS ONLY "public"."orders" ALTER COLUMN "note" SET DATA TYPE varchar(100);
-- case: second-action
ALTER TABLE users ADD COLUMN nick text, ALTER COLUMN age TYPE bigint;
-- case: mixed-case
ALTER TABLE "Legacy Orders" ALTER COLUMN "Total" TYPE bigint;
-- case: comments
ALTER TABLE users ALTER COLUMN age /* bigger */ SET -- now
DATA TYPE bigint;
-- case: column-named-type
ALTER TABLE flags ALTER COLUMN type TYPE varchar(20);
-- case: column-named-type-without-column
ALTER TABLE flags ALTER type TYPE varchar(20);
-- case: column-named-type-gets-a-default
ALTER TABLE flags ALTER COLUMN type SET DEFAULT 'x';
-- case: partitioned
ALTER TABLE events ALTER COLUMN kind TYPE varchar(20);
-- case: inherited
ALTER TABLE media ALTER COLUMN path TYPE varchar(200);
-- case: foreign-table
ALTER FOREIGN TABLE countries ALTER COLUMN code TYPE varchar(3);
-- case: attribute
DROP CAST (bigint AS track_ref);
DROP FUNCTION to_track(bigint);
ALTER TYPE track_ref ALTER ATTRIBUTE id TYPE integer;
-- case: attribute-set-data-type
-- why: retype
ALTER TYPE track_ref ALTER ATTRIBUTE id SET DATA TYPE bigint CASCADE;
-- case: drop-expression-is-no-type
ALTER TABLE users ALTER COLUMN bio SET STORAGE EXTERNAL;
-- case: new-column
ALTER TABLE users ADD COLUMN nick varchar(10);
ALTER TABLE users ALTER COLUMN nick TYPE varchar(20);
-- case: new-table
CREATE TABLE shelves (id integer, name varchar(10));
ALTER TABLE shelves ALTER COLUMN id TYPE bigint, ALTER COLUMN name SET DATA TYPE text;
-- case: new-composite-type
CREATE TYPE size AS (w integer, h integer);
ALTER TYPE size ALTER ATTRIBUTE w TYPE bigint;
-- case: back-again
-- why: retype
ALTER TABLE users ALTER COLUMN age TYPE bigint;
ALTER TABLE users ALTER COLUMN age TYPE integer;
-- case: in-a-string
SELECT 'ALTER TABLE users ALTER COLUMN age TYPE bigint';
-- case: text-about-types
COMMENT ON COLUMN users.age IS 'SET DATA TYPE bigint one day';
