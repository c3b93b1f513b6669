-- case: unique
ALTER TABLE users ADD CONSTRAINT users_country_age_key UNIQUE (country, age);
-- case: unique-without-a-name
ALTER TABLE orders ADD UNIQUE (user_id);
-- case: unique-if-exists-only-quoted
ALTER TABLE IF EXISTS ONLY "public"."playlists" ADD CONSTRAINT "one name" UNIQUE ("owner_id", "name");
-- case: unique-nulls-not-distinct
ALTER TABLE playlists ADD UNIQUE NULLS NOT DISTINCT (note);
-- case: unique-deferrable
ALTER TABLE playlists ADD CONSTRAINT playlists_position_key UNIQUE (owner_id, position) DEFERRABLE INITIALLY DEFERRED;
-- case: unique-include
ALTER TABLE playlists ADD CONSTRAINT playlists_name_key UNIQUE (name) INCLUDE (note);
-- case: unique-using-a-new-index
CREATE UNIQUE INDEX playlists_name_uniq ON playlists (name);
ALTER TABLE playlists ADD CONSTRAINT playlists_name_uniq UNIQUE USING INDEX playlists_name_uniq;
-- case: unique-using-an-old-index
ALTER TABLE users ADD CONSTRAINT users_username_uniq UNIQUE USING INDEX users_username_uniq;
-- case: unique-over-a-new-nullable-column
ALTER TABLE playlists ADD COLUMN code text;
ALTER TABLE playlists ADD CONSTRAINT playlists_code_key UNIQUE (code);
-- case: unique-over-old-and-new-nullable-columns
ALTER TABLE playlists ADD COLUMN code text;
ALTER TABLE playlists ADD UNIQUE (owner_id, code);
-- case: unique-over-old-and-new-columns-in-one-statement
ALTER TABLE playlists ADD COLUMN code text, ADD CONSTRAINT playlists_owner_code_key UNIQUE (owner_id, code);
-- case: unique-over-a-new-column-with-default
ALTER TABLE playlists ADD COLUMN code text DEFAULT 'x';
ALTER TABLE playlists ADD UNIQUE (owner_id, code);
-- case: unique-over-a-new-nullable-column-nulls-not-distinct
ALTER TABLE playlists ADD COLUMN code text;
ALTER TABLE playlists ADD UNIQUE NULLS NOT DISTINCT (owner_id, code);
-- case: unique-on-a-new-table
CREATE TABLE shelves (a integer, b integer);
ALTER TABLE shelves ADD UNIQUE (a, b), ADD CHECK (a > 0), ADD PRIMARY KEY (a);
-- case: unique-dropped-and-added
ALTER TABLE orders DROP CONSTRAINT orders_number_key;
ALTER TABLE orders ADD CONSTRAINT orders_number_key UNIQUE (number);
-- case: unique-dropped-and-added-in-one-statement
-- needs: history
ALTER TABLE tracks DROP CONSTRAINT tracks_artist_slug_key, ADD CONSTRAINT tracks_artist_slug_key UNIQUE (artist_id, slug);
-- case: unique-dropped-and-added-deferrable
ALTER TABLE orders DROP CONSTRAINT orders_number_key;
ALTER TABLE orders ADD CONSTRAINT orders_number_key UNIQUE (number) DEFERRABLE;
-- case: unique-dropped-and-added-in-two-transactions
BEGIN;
ALTER TABLE orders DROP CONSTRAINT orders_number_key;
COMMIT;
BEGIN;
ALTER TABLE orders ADD CONSTRAINT orders_number_key UNIQUE (number);
COMMIT;
-- case: unique-dropped-and-a-wider-one-added
ALTER TABLE tracks DROP CONSTRAINT tracks_artist_slug_key;
ALTER TABLE tracks ADD CONSTRAINT tracks_artist_slug_key UNIQUE (artist_id, slug, title);
-- case: unique-dropped
ALTER TABLE orders DROP CONSTRAINT orders_number_key;
-- case: unique-dropped-if-exists-cascade
ALTER TABLE IF EXISTS public.orders DROP CONSTRAINT IF EXISTS orders_number_key CASCADE;
-- case: primary-key-dropped
ALTER TABLE sessions DROP CONSTRAINT sessions_pkey;
-- case: primary-key-dropped-and-added
-- needs: history
ALTER TABLE playlist_tracks DROP CONSTRAINT playlist_tracks_pkey;
ALTER TABLE playlist_tracks ADD PRIMARY KEY (playlist_id, track_id);
-- case: primary-key-dropped-and-a-wider-one-added
ALTER TABLE playlist_tracks DROP CONSTRAINT playlist_tracks_pkey, ADD PRIMARY KEY (playlist_id, track_id, position);
-- case: primary-key-using-an-old-index
ALTER TABLE "Legacy Orders" DROP CONSTRAINT "Legacy Orders_pkey";
ALTER TABLE "Legacy Orders" ADD CONSTRAINT "Legacy Orders_pkey" PRIMARY KEY ("Id");
-- case: exclusion-dropped
ALTER TABLE bookings DROP CONSTRAINT bookings_no_overlap;
-- case: exclusion-added
ALTER TABLE playlists ADD CONSTRAINT playlists_names EXCLUDE USING btree (name WITH =);
-- case: exclusion-on-a-new-table
CREATE TABLE slots (during tstzrange, EXCLUDE USING gist (during WITH &&));
ALTER TABLE slots ADD CONSTRAINT slots_no_overlap EXCLUDE USING gist (during WITH &&);
-- case: check
ALTER TABLE users ADD CONSTRAINT users_age_check CHECK (age >= 0);
-- case: check-not-valid
ALTER TABLE users ADD CONSTRAINT users_age_check CHECK (age >= 0) NOT VALID;
-- case: check-without-a-name
ALTER TABLE orders ADD CHECK (quantity > 0);
-- case: check-no-inherit
ALTER TABLE media ADD CONSTRAINT media_path_check CHECK (path <> '') NO INHERIT;
-- case: check-length
ALTER TABLE playlists ADD CONSTRAINT playlists_name_check CHECK (char_length(name) BETWEEN 1 AND 200);
-- case: check-not-valid-then-validated
ALTER TABLE playlists ADD CONSTRAINT playlists_position_check CHECK (position > 0) NOT VALID;
ALTER TABLE playlists VALIDATE CONSTRAINT playlists_position_check;
-- case: check-over-a-new-column
ALTER TABLE users ADD COLUMN height integer;
ALTER TABLE users ADD CONSTRAINT users_height_check CHECK (height BETWEEN 1 AND 300);
-- case: check-over-a-new-column-with-default
ALTER TABLE users ADD COLUMN plan text NOT NULL DEFAULT 'free';
ALTER TABLE users ADD CONSTRAINT users_plan_check CHECK (plan IN ('free', 'pro'));
-- case: check-over-a-new-column-in-one-statement
ALTER TABLE users ADD COLUMN plan text DEFAULT 'free', ADD CONSTRAINT users_plan_check CHECK (plan IN ('free', 'pro')) NOT VALID;
-- case: check-is-not-null-over-a-new-column
ALTER TABLE users ADD COLUMN plan text;
ALTER TABLE users ADD CONSTRAINT users_plan_check CHECK (plan IS NOT NULL) NOT VALID;
-- case: check-is-not-null-over-a-new-column-with-default
ALTER TABLE users ADD COLUMN plan text DEFAULT 'free';
ALTER TABLE users ADD CONSTRAINT users_plan_check CHECK (plan IS NOT NULL) NOT VALID;
-- case: check-over-new-and-old-columns
ALTER TABLE playlists ADD COLUMN length integer;
ALTER TABLE playlists ADD CHECK (position <= 10 OR length IS NOT NULL);
-- case: check-dropped
ALTER TABLE orders DROP CONSTRAINT orders_status_check;
-- case: check-dropped-if-exists
ALTER TABLE tracks DROP CONSTRAINT IF EXISTS tracks_duration_ms_check;
-- case: check-widened
-- needs: history
ALTER TABLE orders DROP CONSTRAINT orders_status_check;
ALTER TABLE orders ADD CONSTRAINT orders_status_check CHECK (status IN ('new', 'paid', 'void', 'refunded'));
-- case: check-widened-by-any
-- needs: history
ALTER TABLE orders DROP CONSTRAINT orders_status_check,
    ADD CONSTRAINT orders_status_check CHECK (status = ANY (ARRAY['new', 'paid', 'void', 'refunded']::text[])) NOT VALID;
