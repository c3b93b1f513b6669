-- case: set
ALTER TABLE users ALTER COLUMN display_name SET NOT NULL;
-- case: set-on-a-column-without-nulls
ALTER TABLE "Legacy Orders" ALTER COLUMN "Total" SET NOT NULL;
-- case: set-after-backfill
UPDATE playlists SET note = '' WHERE note IS NULL;
ALTER TABLE playlists ALTER COLUMN note SET NOT NULL;
-- case: set-with-a-default-added-before
UPDATE playlists SET note = '' WHERE note IS NULL;
ALTER TABLE playlists ALTER COLUMN note SET DEFAULT '';
ALTER TABLE playlists ALTER COLUMN note SET NOT NULL;
-- case: set-without-the-word-column
ALTER TABLE playlists ALTER position SET NOT NULL;
-- case: set-qualified-only
ALTER TABLE ONLY public.orders ALTER COLUMN "total" SET NOT NULL;
-- case: set-among-others
ALTER TABLE orders ALTER COLUMN note SET DEFAULT '', ALTER COLUMN note SET NOT NULL, ADD COLUMN x integer;
-- case: set-split-over-lines
ALTER TABLE orders ALTER COLUMN note
    SET
    NOT -- or so
    NULL;
-- case: by-check
ALTER TABLE users ADD CONSTRAINT users_bio_not_null CHECK (bio IS NOT NULL);
-- case: by-check-not-valid
ALTER TABLE users ADD CONSTRAINT users_bio_not_null CHECK (bio IS NOT NULL) NOT VALID;
-- case: set-and-dropped-in-one-transaction
ALTER TABLE playlists ALTER COLUMN position SET NOT NULL;
ALTER TABLE playlists ALTER COLUMN position DROP NOT NULL;
-- case: drop
ALTER TABLE users ALTER COLUMN username DROP NOT NULL;
-- case: drop-without-the-word-column
ALTER TABLE orders ALTER number DROP NOT NULL, ALTER quantity DROP NOT NULL;
-- case: domain-set
ALTER DOMAIN label SET NOT NULL;
-- case: domain-drop
ALTER DOMAIN email_address DROP NOT NULL;
-- case: new-column-with-default
ALTER TABLE users ADD COLUMN nick text DEFAULT '';
ALTER TABLE users ALTER COLUMN nick SET NOT NULL;
-- case: new-column-without-default
ALTER TABLE users ADD COLUMN nick text;
ALTER TABLE users ALTER COLUMN nick SET NOT NULL;
-- case: new-table
CREATE TABLE shelves (id integer, name text);
ALTER TABLE shelves ALTER COLUMN name SET NOT NULL;
-- case: new-table-created-not-null
CREATE TABLE shelves (id integer NOT NULL PRIMARY KEY, name text NOT NULL);
-- case: foreign-table
ALTER FOREIGN TABLE countries ALTER COLUMN name SET NOT NULL;
ALTER FOREIGN TABLE countries ALTER COLUMN name DROP NOT NULL;
-- case: text-in-a-default
ALTER TABLE users ALTER COLUMN bio SET DEFAULT 'SET NOT NULL';
-- case: update-where-is-not-null
UPDATE playlists SET position = position WHERE note IS NOT NULL;
-- case: partition-only
ALTER TABLE events_2026 ALTER COLUMN payload SET NOT NULL;
-- case: set-by-way-of-a-validated-check
ALTER TABLE playlists ADD CONSTRAINT playlists_note_not_null CHECK (note IS NOT NULL) NOT VALID;
ALTER TABLE playlists VALIDATE CONSTRAINT playlists_note_not_null;
ALTER TABLE playlists ALTER COLUMN note SET NOT NULL;
ALTER TABLE playlists DROP CONSTRAINT playlists_note_not_null;
