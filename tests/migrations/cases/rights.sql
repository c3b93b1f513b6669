-- case: revoke-table
REVOKE INSERT ON users FROM app;
-- case: revoke-all
REVOKE ALL PRIVILEGES ON TABLE public.users, tracks FROM app CASCADE;
-- case: revoke-columns
REVOKE ALL ON sessions FROM app;
GRANT SELECT (token, user_id) ON sessions TO app;
-- case: revoke-all-tables-in-schema
REVOKE UPDATE ON ALL TABLES IN SCHEMA public FROM app;
-- case: revoke-sequence
REVOKE USAGE ON SEQUENCE invoice_number_seq FROM app;
-- case: revoke-all-sequences
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM "app";
-- case: revoke-schema
REVOKE USAGE ON SCHEMA billing FROM app;
-- case: revoke-function-from-public
REVOKE EXECUTE ON FUNCTION slugify(text) FROM PUBLIC;
-- case: revoke-all-functions-from-public
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
-- case: revoke-routine
REVOKE EXECUTE ON PROCEDURE touch_user(bigint) FROM PUBLIC, app;
-- case: revoke-database-temporary
REVOKE TEMPORARY ON DATABASE veza FROM PUBLIC;
-- case: revoke-database-connect
REVOKE CONNECT ON DATABASE veza_jobs FROM PUBLIC;
-- case: revoke-schema-public-usage
REVOKE ALL ON SCHEMA public FROM PUBLIC;
-- case: revoke-role
REVOKE app_rw FROM app;
-- case: revoke-from-the-group
REVOKE SELECT ON devices FROM app_rw;
-- case: revoke-from-the-group-role-known
-- role: app
-- needs: history
REVOKE SELECT ON devices FROM app_rw;
-- case: revoke-and-grant-again
REVOKE SELECT ON users FROM app;
GRANT SELECT ON users TO app;
-- case: revoke-all-and-grant-less
REVOKE ALL ON users FROM app;
GRANT SELECT ON users TO app;
-- case: revoke-all-and-grant-all
REVOKE ALL ON users FROM app;
GRANT ALL ON users TO app;
-- case: revoke-grant-option
REVOKE GRANT OPTION FOR SELECT ON users FROM reporting;
-- case: revoke-from-another-role
-- role: app
REVOKE SELECT ON users FROM reporting;
-- case: revoke-from-the-app-when-known
-- role: app
REVOKE SELECT ON users FROM reporting, app;
-- case: revoke-on-a-new-table
CREATE TABLE shelves (id integer);
REVOKE ALL ON shelves FROM app, PUBLIC;
-- case: revoke-on-a-new-function
CREATE FUNCTION fresh() RETURNS integer LANGUAGE sql AS 'SELECT 1';
REVOKE EXECUTE ON FUNCTION fresh() FROM PUBLIC;
-- case: revoke-default-privileges
ALTER DEFAULT PRIVILEGES REVOKE INSERT ON TABLES FROM app;
-- case: grant
GRANT SELECT, INSERT ON users TO reporting;
-- case: grant-role
GRANT app_rw TO reporting;
-- case: grant-default-privileges
ALTER DEFAULT PRIVILEGES IN SCHEMA audit GRANT SELECT ON TABLES TO reporting;
-- case: role-nologin
ALTER ROLE app NOLOGIN;
-- case: role-nologin-as-user-with
ALTER USER app WITH NOLOGIN;
-- case: role-search-path
ALTER ROLE app SET search_path = audit;
-- case: role-search-path-in-database
ALTER ROLE app IN DATABASE veza SET search_path TO billing, audit;
-- case: role-read-only
ALTER ROLE app SET default_transaction_read_only = on;
-- case: role-read-only-off
ALTER ROLE app SET default_transaction_read_only = off;
-- case: role-timeout
ALTER ROLE app SET statement_timeout = '30s';
-- case: role-connection-limit-zero
ALTER ROLE app CONNECTION LIMIT 0;
-- case: role-new-login
CREATE ROLE worker LOGIN;
ALTER ROLE worker NOLOGIN;
-- case: role-password-of-another
-- role: app
ALTER ROLE reporting PASSWORD 'x';
-- case: database-read-only
ALTER DATABASE veza SET default_transaction_read_only TO true;
-- case: database-search-path
ALTER DATABASE veza SET search_path = audit;
-- case: database-timezone
ALTER DATABASE veza SET timezone = 'UTC';
-- case: row-security-enabled
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
-- case: row-security-enabled-with-a-policy-for-all
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_all ON orders USING (true) WITH CHECK (true);
-- case: row-security-enabled-with-an-implied-check
CREATE POLICY orders_all ON orders FOR ALL TO PUBLIC USING (true);
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
-- case: row-security-enabled-with-a-policy-for-select
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_read ON orders FOR SELECT USING (true);
-- case: row-security-enabled-with-a-policy-for-another-role
-- role: app
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_all ON orders TO reporting USING (true);
-- case: row-security-enabled-with-a-policy-for-a-role-that-may-be-another
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_all ON orders TO reporting USING (true) WITH CHECK (true);
-- case: row-security-enabled-with-a-policy-for-the-application-role
-- role: app
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_all ON orders TO reporting, app USING (true) WITH CHECK (true);
-- case: row-security-enabled-with-a-policy-for-each-command
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_read ON orders FOR SELECT USING (true);
CREATE POLICY orders_insert ON orders FOR INSERT WITH CHECK (true);
CREATE POLICY orders_update ON orders FOR UPDATE USING (true);
CREATE POLICY orders_delete ON orders FOR DELETE USING (true);
-- case: row-security-enabled-with-no-policy-for-insert
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_read ON orders FOR SELECT USING (true);
CREATE POLICY orders_update ON orders FOR UPDATE USING (true);
CREATE POLICY orders_delete ON orders FOR DELETE USING (true);
-- case: row-security-enabled-with-a-policy-that-only-checks
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_all ON orders WITH CHECK (true);
-- case: row-security-enabled-with-a-policy-that-says-nothing
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_all ON orders;
-- case: revoke-then-grant-on-some-columns
REVOKE SELECT ON users FROM app;
GRANT SELECT (id, email) ON users TO app;
-- case: row-security-enabled-with-a-filter
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_own ON orders USING (user_id = current_setting('app.user_id', true)::bigint);
-- case: row-security-enabled-and-disabled
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;
-- case: row-security-second-action
ALTER TABLE IF EXISTS public.orders ADD COLUMN x integer, ENABLE ROW LEVEL SECURITY;
-- case: row-security-disabled
ALTER TABLE documents DISABLE ROW LEVEL SECURITY;
-- case: row-security-no-force
ALTER TABLE documents NO FORCE ROW LEVEL SECURITY;
-- case: row-security-on-a-new-table
CREATE TABLE notes (id integer, owner text);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON notes AS RESTRICTIVE USING (owner = current_user);
-- case: policy-restrictive
CREATE POLICY documents_own ON documents AS RESTRICTIVE USING (owner_id > 1);
-- case: policy-permissive
CREATE POLICY documents_more ON documents AS PERMISSIVE FOR SELECT USING (owner_id > 1);
-- case: policy-altered
ALTER POLICY documents_all ON documents USING (owner_id > 1);
-- case: policy-altered-roles
ALTER POLICY documents_all ON documents TO reporting;
-- case: policy-dropped
DROP POLICY documents_all ON documents;
-- case: policy-dropped-and-created
DROP POLICY IF EXISTS documents_all ON public.documents;
CREATE POLICY documents_all ON documents USING (true);
-- case: policy-on-a-table-without-row-security
CREATE POLICY orders_own ON orders USING (user_id = 1);
-- case: owner
ALTER TABLE playlists OWNER TO reporting;
-- case: comment-about-revoke
COMMENT ON TABLE users IS 'REVOKE ALL ON users FROM app';
