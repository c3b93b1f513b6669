-- case: enum-add-value
ALTER TYPE track_status ADD VALUE 'archived';
-- case: enum-add-value-if-not-exists-before
ALTER TYPE public.track_status ADD VALUE IF NOT EXISTS 'review' BEFORE 'published';
-- case: enum-create
CREATE TYPE mood AS ENUM ('ok', 'bad');
-- case: enum-recreated-with-more
-- why: retype
DROP VIEW published_tracks;
ALTER TABLE tracks ALTER COLUMN status DROP DEFAULT;
ALTER TYPE track_status RENAME TO track_status_old;
CREATE TYPE track_status AS ENUM ('draft', 'published', 'hidden', 'gone');
ALTER TABLE tracks ALTER COLUMN status TYPE track_status USING status::text::track_status;
ALTER TABLE tracks ALTER COLUMN status SET DEFAULT 'draft';
DROP TYPE track_status_old;
CREATE VIEW published_tracks AS SELECT id, title, status FROM tracks WHERE status = 'published';
-- case: composite-add-attribute
ALTER TYPE address ADD ATTRIBUTE country text;
-- case: composite-add-attribute-cascade-second
ALTER TYPE address ADD ATTRIBUTE country text, ADD ATTRIBUTE region text CASCADE;
-- case: composite-drop-attribute
ALTER TYPE address DROP ATTRIBUTE street;
-- case: composite-new
CREATE TYPE size AS (w integer, h integer);
ALTER TYPE size ADD ATTRIBUTE d integer, DROP ATTRIBUTE h;
ALTER TYPE size RENAME ATTRIBUTE w TO width;
-- case: composite-recreated
DROP CAST (bigint AS track_ref);
DROP FUNCTION to_track(bigint);
DROP TYPE track_ref;
CREATE TYPE track_ref AS (id bigint);
CREATE FUNCTION to_track(bigint) RETURNS track_ref LANGUAGE sql AS 'SELECT ROW($1)::track_ref';
CREATE CAST (bigint AS track_ref) WITH FUNCTION to_track(bigint);
-- case: owner
ALTER TYPE user_role OWNER TO reporting;
-- case: domain-over-a-domain
CREATE DOMAIN work_address AS email_address CHECK (VALUE LIKE '%work%');
-- case: extension-update
ALTER EXTENSION hstore UPDATE;
-- case: collation-refresh
ALTER COLLATION german REFRESH VERSION;
-- case: cast-created
CREATE FUNCTION to_role(integer) RETURNS user_role LANGUAGE sql IMMUTABLE AS $$ SELECT 'admin'::user_role $$;
CREATE CAST (integer AS user_role) WITH FUNCTION to_role(integer);
-- case: new-enum-value-renamed
ALTER TYPE track_status ADD VALUE 'review';
ALTER TYPE track_status RENAME VALUE 'review' TO 'in review';
-- case: old-enum-value-renamed-beside-a-new-one
ALTER TYPE track_status ADD VALUE 'review';
ALTER TYPE track_status RENAME VALUE 'hidden' TO 'gone';
-- case: domain-made-anew
DROP DOMAIN IF EXISTS colour;
CREATE DOMAIN colour AS text;
-- case: range-made-anew-though-used
DROP TYPE price_span CASCADE;
DROP DOMAIN label CASCADE;
CREATE DOMAIN label AS text;
