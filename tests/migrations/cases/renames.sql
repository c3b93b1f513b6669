-- case: table
ALTER TABLE sessions RENAME TO logins;
-- case: table-if-exists-quoted
ALTER TABLE IF EXISTS "public"."Legacy Orders" RENAME TO old_orders;
-- case: table-only
ALTER TABLE ONLY sessions RENAME TO logins;
-- case: table-there-and-back
ALTER TABLE sessions RENAME TO logins;
ALTER TABLE logins RENAME TO sessions;
-- case: table-there-and-back-in-two-transactions
BEGIN;
ALTER TABLE sessions RENAME TO logins;
COMMIT;
BEGIN;
ALTER TABLE logins RENAME TO sessions;
COMMIT;
-- case: table-with-a-view
ALTER TABLE tracks RENAME TO songs;
CREATE VIEW tracks AS SELECT * FROM songs;
-- case: table-with-a-view-that-lists-columns
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT id, owner_id, name, public, position, note, cover_url FROM lists;
-- case: table-with-a-view-that-misses-a-column
-- needs: history
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT id, owner_id, name, public, position, note FROM lists;
-- case: table-with-a-view-qualified
ALTER TABLE public.playlists RENAME TO lists;
CREATE OR REPLACE VIEW public.playlists AS SELECT * FROM public.lists;
-- case: table-with-a-view-that-filters
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT * FROM lists WHERE public;
-- case: table-with-a-view-that-cannot-be-written
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT DISTINCT * FROM lists;
-- case: table-with-a-view-of-another-table
ALTER TABLE playlists RENAME TO lists;
CREATE TABLE lists2 (LIKE lists INCLUDING ALL);
CREATE VIEW playlists AS SELECT * FROM lists2;
-- case: table-with-a-view-too-late
BEGIN;
ALTER TABLE playlists RENAME TO lists;
COMMIT;
BEGIN;
CREATE VIEW playlists AS SELECT * FROM lists;
COMMIT;
-- case: table-with-a-view-that-checks
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists WITH (security_barrier) AS SELECT * FROM lists;
-- case: table-with-a-materialized-view
ALTER TABLE playlists RENAME TO lists;
CREATE MATERIALIZED VIEW playlists AS SELECT * FROM lists;
-- case: table-with-a-view-then-not-null-column
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT * FROM lists;
ALTER TABLE lists ADD COLUMN tone text NOT NULL DEFAULT '';
-- case: table-with-a-view-then-a-break-on-the-renamed
ALTER TABLE playlists RENAME TO lists;
CREATE VIEW playlists AS SELECT * FROM lists;
ALTER TABLE lists ALTER COLUMN note SET NOT NULL;
-- case: table-swapped-with-a-new-one
CREATE TABLE sessions_new (LIKE sessions INCLUDING ALL);
ALTER TABLE sessions RENAME TO sessions_old;
ALTER TABLE sessions_new RENAME TO sessions;
-- case: table-new
CREATE TABLE shelves (id integer);
ALTER TABLE shelves RENAME TO racks;
ALTER TABLE racks RENAME COLUMN id TO number;
-- case: table-new-to-a-name-and-dropped
CREATE TABLE shelves (id integer);
ALTER TABLE shelves RENAME TO racks;
DROP TABLE racks;
-- case: column
ALTER TABLE users RENAME COLUMN bio TO about;
-- case: column-without-the-word
ALTER TABLE users RENAME bio TO about;
-- case: column-if-exists-only-quoted
ALTER TABLE IF EXISTS ONLY public."users" RENAME COLUMN "bio" TO "About";
-- case: column-keyword
ALTER TABLE flags RENAME COLUMN type TO kind;
-- case: column-called-to
ALTER TABLE flags RENAME date TO "to";
-- case: column-there-and-back
ALTER TABLE users RENAME COLUMN bio TO about;
ALTER TABLE users RENAME COLUMN about TO bio;
-- case: column-with-a-new-one-in-its-place
ALTER TABLE playlists RENAME COLUMN note TO remark;
ALTER TABLE playlists ADD COLUMN note text;
-- case: column-new
ALTER TABLE users ADD COLUMN nick text;
ALTER TABLE users RENAME COLUMN nick TO nickname;
-- case: column-swapped
ALTER TABLE flags RENAME COLUMN value TO tmp;
ALTER TABLE flags RENAME COLUMN type TO value;
ALTER TABLE flags RENAME COLUMN tmp TO type;
-- case: column-of-a-view
ALTER VIEW active_users RENAME COLUMN display_name TO name;
-- case: column-of-a-view-through-alter-table
ALTER TABLE active_users RENAME COLUMN display_name TO name;
-- case: column-of-a-materialized-view
ALTER MATERIALIZED VIEW top_tracks RENAME COLUMN plays TO listens;
-- case: column-of-a-foreign-table
ALTER FOREIGN TABLE countries RENAME COLUMN name TO label;
-- case: attribute
ALTER TYPE address RENAME ATTRIBUTE zip TO postcode;
-- case: enum-value
ALTER TYPE track_status RENAME VALUE 'hidden' TO 'private';
-- case: enum-value-there-and-back
ALTER TYPE track_status RENAME VALUE 'hidden' TO 'private';
ALTER TYPE track_status RENAME VALUE 'private' TO 'hidden';
-- case: enum-value-of-a-new-type
CREATE TYPE mood AS ENUM ('ok', 'bad');
ALTER TYPE mood RENAME VALUE 'ok' TO 'fine';
-- case: constraint
ALTER TABLE users RENAME CONSTRAINT users_email_key TO users_email_unique;
-- case: constraint-primary-key
ALTER TABLE users RENAME CONSTRAINT users_pkey TO users_pk;
-- case: constraint-there-and-back
ALTER TABLE users RENAME CONSTRAINT users_email_key TO x;
ALTER TABLE users RENAME CONSTRAINT x TO users_email_key;
-- case: constraint-check
ALTER TABLE orders RENAME CONSTRAINT orders_status_check TO orders_status_chk;
-- case: constraint-foreign-key
ALTER TABLE orders RENAME CONSTRAINT fk_orders_user TO orders_user_id_fkey;
-- case: index-of-a-constraint
ALTER INDEX users_email_key RENAME TO users_email_unique;
-- case: index-plain
ALTER INDEX idx_users_country RENAME TO users_country_idx;
-- case: index-plain-if-exists
ALTER INDEX IF EXISTS idx_users_country RENAME TO users_country_idx;
-- case: view
ALTER VIEW track_stats RENAME TO artist_stats;
-- case: view-through-alter-table
ALTER TABLE track_stats RENAME TO artist_stats;
-- case: view-with-a-view
ALTER VIEW active_users RENAME TO live_users;
CREATE VIEW active_users AS SELECT * FROM live_users;
-- case: view-swapped
CREATE VIEW stats2 AS SELECT artist_id, count(*) AS tracks, sum(plays) AS plays FROM tracks GROUP BY artist_id;
ALTER VIEW track_stats RENAME TO stats_old;
ALTER VIEW stats2 RENAME TO track_stats;
-- case: materialized-view
ALTER MATERIALIZED VIEW top_tracks RENAME TO hits;
-- case: materialized-view-through-alter-table
ALTER TABLE top_tracks RENAME TO hits;
-- case: foreign-table
ALTER FOREIGN TABLE countries RENAME TO lands;
-- case: sequence
ALTER SEQUENCE invoice_number_seq RENAME TO invoice_numbers;
-- case: sequence-through-alter-table
ALTER TABLE "Ticket Numbers" RENAME TO ticket_numbers;
-- case: sequence-of-a-serial
ALTER SEQUENCE tracks_id_seq RENAME TO tracks_ids;
-- case: type
ALTER TYPE user_role RENAME TO account_role;
-- case: domain
ALTER DOMAIN email_address RENAME TO email;
-- case: domain-through-alter-type
ALTER TYPE email_address RENAME TO email;
-- case: domain-constraint
ALTER DOMAIN email_address RENAME CONSTRAINT email_address_check TO has_at;
-- case: function
ALTER FUNCTION slugify(text) RENAME TO make_slug;
-- case: function-with-a-wrapper
ALTER FUNCTION slugify(text) RENAME TO make_slug;
CREATE FUNCTION slugify(input text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT make_slug(input)';
-- case: function-without-arguments
ALTER FUNCTION user_count RENAME TO count_users;
-- case: routine
ALTER ROUTINE slugify(text) RENAME TO make_slug;
-- case: procedure
ALTER PROCEDURE touch_user RENAME TO touch;
-- case: aggregate
ALTER AGGREGATE product(numeric) RENAME TO multiply;
-- case: schema
ALTER SCHEMA billing RENAME TO invoicing;
-- case: schema-there-and-back
ALTER SCHEMA billing RENAME TO invoicing;
ALTER SCHEMA invoicing RENAME TO billing;
-- case: role
ALTER ROLE app_billing RENAME TO app_invoicing;
-- case: database
ALTER DATABASE veza_jobs RENAME TO veza_work;
-- case: collation
ALTER COLLATION german RENAME TO deutsch;
-- case: text-search-configuration
ALTER TEXT SEARCH CONFIGURATION titles RENAME TO names;
-- case: trigger
ALTER TRIGGER users_updated_at ON users RENAME TO users_touch;
-- case: policy
ALTER POLICY documents_all ON documents RENAME TO documents_everyone;
-- case: set-schema-table
ALTER TABLE sessions SET SCHEMA audit;
-- case: set-schema-table-with-a-view
ALTER TABLE playlists SET SCHEMA audit;
CREATE VIEW playlists AS SELECT * FROM audit.playlists;
-- case: set-schema-table-there-and-back
ALTER TABLE sessions SET SCHEMA audit;
ALTER TABLE audit.sessions SET SCHEMA public;
-- case: set-schema-view
ALTER VIEW track_stats SET SCHEMA audit;
-- case: set-schema-type
ALTER TYPE user_role SET SCHEMA audit;
-- case: set-schema-domain
ALTER DOMAIN label SET SCHEMA audit;
-- case: set-schema-function
ALTER FUNCTION slugify(text) SET SCHEMA audit;
-- case: set-schema-sequence
ALTER SEQUENCE IF EXISTS "Ticket Numbers" SET SCHEMA audit;
-- case: set-schema-materialized-view
ALTER MATERIALIZED VIEW top_tracks SET SCHEMA audit;
-- case: set-schema-extension
ALTER EXTENSION hstore SET SCHEMA audit;
-- case: set-schema-of-a-new-table
CREATE TABLE shelves (id integer);
ALTER TABLE shelves SET SCHEMA audit;
ALTER TABLE audit.shelves RENAME TO racks;
-- case: in-a-string
SELECT 'ALTER TABLE users RENAME COLUMN bio TO about';
-- case: in-a-comment
-- ALTER TABLE users RENAME COLUMN bio TO about
SELECT 1;
