-- case: plain
CREATE INDEX idx_users_age ON users (age);
-- case: plain-concurrently
CREATE INDEX CONCURRENTLY idx_users_age ON users (age);
-- case: plain-if-not-exists-using
CREATE INDEX IF NOT EXISTS idx_users_settings ON public.users USING gin (settings);
-- case: plain-partial-where-not-null
CREATE INDEX idx_users_nick ON users (display_name) WHERE display_name IS NOT NULL;
-- case: unique
CREATE UNIQUE INDEX playlists_name_uniq ON playlists (name);
-- case: unique-concurrently
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS playlists_owner_name_uniq ON playlists (owner_id, name);
-- case: unique-without-a-name
CREATE UNIQUE INDEX ON playlists (owner_id);
-- case: unique-only-using-btree
CREATE UNIQUE INDEX events_kind_uniq ON ONLY events_2025 USING btree (kind);
-- case: unique-quoted
CREATE UNIQUE INDEX "Legacy Total" ON "Legacy Orders" ("Total");
-- case: unique-expression
CREATE UNIQUE INDEX playlists_lower_name ON playlists (lower(name));
-- case: unique-partial
CREATE UNIQUE INDEX playlists_first ON playlists (owner_id) WHERE position = 1;
-- case: unique-partial-over-a-new-column
ALTER TABLE playlists ADD COLUMN archived_at timestamptz;
CREATE UNIQUE INDEX playlists_archived ON playlists (owner_id) WHERE archived_at IS NOT NULL;
-- case: unique-partial-over-a-new-column-null
ALTER TABLE playlists ADD COLUMN archived_at timestamptz;
CREATE UNIQUE INDEX playlists_live ON playlists (owner_id) WHERE archived_at IS NULL;
-- case: unique-over-a-new-nullable-column
ALTER TABLE playlists ADD COLUMN code text;
CREATE UNIQUE INDEX playlists_code_uniq ON playlists (code);
-- case: unique-over-old-and-new-nullable-columns
ALTER TABLE playlists ADD COLUMN code text;
CREATE UNIQUE INDEX playlists_owner_code_uniq ON playlists (owner_id, code);
-- case: unique-over-a-new-column-with-constant-default
ALTER TABLE playlists ADD COLUMN code text NOT NULL DEFAULT '';
CREATE UNIQUE INDEX playlists_owner_code_uniq ON playlists (owner_id, code);
-- case: unique-over-coalesce-of-a-new-column
ALTER TABLE playlists ADD COLUMN code text;
CREATE UNIQUE INDEX playlists_owner_code_uniq ON playlists (owner_id, coalesce(code, ''));
-- case: unique-over-lower-of-a-new-column
ALTER TABLE playlists ADD COLUMN code text;
CREATE UNIQUE INDEX playlists_code_uniq ON playlists (lower(code));
-- case: unique-nulls-not-distinct-over-a-new-column
ALTER TABLE playlists ADD COLUMN code text;
CREATE UNIQUE INDEX playlists_code_uniq ON playlists (code) NULLS NOT DISTINCT;
-- case: unique-with-include-of-a-new-column
ALTER TABLE playlists ADD COLUMN code text;
CREATE UNIQUE INDEX playlists_owner_uniq ON playlists (owner_id) INCLUDE (code);
-- case: unique-new-table
CREATE TABLE shelves (id integer, name text);
CREATE UNIQUE INDEX ON shelves (name);
-- case: unique-new-table-created-if-not-exists
CREATE TABLE IF NOT EXISTS playlists (id uuid, name text);
CREATE UNIQUE INDEX playlists_name_uniq ON playlists (name);
-- case: unique-materialized-view
-- needs: history
CREATE UNIQUE INDEX top_tracks_pk ON top_tracks (id);
-- case: unique-new-materialized-view
CREATE MATERIALIZED VIEW flops AS SELECT id, plays FROM tracks WHERE plays = 0;
CREATE UNIQUE INDEX flops_id_uniq ON flops (id);
-- case: unique-partition
CREATE UNIQUE INDEX events_2026_kind_uniq ON events_2026 (kind, happened_on);
-- case: unique-created-and-dropped
CREATE UNIQUE INDEX playlists_name_uniq ON playlists (name);
DROP INDEX playlists_name_uniq;
-- case: named-unique-but-plain
CREATE INDEX "unique" ON playlists (name);
-- case: drop-plain
DROP INDEX idx_users_country;
-- case: drop-plain-concurrently
DROP INDEX CONCURRENTLY IF EXISTS public.users_created_at_idx;
-- case: drop-plain-list
DROP INDEX idx_tracks_status, idx_tracks_tags CASCADE;
-- case: drop-unique
DROP INDEX users_username_uniq;
-- case: drop-unique-concurrently
DROP INDEX CONCURRENTLY users_username_uniq;
-- case: drop-unique-partial
DROP INDEX IF EXISTS tracks_isrc_uniq;
-- case: drop-unique-second-of-a-list
DROP INDEX idx_tracks_status, "tracks_isrc_uniq";
-- case: drop-unique-and-create-again
DROP INDEX users_username_uniq;
CREATE UNIQUE INDEX users_username_uniq ON users (username);
-- case: drop-unique-and-create-plain
DROP INDEX users_username_uniq;
CREATE INDEX users_username_uniq ON users (username);
-- case: drop-unique-and-create-over-more-columns
DROP INDEX users_username_uniq;
CREATE UNIQUE INDEX users_username_uniq ON users (username, email);
-- case: replace-unique-under-a-new-name
-- needs: history
CREATE UNIQUE INDEX users_username_uniq2 ON users (username);
DROP INDEX users_username_uniq;
-- case: replace-unique-concurrently
-- needs: history
CREATE UNIQUE INDEX CONCURRENTLY users_username_uniq2 ON users (username);
DROP INDEX CONCURRENTLY users_username_uniq;
ALTER INDEX users_username_uniq2 RENAME TO users_username_uniq;
-- case: drop-new
CREATE UNIQUE INDEX idx_new ON playlists (id, name);
DROP INDEX idx_new;
-- case: reindex
REINDEX INDEX idx_users_country;
-- case: reindex-concurrently
REINDEX TABLE CONCURRENTLY users;
-- case: set-options
ALTER INDEX idx_users_country SET (fillfactor = 70);
-- case: set-tablespace
ALTER INDEX idx_users_country SET TABLESPACE pg_default;
-- case: cluster
CLUSTER users USING users_pkey;
-- case: attach-a-partition-of-an-index
CREATE INDEX events_kind_idx ON ONLY events (kind);
CREATE INDEX events_2025_kind_idx ON events_2025 (kind);
ALTER INDEX events_kind_idx ATTACH PARTITION events_2025_kind_idx;
-- case: unique-in-a-string
COMMENT ON INDEX idx_users_country IS 'CREATE UNIQUE INDEX x ON users (country)';
-- case: unique-partial-over-a-new-flag-that-is-off
ALTER TABLE playlists ADD COLUMN is_main boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX playlists_main_uniq ON playlists (owner_id) WHERE is_main;
-- case: unique-partial-over-a-new-flag-that-is-on
ALTER TABLE playlists ADD COLUMN is_main boolean NOT NULL DEFAULT true;
CREATE UNIQUE INDEX playlists_main_uniq ON playlists (owner_id) WHERE is_main;
-- case: unique-partial-over-a-new-column-with-another-value
ALTER TABLE playlists ADD COLUMN kind text NOT NULL DEFAULT 'list';
CREATE UNIQUE INDEX playlists_inbox_uniq ON playlists (owner_id) WHERE kind = 'inbox';
-- case: unique-over-a-new-serial
ALTER TABLE playlists ADD COLUMN seq bigserial;
CREATE UNIQUE INDEX playlists_seq_uniq ON playlists (seq);
-- case: unique-over-a-wider-set-than-a-key
-- needs: history
CREATE UNIQUE INDEX playlists_id_name_uniq ON playlists (id, name);
-- case: unique-remade-as-partial
DROP INDEX users_username_uniq;
CREATE UNIQUE INDEX users_username_uniq ON users (username) WHERE deleted_at IS NULL;
-- case: unique-remade-on-an-expression
DROP INDEX users_username_uniq;
CREATE UNIQUE INDEX users_username_uniq ON users (lower(username));
-- case: partial-unique-remade-as-it-was
-- needs: history
DROP INDEX tracks_isrc_uniq;
CREATE UNIQUE INDEX tracks_isrc_uniq ON tracks (isrc) WHERE isrc IS NOT NULL;
-- case: unique-made-anew-and-renamed
BEGIN;
CREATE UNIQUE INDEX users_username_new ON users (username);
DROP INDEX users_username_uniq;
ALTER INDEX users_username_new RENAME TO users_username_uniq;
COMMIT;
-- case: expression-json-text-to-integer
CREATE INDEX ON sessions (((data ->> 'age')::integer));
-- case: expression-json-to-integer
CREATE INDEX ON sessions (((data -> 'age')::int));
-- case: expression-cast-as-numeric
CREATE INDEX ON sessions ((CAST(data ->> 'age' AS numeric(10, 2))));
-- case: expression-text-to-integer
CREATE INDEX ON playlists ((note::integer)) WHERE note <> 'x';
-- case: expression-text-to-uuid
CREATE INDEX CONCURRENTLY ON documents ((documents.body::uuid)) WHERE body <> 'a';
-- case: expression-part-of-a-text-to-integer
CREATE INDEX ON playlists ((split_part(note, '-', 1)::int)) WHERE note <> 'x';
-- case: expression-predicate-fails
CREATE INDEX ON sessions (user_id) WHERE (data ->> 'age')::int > 18;
-- case: expression-division
CREATE INDEX ON orders ((id / quantity));
-- case: expression-modulo
CREATE INDEX ON orders (mod(id, quantity));
-- case: expression-division-guarded
CREATE INDEX ON orders ((id / nullif(quantity, 0)));
CREATE INDEX ON orders ((id / 100));
CREATE INDEX ON orders ((CASE WHEN quantity <> 0 THEN id / quantity END));
CREATE INDEX ON orders ((id / quantity)) WHERE quantity > 0;
-- case: expression-casts-that-never-fail
CREATE INDEX ON sessions ((data ->> 'age'));
CREATE INDEX ON sessions (((data -> 'age')::text));
CREATE INDEX ON orders ((number::varchar(10)));
CREATE INDEX ON orders ((md5(number)::uuid));
CREATE INDEX ON orders ((id::numeric));
CREATE INDEX ON users (lower(email), coalesce(display_name, username));
CREATE INDEX ON users ((date_trunc('day', deleted_at AT TIME ZONE 'UTC')::date));
-- case: expression-cast-of-what-looks-like-a-number
CREATE INDEX ON users ((bio::int)) WHERE bio ~ '^[0-9]{1,8}$';
CREATE INDEX ON users ((CASE WHEN bio ~ '^[0-9]{1,8}$' THEN bio::int END));
-- case: expression-dropped-again
CREATE INDEX ages ON sessions (((data ->> 'age')::integer));
DROP INDEX ages;
-- case: expression-of-a-new-column
ALTER TABLE orders ADD COLUMN code text;
CREATE INDEX ON orders ((code::integer));
-- case: unique-on-a-materialized-view-that-may-be-new
CREATE MATERIALIZED VIEW IF NOT EXISTS daily_signups AS SELECT date_trunc('day', created_at) AS day, count(*) AS n FROM users GROUP BY 1;
CREATE UNIQUE INDEX ON daily_signups (day);
CREATE UNIQUE INDEX IF NOT EXISTS daily_signups_n ON daily_signups (day, n);
