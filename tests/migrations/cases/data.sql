-- case: truncate
TRUNCATE sessions;
-- case: truncate-table-list-restart
TRUNCATE TABLE ONLY public.flags, "Legacy Orders" RESTART IDENTITY CASCADE;
-- case: truncate-new
CREATE TABLE shelves (id integer);
TRUNCATE shelves;
-- case: truncate-new-and-old
CREATE TABLE shelves (id integer);
TRUNCATE shelves, sessions;
-- case: truncate-temporary
CREATE TEMP TABLE sessions (id integer);
TRUNCATE sessions;
-- case: delete-all
DELETE FROM sessions;
-- case: delete-only-all
DELETE FROM ONLY public.sessions;
-- case: delete-in-a-common-table-expression
WITH gone AS (DELETE FROM sessions RETURNING token) SELECT count(*) FROM gone;
-- case: delete-nothing
DELETE FROM sessions WHERE user_id IS NULL;
-- case: delete-from-new
CREATE TABLE shelves AS SELECT id FROM users;
DELETE FROM shelves;
-- case: insert
INSERT INTO flags (key, value) VALUES ('gamma', 'on'), ('drop', 'DROP TABLE users');
-- case: insert-on-conflict
INSERT INTO flags (key, value) VALUES ('beta', 'on') ON CONFLICT (key) DO NOTHING;
-- case: insert-select
INSERT INTO "Legacy Orders" ("Id", "Total") SELECT id + 100, total FROM orders;
-- case: insert-select-delete
WITH moved AS (INSERT INTO flags (key) SELECT 'u' || id FROM users RETURNING key) SELECT count(*) FROM moved;
-- case: update-backfill-new-column
ALTER TABLE playlists ADD COLUMN slug text;
UPDATE playlists SET slug = lower(name) WHERE slug IS NULL;
-- case: update-backfill-old-column
-- why: update-is-a-write
UPDATE playlists SET note = '' WHERE note IS NULL;
-- case: update-all
-- why: update-is-a-write
UPDATE flags SET value = 'off';
-- case: merge
MERGE INTO flags USING (VALUES ('delta')) AS v (key) ON flags.key = v.key WHEN NOT MATCHED THEN INSERT (key) VALUES (v.key);
-- case: copy-data
COPY flags (key, value) FROM stdin;
epsilon	DROP TABLE users;
zeta	it's
\.
-- case: copy-data-then-a-drop
COPY flags (key, value) FROM stdin;
epsilon	it's
\.
DROP TABLE sessions;
-- case: copy-data-csv-then-a-drop
COPY public.flags (key, value) FROM STDIN WITH (FORMAT csv);
a,"open ' quote"
b,/* no comment
\.
ALTER TABLE users DROP COLUMN bio;
-- case: copy-to
COPY (SELECT 1) TO '/dev/null';
-- case: lock
LOCK TABLE users IN ACCESS EXCLUSIVE MODE;
-- case: analyze
ANALYZE users;
-- case: select-for-update
SELECT id FROM users FOR UPDATE;
-- case: truncate-in-a-string
INSERT INTO flags (key, value) VALUES ('x', '; TRUNCATE users;');