-- case: check-narrowed
ALTER TABLE orders DROP CONSTRAINT orders_status_check;
ALTER TABLE orders ADD CONSTRAINT orders_status_check CHECK (status IN ('new', 'paid')) NOT VALID;
-- case: foreign-key
ALTER TABLE playlists ADD CONSTRAINT playlists_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users (id);
-- case: foreign-key-not-valid
ALTER TABLE sessions ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) NOT VALID;
-- case: foreign-key-without-a-name
ALTER TABLE users ADD FOREIGN KEY (referrer_id) REFERENCES users;
-- case: foreign-key-on-delete-cascade-deferred
ALTER TABLE devices ADD CONSTRAINT fk_devices_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
-- case: foreign-key-over-a-new-column
ALTER TABLE playlists ADD COLUMN track_id bigint;
ALTER TABLE playlists ADD CONSTRAINT fk_playlists_track FOREIGN KEY (track_id) REFERENCES tracks (id) ON DELETE SET NULL;
-- case: foreign-key-over-a-new-column-not-valid-then-validated
ALTER TABLE playlists ADD COLUMN track_id bigint;
ALTER TABLE playlists ADD CONSTRAINT fk_playlists_track FOREIGN KEY (track_id) REFERENCES tracks (id) NOT VALID;
ALTER TABLE playlists VALIDATE CONSTRAINT fk_playlists_track;
-- case: foreign-key-to-a-new-table
CREATE TABLE plans (id bigint PRIMARY KEY);
ALTER TABLE users ADD COLUMN plan_id bigint REFERENCES plans (id);
-- case: foreign-key-old-column-to-a-new-table
CREATE TABLE plans (id bigint PRIMARY KEY);
ALTER TABLE playlists ADD FOREIGN KEY (owner_id) REFERENCES plans (id) NOT VALID;
-- case: foreign-key-from-a-new-table
CREATE TABLE likes (user_id bigint REFERENCES users (id) ON DELETE CASCADE, track_id bigint NOT NULL);
ALTER TABLE likes ADD FOREIGN KEY (track_id) REFERENCES tracks (id) ON DELETE CASCADE;
-- case: foreign-key-dropped
ALTER TABLE tracks DROP CONSTRAINT tracks_artist_id_fkey;
-- case: foreign-key-dropped-by-prefix
ALTER TABLE orders DROP CONSTRAINT IF EXISTS fk_orders_user;
-- case: foreign-key-made-deferrable
ALTER TABLE tracks ALTER CONSTRAINT tracks_artist_id_fkey DEFERRABLE INITIALLY DEFERRED;
-- case: validate-old
ALTER TABLE orders VALIDATE CONSTRAINT orders_status_check;
-- case: domain-check
ALTER DOMAIN label ADD CONSTRAINT label_check CHECK (VALUE <> '');
-- case: domain-check-not-valid
ALTER DOMAIN label ADD CHECK (length(VALUE) > 0) NOT VALID;
-- case: domain-check-dropped
ALTER DOMAIN email_address DROP CONSTRAINT email_address_check;
-- case: domain-not-null-by-check
ALTER DOMAIN label ADD CONSTRAINT label_nn CHECK (VALUE IS NOT NULL) NOT VALID;
-- case: domain-new
CREATE DOMAIN positive AS integer;
ALTER DOMAIN positive ADD CHECK (VALUE > 0);
ALTER DOMAIN positive SET NOT NULL;
-- case: check-over-a-function
CREATE FUNCTION is_nice(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 <> '' $$;
ALTER TABLE playlists ADD CONSTRAINT nice_names CHECK (is_nice(name)) NOT VALID;
-- case: added-and-dropped-in-one-transaction
ALTER TABLE playlists ADD CONSTRAINT playlists_name_check CHECK (name <> '') NOT VALID;
ALTER TABLE playlists DROP CONSTRAINT playlists_name_check;
-- case: constraint-trigger
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER orders_watch AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
-- case: in-a-comment
-- ALTER TABLE users ADD CONSTRAINT x UNIQUE (country);
COMMENT ON CONSTRAINT users_email_key ON users IS 'ADD CONSTRAINT y CHECK (false)';
-- case: primary-key-rebuilt-on-an-index-of-the-set
CREATE UNIQUE INDEX flags_pkey_new ON flags (key);
ALTER TABLE flags DROP CONSTRAINT flags_pkey, ADD CONSTRAINT flags_pkey PRIMARY KEY USING INDEX flags_pkey_new;
-- case: unique-rebuilt-on-an-index-of-the-set
CREATE UNIQUE INDEX CONCURRENTLY users_email_new ON users (email);
BEGIN;
ALTER TABLE users DROP CONSTRAINT users_email_key, ADD CONSTRAINT users_email_key UNIQUE USING INDEX users_email_new;
COMMIT;
-- case: primary-key-moved-to-an-index-on-another-column
ALTER TABLE flags ADD COLUMN number bigint GENERATED BY DEFAULT AS IDENTITY;
CREATE UNIQUE INDEX flags_new ON flags (number);
ALTER TABLE flags DROP CONSTRAINT flags_pkey, ADD CONSTRAINT flags_pkey PRIMARY KEY USING INDEX flags_new;
-- case: unique-with-the-id
ALTER TABLE orders ADD CONSTRAINT orders_user_id_key UNIQUE (user_id, id);
-- case: unique-with-the-id-not-null-twice
CREATE UNIQUE INDEX tracks_status_id ON tracks (status, id) WHERE plays > 0;
