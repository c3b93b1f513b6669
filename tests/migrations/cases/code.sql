-- case: view-created
CREATE VIEW names AS SELECT id, username FROM users;
-- case: view-replaced-with-one-more-column
CREATE OR REPLACE VIEW active_users AS SELECT id, email, username, display_name, bio FROM users WHERE deleted_at IS NULL;
-- case: view-security-invoker
ALTER VIEW secret_names SET (security_invoker = on);
-- case: view-security-invoker-bare
ALTER VIEW secret_names SET (security_invoker);
-- case: view-security-invoker-off
ALTER VIEW secret_names SET (security_invoker = false);
-- case: view-security-barrier
ALTER VIEW secret_names SET (security_barrier = true);
-- case: view-check-option
ALTER VIEW published_tracks SET (check_option = 'cascaded');
-- case: view-reset
ALTER VIEW published_tracks RESET (check_option);
-- case: view-recreated-with-check-option
DROP VIEW published_tracks;
CREATE VIEW published_tracks AS SELECT id, title, status FROM tracks WHERE status = 'published' WITH CHECK OPTION;
-- case: view-new-security-invoker
CREATE VIEW names AS SELECT id, username FROM users;
ALTER VIEW names SET (security_invoker = on);
-- case: function-replaced
CREATE OR REPLACE FUNCTION slugify(input text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower(replace(trim(input), ' ', '-')) $$;
-- case: function-security-invoker
ALTER FUNCTION secret_count() SECURITY INVOKER;
-- case: function-security-invoker-without-arguments
ALTER FUNCTION public.secret_count EXTERNAL SECURITY INVOKER;
-- case: function-security-definer
ALTER FUNCTION user_count() SECURITY DEFINER;
-- case: function-stable
ALTER FUNCTION user_count() VOLATILE;
-- case: function-cost
ALTER FUNCTION user_count() COST 500 PARALLEL SAFE;
-- case: function-replaced-as-security-invoker
-- needs: history
CREATE OR REPLACE FUNCTION secret_count() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM billing.secrets';
-- case: function-new
CREATE FUNCTION fresh() RETURNS integer LANGUAGE sql AS 'SELECT 1';
ALTER FUNCTION fresh() SECURITY INVOKER;
ALTER FUNCTION fresh() RENAME TO fresher;
-- case: function-overload-that-makes-calls-ambiguous
-- needs: history
CREATE FUNCTION track_price(track bigint, discount numeric DEFAULT 0, tax numeric DEFAULT 0) RETURNS numeric LANGUAGE sql AS
    'SELECT price - discount + tax FROM tracks WHERE id = track';
-- case: function-body-begin-atomic
CREATE FUNCTION purge() RETURNS void LANGUAGE sql BEGIN ATOMIC
    DELETE FROM sessions;
    UPDATE users SET bio = CASE WHEN true THEN NULL END;
END;
-- case: function-body-begin-atomic-then-a-drop
CREATE FUNCTION purge() RETURNS void LANGUAGE sql BEGIN ATOMIC
    SELECT CASE WHEN true THEN 1 END;
    DELETE FROM sessions;
END; DROP TABLE flags;
-- case: trigger-that-stamps
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := coalesce(NEW.note, ''); RETURN NEW; END $$;
CREATE TRIGGER orders_stamp BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.note IS NULL) EXECUTE FUNCTION stamp();
-- case: trigger-with-an-old-function
CREATE TRIGGER users_updated_again BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION set_updated_at();
-- case: trigger-after-that-audits
CREATE TABLE changes (at timestamptz DEFAULT now(), row jsonb);
CREATE FUNCTION audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (row) VALUES (to_jsonb(NEW));
    RETURN NULL;
END $$;
CREATE TRIGGER playlists_changes AFTER INSERT OR UPDATE ON playlists FOR EACH ROW EXECUTE FUNCTION audit_change();
-- case: trigger-that-raises
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = '' THEN
        RAISE EXCEPTION 'a name is needed';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER playlists_refuse BEFORE INSERT OR UPDATE ON playlists FOR EACH ROW EXECUTE FUNCTION refuse();
-- case: trigger-that-raises-a-notice
CREATE FUNCTION remark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'RAISE EXCEPTION is not meant';
    RETURN NEW;
END $$;
CREATE TRIGGER playlists_remark BEFORE INSERT ON playlists FOR EACH ROW EXECUTE FUNCTION remark();
-- case: trigger-before-that-returns-null
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER playlists_swallow BEFORE DELETE ON playlists FOR EACH ROW EXECUTE PROCEDURE swallow();
-- case: trigger-that-raises-on-a-new-table
CREATE TABLE shelves (id integer);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER shelves_refuse BEFORE INSERT ON shelves FOR EACH ROW EXECUTE FUNCTION refuse();
-- case: trigger-function-that-nobody-uses
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
-- case: trigger-that-raises-and-is-dropped-again
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER playlists_refuse BEFORE INSERT ON playlists FOR EACH ROW EXECUTE FUNCTION refuse();
DROP TRIGGER playlists_refuse ON playlists;
-- case: trigger-disabled
ALTER TABLE users DISABLE TRIGGER users_updated_at;
-- case: trigger-enabled
ALTER TABLE users ENABLE ALWAYS TRIGGER users_updated_at;
-- case: rule-do-instead-nothing
CREATE RULE sessions_kept AS ON DELETE TO sessions DO INSTEAD NOTHING;
-- case: rule-do-instead-on-insert
CREATE TABLE inbox (token text, user_id bigint);
CREATE OR REPLACE RULE sessions_in AS ON INSERT TO sessions DO INSTEAD INSERT INTO inbox VALUES (NEW.token, NEW.user_id);
-- case: rule-do-also-on-insert
CREATE TABLE log (what text);
CREATE RULE sessions_log AS ON INSERT TO public.sessions DO ALSO (INSERT INTO log VALUES ('a'); INSERT INTO log VALUES ('b'));
-- case: rule-on-a-new-table
CREATE TABLE shelves (id integer);
CREATE RULE shelves_kept AS ON DELETE TO shelves DO INSTEAD NOTHING;
-- case: rule-with-statements-inside-then-a-drop
CREATE TABLE shelves (id integer);
CREATE RULE shelves_log AS ON INSERT TO shelves DO ALSO (SELECT 1; SELECT 2); DROP TABLE flags;
-- case: event-trigger
CREATE FUNCTION note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'ddl'; END $$;
CREATE EVENT TRIGGER ddl_noted ON ddl_command_end EXECUTE FUNCTION note_ddl();
DROP EVENT TRIGGER ddl_noted;
-- case: procedure-new
CREATE PROCEDURE nightly() LANGUAGE plpgsql AS $$ BEGIN DELETE FROM sessions; END $$;
-- case: aggregate-new
CREATE AGGREGATE longest(text) (SFUNC = text_larger, STYPE = text);
-- case: operator-new
CREATE OPERATOR ===== (LEFTARG = text, RIGHTARG = text, FUNCTION = similar_to);
-- case: schema-with-elements
CREATE SCHEMA reports
    CREATE TABLE daily (id integer PRIMARY KEY)
    CREATE VIEW latest AS SELECT id FROM daily;
-- case: schema-with-elements-used-on
CREATE SCHEMA reports CREATE TABLE daily (id integer);
ALTER TABLE reports.daily ADD COLUMN at date NOT NULL, ADD UNIQUE (id);
-- case: materialized-view-new
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM orders WITH NO DATA;
-- case: prepared-drop
PREPARE gone AS SELECT 1;
EXECUTE gone;
DEALLOCATE gone;
-- case: prepared-delete
PREPARE gone AS DELETE FROM sessions;
EXECUTE gone;
-- case: trigger-dropped-if-exists-and-created
DROP TRIGGER IF EXISTS users_updated_at ON users;
CREATE TRIGGER users_updated_at BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION set_updated_at();
-- case: trigger-replaced
CREATE OR REPLACE TRIGGER users_updated_at BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION set_updated_at();
-- case: trigger-function-replaced-to-raise
-- needs: history
CREATE OR REPLACE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'users are read-only';
END $$;
